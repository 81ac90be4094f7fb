"""Two mail machines look at each other: what none can see of itself, and who is hostile."""

import contextlib
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from authority import Authority, cert_pem, key_pem, trusted
from lab import HEAD
from wire import REVERSE, inside

pytestmark = pytest.mark.lab

PORTS = (25, 465, 587, 993, 143, 995, 110, 4190)


class Pair:
    """A server and another one that looks at it."""

    def __init__(self, server, other):
        self.server, self.other = server, other
        self.machine, self.lab = server.machine, server.lab
        self.user = next(iter(server.accounts))
        self.domain = self.user.partition("@")[2]
        self.zone = server.salt("mailsrv.zone", self.domain)
        smtpd = self.machine.get("/etc/smtpd.conf")
        self.files = re.findall(r'^pki \S+ (?:cert|key) "(.*)"', smtpd, re.M)

    def look(self, *arguments, host=None):
        """What the other one sees, by check."""
        host = host or self.machine.fqdn
        return self.other.salt("mailcheck.peer", host, *arguments, check=False)

    def faults(self, *arguments):
        """The same, of what is not well."""
        found = self.look(*arguments)
        return {name: said for name, said in found.items() if not re.match("ok(:|$)", said)}

    def restart(self):
        self.machine.run("systemctl restart opensmtpd dovecot")
        # It would go on with the connection that it has had.
        self.other.machine.run("systemctl restart opensmtpd")

    def left(self):
        """How many messages are left there, and receipts of them here; they are removed."""
        result = []
        for server, *criteria in (
            (self.server, "SUBJECT", '"mailcheck "'),
            (self.other, "FROM", "MAILER-DAEMON"),
        ):
            with server.imap(next(iter(server.accounts))) as imap:
                imap.select()
                found = imap.search(None, *criteria)[1][0].split()
                for number in found:
                    imap.store(number, "+FLAGS", "\\Deleted")
                imap.expunge()
            result.append(len(found))
        return tuple(result)

    @contextlib.contextmanager
    def changed(self, *paths):
        """While the text of these files is another one; returns them."""
        for path in paths:
            self.machine.run(["cp", "-a", path, f"{path}.before"])
        try:
            yield
        finally:
            for path in paths:
                self.machine.run(["mv", f"{path}.before", path])
            self.restart()


def firewall(host, rule):
    """Change a rule of iptables where the packets of a host pass."""
    with inside(host.network):
        subprocess.run(["iptables", *rule.split()], check=True)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def pair(request, one, two):
    """The server of that Debian, seen from the other one."""
    pair = Pair(one, two) if request.param == "bookworm" else Pair(two, one)
    yield pair
    # The highstate that mended them has kept the files that were broken here.
    pair.server.machine.run("find /etc -name '*.before-mailsrv' -delete")
    pair.server.idle()
    pair.left()


def test_a_machine_that_is_well_and_a_message_that_a_receiver_would_take(pair):
    pair.left()
    found = pair.look(f"to={pair.user}")
    assert found.pop("certificate").startswith("WARNING: self-signed, until ")
    name = f"a message to {pair.user}, and its receipt"
    where = re.escape(pair.machine.address)
    said = found.pop(name)
    assert re.fullmatch(rf"ok: after \d+ s from {where}, signed by {pair.domain}, SPF passes", said)
    assert {said[:2] for said in found.values()} == {"ok"}
    assert {f"port {port} of {pair.machine.address}" for port in PORTS} <= found.keys()
    assert {f"recipients of {pair.domain}", f"mail from {pair.domain}", "no open relay"} <= {*found}
    assert pair.left() == (1, 0)


def test_what_dns_says_of_it(pair):
    """Its provider's PTR record, SPF without it, and a key that is gone."""
    zone = re.sub(r'"v=spf1[^"]*"', '"v=spf1 ip4:192.0.2.1 -all"', pair.zone)
    zone = re.sub(r"^\S*_domainkey(?s:.*?)\n(?=\S)", "", zone, flags=re.M)
    address, number = pair.machine.address, pair.machine.address.rpartition(".")[2]
    try:
        pair.lab.dns.serve(pair.domain, zone)
        pair.lab.dns.serve(REVERSE, HEAD + f"{number} PTR host-7.provider.example.\n")
        found = pair.faults(f"to={pair.user}")
    finally:
        pair.lab.dns.serve(pair.domain, pair.zone)
        pair.lab.serve_reverse()
    found.pop("certificate")
    assert found == {
        f"reverse of {address}": (
            "FAULT: its PTR record says host-7.provider.example, which does not lead back to it; "
            f"let the hosting provider write {pair.machine.fqdn}"
        ),
        f"mail from {pair.domain}": (
            f"FAULT: mail from {address} as {pair.domain} gets SPF fail; see mailcheck.dns there"
        ),
        f"a message to {pair.user}, and its receipt": (
            "FAULT: the receipt came, and is signed with a key that is not in DNS: "
            f"mailsrv._domainkey.{pair.domain}; see mailcheck.dns there"
        ),
    }


@pytest.fixture(scope="module")
def authority(pair):
    """A CA that the other machine trusts."""
    authority = Authority()
    with trusted(pair.other.machine, authority):
        yield authority


def test_what_its_daemons_do(pair, authority):
    """
    AUTH on 25, an open relay, passwords before TLS, mail that nobody signs; and a certificate that
    one of them has not read.
    """
    smtpd, dovecot = "/etc/smtpd.conf", "/etc/dovecot/dovecot.conf"
    for name, pem in zip(("crt", "key"), authority.pems(pair.machine.fqdn), strict=True):
        pair.machine.run(["sh", "-c", 'umask 77; cat >"$0"', f"/root/new.{name}"], input=pem)
    with pair.changed(smtpd, dovecot):
        text = pair.machine.get(smtpd)
        text = re.sub(r"(port 25 tls pki \S+)", r"\1 auth-optional <credentials>", text)
        text = text.replace("listen on socket mask-src filter guard", "listen on socket mask-src")
        text = re.sub(r'^(pki .*)"/\S+(crt|key)"', r'\1"/root/new.\2"', text, flags=re.M)
        pair.machine.put(smtpd, text + '\nmatch from any for any action "relay"\n')
        text = pair.machine.get(dovecot).replace("ssl = required", "ssl = yes")
        text = text.replace("auth_allow_cleartext = no", "auth_allow_cleartext = yes")
        text = text.replace("disable_plaintext_auth = yes", "disable_plaintext_auth = no")
        pair.machine.put(dovecot, text)
        pair.restart()
        found = pair.faults(f"to={pair.user}")
    address = pair.machine.address
    early = "FAULT: takes passwords before TLS, for all to read; run the highstate there"
    assert found == {
        "certificate": (
            "FAULT: one on 25, 465, 587 and another on 110, 143, 993, 995, 4190: run the highstate "
            "there, or restart the service"
        ),
        f"port 25 of {address}": (
            "FAULT: offers AUTH, which belongs on 465 and 587 alone; run the highstate there"
        ),
        "no open relay": (
            "FAULT: port 25 takes mail from mailcheck@relay.invalid for anywhere, from anybody: an "
            "open relay; run the highstate there, then look for spam: smtpctl show queue"
        ),
        f"a message to {pair.user}, and its receipt": (
            "FAULT: the receipt came, and is not signed by its domain: run the highstate there, "
            "see mailcheck.run there"
        ),
        **{f"port {port} of {address}": early for port in (143, 110, 4190)},
    }


def test_its_certificate(pair, authority):
    """Of another name and over, without its chain, and a good one."""
    host, said = pair.machine.fqdn, []
    with pair.changed(*pair.files):
        leaf, key = authority.issue(host)
        for pems in (
            authority.pems("www.elsewhere.example", begins=-90, ends=-1),
            (cert_pem(leaf), key_pem(key)),
            (cert_pem(leaf, authority.intermediate), key_pem(key)),
        ):
            for path, text in zip(pair.files, pems, strict=True):
                pair.machine.run(["sh", "-c", 'cat >"$0"', path], input=text)
            pair.restart()
            said.append(pair.look()["certificate"])
    assert re.fullmatch(
        rf"FAULT: expired on \S+ \S+ UTC; renew it; is for www.elsewhere.example, not for {host}; "
        "get one for that name, or set mailsrv:hostname",
        said[0],
    )
    assert re.fullmatch(
        r"FAULT: port \d+: this machine does not trust it: unable to get local issuer certificate; "
        r"name the file with the whole chain in mailsrv:tls:cert there, until \S+",
        said[1],
    )
    assert re.fullmatch(rf"ok: trusted for {host}, (89|90) days left, until \S+", said[2])


def garbage(connection):
    connection.sendall(b"\x1b[2J\x00\xff\r\n" * 10)


def endless(connection):
    """A line of a gigabyte."""
    with contextlib.suppress(OSError):
        for _ in range(1 << 14):
            connection.sendall(b"2" * (1 << 16))
    heard.append("refused")


def tarpit(connection):
    for byte in b"220 mx.evil.example ESMTP\r\n":
        connection.sendall(bytes([byte]))
        time.sleep(10)


def stripped(connection):
    """A firewall that inspects SMTP."""
    connection.sendall(b"220 ********\r\n")
    connection.recv(99)
    connection.sendall(b"250-mx.evil.example\r\n250-XXXXXXXA\r\n250 SIZE 1000\r\n")
    connection.recv(99)


def hangs_up(connection):
    connection.sendall(b"* OK ready\r\n")
    connection.recv(99)


EVIL = {25: garbage, 587: stripped, 143: hangs_up, 110: endless, 4190: tarpit, 465: garbage}
heard = []


@pytest.fixture(scope="module")
def strangers(lab):
    """A host where other programs listen, and one that answers nothing."""
    evil, shut = lab.host("mx.evil.example"), lab.host("mx.shut.example")
    for host in evil, shut:
        domain = host.fqdn.removeprefix("mx.")
        lab.dns.serve(domain, HEAD + f"@ MX 10 mx\nmx A {host.address}\n")
    firewall(shut, "-A INPUT -p tcp -j DROP")

    def serve(listener, handle):
        def talk(connection):
            with connection, contextlib.suppress(OSError):
                handle(connection)

        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listener.accept()[:1], daemon=True).start()

    listeners = {}
    for port, handle in EVIL.items():
        listeners[port] = evil.call(socket.create_server, (evil.address, port))
        threading.Thread(target=serve, args=(listeners[port], handle), daemon=True).start()
    yield evil, shut
    for listener in listeners.values():
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_firewalls_and_strangers(pair, strangers):
    """
    A provider that lets no mail out and firewalls that take what comes, which no machine sees of
    itself; and programs that mean harm. Each ends within a minute.
    """
    evil, shut = strangers
    heard.clear()
    pair.lab.serve_reverse(leave_out=evil.fqdn)
    rules = ["OUTPUT -p tcp --dport 25 -j DROP", "INPUT -p tcp --dport 465 -j DROP"]
    rules.append("INPUT -p tcp --dport 995 -j REJECT --reject-with icmp-admin-prohibited")
    for rule in rules:
        firewall(pair.machine, f"-A {rule}")
    begun = time.monotonic()
    try:
        with ThreadPoolExecutor() as pool:
            closed = pool.submit(pair.faults, f"to={pair.user}")
            harmful = pool.submit(pair.look, host=evil.fqdn)
            silent = pool.submit(pair.look, host=shut.fqdn)
        assert time.monotonic() - begun < 60
    finally:
        for rule in rules:
            firewall(pair.machine, f"-D {rule}")
        pair.lab.serve_reverse()
        pair.machine.run("smtpctl schedule all")
    closed, harmful, silent = closed.result(), harmful.result(), silent.result()
    address = pair.machine.address
    assert closed[f"port 465 of {address}"] == (
        "FAULT: does not answer: a firewall of it or of its provider throws away what comes; mail "
        "clients send there"
    )
    assert closed[f"port 995 of {address}"] == (
        "WARNING: cannot be reached: its network, or a firewall, says that there is no way; if "
        "POP3 is not meant to be there, all is well"
    )
    assert closed[f"a message to {pair.user}, and its receipt"].startswith(
        f"FAULT: {pair.machine.fqdn} has taken the message, and no receipt came: it does not send"
    )
    assert silent[f"port 25 of {shut.address}"].startswith("FAULT: does not answer: a firewall of")
    who = "see there what listens: ss -ltnp (FreeBSD: sockstat -l)"
    said = {int(name.split()[1]): text for name, text in harmful.items() if name.startswith("port")}
    assert said[25] == f"FAULT: speaks another protocol: ?[2J??; {who}"
    assert said[465] == f"FAULT: does not speak TLS as it should: WRONG_VERSION_NUMBER; {who}"
    assert said[587].startswith("FAULT: offers no TLS: run the highstate there; if mailcheck.run")
    assert said[143] == "FAULT: hangs up in the middle; its log says why"
    assert said[110] == f"FAULT: talks without an end; {who}"
    assert said[4190] == f"FAULT: answers, but was not done after 18 seconds; {who}"
    assert said[993] == (
        "FAULT: is refused: nothing listens there, or a firewall says so; see mailcheck.run there; "
        "mail clients read there"
    )
    assert heard == ["refused"]
    assert harmful[f"reverse of {evil.address}"].startswith("FAULT: has no PTR record, so that")
    assert harmful["certificate"] == "skipped: no port shows one"
    assert all(text.isascii() and text.isprintable() for text in harmful.values())
