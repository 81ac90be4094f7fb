"""
What a port of the mail server says to a client: before TLS, after it, and with which certificate;
to a stranger who wants mail sent on, and to the user of a mailbox.
"""

import contextlib
import hashlib
import imaplib
import re
import shlex
import smtplib
import socket
import ssl
import time
from typing import NamedTuple

import _mailsrv_disk as disk
from _mailsrv import hashes as crypt
from _mailsrv import probe
from salt.exceptions import CommandExecutionError

# To both daemons it is somebody from outside, other than all addresses of the machine itself. Linux
# has it on every machine, FreeBSD does not.
STRANGER = "127.0.0.2"

PATIENCE = 30  # seconds for a message to arrive


class Talk(NamedTuple):
    """What a port showed."""

    early: bool  # whether it takes passwords before TLS, from a stranger
    passwords: bool  # whether it takes them after
    served: str  # the SHA-256 of its certificate


class Way(NamedTuple):
    """How a protocol greets, tells what it offers, starts TLS and ends."""

    greeting: str  # an answer ends with the line that begins so
    ask: str
    answer: str
    tls: str
    bye: str


WAYS = {
    "SMTP": Way(r"\d{3} ", "EHLO localhost", r"\d{3} ", "STARTTLS", "QUIT"),
    "IMAP": Way(r"\* ", "a CAPABILITY", "a ", "b STARTTLS", "c LOGOUT"),
    "POP3": Way(r"[+-]", "CAPA", r"\.|-", "STLS", "QUIT"),
    "ManageSieve": Way("OK|NO|BYE", "CAPABILITY", "OK|NO|BYE", "STARTTLS", "LOGOUT"),
}
STARTED = re.compile(r"220 |b OK|\+OK|OK")
PASSWORDS = re.compile(r'AUTH[ =]|^USER$|SASL"? "?PLAIN', re.MULTILINE)


def look(port, host, timeout, source=None):
    """
    A :class:`Talk` with a port of :data:`_mailsrv.records.PORTS`, from the address `source`, which
    has to be a stranger's to find passwords before TLS. Raises ``CommandExecutionError`` where it
    hangs up or does not start TLS.
    """
    way, early = WAYS[port.protocol], False
    with socket.create_connection((host, port.number), timeout, source and (source, 0)) as plain:
        if port.tls == "STARTTLS":
            lines = plain.makefile("rb")
            _answer(lines, way.greeting)
            early = bool(PASSWORDS.search(_ask(plain, lines, way.ask, way.answer)) and source)
            if not early and not STARTED.match(_ask(plain, lines, way.tls, "b |" + way.greeting)):
                raise CommandExecutionError("does not start TLS; its log says why")
        if early:
            return Talk(early, True, "")
        with unverified().wrap_socket(plain) as secured:
            lines = secured.makefile("rb")
            if port.tls == "TLS" or port.protocol == "ManageSieve":
                _answer(lines, way.greeting)
            offered = _ask(secured, lines, way.ask, way.answer)
            served = hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()
            leave(secured, port.protocol)
    return Talk(early, bool(PASSWORDS.search(offered)), served)


def stranger():
    """The address of a stranger, where this machine has one to come from."""
    with socket.socket() as probe:
        try:
            probe.bind((STRANGER, 0))
        except OSError:
            return None
    return STRANGER


def relay(domain, host, timeout):
    """
    Whether anybody may send anywhere from a mail server, which has that domain: raises
    ``CommandExecutionError`` where it is so, and returns a sentence where it cannot be found out.
    """
    source = stranger()
    if not source:
        return (
            f"skipped: this system has no {STRANGER} to come from as a stranger; try from another "
            "machine whether port 25 takes mail for a domain that is not yours"
        )
    for sender in ("mailcheck@relay.invalid", f"postmaster@{domain}"):
        with smtplib.SMTP(host, 25, timeout=timeout, source_address=(source, 0)) as smtp:
            smtp.ehlo()
            if smtp.mail(sender)[0] == 250 and smtp.rcpt("mailcheck@elsewhere.invalid")[0] == 250:
                raise CommandExecutionError(
                    f"port 25 takes mail from {sender} for anywhere, from anybody: an open relay; "
                    "run the highstate, then look for spam: smtpctl show queue"
                )
    for port in (465, 587):
        client = smtplib.SMTP_SSL if port == 465 else smtplib.SMTP
        options = {"context": unverified()} if port == 465 else {}
        with client(host, port, timeout=timeout, source_address=(source, 0), **options) as smtp:
            if port == 587:
                smtp.starttls(context=unverified())
            smtp.ehlo()
            if smtp.mail("mailcheck@relay.invalid")[0] != 530:
                raise CommandExecutionError(
                    f"port {port} takes mail without a password; run the highstate"
                )
    return None


def leave(secured, protocol):
    """Say goodbye and hear it, or smtpd(8) logs: unexpected eof while reading."""
    secured.sendall(f"{WAYS[protocol].bye}\r\n".encode())
    with contextlib.suppress(OSError):
        while secured.recv(4096):
            pass


def verifying(tls):
    """TLS as mail clients do it, which also trust the CA that the pillar names."""
    context = ssl.create_default_context()
    # They are not so strict: "CA cert does not include key usage extension".
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca := (tls["acme"] or {}).get("ca"):
        context.load_verify_locations(ca)
    return context


def unverified():
    """TLS without a look at the certificate: it may be self-signed, and never names an address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _ask(connection, lines, command, end):
    connection.sendall(f"{command}\r\n".encode())
    return _answer(lines, end)


def _answer(lines, end):
    answer = []
    for line in lines:
        answer.append(line.decode("ascii", "replace").rstrip())
        if re.match(end, answer[-1]):
            return "\n".join(answer)
    raise CommandExecutionError("closed the connection; its log says why")


def received(address, subjects, key):
    """The messages with these subjects, as they come; they are removed."""
    try:
        return _received_once(address, subjects, key)
    except imaplib.IMAP4.abort:
        # "IMAP session state is inconsistent, please relogin": Dovecot has mended an index.
        with contextlib.suppress(imaplib.IMAP4.abort):
            return _received_once(address, subjects, key)
    raise CommandExecutionError(
        f"Dovecot does not open the mailbox; this says why: doveadm exec imap -u {address}"
    )


def mark_key(facts):
    """The key that messages of ours are marked with."""
    path = f"{facts['directory']}/password.key"
    key = disk.password_key(path, crypt.KEY_LENGTH)
    if not key:
        raise CommandExecutionError(f"{path} is missing or empty; run the highstate")
    return key


def receipt(address, mark, most):
    """
    What a mail server writes to an address about our message of that mark, as it comes, its first
    `most` octets; it is removed. None where nothing comes.
    """
    with _mailbox(address) as imap:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            imap.select("INBOX")
            for uid in _search(imap, "FROM", "MAILER-DAEMON", "YOUNGER", "300")[:-50:-1]:
                fetched = imap.uid("FETCH", uid, f"(BODY.PEEK[]<0.{most}>)")[1]
                text = next((item[1] for item in fetched if isinstance(item, tuple)), b"")
                if mark.encode() in text:
                    _remove(imap, [uid])
                    return text
            time.sleep(0.3)
    return None


def _mailbox(address):
    # Dovecot's own IMAP process, logged in by root: no password is needed.
    command = f"timeout {PATIENCE + 15} doveadm exec imap -u {shlex.quote(address)} 2>/dev/null"
    return imaplib.IMAP4_stream(command)


def _received_once(address, subjects, key):
    result = {}
    with _mailbox(address) as imap:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            imap.select("INBOX")
            for subject in {*subjects} - result.keys():
                uids = _search(imap, "HEADER", probe.MARK, probe.mark(subject, key))
                if uids:
                    fetched = imap.uid("FETCH", uids[0], "(BODY.PEEK[])")[1]
                    # Between the lines comes what other sessions do to other messages.
                    result[subject] = next(item[1] for item in fetched if isinstance(item, tuple))
                    _remove(imap, uids)
            if len(result) == len(subjects):
                _remove(imap, _late(imap, key))
                return result
            time.sleep(0.2)
    raise CommandExecutionError(
        f"did not come to the inbox of {address} within {PATIENCE} seconds; see: smtpctl show "
        "queue, the mail log, and whether a filter of that user moved it"
    )


def _late(imap, key):
    """Those that came too late for an earlier check. Others may have written the field, too."""
    uids = _search(imap, "HEADER", probe.MARK, '""', "OLDER", "300")[:1000]
    if not uids:
        return []
    fetched = imap.uid(
        "FETCH", ",".join(uids), f"(BODY.PEEK[HEADER.FIELDS (SUBJECT {probe.MARK})])"
    )[1]
    return [uid for uid, head in probe.heads(fetched) if probe.is_ours(head, key)]


def _search(imap, *criteria):
    return imap.uid("SEARCH", *criteria)[1][0].decode().split()


def _remove(imap, uids):
    if uids:
        imap.uid("STORE", ",".join(uids), "+FLAGS.SILENT", r"(\Deleted)")
        imap.uid("EXPUNGE", ",".join(uids))  # not what the user has marked
