"""
Who is away, or has left: what is answered to who writes to them (RFC 5230).
"""

import calendar
import re

from _mailsrv.faults import kind_of, section, show

KEYS = {"vacation": ("text", "subject", "from", "until", "days")}

DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
# What no line of a message has, and what another reader would take for the end of one; not all that
# Python calls unprintable, as the joints of an emoji.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
TEXT = 8000  # bytes
LINE = 900  # of a text or a subject, bytes; RFC 5322 has 998, with the end of the line
MOST_DAYS = 30


def vacation(account, aliases, facts, faults, notes):
    """
    What is answered to who writes to this account, or None: ``text``; ``subject``, empty for
    Dovecot's; the first day, ``from``, and the last, ``until``, empty where there is none; the
    ``days`` for which who was answered is not answered again; and ``addresses``, mail to which is
    answered: the account's, and the aliases that lead to nobody else. Who writes to a team hears
    nothing of one who is away.
    """
    if account["vacation"] is None:
        return None
    own, path = account["address"], f"{account['path']}: vacation"
    given = section(account, "vacation", KEYS["vacation"], path, faults)
    if not isinstance(account["vacation"], dict):
        return None
    only = [alias for alias, ends in aliases.items() if ends == [own] and alias[0] != "@"]
    found = {
        "text": _text(given, path, faults),
        "subject": _subject(given, path, faults),
        "from": _day(given, "from", path, faults),
        "until": _day(given, "until", path, faults),
        "days": given.get("days", 7),
        "addresses": list(dict.fromkeys((own, *only))),
    }
    if type(found["days"]) is not int or not 1 <= found["days"] <= MOST_DAYS:
        faults.append(
            f"{path}:days: {show(found['days'])} is not usable; write a number of days, 1 to "
            f"{MOST_DAYS}, for which who was answered is not answered again"
        )
    if found["until"] and found["until"] < found["from"]:
        faults.append(f"{path}:until: is before from, {found['from']}; nobody would be answered")
    elif found["until"] and found["until"] < facts["today"]:
        notes.append(f"{path} has ended, with {found['until']}; remove it")
    return found


def _text(given, path, faults):
    text = given.get("text")
    if not isinstance(text, str):
        faults.append(f"{path}:text: must be the text of the answer, not {kind_of(text)}")
    elif not text.strip():
        faults.append(f"{path}:text: is empty; write what is answered")
    elif CONTROL.search(text):
        faults.append(f"{path}:text: holds a control character; remove it")
    elif len(text.encode()) > TEXT:
        faults.append(f"{path}:text: is longer than {TEXT} bytes; write less")
    elif any(len(line.encode()) > LINE for line in text.split("\n")):
        faults.append(f"{path}:text: has a line of more than {LINE} bytes; break it")
    else:
        return text.strip("\n")
    return ""


def _subject(given, path, faults):
    subject = given.get("subject")
    if subject is None:
        return ""
    if not isinstance(subject, str) or not subject.strip():
        faults.append(f"{path}:subject: {show(subject)} is not usable; write a line of text")
    elif CONTROL.search(subject) or "\n" in subject or "\t" in subject:
        faults.append(f"{path}:subject: is no single line of text; write one")
    elif len(subject.encode()) > LINE:
        faults.append(f"{path}:subject: is longer than {LINE} bytes; write less")
    else:
        return subject.strip()
    return ""


def _day(given, name, path, faults):
    """A day as YYYY-MM-DD, which YAML reads as a date, where it is not quoted; empty: none."""
    if given.get(name) is None:
        return ""
    day = str(given[name])
    if (written := DATE.fullmatch(day)) and day.isascii():
        year, month, date = map(int, written.groups())
        if year and 1 <= month <= 12 and 1 <= date <= calendar.monthrange(year, month)[1]:
            return day
    faults.append(f"{path}:{name}: {show(day)} is no day; write it like 2027-01-31")
    return ""
