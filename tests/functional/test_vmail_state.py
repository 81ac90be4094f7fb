"""vmail.owned: mailboxes that come from a machine where their user had another number."""

import os
import socket
import time

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")

USER, OWNER, GROUP = "nobody", 65534, 65534
BEFORE, ANOTHER = 4711, 4712
DOMAINS = ["example.com", "test.com", "no-mail-yet.example"]


@pytest.fixture
def home(tmp_path):
    """Mailboxes as they are, of the number of before."""
    for user in ("example.com/ann", "example.com/bob", "test.com/eva"):
        box = tmp_path / "vmail" / user
        (box / "mdbox/storage").mkdir(parents=True)
        (box / "mdbox/storage/m.1").write_text("mail")
        (box / "sieve").mkdir()
        (box / "sieve/mine.sieve").write_text("keep;")
        (box / ".dovecot.sieve").symlink_to("sieve/mine.sieve")
    give(tmp_path / "vmail", BEFORE)
    os.chown(tmp_path / "vmail", OWNER, GROUP)
    return tmp_path / "vmail"


@pytest.fixture
def owned(minion, home):
    functions = {t: minion().state_function("vmail.owned", t) for t in (True, False)}

    def apply(test=False, user=USER):
        return functions[test](str(home), domains=DOMAINS, user=user)

    return apply


def give(top, number):
    for path in (top, *top.rglob("*")):
        os.chown(path, number, number, follow_symlinks=False)


def owners(top):
    """Whose all is, links and what only looks like a mailbox apart."""
    return {p.lstat().st_uid for p in (top, *top.rglob("*")) if not p.is_symlink()}


def test_restored_mailboxes_are_given_to_their_user_once(home, owned):
    ret = owned()
    assert ret["result"] is True
    assert ret["changes"] == {
        "example.com": f"13 files and directories that belonged to {BEFORE}",
        "test.com": f"7 files and directories that belonged to {BEFORE}",
    }
    assert owners(home) == {OWNER}
    assert {(path.stat().st_gid) for path in home.rglob("*")} == {GROUP}
    again = owned()
    assert (again["result"], again["changes"]) == (True, {})


def test_in_test_mode_the_same_is_said_and_nothing_changed(home, owned):
    ret = owned(test=True)
    assert ret["result"] is None
    assert owners(home) == {OWNER, BEFORE}
    assert owned()["changes"] == ret["changes"]
    assert owned(test=True)["result"] is True


def test_one_mailbox_that_came_later_is_given_alone(home, owned):
    give(home, OWNER)
    give(home / "example.com/bob", BEFORE)
    assert [*owned()["changes"]] == ["example.com/bob"]
    assert owners(home) == {OWNER}


def test_mailboxes_of_two_numbers_in_a_domain_of_a_third_are_all_given(home, owned):
    give(home / "example.com/ann", ANOTHER)
    give(home / "example.com/bob", 0)
    changes = owned()["changes"]
    assert sorted(changes) == ["example.com", "example.com/ann", "example.com/bob", "test.com"]
    assert owners(home) == {OWNER}


def test_what_a_third_one_owns_inside_stays(home, owned):
    other = home / "example.com/ann/mdbox/other"
    other.mkdir()
    (other / "file").write_text("")
    give(other, ANOTHER)
    owned()
    assert owners(other) == {ANOTHER}
    assert owners(home) == {OWNER, ANOTHER}


def test_links_lead_nowhere_and_files_with_a_second_name_stay(home, owned, tmp_path):
    """Who can write there would have whatever he names given to himself."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "directory").mkdir(parents=True)
    for name in ("file", "directory/file"):
        (elsewhere / name).write_text("secret")
    give(elsewhere, BEFORE)
    box = home / "example.com/ann"
    (box / "link").symlink_to(elsewhere)
    (box / "linked file").symlink_to(elsewhere / "file")
    os.link(elsewhere / "file", box / "hard link")
    (home / "example.com/linked").symlink_to(elsewhere)
    (home / DOMAINS[2]).symlink_to(elsewhere)
    ret = owned()
    assert ret["result"] is True
    assert ret["warnings"] == [
        f"{home}/example.com: 1 files stay {BEFORE}'s and closed to Dovecot, such as 'hard link': "
        "they have a second name (hard link); copy them"
    ]
    assert owners(elsewhere) == {BEFORE}


def test_what_is_no_mailbox_stays_whose_it_is(home, owned):
    give(home, OWNER)
    for name in ("lost+found", "other.example/user", "example.com/.snap", "example.com/No Address"):
        (home / name).mkdir(parents=True)
        give(home / name, 0)
    (home / "example.com/file").write_text("")
    assert owned()["changes"] == {}


def test_what_is_no_file_is_left_alone_and_holds_nothing_up(home, owned):
    os.mkfifo(home / "example.com/ann/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "test.com/eva/s"))
    os.mkfifo(home / DOMAINS[2])
    assert owned()["result"] is True


def test_a_run_that_is_killed_is_ended_by_the_next_one(home, owned, monkeypatch):
    fchown, left = os.fchown, [5]

    def dies(*args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        fchown(*args)

    monkeypatch.setattr(os, "fchown", dies)
    with pytest.raises(KeyboardInterrupt):
        owned()
    assert owners(home) == {OWNER, BEFORE}
    assert owned()["result"] is True
    assert owners(home) == {OWNER}


def test_what_cannot_be_given_is_one_sentence(home, owned, monkeypatch):
    def refuses(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuses)
    ret = owned()
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == (
        f"{home}: [Errno 1] Operation not permitted; not every mailbox is nobody's, "
        "and Dovecot opens only those"
    )


def test_before_the_first_run_there_is_nothing_to_give_and_nobody_to_give_it_to(home, owned):
    assert owned(test=True, user="not-there-yet")["result"] is None
    assert owned(user="not-there-yet")["result"] is False
    home.rename(home.with_name("elsewhere"))
    assert owned(test=True, user="not-there-yet")["result"] is True
    assert owned()["result"] is True


def test_ten_thousand_good_mailboxes_cost_next_to_nothing(home, owned):
    for number in range(10_000):
        (home / f"example.com/user{number}").mkdir()
    give(home, OWNER)
    begin = time.process_time()
    assert owned()["changes"] == {}
    assert time.process_time() - begin < 0.1


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_dovecot_starts_when_the_mail_is_its_users(minion, system):
    low = [(chunk["state"], chunk["__id__"]) for chunk in minion(system).low("mailsrv.dovecot")]
    owned = low.index(("vmail", "mailsrv-vmail"))
    assert owned > low.index(("file", "mailsrv-vmail"))
    assert owned < low.index(("file", "mailsrv-dovecot-config"))
