"""Mail between two servers that `./bootstrap` made, their DNS as they printed it, and the world."""

import contextlib
import imaplib
import json
import poplib
import re
import smtplib
import socket
import ssl
import time

import pytest
import yaml

from server import CHECKOUT, PILLAR, arrived, parsed, signed_by
from wire import until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def began():
    """When the first of these tests did, in seconds since 1970."""
    return time.time()


def test_bootstrap_tells_what_it_does_and_what_to_do_next(server):
    assert "==> Applying the pillar" in server.output
    assert "FAULT" not in server.output
    assert "port 993, TLS" in server.output
    assert "v=DKIM1" in server.output


def test_bootstrap_prints_lines_that_a_terminal_shows_whole(server):
    """But for a name that is longer: the zone has lines of one record each."""
    lines = [line.expandtabs() for line in server.output.splitlines()]
    assert [line for line in lines if len(line) > 80] == [
        line for line in lines if line.startswith("; in another zone: ") and len(line) > 80
    ]


def test_bootstrap_lists_what_it_did_by_id_and_no_command(server):
    listed = re.findall(r"^    Changed  (\S+) \((\w+)\.\w+\)$", server.output, re.MULTILINE)
    assert {"mailsrv-dovecot-service", "mailsrv-opensmtpd-service"} <= {name for name, _ in listed}
    assert len(listed) == int(re.search(r"changed=(\d+)", server.output)[1])
    assert "cmd" not in {kind for _, kind in listed}
    assert "Name: " not in server.output


def test_bootstrap_says_what_the_pillar_is_worth_to_know(two):
    """The run itself hides its notes: nothing was changed."""
    users = two.machine.get(two.pillar_file)
    pillar, name = yaml.safe_load(users), "two.example.lan"
    settings = {**pillar.get("mailsrv", {}), "hostname": name}
    two.machine.put(two.pillar_file, json.dumps({**pillar, "mailsrv": settings}))
    try:
        said = two.machine.run(f"cd {CHECKOUT} && ./bootstrap --test").stdout
    finally:
        two.machine.put(two.pillar_file, users)
    assert f"mailsrv:hostname: {name} is a name of internal networks" in " ".join(said.split())


def test_bootstrap_shows_where_the_pillar_is_no_yaml(two):
    """In the lines before Salt's traceback; and no word of domains, which it could not read."""
    users = two.machine.get(two.pillar_file)
    seed = {key: value for key, value in yaml.safe_load(users).items() if key != "mailsrv"}
    text = f"{yaml.safe_dump(seed)}mailsrv:\n  hostname: {two.machine.fqdn}\n  quota 5G\n"
    two.machine.put(two.pillar_file, text)
    try:
        ran = two.machine.run(f"cd {CHECKOUT} && ./bootstrap", check=False)
    finally:
        two.machine.put(two.pillar_file, users)
    assert ran.returncode != 0
    assert f"line {len(text.splitlines())}, column 3" in ran.stderr
    assert "the pillar cannot be read" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "domains" not in ran.stderr


def test_bootstrap_makes_a_pillar_of_this_machine_with_secrets_of_its_own(two):
    assert set(two.accounts) == {"user1@two.example", "users2@two.example"}
    assert not {"pass1", "pass2"} & set(two.accounts.values())
    assert all(password in two.output for password in two.accounts.values())
    assert two.machine.run(f"stat -c %a {CHECKOUT}/pillar/mail/users.sls").stdout == "600\n"


def test_a_second_run_changes_nothing(server):
    assert server.again == []


def test_a_run_after_a_restart_of_the_machine_changes_nothing(server):
    assert server.highstate() == {}


def test_a_second_bootstrap_changes_nothing(two):
    again = two.machine.run(f"cd {CHECKOUT} && ./bootstrap").stdout
    assert re.search(r"Succeeded: \d+$", again, re.MULTILINE)
    assert not any(password in again for password in two.accounts.values())


def test_the_own_check_passes(server):
    assert server.faults() == {}


@pytest.mark.parametrize("port", [993, 143])
def test_mail_from_outside_is_read_by_imap(server, user, port):
    subject = server.deliver([user])
    server.wait(user, subject)
    with server.imap(user, port=port) as imap:
        imap.select()
        assert imap.search(None, "SUBJECT", f'"{subject}"')[1][0]


def test_an_office_behind_one_router_reads_its_mail(server, user):
    """Dovecot's own limit is ten connections of a user from one address."""
    with contextlib.ExitStack() as sessions:
        for _ in range(20):
            assert sessions.enter_context(server.imap(user)).noop()[0] == "OK"


@pytest.mark.parametrize("port", [465, 993, 995])
def test_no_key_is_exchanged_by_rsa(server, port):
    """What was recorded could be read by whoever gets the server's key, years later."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    where = (server.machine.fqdn, port)
    for ciphers, refused in ("ECDHE", False), ("kRSA", True):
        context.set_ciphers(ciphers)
        raised = pytest.raises(ssl.SSLError) if refused else contextlib.nullcontext()
        with server.lab.outside.call(socket.create_connection, where) as plain, raised:
            context.wrap_socket(plain).close()


@pytest.mark.parametrize("port", [995, 110])
def test_mail_from_outside_is_read_by_pop3(server, user, port):
    subject = server.deliver([user])
    server.wait(user, subject)
    pop3 = server.pop3(user, port=port)
    newest = b"\n".join(pop3.retr(pop3.stat()[0])[1])
    pop3.quit()
    assert subject.encode() in newest


@pytest.mark.parametrize("port", [587, 465])
def test_mail_to_the_outside_leaves_signed_once(lab, server, sink, user, port):
    subject = server.submit(user, ["somebody@elsewhere.example"], port=port)
    (envelope,) = arrived(sink, subject)
    assert envelope.mail_from == user
    assert signed_by(lab, envelope.content) == {user.partition("@")[2]}
    server.idle()
    assert [parsed(e.content)["Subject"] for e in sink.messages].count(subject) == 1


def test_every_domain_has_a_signature_that_verifies(lab, one, sink):
    """The filter signs with the domain of From; all domains share one key."""
    users = ["ann@one.example", "eva@uno.example"]
    subjects = [one.submit(user, ["somebody@elsewhere.example"]) for user in users]
    by_sender = {e.mail_from: signed_by(lab, e.content) for e in arrived(sink, *subjects)}
    assert by_sender == {"ann@one.example": {"one.example"}, "eva@uno.example": {"uno.example"}}


def test_a_signature_survives_what_smtpd_completes_and_rewrites(lab, one, sink):
    headers = {
        "From": '"Ann, of One" <ann@one.example>',
        "To": "somebody@elsewhere.example,\r\n other@elsewhere.example",
        "Cc": "=?utf-8?q?J=C3=B6?= <jo@elsewhere.example>",
    }
    recipients = ["somebody@elsewhere.example"]
    subjects = [
        one.submit("ann@one.example", recipients, port=port, **headers) for port in (587, 465)
    ]
    for envelope in arrived(sink, *subjects):
        assert signed_by(lab, envelope.content) == {"one.example"}
        assert parsed(envelope.content)["Message-ID"]


def test_mail_of_local_programs_leaves_signed(lab, one, sink):
    """No domain, no Date, no Message-ID: as cron(8) writes it."""
    head = "From: root (Cron Daemon)\nTo: somebody@elsewhere.example\nSubject: from cron\n"
    one.machine.run(["sendmail", "-t"], input=f"{head}\nhello\n")
    (envelope,) = arrived(sink, "from cron")
    assert signed_by(lab, envelope.content) == {"one.example"}


def test_the_servers_write_to_each_other(one, two):
    for sender, receiver in (one, two), (two, one):
        user, peer = next(iter(sender.accounts)), next(iter(receiver.accounts))
        message = receiver.wait(peer, sender.submit(user, [peer]))
        assert signed_by(sender.lab, message) == {user.partition("@")[2]}


def test_the_clients_address_does_not_leave(lab, one, sink):
    recipients = ["somebody@elsewhere.example"]
    subjects = [one.submit("ann@one.example", recipients, port=port) for port in (587, 465)]
    for envelope in arrived(sink, *subjects):
        assert lab.outside.address.encode() not in envelope.content
        assert b"mail.one.example" in envelope.content


def test_a_message_to_many_gives_each_exactly_one_copy(one):
    everyone = list(one.accounts)
    subjects = [one.deliver(everyone) for _ in range(10)]
    subjects += [one.submit(everyone[0], everyone) for _ in range(10)]
    for subject in subjects:
        for address in everyone:
            one.wait(address, subject)
    one.idle()
    copies = {(s, a): len(one.fetch(a, s)) for s in subjects for a in everyone}
    assert set(copies.values()) == {1}


def test_local_mail_reaches_a_local_user(one):
    one.machine.run("useradd --create-home local; echo 'root: local' >> /etc/aliases")
    one.machine.run("smtpctl update table aliases")
    one.machine.run(["sendmail", "root"], input="Subject: to root\n\nhello\n")
    one.idle()
    assert "Subject: to root" in one.machine.get("/var/mail/local")


def test_a_subaddress_reaches_its_user(server, user):
    local, _, domain = user.partition("@")
    server.wait(user, server.deliver([f"{local}+tag@{domain}"]))


def test_the_clients_mailboxes_are_there_with_their_uses(server, user):
    with server.imap(user) as imap:
        listed = b"\n".join(imap.list()[1]).decode()
    for name in "Drafts", "Sent", "Trash", "Junk", "Archive":
        assert re.search(rf'\\{name}\b.*"/" "?{name}', listed)


def refused(smtp, sender, recipient):
    smtp.ehlo("client.example")
    assert smtp.mail(sender)[0] == 250
    code, text = smtp.rcpt(recipient)
    return code, text.decode()


def test_an_unknown_recipient_is_refused_to_everybody(server, user):
    unknown = f"nobody@{user.partition('@')[2]}"
    with server.smtp() as smtp:
        assert refused(smtp, "somebody@elsewhere.example", unknown)[0] == 550
    with server.submission() as smtp:
        smtp.login(user, server.accounts[user])
        assert refused(smtp, user, unknown)[0] == 550
    local = server.machine.run(["sendmail", unknown], input="Subject: x\n\nx\n", check=False)
    assert local.returncode
    assert "550" in local.stderr + local.stdout


def test_nothing_is_relayed_for_strangers(server, user):
    with server.smtp() as smtp:
        assert refused(smtp, "somebody@elsewhere.example", "other@elsewhere.example")[0] == 550
        smtp.rset()
        assert smtp.mail(user)[0] == 550


def test_a_wrong_password_and_an_unknown_user_are_refused(server, user):
    for name, password in (user, "wrong"), (f"nobody@{user.partition('@')[2]}", "wrong"):
        with server.submission() as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(name, password)
        with pytest.raises(imaplib.IMAP4.error):
            server.imap(name, password)
        with pytest.raises(poplib.error_proto):
            server.pop3(name, password)


def test_nobody_sends_as_somebody_else(one):
    with one.submission() as smtp:
        smtp.login("ann@one.example", one.accounts["ann@one.example"])
        assert smtp.mail("bob@one.example")[0] == 530


def test_no_password_is_taken_before_tls(lab, server, user):
    fqdn = server.machine.fqdn
    with server.smtp() as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        smtp.starttls()
        smtp.ehlo()
        assert not smtp.has_extn("auth")
    with lab.outside.call(smtplib.SMTP, fqdn, 587) as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.docmd("AUTH", "PLAIN AGFubgBwYXNz")[0] >= 500
        assert smtp.mail(user)[0] == 530
    imap = lab.outside.call(imaplib.IMAP4, fqdn)
    assert "LOGINDISABLED" in imap.capabilities
    with pytest.raises(imaplib.IMAP4.error):
        imap.login(user, server.accounts[user])
    pop3 = lab.outside.call(poplib.POP3, fqdn)
    with pytest.raises(poplib.error_proto):
        pop3.user(user)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("port", [465, 993, 995])
def test_old_tls_is_refused(lab, server, port):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = lab.outside.call(socket.create_connection, (server.machine.fqdn, port))
    with plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain)


def test_a_changed_password_restarts_nothing_and_rewrites_one_account(one):
    old = dict(one.accounts)
    hashes = one.machine.get("/etc/mail/credentials").splitlines()[1:]
    smtpd = one.machine.run("pgrep -o smtpd").stdout
    pillar = {**PILLAR, "accounts": [*PILLAR["accounts"][:2], ["eva@uno.example", "another"]]}
    one.write_pillar(pillar)
    planned, changed = one.highstate("test=True"), one.highstate()
    assert {*changed} == {*planned}
    told = changed["mailsrv-opensmtpd-service"]["changes"]
    assert told == {"updated": ["/etc/mail/credentials"]}
    one.accounts["eva@uno.example"] = "another"
    now = one.machine.get("/etc/mail/credentials").splitlines()[1:]
    assert [a == b for a, b in zip(hashes, now, strict=True)] == [True, True, False]
    assert one.machine.run("pgrep -o smtpd").stdout == smtpd
    one.wait("eva@uno.example", one.submit("eva@uno.example", ["eva@uno.example"]))
    with pytest.raises(imaplib.IMAP4.error):
        one.imap("eva@uno.example", old["eva@uno.example"])
    one.write_pillar(PILLAR)
    one.highstate()
    one.accounts = old


def test_a_faulty_pillar_changes_nothing(one):
    before = one.machine.run("find /etc -newer /etc/smtpd.conf").stdout
    one.write_pillar({**PILLAR, "domains": ["one.example", "uno example"]})
    faults = one.salt("mailsrv.lint", check=False)
    run = one.machine.run(["salt-call", "state.highstate"], check=False)
    one.write_pillar(PILLAR)
    assert faults[0].startswith("domains[1]: 'uno example' is not a domain")
    assert run.returncode
    assert all(fault in run.stdout for fault in faults)
    assert one.machine.run("find /etc -newer /etc/smtpd.conf").stdout == before


def test_the_signers_change_over_with_their_keys_and_records(lab, one, sink):
    archive = one.machine.run(
        f"apt-get install -y python3-dkim >&2 && cd {CHECKOUT}/tests/dkimproxy"
        " && python3 archive.py /srv/dkimproxy.tar.gz"
    )
    records = one.salt("mailsrv.dns")
    archive = {"source": "/srv/dkimproxy.tar.gz", "source_hash": f"sha256={archive.stdout.strip()}"}
    users = {"ann@one.example": {"one.example"}, "eva@uno.example": {"uno.example"}}

    def all_is_well_while_dkimproxy_is(state):
        assert one.highstate() == {}
        service = one.machine.run("systemctl is-active dkimproxy_out", check=False)
        assert service.stdout == f"{state}\n"
        assert one.faults() == {}
        assert one.salt("mailsrv.dns") == records
        subjects = [one.submit(user, ["somebody@elsewhere.example"]) for user in users]
        for envelope in arrived(sink, *subjects):
            assert signed_by(lab, envelope.content) == users[envelope.mail_from]

    def comes_signed_after(cure, *, while_so):
        one.machine.run(while_so)
        waiting = one.submit("eva@uno.example", ["somebody@elsewhere.example"])
        until(
            lambda: "|1|pending|" in one.machine.run("smtpctl show queue").stdout, 30, "not tried"
        )
        assert not [e for e in sink.messages if waiting.encode() in e.content]
        one.machine.run(cure)
        (envelope,) = arrived(sink, waiting)
        assert signed_by(lab, envelope.content) == {"uno.example"}

    with one.having(dkim={"signer": "dkimproxy", "archive": archive}):
        all_is_well_while_dkimproxy_is("active")
        start = "systemctl restart dkimproxy_out"
        comes_signed_after(start, while_so="systemctl stop dkimproxy_out")
        key = "/etc/mail/dkim/uno.example/*.private"
        comes_signed_after(f"chmod u+r {key}; {start}", while_so=f"chmod a-r {key}; {start}")
    all_is_well_while_dkimproxy_is("inactive")
    assert one.faults() == {}


def test_a_protocol_that_is_installed_later_is_served(one):
    """Where packages may not restart services, as in many containers, a reload is not enough."""
    policy = "/usr/sbin/policy-rc.d"
    one.machine.put(policy, "#!/bin/sh\nexit 101\n")
    one.machine.run(
        f"chmod 755 {policy} && apt-get purge -y dovecot-managesieved"
        " && sed -i '/^protocols/s/ sieve//' /etc/dovecot/dovecot.conf && systemctl restart dovecot"
    )
    one.highstate()
    one.machine.run(["rm", policy])
    assert one.highstate() == {}
    assert one.faults() == {}


def test_the_report_counts_what_went_through_and_nobody_else_reads_it(server, user):
    """Also with a `|` in a sender's address: the queue was unreadable, a fault of mailcheck.run."""

    def today():
        figures = server.salt("mailsrv.figures")
        return figures, {**figures["days"][-1], "relay denied": figures["refused"]["relay denied"]}

    with server.smtp() as smtp:
        smtp.ehlo()
        smtp.docmd("MAIL FROM:<a@elsewhere.example>")
        assert smtp.docmd("RCPT TO:<b@elsewhere.example>")[0] == 550
    before = today()[1]
    server.wait(user, server.deliver([user], sender="a|b@elsewhere.example"))
    with server.smtp() as smtp:
        smtp.ehlo()
        for _ in range(2):
            smtp.docmd("MAIL FROM:<a@elsewhere.example>")
            assert smtp.docmd("RCPT TO:<b@elsewhere.example>")[0] == 550
            smtp.rset()
    figures, after = today()
    grown = {name: after[name] - before[name] for name in ("received", "refused", "relay denied")}
    assert grown == {"received": 1, "refused": 2, "relay denied": 2}
    assert figures["checks"]["queue"].startswith("ok")
    boxes = {box["address"]: box for box in figures["mailboxes"]}
    assert boxes[user]["bytes"] > 0
    told = server.salt("mailsrv.report", "/srv/report.html")
    assert told["file"] == "/srv/report.html"
    name = server.machine.fqdn
    assert told[name].startswith(("ok: ", "WARNING: ", "FAULT: "))
    assert server.machine.run("stat -c '%a %U' /srv/report.html").stdout == "600 root\n"
    assert f'<h2 id="{name}">' in server.machine.get("/srv/report.html")


def test_the_stock_mta_is_off(two):
    assert two.machine.run("systemctl is-enabled exim4", check=False).stdout != "enabled\n"
    assert two.machine.run("pgrep exim4", check=False).stdout == ""


def test_a_reboot_brings_everything_back(two):
    two.machine.reboot()
    assert two.faults() == {}


# The package's first start, before its spool exists; our own tests of old TLS, a full mailbox, a
# spam filter or a Dovecot that is down, a host that is not there or restarts, and more mail at once
# than a mailbox takes; Dovecot's words for a stop and for a reload.
EXPECTED = (
    "purge_task: opendir|unsupported protocol|no shared cipher|unexpected message|Quota exceeded"
    "|421 server internal error|Connection closed unexpectedly|silent.example|No route to host"
    "|Dovecot: |Dovecot has gone away|mailbox is full|unexpected eof while reading"
    "|Killed with signal 15|SIGHUP received - reloading|Other deliveries to this mailbox take"
)


def test_the_daemons_have_nothing_to_complain_about(server, began):
    """Since these tests began: others break files and daemons, of the same machine."""
    for unit in "opensmtpd", "dovecot":
        assert len(server.machine.journal(unit).splitlines()) > 10
        lines = server.machine.journal(unit, began).splitlines()
        complaint = re.compile(r"\b(warn|warning|error|fatal|panic)\b", re.IGNORECASE)
        complaints = [line for line in lines if complaint.search(line)]
        assert [line for line in complaints if not re.search(EXPECTED, line)] == []
