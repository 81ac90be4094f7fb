"""A fleet on one Salt master: the mail machine and its satellites, which send through it."""

import concurrent.futures
import imaplib
import json
import re
import smtplib
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fleet import SALT, Fleet, call, install_salt
from lab import HEAD
from server import CHECKOUT, Server, parsed, signatures, signed_by
from wire import until

pytestmark = pytest.mark.lab

PERSON = "admin@elsewhere.example"
PASSWORD = "ann's pass #1"
MAIL = {
    "domains": ["fleet.example"],
    "accounts": [["ann@fleet.example", PASSWORD]],
    "mailsrv": {"satellites": "*"},
}
CRON = "* * * * * root echo from cron; rm /etc/cron.d/once\n"


def satellite(root, **more):
    return {"mailsrv": {"satellite": {"relay": "mail.fleet.example", "root": root, **more}}}


@pytest.fixture(scope="module")
def fleet(lab, copy, sink):
    """
    The master and mail machine; web1, a satellite on Debian 13 within its domain; db1, one on
    Debian 12 outside of it.
    """
    mail = lab.machine("trixie", "mail.fleet.example")
    web1 = lab.machine("trixie", "web1.fleet.example")
    db1 = lab.machine("bookworm", "db1.other.example")
    addresses = f"web1 A {web1.address}\n"
    lab.dns.serve("fleet.example", HEAD + f"mail A {mail.address}\n{addresses}")
    lab.dns.serve("other.example", HEAD + f"db1 A {db1.address}\n")
    lab.dns.serve(
        "elsewhere.example", HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        second = pool.submit(install_salt, lab, db1)
        install_salt(lab, mail, web1)
        second.result()
        db1.run(f"{SALT}/pip uninstall --yes dnspython")
        fleet = Fleet(mail)
        fleet.join(mail, ["mailsrv"], MAIL)
        fleet.join(web1, ["mailsrv.satellite"], satellite(PERSON))
        fleet.join(db1, ["mailsrv.satellite"], satellite("ann@fleet.example"))
        fleet.highstate(mail.fqdn)
        planned = fleet.highstate(web1.fqdn, "test=True")
        second = pool.submit(fleet.highstate, db1.fqdn)
        changed = fleet.highstate(web1.fqdn)
        second.result()
    web1.run(["sendmail", "root"], input="Subject: before the mail machine knows\n\nhello\n")
    until(lambda: "535" in web1.journal("opensmtpd"), 30, "nothing was refused")
    fleet.highstate(mail.fqdn)
    lab.dns.serve("fleet.example", fleet.salt(mail.fqdn, "mailsrv.zone") + addresses)
    # smtpd leaves a host that refused it alone for 15 seconds.
    until(lambda: "Enabling route" in web1.journal("opensmtpd"), 60, "the relay is given up")
    web1.put("/etc/cron.d/once", CRON)
    server = Server(lab, mail)
    server.accounts = dict(MAIL["accounts"])
    machines = {"mail": mail, "web1": web1, "db1": db1, "server": server}
    yield SimpleNamespace(fleet=fleet, planned=planned, changed=changed, **machines)
    for machine in mail, web1, db1:
        machine.stop()


@pytest.fixture(params=["web1", "db1"])
def each(fleet, request):
    """Each of the satellites."""
    return getattr(fleet, request.param)


def test_the_page_of_a_master_shows_each_machine(fleet):
    told = call(fleet.mail, "mailsrv.report", "/srv/fleet.html", "machines=*.fleet.example")
    assert set(told) == {"file", fleet.mail.fqdn, fleet.web1.fqdn}
    assert told[fleet.web1.fqdn].startswith("FAULT: ")  # has no figures: it only sends
    page = fleet.mail.get("/srv/fleet.html")
    assert page.count("<h2 ") == 2
    assert "received" in page
    command = f"{SALT}/salt-call --no-return-event mailsrv.report machines='no*'"
    refused = fleet.mail.run(command, check=False)
    assert refused.returncode == 1
    assert "mailsrv.report: no minion is called 'no*'" in refused.stdout + refused.stderr


def test_all_look_at_the_mail_machine_that_the_mine_knows(fleet):
    """From the one command to the table; and it is seen when it is not the one of the mine."""
    host, master = fleet.mail.fqdn, fleet.fleet
    master.salt(host, "mine.send", "mailsrv.dns")
    command = [f"{SALT}/salt", "--out=json", "--static", "*", "mailcheck.peer"]
    found = json.loads(fleet.mail.run(command).stdout)
    assert found[host][host] == {
        "addresses": "skipped: it is this machine; mailcheck.run looks at it from inside"
    }
    assert found[fleet.db1.fqdn][host]["addresses"].startswith(
        "FAULT: the Python library dnspython is missing where Salt runs; install it with: salt-pip"
    )
    seen = found[fleet.web1.fqdn][host]
    assert seen["certificate"].startswith("ok: self-signed, that of the mine, until ")
    assert seen["mail from fleet.example"] == "ok: SPF passes"
    assert {said[:2] for said in seen.values()} == {"ok"}
    other = (
        "cd /etc/mail/tls; cp -a . /tmp/tls; for key in *.key; do openssl req -x509 -newkey"
        f" rsa:2048 -noenc -keyout $key -out ${{key%.key}}.crt -days 9 -subj /CN={host}"
        f" -addext subjectAltName=DNS:{host}; done; systemctl restart opensmtpd dovecot"
    )
    try:
        fleet.mail.run(other)
        seen = master.salt(fleet.web1.fqdn, "mailcheck.peer", host)
    finally:
        # Of a file that was touched as a daemon started, the next run cannot know that it was read.
        again = "cp -a /tmp/tls/. /etc/mail/tls; sleep 1; systemctl restart opensmtpd dovecot"
        fleet.mail.run(again)
        until(fleet.server.takes_mail, 30, "smtpd does not greet")
    assert re.match(
        rf"FAULT: serves another certificate \(SHA-256 \w{{16}}\.\.\.\) than {host} has put into",
        seen["certificate"],
    )


def send(machine, recipient, subject, *options, check=True):
    """Send as a program of that machine does."""
    text = f"Subject: {subject}\n\nhello\n"
    return machine.run(["sendmail", *options, recipient], input=text, check=check)


def found(sink, subject):
    """What is in the sink under that subject."""
    return [e for e in sink.messages if subject in (parsed(e.content)["Subject"] or "")]


def came(sink, subject):
    """The first of it, as soon as it has come."""
    return until(lambda: found(sink, subject), 90, f"{subject} does not come")[0]


def password(machine):
    return machine.get("/etc/mail/satellite.password").strip()


def login(fleet, machine):
    """A session at the mail machine, as the agent of that satellite opens it."""
    smtp = fleet.server.submission(465)
    smtp.login(machine.fqdn, password(machine))
    return smtp


def came_of_queue(machine, sink, subject):
    """The same of what waits there: smtpd leaves a host that failed alone for 15 seconds."""

    def tried():
        machine.run("smtpctl schedule all; sleep 2")
        return found(sink, subject)

    return until(tried, 60, f"{subject} does not come")[0]


def test_the_plan_is_what_then_happens(fleet):
    assert fleet.planned.keys() == fleet.changed.keys()


def test_the_same_pillar_again_changes_nothing(fleet):
    for machine in fleet.mail, fleet.web1, fleet.db1:
        assert fleet.fleet.highstate(machine.fqdn) == {}


def test_drift_is_told_to_the_master_once_and_that_it_is_mended(fleet, each):
    """What a machine says that was set up a moment ago, edited by hand, and mended by a run."""
    tell = (each.fqdn, "drift.tell")
    assert fleet.fleet.salt(*tell)["well"] is True
    file = "/etc/mailname" if each is fleet.db1 else "/etc/smtpd.conf"
    each.run(f"echo '# edited' >>{file}")
    told = fleet.fleet.salt(*tell)
    assert (told["told"], told["failures"], told["impossible"]) == ("now", [], False)
    assert told["changes"]
    assert fleet.fleet.salt(*tell) == {**told, "told": "before"}
    assert "edited" in each.get(file)
    assert {*told["changes"]} == {*fleet.fleet.highstate(each.fqdn)}
    assert fleet.fleet.salt(*tell)["told"] == "now"
    assert fleet.fleet.salt(*tell)["told"] == "before"


def test_mail_of_cron_reaches_the_person_outside_signed(lab, fleet, sink):
    envelope = came(sink, "Cron <root@web1>")
    assert (envelope.mail_from, envelope.rcpt_tos) == ("root@web1.fleet.example", [PERSON])
    assert "root@web1.fleet.example" in parsed(envelope.content)["From"]
    assert signed_by(lab, envelope.content) == {"fleet.example"}


def test_nothing_hears_the_network_but_the_mail_machine(lab, each):
    listening = each.run("ss -Hltn").stdout.split("\n")[:-1]
    addresses = {line.split()[3].rpartition(":")[0] for line in listening}
    assert addresses == {"127.0.0.1", "[::1]"}
    with pytest.raises(ConnectionRefusedError):
        lab.outside.call(smtplib.SMTP, each.address, 25, timeout=10)


def test_mail_for_any_user_of_the_machine_reaches_the_person(fleet, sink):
    fleet.web1.run(
        ["su", "-s", "/bin/sh", "www-data", "-c", "sendmail backup"],
        input="Subject: of a user to another\n\nhello\n",
    )
    envelope = came(sink, "of a user to another")
    assert (envelope.mail_from, envelope.rcpt_tos) == ("www-data@web1.fleet.example", [PERSON])
    send(fleet.db1, "root", "to a person of ours")
    assert fleet.server.wait("ann@fleet.example", "to a person of ours")


def test_programs_that_speak_smtp_are_heard_too(fleet, sink):
    fleet.web1.run(
        [
            "python3",
            "-c",
            "import smtplib; smtplib.SMTP('localhost').sendmail('root@web1.fleet.example',"
            f" ['{PERSON}'], 'Subject: by port 25\\n\\nhello\\n')",
        ]
    )
    assert came(sink, "by port 25").mail_from == "root@web1.fleet.example"


def test_a_satellite_sends_as_itself_and_nobody_else(fleet, each):
    others = {"root@web1.fleet.example", "root@db1.other.example"} - {f"root@{each.fqdn}"}
    others |= {"ann@fleet.example", "root@fleet.example", "root@mail.fleet.example", PERSON}
    with login(fleet, each) as smtp:
        for other in others:
            assert smtp.mail(other)[0] == 530, other
        assert smtp.mail(f"anybody@{each.fqdn}")[0] == 250


def test_a_forged_from_becomes_the_satellites_own(lab, fleet, sink):
    text = "From: ann@fleet.example\r\nSubject: forged\r\n\r\nhello\r\n"
    with login(fleet, fleet.web1) as smtp:
        smtp.sendmail("root@web1.fleet.example", [PERSON], text)
    envelope = came(sink, "forged")
    assert "root@web1.fleet.example" in parsed(envelope.content)["From"]
    assert signed_by(lab, envelope.content) == {"fleet.example"}


def test_another_sender_is_refused_where_the_program_still_hears_it(fleet):
    ran = send(fleet.web1, "a@elsewhere.example", "forged", "-f", "ann@fleet.example", check=False)
    assert ran.returncode
    assert "550" in ran.stderr


def test_a_satellite_has_no_mailbox(fleet, each):
    with pytest.raises(imaplib.IMAP4.error):
        fleet.server.imap(each.fqdn, password(each))
    with fleet.server.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("somebody@elsewhere.example")
        assert smtp.rcpt(f"root@{each.fqdn}")[0] == 550


def test_a_bounce_reaches_the_person(fleet):
    send(fleet.db1, "nobody@fleet.example", "to nobody")
    bounce = until(
        lambda: fleet.server.fetch("ann@fleet.example", "Delivery status notification"),
        60,
        "no bounce comes",
    )
    assert b"nobody@fleet.example" in bounce[0]


def test_a_credential_is_known_to_nobody_else(fleet, each):
    """Not to the master, not to another minion, not to another user of the machine."""
    assert each.run("stat -c '%a %U' /etc/mail/satellite.*").stdout.split("\n")[:-1] == [
        "600 root",
        "600 root",
        "640 root",
    ]
    read = "cat /etc/mail/satellite.secrets /etc/mail/satellite.password"
    assert each.run(["su", "-s", "/bin/sh", "www-data", "-c", read], check=False).stdout == ""
    for machine in fleet.mail, fleet.web1, fleet.db1:
        holds = f"grep -rlF {password(each)} /etc /var /srv /tmp /root --exclude-dir=pip"
        found = machine.run(holds, check=False).stdout.split()
        own = {"/etc/mail/satellite.password", "/etc/mail/satellite.secrets"}
        assert set(found) == (own if machine is each else set())


def test_a_hash_is_for_the_mail_machine_alone(fleet):
    function = "mailsrv.satellite_credential"
    assert set(call(fleet.mail, "mine.get", "*", function)) == {
        "web1.fleet.example",
        "db1.other.example",
    }
    assert set(call(fleet.db1, "mine.get", "*", function)) == {"db1.other.example"}
    hash = fleet.web1.get("/etc/mail/satellite.hash").strip()
    known = fleet.mail.run(f"grep -rlF '{hash}' /etc /var /tmp /srv", check=False).stdout.split()
    assert "/etc/mail/credentials" in known
    known.remove("/etc/mail/credentials")
    assert known
    assert all(name.startswith("/var/cache/salt/master/mine/") for name in known)


def test_no_secret_is_in_what_the_master_keeps_of_its_jobs(fleet):
    credentials = fleet.mail.get("/etc/mail/credentials").splitlines()[1:]
    assert len(credentials) == 3
    for secret in (PASSWORD, *(line.split()[1] for line in credentials)):
        for directory in ("/var/cache/salt/master/jobs", "/var/log/salt"):
            jobs = fleet.mail.run(["grep", "-rlF", secret, directory], check=False)
            assert jobs.stdout == ""
    assert fleet.mail.run("find /var/cache/salt/master/jobs -type f").stdout.count("\n") > 10


def rolled(fleet):
    """Roll out over all three, the mail machine first: what is told of it."""
    command = f"{SALT}/salt-run --out=json mailsrv.roll '*.example' canary={fleet.mail.fqdn}"
    ran = fleet.mail.run(command, check=False)
    told = json.loads(ran.stdout)
    assert told["retcode"] == ran.returncode
    return told


def test_a_roll_goes_no_further_than_the_first_machine_that_is_not_well(fleet):
    fleet.mail.run(f"{SALT}/salt-run saltutil.sync_runners")
    mail, web1, db1 = (machine.fqdn for machine in (fleet.mail, fleet.web1, fleet.db1))
    fleet.mail.put("/srv/top/without.sls", "dovecot: {service.dead: []}\n")
    before = fleet.fleet.pillar(web1)
    fleet.fleet.assign(mail, MAIL, ["mailsrv", "without"])
    fleet.fleet.assign(web1, satellite("root@elsewhere.example"))
    told = rolled(fleet)
    assert told["stopped"].startswith(f"{mail}: not well after the highstate")
    assert told["would change"]["dovecot"] == mail
    assert "FAULT: service dovecot: is not running" in told["machines"][mail]
    assert told["machines"][web1] == "untouched"
    assert told["machines"][db1] == "nothing to do"
    fleet.fleet.assign(mail, MAIL, ["mailsrv"])
    told = rolled(fleet)
    assert "stopped" not in told, told
    assert re.match(r"\d states changed; ", told["machines"][mail])
    assert "dovecot" not in told["machines"][mail]
    assert re.fullmatch(r"\d states changed", told["machines"][web1])
    fleet.fleet.assign(web1, before)
    fleet.fleet.highstate(web1)


def test_mail_waits_while_the_mail_machine_is_away(fleet, sink):
    fleet.mail.run("systemctl stop opensmtpd")
    try:
        send(fleet.web1, PERSON, "while you were away")
        failed = f"{PERSON}.*Network error|{PERSON}.*Connection refused"
        queue = "smtpctl show queue"
        until(lambda: re.search(failed, fleet.web1.run(queue).stdout), 60, "nothing waits")
    finally:
        fleet.mail.run("systemctl start opensmtpd")
    assert came_of_queue(fleet.web1, sink, "while you were away")


def test_mail_from_before_the_mail_machine_knew_the_satellite_has_waited_too(fleet, sink):
    assert came_of_queue(fleet.web1, sink, "before the mail machine knows")


def test_mail_waits_before_a_machine_that_only_claims_to_be_the_relay(fleet, sink):
    fleet.web1.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=mail -keyout /dev/null"
        " -addext subjectAltName=DNS:mail.fleet.example -out /etc/mail/relay.pem"
        " && systemctl restart opensmtpd && until smtpctl show status; do sleep 0.2; done"
    )
    send(fleet.web1, PERSON, "for the relay alone")
    until(
        lambda: "certificate verification failed" in fleet.web1.journal("opensmtpd"), 30, "no word"
    )
    changed = fleet.fleet.highstate(fleet.web1.fqdn)
    assert changed.keys() == {"mailsrv-satellite-ca", "mailsrv-opensmtpd-service"}
    assert came_of_queue(fleet.web1, sink, "for the relay alone")


def test_who_is_away_stays_known_and_whose_key_is_deleted_does_not(fleet):
    master, mail = fleet.fleet, fleet.mail.fqdn
    fleet.web1.run("systemctl stop salt-minion")
    assert master.highstate(mail) == {}
    login(fleet, fleet.web1).quit()
    fleet.mail.run(f"{SALT}/salt-key -y -d web1.fleet.example")
    try:
        assert "mailsrv-opensmtpd-credentials" in master.highstate(mail)
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            login(fleet, fleet.web1)
        assert refused.value.smtp_code == 535
        login(fleet, fleet.db1).quit()
    finally:
        # What docs/satellites.md says to do before another machine gets the id.
        fleet.mail.run(f"{SALT}/salt-run cache.flush mine web1.fleet.example")
        fleet.web1.run("systemctl start salt-minion")
        master.accept(fleet.web1)
        still_unknown = master.highstate(mail)
        published = master.highstate(fleet.web1.fqdn)
        master.highstate(mail)
    assert still_unknown == {}
    assert published.keys() == {"mailsrv-satellite-published"}
    login(fleet, fleet.web1).quit()


def test_lint_and_explain_know_the_satellites(fleet):
    (note,) = fleet.fleet.salt(fleet.mail.fqdn, "mailsrv.lint")
    assert note.startswith("satellite db1.other.example is in none of our domains")
    why = fleet.fleet.salt(fleet.mail.fqdn, "mailsrv.explain", "root@web1.fleet.example")
    assert why["senders"] == {
        "web1.fleet.example": "it is the satellite of this name; signed by fleet.example"
    }
    assert fleet.fleet.salt(fleet.web1.fqdn, "mailsrv.lint") == []


@contextmanager
def having(fleet, machine, pillar):
    """While that machine has another pillar."""
    before = fleet.fleet.pillar(machine.fqdn)
    fleet.fleet.assign(machine.fqdn, pillar)
    try:
        yield fleet.fleet.highstate(machine.fqdn)
    finally:
        fleet.fleet.assign(machine.fqdn, before)
        fleet.fleet.highstate(machine.fqdn)


def test_dkimproxy_signs_for_a_satellite_with_its_parents_key_too(lab, fleet, sink):
    archive = fleet.mail.run(
        f"apt-get install -y python3-dkim >&2 && cd {CHECKOUT}/tests/dkimproxy"
        " && python3 archive.py /srv/dkimproxy.tar.gz"
    )
    archive = {"source": "/srv/dkimproxy.tar.gz", "source_hash": f"sha256={archive.stdout.strip()}"}
    dkim = {"signer": "dkimproxy", "archive": archive}
    with having(fleet, fleet.mail, {**MAIL, "mailsrv": {**MAIL["mailsrv"], "dkim": dkim}}):
        send(fleet.web1, PERSON, "by way of dkimproxy")
        envelope = came(sink, "by way of dkimproxy")
        assert signed_by(lab, envelope.content) == {"fleet.example"}


def test_satellites_can_be_listed_by_hand(fleet):
    hash = call(fleet.web1, "mailsrv.satellite_credential")["hash"]
    by_hand = {**MAIL, "mailsrv": {"satellites": {"web1.fleet.example": {"hash": hash}}}}
    with having(fleet, fleet.mail, by_hand):
        login(fleet, fleet.web1).quit()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            login(fleet, fleet.db1)
    login(fleet, fleet.db1).quit()


def test_dma_is_the_smaller_choice(fleet, sink):
    secret = password(fleet.db1)
    with having(fleet, fleet.db1, satellite("ann@fleet.example", agent="dma")):
        assert fleet.fleet.highstate(fleet.db1.fqdn) == {}
        assert password(fleet.db1) == secret
        assert fleet.db1.run("ss -Hltn").stdout == ""
        assert fleet.db1.run("stat -c '%a %G' /etc/dma/auth.conf").stdout == "640 mail\n"
        send(fleet.db1, "root", "by dma to a person of ours")
        fleet.server.wait("ann@fleet.example", "by dma to a person of ours")
        send(fleet.db1, PERSON, "by dma to the outside")
        assert came(sink, "by dma to the outside").mail_from == "root@db1.other.example"
        other = "0" * 64
        fleet.db1.run(f"sed -i 's/^FINGERPRINT .*/FINGERPRINT {other}/' /etc/dma/dma.conf")
        send(fleet.db1, PERSON, "by dma to the relay alone")
        until(
            lambda: "fingerprints do not match" in fleet.db1.run("journalctl -t dma").stdout,
            30,
            "the relay is not looked at",
        )
        assert PERSON in fleet.db1.run("mailq").stdout


@pytest.fixture(scope="module")
def zones(lab, fleet):
    """
    A second mail machine, of another domain and selector, and the DNS machine of the fleet, which
    serves what both put into the mine.
    """
    other = lab.machine("trixie", "mail2.second.example")
    ns1 = lab.machine("trixie", "ns1.names.example")
    lab.dns.serve("second.example", HEAD + f"mail2 A {other.address}\n")
    install_salt(lab, other, ns1)
    mine = {"mine_functions": {"mailsrv.dns": []}}
    second = {
        "domains": ["second.example"],
        "accounts": [["eva@second.example", PASSWORD]],
        "mailsrv": {"dkim": {"selector": "second"}},
    }
    fleet.fleet.assign(fleet.mail.fqdn, {**MAIL, **mine})
    fleet.fleet.join(other, ["mailsrv"], {**second, **mine})
    owners = {fleet.mail.fqdn: ["fleet.example"], other.fqdn: ["second.example"]}
    fleet.fleet.join(ns1, ["mailsrv.nsd"], {"mailsrv": {"nsd": {"machines": owners}}})
    fleet.fleet.highstate(other.fqdn)
    for machine in fleet.mail, other:
        fleet.fleet.salt(machine.fqdn, "saltutil.refresh_pillar", "wait=True")
        assert fleet.fleet.salt(machine.fqdn, "mine.update") is True
    changed = fleet.fleet.highstate(ns1.fqdn)
    server = Server(lab, other)
    server.accounts = dict(second["accounts"])
    yield SimpleNamespace(other=server, ns1=ns1, changed=changed)
    for machine in other, ns1:
        machine.stop()


def test_the_dns_machine_serves_the_records_of_every_mail_machine(lab, fleet, zones, sink):
    """Each signs with its own key under its own selector, and the DNS machine alone is asked."""
    assert zones.changed
    assert fleet.fleet.highstate(zones.ns1.fqdn) == {}
    users = {"fleet.example": fleet.server, "second.example": zones.other}
    for domain, server in users.items():
        (user,) = (user for user in server.accounts if user.endswith(f"@{domain}"))
        envelope = came(sink, server.submit(user, [PERSON]))
        found = signatures(lab, envelope.content, zones.ns1.address)
        assert found == [(domain, "rsa-sha256")]
    selectors = {
        domain: [
            record["name"].partition(".")[0]
            for record in fleet.fleet.salt(server.machine.fqdn, "mailsrv.dns")[domain]
            if "._domainkey." in record["name"]
        ]
        for domain, server in users.items()
    }
    assert selectors == {"fleet.example": ["mailsrv"], "second.example": ["second"]}


def test_the_mail_machines_write_to_each_other(fleet, zones):
    message = zones.other.submit("eva@second.example", ["ann@fleet.example"])
    assert fleet.server.wait("ann@fleet.example", message)
