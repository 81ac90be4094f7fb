"""
Telling by mail what changed: the notes on the disk, and the message to those who are told.
"""

import contextlib
import contextvars
import email.message
import email.utils
import fcntl
import json
import os
import smtplib
import threading
import time

import _mailsrv_disk as disk
from _mailsrv import changes
from salt.exceptions import CommandExecutionError

HOST = "127.0.0.1"
PORT = 25
TIMEOUT = 30  # seconds for one answer
MOST = 50  # mails that wait
LIMIT = 480  # seconds for a part of the look: two that hang end before the service is cut off
# Of one mail; the next one may be taken.
REFUSED = (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError)


def tell(path, look, about, figures):
    """
    Look, mail what has changed, and note it.

    path
        The file with the notes.

    look
        What gives the look, asked with what tells which parts are due.

    about, figures
        What gives who is told and as whom, and what was measured, each asked with the notes.

    Returns the mails, or a word that there is none, and why they could not be mailed, or nothing.
    What smtpd(8) does not take waits in the notes for the next look. Who is killed between a mail
    and the note, sends that mail again; so it is never forgotten.
    """
    with alone(path) as mine:
        if not mine:
            return "another one looks just now", ""
        now, notes = time.time(), changes.notes(disk.text(path))
        told, new, gone = changes.judge(
            notes, look(lambda part: changes.due(notes, part, now)), now
        )
        told["about"], told["figures"] = about(notes), figures(notes)
        mails = changes.mails(notes, told, new, gone, now)
        outbox = changes.waiting([*notes["outbox"], *mails], told["about"]["to"])[-MOST:]
        told["outbox"] = outbox
        disk.write(path, json.dumps(told))
        fault = ""
        for mail in [*outbox]:
            try:
                _send(told["about"], **mail)
            except (OSError, smtplib.SMTPException) as exc:
                fault = f"it could not be mailed now: {str(exc) or type(exc).__name__}"
                if not isinstance(exc, REFUSED):
                    break
            else:
                outbox.remove(mail)
                disk.write(path, json.dumps(told))
        if fault:
            fault += f"; {len(outbox)} wait for the next look"
    return "\n".join([*map(changes.shown, mails), fault]).strip() or changes.NOTHING, fault


def look(parts):
    """
    What there is to see of each part; and of each whether it could be looked at. One that hangs is
    told, too: it stays behind in its thread, and ends with the program.
    """
    result = {"pillar": {"the pillar": "ok"}}
    for part, see in parts.items():
        fault, found = "ok", None
        try:
            found = _within(LIMIT, see)
        except Exception as exc:  # no reason not to see the rest
            fault = f"FAULT: {exc}"
        result[f"look: {part}"] = {f"looking at it, {part}": fault}
        result |= {} if found is None else {part: found}
    return result


def _within(seconds, see):
    """What it returns or raises; TimeoutError where it has not come to an end by then."""
    said = {}

    def seeing():
        try:
            said["found"] = see()
        except Exception as exc:
            said["fault"] = exc

    inside = contextvars.copy_context()  # where Salt keeps what __salt__ and the like mean
    thread = threading.Thread(target=inside.run, args=(seeing,), daemon=True)
    thread.start()
    thread.join(seconds)
    if not said:
        late = f"did not come to an end within {seconds // 60} minutes"
        raise TimeoutError(f"{late}; see what hangs: ps -ef --forest")
    if "fault" in said:
        raise said["fault"]
    return said["found"]


def of_run(states):
    """What a dry run says, as checks; None while another run goes on."""
    if isinstance(states, dict):
        return changes.of_run(states)
    said = " ".join(map(str, states))
    if "is running as PID" in said:
        return None
    raise CommandExecutionError(said)


@contextlib.contextmanager
def alone(path):
    """Whether nobody else looks now; if so, nobody does until this ends."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _send(about, to, subject, text, id):
    """
    Hand a message to smtpd(8) as this machine's programs do, which makes it right and signs it.

    about
        ``host`` and ``sender``: this server's name, and the address that it is from.

    Not by sendmail(8): while smtpd(8) does not run, that keeps the message for later and fails all
    the same, so whoever tries again sends it twice. Raises what :mod:`smtplib` does where the
    message was not taken.
    """
    message = email.message.EmailMessage()
    message["From"] = email.utils.formataddr((f"Mail server {about['host']}", about["sender"]))
    message["To"] = ", ".join(to)
    message["Subject"] = subject
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = f"<{id}@{about['host']}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer from who is on vacation
    message.set_content(text)
    with smtplib.SMTP(HOST, PORT, local_hostname="localhost", timeout=TIMEOUT) as smtp:
        smtp.send_message(message, about["sender"], to)
