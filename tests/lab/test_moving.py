"""Mail that a machine had before: told of, and brought into a mailbox by the real Dovecot."""

import contextlib

import pytest

pytestmark = pytest.mark.lab

MAILDIR = r"""
useradd --create-home olga
cd ~olga
message() {
    mkdir -p "$(dirname "$1")"
    printf 'From: a@b.example\nSubject: %s\n\nold mail\n' "$2" >"$1"
    touch -d "2020-03-0$3 10:00:00 UTC" "$1"
}
message Maildir/cur/2.b.host:2,RSa answered 3
message Maildir/cur/9.a.host:2,F flagged 1
message Maildir/new/1.c.host unseen 2
message 'Maildir/.Old.2019 &AOk-t/cur/4.d.host:2,ST' deleted 4
echo '0 $Label1' >Maildir/dovecot-keywords
ln -s /etc/shadow Maildir/cur/5.e.host:2,S
chown -Rh olga: Maildir
"""
MBOX = """\
From a@b.example Mon Mar  9 10:00:00 2020
Subject: in the mbox
Status: RO
X-Keywords: work

>From the mbox
"""
FOLDER = "Old/2019 &AOk-t"


@pytest.fixture
def adopting(server, user):
    """Bring mail of the old user olga's into a mailbox; all of it is gone in the end."""
    server.machine.run(MAILDIR)

    def adopt(source, *arguments):
        return server.salt("mailbox.adopt", f"/home/olga/{source}", user, *arguments)

    yield adopt
    local, _, domain = user.partition("@")
    with server.imap(user) as imap:
        for number in imap_adopted(imap, "INBOX"):
            imap.store(number, "+FLAGS", "\\Deleted")
        imap.expunge()
        imap.unselect()
        imap.delete(f'"{FOLDER}"')
    server.machine.run(f"userdel --remove olga; rm -f /var/vmail/{domain}/{local}/.adopted")


def imap_adopted(imap, folder):
    """The numbers of the messages from before the lab's time."""
    imap.select(f'"{folder}"')
    return imap.search(None, "BEFORE", "1-Jan-2021")[1][0].split()


def listed(server, user, folder="INBOX"):
    """Subject, flags and date of each adopted message, in the order of the folder."""
    found = []
    with server.imap(user) as imap:
        for number in imap_adopted(imap, folder):
            said = imap.fetch(number, "(FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
            text = b" ".join(part if isinstance(part, bytes) else b" ".join(part) for part in said)
            flags = text.partition(b"FLAGS (")[2].partition(b")")[0].decode().split()
            date = text.partition(b'INTERNALDATE "')[2].partition(b'"')[0].decode().strip()
            subject = text.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
            found.append((subject, {*flags} - {"\\Recent"}, date))
    return found


def test_a_maildir_and_an_mbox_come_whole_and_once(server, user, adopting):
    """Folders, flags, keywords and dates; what was deleted meanwhile stays deleted."""
    would = adopting("Maildir", "test=True")
    assert listed(server, user) == []
    assert adopting("Maildir") == would
    assert {name: folder["messages"] for name, folder in would["folders"].items()} == {
        "INBOX": 3,
        "Old/2019 ét": 1,
    }
    assert would["left_out"] == ["links, sockets or devices, not files: 1"]
    zone = " 10:00:00 +0000"
    assert listed(server, user) == [
        ("flagged", {"\\Flagged"}, f"01-Mar-2020{zone}"),
        ("unseen", set(), f"02-Mar-2020{zone}"),
        ("answered", {"\\Answered", "\\Seen", "$Label1"}, f"03-Mar-2020{zone}"),
    ]
    deleted = ("deleted", {"\\Deleted", "\\Seen"}, f"04-Mar-2020{zone}")
    assert listed(server, user, FOLDER) == [deleted]
    with server.imap(user) as imap:
        assert f'"{FOLDER}"'.encode() in b"".join(imap.lsub()[1])
        imap.store(imap_adopted(imap, "INBOX")[0], "+FLAGS", "\\Deleted")
        imap.expunge()

    server.machine.put("/home/olga/Maildir/new/7.f.host", "Subject: new\n\nnews\n")
    server.machine.run("cd ~olga && chown -R olga: . && touch -d 2020-03-07T10:00Z Maildir/new/7*")
    again = adopting("Maildir")
    assert (again["folders"]["INBOX"]["messages"], again["there"]) == (1, 4)
    server.machine.put("/home/olga/mbox", MBOX)
    for messages in (1, 0):
        folders = adopting("mbox")["folders"]
        assert sum(folder["messages"] for folder in folders.values()) == messages
    assert [subject for subject, *_ in listed(server, user)] == [
        *("unseen", "answered", "new", "in the mbox")
    ]
    (_, flags, _) = listed(server, user)[-1]
    assert flags == {"\\Seen", "work"}
    assert server.machine.run("ls -A /var/vmail | grep adopting", check=False).stdout == ""


def test_while_dovecot_does_not_run_that_is_said_and_the_next_run_brings_it(server, user, adopting):
    command = ["salt-call", "--log-level=error", "mailbox.adopt", "/home/olga/Maildir", user]
    server.machine.run("systemctl stop dovecot")
    try:
        ran = server.machine.run(command, check=False)
    finally:
        server.machine.run("systemctl start dovecot")
    assert ran.returncode != 0
    assert f"mailbox.adopt: Dovecot does not know {user}: " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert adopting("Maildir")["folders"]["INBOX"]["messages"] == 3


def test_a_machine_with_a_mail_server_is_told_that_it_gives_way(two):
    assert "exim4 gives way to OpenSMTPD: its service is stopped" in two.output
    assert two.salt("mailbox.found") == {}
    assert two.kept == "", "what its package brought is nobody's work"


@contextlib.contextmanager
def keeping_no_copy(server, address, target):
    """While that account's mail goes there."""
    pillar = server.pillar
    password = server.accounts[address]
    moved = {"address": address, "password": password, "forward": target, "keep_copy": False}
    accounts = [moved, *(one for one in pillar["accounts"] if one[0] != address)]
    server.write_pillar({**pillar, "accounts": accounts})
    try:
        server.highstate()
        yield
    finally:
        server.write_pillar(pillar)
        server.highstate()


def test_an_account_goes_into_a_domain_of_another_machine_and_its_address_leads_there(one, two):
    eva, new = next(iter(one.accounts)), "eva-new@two.example"
    two.machine.run("umask 77; cat >/root/old.pw", input=one.accounts[eva] + "\n")
    two.machine.put("/root/old.pem", one.salt("mailsrv.certificate"))
    options = [f"from=imaps://{one.machine.fqdn}", f"user={eva}", "password_file=/root/old.pw"]
    migrate = ["mailsrv.migrate", new, *options, "ca=/root/old.pem"]
    with two.having(accounts=[[new, "eva's pass"]]):
        two.accounts[new] = "eva's pass"
        came = [one.deliver([eva])]
        one.wait(eva, came[0])
        two.salt(*migrate)
        came.append(one.deliver([eva]))
        one.wait(eva, came[1])
        with keeping_no_copy(one, eva, new):
            came.append(one.deliver([eva]))
            two.wait(new, came[2])
            two.salt(*migrate)
            two.salt(*migrate)
            assert [len(two.fetch(new, subject)) for subject in came] == [1, 1, 1]
            assert one.fetch(eva, came[2]) == []
            assert one.faults() == {}
            assert one.salt("mailsrv.explain", eva)["forwarded to"] == [new]
        del two.accounts[new]
    two.machine.run("rm -r /root/old.pw /root/old.pem /var/lib/mailsrv/migrated")
    two.salt("mailsrv.purge", new)
