"""A pillar that cannot be used, a minion that is not ready: it is said, and nothing is done."""

import pytest

ROOMS = ["genkeys", "tls", "opensmtpd", "dovecot", "dkimproxy", "dkimsign"]
FAULTY = {
    "domains": ["example.com", "mail"],
    "accounts": [["user1@example.com", 12345], ["user2@example.com", "hunter2", "hunter2"]],
    "mailsrv": {"dkim": {"bits": 512}, "hostnme": "mx.example.com"},
}


@pytest.fixture
def faulty(minion, pillar):
    return minion(pillar=pillar(f"#!json\n{FAULTY!r}".replace("'", '"')))


@pytest.mark.parametrize("test", [True, False])
def test_a_faulty_pillar_is_refused_with_the_sentences_of_lint(faulty, test):
    sentences = faulty("mailsrv.lint")
    assert len(sentences) == 5
    (state,) = faulty("state.apply", "mailsrv", test=test).values()
    assert state["result"] is False
    assert state["changes"] == {}
    assert state["name"].split("\n") == sentences
    assert test or state["comment"].split("\n") == sentences
    assert "hunter2" not in str(state)


def test_every_room_refuses_a_faulty_pillar_too(faulty):
    sentences = faulty("mailsrv.lint")
    errors = faulty("state.show_sls", [f"mailsrv.{room}" for room in ROOMS])
    assert all(isinstance(error, str) for error in errors), errors
    for error in errors:
        assert "\n".join(["the pillar is not valid:", *sentences, ""]) in error
        assert "hunter2" not in error


def test_what_is_not_synced_yet_is_said_in_one_sentence_with_the_cure(minion):
    (error,) = minion(disable_modules=["mailsrv"])("state.show_sls", "mailsrv")
    assert (
        "mailsrv: the execution modules are not on this minion yet; "
        "run: salt-call saltutil.sync_all"
    ) in error


def test_the_file_root_syncs_every_module(minion):
    synced = minion(module_dirs=[])("saltutil.sync_all")
    assert {"modules.mailsrv", "modules.password", "modules.dkim"} <= set(synced["modules"])
    assert {"states.dkim", "states.certificate"} <= set(synced["states"])


def test_a_system_that_is_not_in_the_map_is_named(minion):
    (error,) = minion(grains=(("os_family", "RedHat"),))("state.show_sls", "mailsrv")
    assert "mailsrv: this formula knows Debian and FreeBSD, not RedHat" in error


def test_without_a_pillar_the_first_thing_to_write_is_named(minion, pillar):
    (state,) = minion(pillar=pillar("{}"))("state.apply", "mailsrv").values()
    assert state["comment"] == "domains: list at least one domain, e.g. domains: [example.com]"
