"""mailbox.found and mailbox.stranded: what a machine has before a run, on a test's disk."""

import hashlib
import os
import time

import pytest

from saltext.mailsrv.modules import mailbox

OURS = "# Managed by Salt (mailsrv.opensmtpd): changes here are overwritten.\n"
PILLAR = {"domains": ["example.com"]}
# What is no name of anything: letters that a terminal obeys, no UTF-8, a line's end.
ODD = b"\xff\x1b[2J\n"


@pytest.fixture
def services():
    """The services that the machine has."""
    return {"cron"}


@pytest.fixture
def facts(known):
    """The formula's facts, to be changed."""
    return known()


@pytest.fixture
def disk(loader, facts, services, tmp_path, monkeypatch):
    """A machine's files, below a directory; the facts know them there."""
    loader.next_run(**PILLAR)
    (tmp_path / "etc/dovecot").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    facts["opensmtpd"] |= {
        "config": str(tmp_path / "etc/smtpd.conf"),
        "aliases": str(tmp_path / "etc/aliases"),
    }
    facts["dma"]["config"] = str(tmp_path / "etc/dma.conf")
    facts["dovecot"]["directory"] = str(tmp_path / "etc/dovecot")
    facts["rspamd"]["config"] = str(tmp_path / "etc/rspamd.conf")
    facts["dkimproxy"]["config"] = str(tmp_path / "etc/dkimproxy_out.conf")
    facts["before"] |= {"passwd": str(tmp_path / "etc/passwd"), "mail": str(tmp_path / "mail")}
    for mta, queue in facts["before"]["queues"].items():
        queue["spool"] = str(tmp_path / "spool" / mta)
    monkeypatch.setattr(mailbox, "STOCK", (str(tmp_path / "status"),))
    monkeypatch.setattr(mailbox, "PATIENCE", 1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    loader["__salt__"]["service.get_all"] = lambda: services
    return tmp_path


@pytest.fixture
def queue(disk, facts):
    """A program that prints a mail server's queue: its text, and how it goes on."""

    def make(mta, text="", then="exit"):
        spool = disk / "spool" / mta
        spool.mkdir(parents=True, exist_ok=True)
        program = disk / "bin" / facts["before"]["queues"][mta]["count"][0]
        program.write_text(f"#!/bin/sh\nprintf '{text}'\n{then}\n")
        program.chmod(0o755)

    return make


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def stock(path):
    """A line of dpkg's."""
    return f" {path} {hashlib.md5(path.read_bytes()).hexdigest()} obsolete\n"


@pytest.fixture
def settled(disk, queue, services):
    """A machine with all that another mail server can leave."""
    queue("Postfix", "{}\\n{}\\n")
    services.add("postfix")
    write(disk / "mail/ann", "From x\n")
    (disk / "home/ann/Maildir/cur").mkdir(parents=True)
    write(disk / "etc/passwd", f"ann:x:1000:1000::{disk}/home/ann:/bin/sh\n")
    write(disk / "etc/aliases", 'postmaster: root\nroot: ann\n"lists": |cat\nInfo: ann\n')
    write(disk / "etc/dovecot/dovecot.conf", "mail_location = maildir:~/Maildir\n")
    return disk


def test_a_machine_without_mail_has_nothing_to_tell(disk):
    assert mailbox.found() == {}


def test_all_that_another_mail_server_leaves_is_told(settled):
    found = mailbox.found()
    assert {subject: len(told) for subject, told in found.items()} == {
        "queue": 1,
        "services": 1,
        "mail": 3,
        "aliases": 1,
        "files": 1,
    }
    assert found["queue"][0].startswith("Postfix holds 2 messages in its queue")
    assert found["services"][0].startswith("postfix gives way to OpenSMTPD")
    conf_d, mbox, maildir = found["mail"]
    assert conf_d.startswith(f"{settled}/etc/dovecot/conf.d is not read any more")
    assert f"salt-call mailbox.adopt {settled}/mail/ann ADDRESS" in mbox
    assert f"salt-call mailbox.adopt {settled}/home/ann/Maildir ADDRESS" in maildir
    assert ": lists, info; " in found["aliases"][0]
    conf = f"{settled}/etc/dovecot/dovecot.conf"
    assert found["files"] == [f"{conf} is replaced; what it is now stays in {conf}.before-mailsrv"]


@pytest.mark.parametrize("conf", ["smtpd.conf", "dma.conf"])
def test_where_our_own_file_stands_nothing_is_looked_at(settled, monkeypatch, facts, conf):
    write(settled / "etc" / conf, OURS + "table x\n")
    monkeypatch.setattr(mailbox, "_waiting", None)
    assert mailbox.found() == {}
    assert mailbox.stranded() == []


def test_a_file_as_its_package_brought_it_is_nobodys_work(disk):
    conf = write(disk / "etc/dovecot/dovecot.conf", "stock\n")
    assert len(mailbox.found()["files"]) == 1
    write(disk / "status", f"Conffiles:\n {conf} {'0' * 32}\n")
    assert len(mailbox.found()["files"]) == 1
    write(disk / "status", f"Conffiles:\n{stock(conf)}")
    assert mailbox.found() == {}


def test_a_changed_part_of_dovecots_file_tells_that_it_is_not_read_any_more(disk):
    conf = write(disk / "etc/dovecot/dovecot.conf", "stock\n")
    part = write(disk / "etc/dovecot/conf.d/10-mail.conf", "stock, too\n")
    write(disk / "status", stock(conf) + stock(part))
    assert mailbox.found() == {}
    write(part, "mine\n")
    assert list(mailbox.found()) == ["mail"]


@pytest.mark.parametrize(
    ("mta", "text", "count"),
    [
        ("Postfix", "{}\\n", "1 message "),
        ("Exim", "12\\n", "12 messages "),
        ("Postfix", "{}\\n" * 3, "3 messages "),
    ],
)
def test_what_waits_in_a_queue_keeps_the_run_from_beginning(
    loader, disk, queue, mta, text, count, facts
):
    queue(mta, text)
    (sentence,) = mailbox.stranded()
    assert sentence.startswith(f"mailsrv: nothing was touched: {mta} holds {count}")
    how = facts["before"]["queues"][mta]
    assert all(how[step] in sentence for step in ("send", "show", "delete"))
    assert sentence.endswith("mailsrv:abandon_queue: true in the pillar")
    loader.next_run(mailsrv={"abandon_queue": True})
    assert mailbox.stranded() == []


def test_sendmails_queue_is_counted_in_its_files(disk, facts):
    for name in ("Mails/qfabc", "Mails/dfabc", "sendmail/qfabc", "sendmail/q1/qfdef"):
        write(disk / "spool" / name, "x")
    write(disk / "spool/sendmail-client/qfghi", "x")
    (sentence,) = mailbox.stranded()
    assert sentence.startswith("mailsrv: nothing was touched: sendmail holds 3 messages")


@pytest.mark.parametrize(
    ("mta", "text", "then"),
    [
        ("Postfix", "", "exit 69"),
        ("Postfix", "", "sleep 60"),
        ("Exim", "", "exit 1"),
        ("Exim", "exim: no such thing\\n", "exit"),
        ("Exim", "0\\n", "exit"),
        ("Exim", "\\377\\000", "exit"),
        ("Exim", "-3\\n", "exit"),
    ],
)
def test_a_program_that_does_not_count_holds_nothing_up(disk, queue, mta, text, then, facts):
    queue(mta, text, then)
    begun = time.monotonic()
    assert mailbox.stranded() == []
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("mta", "name"),
    [("Postfix", "deferred/A/AB12"), ("Postfix", "maildrop/AB12"), ("Exim", "input/x/1a-2b-3c-H")],
)
@pytest.mark.parametrize(("then", "count"), [("exit 1", 1), ("exec sleep 60", 1), ("exit", 0)])
def test_where_the_program_fails_the_files_of_the_queue_count(
    disk, queue, mta, name, then, count, facts
):
    queue(mta, then=then)
    for path in (name, "pid/master.pid", "active.txt", "input/1a-2b-3c-D"):
        write(disk / "spool" / mta / path, "x")
    assert len(mailbox.stranded()) == count


def test_an_endless_queue_is_counted_to_an_end(disk, queue, facts):
    queue("Postfix", then="exec yes")
    (sentence,) = mailbox.stranded()
    assert "Postfix holds 10000 or more messages" in sentence


def test_a_spool_without_its_program_is_passed_over(disk, facts):
    for mta in ("Postfix", "Exim"):
        (disk / "spool" / mta).mkdir(parents=True)
    facts["before"]["queues"]["Exim"]["count"] = ["no-such-program"]
    facts["before"]["queues"]["Postfix"]["count"] = [str(disk / "status")]
    assert mailbox.stranded() == []


@pytest.mark.parametrize("pillar", [{"mailsrv": None}, {"mailsrv": []}, {"mailsrv": "x"}, {}])
def test_a_pillar_of_any_shape_accepts_nothing(disk, queue, pillar, loader):
    queue("Exim", "1\\n")
    loader["__pillar__"].clear()
    loader.next_run(**pillar)
    assert len(mailbox.stranded()) == 1


def test_many_of_a_kind_are_a_number(disk):
    for number in range(300):
        write(disk / f"mail/user{number:03}", "x")
    write(disk / "etc/aliases", "".join(f"alias{n}: x\n" for n in range(30)))
    found = mailbox.found()
    assert len(found["mail"]) == 21
    assert found["mail"][-1] == "… and 280 more like these"
    assert "alias19 and 10 more; " in found["aliases"][0]


def test_an_odd_machine_is_no_exception(disk, facts):
    """Garbage, directories, FIFOs, devices and links in a circle in the place of every file."""
    makers = [
        lambda path: write(path, ODD * 1000 + b"\0:x:" + ODD + b":::::"),
        lambda path: path.mkdir(parents=True),
        os.mkfifo,
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/nowhere"),
    ]
    names = ("smtpd.conf", "aliases", "passwd", "rspamd.conf", "dkimproxy_out.conf")
    for make in makers:
        for name in (*names, "dovecot/dovecot.conf", "dovecot/conf.d", "../mail", "../status"):
            path = disk / "etc" / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            make(path)
        told = [text for sentences in mailbox.found().values() for text in sentences]
        assert all(text.isprintable() for text in told)
        assert mailbox.stranded() == []


def test_names_that_a_terminal_would_obey_are_shown_in_escapes(disk):
    write(disk / "mail" / os.fsdecode(ODD), "x")
    home = os.fsdecode(b"home/" + ODD[:-1])
    (disk / home / "Maildir/cur").mkdir(parents=True)
    write(disk / "etc/passwd", os.fsencode(f"ann:x:1:1::{disk}/{home}:/bin/sh\n"))
    write(disk / "etc/aliases", ODD[:-1] + b": x\n")
    found = mailbox.found()
    assert [len(found["mail"]), len(found["aliases"])] == [2, 1]
    assert all(text.isprintable() and text.isascii() for text in found["mail"] + found["aliases"])


def test_links_to_mail_are_not_followed(disk):
    (disk / "mail").mkdir()
    (disk / "mail/ann").symlink_to("/etc/passwd")
    (disk / "elsewhere/cur").mkdir(parents=True)
    (disk / "home").mkdir()
    (disk / "home/Maildir").symlink_to(disk / "elsewhere")
    write(disk / "etc/passwd", f"ann:x:1:1::{disk}/home:/bin/sh\n")
    assert mailbox.found() == {}
