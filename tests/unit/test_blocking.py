"""mailsrv.block on a machine whose daemons do not run, and of whom a message in the queue is."""

import os
import stat

import _mailsrv_blocking as blocking
import pytest
from _mailsrv import hashes, waiting
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

from saltext.mailsrv.modules import mailsrv

ANN, BOB, EVA, WEB = "ann@example.com", "bob@example.com", "eva@test.com", "web1.example.com"
HASH = "$6$salt$" + "a" * 86
KNOWN = {
    ANN: [ANN, "sales@example.com", "team@example.com"],
    BOB: [BOB, "team@example.com", "@test.com"],
    EVA: [EVA],
    WEB: [f"@{WEB}"],
}


@pytest.fixture
def machine(loader, known, tmp_path, monkeypatch):
    """What a run has written, and no daemon that answers; a pillar that cannot be read."""
    etc, kept = tmp_path / "etc", tmp_path / "kept"
    etc.mkdir()
    found = known()
    found["directory"], found["kept"] = str(etc), str(kept)
    found["dovecot"]["directory"] = str(etc)
    loader["__pillar__"].update({"domains": 5})
    lines = [f"{name} {','.join(senders)}" for name, senders in KNOWN.items()]
    (etc / "sendas").write_text("\n".join(["# Managed by Salt", *lines, ""]))
    (etc / "credentials").write_text("".join(f"{name} {HASH}\n" for name in KNOWN))
    (etc / "credentials").chmod(0o640)
    (etc / "blocked").write_text("# Managed by Salt\n")
    (etc / "blocked").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(blocking, "SEEN", 0)
    return etc


def locked(machine):
    lines = (machine / "credentials").read_text().splitlines()
    return [line.split()[0] for line in lines if line.split()[1] == f"!{HASH}"]


@pytest.mark.parametrize("name", [ANN, WEB])
def test_an_account_is_blocked_without_daemons_and_without_a_pillar(machine, loader, name):
    before = (machine / "credentials").read_text(), (machine / "blocked").read_text()
    for _ in range(2):
        said = mailsrv.block(name.upper())
        assert (said["blocked"], said["sessions"], said["held"]) == (name, 0, 0)
        assert [fault.split()[0] for fault in said["failed"]] == ["smtpctl", "doveadm", "smtpctl"]
        assert loader["__context__"]["retcode"] == 1
        assert locked(machine) == [name]
        assert (machine / "blocked").read_text() == f"# Managed by Salt\n{name}\n"
    assert mailsrv.here()["facts"]["standing"]["blocked"].keys() == {name}
    (when,) = mailsrv.blocked().values()
    assert when.startswith("since 20")
    assert mailsrv.unblock(name)["sent on"] == 0
    assert ((machine / "credentials").read_text(), (machine / "blocked").read_text()) == before
    assert mailsrv.blocked() == {}


def test_files_keep_their_owners_and_permissions(machine):
    before = [os.stat(machine / name) for name in ("credentials", "blocked")]
    mailsrv.block(ANN)
    after = [os.stat(machine / name) for name in ("credentials", "blocked")]
    for old, new in zip(before, after, strict=True):
        assert (old.st_mode, old.st_uid, old.st_gid) == (new.st_mode, new.st_uid, new.st_gid)
    record = os.stat(machine.parent / "kept/blocked")
    assert stat.S_IMODE(record.st_mode) == 0o600


def test_a_blocked_account_keeps_its_hash_behind_what_no_password_has(machine):
    mailsrv.block(ANN)
    lines = (machine / "credentials").read_text().splitlines()
    assert f"{ANN} !{HASH}" in lines
    assert hashes.standing(lines) == dict.fromkeys(KNOWN, HASH)


@pytest.mark.parametrize("broken", ["kept/blocked", "etc/blocked", "etc/credentials"])
def test_a_file_that_cannot_be_written_leaves_no_door_open(machine, tmp_path, monkeypatch, broken):
    write = blocking.disk.write

    def full(path, *arguments):
        if path == str(tmp_path / broken):
            raise OSError(28, "No space left on device")
        return write(path, *arguments)

    monkeypatch.setattr(blocking.disk, "write", full)
    said = mailsrv.block(ANN)["failed"]
    assert [text for text in said if "No space left on device" in text and broken in text]
    assert (locked(machine) == [ANN]) == (broken != "etc/credentials")
    assert (ANN in (machine / "blocked").read_text()) == (broken != "etc/blocked")


def test_nobody_else_is_blocked_and_a_mistake_is_said(machine):
    with pytest.raises(SaltInvocationError, match="none of the accounts on this machine; did you "):
        mailsrv.block("an@example.com")
    with pytest.raises(SaltInvocationError, match=r"is not blocked; nobody is$"):
        mailsrv.unblock(ANN)
    (machine / "blocked").write_text(f"# x\n{ANN}\n")
    assert mailsrv.blocked() == {ANN: "by the pillar"}
    with pytest.raises(SaltInvocationError, match="the pillar blocks ann"):
        mailsrv.unblock(ANN)


def test_who_is_gone_from_the_pillar_can_be_let_in(machine):
    mailsrv.block(ANN)
    (machine / "sendas").write_text(f"{BOB} {BOB}\n")
    mailsrv.unblock(ANN)
    assert mailsrv.blocked() == {}


@pytest.mark.parametrize("text", ["", "\0\xff", f"{ANN}\n", f"{ANN} yesterday\n", "x " * 5000])
def test_a_record_of_garbage_blocks_nobody_and_ends_nothing(machine, text):
    kept = machine.parent / "kept"
    kept.mkdir()
    (kept / "blocked").write_bytes(text.encode("latin-1"))
    assert mailsrv.here()["facts"]["standing"]["blocked"] == {}
    mailsrv.block(ANN)
    assert mailsrv.blocked().keys() == {ANN}


def line(message, sender, flags=""):
    return f"{message}00000001|inet4|mta|{flags}|{sender}|a@b.c|a@b.c|1|2|3|4|pending|5|said: no"


@pytest.mark.parametrize(
    ("sender", "of"),
    [
        (ANN, {ANN}),
        ("Ann+tag|x@example.com", {ANN}),
        ("sales@example.com", {ANN}),
        ("team@example.com", set()),  # of both: it stays where it is
        ("X@test.com", {BOB}),  # he may send as all of it: a thief takes any
        ("eva@test.com", {EVA}),
        (f"root@{WEB}", {WEB}),
        (f"root@not-{WEB}", set()),
        ("@", set()),
    ],
)
def test_a_message_is_of_whom_alone_its_sender_is(sender, of):
    lines = [line("0000000a", sender), line("0000000b", sender, "auth,suspend")]
    listing = waiting.entries("\n".join(lines))
    assert {name for name in KNOWN if blocking.owned(listing, name, KNOWN)} == of
    for name in of:
        assert blocking.owned(listing, name, KNOWN) == {"0000000a", "0000000b"}
        assert blocking.owned(listing, name, KNOWN, "suspend") == {"0000000b"}


@pytest.mark.parametrize("end", ["\r", "\v", "\x1c", "\x85", "\u2028"])
def test_what_another_server_says_is_no_entry(end):
    said = line("0000000a", BOB) + end + line("0000000b", ANN)
    assert [entry["message"] for entry in waiting.entries(said)] == ["0000000a"]


@given(text=st.text() | st.lists(st.sampled_from([*"|@\n0af", ANN, "00000001"])).map("".join))
def test_no_queue_ends_it(text):
    assert blocking.owned(waiting.entries(text), ANN, KNOWN) <= {
        text[i : i + 8] for i in range(len(text))
    }
