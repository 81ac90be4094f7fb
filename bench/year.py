"""A mail server that lives for a year, by its clock, and nobody looks after it.

    sudo bench/run --year --suite bookworm --step 1

See clock.py for its clock. Each step it is set forward; its timers do
what they do, mail comes and goes, and what has been promised is looked at. In the year the CA is
away for a month, the disk is full, somebody guesses passwords, an account that was stolen sends,
the machine is rebooted. What happened stands in the table that it prints, and what was not as it
should be below it. Somebody who is no administrator publishes DNS a step later (as a name server
does that asks the machine), and cron applies the highstate once a week.
"""

import argparse
import collections
import imaplib
import re
import smtplib
import ssl
import sys
import time
from contextlib import suppress
from unittest import mock

from cryptography import x509

import clock
import image
from authority import Authority, cert_pem, key_pem
from ca import DIRECTORY, NAME
from compare import say
from lab import HEAD, NS, Lab
from server import PILLAR, Server, parsed, signatures
from wire import GATEWAY, until

DAY = 86400
ADMIN = "admin@elsewhere.example"
FRIEND = "friend@elsewhere.example"
HOST = "mail.one.example"
CA, PEBBLE = "/etc/ssl/lab-ca.pem", "/etc/lab-pebble"
EXPIRE = {"Trash": 30, "Junk": 14}
LOGS = 30
LIFE = 90  # days, of a certificate
SETTINGS = {
    "tls": {"acme": {"email": ADMIN, "server": DIRECTORY, "ca": CA}},
    "dkim": {"rotate": "quarterly"},
    "dns": {"nameservers": [f"{name}.provider.example" for name in NS]},
    "expire": {folder: f"{days}d" for folder, days in EXPIRE.items()},
    "logs": {"keep": f"{LOGS}d"},
    "notify": ADMIN,
    "metrics": True,
    "bans": True,
    "limits": {"recipients_per_hour": 20, "recipients_per_day": 40},
}
ACCOUNTS = dict(PILLAR["accounts"])
ANN, BOB, EVA = ACCOUNTS
PEBBLE_UNIT = f"""[Service]
Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=5
ExecStart=/usr/bin/pebble -config {PEBBLE}/config.json -dnsserver {GATEWAY}:53
StandardOutput=null
StandardError=null
"""
PEBBLE_CONFIG = f"""{{"pebble": {{
 "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
 "certificate": "{PEBBLE}/cert.pem", "privateKey": "{PEBBLE}/key.pem",
 "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
 "externalAccountBindingRequired": false, "certificateValidityPeriod": {LIFE * DAY}}}}}
"""
NOBODY = ssl._create_unverified_context()
OURS = "mailsrv-watch", "mailsrv-purge", "mailsrv-acme", "mailsrv-metrics"
# After the clock has moved, all that is due is over.
SETTLED = f"""
for unit in {" ".join(OURS)}; do
    case $(systemctl show -P ActiveState $unit.service) in activating) exit 1;; esac
    next=$(systemctl show -P NextElapseUSecRealtime $unit.timer)
    [ -z "$next" ] || [ $(date -d "$next" +%s) -gt $(date +%s) ] || exit 1
done
"""
BAD = re.compile(r"Traceback|panic|segfault|core dump|assert|Failed with result|\bfatal\b", re.I)


class Year(Server):
    """The server, the world around it, and what was seen."""

    def __init__(self, lab, machine, name_servers, sink):
        super().__init__(lab, machine)
        self.name_servers, self.sink = [lab.dns, *name_servers], sink
        self.now = 0
        self.happened = []
        self.faulty = []
        self.inbox = {}  # subject: who has it
        self.thrown = {}  # (folder, subject): when
        self.sent = {}  # subject: domain
        self.zones = {}
        self.bad = collections.Counter()
        self.certificate_now, self.signers = None, None
        self.told = 0
        self.full = self.away = self.ca_away = False

    # What somebody has promised

    def note(self, text):
        date = self.date
        say(f"{date}: {text}")
        self.happened.append((date, text))

    def hold(self, holds, text):
        if not holds:
            say(f"{self.date}: NOT AS IT SHOULD BE: {text}")
            self.faulty.append((self.date, text))

    @property
    def date(self):
        return time.strftime("%Y-%m-%d", time.gmtime(self.now))

    # The world

    def _connect(self, *arguments, **options):
        """smtpd(8) reads a new certificate when it starts: for a moment nobody listens."""

        def connected():
            with suppress(ConnectionRefusedError):
                return super(Year, self)._connect(*arguments, **options)

        return until(connected, 20, f"port {arguments[1]} is closed")

    def publish(self):
        for domain in self.salt("mailsrv.dns"):
            zone = self.salt("mailsrv.zone", domain)
            if self.zones.get(domain) != zone:
                self.zones[domain] = zone
                for name_server in self.name_servers:
                    name_server.serve(domain, zone)

    def go_to(self, seconds):
        """The clock is there; what was due is done. The acme timer counts by another clock."""
        self.machine.set_clock(seconds)
        self.machine.run("systemctl daemon-reload")
        self.settle()
        self.machine.run("systemctl start mailsrv-acme.service", check=False)
        self.now = self.machine.now()

    def settle(self):
        def settled():
            return not self.machine.run(SETTLED, check=False).returncode

        until(settled, 120, "its timers have not done what is due")

    def mail(self):
        """In, out, and away. Who is refused for now comes again, as mail servers do."""
        if self.full:
            self.refused_for_now()
            return
        for user in (ANN, EVA):
            domain = user.partition("@")[2]
            self.inbox[self.deliver([user])] = user
            self.sent[self.submit(user, [FRIEND], port=465)] = domain
        with self.imap(BOB) as imap:
            for folder in EXPIRE:
                subject = f"{folder} of {self.date}"
                text = f"From: {FRIEND}\r\nSubject: {subject}\r\n\r\nhello\r\n".encode()
                if imap.append(folder, None, None, text)[0] == "NO":
                    imap.create(folder)
                    imap.append(folder, None, None, text)
                self.thrown[folder, subject] = self.machine.now()

    def refused_for_now(self):
        """The disk is full: what is taken nevertheless has to arrive."""
        for user in (ANN, EVA):
            with suppress(smtplib.SMTPException):
                self.inbox[self.deliver([user])] = user
                self.note("mail is taken although the disk is full")

    # What is looked at

    def look(self):
        self.look_at_mail()
        self.look_at_certificate()
        self.look_at_journal()
        self.look_at_folders()

    def look_at_mail(self):
        if self.away:
            return
        with suppress(TimeoutError):
            self.idle()
        queue = self.machine.run("smtpctl show queue").stdout
        self.hold(not queue, f"the queue is not empty: {queue[:200]}")
        mails = [m for m in self.sink.messages if m.rcpt_tos == [FRIEND]]
        new, self.sink.messages[:] = mails, [m for m in self.sink.messages if m not in mails]
        for envelope in new:
            subject = parsed(envelope.content)["Subject"]
            domain = self.sent.pop(subject, None)
            self.hold(domain, f"{subject} came a second time, or nobody sent it")
            with mock.patch("dkim.time.time", return_value=self.now + 60):
                found = signatures(self.lab, envelope.content)
            self.hold(found and {d for d, _ in found} == {domain}, f"{subject}: signed by {found}")
            selector = re.search(rb"\bs=([^;\s]+)", envelope.content)[1].decode()
            if selector != self.signers:
                self.note(f"mail is signed with the key of the selector {selector}")
                self.signers = selector
        self.hold(not self.sent, f"{len(self.sent)} mails have not come to elsewhere")
        self.sent.clear()
        told = [m for m in self.sink.messages if m.rcpt_tos == [ADMIN]]
        for envelope in told[self.told :]:
            mail = parsed(envelope.content)
            self.note(f"mail to the administrator: {mail['Subject']}")
            say(mail.get_content())
        self.told = len(told)

    def look_at_certificate(self):
        pem = self.served_now()
        served = x509.load_pem_x509_certificate(pem.encode())
        begins, ends = served.not_valid_before_utc, served.not_valid_after_utc
        begins, ends = begins.timestamp(), ends.timestamp()
        self.hold(begins <= self.now < ends, f"the certificate served is not valid: until {ends}")
        if served.serial_number != self.certificate_now:
            self.certificate_now = served.serial_number
            issuer = served.issuer.rfc4514_string()
            until_ = time.strftime("%Y-%m-%d", time.gmtime(ends))
            self.note(f"another certificate is served, of {issuer}, until {until_}")

    def served_now(self):
        def pems():
            with suppress(OSError):
                context = ssl._create_unverified_context()
                with self.lab.outside.call(
                    imaplib.IMAP4_SSL, HOST, 993, timeout=30, ssl_context=context
                ) as imap:
                    imaps = imap.sock.getpeercert(binary_form=True)
                with self.lab.outside.call(
                    smtplib.SMTP_SSL, HOST, 465, timeout=30, context=context
                ) as smtp:
                    smtps = smtp.sock.getpeercert(binary_form=True)
                return imaps == smtps and ssl.DER_cert_to_PEM_cert(imaps)

        return until(pems, 30, "IMAP and SMTP serve different certificates")

    def look_at_journal(self):
        command = "journalctl -q --no-pager --cursor-file=/root/cursor -o short-iso"
        for line in self.machine.run(command).stdout.splitlines():
            if BAD.search(line):
                kind = re.sub(r"\d+|<[^>]*>|\b[0-9a-f]{8,}\b", "N", line.split(" ", 2)[-1])[:160]
                self.bad[kind] += 1
                if self.bad[kind] == 1:
                    say(f"{self.date}: {line[:300]}")
                if unit := re.search(r"(mailsrv-\w+\.service): Failed with", line):
                    why = f"journalctl -q --no-pager -o cat -n 20 -u {unit[1]}"
                    say(self.machine.run(why).stdout)

    def look_at_folders(self):
        with self.imap(BOB) as imap:
            for folder, days in EXPIRE.items():
                imap.select(folder, readonly=True)
                found = collections.Counter(self.subjects(imap))
                for (name, subject), when in [*self.thrown.items()]:
                    if name != folder:
                        continue
                    age = (self.now - when) / DAY
                    # A night and what it takes until the night.
                    if not found[subject]:
                        self.hold(age >= days, f"{subject} went from {name} after {age:.1f} days")
                        del self.thrown[name, subject]
                    else:
                        self.hold(
                            age <= days + self.slack, f"{subject} is {age:.1f} days old in {name}"
                        )
                        self.hold(found[subject] == 1, f"{subject} is doubled")

    @staticmethod
    def subjects(imap):
        numbers = imap.search(None, "ALL")[1][0].split()
        if not numbers:
            return []
        parts = imap.fetch(b",".join(numbers), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        return [parsed(part[1])["Subject"] for part in parts if isinstance(part, tuple)]

    def look_at_inboxes(self):
        """No mail lost, none doubled, in all the time."""
        for user in (ANN, EVA):
            with self.imap(user) as imap:
                imap.select("INBOX", readonly=True)
                found = collections.Counter(self.subjects(imap))
            expected = {subject for subject, owner in self.inbox.items() if owner == user}
            lost = expected - found.keys()
            doubled = [subject for subject in expected if found[subject] > 1]
            self.hold(not lost, f"{len(lost)} of {len(expected)} mails to {user} are lost")
            self.hold(not doubled, f"{len(doubled)} mails to {user} came twice")
        return len(self.inbox)

    def look_at_logs(self):
        first = self.machine.run("journalctl -q --no-pager -o short-unix | head -1").stdout
        age = (self.now - float(first.split()[0])) / DAY
        self.hold(age <= LOGS + self.slack, f"the log is {age:.1f} days old")
        return age

    def highstate_of_the_week(self):
        changed = self.highstate()
        if changed:
            self.note(f"the highstate changed {', '.join(changed)}")
            again = self.highstate()
            self.hold(not again, f"a second run changed {', '.join(again)}")
        return bool(changed)

    def check(self):
        said = self.salt("mailcheck.run", check=False)
        faults = {
            name: text for name, text in said.items() if not re.match("(ok|skipped)(:|$)", text)
        }
        if self.ca_away and faults.get("certificate", "").startswith("WARNING: until "):
            del faults["certificate"]
        self.hold(not faults, f"mailcheck.run: {faults}")
        failed = self.machine.run("systemctl --failed --plain --no-legend").stdout
        self.hold(not failed, f"failed units: {failed}")
        report = self.salt("mailsrv.report")
        self.hold("report" in str(report), f"mailsrv.report: {report}")


def authority(lab, machine):
    """A CA on the machine, under another name, since it needs the machine's clock."""
    one = Authority(ends=1000)
    leaf, key = one.issue(NAME, ends=1000)
    machine.run("apt-get update && apt-get install -y --no-install-recommends pebble")
    # The mirror does not get older with the machine, and what is out of date is refused.
    machine.run("systemctl mask apt-daily.timer apt-daily-upgrade.timer")
    machine.put(f"{PEBBLE}/cert.pem", cert_pem(leaf, one.intermediate))
    machine.put(f"{PEBBLE}/key.pem", key_pem(key))
    machine.put(f"{PEBBLE}/config.json", PEBBLE_CONFIG)
    machine.put("/etc/systemd/system/lab-pebble.service", PEBBLE_UNIT)
    machine.put(CA, cert_pem(one.root))


class Events:
    """What befalls the server, by the day."""

    def __init__(self, server, lab):
        self.server, self.machine, self.lab = server, server.machine, lab
        self.days = {
            20: self.somebody_guesses,
            55: self.the_ca_goes_away,
            86: self.the_ca_is_back,
            120: self.an_account_is_stolen,
            150: self.the_ca_forgets_all_accounts,
            182: self.the_disk_is_full,
            184: self.the_disk_has_room,
            240: self.it_is_rebooted,
            300: self.elsewhere_is_away,
            301: self.elsewhere_is_back,
        }

    def until(self, day):
        """What is due by that day."""
        for due in sorted(self.days):
            if due <= day:
                event = self.days.pop(due)
                self.server.note(event.__name__.replace("_", " ").replace(" ca ", " CA "))
                event()

    def somebody_guesses(self):
        host = self.lab.host("guesser.elsewhere.example")
        for number in range(12):
            with suppress(OSError, smtplib.SMTPException):
                smtp = host.call(smtplib.SMTP_SSL, HOST, 465, timeout=5, context=NOBODY)
                smtp.login(f"n{number}@one.example", "wrong")
        with suppress(TimeoutError):
            until(lambda: host.address in str(self.server.salt("mailsrv.bans")), 20, "not banned")
        found = self.server.salt("mailsrv.bans")
        self.server.hold(host.address in str(found), f"who guesses is not refused: {found}")

    def the_ca_goes_away(self):
        self.machine.run("systemctl stop lab-pebble")
        self.server.ca_away = True

    def the_ca_is_back(self):
        """It has forgotten all accounts; its new root is known from now on."""
        self.machine.run("systemctl daemon-reload; systemctl start lab-pebble")
        ask = f"python3 -c '{ROOT}'"
        root = until(lambda: self.machine.run(ask, check=False).stdout, 30, "the CA does not start")
        self.machine.put(CA, self.machine.get(CA) + root)
        self.server.ca_away = False

    def the_ca_forgets_all_accounts(self):
        self.the_ca_goes_away()
        self.the_ca_is_back()

    def an_account_is_stolen(self):
        answers = collections.Counter()
        with self.server.submission(465) as smtp:
            smtp.login(EVA, ACCOUNTS[EVA])
            for number in range(30):
                text = f"From: {EVA}\r\nTo: v@elsewhere.example\r\nSubject: {number}\r\n\r\n"
                try:
                    smtp.sendmail(EVA, ["victim@elsewhere.example"], text)
                    answers["taken"] += 1
                except smtplib.SMTPException as exc:
                    answers[re.sub(r"\d+ ", "", str(exc))[:90]] += 1
                    smtp.rset()
        self.server.note(f"of 30 mails that it sends {answers['taken']} are taken")
        self.server.hold(answers["taken"] < 21, f"a stolen account sends {answers}")

    def the_disk_is_full(self):
        """The blocks are taken, and nothing is written."""
        for _ in range(3):
            self.machine.run(FILL, check=False)
        self.server.note(self.machine.run("df -h / | tail -1").stdout.strip())
        self.server.full = True

    def the_disk_has_room(self):
        self.machine.run("rm -r /full")
        self.server.full = False

    def it_is_rebooted(self):
        self.machine.reboot()
        self.the_ca_is_back()

    def elsewhere_is_away(self):
        async def refuses(*_):
            return "451 4.3.2 not now"

        self.server.sink.handle_MAIL = refuses
        self.server.away = True

    def elsewhere_is_back(self):
        del self.server.sink.handle_MAIL
        self.server.away = False
        self.machine.run("smtpctl schedule all")  # smtpd's timer does not leap with the clock


FILL = """mkdir -p /full
for size in 1G 100M 10M 1M 100K 4K; do
    while fallocate -l $size /full/$(ls /full | wc -l) 2>/dev/null; do :; done
done
"""
ROOT = (
    "import ssl, urllib.request as r; c = ssl._create_unverified_context();"
    ' print(r.urlopen("https://localhost:15000/roots/0", context=c).read().decode())'
)


def live(server, lab, step, days):
    """The days, one after the other."""
    events = Events(server, lab)
    first = server.machine.now() // DAY * DAY
    server.slack = step + 1
    server.now = server.machine.now()
    events.the_ca_is_back()
    server.go_to(server.now + 3600)
    server.machine.run("journalctl -q --no-pager --cursor-file=/root/cursor >/dev/null")
    go_on(server, events, first, range(step, days + 1, step))


def go_on(server, events, first, days):
    """These days, counted from the first."""
    weeks, months = days[0] // 7, days[0] // 30
    changed = True
    for day in days:
        server.go_to(first + day * DAY + 5 * 3600 + 1800)
        if changed:
            server.publish()
            changed = False
        server.mail()
        events.until(day)
        server.go_to(first + day * DAY + 12 * 3600)
        server.look()
        if day // 7 > weeks and not server.full:
            weeks = day // 7
            changed = server.highstate_of_the_week()
        if day // 30 > months and not server.full:
            months = day // 30
            server.check()
            server.note(
                f"{server.look_at_inboxes()} mails came, {server.look_at_logs():.0f} days of log"
            )


def report(server, began):
    """The year as a table, and what was not as it should be."""
    lines = ["| date | what happened |", "| --- | --- |"]
    lines += [f"| {date} | {text} |" for date, text in server.happened]
    print("\n".join(lines))
    print(f"\n{len(server.inbox)} mails in, in {(time.monotonic() - began) / 60:.0f} minutes")
    for kind, count in server.bad.most_common():
        print(f"{count} x in the journal: {kind}")
    for date, text in server.faulty:
        print(f"NOT AS IT SHOULD BE, {date}: {text}")


def main():
    parser = argparse.ArgumentParser(prog="bench/run --year", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="trixie", help="the Debian release, default: trixie")
    parser.add_argument("--step", type=int, default=1, help="days, from 1 to 3")
    parser.add_argument("--days", type=int, default=365, help="when it ends")
    options = parser.parse_args()
    if why := image.missing() or clock.missing():
        sys.exit(why)
    began = time.monotonic()
    with Lab() as lab, lab.outside.sink() as sink:
        hosts = "".join(f"{name} A {address}\n" for name, address in NS.items())
        lab.dns.serve("provider.example", HEAD + hosts)
        mx = f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
        lab.dns.serve("elsewhere.example", HEAD + mx)
        name_servers = [lab.name_server(address) for address in NS.values()]
        machine = clock.Moved(lab, options.suite, HOST)
        lab.dns.serve("ca.example", HEAD + f"acme A {machine.address}\n")
        authority(lab, machine)
        server = Year(lab, machine, name_servers, sink)
        server.bootstrap({**PILLAR, "mailsrv": SETTINGS})
        machine.start_clock()
        try:
            live(server, lab, options.step, options.days)
        finally:
            report(server, began)
    sys.exit(bool(server.faulty))


if __name__ == "__main__":
    main()
