"""
Whether mail can leave: by the relays of the pillar, as smtpd(8) logs in there, or by port 25.
"""

import base64
import concurrent.futures
import contextlib
import smtplib
import socket
import ssl

from _mailsrv import relaying, resolve, waiting
from salt.exceptions import CommandExecutionError

# Receivers whose servers answer everybody who reaches them.
WELL_KNOWN = ("gmail.com", "outlook.com", "icloud.com", "gmx.net")
SMTP = 25


def checks(relay, pillar, timeout):
    """
    The checks of what leaves, as :func:`mailcheck._checks` has them.

    relay
        The ways of the model, a :class:`_mailsrv.model.Relay`.

    pillar
        Where the logins stand: what ``pillar.get`` returns is masked since Salt 3008.
    """
    result = {}
    for way in relay["ways"]:
        told = f"relay {way['host']}, port {way['port']}"
        while told in result:  # by another name of ours
            told += f" ({way['label']})"
        result[told] = (log_in, way, relaying.login(pillar, way), timeout)
    if not relay["default"]:
        result["port 25 outward"] = (port_25, timeout)
    return result


def log_in(way, login, timeout):
    """
    Log in at a relay as smtpd(8) does, with a certificate that is verified. Raises
    ``CommandExecutionError`` with what is wrong, never with the login.
    """
    context = ssl.create_default_context(cafile=way["ca"] or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # nor is smtpd(8) so strict
    smtps = way["tls"] == "smtps"
    client, options = (smtplib.SMTP_SSL, {"context": context}) if smtps else (smtplib.SMTP, {})
    try:
        with client(way["host"], way["port"], timeout=timeout, **options) as smtp:
            if not smtps:
                smtp.starttls(context=context)
            smtp.ehlo()
            if login:
                _authenticate(smtp, way, login)
    except ssl.SSLCertVerificationError as exc:
        raise CommandExecutionError(
            f"its certificate is not trusted: {exc.verify_message}; mail waits. Name the server as "
            f"its certificate does in {way['at']}:host, or a CA of its own in {way['at']}:ca"
        ) from None
    except smtplib.SMTPException as exc:
        raise CommandExecutionError(f"mail waits: {waiting.shown(str(exc))}") from None
    except OSError as exc:
        raise CommandExecutionError(
            f"cannot be reached: {exc.strerror or exc}; mail waits. See {way['at']}:host, port and "
            "tls, and what your hosting provider lets out"
        ) from None


def _authenticate(smtp, way, login):
    """AUTH with what smtpd(8) knows (RFC 4954, RFC 4616); a password may have any characters."""
    offered = smtp.esmtp_features.get("auth", "").upper().split()
    user, password = (base64.b64encode(text.encode()).decode() for text in login)
    if "PLAIN" in offered:
        whole = base64.b64encode("\0".join(("", *login)).encode()).decode()
        said = smtp.docmd("AUTH", f"PLAIN {whole}")
    elif "LOGIN" in offered:
        said = smtp.docmd("AUTH", "LOGIN")
        for part in (user, password):
            said = smtp.docmd(part) if said[0] == 334 else said
    else:
        raise CommandExecutionError(
            "offers neither AUTH PLAIN nor AUTH LOGIN, and smtpd(8) knows no other; mail waits. "
            f"Leave out user and password of {way['at']}, or choose another port"
        )
    if said[0] != 235:
        raise CommandExecutionError(
            f"refuses the login: {said[0]} {waiting.shown(said[1].decode(errors='replace'))}; mail "
            "waits. Write what the provider has given you into user and password of "
            f"{way['at']}"
        )


def port_25(timeout):
    """
    Whether some well-known receiver can be reached: any one that answers will do. Raises
    ``CommandExecutionError`` where none does; returns a sentence where nobody knows them.
    """
    with concurrent.futures.ThreadPoolExecutor(len(WELL_KNOWN)) as pool:
        hosts = [*filter(None, pool.map(_exchanger, WELL_KNOWN))]
        if not hosts:
            return "skipped: DNS does not tell who takes mail for any well-known receiver"
        if any(pool.map(lambda host: _answers(host, timeout), hosts)):
            return None
    raise CommandExecutionError(
        f"nobody answers: {', '.join(hosts)}; your hosting provider closes port 25, so that mail "
        "waits here and then comes back. Ask the provider to open it, or hand mail to somebody "
        "else's server by mailsrv:relay"
    )


def _exchanger(domain):
    """The host that takes its mail first; empty where DNS does not tell."""
    with contextlib.suppress(LookupError):
        return next(iter(resolve.exchangers(domain)), "")
    return ""


def _answers(host, timeout):
    """Whether a server greets there; it is left at once."""
    try:
        with socket.create_connection((host, SMTP), timeout / 2) as connection:
            greets = connection.recv(3)[:1] in (b"2", b"4", b"5")
            connection.sendall(b"QUIT\r\n")
            return greets
    except OSError:
        return False
