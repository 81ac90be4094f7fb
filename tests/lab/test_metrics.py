"""What a real Prometheus sees of a server with `metrics: true`: the dashboard, the alerts."""

import imaplib
import json
import smtplib
import urllib.parse
from contextlib import suppress
from pathlib import Path

import pytest

from lab import HEAD
from server import CHECKOUT
from wire import until

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
MONITORING = f"{CHECKOUT}/monitoring"
TEXTFILE = "/var/lib/prometheus/node-exporter/mailsrv.prom"
CONFIG = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "rule_files": [f"{MONITORING}/mailsrv.rules.yml"],
    "scrape_configs": [
        {
            "job_name": "mail",
            "static_configs": [{"targets": ["127.0.0.1:9100", "127.0.0.1:9900"]}],
        }
    ],
}
DASHBOARD = json.loads((ROOT / "monitoring/mailsrv.dashboard.json").read_text())
QUERIES = {
    f"{panel['title']}: {target['legendFormat']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


class Seen:
    """A server, and Prometheus beside it."""

    def __init__(self, server):
        self.server, self.machine = server, server.machine

    def count(self):
        """The series after the minute's timer has come."""
        # More often than its minute: "start of the service was attempted too often".
        for what in ("reset-failed", "start"):
            self.machine.run(f"systemctl {what} mailsrv-metrics.service", check=what == "start")
        lines = self.machine.get(TEXTFILE).splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("mailsrv_"): float(value) for name, _, value in pairs}

    def ask(self, path, **query):
        """What Prometheus answers."""
        url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(query)}"
        get = (
            "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
        )
        return json.loads(self.machine.run(["python3", "-c", get, url]).stdout)["data"]


@pytest.fixture(scope="module")
def seen(server):
    found = Seen(server)
    machine = server.machine
    # rspamd takes its time to start: on one machine of the two.
    filtered = {"spam_filter": True} if "two" in machine.fqdn else {}
    with server.having(metrics=True, **filtered) as changed:
        assert "mailsrv-metrics" in changed
        assert server.highstate() == {}
        machine.run("apt-get install -y --no-install-recommends prometheus")
        machine.put("/etc/prometheus/prometheus.yml", json.dumps(CONFIG))
        machine.run("systemctl stop mailsrv-watch.timer")
        machine.run("systemctl start mailsrv-watch.service")
        found.count()
        machine.run("systemctl restart prometheus")
        yield found
        machine.run("systemctl disable --now prometheus")
    units = "mailsrv-metrics.timer mailsrv-watch.timer prometheus-node-exporter"
    running = machine.run(f"systemctl is-active {units}", check=False).stdout.split()
    assert running == ["inactive"] * 3
    left = "/etc/mail/metrics* /var/lib/mailsrv/*.json /etc/systemd/system/mailsrv-[mw]*"
    assert machine.run(f"ls -d {left} {TEXTFILE}", check=False).stdout == ""
    assert machine.run("ss -Hltn 'sport = :9100 or sport = :9900'").stdout == ""


@pytest.fixture(scope="session")
def closed(lab):
    """A domain whose MX answers on no port."""
    address = lab.host("mx.closed.example").address
    lab.dns.serve("closed.example", HEAD + f"@ MX 10 mx\nmx A {address}\n")
    return "closed.example"


@pytest.fixture(scope="module")
def happened(closed, seen, sink):
    """Mail in, out, refused, deferred, bounced, and wrong passwords: what is counted then."""
    server = seen.server
    user, domain = next(iter(server.accounts)), server.pillar["domains"][0]
    # A bar is what separates the fields of the queue's listing. OpenSMTPD 7.9 takes none.
    with server.submission() as smtp:
        smtp.login(user, server.accounts[user])
        smtp.mail(user)
        odd = smtp.rcpt(f"a|b@{closed}")[0] == 250
    seen.waits = f"a|b@{closed}" if odd else f"ab@{closed}"
    before = seen.count()
    server.wait(user, server.deliver([user]))
    to = ["x@elsewhere.example", seen.waits, "x@nowhere.elsewhere.example"]
    server.submit(user, to)
    with server.smtp() as smtp:
        for recipient in f"nobody@{domain}", "a@relay.example":
            with suppress(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("x@elsewhere.example", [recipient], "Subject: x\r\n\r\nx\r\n")
    with server.submission() as smtp, suppress(smtplib.SMTPAuthenticationError):
        smtp.login(user, "wrong")
    with suppress(imaplib.IMAP4.error):
        server.imap(user, "wrong")
    server.imap(user).logout()
    yield before, until(lambda: counted(seen), 60, "not all of it is counted")
    server.machine.run("smtpctl remove all")


def counted(seen):
    series = seen.count()
    done = [of(series, f"{name}_total") for name in ("relayed", "deferred", "bounced")]
    return series if all(done) else None


def of(series, name):
    """The sum of the series of that name."""
    return sum(value for key, value in series.items() if key.partition("{")[0] == name)


def test_what_happened_is_counted_by_its_cause(happened):
    before, after = happened
    grown = {
        key: value - before[key] for key, value in after.items() if value != before.get(key, 0)
    }
    for series in (
        'refused_total{cause="relay denied"}',
        'refused_total{cause="no such mailbox"}',
        "relayed_total",
        'logins_failed_total{daemon="imap"}',
        'queue_recipients{age="0-5m"}',
        'queue_failed_recipients{cause="connection"}',
        "queue_messages",
    ):
        assert grown.pop(series) == 1
    assert grown['logins_total{daemon="imap"}'] >= 1
    assert grown['logins_failed_total{daemon="smtpd"}'] >= 1
    assert grown['deferred_total{cause="connection"}'] >= 1
    assert grown['bounced_total{cause="DNS"}'] == 1
    assert grown["messages_accepted_total"] >= 2
    assert after["smtpd_up"] == 1


def test_counters_go_on_after_the_daemons_and_the_machine_start_again(seen, happened):
    # What systemd says while the journal itself restarts is lost.
    seen.machine.run(
        "systemctl restart opensmtpd dovecot; sleep 1; systemctl restart systemd-journald"
    )
    again = seen.count()
    totals = {key for key in again if "_total" in key}
    assert [key for key in totals if again[key] < happened[1][key]] == []
    assert (
        again['daemon_starts_total{daemon="smtpd"}']
        == 1 + happened[1]['daemon_starts_total{daemon="smtpd"}']
    )


def test_nothing_listens_for_others(seen, happened):
    listening = seen.machine.run("ss -Hltn 'sport = :9100 or sport = :9900'").stdout.splitlines()
    assert sorted(line.split()[3] for line in listening) == ["127.0.0.1:9100", "127.0.0.1:9900"]


def test_the_queue_is_told_whatever_stands_in_an_address(seen, happened):
    assert f"|{seen.waits}|" in seen.machine.run("smtpctl show queue").stdout
    said = seen.server.salt("mailcheck.run", check=False)["queue"]
    assert said.startswith("ok: 1 waiting")


def test_prometheus_takes_metrics_and_alerts(seen):
    seen.machine.run(f"promtool check rules {MONITORING}/mailsrv.rules.yml")
    seen.machine.run(f"promtool test rules {MONITORING}/mailsrv.rules.test.yml")
    checked = seen.machine.run(f"promtool check metrics <{TEXTFILE}")
    assert (checked.stdout, checked.stderr) == ("", "")
    groups = seen.ask("rules")["groups"]
    health = [rule["health"] for group in groups for rule in group["rules"]]
    assert {*health} == {"ok"}
    # Nothing is wrong with this server but what the test did, and the lab's disk and DNS.
    alerts = {alert["labels"]["alertname"] for alert in seen.ask("alerts")["alerts"]}
    firing = {
        a["labels"]["alertname"] for a in seen.ask("alerts")["alerts"] if a["state"] == "firing"
    }
    assert firing <= {"MailsrvRestarts"}, alerts


def test_each_query_of_the_dashboard_has_data(seen, happened):
    queries = {
        name: query.replace("$instance", ".*").replace("$__rate_interval", "10m")
        for name, query in QUERIES.items()
        if "rspamd" not in query or "two" in seen.machine.fqdn
    }

    def without():
        found = {name: seen.ask("query", query=query)["result"] for name, query in queries.items()}
        return [name for name, series in found.items() if not series]

    until(lambda: not without(), 30, "not all of it is drawn")
    assert len(queries) > 25
