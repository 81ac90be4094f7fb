"""
Checks of the live machine: what the pillar promises against what runs.
"""

import contextlib
import email.utils
import imaplib
import poplib
import shlex
import smtplib
import socket
import ssl
import time
import uuid

from salt.exceptions import CommandExecutionError

__virtualname__ = "mailcheck"

HOST = "127.0.0.1"
TIMEOUT = 10  # seconds for one answer
PATIENCE = 30  # seconds for a message to arrive


def __virtual__():
    return __virtualname__


def run():
    """
    Look at the whole machine: services, ports, a message sent and read back.

    The message goes in by SMTP on port 25 to the first account of the pillar, is read by IMAP and
    removed again.

    Returns ``ok`` or what is wrong, by check. The exit status is 1 where anything is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.run
    """
    facts = __salt__["mailsrv.facts"]()
    model = __salt__["mailsrv.model"](__pillar__, __grains__["fqdn"], facts)
    daemons = ["opensmtpd", "dovecot"]
    if model["dkim"]["signer"] == "dkimproxy":
        daemons.append("dkimproxy")
    if model["rspamd"]:
        daemons.append("rspamd")
    checks = {f"service {facts[name]['service']}": (_service, facts[name]) for name in daemons}
    checks |= {
        "port 25, SMTP with STARTTLS": (_smtp, 25),
        "port 465, submission with TLS": (_submission, 465),
        "port 587, submission with STARTTLS": (_submission, 587),
        "port 110, POP3 with STARTTLS": (_pop3, poplib.POP3, 110),
        "port 143, IMAP with STARTTLS": (_imap, imaplib.IMAP4, 143),
        "port 993, IMAP with TLS": (_imap, imaplib.IMAP4_SSL, 993),
        "port 995, POP3 with TLS": (_pop3, poplib.POP3_SSL, 995),
        "port 4190, ManageSieve with STARTTLS": (_managesieve, 4190),
    }
    if model["accounts"]:
        address = model["accounts"][0]["address"]
        checks[f"a message to {address}, sent and read"] = (_round_trip, address)
    result = {}
    for name, (check, *arguments) in checks.items():
        try:
            check(*arguments)
            result[name] = "ok"
        except (OSError, EOFError, smtplib.SMTPException, *_PROTOCOL_ERRORS) as exc:
            result[name] = f"FAULT: {exc or type(exc).__name__}"
    # cmd.* left the status of the last command they ran, such as "not running", in there.
    __context__["retcode"] = 0 if set(result.values()) == {"ok"} else 1
    return result


_PROTOCOL_ERRORS = (imaplib.IMAP4.error, poplib.error_proto, CommandExecutionError)


def _service(daemon):
    if not __salt__["service.status"](daemon["service"]):
        raise CommandExecutionError(
            f"is not running; start it and see why: salt-call service.start {daemon['service']}"
        )
    if not __salt__["service.enabled"](daemon["service"]):
        raise CommandExecutionError("will not start at boot; run the highstate")


def _smtp(port):
    with smtplib.SMTP(HOST, port, timeout=TIMEOUT) as smtp:
        smtp.starttls(context=_tls())
        smtp.ehlo()
        if smtp.has_extn("auth"):
            raise CommandExecutionError("offers AUTH, which belongs on 465 and 587 alone")


def _submission(port):
    if port == 465:
        smtp = smtplib.SMTP_SSL(HOST, port, timeout=TIMEOUT, context=_tls())
    else:
        smtp = smtplib.SMTP(HOST, port, timeout=TIMEOUT)
    with smtp:
        smtp.ehlo()
        if port == 587:
            if smtp.has_extn("auth"):
                raise CommandExecutionError("offers AUTH before STARTTLS")
            smtp.starttls(context=_tls())
            smtp.ehlo()
        if not smtp.has_extn("auth"):
            raise CommandExecutionError("does not offer AUTH")


def _imap(client, port):
    options = {"ssl_context": _tls()} if client is imaplib.IMAP4_SSL else {}
    with client(HOST, port, timeout=TIMEOUT, **options) as imap:
        if client is imaplib.IMAP4:
            imap.starttls(_tls())


def _pop3(client, port):
    options = {"context": _tls()} if client is poplib.POP3_SSL else {}
    pop3 = client(HOST, port, timeout=TIMEOUT, **options)
    with contextlib.closing(pop3):
        if client is poplib.POP3:
            pop3.stls(_tls())
        pop3.quit()


def _managesieve(port):
    greeting = []
    with socket.create_connection((HOST, port), timeout=TIMEOUT) as connection:
        for line in connection.makefile("rb"):
            greeting.append(line.rstrip())
            if line.startswith((b"OK", b"NO", b"BYE")):
                break
    if b'"STARTTLS"' not in greeting:
        raise CommandExecutionError("does not offer STARTTLS")


def _round_trip(address):
    subject = f"mailcheck {uuid.uuid4()}"
    name = email.utils.make_msgid(domain=address.partition("@")[2])
    # Whole, or a spam filter would put it aside.
    message = (
        f"From: <{address}>\r\nTo: <{address}>\r\nSubject: {subject}\r\n"
        f"Date: {email.utils.formatdate()}\r\nMessage-ID: {name}\r\n\r\nhello\r\n"
    )
    with smtplib.SMTP(HOST, 25, timeout=TIMEOUT) as smtp:
        smtp.sendmail("", [address], message)
    # Dovecot's own IMAP process, logged in by root: no password is needed.
    with imaplib.IMAP4_stream(f"doveadm exec imap -u {shlex.quote(address)} 2>/dev/null") as imap:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            imap.select("INBOX")
            found = imap.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
            if found:
                imap.store(found[0], "+FLAGS.SILENT", r"(\Deleted)")
                imap.expunge()
                return
            time.sleep(0.2)
    raise CommandExecutionError(
        f"did not arrive within {PATIENCE} seconds; see: smtpctl show queue, and the mail log"
    )


def _tls():
    """TLS without a look at the certificate: it may be self-signed, and never names an address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
