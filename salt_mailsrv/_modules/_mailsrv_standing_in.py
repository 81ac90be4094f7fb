"""
Whether backup MXs do what they are for: on the primary, whether they know whom it has; on the
backup, whether it knows its primaries, and can hand them their mail. And how far a domain is that
moves, which ends with one machine handing mail to another, too.
"""

import smtplib
import socket
import ssl
import uuid

from _mailsrv import backup_mx, waiting
from salt.exceptions import CommandExecutionError

SMTP = 25


def checks(model, facts, timeout):
    """The checks of both sides, as :func:`mailcheck._checks` has them."""
    result = {
        f"backup MX {backup['name']}": (stands_in, backup, model, timeout)
        for backup in model["backup"]
    }
    for move in model["moves"]:
        result[f"move of {move['domain']}"] = (moves, move)
    for primary in model["backup_for"]:
        ca = f"{facts['directory']}/backup/{primary['minion']}.pem"
        arguments = (primary, primary["certificate"] and ca, model["limits"], timeout)
        result[f"backup for {primary['minion']}"] = (hands_over, *arguments)
    return result


def moves(move):
    """
    How far a domain is that moves: a note. Raises ``CommandExecutionError`` where nobody gets at
    its mail, or only for as long as a run of ``mailsrv.move`` takes.
    """
    peer = move["peer"]
    if move["phase"] == "frozen":
        raise CommandExecutionError(
            f"nobody can log in, and mail waits, until it is on {peer}; where no salt-run "
            "mailsrv.move is running, run it again"
        )
    if move["phase"] == "waiting":
        return f"it is still on {peer}; salt-run mailsrv.move brings it here"
    if move["way"] == "from":
        return f"it is here, having come from {peer}; mailsrv:moves_from has done its work"
    if move["phase"] == "gone":
        return f"mail that still comes is handed to {peer}"
    return f"it is here still; salt-run mailsrv.move brings it to {peer}"


def stands_in(backup, model, timeout):
    """
    On the primary: whether a backup takes mail for postmaster of each domain, and for nobody that
    is not there. Raises ``CommandExecutionError`` with what is wrong; returns a
    warning where it cannot be reached.
    """
    nobody = f"mailcheck-{uuid.uuid4().hex}"
    everybody = {name[1:] for name in model["aliases"] if name.startswith("@")}
    cure = (
        f"see whether {backup_mx.FUNCTION} is in mine_functions here, then: salt-call mine.update, "
        "and the highstate there"
    )
    try:
        with smtplib.SMTP(backup["name"], SMTP, timeout=timeout) as smtp:
            smtp.ehlo()
            smtp.mail("")
            for domain in model["domains"]:
                code, said = smtp.rcpt(f"postmaster@{domain}")
                if code != 250:
                    said = waiting.shown(said.decode(errors="replace"))
                    raise CommandExecutionError(
                        f"does not take mail for postmaster@{domain}: {code} {said}; {cure}"
                    )
                if domain not in everybody and smtp.rcpt(f"{nobody}@{domain}")[0] < 300:
                    raise CommandExecutionError(
                        f"takes mail for somebody of {domain} who is not here, and its sender, who "
                        f"may be forged, would be told so; {cure}"
                    )
    except smtplib.SMTPException as exc:
        raise CommandExecutionError(f"does not take mail: {waiting.shown(str(exc))}") from None
    except OSError as exc:
        return (
            f"WARNING: cannot be reached: {exc.strerror or exc}; while this machine is away, "
            "senders keep its mail themselves"
        )
    return None


def hands_over(primary, ca, limits, timeout):
    """
    On the backup: whether it knows a primary, and whether that takes mail by TLS with a certificate
    that is verified. Raises ``CommandExecutionError`` with what is wrong; returns how many
    recipients are known.
    """
    if primary["unknown"]:
        raise CommandExecutionError(
            f"nothing is known of {', '.join(primary['unknown'])}, and mail for it is put off; "
            f"salt {primary['minion']} mine.update, then the highstate here"
        )
    try:
        context = ssl.create_default_context(cafile=ca or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # nor is smtpd(8) so strict
        with smtplib.SMTP(primary["hostname"], SMTP, timeout=timeout) as smtp:
            smtp.starttls(context=context)
    except ssl.SSLCertVerificationError as exc:
        raise CommandExecutionError(
            f"{primary['hostname']} has a certificate that is not trusted: {exc.verify_message}; "
            "its mail waits here for five days. Give it one of its own name"
        ) from None
    except smtplib.SMTPException as exc:
        said = waiting.shown(str(exc))
        raise CommandExecutionError(f"{primary['hostname']}: its mail waits here: {said}") from None
    except OSError as exc:
        why = "no such name" if isinstance(exc, socket.gaierror) else exc.strerror or exc
        raise CommandExecutionError(
            f"{primary['hostname']} cannot be reached: {why}; its mail waits here for five days"
        ) from None
    if backup_mx.larger(limits["message_size"], primary["message_size"]):
        return f"WARNING: {backup_mx.too_large(limits, primary)}"
    known = sum(map(len, primary["domains"].values()))
    return f"{known} recipients of {', '.join(primary['domains'])}"
