"""What changes on a server is mailed to who shall know, once; the timer and the notes behind it."""

import json
import time

import pytest

from lab import NS
from server import parsed, signed_by

pytestmark = pytest.mark.lab

ADMIN = "admin@elsewhere.example"
NOTES = "/var/lib/mailsrv/watch.json"
TIMER = "mailsrv-watch.timer"


class Watched:
    """A server whose administrator is told, and whose DNS is as it shall be."""

    def __init__(self, server, name_servers, sink):
        self.server, self.machine, self.sink = server, server.machine, sink
        self.name_servers = name_servers
        self.read = 0

    def look(self, *arguments):
        """What the look at this moment prints."""
        command = ["salt-call", "--out=json", "mailcheck.notify", *arguments]
        return json.loads(self.machine.run(command).stdout)["local"]

    def mails(self):
        """The mails to the administrator since they were read last."""
        self.server.idle()
        told = [mail for mail in self.sink.messages if mail.rcpt_tos == [ADMIN]]
        self.read, new = len(told), told[self.read :]
        return [parsed(mail.content) for mail in new]

    def later(self, seconds):
        """All that is noted was so many seconds ago."""
        notes = json.loads(self.machine.get(NOTES))
        notes["looked"] = {part: when - seconds for part, when in notes["looked"].items()}
        for entries in notes["told"].values():
            for entry in entries.values():
                entry["last"] -= seconds
        self.machine.put(NOTES, json.dumps(notes))


@pytest.fixture(scope="module")
def watched(server, name_servers, sink):
    """Told, with the timer off, so that nobody looks but the test; the first mail was read."""
    names = {"nameservers": [f"{name}.provider.example" for name in NS]}
    found = Watched(server, name_servers, sink)
    # The disk that the lab shares may be full.
    with server.having(notify=ADMIN, dns=names):
        for name_server in (server.lab.dns, *name_servers):
            for domain in server.salt("mailsrv.dns"):
                name_server.serve(domain, server.salt("mailsrv.zone", domain))
        found.machine.run(f"systemctl is-active {TIMER} && systemctl is-enabled {TIMER}")
        # Its hour may have come meanwhile: what it has told is not what these tests read.
        found.machine.run(f"systemctl stop {TIMER} mailsrv-watch.service; rm -f {NOTES}")
        found.mails()
        # As the timer does it.
        found.machine.run("systemctl start mailsrv-watch.service")
        found.first = found.mails()
        yield found
        found.machine.run(f"systemctl start {TIMER}")
    assert found.machine.run(f"systemctl is-active {TIMER}", check=False).stdout == "inactive\n"
    assert (
        found.machine.run(f"ls {NOTES} /etc/systemd/system/mailsrv-watch.*", check=False).stdout
        == ""
    )
    server.publish()


def test_who_is_told_for_the_first_time_hears_how_it_stands(watched):
    (first,) = watched.first
    domain = watched.server.pillar["domains"][0]
    assert f"{watched.machine.fqdn} tells you what changes; " in first["Subject"]
    assert first["From"].addresses[0].addr_spec == f"postmaster@{domain}"
    assert first["Auto-Submitted"] == "auto-generated"
    name = first["Message-ID"].encode()
    (raw,) = [m.content for m in watched.sink.messages if name in m.content]
    assert signed_by(watched.server.lab, raw) == {domain}
    text = first.get_content()
    assert max(map(len, text.splitlines())) <= 72
    # The timer was stopped, and nothing else was.
    said = [line for line in text.splitlines() if line.startswith(("FAULT", "WARNING"))]
    assert [line for line in said if "disk of" not in line and "mailsrv-watch" not in line] == []


def test_a_fault_is_told_once_when_it_was_seen_twice_and_once_that_it_is_gone(watched):
    watched.look()
    assert watched.mails() == []
    watched.machine.run("systemctl stop dovecot")
    assert watched.look() == "nothing that was not told"
    watched.look()
    watched.look()
    (mail,) = watched.mails()
    assert "faults" in mail["Subject"]
    assert "service dovecot" in mail["Subject"]
    assert "FAULT    service dovecot: is not running; start it" in mail.get_content()
    watched.machine.run("systemctl start dovecot")
    watched.look()
    assert watched.mails() == []
    watched.later(3600)
    watched.look()
    (mail,) = watched.mails()
    assert "well again: " in mail["Subject"]
    assert "service dovecot: since" in mail.get_content()


def test_while_smtpd_is_away_the_journal_has_it_and_later_the_mail(watched):
    began = time.time()
    watched.machine.run("systemctl stop opensmtpd")
    for _ in range(2):
        ran = watched.machine.run("systemctl start mailsrv-watch.service", check=False)
    assert ran.returncode, "that nobody could be told is not seen"
    journal = watched.machine.journal("mailsrv-watch", began)
    assert "it could not be mailed now: [Errno 111] Connection refused" in journal
    assert "service opensmtpd: is not running" in journal
    watched.machine.run("systemctl start opensmtpd; systemctl reset-failed mailsrv-watch")
    watched.look()
    (mail,) = watched.mails()
    assert "service opensmtpd" in mail["Subject"]
    watched.later(3600)
    watched.look()
    assert "well again" in watched.mails()[0]["Subject"]


def test_what_a_run_would_change_and_dns_are_told_within_a_day(watched):
    domain = watched.server.pillar["domains"][0]
    zone = watched.server.salt("mailsrv.zone", domain)
    watched.machine.run("echo '# mine' >>/etc/smtpd.conf")
    for name_server in watched.server.lab.dns, *watched.name_servers:
        name_server.serve(domain, "\n".join(z for z in zone.splitlines() if "_dmarc" not in z))
    for hours in 24, 1:
        watched.later(hours * 3600)
        watched.look()
    (mail,) = watched.mails()
    text = mail.get_content()
    assert "WARNING  a run, mailsrv-opensmtpd-config: " in text
    assert f"_dmarc.{domain} TXT: is missing at every server" in " ".join(text.split())
    shown = watched.machine.run("salt-call mailcheck.changes").stdout
    assert shown == "nothing that was not told\n"
    for name_server in watched.server.lab.dns, *watched.name_servers:
        name_server.serve(domain, zone)
    watched.server.highstate()
    shown = watched.machine.run("salt-call mailcheck.changes").stdout
    assert shown.startswith(f"To: {ADMIN}\nSubject: {watched.machine.fqdn}: ")
    assert "Well again:" in shown


def test_a_look_and_a_run_at_the_same_time_are_no_fault(watched):
    watched.later(24 * 3600)
    look = watched.machine.start("salt-call --out=json mailcheck.notify")
    while watched.machine.run("pgrep -f mailcheck.notify", check=False).returncode:
        time.sleep(0.1)
    changed = []
    while look.poll() is None:
        changed += watched.server.highstate()
    assert changed == []
    runs = watched.machine.start("for n in 1 2 3 4; do salt-call state.highstate >/dev/null; done")
    while runs.poll() is None:
        watched.later(24 * 3600)
        watched.look()
    assert "running as PID" not in watched.machine.get(NOTES)
    assert [m["Subject"] for m in watched.mails() if "well again" not in m["Subject"]] == []
