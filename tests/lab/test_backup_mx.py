"""
A backup MX on Debian 13 for a mail machine on Debian 12: what it takes, what it keeps, and what
comes of it.
"""

import collections
import concurrent.futures
import json
import smtplib
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from server import parsed
from wire import until

pytestmark = pytest.mark.lab

STRANGER = "somebody@elsewhere.example"
SILENT = "mx.silent.example"  # a primary that has published nothing yet
KNOWN = "/etc/mail/backup/known"
MESSAGES = 200
CLIENTS = 8
AT_ONCE = "/usr/local/sbin/sendmail -q"  # a way that failed is tried again, too
# Pass on what waits, and end with -9 soon after the first of it is gone; how many are left then.
KILL = f"""
left() {{ find /var/spool/smtpd/queue -type f ! -name message | wc -l; }}
for i in $(seq 600); do
    [ $((i % 40)) = 1 ] && {AT_ONCE}
    [ "$(left)" -lt {MESSAGES - 20} ] && break
    sleep 0.05
done
pkill -9 smtpd
left
"""


def told(primary, backup):
    """What the next run of the backup finds is what the primary has published, as by the mine."""
    published = primary.salt("backup_mx.recipients")
    backup.machine.put(KNOWN, json.dumps({primary.machine.fqdn: published}))


@pytest.fixture(scope="module")
def pair(lab, one, two):
    """`primary` and `backup`; the primary has an alias, one by a pattern and a catch-all."""
    primary, backup = one, two
    owned = primary.pillar["domains"]
    user = next(iter(primary.accounts))
    domain, wide = owned
    aliases = {
        f"sales@{domain}": user,
        f"list-*@{domain}": user,
        f"@{wide}": user,
        f"away@{domain}": STRANGER,
    }
    there = {backup.machine.fqdn: backup.machine.address}
    account = {"address": f"full@{domain}", "password": "full of mail #1", "quota": "1k"}
    settings = {"backup": there, "aliases": aliases, "accounts": [account]}
    with primary.having(**settings):
        primary.publish()
        backup.machine.run("mkdir -p /etc/mail/backup")
        told(primary, backup)
        both = {primary.machine.fqdn: owned, SILENT: ["silent.example"]}
        with backup.having(backup_for=both):
            yield SimpleNamespace(
                primary=primary,
                backup=backup,
                user=user,
                domain=domain,
                wide=wide,
                settings=settings,
            )
    primary.publish()


@contextmanager
def away(primary):
    """While smtpd(8) of the primary is stopped."""
    primary.machine.run("systemctl stop opensmtpd")
    try:
        yield
    finally:
        primary.machine.run("systemctl start opensmtpd")
        until(primary.takes_mail, 30, "the primary does not come back")


def rcpt(server, recipient, sender=STRANGER):
    """The reply to that recipient, or to its sender where that is refused."""
    with server.smtp() as smtp:
        smtp.ehlo()
        code, said = smtp.mail(sender)
        if code == 250:
            code, said = smtp.rcpt(recipient)
        return code, said.decode()


def passed_on(pair):
    """Wait until the backup has nothing left; it tries again at once."""

    def empty():
        pair.backup.machine.run(AT_ONCE)
        return not pair.backup.machine.run("smtpctl show queue").stdout

    until(empty, 60, "the queue of the backup stays full")


def queued(pair):
    return len(pair.backup.machine.run("smtpctl show queue").stdout.splitlines())


def test_nothing_is_left_to_do_and_what_stands_stays_without_a_mine(pair):
    machine = pair.backup.machine
    files = "/etc/mail/backup/recipients /etc/mail/backup/known /etc/smtpd.conf"
    before = machine.run(f"sha256sum {files}").stdout
    assert pair.backup.highstate() == {}
    assert machine.run(f"sha256sum {files}").stdout == before
    assert machine.run("stat -c %a /etc/mail/backup/known").stdout.strip() == "600"


def test_whom_it_knows(pair):
    domain, wide = pair.domain, pair.wide
    for local in ("sales", "SALES", "sales+tag", "list-7", "list-7+tag", "postmaster"):
        assert rcpt(pair.backup, f"{local}@{domain}")[0] == 250, local
    assert rcpt(pair.backup, pair.user)[0] == 250
    assert rcpt(pair.backup, f"anybody@{wide}")[0] == 250
    for unknown in ("nobody", "list-", "list", "sales-", "sales%gmail.com"):
        assert rcpt(pair.backup, f"{unknown}@{domain}")[0] == 550, unknown
        assert rcpt(pair.primary, f"{unknown}@{domain}")[0] == 550, unknown
    # An answer to what an alias of the primary's has sent on; and nobody who only looks like it.
    srs = f"SRS0=x1y2=AB=elsewhere.example=somebody@{domain}"
    assert rcpt(pair.backup, srs, "")[0] == 250
    assert rcpt(pair.backup, srs)[0] == 550
    # Nobody is refused of whom nothing is known.
    assert rcpt(pair.backup, "anybody@silent.example")[0] == 451
    # It sends on for nobody.
    assert rcpt(pair.backup, "somebody@gmail.com")[0] == 550


def test_senders_of_the_primary_are_nobody_elses_there_either(pair):
    code, said = rcpt(pair.backup, pair.user, f"ceo@{pair.domain}")
    assert (code, "is sent by other hosts than yours" in said) == (550, True)
    with pair.primary.submission() as smtp:
        smtp.login(pair.user, pair.primary.accounts[pair.user])
        user = next(iter(pair.backup.accounts))
        subject = pair.primary.submit(pair.user, [user])
        pair.backup.wait(user, subject)


def test_mailcheck_is_content_on_both_sides(pair):
    said = pair.primary.salt("mailcheck.run", "free=1", check=False)
    assert said[f"backup MX {pair.backup.machine.fqdn}"] == "ok"
    said = pair.backup.salt("mailcheck.run", "free=1", check=False)
    assert said[f"backup for {pair.primary.machine.fqdn}"].startswith("ok: ")
    assert said[f"backup for {SILENT}"].startswith("FAULT: nothing is known of silent.example")


def test_mail_comes_by_verified_tls_and_nothing_is_changed_in_it(pair):
    subject = pair.backup.deliver([f"sales+Tag@{pair.domain}"])
    message = parsed(pair.primary.wait(pair.user, subject))
    by = [line for line in message.get_all("Received") if pair.backup.machine.fqdn in line]
    assert f"from {pair.backup.machine.fqdn}" in by[0]
    assert "TLSv1.3" in by[0]
    assert "DKIM-Signature" not in message
    user = next(iter(pair.backup.accounts))
    subject = pair.backup.submit(user, [f"sales@{pair.domain}"])
    assert "DKIM-Signature" in parsed(pair.primary.wait(pair.user, subject))


class Load:
    """Messages as other servers bring them: to the first MX, else to the second."""

    def __init__(self, pair, name):
        self._pair, self._name = pair, name
        self.taken = {}  # by subject, by whom
        self.doubtful = set()  # to whom nobody has answered: they may come twice (RFC 1047)

    def send(self, numbers, events=None):
        """Send them; `events` has by a number of messages what happens after these."""
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            for done, _ in enumerate(pool.map(self._one, numbers), 1):
                if events and done in events:
                    events[done]()

    def _one(self, number):
        subject = f"{self._name}-{number}"
        text = f"From: {STRANGER}\r\nTo: x\r\nSubject: {subject}\r\n\r\nhello\r\n"
        for server in (self._pair.primary, self._pair.backup):
            try:
                with server.smtp() as smtp:
                    smtp.sendmail(STRANGER, [f"list-{number}@{self._pair.domain}"], text)
                self.taken[subject] = server
                return
            except smtplib.SMTPServerDisconnected:
                self.doubtful.add(subject)
            except OSError:
                continue
        raise AssertionError(f"{subject} was taken by nobody")

    def came(self):
        """How often each message has come."""
        with self._pair.primary.imap(self._pair.user) as imap:
            imap.select("INBOX", readonly=True)
            found = imap.search(None, "SUBJECT", f'"{self._name}-"')[1][0].replace(b" ", b",")
            if not found:
                return collections.Counter()
            parts = imap.fetch(found.decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        heads = [part[1].decode().split() for part in parts if isinstance(part, tuple)]
        return collections.Counter(head[1] for head in heads)


def test_a_primary_that_goes_and_comes_back_under_load_loses_and_doubles_nothing(pair):
    load, machine = Load(pair, f"load{time.time():.0f}"), pair.primary.machine
    third = MESSAGES // 3
    load.send(range(third), {third // 2: lambda: machine.run("systemctl stop opensmtpd")})
    load.send(range(third, 2 * third))
    load.send(range(2 * third, MESSAGES), {1: lambda: machine.run("systemctl start opensmtpd")})
    by = collections.Counter(server.machine.fqdn for server in load.taken.values())
    assert by.total() == MESSAGES
    assert by[machine.fqdn] >= third // 2
    assert by[pair.backup.machine.fqdn] >= third
    passed_on(pair)
    pair.primary.idle()
    came = load.came()
    assert {*came} == {*load.taken}
    assert {subject for subject, times in came.items() if times > 1} <= load.doubtful


def test_a_backup_that_is_killed_while_it_passes_on_loses_nothing(pair):
    load, machine = Load(pair, f"kill{time.time():.0f}"), pair.backup.machine
    with away(pair.primary):
        load.send(range(MESSAGES))
        assert {server.machine.fqdn for server in load.taken.values()} == {machine.fqdn}
        assert queued(pair) == MESSAGES
    left = int(machine.run(KILL).stdout.splitlines()[-1])
    until(pair.backup.takes_mail, 60, "the backup does not come back")
    passed_on(pair)
    pair.primary.idle()
    came = load.came()
    twice = came.total() - len(came)
    print(f"killed with {left} of {MESSAGES} left: {twice} came twice")
    assert 0 < left < MESSAGES
    assert {*came} == {*load.taken}
    # Those that were being handed over, by all connections to one host together.
    assert twice <= 20


def test_a_wrong_certificate_keeps_mail_where_it_is_and_mailcheck_says_so(pair):
    machine, name = pair.backup.machine, pair.primary.machine.fqdn
    file, restart = f"/etc/mail/backup/{name}.pem", "systemctl restart opensmtpd"
    kept = machine.get(file)
    machine.run(f"cp /etc/mail/tls/{machine.fqdn}.crt {file} || cp /etc/mail/tls/*.pem {file}")
    machine.run(restart)
    until(pair.backup.takes_mail, 30, "smtpd does not come back")
    try:
        subject = pair.backup.deliver([f"sales@{pair.domain}"])
        why = "Network error on destination MXs"
        until(lambda: why in machine.run("smtpctl show queue").stdout, 30, "it is handed over")
        said = pair.backup.salt("mailcheck.run", "free=1", check=False)[f"backup for {name}"]
        assert said.startswith(f"FAULT: {name} has a certificate that is not trusted: ")
        assert pair.primary.fetch(pair.user, subject) == []
    finally:
        machine.put(file, kept)
        machine.run(restart)
        until(pair.backup.takes_mail, 30, "smtpd does not come back")
    passed_on(pair)
    pair.primary.wait(pair.user, subject)


def bounces(sink, server, victim):
    """What that server has sent back to somebody."""
    found = [e for e in sink.messages if victim in e.rcpt_tos and e.mail_from in ("", "<>")]
    by = f"MAILER-DAEMON@{server.machine.fqdn}"
    return [e for e in found if by in parsed(e.content)["From"]]


def test_a_full_mailbox_makes_the_backup_send_nothing_to_a_stranger(pair, sink):
    victim = f"victim{time.time():.0f}@elsewhere.example"
    full = f"full@{pair.domain}"
    pair.backup.deliver([full], victim, "x" * 70 + "\n" + "hello\n" * 400)
    passed_on(pair)
    # As with any mail for a full mailbox, the primary has taken it and returns it.
    until(lambda: bounces(sink, pair.primary, victim), 60, "the primary says nothing")
    assert bounces(sink, pair.backup, victim) == []


def test_who_is_gone_since_the_last_run_is_told_once_and_an_error_is_never_answered(pair, sink):
    """Until the backup hears of it: what is left of backscatter, and what never is."""
    machine, victim = pair.backup.machine, f"gone{time.time():.0f}@elsewhere.example"
    table, update = "/etc/mail/backup/recipients", "smtpctl update table backups"
    kept = machine.get(table)
    machine.put(table, f"{kept}gone@{pair.domain}\n")
    machine.run(update)
    try:
        pair.backup.deliver([f"gone@{pair.domain}"], "")
        pair.backup.deliver([f"gone@{pair.domain}"], victim)
        passed_on(pair)
        until(lambda: bounces(sink, pair.backup, victim), 30, "the sender is not told")
        passed_on(pair)
        assert len(bounces(sink, pair.backup, victim)) == 1
    finally:
        machine.put(table, kept)
        machine.run(update)


@pytest.fixture
def filtered(pair):
    """The same, where the primary has a spam filter. It is the last test's: then all is gone."""
    with pair.primary.having(**pair.settings, spam_filter=True):
        yield pair


def test_spam_that_a_primary_would_refuse_goes_to_junk_and_is_not_returned(filtered, sink):
    pair = filtered
    machine, sender = pair.primary.machine, f"x{time.time():.0f}@elsewhere.example"
    limits, restart = "/etc/rspamd/local.d/actions.conf", "systemctl restart rspamd"
    machine.put(limits, "greylist = null;\nadd_header = 0.1;\nreject = 0.2;\n")
    machine.run(restart)
    try:

        def refused():
            try:
                pair.primary.deliver([f"sales@{pair.domain}"], sender)
            except smtplib.SMTPResponseException as exc:
                return exc.smtp_code == 550

        until(refused, 60, "rspamd refuses nothing")
        subject = pair.backup.deliver([f"sales@{pair.domain}"], sender)
        passed_on(pair)
        assert b"X-Spam: yes" in pair.primary.wait(pair.user, subject, "Junk")
        assert bounces(sink, pair.backup, sender) == []
    finally:
        machine.run(f"rm {limits}; {restart}")
