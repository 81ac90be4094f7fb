"""The next run: who is gone is named, who was lost by mistake stays, and so does the name."""

import json
import os

import pytest
from _mailsrv.pillar import read

PASSWD = "/etc/dovecot/dovecot-passwd"
FILES = ("dovecot-passwd", "credentials", "sendas", "recipients", "hostname", "mailname")


def accounts(*names):
    return [f"{name}@example.com" for name in names]


@pytest.fixture
def tree(tmp_path):
    """A pillar of several files, of which each holds some of it."""

    def write(*parts):
        names = [f"part{number}" for number in range(len(parts))]
        (tmp_path / "top.sls").write_text(json.dumps({"base": {"*": names}}))
        for name, part in zip(names, parts, strict=True):
            (tmp_path / f"{name}.sls").write_text(f"#!yaml\n{json.dumps(part)}")
        return str(tmp_path)

    return write


def written(machine):
    return {
        name: path.read_text()
        for name in FILES
        for path in machine.root.rglob(name)
        if path.is_file()
    }


@pytest.fixture(scope="module")
def four(minion, pillar):
    """A machine with four accounts, after its first run."""
    listed = [[address, "hunter2"] for address in accounts(*"abcd")]
    text = json.dumps({"domains": ["example.com"], "accounts": listed})
    machine = minion(pillar=pillar(f"#!json\n{text}"), services=("opensmtpd", "dovecot"))
    machine.write()
    return machine


def less(*names, **settings):
    """What to lay over the pillar of `four`, so that it has these accounts left."""
    return {"accounts": [[address, "hunter2"] for address in accounts(*names)], "mailsrv": settings}


def removed(machine, pillar):
    low = machine("state.show_low_sls", "mailsrv", pillar=pillar)
    named = [name for c in low if c["fun"] == "accounts_removed" for name in c["accounts"]]
    notes = [chunk["text"] for chunk in low if chunk["fun"] == "show_notification"]
    return named, notes


def test_salt_merges_accounts_by_address_from_several_files_of_the_pillar(minion, tree):
    machine = minion(
        id="merged",
        pillar=tree(
            {"domains": ["example.com"], "accounts": {"z@example.com": "hunter2"}},
            {"accounts": {"b@example.com": {"password": "p b"}, "a@example.com": "p a"}},
            {"accounts": {"z@example.com": "hunter3", "b@example.com": {"quota": "2G"}}},
        ),
    )
    assert machine("mailsrv.lint") == []
    machine.write()
    lines = machine.at(PASSWD).read_text().splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == accounts(*"zba")
    assert lines[1].endswith("userdb_quota_storage_size=2G")
    assert machine("mailsrv.explain", "b@example.com")["quota"] == {"b@example.com": "2G"}


def test_of_accounts_listed_in_two_files_none_is_locked_out(minion, tree):
    """Salt keeps the last list alone, and the run succeeded."""
    first, second = (less(*names)["accounts"] for names in ("abc", "d"))
    machine = minion(
        id="lists",
        pillar=tree({"domains": ["example.com"], "accounts": first}, {"accounts": second}),
    )
    machine.at(PASSWD).parent.mkdir(parents=True, exist_ok=True)
    machine.at(PASSWD).write_text("".join(f"{address}:x\n" for address in accounts(*"abcd")))
    (state,) = machine("state.apply", "mailsrv").values()
    assert (state["result"], state["changes"]) == (False, {})
    assert state["comment"].startswith(
        "accounts: 3 of the 4 accounts on this machine are no longer in the pillar"
    )
    assert "write them as user@example.com: password, in each file" in state["comment"]


def test_a_run_without_accounts_that_go_says_nothing_of_them(four):
    assert removed(four, None) == ([], [])


@pytest.mark.parametrize("test", [True, False])
def test_a_run_that_would_remove_most_accounts_is_refused_in_every_room(four, test):
    before = written(four)
    for sls in ("mailsrv", "mailsrv.dovecot", "mailsrv.opensmtpd"):
        result = four("state.apply", sls, pillar=less("a"), test=test)
        (state,) = result.values()
        assert (state["__sls__"], state["result"]) == ("mailsrv.refused", False)
        assert "write mailsrv:removes: 3." in state["name" if test else "comment"]
    assert written(four) == before


def test_accounts_that_go_are_a_change_that_names_them(four):
    names, notes = removed(four, less("a", "b"))
    assert names == accounts("c", "d")
    assert [note.partition(" ")[0] for note in notes] == names
    for test in (True, False):
        call = ("state.single", "mailsrv.accounts_removed", "gone")
        (state,) = four(*call, accounts=names, test=test).values()
        assert state["result"] is (None if test else True)
        assert state["changes"] == dict.fromkeys(names, "removed")
        assert state["comment"].endswith("; their mail stays until mailsrv.purge removes it")
    (state,) = four(*call, accounts=accounts(*map(str, range(23)))).values()
    assert len(state["changes"]) == 21
    assert state["changes"]["others"] == "3 removed"


def test_with_the_word_in_the_pillar_the_run_goes_through_to_its_last_file(four):
    """Files are made while the run is on, when the accounts are gone already."""
    pillar = less("d", removes=3)
    assert removed(four, pillar)[0] == accounts(*"abc")
    changes = four.write(pillar=pillar)
    assert all(changes[name] for name in changes if name.endswith(("dovecot-passwd", "sendas")))
    assert not any(four.write(pillar=pillar).values())
    names, (note,) = removed(four, pillar)
    assert names == []
    assert note.startswith("mailsrv:removes: 3 is not needed; ")
    four.write()


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_the_name_of_the_first_run_stays_when_the_machines_own_is_another_one(minion, system):
    machine = minion(system, id="named")
    machine.write()
    facts = machine("mailsrv.here")["facts"]
    name = machine.bare(machine.state("mailsrv-hostname")["name"])
    assert machine.at(name).read_text() == "mx.example.com\n"
    assert facts["standing"]["hostname"] == "mx.example.com"
    for fqdn in ("localhost", "other.example.com"):
        model, faults = read(machine("pillar.raw"), fqdn, facts, None)
        assert (faults, model["hostname"], len(model["notes"])) == ([], "mx.example.com", 1)

    machine = minion(system, id="renamed")
    file = machine.at(name)
    file.parent.mkdir(parents=True)
    file.write_text("first.example.com\n")
    files = {os.path.basename(name): text for name, text in machine.files().items()}
    assert files["hostname"] == "first.example.com\n"
    assert "mx.example.com" not in "".join(files.values())
    # The pillar has the last word.
    machine.write(hostname="second.example.com")
    assert file.read_text() == "second.example.com\n"
