"""mailsrv.leftovers and mailsrv.purge: mail of accounts that are gone, on a disk of the test."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import mailsrv

NOBODY = 65534
ROOT = os.geteuid() == 0


@pytest.fixture
def vmail(monkeypatch):
    """Somebody else than root, if root runs the tests: whose the mail is, by id."""
    found = NOBODY if ROOT else os.geteuid()
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT else {}
    monkeypatch.setattr(mailsrv.disk, "VMAIL", who)
    return found


@pytest.fixture
def home(vmail, loader, known, seed):
    """Mailboxes of the seed's accounts, of three who are gone, and things that are no mailbox."""
    top = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    top.chmod(0o755)
    home = top / "vmail"
    known()["vmail"]["home"] = str(home)
    loader["__pillar__"].update(seed)
    for name in (
        *("example.com/user1", "test.com/users3", "example.com/gone", "example.com/a.b"),
        *("gone.example/user", "lost+found", "example.com/No Address", ".hidden/x"),
        *("example.com/-rf", "example.com/..x", "example.com/new\nline", "-x.example/user"),
        *("example.com/\udcff", "example.com/*"),
    ):
        (home / name / "mdbox").mkdir(parents=True)
        (home / name / "mdbox/m.1").write_bytes(bytes(1000))
    (home / "example.com/file").write_text("no directory")
    (home / "example.com/link").symlink_to(home / "example.com/user1")
    give(home, vmail)
    yield home
    shutil.rmtree(top)


def give(path, owner):
    if ROOT:
        subprocess.run(["chown", "-hR", f"{owner}:{owner}", path], check=True)


def everything(directory):
    return sorted(directory.rglob("*"))


def test_mail_of_accounts_that_are_gone_is_listed(home):
    assert mailsrv.leftovers() == {
        f"{user}@{domain}": {"path": str(home / domain / user), "bytes": 1000}
        for domain, user in (
            ("example.com", "a.b"),
            ("example.com", "gone"),
            ("gone.example", "user"),
        )
    }


def test_before_the_first_mail_nothing_is_left(loader, known, seed, tmp_path):
    known()["vmail"]["home"] = str(tmp_path / "nothing")
    loader.next_run(**seed)
    assert mailsrv.leftovers() == {}


def test_purge_removes_one_of_them_and_the_directory_of_a_domain_that_is_empty(home):
    left = mailsrv.leftovers()
    for gone in ("gone@example.com", "user@gone.example"):
        assert mailsrv.purge(gone) == {gone: left.pop(gone)}
        assert mailsrv.leftovers() == left
    assert not (home / "gone.example").exists()
    assert (home / "example.com/user1/mdbox/m.1").exists()


def test_in_test_mode_purge_removes_nothing(home):
    left = mailsrv.leftovers()
    assert mailsrv.purge("gone@example.com", test=True) == {
        "gone@example.com": left["gone@example.com"]
    }
    assert mailsrv.leftovers() == left


@pytest.mark.parametrize(
    "address", ["user1@example.com", "../x@example.com", "link@example.com", "", None, "*@*"]
)
def test_purge_refuses_everything_else(home, address):
    before = everything(home)
    with pytest.raises(SaltInvocationError) as raised:
        mailsrv.purge(address)
    assert str(raised.value) == (
        f"mailsrv.purge: {str(address)!r} left no mail behind; "
        "those that did: a.b@example.com, gone@example.com, user@gone.example"
    )
    assert everything(home) == before


def test_purge_removes_whatever_names_stand_in_a_mailbox_and_no_more(home, vmail):
    box = home / "example.com/gone"
    for name in ("-rf", "--no-preserve-root", "new\nline", "\udcff", " ", "*", "a/b/c", "~"):
        (box / name).mkdir(parents=True)
        (box / name / "..x").write_text("")
    (box / "up").symlink_to("..")
    (box / "user").symlink_to(home / "example.com/user1")
    os.mkfifo(box / "pipe")
    give(box, vmail)
    others = [path for path in everything(home) if not path.is_relative_to(box)]
    mailsrv.purge("gone@example.com")
    assert everything(home) == others


def test_links_are_neither_followed_nor_counted(home, tmp_path):
    (tmp_path / "large").write_bytes(bytes(50000))
    (home / "example.com/gone/elsewhere").symlink_to(tmp_path)
    (home / "example.com/gone/file").symlink_to(tmp_path / "large")
    (home / "linked.example").symlink_to(tmp_path)
    (tmp_path / "user").mkdir()
    left = mailsrv.leftovers()
    assert left["gone@example.com"]["bytes"] < 1500  # with the links themselves
    assert "user@linked.example" not in left
    mailsrv.purge("gone@example.com")
    assert (tmp_path / "large").exists()


@pytest.mark.skipif(not ROOT, reason="who is not root deletes nothing of others anyway")
def test_what_a_directory_is_swapped_for_is_neither_deleted_nor_counted(home):
    """As vmail may, between a look at it and the next step: root deleted elsewhere."""
    elsewhere, directory, aside = home.parent / "etc", home / "example.com", home / "aside"
    (elsewhere / "gone").mkdir(parents=True)
    (elsewhere / "gone/precious").write_bytes(bytes(77777))
    ends = threading.Event()

    def swap():
        while not ends.is_set():
            directory.rename(aside)
            directory.symlink_to(elsewhere)
            time.sleep(0.0002)
            directory.unlink()
            aside.rename(directory)
            time.sleep(0.0002)

    thread = threading.Thread(target=swap)
    thread.start()
    sizes, until = set(), time.monotonic() + 5
    try:
        while time.monotonic() < until:
            with contextlib.suppress(SaltInvocationError, CommandExecutionError):
                sizes |= {entry["bytes"] for entry in mailsrv.leftovers().values()}
                mailsrv.purge("gone@example.com")
    finally:
        ends.set()
        thread.join()
    assert (elsewhere / "gone/precious").exists()
    assert sizes <= {0, 1000}


@pytest.mark.skipif(not ROOT, reason="needs files of another owner")
def test_what_is_not_vmails_stays_and_is_named(home):
    box = home / "example.com/gone"
    (box / "theirs").mkdir()
    (box / "theirs/file").write_text("root's own")
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.purge("gone@example.com")
    assert str(raised.value) == (
        f"mailsrv.purge: vmail, whose the mail is, may not delete all of {box}: "
        f"\"rm: cannot remove '{box}/theirs/file': Permission denied\"; "
        f"give it to vmail, chown -hR vmail:vmail {box}, and purge it again"
    )
    assert (box / "theirs/file").read_text() == "root's own"
    give(box, NOBODY)
    mailsrv.purge("gone@example.com")
    assert not box.exists()
