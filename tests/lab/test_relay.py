"""Mail that leaves by a provider's server: Postfix with SASL, and another server of ours."""

import contextlib
import json
import time
from types import SimpleNamespace

import pytest
from passlib.hash import sha512_crypt

from lab import HEAD, RECEIVERS
from server import arrived, parsed, signed_by
from wire import sh, until

pytestmark = pytest.mark.lab

CA = "/etc/ssl/relay.example.pem"
LOGINS = {"user": "us@relay.example", "password": "f1rst: #secret"}
BOUNCE = "Delivery status notification: failed"
CHANGED = "s3cond %secret"
POSTFIX = r"""
set -e
export DEBIAN_FRONTEND=noninteractive
echo postfix postfix/main_mailer_type select No configuration | debconf-set-selections
systemctl disable --now opensmtpd dovecot 2>/dev/null || true
apt-get update -qq
apt-get install -qq --no-install-recommends postfix sasl2-bin libsasl2-modules openssl
cd /etc/postfix
openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.pem -days 30 \
    -subj /CN=smtp.relay.example -addext subjectAltName=DNS:smtp.relay.example 2>/dev/null
cat >main.cf <<END
compatibility_level = 3.6
myhostname = smtp.relay.example
mydestination =
alias_maps =
smtpd_tls_cert_file = /etc/postfix/tls.pem
smtpd_tls_key_file = /etc/postfix/tls.key
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access inline:{
 {refused@elsewhere.example = 550 5.7.1 we do not like him}
 {later@elsewhere.example = 450 4.7.1 the quota of the hour is used up}}
END
mkdir -p sasl
printf 'pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n' >sasl/smtpd.conf
postconf -Me 'submission/inet=submission inet n - n - - smtpd'
postconf -Me 'submissions/inet=submissions inet n - n - - smtpd -o smtpd_tls_wrappermode=yes'
systemctl restart postfix
"""


@pytest.fixture(scope="module")
def provider(lab, server):
    """Postfix on a machine of its own; `server` knows its certificate, and `apply(relay)`."""
    machine = lab.machine("trixie", "smtp.relay.example")
    hosts = f"smtp A {machine.address}\nother A {machine.address}\n"
    lab.dns.serve("relay.example", HEAD + hosts)
    lab.dns.serve("near.example", HEAD + "@ MX 10 mx.elsewhere.example.\n")
    machine.run(POSTFIX)
    server.machine.put(CA, machine.get("/etc/postfix/tls.pem"))

    def password(text):
        command = "saslpasswd2 -p -c -u relay.example us && chgrp postfix /etc/sasldb2"
        machine.run(f"{command} && chmod 640 /etc/sasldb2", input=text)
        # Who is logged in stays so, and smtpd keeps a connection for a while.
        kept = f"ss -Htn dst {machine.address}"
        until(lambda: not server.machine.run(kept).stdout, 60, "a connection is not closed")

    password(LOGINS["password"])
    relay = {"host": "smtp.relay.example", **LOGINS, "ca": CA}
    yield SimpleNamespace(machine=machine, password=password, relay=relay)
    server.write_pillar(server.pillar)
    server.highstate()
    machine.stop()


def applied(server, relay):
    """With that relay in the pillar; returns what a run changes."""
    settings = {**server.pillar.get("mailsrv", {}), "relay": relay}
    server.write_pillar({**server.pillar, "mailsrv": settings})
    return server.highstate()


def by_provider(envelope):
    """Whether a message came by the provider, logged in and under TLS."""
    said = parsed(envelope.content).get_all("received")
    return any("by smtp.relay.example (Postfix) with ESMTPSA" in " ".join(f.split()) for f in said)


def test_all_mail_leaves_by_the_provider_signed_as_ever(lab, server, user, provider, sink):
    changes = applied(server, provider.relay)
    assert set(changes) == {
        *("mailsrv-opensmtpd-relays", "mailsrv-opensmtpd-config", "mailsrv-opensmtpd-service")
    }
    assert server.highstate() == {}
    (envelope,) = arrived(sink, server.submit(user, ["x@elsewhere.example"]))
    assert by_provider(envelope)
    assert envelope.mail_from == user
    assert signed_by(lab, envelope.content) == {user.partition("@")[2]}
    # What an alias forwards for a stranger, and smtps.
    applied(server, {**provider.relay, "port": 465})
    assert server.faults() == {}
    account = {"aliases": {f"away@{user.partition('@')[2]}": "x@elsewhere.example"}}
    settings = {**server.pillar.get("mailsrv", {}), **account, "relay": {**provider.relay}}
    settings["relay"]["tls"] = "smtps"
    server.write_pillar({**server.pillar, "mailsrv": settings})
    server.highstate()
    (envelope,) = arrived(sink, server.deliver([f"away@{user.partition('@')[2]}"]))
    assert by_provider(envelope)
    assert envelope.mail_from.startswith("SRS0=")


def test_what_the_provider_refuses_is_told_with_its_words(server, user, provider):
    applied(server, provider.relay)
    server.submit(user, ["refused@elsewhere.example"])
    with_words = bounce(server, user, "refused@elsewhere.example")
    assert "refused@elsewhere.example: 550 5.7.1" in with_words
    assert "we do not like him" in with_words
    server.submit(user, ["later@elsewhere.example"])
    words = "the quota of the hour is used up"
    said = until(
        lambda: words in (text := server.salt("mailcheck.run", check=False)["queue"]) and text,
        30,
        "the queue does not say why",
    )
    assert "waiting, the oldest for 0 minutes: 450 4.7.1" in said
    assert words in json.dumps(server.salt("mailsrv.trace", "later@elsewhere.example"))
    empty(server)


def bounce(server, user, address):
    """The bounce of what that user has sent to an address; it is removed."""

    def found():
        texts = map(str, server.fetch(user, BOUNCE))
        return next((text for text in texts if address in text), None)

    text = until(found, 60, f"no bounce of {address} comes")
    server.machine.run(["doveadm", "expunge", "-u", user, "mailbox", "INBOX", "subject", BOUNCE])
    return text


def empty(server):
    """Remove what waits."""
    listed = server.machine.run("smtpctl show queue").stdout.splitlines()
    for line in listed:
        server.machine.run(f"smtpctl remove {line.partition('|')[0]}", check=False)


def tried_again(server, sink, subject):
    """Try what waits, and whether it came. A server that failed is left alone for a while."""
    server.machine.run("smtpctl schedule all", check=False)
    time.sleep(1)
    return any(parsed(envelope.content)["subject"] == subject for envelope in sink.messages)


def test_a_changed_password_is_named_and_taken_by_the_next_run(
    server, user, provider, sink, request
):
    applied(server, provider.relay)
    (check,) = [name for name in server.salt("mailcheck.run", check=False) if "relay s" in name]
    request.addfinalizer(lambda: provider.password(LOGINS["password"]))
    provider.password(CHANGED)
    subject = server.submit(user, ["x@elsewhere.example"])
    faults = server.faults()
    assert list(faults) == [check]
    assert faults[check].startswith("FAULT: refuses the login: 535 5.7.8 ")
    waits = "smtpctl show queue"
    until(lambda: "Network error" in server.machine.run(waits).stdout, 60, "it does not wait")
    changes = applied(server, {**provider.relay, "password": CHANGED})
    assert changes["mailsrv-opensmtpd-service"]["changes"] == {"updated": ["/etc/mail/relays"]}
    assert set(changes) == {"mailsrv-opensmtpd-relays", "mailsrv-opensmtpd-service"}
    assert server.faults() == {}
    until(lambda: tried_again(server, sink, subject), 90, "what waited is not sent")
    (envelope,) = arrived(sink, subject)
    assert by_provider(envelope)
    secrets = [LOGINS["password"], CHANGED]
    assert not any(secret in json.dumps(changes) for secret in secrets)
    patterns = " ".join(f"-e '{secret}'" for secret in secrets)
    found = server.machine.run(f"grep -rlF {patterns} /etc /var/log /var/cache/salt* /var/lib /run")
    assert [name for name in found.stdout.split() if "/pillar/" not in name] == ["/etc/mail/relays"]
    assert not any(secret in server.machine.run("journalctl -o cat").stdout for secret in secrets)


def test_a_certificate_for_another_name_keeps_the_mail_here(server, user, provider, sink):
    applied(server, {**provider.relay, "host": "other.relay.example"})
    before = len(sink.messages)
    server.submit(user, ["x@elsewhere.example"])
    waits = "smtpctl show queue"
    until(lambda: "Network error" in server.machine.run(waits).stdout, 60, "it does not wait")
    (said,) = server.faults().values()
    assert said.startswith("FAULT: its certificate is not trusted: Hostname mismatch")
    assert len(sink.messages) == before
    empty(server)


def test_domains_have_ways_of_their_own(lab, server, user, provider, sink):
    domain = user.partition("@")[2]
    ways = {"senders": {domain: provider.relay}, "recipients": {"near.example": "direct"}}
    applied(server, ways)
    other = next((name for name in server.accounts if not name.endswith(f"@{domain}")), None)
    subjects = {
        server.submit(user, ["x@elsewhere.example"]): (user, True),
        server.submit(user, ["x@near.example"]): (user, False),
    }
    if other:
        subjects[server.submit(other, ["x@elsewhere.example"])] = (other, False)
    for envelope, (sender, by) in zip(arrived(sink, *subjects), subjects.values(), strict=True):
        assert by_provider(envelope) == by
        assert signed_by(lab, envelope.content) == {sender.partition("@")[2]}
    assert server.salt("mailsrv.explain", "x@near.example")["leaves by"].startswith("the MX of")
    # Without the key, nothing is left of it.
    server.write_pillar(server.pillar)
    assert "mailsrv-opensmtpd-relays" in server.highstate()
    assert server.highstate() == {}
    assert server.machine.run("ls /etc/mail/relays", check=False).returncode
    (envelope,) = arrived(sink, server.submit(user, ["x@elsewhere.example"]))
    assert not by_provider(envelope)


def answers(server):
    with contextlib.suppress(OSError):
        return server.submission().quit()


def test_tls_is_demanded_of_some_domains(lab, server, user, provider, sink):
    """Near has no TLS, and what far has, this machine does not trust until it knows its CA."""
    lab.dns.serve("far.example", HEAD + "@ MX 10 smtp.relay.example.\n")
    settings = {**server.pillar.get("mailsrv", {}), "tls_required": ["near.example", "far.example"]}
    server.write_pillar({**server.pillar, "mailsrv": settings})
    server.highstate()
    before = len(sink.messages)
    for address in ("x@near.example", "x@far.example"):
        server.submit(user, [address])
    waits = "smtpctl show queue"
    until(lambda: server.machine.run(waits).stdout.count("Network error") == 2, 30, "none waits")
    assert len(sink.messages) == before
    told = [
        json.dumps(server.salt("mailsrv.trace", f"x@{name}.example")) for name in ("near", "far")
    ]
    assert "TLS required but not supported by remote host" in told[0]
    assert "certificate verif" in told[1]
    assert "by TLS with a verified" in server.salt("mailsrv.explain", "x@far.example")["leaves by"]
    empty(server)
    own = "/usr/local/share/ca-certificates/far.crt"
    renew = "update-ca-certificates --fresh && systemctl restart opensmtpd"
    server.machine.run(f"cp {CA} {own} && {renew}")
    until(lambda: answers(server), 30, "smtpd does not answer")
    server.submit(user, ["x@far.example"])
    # It takes mail of those who log in alone: it was spoken to.
    assert "x@far.example: 554 5.7.1" in bounce(server, user, "x@far.example")
    server.machine.run(f"rm {own}; {renew}")
    server.write_pillar(server.pillar)
    server.highstate()
    assert "-tls" not in server.machine.get("/etc/smtpd.conf")


@contextlib.contextmanager
def closed(machine):
    """While it is entered, nothing of that machine reaches a port 25 elsewhere."""
    table = f"ip netns exec {machine.network.name} iptables"
    rule = "OUTPUT -p tcp --dport 25 ! -o lo -j DROP"
    sh(f"{table} -I {rule}")
    try:
        yield
    finally:
        sh(f"{table} -D {rule}")


def test_a_closed_port_25_is_found(lab, server, sink):
    check = "port 25 outward"
    server.write_pillar(server.pillar)
    server.highstate()
    assert server.salt("mailcheck.run", check=False)[check].startswith("skipped: DNS does not tell")
    try:
        for domain in RECEIVERS:
            lab.dns.serve(domain, HEAD + "@ MX 10 mx.elsewhere.example.\n")
        assert server.salt("mailcheck.run", check=False)[check] == "ok"
        with closed(server.machine):
            began = time.monotonic()
            faults = server.faults()
            assert time.monotonic() - began < 30
        assert list(faults) == [check]
        assert "closes port 25" in faults[check]
        assert "mailsrv:relay" in faults[check]
    finally:
        for domain in RECEIVERS:
            lab.dns.serve(domain, HEAD + "@ MX 0 .\n")


def test_another_server_of_ours_is_the_provider(lab, one, two, sink):
    domain = two.pillar["domains"][0]
    user = next(name for name in two.accounts if name.endswith(f"@{domain}"))
    digest = sha512_crypt.using(rounds=5000, salt="saltsalt").hash(CHANGED)
    certificate = one.machine.get("/etc/mail/tls/mail.one.example.crt")
    two.machine.put("/etc/ssl/one.pem", certificate)
    relay = {"host": "mail.one.example", "user": domain, "password": CHANGED}
    relay["ca"] = "/etc/ssl/one.pem"
    with one.having(satellites={domain: {"hash": digest}}), two.having(relay=relay):
        assert two.faults() == {}
        (envelope,) = arrived(sink, two.submit(user, ["x@elsewhere.example"]))
        received = parsed(envelope.content).get_all("received")
        assert "by mail.one.example (OpenSMTPD) with ESMTPSA" in " ".join(received[0].split())
        assert domain in signed_by(lab, envelope.content)
