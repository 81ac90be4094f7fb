"""
What waits in the queue of smtpd(8), as smtpctl(8) lists it: a line for each recipient of a message.

An address may hold the bar that separates the fields, and so may the words of another server.
"""

import collections
import re

OLD = 4 * 3600  # seconds; then smtpd(8) tells the sender that a message waits

# show_queue_envelope in OpenSMTPD's smtpctl.c: the id, from where, by whom, flags; the sender, the
# recipient, and the recipient before aliases; created, expires, last tried, how often; the state;
# seconds until it is tried again; and why it was not delivered. In an address, one @ is all.
_ADDRESS = r"([^@]*@[^@|]*)"
_ENTRY = re.compile(
    rf"([0-9a-f]{{16}})\|[^|]*\|[^|]*\|([^|]*)\|{_ADDRESS}\|{_ADDRESS}\|{_ADDRESS}"
    r"\|(\d+)\|\d+\|\d+\|(\d+)\|[a-z]+\|-?\d*\|(.*)"
)


def entries(listing):
    """
    The entries of a listing, of which others are left out: for each recipient ``envelope``, its
    sixteen digits; ``message``, the first eight, which all recipients of a message share;
    ``flags``, such as ``suspend``; ``sender``, ``recipient``; ``created``, seconds since 1970;
    ``tries``; and ``reason``, why it was not delivered yet.
    """
    # Not splitlines(): to Python, what a stranger may write ends a line, too.
    found = map(_ENTRY.fullmatch, listing.split("\n"))
    return [
        {
            "envelope": entry[1],
            "message": entry[1][:8],
            "flags": [flag for flag in entry[2].split(",") if flag],
            "sender": entry[3] if entry[3] != "@" else "",
            "recipient": entry[4],
            "created": int(entry[6]),
            "tries": int(entry[7]),
            "reason": entry[8].strip('"'),
        }
        for entry in found
        if entry
    ]


def count(found):
    """How many messages these entries are of."""
    return len({entry["message"] for entry in found})


def oldest(found, now):
    """For how many seconds the oldest of these entries waits; nothing where there is none."""
    return max((max(0, now - entry["created"]) for entry in found), default=None)


def shown(reason):
    """What another server wrote, on one line and with an end."""
    words = " ".join(reason.split())
    text = "".join(letter if letter.isprintable() else "?" for letter in words)
    return text if len(text) <= 200 else f"{text[:200]}…"


def said(found, most, now):
    """What to say of entries; from so many messages on, and when one is old, it is a warning."""
    if not found:
        return "empty"
    age = oldest(found, now)
    words = f"{age / 3600:.0f} hours" if age >= 2 * 3600 else f"{age / 60:.0f} minutes"
    note = f"{count(found)} waiting, the oldest for {words}"
    reasons = collections.Counter(entry["reason"] for entry in found if entry["reason"])
    for reason, _ in reasons.most_common(1):
        note += f"{': ' if len(reasons) == 1 else '; most often: '}{shown(reason)}"
    if count(found) >= most or age >= OLD:
        return f"WARNING: {note}; see why: smtpctl show queue"
    return note
