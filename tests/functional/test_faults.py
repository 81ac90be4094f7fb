"""A pillar that cannot be used, a minion that is not ready: it is said, and nothing is done."""

import re
from pathlib import Path

import pytest

STATES = Path(__file__).parents[2] / "salt_mailsrv/states/mailsrv"
# Not those of the DNS server and of the satellite, which need not be mail machines.
OTHERS = {"mailsrv.nsd", "mailsrv.satellite"}
ROOMS = sorted({f"mailsrv.{init.parent.name}" for init in STATES.glob("*/init.sls")} - OTHERS)
NOT_SYNCED = (
    "mailsrv: the execution modules are not on this minion yet; "
    "run: salt-call saltutil.sync_all (from the master: salt 'minion' saltutil.sync_all)"
)
FAULTY = {
    "domains": ["example.com", "mail"],
    "accounts": [["user1@example.com", 12345], ["user2@example.com", "hunter2", "hunter2"]],
    "mailsrv": {"dkim": {"bits": 512}, "hostnme": "mx.example.com"},
}


@pytest.fixture
def faulty(minion, pillar):
    return minion(pillar=pillar(f"#!json\n{FAULTY!r}".replace("'", '"')))


def said(state, test):
    """The sentences, once: in test mode Salt has a comment of its own."""
    shown, other = ("name", "comment") if test else ("comment", "name")
    assert "\n" not in state[other]
    return re.sub("\n {14}", "\n", state[shown])


@pytest.mark.parametrize("test", [True, False])
def test_a_faulty_pillar_is_refused_with_the_sentences_of_lint(faulty, test):
    sentences = faulty("mailsrv.lint")
    assert len(sentences) == 5
    (state,) = faulty("state.apply", "mailsrv", test=test).values()
    assert state["result"] is False
    assert state["changes"] == {}
    assert said(state, test).split("\n") == sentences
    assert "hunter2" not in str(state)


@pytest.mark.parametrize("rooms", [*([room] for room in ROOMS), ROOMS], ids=" ".join)
def test_every_room_refuses_a_faulty_pillar_too(faulty, rooms):
    (state,) = faulty("state.apply", rooms).values()
    assert (state["__sls__"], state["result"]) == ("mailsrv.refused", False)
    assert state["comment"].split("\n") == faulty("mailsrv.lint")


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("sls", ["mailsrv", *ROOMS, *sorted(OTHERS)])
def test_what_is_not_synced_yet_is_said_in_one_sentence_with_the_cure(minion, sls, test):
    (state,) = minion(disable_modules=["mailsrv"])("state.apply", sls, test=test).values()
    assert (state["result"], state["changes"], said(state, test)) == (False, {}, NOT_SYNCED)


def test_the_file_root_syncs_every_module(minion):
    synced = minion(module_dirs=[])("saltutil.sync_all")
    assert {"modules.mailsrv", "modules.password", "modules.dkim"} <= set(synced["modules"])
    files = (STATES.parent / "_states").glob("*.py")
    assert set(synced["states"]) == {f"states.{file.stem}" for file in files}


def test_a_system_that_is_not_in_the_map_is_named(minion):
    (error,) = minion(grains=(("os_family", "RedHat"),))("state.show_sls", "mailsrv")
    assert "mailsrv: this formula knows Debian and FreeBSD, not RedHat" in error


def test_without_a_pillar_the_first_thing_to_write_is_named(minion, pillar):
    (state,) = minion(pillar=pillar("{}"))("state.apply", "mailsrv").values()
    assert state["comment"] == "domains: list at least one domain, e.g. domains: [example.com]"


@pytest.mark.parametrize(
    ("system", "text", "sentence"),
    [
        (
            "Debian",
            "{}",
            "mailsrv:nsd:machines: is missing; say who may publish what, like this: ",
        ),
        (
            "Debian",
            "mailsrv: {nsd: {machines: '*'}}",
            "mailsrv:nsd:machines: '*' lets any of these own any domain; say who may publish ",
        ),
        (
            "Debian",
            "mailsrv: {nsd: {machines: 5}}",
            "mailsrv:nsd:machines: must be the domains of each minion, like ",
        ),
        ("FreeBSD", "{}", "mailsrv.nsd: this formula does not know NSD on FreeBSD"),
    ],
)
def test_a_name_server_that_cannot_be_made_says_why_and_touches_nothing(
    minion, pillar, system, text, sentence
):
    (state,) = minion(system, pillar(text))("state.apply", "mailsrv.nsd").values()
    assert (state["result"], state["changes"]) == (False, {})
    assert state["comment"].startswith(sentence)
