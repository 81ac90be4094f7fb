"""Aliases, forwards, senders, quotas and filters, on the machines of both releases."""

import imaplib
import smtplib

import pytest
import yaml

from server import arrived, parsed, signed_by
from wire import until

pytestmark = pytest.mark.lab

# What crypt(3) of Debian, and so both daemons, verify: the salt of a hash by the kind's name.
SALTS = {
    "sha512": "$6$rounds=1000$abcdefgh",
    "sha256": "$5$abcdefgh",
    "bcrypt": "$2b$05$abcdefghijklmnopqrstuu",
    "yescrypt": "$y$j9T$abcdefghijklmnop",
}
SIEVE = """require ["fileinto", "mailbox"];
if header :is "List-Id" "<news.elsewhere.example>" { fileinto :create "News"; stop; }
"""


@pytest.fixture(scope="module")
def addressed(server):
    """A server with aliases of every kind, its domain as `server.domain`."""
    server.domain = domain = server.pillar["domains"][0]
    server.users = [address for address in server.accounts if address.endswith(domain)][:2]
    first, second = server.users
    aliases = {
        f"sales@{domain}": first,
        f"team@{domain}": [f"sales@{domain}", first, second, "team@elsewhere.example"],
        f"away@{domain}": "away@elsewhere.example",
        second: [second, "copy@elsewhere.example"],
        f"@{domain}": second,
    }
    small = f"small@{domain}"
    accounts = [
        {"address": small, "password": "small pass", "quota": "100k"},
        {"address": f"boss@{domain}", "password": "boss pass", "send_as": [f"@{domain}"]},
    ]
    for kind, salt in SALTS.items():
        crypt = ["perl", "-e", "print crypt($ARGV[0], $ARGV[1])", f"{kind} pass", salt]
        hash = server.machine.run(crypt).stdout
        accounts.append({"address": f"{kind}@{domain}", "hash": hash})
    settings = {"quota": "1G", "quota_warning": 50, "sieve": SIEVE, "subaddress": "mailbox"}
    with server.having(aliases=aliases, accounts=accounts, **settings):
        server.accounts = {**server.accounts, small: "small pass", f"boss@{domain}": "boss pass"}
        assert server.highstate() == {}
        yield server
    server.accounts = dict(server.pillar["accounts"])


def copies(server, subject, *addresses):
    server.idle()
    return [len(server.fetch(address, subject)) for address in addresses]


def test_an_alias_reaches_each_target_once(addressed, sink):
    first, second = addressed.users
    subject = addressed.deliver([f"team@{addressed.domain}"])
    arrived(sink, subject)
    assert copies(addressed, subject, first, second) == [1, 1]
    outside = [e for e in sink.messages if parsed(e.content)["Subject"] == subject]
    assert sorted(rcpt for e in outside for rcpt in e.rcpt_tos) == [
        "copy@elsewhere.example",
        "team@elsewhere.example",
    ]


def test_who_is_addressed_by_several_names_gets_a_message_once(addressed):
    first, second = addressed.users
    domain = addressed.domain
    names = [f"team@{domain}", first, f"postmaster@{domain}", f"sales@{domain}", second]
    subjects = [addressed.deliver(names) for _ in range(20)]
    subjects.append(addressed.submit(first, names))
    addressed.idle()
    for subject in subjects:
        assert copies(addressed, subject, first, second) == [1, 1]


def test_the_same_message_sent_again_comes_again(addressed):
    """Only deliveries of one message are duplicates, not messages that look alike."""
    first = addressed.users[0]
    subject = addressed.deliver([first])
    head = f"Message-ID: <{subject}@elsewhere.example>\r\nSubject: again {subject}\r\n"
    for _ in range(2):
        with addressed.smtp() as smtp:
            smtp.sendmail("somebody@elsewhere.example", [first], f"{head}\r\nhello\r\n")
    assert copies(addressed, f"again {subject}", first) == [2]


def test_a_catch_all_takes_the_unknown_and_nothing_else(addressed):
    first, second = addressed.users
    domain = addressed.domain
    for known in first, f"sales@{domain}", f"postmaster@{domain}":
        assert copies(addressed, addressed.deliver([known]), first, second) == [1, 0]
    local = first.partition("@")[0]
    addressed.wait(first, addressed.deliver([f"{local}+tag@{domain}"]), "tag")
    subject = addressed.deliver([f"whoever@{domain}"])
    assert copies(addressed, subject, first, second) == [0, 1]


def test_every_domain_has_its_roles(server):
    first = next(iter(server.accounts))
    for role in "postmaster", "abuse":
        server.wait(first, server.deliver([f"{role}@{first.partition('@')[2]}"]))


def test_a_forward_leaves_with_a_sender_of_ours_and_its_bounce_comes_back(addressed, sink, lab):
    sender = "somebody@elsewhere.example"
    subject = addressed.deliver([f"away@{addressed.domain}"], sender=sender)
    (envelope,) = arrived(sink, subject)
    assert envelope.rcpt_tos == ["away@elsewhere.example"]
    assert envelope.mail_from.startswith("SRS0=")
    assert envelope.mail_from.endswith(f"@{addressed.domain}")
    assert parsed(envelope.content)["From"] == sender
    with addressed.smtp() as smtp:
        smtp.sendmail("", [envelope.mail_from], f"Subject: bounce of {subject}\r\n\r\nno\r\n")
    (bounce,) = arrived(sink, f"bounce of {subject}")
    assert bounce.rcpt_tos == [sender]


def test_a_forged_bounce_is_not_forwarded(addressed, sink):
    """It is mail to an unknown address, which here the catch-all takes."""
    forged = f"SRS0=AAAA=BB=elsewhere.example=other@{addressed.domain}"
    subject = addressed.deliver([forged], sender="")
    addressed.wait(addressed.users[1], subject)
    addressed.idle()
    rcpts = [e.rcpt_tos for e in sink.messages if parsed(e.content)["Subject"] == subject]
    assert rcpts == [["copy@elsewhere.example"]]


def test_mail_of_our_users_keeps_its_sender(addressed, sink):
    first = addressed.users[0]
    (envelope,) = arrived(sink, addressed.submit(first, ["somebody@elsewhere.example"]))
    assert envelope.mail_from == first


def test_who_may_send_as_whom(addressed):
    first, second = addressed.users
    domain = addressed.domain
    local = first.partition("@")[0]
    allowed = {
        first: [first, f"{local}+tag@{domain}", f"sales@{domain}", f"postmaster@{domain}"],
        second: [second, f"team@{domain}"],
        f"boss@{domain}": [f"boss@{domain}", f"anything@{domain}", first],
    }
    refused = {
        first: [second, f"anything@{domain}", "somebody@elsewhere.example", "root@localhost"],
        second: [first, f"sales@{domain}", f"whoever@{domain}"],
        f"boss@{domain}": ["somebody@elsewhere.example"],
    }
    for expected, senders in ((250, allowed), (530, refused)):
        for user, addresses in senders.items():
            with addressed.submission() as smtp:
                smtp.login(user, addressed.accounts[user])
                for address in addresses:
                    assert (address, smtp.mail(address)[0]) == (address, expected)
                    smtp.rset()


@pytest.mark.parametrize("port", [587, 465])
def test_a_forged_from_becomes_the_sender(lab, addressed, sink, port):
    first, second = addressed.users
    headers = {"From": f"The Boss <{second}>"}
    subject = addressed.submit(first, ["somebody@elsewhere.example"], port=port, **headers)
    (envelope,) = arrived(sink, subject)
    assert parsed(envelope.content)["From"].addresses[0].addr_spec == first
    assert signed_by(lab, envelope.content) == {addressed.domain}


def test_mail_to_a_full_mailbox_is_returned_and_comes_when_there_is_room(addressed, sink):
    small = f"small@{addressed.domain}"
    with addressed.imap(small) as imap:
        assert b"STORAGE 0 100" in imap.getquotaroot("INBOX")[1][1][0]
    shown = addressed.machine.run(["doveadm", "quota", "get", "-u", small]).stdout
    assert " 100 " in shown
    large = ("x" * 70 + "\r\n") * 1000
    addressed.wait(small, addressed.deliver([small], text=large))
    warning = parsed(addressed.wait(small, "Your mailbox is 50% full"))
    assert warning["From"] == f"postmaster@{addressed.domain}"
    late = addressed.deliver([small], text=large)

    def returned():
        return [e for e in sink.messages if late.encode() in e.content]

    (bounce,) = until(returned, 30, "the sender is not told")
    assert b"552 5.2.2" in bounce.content
    assert b"The mailbox is full" in bounce.content
    addressed.machine.run(["doveadm", "expunge", "-u", small, "mailbox", "INBOX", "all"])
    addressed.wait(small, addressed.deliver([small], text=large))
    addressed.machine.run(["doveadm", "expunge", "-u", small, "mailbox", "INBOX", "all"])


@pytest.mark.parametrize("kind", SALTS)
def test_a_hash_of_the_pillar_is_verified_by_both_daemons(addressed, kind):
    address = f"{kind}@{addressed.domain}"
    addressed.imap(address, f"{kind} pass").logout()
    with addressed.submission() as smtp:
        smtp.login(address, f"{kind} pass")
    with pytest.raises(imaplib.IMAP4.error):
        addressed.imap(address, "another pass")
    with addressed.submission() as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(address, "another pass")


def test_the_script_of_the_pillar_runs_for_everybody(addressed):
    for user in addressed.users:
        news = addressed.deliver([user], List_Id="<news.elsewhere.example>")
        addressed.wait(user, news, "News")


def test_a_script_that_sieve_refuses_leaves_the_old_one(addressed):
    path = "/etc/dovecot/sieve/global.sieve"
    before = addressed.machine.get(path)
    pillar = yaml.safe_load(addressed.machine.get(addressed.pillar_file))
    pillar["mailsrv"]["sieve"] = 'fileinto "News";\n'
    addressed.write_pillar(pillar)
    run = addressed.machine.run(["salt-call", "state.highstate"], check=False)
    pillar["mailsrv"]["sieve"] = SIEVE
    addressed.write_pillar(pillar)
    assert run.returncode
    assert "fileinto" in run.stdout
    assert addressed.machine.get(path) == before
    assert addressed.highstate() == {}


def test_explain_tells_what_happens(addressed):
    first, second = addressed.users
    domain = addressed.domain
    told = addressed.salt("mailsrv.explain", f"team@{domain}")
    virtuals = addressed.machine.get("/etc/mail/virtuals").splitlines()
    assert told["table line"].removeprefix("virtuals: ") in virtuals
    assert told["rule"] in addressed.machine.get("/etc/smtpd.conf").splitlines()
    assert told["delivered to"] == [first, second]
    assert set(told["forwarded to"]) == {"team@elsewhere.example", "copy@elsewhere.example"}
    assert told["quota"] == {first: "1G", second: "1G"}
    assert set(told["senders"]) == {first, second, f"boss@{domain}"}


def test_what_is_removed_stops_working(server):
    domain = server.pillar["domains"][0]
    gone = f"gone@{domain}"
    with server.having(
        accounts=[{"address": gone, "password": "gone pass"}], aliases={f"alias@{domain}": gone}
    ):
        server.accounts[gone] = "gone pass"
        server.wait(gone, server.deliver([f"alias@{domain}"]))
        session = server.imap(gone)
    del server.accounts[gone]
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        session.noop()
    with pytest.raises(Exception, match="AUTHENTICATIONFAILED"):
        server.imap(gone, "gone pass")
    with server.smtp() as smtp:
        smtp.ehlo("client.example")
        smtp.mail("somebody@elsewhere.example")
        for address in gone, f"alias@{domain}":
            assert smtp.rcpt(address)[0] == 550
    left = server.salt("mailsrv.leftovers")
    assert left[gone]["bytes"] > 0
    assert server.salt("mailsrv.purge", gone, "test=True") == {gone: left[gone]}
    assert server.salt("mailsrv.leftovers") == left
    assert server.salt("mailsrv.purge", gone) == {gone: left.pop(gone)}
    assert server.salt("mailsrv.leftovers") == left
    assert server.machine.run(["ls", f"/var/vmail/{domain}/gone"], check=False).returncode


def test_a_bounce_to_a_sender_of_the_key_before_still_comes_back(server, sink):
    domain = server.pillar["domains"][0]
    aliases = {f"away@{domain}": "away@elsewhere.example"}
    with server.having(aliases=aliases):
        (envelope,) = arrived(sink, server.deliver([f"away@{domain}"]))
        with server.having(aliases=aliases, srs={"key": "second"}) as changed:
            assert "mailsrv-genkeys-srs-key" in changed
            subject = f"bounce of {envelope.mail_from}"[:60]
            with server.smtp() as smtp:
                smtp.sendmail("", [envelope.mail_from], f"Subject: {subject}\r\n\r\nno\r\n")
            (bounce,) = arrived(sink, subject)
            assert bounce.rcpt_tos == ["somebody@elsewhere.example"]


def test_spam_goes_to_junk_and_a_users_own_filters_work(server, user):
    spam = server.deliver([user], X_Spam="yes")
    server.wait(user, spam, "Junk")
    with server.managesieve(user) as sieve:
        script = 'require "fileinto"; if header :contains "Subject" "-" { fileinto "Archive"; }'
        sieve.put("test", script)
        server.wait(user, server.deliver([user]), "Archive")
        sieve.put("test", "keep;")
    server.wait(user, server.deliver([user]))
