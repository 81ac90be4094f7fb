"""mailbox.adopt: what is read of a Maildir or an mbox, and what not, whoever made it.

Dovecot's part, the import, is played by a script that keeps what it gets; the lab has the real one.
"""

import fcntl
import os
import pwd
import re
import shutil
import subprocess
import time
from collections import namedtuple

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import mailbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads what is others', as root")
NOBODY = pwd.getpwnam("nobody")
ADDRESS = "user1@example.com"
GUID = re.compile("adopted-[0-9a-f]+")

# "doveadm user", "doveadm fetch" and "doveadm import" of one account: $AT/lost is a message that
# does not come, $AT/fault what fails.
DOVEADM = r"""#!/bin/sh
fail() { echo "doveadm(user1@example.com)<1><x>: Error: $1" >&2; exit 75; }
case "$1 $3" in
    "user home") [ ! -e AT/stopped ] || fail "connect failed"; cat AT/home ;;
    "-f fetch") echo guid; find AT/came -path '*/cur/*' | sed 's|.*/cur/||; s|:2,.*||' ;;
    import*) from=${5#maildir:}
        [ "$(stat -c %U "$from/cur")" = nobody ] || fail "Permission denied"
        [ ! -e AT/lost ] || rm -f "$(find "$from" -path '*/cur/*' | head -n 1)"
        cp -a "$from/." AT/came/
        [ ! -e AT/lost ] || fail "Quota exceeded" ;;
    *) fail "what is $*" ;;
esac
"""
Came = namedtuple("Came", "text flags when keywords")


@pytest.fixture
def machine(loader, known, seed, tmp_path, monkeypatch):
    """A mail server with the seed's accounts, below a directory that is everybody's."""
    at = tmp_path / "dovecot"
    home = tmp_path / "vmail/example.com/user1"
    for directory in (at / "came", home):
        directory.mkdir(parents=True)
    for directory in (home, home.parent, tmp_path / "vmail"):
        os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.name.startswith(("pytest-", "popen-")) or directory == tmp_path:
            directory.chmod(0o755)
    (at / "home").write_text(f"{home}\n")
    (at / "doveadm").write_text(DOVEADM.replace("AT", str(at)))
    (at / "doveadm").chmod(0o755)
    facts = known()
    facts["vmail"]["home"] = str(tmp_path / "vmail")
    facts["dovecot"]["doveadm"] = str(at / "doveadm")
    loader["__pillar__"].update(seed)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: NOBODY)
    return at


@pytest.fixture
def maildir(tmp_path):
    """Write a message into a Maildir; the Maildir."""
    top = tmp_path / "Maildir"
    top.mkdir()

    def write(name, text="Subject: x\n\ntext\n", when=1583143200):
        path = os.path.join(os.fsencode(top), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text.encode())
        os.utime(path, (when, when))
        return top

    return write


@pytest.fixture
def mbox(tmp_path):
    def write(text, name="mbox"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return write


@pytest.fixture
def came(machine):
    """The messages that Dovecot got, by folder, in the order of its list of them."""

    def message(cur, guid, words):
        (file,) = cur.glob(f"{guid}:2,*")
        marks = file.name.partition(":2,")[2]
        keywords = {words[ord(mark) - ord("a")] for mark in marks if mark.islower()}
        flags = "".join(mark for mark in marks if mark.isupper())
        return Came(file.read_text(), flags, file.stat().st_mtime, keywords)

    def folder(place):
        lines = (place / "dovecot-keywords").read_text().splitlines()
        words = [line.split()[1] for line in lines]
        guids = GUID.findall((place / "dovecot-uidlist").read_text())
        return [message(place / "cur", guid, words) for guid in guids]

    def read():
        places = [place.parent for place in sorted((machine / "came").rglob("dovecot-uidlist"))]
        return {
            place.name if place.name.startswith(".") else "INBOX": folder(place) for place in places
        }

    return read


def count(result):
    return {name: folder["messages"] for name, folder in result["folders"].items()}


def test_folders_flags_keywords_and_dates_come_in_the_order_of_their_arrival(
    machine, maildir, came
):
    maildir("cur/1.b.host:2,FS", "Subject: one\n\n", 1000)
    maildir("cur/3.a.host,S=12:2,RSa", "Subject: three\n\n", 3000)
    maildir("new/2.c.host", "Subject: two\n\n", 2000)
    top = maildir(".Archive.2019 &AOk-t/cur/4.d.host:2,DPT", "Subject: four\n\n", 4000)
    (top / "dovecot-keywords").write_text("0 $Label1\n1 work\n")
    assert mailbox.adopt(str(top), ADDRESS) == {
        "folders": {
            "INBOX": {"messages": 3, "bytes": 44},
            "Archive/2019 ét": {"messages": 1, "bytes": 15},
        },
        "there": 0,
        "left_out": [],
    }
    assert came() == {
        "INBOX": [
            Came("Subject: one\n\n", "FS", 1000, set()),
            Came("Subject: two\n\n", "", 2000, set()),
            Came("Subject: three\n\n", "RS", 3000, {"$Label1"}),
        ],
        ".Archive.2019 &AOk-t": [Came("Subject: four\n\n", "DPT", 4000, set())],
    }


def test_folders_in_directories_come_as_well(machine, maildir, came):
    maildir("cur/1.a:2,")
    maildir("Lists/debian.org/cur/2.a:2,")
    maildir("INBOX/Sub/new/3.a")
    top = maildir("INBOX/Sub/cur/4.a:2,")
    assert count(mailbox.adopt(str(top), ADDRESS)) == {
        "INBOX": 1,
        "INBOX/Sub": 2,
        "Lists/debian_org": 1,
    }
    assert {*came()} == {"INBOX", ".INBOX.Sub", ".Lists.debian_org"}


def test_a_second_time_only_what_is_new_comes(machine, maildir, came):
    maildir("new/1.a.host", "Subject: one\n\n")
    top = maildir("cur/2.a.host:2,S", "Subject: two\n\n")
    assert mailbox.adopt(str(top), ADDRESS)["folders"] == {"INBOX": {"messages": 2, "bytes": 28}}
    (top / "new/1.a.host").rename(top / "cur/1.a.host:2,S")
    maildir("new/3.a.host")
    again = mailbox.adopt(str(top), ADDRESS)
    assert (count(again), again["there"]) == ({"INBOX": 1}, 2)
    assert mailbox.adopt(str(top), ADDRESS)["folders"] == {}


def test_what_its_owner_deleted_meanwhile_does_not_return(machine, maildir, came):
    top = maildir("cur/1.a:2,S")
    mailbox.adopt(str(top), ADDRESS)
    shutil.rmtree(machine / "came")
    (machine / "came").mkdir()
    again = mailbox.adopt(str(top), ADDRESS)
    assert (again["folders"], again["there"], came()) == ({}, 1, {})


def test_after_a_run_that_was_killed_nothing_comes_twice(machine, maildir, tmp_path):
    """Dovecot has the messages, but nothing was noted; and its copy still lies there."""
    top = maildir("cur/1.a:2,S")
    mailbox.adopt(str(top), ADDRESS)
    (tmp_path / "vmail/example.com/user1/.adopted").unlink()
    (tmp_path / "vmail/.adopting-abc/cur").mkdir(parents=True)
    assert mailbox.adopt(str(top), ADDRESS)["there"] == 1
    assert [path.name for path in (tmp_path / "vmail").iterdir()] == ["example.com"]


def test_in_test_mode_it_says_what_would_come_and_nothing_does(machine, maildir, came, tmp_path):
    top = maildir("cur/1.a:2,S")
    said = mailbox.adopt(str(top), ADDRESS, test=True)
    assert came() == {}
    assert not (tmp_path / "vmail/example.com/user1/.adopted").exists()
    assert mailbox.adopt(str(top), ADDRESS) == said


def test_the_source_stays_as_it_is(machine, maildir):
    maildir("new/2.a")
    top = maildir("cur/1.a:2,S")
    listing = ["find", top, "-printf", "%p %U %m %s %T@ %C@\n"]
    before = subprocess.run(listing, capture_output=True, check=True).stdout
    mailbox.adopt(str(top), ADDRESS)
    assert subprocess.run(listing, capture_output=True, check=True).stdout == before


MBOX = """\
From ann@example.com Mon Mar  2 10:00:00 2020
Subject: one
Status: RO
X-Status: AF
X-Keywords: work $Label1

text
>From here
From here on it is text

From here, too: no date

From - Tue Mar  3 10:00:00 2020
Subject: two
Status: O
X-UID: 7
X-Folded: a
 Status: R
Content-Length: 0

text two
"""


def test_an_mbox_comes_into_the_inbox_with_flags_keywords_and_dates(machine, mbox, came):
    assert count(mailbox.adopt(str(mbox(MBOX)), ADDRESS)) == {"INBOX": 2}
    one, two = came()["INBOX"]
    assert one.text == (
        "Subject: one\n\ntext\n>From here\nFrom here on it is text\n\nFrom here, too: no date\n"
    )
    assert (one.flags, one.keywords) == ("FRS", {"work", "$Label1"})
    assert time.localtime(one.when)[:5] == (2020, 3, 2, 10, 0)
    assert two.text == "Subject: two\nX-Folded: a\n Status: R\n\ntext two\n"
    assert (two.flags, two.keywords, time.localtime(two.when)[:3]) == ("", set(), (2020, 3, 3))
    path = mbox(MBOX.replace("Status: O\n", "Status: RO\nX-UID: 9\n"))
    again = mailbox.adopt(str(path), ADDRESS)
    assert (again["folders"], again["there"]) == ({}, 2)


def test_messages_that_are_alike_in_an_mbox_all_come(machine, mbox):
    message = "From x Mon Mar  2 10:00:00 2020\nSubject: again\n\ntext\n\n"
    path = mbox(message * 3)
    assert count(mailbox.adopt(str(path), ADDRESS)) == {"INBOX": 3}
    mbox(message * 4)
    assert count(mailbox.adopt(str(path), ADDRESS)) == {"INBOX": 1}


def test_a_content_length_that_is_true_counts(machine, mbox, came):
    """Some mail servers do not quote a line that begins with From."""
    text = "text\n\nFrom y Mon Mar  2 10:00:00 2020\nnot a message\n"
    head = "From x Mon Mar  2 10:00:00 2020\nSubject: x\n"
    for length, number in ((len(text), 2), (len(text) - 3, 4), (10**11, 4), (7, 4)):
        part = f"{head}Content-Length: {length}\n\n{text}\n"
        said = mailbox.adopt(str(mbox(part * 2, f"mbox{length}")), ADDRESS, test=True)
        assert count(said) == {"INBOX": number}, length


def test_what_a_mail_server_wrote_for_itself_into_an_mbox_is_no_message(machine, mbox, came):
    head = "From MAILER-DAEMON Mon Mar  2 10:00:00 2020\n"
    text = f"{head}Subject: FOLDER INTERNAL DATA\nX-IMAP: 1 2\nStatus: RO\n\nDo not delete\n\n"
    mailbox.adopt(str(mbox(text + "From x Mon Mar  2 10:00:00 2020\nSubject: x\n\ny\n")), ADDRESS)
    assert [message.text for message in came()["INBOX"]] == ["Subject: x\n\ny\n"]


def test_a_directory_of_mboxes_becomes_folders(machine, mbox):
    message = "From x Mon Mar  2 10:00:00 2020\nSubject: x\n\ntext\n"
    for name in ("mail/Sent", "mail/2019", "mail/.subscriptions", "mail/v1.0"):
        mbox(message, name)
    mbox("no mbox", "mail/notes")
    top = mbox(message, "mail/inbox").parent
    (top / "Archive").mkdir()
    mbox(message, "mail/Archive/2019")
    found = count(mailbox.adopt(str(top), ADDRESS))
    assert found == {"Sent": 1, "2019": 1, "v1_0": 1, "INBOX": 1, "Archive/2019": 1}


def test_an_mbox_that_is_being_written_to_waits(machine, mbox):
    path = mbox("From x Mon Mar  2 10:00:00 2020\nSubject: x\n\ntext\n")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('locked', flush=True); input()"
    )
    writer = subprocess.Popen(
        ["python3", "-c", script, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    with writer:
        assert writer.stdout.readline()
        result = mailbox.adopt(str(path), ADDRESS)
        writer.communicate(b"\n")
    assert result["folders"] == {}
    assert result["left_out"] == ["mboxes that are being written to; run it again: 1"]
    assert count(mailbox.adopt(str(path), ADDRESS)) == {"INBOX": 1}


def test_links_leads_and_others_files_are_not_followed(machine, maildir, tmp_path):
    """Whoever owns the Maildir would get to read what root may."""
    secret = tmp_path / "secret"
    secret.write_text("Subject: secret\n\n")
    other = tmp_path / "other"
    (other / "cur").mkdir(parents=True)
    (other / "cur/9.z:2,").write_text("Subject: another's\n\n")
    top = maildir("cur/1.a:2,S")
    for path in [*top.rglob("*"), top]:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    (top / "cur/2.a:2,S").symlink_to(secret)
    os.link(secret, top / "cur/3.a:2,S")
    os.mkfifo(top / "cur/4.a:2,S")
    (top / "dovecot-keywords").symlink_to(secret)
    (top / ".Other").symlink_to(other)
    (top / "Other").symlink_to(other)
    (top / ".Half").mkdir()
    (top / ".Half/cur").symlink_to(other / "cur")
    result = mailbox.adopt(str(top), ADDRESS)
    assert count(result) == {"INBOX": 1}
    assert result["left_out"] == [
        "files of another owner than the whole has: 1",
        "links, sockets or devices, not files: 2",
    ]


@pytest.mark.parametrize("change", ["unlink", "link", "rename", "rewrite"])
def test_what_changes_while_it_is_read_waits_for_the_next_time(
    machine, maildir, monkeypatch, tmp_path, change
):
    maildir("cur/1.a:2,")
    top = maildir("cur/2.a:2,")
    victim, stage = top / "cur/2.a:2,", mailbox._stage

    def changed(*arguments):
        if change == "rewrite":
            victim.write_text("Subject: x\n\nlonger than it was\n")
        elif change == "rename":
            victim.rename(f"{victim}S")
        else:
            victim.unlink()
        if change == "link":
            victim.symlink_to("/etc/passwd")
        stage(*arguments)

    monkeypatch.setattr(mailbox, "_stage", changed)
    result = mailbox.adopt(str(top), ADDRESS)
    assert count(result) == {"INBOX": 1}
    assert result["left_out"] == ["messages that were moved or changed meanwhile; run it again: 1"]
    assert not list((tmp_path / "vmail").glob(".adopting-*"))


def test_names_of_any_kind_make_folders_that_dovecot_takes(machine, maildir, came):
    for name in (
        *(b".\xff\xfe", b".&AC4ALgAvAC4ALg-", b".&&-", b".bad&&name", b".r\xc3\xa9w", b".a..b"),
        *(b".INBOX.Sub", b".inbox", b".~root", b".-x", b".new\nline", b"." + b"x" * 200, b".%*"),
    ):
        maildir(name + b"/cur/1.a:2,S")
    top = maildir("cur/1.a:2,FSZ\n" + "x" * 100)
    result = mailbox.adopt(str(top), ADDRESS)
    assert sum(count(result).values()) == 14
    assert all(name.isprintable() and ".." not in name for name in result["folders"])
    assert {"INBOX", "INBOX/Sub", "réw", "bad&&name", "a/b", "root", "x" * 60} < {
        *result["folders"]
    }
    assert all(".." not in name and name.isascii() for name in came())


def test_what_dovecot_has_compressed_is_left_out(machine, maildir):
    top = maildir("cur/1.a:2,S", "\x1f")
    (top / "cur/1.a:2,S").write_bytes(b"\x1f\x8b\x08\x00")
    maildir("cur/2.a:2,S")
    result = mailbox.adopt(str(top), ADDRESS)
    assert count(result) == {"INBOX": 1}
    assert result["left_out"] == ["messages that Dovecot has compressed: unpack them first: 1"]


def test_garbage_instead_of_mail_is_no_traceback(machine, mbox, maildir):
    noise = "From x Mon Mar  2 10:00:00 2020\n" + "".join(map(chr, range(256))) * 20
    path = mbox(
        noise + "\n\nFrom x Mon Feb 31 99:99:99 9999\n\n\nFrom x Mon Mar  2 10:00:00 0000\n"
    )
    assert count(mailbox.adopt(str(path), ADDRESS, test=True)) == {"INBOX": 3}
    path = mbox("From x Mon Mar  2 10:00:00 2020\n" + "x" * (3 << 20))
    assert count(mailbox.adopt(str(path), ADDRESS)) == {"INBOX": 1}
    top = maildir("dovecot-keywords", "\0\n99 x\n0\n-1 y\n1 a b\n" + "x" * 99999)
    maildir("cur/1.a:2,ab")
    assert count(mailbox.adopt(str(top), ADDRESS)) == {"INBOX": 1}


REFUSED = {
    "no account": ("nobody@example.com", "Maildir", "is not an account of the pillar; add it"),
    "no address": ("", "Maildir", "is not an account of the pillar"),
    "nothing": (ADDRESS, "nothing", "No such file or directory"),
    "empty": (ADDRESS, "empty", "is neither a Maildir (a directory with cur in it) nor an mbox "),
    "file": (ADDRESS, "file", "is neither a Maildir"),
    "fifo": (ADDRESS, "fifo", "is neither a Maildir"),
    "link": (ADDRESS, "link", "is not a real path; name what it leads to: "),
    "up": (ADDRESS, "empty/../link", "is not a real path"),
    "ours": (ADDRESS, "vmail/example.com/user1", "move what is to be adopted out of "),
    "above": (ADDRESS, ".", "move what is to be adopted out of "),
}


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adopted_is_refused_with_the_cure(machine, maildir, tmp_path, case, test):
    address, source, sentence = REFUSED[case]
    top = maildir("cur/1.a:2,S")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no mail\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(top)
    with pytest.raises(SaltInvocationError) as raised:
        mailbox.adopt(
            f"{tmp_path}/{source}" if source != "." else str(tmp_path), address, test=test
        )
    assert sentence in str(raised.value)


def test_a_relative_path_is_refused(machine):
    with pytest.raises(SaltInvocationError, match="is not a real path"):
        mailbox.adopt("Maildir", ADDRESS)


def test_where_dovecot_does_not_run_it_says_so(machine, maildir):
    (machine / "stopped").touch()
    with pytest.raises(CommandExecutionError) as raised:
        mailbox.adopt(str(maildir("cur/1.a:2,S")), ADDRESS)
    assert str(raised.value) == (
        f"mailbox.adopt: Dovecot does not know {ADDRESS}: Error: connect failed. "
        "Does it run, and is the highstate through?"
    )
    (machine / "doveadm").unlink()
    with pytest.raises(CommandExecutionError, match="there is no doveadm here"):
        mailbox.adopt(str(maildir("cur/1.a:2,S")), ADDRESS)


def test_a_dovecot_with_mail_elsewhere_is_not_ours(machine, maildir):
    (machine / "home").write_text("/home/ann\n")
    with pytest.raises(CommandExecutionError, match="run the highstate first"):
        mailbox.adopt(str(maildir("cur/1.a:2,S")), ADDRESS)


def test_what_dovecot_did_not_take_is_a_fault_with_its_words_and_comes_next_time(machine, maildir):
    maildir("cur/2.a:2,")
    top = maildir("cur/1.a:2,S")
    (machine / "lost").touch()
    with pytest.raises(CommandExecutionError) as raised:
        mailbox.adopt(str(top), ADDRESS)
    assert (
        "1 of 2 messages did not come (1 of INBOX). Dovecot said: Error: Quota exceeded. "
        in str(raised.value)
    )
    (machine / "lost").unlink()
    again = mailbox.adopt(str(top), ADDRESS)
    assert (count(again), again["there"]) == ({"INBOX": 1}, 1)


def test_a_disk_that_is_too_small_is_said_before_anything_comes(machine, maildir, came):
    top = maildir("cur/1.a:2,S")
    os.truncate(top / "cur/1.a:2,S", 1 << 43)
    with pytest.raises(CommandExecutionError, match=r"MB free, this needs \d+ MB; make room"):
        mailbox.adopt(str(top), ADDRESS)
    assert came() == {}


def test_one_adoption_at_a_time(machine, maildir, tmp_path):
    handle = os.open(tmp_path / "vmail", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CommandExecutionError, match="another one runs on this machine"):
        mailbox.adopt(str(maildir("cur/1.a:2,S")), ADDRESS)
    os.close(handle)


def test_a_link_of_vmails_in_a_mailbox_leads_root_nowhere(machine, maildir, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    (tmp_path / "vmail/example.com/user1/.adopted").symlink_to(secret)
    with pytest.raises(CommandExecutionError, match="Permission denied"):
        mailbox.adopt(str(maildir("cur/1.a:2,S")), ADDRESS)
    assert secret.read_text() == "root's\n"
