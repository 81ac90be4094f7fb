"""
What machines have told of themselves by events: for reactors, which have it logged, and mailed to
whoever ``mailsrv.told`` of the master's configuration names.

``to``
    The address, or a list.

``sender``
    Default: root at this machine's name.

``server``
    Who takes the mail, as ``HOST`` or ``HOST:PORT``. Default: ``127.0.0.1``, port 25.

Any minion can send any event, in another's name, too: what it says is taken for names and nothing
else.
"""

import email.message
import email.utils
import logging
import re
import smtplib
import socket

log = logging.getLogger(__name__)

__virtualname__ = "told"

TIMEOUT = 30  # seconds for an answer of the mail server
NAME = re.compile(r"(?!-)[A-Za-z0-9._@:/+=-]{1,200}")  # nothing that is an option of salt's
MOST = 200  # names of a mail


def __virtual__():
    return __virtualname__


def drift(minion, finding):
    """
    A machine has told, by ``drift.tell``, that what a run would change there is not what it was.

    minion
        Its id.

    finding
        What the event has: ``changes`` and ``failures``, lists of names; ``impossible``; ``well``.

    Returns the sentence that was logged and mailed. The ``retcode`` is 1 where it was not mailed.

    CLI Example:

    .. code-block:: bash

        salt-run told.drift mx1.example.net '{changes: [mailsrv-dovecot-config]}'
    """
    finding = finding if isinstance(finding, dict) else {}
    changes, failures = (_names(finding.get(key)) for key in ("changes", "failures"))
    if finding.get("well") is True:
        said = "well again, a run would change nothing"
    elif changes or failures:
        counted = (("would fail", failures), ("would change", changes))
        said = " and ".join(f"{len(names)} states {what}" for what, names in counted if names)
    else:
        said = "a run is not possible"
    lines = [f"would fail:    {name}" for name in failures]
    lines += [f"would change:  {name}" for name in changes]
    (minion,) = _names([minion])
    look = f"salt '{minion}' state.highstate test=True"
    return _tell(minion, said, [*lines, "", "To see what, on the master:", "", f"    {look}"])


def service(minion, finding):
    """
    A machine has told, by Salt's beacon ``service``, that a daemon ended, or runs again.

    minion
        Its id.

    finding
        What the event has: ``service_name``, and by that name ``running``.

    Returns the sentence that was logged and mailed. The ``retcode`` is 1 where it was not mailed.

    CLI Example:

    .. code-block:: bash

        salt-run told.service mx1.example.net '{service_name: dovecot, dovecot: {running: false}}'
    """
    finding = finding if isinstance(finding, dict) else {}
    (name, *_) = [*_names([finding.get("service_name")]), "a daemon"]
    about = finding.get(name)
    running = isinstance(about, dict) and about.get("running") is True
    (minion,) = _names([minion])
    look = f"salt '{minion}' mailcheck.run"
    said = f"{name} {'runs again' if running else 'does not run'}"
    return _tell(minion, said, ["To see more, on the master:", "", f"    {look}"])


def _names(given):
    """What of it is a name; what is none is said to be one."""
    given = given if isinstance(given, list) else []
    return [
        name if isinstance(name, str) and NAME.fullmatch(name) else "(no name)"
        for name in given[:MOST]
    ]


def _tell(minion, said, lines):
    sentence = f"{minion}: {said}"
    log.warning("%s", sentence)
    about = __opts__.get("mailsrv.told") or {}
    if not about.get("to"):
        return sentence
    message = email.message.EmailMessage()
    message["From"] = about.get("sender") or f"root@{socket.getfqdn()}"
    to = about["to"]
    message["To"] = ", ".join(to if isinstance(to, list) else [to])
    message["Subject"] = sentence
    message["Date"] = email.utils.localtime()
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer from who is on vacation
    message.set_content("\n".join([f"{sentence}.", "", *lines, ""]), cte="7bit")
    try:
        with smtplib.SMTP(about.get("server", "127.0.0.1"), timeout=TIMEOUT) as smtp:
            smtp.send_message(message)
    except (OSError, smtplib.SMTPException) as exc:
        log.error("%s; it could not be mailed: %s", sentence, exc)
        __context__["retcode"] = 1
    return sentence
