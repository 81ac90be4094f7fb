"""
What the pillar says of the time after the first day: what expires, how long the log is kept, who is
told, who measures. Each section is read as in :mod:`_mailsrv.settings`.
"""

import re

from _mailsrv.faults import listed, mapping, section, show, shown_key, switch
from _mailsrv.settings import SECONDS, duration, reports

MOST_DAYS = 3650
# A mailbox without what IMAP or a shell would read as something else. Those that every user has are
# not meant in other letters: nothing would ever be expunged.
FOLDER = re.compile(r"\w[\w .&+@-]*(/\w[\w .&+@-]*)*")
FOLDERS = ("INBOX", "Drafts", "Sent", "Trash", "Junk", "Archive")

KEYS = {"logs": ("keep",), "search": ("attachments",)}


def days(value, path, faults):
    """A time in days, which is written in days or weeks."""
    number = (duration(value, "dw") or 0) // SECONDS["d"]
    if 1 <= number <= MOST_DAYS:
        return number
    faults.append(
        f"{path}: {show(value)} is not usable; write days or weeks, like 30d or 4w, up to "
        f"{MOST_DAYS}d"
    )
    return 0


def expire(settings, faults):
    """By mailbox, the days after which mail that was put there is gone."""
    given, result = settings.get("expire"), {}
    given = mapping(given, "mailsrv:expire", faults, "hold mailboxes and times")
    for name, value in given.items():
        path = f"mailsrv:expire:{shown_key(name)}"
        same = [known for known in FOLDERS if str(name).lower() == known.lower()]
        if not isinstance(name, str) or len(name) > 100 or not FOLDER.fullmatch(name):
            faults.append(
                f"{path}: is no mailbox; write one like Trash or Lists/News, without * and quotes: "
                "those below it are included"
            )
        elif same and name not in same:
            faults.append(f"{path}: no mailbox is called that; write {same[0]}")
        else:
            result[name] = days(value, f"mailsrv:expire:{name}", faults)
    return result


def logs(settings, facts, faults, notes):
    """The days for which the log is kept; 0: as the system does it."""
    given = section(settings, "logs", KEYS["logs"], "mailsrv:logs", faults)
    if given.get("keep") is None:
        return {"keep": 0}
    if "journald" not in facts:
        notes.append(
            "mailsrv:logs:keep is for the journal of systemd: on this system, "
            "/etc/newsyslog.conf says how long /var/log/maillog is kept"
        )
    return {"keep": days(given["keep"], "mailsrv:logs:keep", faults)}


def notify(settings, domains, hostname, known, faults):
    """Who is told by mail what changes: one address or a list, each once."""
    value, path = settings.get("notify"), "mailsrv:notify"
    result = []
    for given in listed([value] if isinstance(value, str) else value, path, faults):
        address = reports(given, path, domains, known, faults)
        if address and address.endswith(f"@{hostname}"):
            faults.append(
                f"{path}: {address} is a user of this machine's system, whose mail nobody fetches; "
                "name an account, an alias, or an address elsewhere"
            )
        elif address is None and given is None:
            faults.append(f"{path}: holds nothing in its list; write addresses")
        else:
            result.append(address)
    return list(dict.fromkeys(filter(None, result)))


def metrics(settings, facts, faults, notes):
    """Whether Prometheus shall be able to watch this machine."""
    wanted = switch(settings, "metrics", "mailsrv:metrics", faults)
    if wanted and "metrics" not in facts:
        notes.append(
            "mailsrv:metrics: does nothing on this system, which has no journal to count from"
        )
    return wanted and "metrics" in facts


def search(settings, facts, faults, notes):
    """What is indexed for the search of mail clients beside the text of mail; None: nothing is."""
    path, given = "mailsrv:search", settings.get("search")
    if given is None or isinstance(given, bool):
        given = {} if given else None
    else:
        given = section(settings, "search", KEYS["search"], path, faults)
    if given is None:
        return None
    attachments = switch(given, "attachments", f"{path}:attachments", faults)
    if facts["cannot_search"]:
        notes.append(f"{path}: a search reads all mail, as ever: {facts['cannot_search']}")
        return None
    if attachments and "decoders" not in facts["dovecot"]:
        notes.append(f"{path}:attachments: does nothing on this system: text alone is indexed")
        attachments = False
    return {"attachments": attachments}
