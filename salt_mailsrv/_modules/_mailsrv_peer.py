"""
Another mail machine, as a stranger sees it. Whatever is there, each talk has an end: in time, and
in how much is heard.
"""

import contextlib
import errno
import functools
import ipaddress
import re
import smtplib
import socket
import ssl
import time
import uuid

import _mailsrv_checking as checking
import _mailsrv_disk as disk
import _mailsrv_leaving as leaving
import _mailsrv_talking as talking
from _mailsrv import allowed, names, peer, probe, receipt, records, resolve
from salt.exceptions import CommandExecutionError, SaltInvocationError

ASK = 8  # seconds for what has to be known before
CONNECT = 8  # seconds for a connection
BYE = 2  # seconds to hear it
TALK = 18  # seconds for all talks with a port
LIMIT = 60  # seconds for a machine, whatever is there
HEARD = 65536  # bytes of one talk
FOREIGN = ("mailcheck@elsewhere.invalid", "mailcheck@example.com")
WHO = "see there what listens: ss -ltnp (FreeBSD: sockstat -l)"
TLS = re.compile("STARTTLS|STLS")
FIRST = {"SMTP": r"\d{3}[ -]", "IMAP": r"\* ", "POP3": r"\+OK", "ManageSieve": '"|OK'}


class Strange(Exception):
    """What is there speaks another protocol, or too much."""


class Line:
    """A talk in lines."""

    def __init__(self, connection, deadline, way):
        self.connection, self.deadline, self.way = connection, deadline, way
        self._rest, self._left = b"", HEARD

    def ask(self, command, end=None):
        """The lines of the answer, up to one that begins so."""
        self.connection.sendall(f"{command}\r\n".encode())
        return self.answer(end or self.way.answer)

    def answer(self, end, first=None):
        """The same of what is said unasked."""
        lines = []
        while True:
            while b"\n" not in self._rest:
                self._hear()
            line, _, self._rest = self._rest.partition(b"\n")
            lines.append(line.decode("ascii", "replace").rstrip())
            if first and not re.match(first, lines[0]):
                raise Strange(f"speaks another protocol: {peer.quoted(lines[0])}; {WHO}")
            if re.match(end, lines[-1]):
                return "\n".join(lines)

    def code(self, command):
        """The code and the words of an answer of SMTP."""
        last = self.ask(command).split("\n")[-1]
        return int(last[:3]), last[4:]

    def _hear(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        said = self.connection.recv(4096)
        self._left -= len(said)
        if not said:
            raise Strange("hangs up in the middle; its log says why")
        if self._left < 0:
            raise Strange(f"talks without an end; {WHO}")
        self._rest += said


@contextlib.contextmanager
def _talk(port, address, host, context, deadline):
    """A talk under TLS, what was offered before it, and the greeting."""
    way, early, greeting = talking.WAYS[port.protocol], "", ""
    wait = max(0.1, min(CONNECT, deadline - time.monotonic()))
    with socket.create_connection((address, port.number), wait) as plain:
        if port.tls == "STARTTLS":
            line = Line(plain, deadline, way)
            greeting = line.answer(way.greeting, FIRST[port.protocol])
            early = line.ask(way.ask)
            if not TLS.search(early):
                raise Strange(
                    "offers no TLS: run the highstate there; if mailcheck.run there finds it, a "
                    "firewall in between takes it away: let it inspect mail no more"
                )
            if not talking.STARTED.match(line.ask(way.tls, "b |" + way.greeting)):
                raise Strange("does not start TLS; its log says why")
        plain.settimeout(max(0.1, deadline - time.monotonic()))
        with context.wrap_socket(plain, server_hostname=host) as secured:
            line = Line(secured, deadline, way)
            if port.tls == "TLS" or port.protocol == "ManageSieve":
                greeting = line.answer(way.greeting, FIRST[port.protocol])
            yield line, early, greeting
            line.deadline = min(deadline, time.monotonic() + BYE)
            with contextlib.suppress(OSError, Strange):
                line.ask(way.bye, "221|c |[+-]|OK|BYE")


def seen(port, address, host):
    """What a port shows, a :class:`_mailsrv.peer.Seen`."""
    deadline, distrust = time.monotonic() + TALK, ""
    try:
        context = ssl.create_default_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            found = _offers(port, address, host, context, deadline)
        except ssl.SSLCertVerificationError as exc:
            distrust = exc.verify_message or "it is not valid"
            found = _offers(port, address, host, talking.unverified(), deadline)
        old = _old(port, address, host, deadline)
        return found._replace(distrust=distrust, old=old)
    except ConnectionRefusedError:
        return peer.Seen(port.number, closed="refused")
    except Strange as exc:
        return peer.Seen(port.number, fault=str(exc))
    except ssl.SSLError as exc:
        what = peer.quoted(exc.reason or "no TLS")
        return peer.Seen(port.number, fault=f"does not speak TLS as it should: {what}; {WHO}")
    except TimeoutError:
        if time.monotonic() < deadline - 1:
            return peer.Seen(port.number, closed="silent")
        late = f"answers, but was not done after {TALK} seconds; {WHO}"
        return peer.Seen(port.number, fault=late)
    except OSError as exc:
        if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
            return peer.Seen(port.number, closed="no way")
        return peer.Seen(
            port.number, fault=f"breaks off: {peer.quoted(exc.strerror or exc)}; its log says why"
        )


def _offers(port, address, host, context, deadline):
    with _talk(port, address, host, context, deadline) as (line, early, greeting):
        offered = line.ask(line.way.ask)
        words = greeting.split("\n")[-1][4:].split()
        return peer.Seen(
            port.number,
            name=words[0].lower() if port.protocol == "SMTP" and words else "",
            early=bool(talking.PASSWORDS.search(early)),
            passwords=bool(talking.PASSWORDS.search(offered)),
            leaf=ssl.DER_cert_to_PEM_cert(line.connection.getpeercert(binary_form=True)),
        )


def _old(port, address, host, deadline):
    """The version of TLS that it takes and should not; empty where it takes none."""
    context = talking.unverified()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        contextlib.suppress(OSError, Strange),
        _talk(port, address, host, context, deadline) as (line, *_),
    ):
        return line.connection.version()
    return ""


def look(host, to, functions, grains):
    """What :func:`mailcheck.peer` returns; `functions` and `grains` are Salt's."""
    begun = time.monotonic()
    own = {*grains.get("ipv4", ()), *grains.get("ipv6", ())}
    if host is not None and names.domain(host) is None:
        raise SaltInvocationError(f"mailcheck.peer: {peer.quoted(host)!r} is not a host name")
    to = to if to is None else str(to)
    if to is not None and names.address(to if "@" in to else f"{to}@a.example") is None:
        raise SaltInvocationError(f"mailcheck.peer: to={peer.quoted(to)!r} is not an address")
    if host is None and "@" in str(to):
        raise SaltInvocationError(
            f"mailcheck.peer: to={peer.quoted(to)!r} is of one machine: name its host, or write "
            "to=postmaster, whom each machine has"
        )
    asked = {
        name: functools.partial(functions["mine.get"], "*", f"mailsrv.{name}")
        for name in ("certificate", "dns")
    }
    mined = {
        name: f
        for name, f in checking.gather(asked, min(ASK, LIMIT)).items()
        if isinstance(f, dict)
    }
    known = peer.machines(mined.get("certificate", {}), mined.get("dns", {}))
    if host is not None:
        return _one(names.domain(host), to, known, functions, own, begun + LIMIT)
    if not known:
        raise SaltInvocationError(
            "mailcheck.peer: the mine knows no mail machine; name a host, or run the highstate of "
            "the mail machines"
        )
    result, listed = {}, sorted(known)
    for start in range(0, len(listed), peer.MOST):
        part, until = listed[start : start + peer.MOST], time.monotonic() + LIMIT
        calls = {
            name: functools.partial(_one, name, to, known, functions, own, until) for name in part
        }
        late = {"all": f"FAULT: did not come to an end within {LIMIT} seconds; ask for it alone"}
        result |= dict.fromkeys(part, late) | checking.gather(calls, LIMIT)
    return result


def _one(host, to, known, functions, own, until):
    """By check what it says; it ends at that moment of the monotonic clock at the latest."""
    machine = known.get(host)
    asked = {kind: functools.partial(_addresses, host, kind) for kind in ("A", "AAAA")}
    asked["domains"] = functools.partial(_guessed, host)
    found = checking.gather(asked, min(ASK, until - time.monotonic()))
    domains = [*machine.domains] if machine else []
    domains = (domains or found.pop("domains", []))[: peer.MOST]
    found.pop("domains", None)
    if fault := next((f for f in found.values() if isinstance(f, str)), ""):
        return {"addresses": f"FAULT: {fault}"}
    addresses = [address for listed in found.values() for address in listed][: peer.ADDRESSES]
    if not addresses:
        return {"addresses": "FAULT: DNS has no address for it; see mailcheck.dns there"}
    if own & {*addresses}:
        return {"addresses": "skipped: it is this machine; mailcheck.run looks at it from inside"}
    here = [a for a in addresses if resolve.routed(a)]
    result = {
        f"address {a}": "skipped: this machine has no way there" for a in addresses if a not in here
    }
    checks = {f"reverse of {a}": (_reverse, a, host) for a in here}
    checks["no open relay"] = (_asked, _relay, here, host, (domains or [host])[0])
    for domain in domains:
        checks[f"recipients of {domain}"] = (_asked, _recipients, here, host, domain)
        listed = machine.domains.get(domain, []) if machine else []
        checks[f"mail from {domain}"] = (_sending, domain, listed, host, addresses)
    if to is not None:
        to = to if "@" in to else f"{to}@{(domains or [host])[0]}"
        checks[f"a message to {to}, and its receipt"] = (_receipt, to, host, functions)
    # All at once: what does not end takes no time from the others.
    ports = {(port.number, a): (port, a) for a in here for port in records.PORTS}
    calls = {at: functools.partial(_seen, *ports[at], host) for at in ports}
    calls |= {name: functools.partial(checking.said, *check) for name, check in checks.items()}
    found = checking.gather(calls, until - time.monotonic() - 1)
    shown = {
        at: found.get(at, peer.Seen(at[0], fault="comes to no end; see the load there"))
        for at in ports
    }
    for (number, a), seen_there in shown.items():
        result[f"port {number} of {a}"] = peer.port(seen_there, ports[number, a][0].protocol, host)
    look_at = functools.partial(_looked, functions["certificate.look"], host)
    result["certificate"] = peer.certificate(shown.values(), look_at, machine, host)
    if not domains:
        result["domains"] = "skipped: neither the mine nor DNS tells whose mail it takes"
    late = "FAULT: did not come to an end; see the load there, and what its DNS servers answer"
    result |= {name: found.get(name, late) for name in checks}
    return {name: re.sub(r"[^ -~]", "?", said) for name, said in result.items()}


def _addresses(host, kind):
    """Its addresses, or why they are not known, as text."""
    try:
        return resolve.known(host, kind)
    except LookupError as exc:
        return peer.quoted(exc, 3 * peer.QUOTED)


def _seen(port, address, host):
    found = seen(port, address, host)
    if port.number == 25 and found.closed == "silent":
        return found._replace(outward=_outward())
    return found


def _looked(look_at, host, pem):
    try:
        return look_at(pem, host)
    except Exception as exc:  # others made it
        return {"broken": [("cert", f"cannot be read: {exc}")], "doubtful": []}


def _outward():
    try:
        return None if leaving.port_25(8) else True
    except CommandExecutionError:
        return False


def _guessed(host):
    """Of the host's own names those whose mail it takes."""
    labels = host.split(".")
    above = [".".join(labels[i:]) for i in range(min(3, len(labels) - 1))]
    with contextlib.suppress(LookupError):
        return [name for name in above if host in resolve.exchangers(name)]
    return []


def _reverse(address, host):
    name = ipaddress.ip_address(address).reverse_pointer
    pointers = [value.rstrip(".").lower() for value in resolve.known(name, "PTR")][:4]
    kind = "AAAA" if ":" in address else "A"
    forward = {
        name: resolve.known(name, kind) for name in pointers if names.domain(name) is not None
    }
    return _raised(peer.reverse(address, pointers, forward, host))


def _asked(ask, addresses, host, domain):
    """What comes of asking on port 25, at the first address that talks there."""
    for address in addresses:
        deadline = time.monotonic() + TALK
        talk = _talk(records.PORTS[0], address, host, talking.unverified(), deadline)
        with contextlib.suppress(OSError, Strange), talk as (line, *_):
            line.code("EHLO localhost")
            return _raised(ask(line, host, domain))
    return "skipped: port 25 does not talk as far as that"


def _relay(line, host, domain):
    answers = {}
    for sender in ("mailcheck@relay.invalid", f"postmaster@{domain}", ""):
        if line.code(f"MAIL FROM:<{sender}>")[0] == 250:
            answers[sender or "<>"] = [line.code(f"RCPT TO:<{to}>")[0] for to in FOREIGN]
        line.code("RSET")
    return peer.relaying(answers)


def _recipients(line, host, domain):
    bounce = line.code("MAIL FROM:<>")
    postmaster = line.code(f"RCPT TO:<postmaster@{domain}>")
    unknown = line.code(f"RCPT TO:<mailcheck-{uuid.uuid4().hex[:12]}@{domain}>")
    line.code("RSET")
    return peer.recipients(domain, bounce, postmaster, unknown)


def _sending(domain, listed, host, addresses):
    policy, keys = peer.senders(domain, listed)
    faults = [] if host in resolve.exchangers(domain) else [f"no MX record leads to {host}"]
    for name, wanted in [*keys.items()][:8]:
        if why := peer.signing(name, resolve.known(name, "TXT"), wanted):
            faults.append(why)
    spf = {a: allowed.result(a, domain, resolve.known) for a in addresses}
    meant = {a: allowed.result(a, domain, resolve.known, policy) for a in addresses if policy}
    return _raised(peer.sending(domain, spf, meant, faults))


def _receipt(to, host, functions):
    """Send a message to an address there, and judge the receipt."""
    known = functions["mailsrv.here"]()
    users = [] if known["faults"] else probe.users(known["model"])
    if not users:
        return "skipped: this machine has no mailbox that a receipt could come to"
    if host not in resolve.exchangers(to.rpartition("@")[2]):
        return f"skipped: no MX record leads mail for {to} to {host}"
    key, subject, user = talking.mark_key(known["facts"]), f"mailcheck {uuid.uuid4()}", users[0]
    text, wanted = probe.message(user, to, subject, key), ["NOTIFY=SUCCESS,FAILURE"]
    try:
        with smtplib.SMTP("127.0.0.1", 25, timeout=CONNECT) as smtp:
            smtp.sendmail(user, [to], text, ["RET=HDRS"], wanted)
    except (OSError, smtplib.SMTPException) as exc:
        return (
            f"WARNING: this machine here does not send: {peer.quoted(exc)}; mailcheck.run says why"
        )
    begun = time.monotonic()
    message = talking.receipt(user, probe.mark(subject, key), receipt.MOST)
    if message is None:
        return _raised(receipt.missing(to, host, _waits(to)))
    try:
        found = receipt.read(message, known["model"]["hostname"])
    except Exception:  # somebody else wrote it
        return _raised("FAULT: what came back cannot be read; see the log there")
    keys = {}
    for name in found.names:
        listed = resolve.known(name, "TXT")
        keys |= {name: listed[0]} if len(listed) == 1 else {}
    unsigned = receipt.unsigned(message, found, keys)
    spf = ("", "")
    if found.address and found.domain:
        spf = allowed.result(found.address, found.domain, resolve.known)
    return _raised(receipt.judged(found, unsigned, spf, host, time.monotonic() - begun))


def _waits(to):
    """Why messages to an address wait here; None where none does."""
    reasons = [entry["reason"] for entry in disk.queue(CONNECT) if entry["recipient"] == to]
    return reasons[-1] if reasons else None


def _raised(said):
    """What the judgement says, as a check says it."""
    if said.startswith("FAULT: "):
        raise CommandExecutionError(said.removeprefix("FAULT: "))
    return said.removeprefix("ok").removeprefix(": ")
