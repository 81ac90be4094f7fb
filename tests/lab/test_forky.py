"""
The next Debian, while it is still testing: set up, mail in and out, and nothing left to do; then
all that looks after a server by itself, switched on at once.
"""

import contextlib
import smtplib
import ssl
import urllib.request

import pytest

from ca import DIRECTORY
from commands import commands_of_sendmail
from image import image
from lab import HEAD
from server import Server, arrived, parsed, signed_by
from wire import until

pytestmark = pytest.mark.lab

ADMIN = "admin@elsewhere.example"
CA = "/etc/ssl/lab-ca.pem"
BY_ITSELF = {
    "tls": {"acme": {"email": ADMIN, "server": DIRECTORY, "ca": CA, "caa": "ca.example"}},
    "web": True,
    "dns": {"mta_sts": "testing"},
    "bans": {"after": 5},
    "limits": {"recipients_per_hour": 20},
    "notify": ADMIN,
    "metrics": True,
    "expire": {"Trash": "30d"},
    "logs": {"keep": "30d"},
    "spam_filter": {"learn": True},
}
EXPORTED = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/metrics').read())"


@pytest.fixture(scope="module")
def forky(lab):
    try:
        image("forky")
    except RuntimeError as exc:
        pytest.skip(f"the image of Debian 14 cannot be built today: {exc}")
    zone = HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
    lab.dns.serve("elsewhere.example", zone)
    server = Server(lab, lab.machine("forky", "mail.three.example"))
    server.output = server.bootstrap()
    yield server
    server.machine.stop()


def test_debian_14_is_a_mail_server_by_one_bootstrap(forky, sink, lab):
    user, other = list(forky.accounts)[:2]
    assert forky.wait(user, forky.deliver([user]))
    assert forky.wait(other, forky.submit(user, [other]))
    told = str(forky.salt("mailsrv.trace", other))
    assert f"logged in as {user}" in told
    assert f"stored in INBOX of {other}" in told
    (sent,) = arrived(sink, forky.submit(user, ["somebody@elsewhere.example"]))
    assert signed_by(lab, sent.content) == {user.partition("@")[2]}
    assert forky.faults() == {}
    assert forky.highstate() == {}


def test_who_looks_after_the_machine_has_the_commands_of_sendmail(forky, late):
    commands_of_sendmail(forky, late)


@pytest.fixture(scope="module")
def alone(forky, pebble):
    """All of it by one run, with a certificate of the CA; `root` is what that is known by."""
    machine = forky.machine
    machine.run("apt-get install -y --no-install-recommends faketime")
    with pebble.brought(machine).running():
        machine.put(CA, pebble.https + pebble.root)
        for module in ("asn", "fuzzy_check", "phishing", "rbl"):  # on the Internet
            machine.put(f"/etc/rspamd/local.d/{module}.conf", "enabled = false;\n")
        settings = {**forky.pillar.get("mailsrv", {}), **BY_ITSELF}
        forky.write_pillar({**forky.pillar, "mailsrv": settings})
        forky.highstate()
        machine.run("systemctl stop mailsrv-watch.timer")  # the test looks itself
        forky.publish()
        assert forky.salt("certificate.renew") == "the certificate is as it shall be"
        forky.root = pebble.root
    return forky


def test_it_looks_after_itself(alone, lab, sink):
    machine, user = alone.machine, next(iter(alone.accounts))
    assert alone.faults() == {}
    # The certificate, as another mail server sees it that asks for the policy.
    context = ssl.create_default_context(cadata=alone.root)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for domain in alone.pillar["domains"]:
        (policy, text), *_ = alone.salt("mailsrv.web", domain)[domain].items()
        fetched = lab.outside.call(urllib.request.urlopen, policy, timeout=20, context=context)
        assert fetched.read().decode() == text
    # What has been told before the rest goes wrong is how it stands.
    machine.run("systemctl start mailsrv-watch.service")
    alone.idle()
    told = [parsed(mail.content)["Subject"] for mail in sink.messages if mail.rcpt_tos == [ADMIN]]
    assert len([t for t in told if f"{machine.fqdn} tells you what changes" in t]) == 1
    # Old mail goes, young mail stays; in the first night nothing does.
    for days, subject in ((40, "old"), (1, "young")):
        save = f"faketime '{days} days ago' doveadm save -u {user} -m Trash"
        machine.run(f"printf 'Subject: {subject}\\n\\nx\\n' | {save}")
    machine.run("systemctl start mailsrv-purge; systemctl start mailsrv-purge")
    found = machine.run(f"doveadm fetch -u {user} hdr.subject mailbox Trash").stdout
    assert ("old" in found, "young" in found) == (False, True)
    # What is put into Junk is learned, and what comes out of it.
    with alone.imap(user) as imap:
        for number in range(3):
            text = " ".join(f"word{number}{word}" for word in range(30))
            imap.append("Junk", None, None, f"Subject: {number}\r\n\r\n{text}\r\n".encode())
        imap.select("Junk")
        imap.uid("MOVE", "1", "INBOX")
    learned = "redis-cli -s /run/mailsrv-redis/redis.sock hmget RS learns_spam learns_ham"
    until(lambda: machine.run(learned).stdout.split() == ["2", "1"], 30, "nothing is learned")
    # Who guesses is refused, and nobody else.
    thief = lab.host("thief.example")
    for number in range(6):
        with contextlib.suppress(smtplib.SMTPException, OSError):
            client = thief.call(smtplib.SMTP, machine.fqdn, 587, timeout=20)
            client.starttls(context=ssl._create_unverified_context())
            client.login(f"u{number}@{user.partition('@')[2]}", "wrong")
    until(lambda: f"{thief.address}/32" in alone.salt("mailsrv.bans"), 20, "nobody is banned")
    with pytest.raises(ConnectionRefusedError):
        thief.call(smtplib.SMTP, machine.fqdn, 587, timeout=20)
    assert [*alone.salt("mailsrv.unban", thief.address)] == [f"{thief.address}/32"]
    # A password that was stolen sends so much and not more.
    names = [f"v{number}@elsewhere.example" for number in range(25)]
    with alone.submission(465) as smtp:
        smtp.login(user, alone.accounts[user])
        refused = smtp.sendmail(user, names, f"From: {user}\r\nSubject: x\r\n\r\nx\r\n")
    assert {code for code, _ in refused.values()} == {451}
    assert 5 <= len(refused) < 25
    alone.idle()
    # What became of it, in all the ways to know it.
    told = str(until(lambda: alone.salt("mailsrv.trace", names[0], check=False), 10, "no trace"))
    assert f"logged in as {user}" in told
    assert f"sent to {names[0]} by " in told
    machine.run("systemctl start mailsrv-metrics.service")
    exported = until(lambda: machine.run(["python3", "-c", EXPORTED]).stdout, 10, "no metrics")
    for series in ("smtpd_up 1", 'refused_total{cause="', "logins_failed_total{"):
        assert f"mailsrv_{series}" in exported
    page = machine.get(alone.salt("mailsrv.report")["file"])
    assert page.startswith("<!doctype html>")
    assert machine.fqdn in page
    machine.run("systemctl start mailsrv-watch.timer")
    assert alone.highstate() == {}
    assert alone.faults() == {}
