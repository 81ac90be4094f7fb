"""mailsrv.leftovers and mailsrv.purge: mail of accounts that are gone, on a disk of the test."""

import pytest
from salt.exceptions import SaltInvocationError

from saltext.mailsrv.modules import mailsrv


@pytest.fixture
def home(loader, seed, facts, tmp_path, monkeypatch):
    """Mailboxes of the seed's accounts, of three who are gone, and things that are no mailbox."""
    known = facts("Debian")
    known["vmail"]["home"] = str(tmp_path / "vmail")
    monkeypatch.setattr(mailsrv, "facts", lambda: known)
    loader["__pillar__"].update(seed)
    home = tmp_path / "vmail"
    for name in (
        *("example.com/user1", "test.com/users3", "example.com/gone", "example.com/a.b"),
        *("gone.example/user", "lost+found", "example.com/No Address", ".hidden/x"),
    ):
        (home / name / "mdbox").mkdir(parents=True)
        (home / name / "mdbox/m.1").write_bytes(bytes(1000))
    (home / "example.com/file").write_text("no directory")
    (home / "example.com/link").symlink_to(home / "example.com/user1")
    return home


def test_mail_of_accounts_that_are_gone_is_listed(home):
    assert mailsrv.leftovers() == {
        f"{user}@{domain}": {"path": str(home / domain / user), "bytes": 1000}
        for domain, user in (
            ("example.com", "a.b"),
            ("example.com", "gone"),
            ("gone.example", "user"),
        )
    }


def test_before_the_first_mail_nothing_is_left(home, loader, tmp_path):
    mailsrv.facts()["vmail"]["home"] = str(tmp_path / "nothing")
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
    with pytest.raises(SaltInvocationError) as raised:
        mailsrv.purge(address)
    assert str(raised.value) == (
        f"mailsrv.purge: {str(address)!r} left no mail behind; "
        "those that did: a.b@example.com, gone@example.com, user@gone.example"
    )
    assert (home / "example.com/user1/mdbox/m.1").exists()
