"""
The messages that the self-check sends, and how it knows them again: by a mark that only this
machine can make, since others may write the header field, too.
"""

import email
import email.utils
import hashlib
import hmac
import re

MARK = "X-Mailcheck"  # the header field


def mark(subject, key):
    """What tells our messages from those of others: only this machine can make it."""
    # An address and a password stand there where the salt of a hash is derived.
    text = f"mailcheck\0{subject}".encode(errors="replace")
    # Of more than 50 letters and digits, Dovecot's index thinks that they are base64.
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:40]


def users(model):
    """
    The accounts that messages may go to, the best one first. One that forwards would send them out,
    too, or keep none; in the name of one that is blocked, nobody sends.
    """
    aliases = model["aliases"]
    keeping = [
        name for a in model["accounts"] if (name := a["address"]) in aliases.get(name, [name])
    ]
    return sorted((n for n in keeping if n not in model["blocked"]), key=aliases.__contains__)


def heads(fetched):
    """The UID and the header of each message in what IMAP's FETCH returned."""
    for item in fetched:
        if isinstance(item, tuple):
            yield re.search(rb"UID (\d+)", item[0])[1].decode(), email.message_from_bytes(item[1])


def is_ours(head, key):
    """Whether a header is that of a message of this machine's making."""
    mine = mark(head["Subject"], key)
    return hmac.compare_digest(mine.encode(), str(head[MARK]).encode(errors="replace"))


def message(sender, address, subject, key):
    """A message that is marked, as text."""
    # Whole, or a spam filter would put it aside.
    head = {
        "From": f"<{sender}>",
        "To": f"<{address}>",
        "Subject": subject,
        "Date": email.utils.formatdate(),
        "Message-ID": email.utils.make_msgid(domain=sender.partition("@")[2]),
        MARK: mark(subject, key),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{lines}\r\nIs  this signed?\r\n"
