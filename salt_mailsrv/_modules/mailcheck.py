"""
Checks of the live machine and of live DNS: what the pillar promises against what is there.
"""

import base64
import collections
import concurrent.futures
import contextlib
import contextvars
import email.utils
import hashlib
import imaplib
import ipaddress
import os
import re
import shlex
import smtplib
import socket
import ssl
import threading
import time
import uuid

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding
from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    from dns import exception, flags, message, query, rcode, rdatatype, resolver
except ImportError:
    resolver = None

__virtualname__ = "mailcheck"

HOST = "127.0.0.1"
# To both daemons it is somebody from outside, other than all addresses of the machine itself. Linux
# has it on every machine, FreeBSD does not.
STRANGER = "127.0.0.2"
TIMEOUT = 10  # seconds for one answer
PATIENCE = 30  # seconds for a message to arrive
MARK = "X-Mailcheck"  # the header field of the messages that are sent
LIMIT = 45  # seconds for all checks together, which run side by side

PORTS = {
    25: ("SMTP", "STARTTLS"),
    465: ("SMTP", "TLS"),
    587: ("SMTP", "STARTTLS"),
    110: ("POP3", "STARTTLS"),
    995: ("POP3", "TLS"),
    143: ("IMAP", "STARTTLS"),
    993: ("IMAP", "TLS"),
    4190: ("ManageSieve", "STARTTLS"),
}
RENEWAL = 21  # days; ACME clients renew at 30
FULL = 3  # percent of a disk that is free
QUEUE_AGE = 4 * 3600  # seconds; then smtpd(8) tells the sender that a message waits

RESOLV_CONF = "/etc/resolv.conf"
DNS_TIMEOUT = 2  # seconds for one answer of a name server
RESOLVER_TIMEOUT = 6  # seconds for one of the system's resolver
DNS_PATIENCE = 40  # seconds for all answers together
MAX_ALIASES = 8  # from one CNAME to the next


def __virtual__():
    return __virtualname__


def run(queue=100, free=10):
    """
    Look at the whole machine, as a client, a stranger and a user do.

    Services; every port, what it offers before and after TLS, and the certificate that it serves
    against the one on the disk; that nobody relays; a message sent and read back; the DKIM
    signature of every domain against the public key on the disk; queue and disks. The messages go
    to an account of the pillar and are removed again. What has not ended after 45 seconds is a
    fault, and nothing waits for it.

    queue
        Messages that wait, from which on it is a warning. Default: 100.

    free
        Percent of a disk that should be free. Default: 10; less than 3 is a fault.

    Returns a text by check: ``ok``, or ``ok:`` and a note, ``skipped:``, ``WARNING:`` or ``FAULT:``
    and what is wrong and what to do. The exit status is 1 where there is a fault.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.run
        salt-call mailcheck.run queue=1000 --out=json
    """
    facts = __salt__["mailsrv.facts"]()
    mined = __salt__["mailsrv.mined"](__pillar__)
    model = __salt__["mailsrv.model"](__pillar__, __grains__["fqdn"], facts, mined)
    names = ["opensmtpd", "dovecot", model["dkim"]["signer"], *["rspamd"] * model["rspamd"]]
    daemons = [facts[name] for name in dict.fromkeys(names)]
    checks = {f"service {d['service']}": (_service, d) for d in daemons if "service" in d}
    checks["certificate"] = (_certificate, model)
    for port, (protocol, how) in PORTS.items():
        name = f"port {port}, {protocol if port not in (465, 587) else 'submission'} with {how}"
        checks[name] = (_port, port, model)
    checks["no open relay"] = (_relay, model["domains"][0])
    # One that forwards would send the messages out, too.
    addresses = sorted((a["address"] for a in model["accounts"]), key=model["aliases"].__contains__)
    if addresses:
        checks[f"a message to {addresses[0]}, in by SMTP and out by IMAP"] = (
            _round_trip,
            addresses[0],
        )
        checks["DKIM signatures"] = (_signatures, addresses[0], model)
    checks["queue"] = (_queue, queue)
    smtpd = facts["opensmtpd"]
    for path, reserve in ((facts["vmail"]["home"], 0), (smtpd["spool"], smtpd["spool_free"])):
        checks[f"disk of {path}"] = (_disk, path, free, reserve)
    checks["leftovers"] = (_leftovers,)
    result = _together(checks)
    # cmd.* left the status of the last command they ran, such as "not running", in there.
    fault = any(said.startswith("FAULT") for said in result.values())
    __context__["retcode"] = 1 if fault else 0
    return result


def dns(domain=None, skip=None):
    """
    Look at DNS: the records that the pillar and the keys of this machine want against those that
    every authoritative server shows.

    domain
        One of the pillar's domains. Absent: all of them.

    skip
        What not to look at, beside ``mailsrv:dns:skip``: a list of types (``SRV``), names
        (``_dmarc.example.com``) or both (``example.com MX``).

    Returns by domain ``ok`` or a list of findings as :func:`compare` makes them. The exit status is
    1 where something ``required`` is missing, wrong, too much or could not be asked.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.dns
        salt-call mailcheck.dns example.com skip='[SRV, example.com MX]' --out=json
    """
    facts = __salt__["mailsrv.facts"]()
    model = _model(facts, skip)
    skipped = {tuple(entry) for entry in model["dns"]["skip"]}
    wanted, asked = __salt__["mailsrv.dns"](domain), {}
    for home, records in wanted.items():
        asked[home] = [
            (name, kind)
            for name, kind in _questions(home, records, model, facts["dkim"]["directory"])
            if not {(name, kind), (name, ""), ("", kind)} & skipped
        ]
    answers = _ask(dict.fromkeys(question for home in asked.values() for question in home))
    result = {}
    for home, questions in asked.items():
        live = {
            f"{name} {kind}": {
                server: answer.fault or list(answer.values)
                for server, answer in answers[name, kind].items()
            }
            for name, kind in questions
        }
        result[home] = compare(wanted[home], live) or "ok"
    findings = [finding for found in result.values() if found != "ok" for finding in found]
    needs = {finding["need"] for finding in findings}
    __context__["retcode"] = 1 if "required" in needs else 0
    return result


def compare(records, live):
    """
    The records that are wanted against those that name servers show.

    records
        A list of records as :func:`mailsrv.records` makes them.

    live
        What was seen: by question (``example.com MX``) and server the list of values, or, as text,
        why the server could not be asked. A record that was not asked for is not missed; what is
        shown where none is wanted, may be superfluous.

    Returns a list of findings: ``fault`` is ``missing``, ``wrong``, ``superfluous`` or ``unknown``
    (could not be asked), ``need`` is ``required`` or ``recommended``; ``name`` and ``type`` of the
    record; ``desired``, the value to publish; ``live``, the values that are shown instead or too
    much; ``servers`` that show it so; ``says``, all of it in a sentence. Required ones come first.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.dns
    """
    wanted = {}
    for record in records:
        wanted.setdefault((_absolute(record["name"]), record["type"]), []).append(record)
    found, unknown = {}, {}
    for question, servers in live.items():
        name, kind = question.split()
        for server, values in servers.items():
            if isinstance(values, str):
                unknown.setdefault((server, values), []).append((name, kind))
                continue
            for finding in _differences(name, kind, server, values, wanted, live):
                found.setdefault(finding, []).append(server)
    result = [
        _unknown(server, fault, questions, wanted) for (server, fault), questions in unknown.items()
    ]
    for (fault, name, kind, need, desired, shown, why), servers in found.items():
        asked = [s for s, values in live[f"{name} {kind}"].items() if not isinstance(values, str)]
        who = "every server" if len(servers) == len(asked) else " and ".join(servers)
        result.append(
            {
                "fault": fault,
                "need": need,
                "name": name,
                "type": kind,
                "desired": desired,
                "live": list(shown),
                "servers": servers,
                "says": _SENTENCES[fault].format(who=who, name=name, kind=kind, why=why),
            }
        )
    return sorted(result, key=lambda finding: finding["need"] != "required")


def lacking(name, type, value):
    """
    The authoritative name servers that do not show a record yet.

    Each server of the zone is asked itself, at each of its addresses, since what a resolver
    remembers says nothing about what the world will see. Where an alias (CNAME) stands at the name,
    the servers of its target are asked.

    name
        The record's name, absolute, with or without the last dot.

    type
        The record's type: A, AAAA, CNAME, MX, PTR, SRV, TLSA or TXT.

    value
        Its value as :func:`mailsrv.dns` gives it. Another spelling of the same is the same: the
        strings that a TXT record is cut into, the order of tags, case where it does not matter.

    Returns a list of sentences, one a server, e.g. ``ns2.example.net (192.0.2.2) still lacks it``
    or ``… does not answer``; empty where every one shows the record. Raises
    ``CommandExecutionError`` where no server can be found or none answers.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.lacking mailsrv._domainkey.example.com TXT 'v=DKIM1; k=rsa; p=MIIB…'
    """
    name, kind = _absolute(name), str(type).upper()
    try:
        wanted = _meaning(name, kind, value)
    except (IndexError, ValueError):
        raise SaltInvocationError(
            f"mailcheck.lacking: {value!r} is not the value of a record of the type {kind}"
        ) from None
    answers = _ask([(name, kind)])[name, kind]
    faults = [f"{server} {answer.fault}" for server, answer in answers.items() if answer.fault]
    if len(faults) == len(answers):
        raise CommandExecutionError(
            f"mailcheck: DNS cannot be asked for {name} {kind}: {'; '.join(faults)}"
        )
    return faults + [
        f"{server} still lacks it"
        for server, answer in answers.items()
        if not answer.fault and wanted not in [_meaning(name, kind, text) for text in answer.values]
    ]


# Checks of the machine. Each returns what it has to say, or raises what is wrong.


def _together(checks):
    """Run all checks at once; one that hangs stays behind in its thread."""
    said, threads = {}, []

    def look(name, check, arguments):
        try:
            note = check(*arguments) or ""
            marked = note.startswith(("WARNING: ", "skipped: "))
            said[name] = note if marked else f"ok: {note}".removesuffix(": ")
        except Exception as exc:  # a check that breaks is no reason not to see the others
            said[name] = f"FAULT: {exc}" if str(exc) else f"FAULT: {type(exc).__name__}"

    for name, (check, *arguments) in checks.items():
        inside = contextvars.copy_context()  # where Salt keeps what __salt__ and the like mean
        thread = threading.Thread(
            target=inside.run, args=(look, name, check, arguments), daemon=True
        )
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + LIMIT
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    late = f"FAULT: did not come to an end within {LIMIT} seconds; look at the log of the mail"
    return {name: said.get(name, late) for name in checks}


def _service(daemon):
    if not __salt__["service.status"](daemon["service"]):
        raise CommandExecutionError(
            f"is not running; start it and see why: salt-call service.start {daemon['service']}"
        )
    if not __salt__["service.enabled"](daemon["service"]):
        raise CommandExecutionError("will not start at boot; run the highstate")


def _on_disk(model):
    """The file with the certificate to serve, and what it is."""
    tls = model["tls"]
    path = tls["sources"].get("cert", tls["cert"])
    if path.startswith("salt://"):
        path = tls["cert"]
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = __salt__["certificate.look"](file.read(), model["hostname"])
    except OSError as exc:
        raise CommandExecutionError(f"{path} cannot be read: {exc.strerror}") from None
    if found["broken"]:
        raise CommandExecutionError(f"{path} {found['broken'][0][1]}")
    return path, found


def _certificate(model):
    path, found = _on_disk(model)
    if found["doubtful"]:
        faults = "; ".join(sentence for _, sentence in found["doubtful"])
        raise CommandExecutionError(f"{path} {faults}")
    note = f"until {found['until'][:10]}"
    if found["days"] < RENEWAL:
        return (
            f"WARNING: {path} ends in {found['days']} days; the log of the ACME client says why it "
            "is not renewed"
        )
    if model["tls"]["self_signed"]:
        return f"self-signed, {note}; mail clients ask whether to trust it"
    for port in (465, 993):
        context = ssl.create_default_context()
        # Mail clients are not so strict: "CA cert does not include key usage extension".
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            with (
                socket.create_connection((HOST, port), TIMEOUT) as plain,
                context.wrap_socket(plain, server_hostname=model["hostname"]) as secured,
            ):
                _leave(secured, PORTS[port][0])
        except ssl.SSLCertVerificationError as exc:
            return (
                f"WARNING: this machine itself does not trust what port {port} serves: "
                f"{exc.verify_message}; name the file with the whole chain in mailsrv:tls:cert"
            )
    return note


_Talk = collections.namedtuple("_Talk", ("greeting", "ask", "answer", "tls", "bye"))

# How each protocol greets, tells what it offers, starts TLS and ends. An answer ends with the line
# that begins as it says here.
_TALKS = {
    "SMTP": _Talk(r"\d{3} ", "EHLO localhost", r"\d{3} ", "STARTTLS", "QUIT"),
    "IMAP": _Talk(r"\* ", "a CAPABILITY", "a ", "b STARTTLS", "c LOGOUT"),
    "POP3": _Talk(r"[+-]", "CAPA", r"\.|-", "STLS", "QUIT"),
    "ManageSieve": _Talk("OK|NO|BYE", "CAPABILITY", "OK|NO|BYE", "STARTTLS", "LOGOUT"),
}
_STARTED = re.compile(r"220 |b OK|\+OK|OK")
_PASSWORDS = re.compile(r'AUTH[ =]|^USER$|SASL"? "?PLAIN', re.MULTILINE)


def _port(port, model):
    protocol, how = PORTS[port]
    talk, source = _TALKS[protocol], _stranger()
    with socket.create_connection((HOST, port), TIMEOUT, source and (source, 0)) as plain:
        if how == "STARTTLS":
            lines = plain.makefile("rb")
            _answer_of(lines, talk.greeting)
            offered = _ask_for(plain, lines, talk.ask, talk.answer)
            if source and _PASSWORDS.search(offered):
                raise CommandExecutionError(
                    "takes passwords before STARTTLS, for all to read; run the highstate"
                )
            if not _STARTED.match(_ask_for(plain, lines, talk.tls, "b |" + talk.greeting)):
                raise CommandExecutionError("does not start TLS; its log says why")
        with _tls().wrap_socket(plain) as secured:
            lines = secured.makefile("rb")
            if how == "TLS" or protocol == "ManageSieve":
                _answer_of(lines, talk.greeting)
            offered = _ask_for(secured, lines, talk.ask, talk.answer)
            served = hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()
            _leave(secured, protocol)
    if bool(_PASSWORDS.search(offered)) == (port == 25):
        raise CommandExecutionError(
            "offers AUTH, which belongs on 465 and 587 alone; run the highstate"
            if port == 25
            else "takes no password under TLS; run the highstate"
        )
    path, found = _on_disk(model)
    if served != found["fingerprint"]:
        raise CommandExecutionError(
            f"serves another certificate (SHA-256 {served[:16]}…) than stands in {path} "
            f"({found['fingerprint'][:16]}…): run the highstate; if that has nothing to change, "
            "restart the service"
        )


def _answer_of(lines, end):
    answer = []
    for line in lines:
        answer.append(line.decode("ascii", "replace").rstrip())
        if re.match(end, answer[-1]):
            return "\n".join(answer)
    raise CommandExecutionError("closed the connection; its log says why")


def _ask_for(connection, lines, command, end):
    connection.sendall(f"{command}\r\n".encode())
    return _answer_of(lines, end)


def _leave(secured, protocol):
    """Say goodbye and hear it, or smtpd(8) logs: unexpected eof while reading."""
    secured.sendall(f"{_TALKS[protocol].bye}\r\n".encode())
    with contextlib.suppress(OSError):
        while secured.recv(4096):
            pass


def _stranger():
    """The address of a stranger, where this machine has one to come from."""
    with socket.socket() as probe:
        try:
            probe.bind((STRANGER, 0))
        except OSError:
            return None
    return STRANGER


def _relay(domain):
    source = _stranger()
    if not source:
        return (
            f"skipped: this system has no {STRANGER} to come from as a stranger; try from another "
            "machine whether port 25 takes mail for a domain that is not yours"
        )
    for sender in ("mailcheck@relay.invalid", f"postmaster@{domain}"):
        with smtplib.SMTP(HOST, 25, timeout=TIMEOUT, source_address=(source, 0)) as smtp:
            smtp.ehlo()
            if smtp.mail(sender)[0] == 250 and smtp.rcpt("mailcheck@elsewhere.invalid")[0] == 250:
                raise CommandExecutionError(
                    f"port 25 takes mail from {sender} for anywhere, from anybody: an open relay; "
                    "run the highstate, then look for spam: smtpctl show queue"
                )
    for port in (465, 587):
        client = smtplib.SMTP_SSL if port == 465 else smtplib.SMTP
        options = {"context": _tls()} if port == 465 else {}
        with client(HOST, port, timeout=TIMEOUT, source_address=(source, 0), **options) as smtp:
            if port == 587:
                smtp.starttls(context=_tls())
            smtp.ehlo()
            if smtp.mail("mailcheck@relay.invalid")[0] != 530:
                raise CommandExecutionError(
                    f"port {port} takes mail without a password; run the highstate"
                )
    return None


def _round_trip(address):
    subject = f"mailcheck {uuid.uuid4()}"
    with smtplib.SMTP(HOST, 25, timeout=TIMEOUT) as smtp:
        smtp.sendmail("", [address], _message(address, address, subject))
    _received(address, [subject])


def _received(address, subjects):
    """The messages with these subjects, as they come; they are removed."""
    result = {}
    # Dovecot's own IMAP process, logged in by root: no password is needed.
    command = f"timeout {LIMIT} doveadm exec imap -u {shlex.quote(address)} 2>/dev/null"
    with imaplib.IMAP4_stream(command) as imap:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            imap.select("INBOX")
            for subject in {*subjects} - result.keys():
                uid = imap.uid("SEARCH", "SUBJECT", f'"{subject}"')[1][0].decode()
                if uid:
                    fetched = imap.uid("FETCH", uid, "(BODY.PEEK[])")[1]
                    # Between the lines comes what other sessions do to other messages.
                    result[subject] = next(item[1] for item in fetched if isinstance(item, tuple))
                    _remove(imap, uid)
            if len(result) == len(subjects):
                # Those that came too late for a check of before.
                late = imap.uid("SEARCH", "HEADER", MARK, "yes", "OLDER", "300")[1][0].decode()
                if late:
                    _remove(imap, late.replace(" ", ","))
                return result
            time.sleep(0.2)
    raise CommandExecutionError(
        f"did not come to the inbox of {address} within {PATIENCE} seconds; see: smtpctl show "
        "queue, the mail log, and whether a filter of that user moved it"
    )


def _remove(imap, uids):
    imap.uid("STORE", uids, "+FLAGS.SILENT", r"(\Deleted)")
    imap.uid("EXPUNGE", uids)  # not what the user has marked


def _message(sender, address, subject):
    # Whole, or a spam filter would put it aside.
    head = {
        "From": f"<{sender}>",
        "To": f"<{address}>",
        "Subject": subject,
        "Date": email.utils.formatdate(),
        "Message-ID": email.utils.make_msgid(domain=sender.partition("@")[2]),
        MARK: "yes",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{lines}\r\nIs  this signed?\r\n"


def _signatures(address, model):
    """Hand a message from each domain to the signer, as smtpd(8) does with mail that leaves."""
    keys = _public_keys(__salt__["mailsrv.signing"](model))
    port = 10027 if model["dkim"]["signer"] == "dkimproxy" else 25
    subjects = {domain: f"mailcheck {uuid.uuid4()}" for domain in model["domains"]}
    with smtplib.SMTP(HOST, port, timeout=TIMEOUT) as smtp:
        for domain, subject in subjects.items():
            smtp.sendmail("", [address], _message(f"mailcheck@{domain}", address, subject))
    received = _received(address, list(subjects.values()))
    faults = [
        f"{domain}: {fault}"
        for domain, subject in subjects.items()
        if (fault := _signature_fault(received[subject], domain, keys))
    ]
    if faults:
        raise CommandExecutionError("; ".join(faults))
    return f"verified for {', '.join(subjects)}"


def _public_keys(keys):
    """The records on the disk that publish the keys, as tags, by their names in DNS."""
    result = {}
    for key in keys:
        with open(key["public"], encoding="ascii") as file:
            line = file.read()
        record = _tags("".join(re.findall(r'"([^"]*)"', line)))
        for domain in key["domains"]:
            result[f"{line.split()[0]}.{domain}"] = record
    return result


def _signature_fault(message, domain, keys):
    """Why a message is not well signed for a domain (RFC 6376); empty where it is."""
    head, _, body = message.partition(b"\r\n\r\n")
    fields = [field.partition(b":") for field in re.split(rb"\r\n(?![ \t])", head)]
    fields = [(name.strip().lower(), value) for name, _, value in fields]
    signatures = [value for name, value in fields if name == b"dkim-signature"]
    tags = [_tags(re.sub(r"\s", "", value.decode("ascii", "replace"))) for value in signatures]
    if domain not in [signed.get("d") for signed in tags]:
        return "is not signed; is the signer configured for it? run the highstate"
    for value, signed in zip(signatures, tags, strict=True):
        name = f"{signed['s']}._domainkey.{signed['d']}"
        if name not in keys:
            return f"is signed with a key that is not on the disk: {name}"
        if signed.get("c") != "relaxed/relaxed":
            return f"is signed in the form c={signed.get('c')}, which does not outlive its way"
        if base64.b64decode(signed["bh"]) != hashlib.sha256(_relaxed_body(body)).digest():
            return f"the text was changed after it was signed by {name}"
        try:
            _verify(_signed_data(fields, value, signed["h"]), signed, keys[name])
        except InvalidSignature:
            return (
                f"the signature does not fit the public key of {name} on the disk: the signer has "
                "another key; restart it, and run the highstate"
            )
    return ""


def _verify(data, signed, key):
    public, signature = base64.b64decode(key["p"]), base64.b64decode(signed["b"])
    if signed["a"] == "ed25519-sha256":  # RFC 8463
        digest = hashlib.sha256(data).digest()
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, digest)
    else:
        rsa = serialization.load_der_public_key(public)
        rsa.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())


def _signed_data(fields, signature, listed):
    """The header fields that were signed, from the last of a name upwards, and the signature's."""
    rest, data = list(reversed(fields)), b""
    for name in listed.lower().encode().split(b":"):
        found = next((field for field in rest if field[0] == name), None)
        if found:
            rest.remove(found)
            data += _relaxed(*found) + b"\r\n"
    unsigned = re.sub(rb"((?:^|;)\s*b\s*=)[^;]*", rb"\1", signature)
    return data + _relaxed(b"dkim-signature", unsigned)


def _relaxed(name, value):
    """RFC 6376, section 3.4.2."""
    return name + b":" + re.sub(rb"\s+", b" ", value).strip()


def _relaxed_body(body):
    """RFC 6376, section 3.4.4."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def _queue(most):
    ran = __salt__["cmd.run_all"](
        ["smtpctl", "show", "queue"], python_shell=False, timeout=TIMEOUT, ignore_retcode=True
    )
    if ran["retcode"]:
        raise CommandExecutionError(f"smtpctl does not show it: {ran['stderr'] or ran['stdout']}")
    return _queued(ran["stdout"], most, time.time())


def _queued(listing, most, now):
    """What to say of a listing of smtpctl(8): a line for each recipient of a message."""
    entries = [line.split("|") for line in listing.splitlines()]
    count = len({fields[0][:8] for fields in entries})  # the half of the id that is the message's
    if not count:
        return "empty"
    oldest = max(0, now - min(int(fields[7]) for fields in entries))
    age = f"{oldest / 3600:.0f} hours" if oldest >= 2 * 3600 else f"{oldest / 60:.0f} minutes"
    note = f"{count} waiting, the oldest for {age}"
    if count >= most or oldest >= QUEUE_AGE:
        return f"WARNING: {note}; see why: smtpctl show queue"
    return note


def _disk(path, free, reserve=0):
    status = os.statvfs(path)
    room = status.f_bavail * status.f_frsize
    if room < reserve:
        raise CommandExecutionError(
            f"{room >> 20} MB free; mail is refused with 452 below {reserve >> 20} MB: make room"
        )
    left = 100 * status.f_bavail / status.f_blocks
    what = "of the space"
    if status.f_files and 100 * status.f_favail / status.f_files < left:
        left, what = 100 * status.f_favail / status.f_files, "of the inodes"
    note = f"{left:.0f} % {what} free"
    if left < min(FULL, free):
        raise CommandExecutionError(f"{note}; mail is refused when it is full: make room")
    return f"WARNING: {note}; make room" if left < free else note


def _leftovers():
    found = __salt__["mailsrv.leftovers"]()
    if not found:
        return None
    return f"mail of {len(found)} accounts that are gone; salt-call mailsrv.leftovers lists it"


def _tls():
    """TLS without a look at the certificate: it may be self-signed, and never names an address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# Asking DNS. A name is written in lower case and without its last dot.

_Answer = collections.namedtuple("_Answer", ("values", "alias", "fault"), defaults=((), "", ""))


def _ask(questions):
    """
    What every authoritative server answers: by question (name, type) an `_Answer` by server.

    The system's resolver is asked only who these servers are. Where it cannot tell, the one
    `_Answer` is its own, with the fault.
    """
    if resolver is None:
        raise CommandExecutionError(
            "mailcheck: the Python library dnspython is missing where Salt runs; install it with: "
            "salt-pip install dnspython (or, in Salt's venv, pip install dnspython)"
        )
    try:
        local = resolver.Resolver(RESOLV_CONF)
    except resolver.NoResolverConfiguration:
        raise CommandExecutionError(
            f"mailcheck: {RESOLV_CONF} names no resolver to ask for the name servers"
        ) from None
    local.cache = resolver.LRUCache()
    deadline = time.monotonic() + DNS_PATIENCE
    answers, ahead = {}, list(questions)
    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        for _ in range(MAX_ALIASES):
            answers |= _ask_once(ahead, local, deadline, pool)
            targets = [
                (answer.alias, kind)
                for name, kind in ahead
                for answer in answers[name, kind].values()
                if answer.alias
            ]
            ahead = [target for target in dict.fromkeys(targets) if target not in answers]
    return {question: _followed(question, answers, MAX_ALIASES) for question in questions}


def _followed(question, answers, steps):
    """The answers to a question by server: in place of an alias those of its target's servers."""
    result = {}
    for server, answer in answers[question].items():
        target = (answer.alias, question[1])
        if not answer.alias:
            result[server] = answer
        elif steps and target in answers:
            result |= _followed(target, answers, steps - 1)
        else:
            result[server] = _Answer(fault=f"leads from alias to alias, at last {answer.alias}")
    return result


def _ask_once(questions, local, deadline, pool):
    names = list(dict.fromkeys(name for name, _ in questions))
    found = pool.map(lambda name: _servers(name, local, deadline), names)
    found = dict(zip(names, found, strict=True))
    answers, turns, silent = {question: {} for question in questions}, {}, {}
    for name, kind in questions:
        zone, servers, fault = found[name]
        if fault:
            answers[name, kind]["the resolver"] = _Answer(fault=fault)
        for server, address in servers.items():
            # In turn to each server, so that one that is silent keeps one thread waiting.
            turns.setdefault((zone, server, address), []).append((name, kind))

    def ask(turn):
        zone, _, address = turn
        return [_answer(*asked, zone, address, silent, deadline) for asked in turns[turn]]

    for turn, given in zip(turns, pool.map(ask, turns), strict=True):
        for asked, answer in zip(turns[turn], given, strict=True):
            answers[asked][turn[1]] = answer
    return answers


def _servers(name, local, deadline):
    """The zone of a name, the addresses of its servers by what they are called, or a fault."""
    servers = {}
    try:
        zone = resolver.zone_for_name(
            f"{name}.", resolver=local, lifetime=_left(deadline, RESOLVER_TIMEOUT)
        )
        if len(zone) < 3:
            return "", {}, "knows no zone for it: is the domain registered and delegated?"
        found = local.resolve(zone, "NS", lifetime=_left(deadline, RESOLVER_TIMEOUT))
        for host in sorted(_absolute(server.target) for server in found):
            addresses = _addresses(host, local, deadline)
            # A server of both protocols is asked by the one that this machine has.
            usable = [address for address in addresses if _routed(address)] or addresses
            servers |= {f"{host} ({address})": address for address in usable}
            if not usable:
                servers[host] = None
    except exception.DNSException as exc:
        return "", {}, f"does not tell its name servers: {_words(exc)}"
    return _absolute(zone), servers, ""


def _addresses(host, local, deadline):
    found = []
    for kind in ("A", "AAAA"):
        with contextlib.suppress(resolver.NXDOMAIN, resolver.NoAnswer, resolver.NoNameservers):
            answer = local.resolve(f"{host}.", kind, lifetime=_left(deadline, RESOLVER_TIMEOUT))
            found += [record.address for record in answer]
    return found


def _routed(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 53))  # sends nothing
        except OSError:
            return False
    return True


def _answer(name, kind, zone, address, silent, deadline):
    """The answer of the server at an address, which is noted as `silent` where it gives none."""
    if address is None:
        return _Answer(fault="has no address")
    if address in silent:
        return silent[address]
    try:
        reply = _exchange(name, kind, address, deadline)
    except (exception.DNSException, OSError, EOFError) as exc:
        silent[address] = _Answer(fault=f"does not answer: {_words(exc)}")
        return silent[address]
    if reply.rcode() not in (rcode.NOERROR, rcode.NXDOMAIN):
        return _Answer(fault=f"does not serve {zone}: {rcode.to_text(reply.rcode())}")
    if not reply.flags & flags.AA:
        # So does a network that answers in the place of every server.
        return _Answer(fault=f"answers for {zone} without authority")
    values, alias = [], ""
    for found in reply.answer:
        if _absolute(found.name) == name:
            if found.rdtype == rdatatype.from_text(kind):
                values = [_text(record) for record in found]
            elif found.rdtype == rdatatype.CNAME:
                alias = _absolute(found[0].target)
    return _Answer(values, alias)


def _exchange(name, kind, address, deadline):
    """Ask by UDP, and by TCP where the answer is cut off or does not come."""
    asked = message.make_query(f"{name}.", kind, use_edns=0, payload=1232)
    asked.flags &= ~flags.RD
    for _ in range(2):
        with contextlib.suppress(exception.Timeout):
            return query.udp_with_fallback(asked, address, _left(deadline), ignore_unexpected=True)[
                0
            ]
    return query.tcp(asked, address, _left(deadline))


def _left(deadline, most=DNS_TIMEOUT):
    """The seconds that one answer may take."""
    return min(most, max(0, deadline - time.monotonic()))


def _words(exc):
    if isinstance(exc, exception.Timeout):
        return "time is up"
    # Without the name that was asked for: one thing to say, however many names there are.
    return getattr(exc, "strerror", None) or getattr(exc, "msg", None) or exc.__class__.__name__


def _text(record):
    """A record's value as `mailsrv.dns` writes it."""
    if record.rdtype == rdatatype.TXT:
        return b"".join(record.strings).decode("ascii", "backslashreplace")
    return record.to_text()


# Comparing

_SENTENCES = {
    "missing": "{name} {kind} is missing at {who}: {why}",
    "wrong": "{name} {kind} is wrong at {who}: {why}",
    "superfluous": "{name} {kind} is one too many at {who}: {why}; remove it",
}

# What is wrong with a record that nobody wants, by its kind, and how bad that is.
_SUPERFLUOUS = {
    "SPF": ("required", "with two SPF records receivers take neither"),
    "DMARC": ("recommended", "with two DMARC records receivers take neither"),
    "DKIM": ("recommended", "no key of this server signs under this selector"),
    "second DKIM": ("required", "of two keys under one selector receivers may take the other"),
    "MTA-STS": ("recommended", "there is no such policy in the pillar"),
    "TLS-RPT": ("recommended", "with two TLS-RPT records nobody reports"),
    "MX": ("required", "mail goes to that host, too"),
    "SRV": ("recommended", "mail clients go to that host, too"),
    "A": ("required", "mail goes to that address, too"),
    "AAAA": ("required", "mail goes to that address, too"),
    "TLSA": (
        "required",
        "other servers insist on its key, and mailsrv:dns:dane does not say that it is ours",
    ),
}


def _model(facts, skip):
    """The model of the pillar, with more to skip as if it stood there."""
    mined = __salt__["mailsrv.mined"](__pillar__)
    model = __salt__["mailsrv.model"](__pillar__, __grains__["fqdn"], facts, mined)
    if not skip:
        return model
    settings = __pillar__.get("mailsrv") or {}
    given = settings.get("dns") or {}
    more = [*(given.get("skip") or []), *(skip if isinstance(skip, list) else [skip])]
    pillar = {**__pillar__, "mailsrv": {**settings, "dns": {**given, "skip": more}}}
    return __salt__["mailsrv.model"](pillar, __grains__["fqdn"], facts, mined)


def _questions(domain, records, model, key_directory):
    """What to ask for a domain: its records, and where those may stand that are not wanted."""
    hostname = model["hostname"]
    questions = [(_absolute(record["name"]), record["type"]) for record in records]
    questions.append((f"_mta-sts.{domain}", "TXT"))
    # The records of keys stay beside them: of those in use, and of those of before.
    for directory in filter(os.path.isdir, (key_directory, f"{key_directory}/{domain}")):
        questions += [
            (f"{name.removesuffix('.public')}._domainkey.{domain}", "TXT")
            for name in sorted(os.listdir(directory))
            if re.fullmatch(r"[a-z0-9.-]+\.public", name)
        ]
    if (hostname, "TXT") in questions:
        questions += [(hostname, "A"), (hostname, "AAAA"), (f"_25._tcp.{hostname}", "TLSA")]
    for record in records:
        if record["type"] == "CNAME":
            names = (_absolute(record["name"]), _absolute(record["value"]))
            questions += [(name, kind) for name in names for kind in ("A", "AAAA")]
    return list(dict.fromkeys(questions))


def _differences(name, kind, server, values, wanted, live):
    """What a server shows otherwise than wanted at one name, as the beginnings of findings."""
    desired, rest = wanted.get((name, kind), []), list(values)
    lost = []
    for record in desired:
        meaning = _meaning(name, kind, record["value"])
        same = [value for value in rest if _meaning(name, kind, value) == meaning]
        if same:
            rest.remove(same[0])
        elif kind != "CNAME" or not _leads(name, server, record["value"], live):
            lost.append(record)
    sorts = [_sort(name, record["value"]) for record in desired]
    rivals = [v for v in rest if kind != "TXT" or (_sort(name, v) in sorts and _sort(name, v))]
    for record in lost:
        fault = "wrong" if rivals else "missing"
        yield fault, name, kind, record["need"], record["value"], tuple(rivals), record["why"]
    if lost:
        return
    for value in rest:
        sort = _sort(name, value) if kind == "TXT" else kind
        if sort in _SUPERFLUOUS and _too_much(name, kind, sort, value, desired, wanted):
            need, why = _SUPERFLUOUS["second DKIM" if sort == "DKIM" and desired else sort]
            yield "superfluous", name, kind, need, None, (value,), why


def _too_much(name, kind, sort, value, desired, wanted):
    if kind in ("A", "AAAA"):
        # Of the mail host; the host of the web is asked only where an alias leads to it.
        return bool(wanted.keys() & {(name, "A"), (name, "AAAA")})
    if kind == "TLSA":
        return not desired  # one of several may be for the next key
    if sort == "DKIM":
        return bool(desired or _tags(value)["p"])  # a revoked key may stay
    return bool(desired) or sort == "MTA-STS"


def _leads(name, server, target, live):
    """Whether a server has, in place of the alias, addresses of its target and no others."""
    target, here, there = _absolute(target), set(), set()
    for kind in ("A", "AAAA"):
        own = live.get(f"{name} {kind}", {}).get(server, [])
        here |= {*own} if isinstance(own, list) else set()
        for values in live.get(f"{target} {kind}", {}).values():
            there |= {*values} if isinstance(values, list) else set()
    return bool(here) and here <= there


def _unknown(server, fault, questions, wanted):
    """One finding for all that could not be asked of a server for one reason."""
    needs = {record["need"] for question in questions for record in wanted.get(question, [])}
    name, kind = questions[0]
    more = f" and {len(questions) - 1} more" if len(questions) > 1 else ""
    return {
        "fault": "unknown",
        "need": "required" if "required" in needs else "recommended",
        "name": name,
        "type": kind,
        "desired": None,
        "live": [],
        "servers": [server],
        "says": f"{server} {fault}; it was asked for {name} {kind}{more}",
    }


# What a record says, in a form that is equal where the meaning is


def _absolute(name):
    return str(name).rstrip(".").lower()


def _meaning(name, kind, text):
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(text))
    if kind == "MX":
        return _absolute(text.split()[1])  # of one host, the preference means nothing
    if kind == "SRV":
        return tuple(_absolute(word) for word in text.split()[2:])  # nor do priority and weight
    if kind == "TLSA":
        usage, selector, matching, *digest = text.lower().split()
        return usage, selector, matching, "".join(digest)
    if kind != "TXT":
        return _absolute(text)
    sort = _sort(name, text)
    if sort == "SPF":
        return _spf(name, text)
    if sort == "DKIM":
        return _dkim(_tags(text))
    return _tagged(_tags(text)) if sort else text


def _sort(name, text):
    """Which of mail's TXT records it is; empty where it is somebody else's."""
    if "._domainkey." in name:  # RFC 6376, section 3.6.1: the version may be left out
        return "DKIM" if "p" in _tags(text) else ""
    version = re.split(r"[\s;]", text.strip().lower(), maxsplit=1)[0]
    sorts = {"v=spf1": "SPF", "v=dmarc1": "DMARC", "v=tlsrptv1": "TLS-RPT", "v=stsv1": "MTA-STS"}
    return sorts.get(version, "")


def _tags(text):
    """A list of `tag=value;` as a dictionary (RFC 6376, section 3.2)."""
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return {tag.strip().lower(): value.strip() for tag, _, value in pairs}


def _dkim(tags):
    """RFC 6376, section 3.6.1. For mail as ours is signed, `t=s` and notes make no difference."""
    listed = {
        tag: set(re.split(r"[\s:]+", tags.get(tag, default).lower()))
        for tag, default in (("h", "sha256"), ("s", "*"), ("t", ""))
    }
    return (
        tags.get("k", "rsa").lower(),
        re.sub(r"\s", "", tags["p"]),
        "sha256" in listed["h"],
        bool({"*", "email"} & listed["s"]),
        "y" in listed["t"],
    )


# RFC 7489, section 6.3: what a tag says that is not there.
_TAG_DEFAULTS = {"adkim": "r", "aspf": "r", "fo": "0", "pct": "100", "rf": "afrf", "ri": "86400"}


def _tagged(tags):
    """The tags of DMARC (RFC 7489), TLS-RPT (RFC 8460) or MTA-STS (RFC 8461)."""
    said = {}
    for tag, value in tags.items():
        if tag in ("rua", "ruf"):
            said[tag] = frozenset(uri.strip().lower() for uri in value.split(","))
        else:
            said[tag] = value if tag == "id" else value.lower()
    if said.get("sp") == said.get("p"):
        said.pop("sp", None)
    return frozenset(said.items() - _TAG_DEFAULTS.items())


def _spf(name, text):
    """
    The terms of an SPF record (RFC 7208).

    The first mechanism that matches decides: those that stand together with one qualifier may
    stand in any order, and what follows `all` is never looked at.
    """
    groups, modifiers, end = [], set(), "?"
    for term in text.split()[1:]:
        term = term if "%" in term else term.lower()
        if re.match(r"[a-z][a-z0-9._-]*=", term):
            modifiers.add(term)
            continue
        qualifier, mechanism = (term[0], term[1:]) if term[0] in "+-~?" else ("+", term)
        if mechanism == "all":
            end = qualifier
            modifiers = {other for other in modifiers if not other.startswith("redirect=")}
            break
        if not groups or groups[-1][0] != qualifier:
            groups.append((qualifier, set()))
        groups[-1][1].add(_mechanism(name, mechanism))
    return tuple((sign, frozenset(group)) for sign, group in groups), frozenset(modifiers), end


def _mechanism(name, mechanism):
    word, _, target = mechanism.partition(":")
    if word in ("ip4", "ip6"):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_network(target, strict=False))
    return word if word in ("a", "mx") and _absolute(target) == name else mechanism.rstrip(".")
