"""
guard: the one filter between smtpd(8) and everything that signs.

    filter guard proc-exec "/usr/bin/python3 -I /etc/mail/guard.py /etc/mail/guard.json" user …

A filter in the sense of smtpd-filters(7), protocol 0.7. smtpd(8) ends when a filter does, so this
one never does: a fault of its own is a 451 for that message and a line in the log, and the filters
that sign are its children, whose end costs a 451, too. It decides by the door that mail comes in:

    port 25         a stranger: nothing is changed or signed; our own envelope senders are refused
                    where our SPF records say that nobody else may use them, and so are those of
                    whom we are a backup MX for
    465, 587        a user, after AUTH: made right, or refused with a sentence, and signed
    the socket, and port 25 from 127.0.0.1 or ::1: a program of this machine: the same where From:
                    is an address of ours; else unsigned and unchanged
    port 10026      Dovecot: what it wrote itself (vacation) as a user's; what it passes on
                    (redirect) unsigned and unchanged

Made right: exactly one From: with one plain address that the account may send as, else MAIL FROM
with the readable name; Date and Message-ID; addresses with their domain; no Bcc; no field twice
that may stand once (RFC 5322, 3.6); nothing left that smtpd(8) would rewrite behind the signer.

It counts the recipients that each login writes to, and its Sieve scripts, and refuses those beyond
its limits; and it refuses whatever an account sends that is blocked, at every door.

Python's standard library alone: it runs on the system's own interpreter. `guard.py -n FILE` checks
a configuration and says what is wrong with it.
"""

import base64
import contextlib
import email.errors
import email.header
import email.utils
import ipaddress
import json
import os
import re
import secrets
import selectors
import socket
import subprocess
import sys
import time

try:
    import sqlite3
except ImportError:  # FreeBSD packs it apart; `-n` says so, and mail goes on
    sqlite3 = None

SIEVE_PORT = b"10026"
LOOPBACK = (b"127.0.0.1", b"[::1]")
SOCKET = b"unix:"
USER_PORTS = (b"465", b"587")

MAX_HEADER = 1 << 18  # bytes held of a message until its header is complete
MAX_NAME = 900  # smtpd's rfc5322.c gives up at 1024
MAX_FIELD = 65000  # and, where it rewrites, at 65536
MAX_AUTHORS = 16000  # characters of From: or Sender: that are read
MAX_UNREAD = 8 << 20  # bytes that a signer has not taken: then smtpd(8) is not read from
PATIENCE = 5  # seconds that the first start of the signers may take
STUCK = 60  # seconds in which a signer takes nothing of what waits for it: it is ended
LIMIT = 1000  # characters of a display name

SLOT = 600  # seconds: what is sent within one is counted together
WINDOWS = {"an hour": 3600, "a day": 86400}  # what the limits of a login are for, in seconds
REJECTIONS = (100, 500)  # and what is for all Sieve scripts together
DAY = WINDOWS["a day"]  # also: seconds until postmaster is told again of the same account
LATER = 60  # seconds until what could not be opened is tried again
BROKEN = (1, 11, 26)  # SQLite's codes for a file that is no such database; others may pass
TABLES = """
PRAGMA journal_mode = TRUNCATE;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS sent (login TEXT, slot INTEGER, recipients INTEGER,
    PRIMARY KEY (login, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (login TEXT PRIMARY KEY, time INTEGER) STRICT, WITHOUT ROWID;
"""
COUNTED = "SELECT slot, recipients FROM sent WHERE login = ? AND slot BETWEEN ? AND ? ORDER BY slot"
COUNT = (
    "INSERT INTO sent VALUES (?, ?, ?) ON CONFLICT (login, slot)"
    " DO UPDATE SET recipients = recipients + excluded.recipients"
)
FORGET = "DELETE FROM sent WHERE slot NOT BETWEEN ? AND ?"
IS_TOLD = "SELECT 1 FROM told WHERE login = ? AND time BETWEEN ? AND ?"
TELL = "INSERT OR REPLACE INTO told VALUES (?, ?)"
SENDMAIL = "/usr/sbin/sendmail"

REPORTS = (
    *("link-connect", "link-disconnect", "link-identify", "link-auth", "link-tls"),
    *("tx-reset", "tx-begin", "tx-mail", "tx-rcpt", "tx-envelope", "tx-data"),
    *("tx-commit", "tx-rollback"),
)
FILTERS = ("mail-from", "rcpt-to", "data-line", "commit")

# RFC 5322, 3.6: may stand once; the first of several counts. Of To and Cc all do.
ONCE = {
    *(b"date", b"message-id", b"subject", b"reply-to", b"in-reply-to", b"references"),
    *(b"mime-version", b"content-type", b"content-transfer-encoding", b"content-disposition"),
}
JOINED = {b"to", b"cc"}
# Blanks that do not count to dkimpy and Mail::DKIM, and count to filter-dkimsign.
BLANKS = bytes.maketrans(b"\v\f", b"  ")
FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")  # RFC 5322, 3.6.8, and the blanks of 4.5
ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+")
# Not "=?": some readers decode encoded words even in addresses.
DOT_ATOM = re.compile(
    r"(?!.*=\?)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
)
HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
# Encoded words, RFC 2047: as they are written, and as they may stand in a name (5.3).
ENCODED = re.compile(r"=\?[\w-]+\?[bBqQ]\?[^?\s<>\"]*\?=", re.ASCII)
IN_A_NAME = re.compile(r"=\?[\w-]+\?[bBqQ]\?[\w!*+/=-]*\?=|[\w'-]+", re.ASCII)
PLAIN_TO = re.compile(rb'[^"\\():;,@]*@[^"\\():;,@]*(,[^"\\():;,@]*@[^"\\():;,@]*)*')
PLAIN_FROM = re.compile(
    rb"From: (?:[A-Za-z0-9 _'-]{0,60} <([A-Za-z0-9._+-]+@[a-z0-9.-]+)>"
    rb"|<([A-Za-z0-9._+-]+@[a-z0-9.-]+)>|([A-Za-z0-9._+-]+@[a-z0-9.-]+))"
)

CARRIAGE_RETURN = "550 5.6.0 There is a carriage return inside a line: end lines with CR LF alone"
NO_FIELD = "550 5.6.0 '{}' is no header field: put an empty line before the text"
LONG_HEADER = "552 5.3.4 The header is longer than 256 kB"
LONG_FIELD = "550 5.6.0 {}: is longer than smtpd takes: name fewer recipients in the header"
NO_AUTHOR = "550 5.6.0 There is no From: that can be read: write one address of this server"
UNREADABLE = "550 5.6.0 {}: cannot be read: write addresses like user@example.com"
UNSIGNED = "451 4.3.0 The message could not be signed now: try again later"
FAULT = "451 4.3.0 The message could not be checked now: try again later"
FORGED = "550 5.7.1 {} is an address of this server: log in to send as it (465 or 587)"
FORGED_ELSEWHERE = "550 5.7.1 {} is sent by other hosts than yours, says its domain (SPF)"
NOT_HERE_YET = "451 4.3.0 {} is moving to this server: try again later"
NOT_KNOWN = "451 4.3.0 The recipients of {} are not known here yet: try again later"
FULL = "452 4.3.1 The disk of this server is nearly full: try again later"
ENOUGH = "451 4.7.1 {} may write to {} recipients in {}: the rest can go after {} UTC"
NO_REJECTION = "451 4.7.1 Rejections are not sent now: the message is kept"
BLOCKED = "{} 5.7.1 {} is blocked on this server: ask its postmaster"

TOLD = """\
From: {postmaster}
To: {postmaster}
Subject: {login} sends more than its limit
Auto-Submitted: auto-generated

The account {login} has written to {sent} recipients in {window}.
Its limit is {limit}. What was refused now came from {host}.

If that is not its owner, the password was stolen. This stops the account
at once, everywhere; then give it another password in the pillar:

    salt-call mailsrv.block {login}

If it is, it may go on after {until} UTC; or raise its limit, the
recipients_per_hour or recipients_per_day of mailsrv:limits or of the account.

For a day, no other mail of this kind will come about this account.
"""


class Refused(Exception):
    """A message that cannot be made right; holds the SMTP reply."""


# The configuration


class Rules:
    """
    Who may send as what: the file that the formula writes, with the keys of `KINDS`.

    hostname: this machine, for addresses without a domain and Message-ID. domains: what is ours.
    moved: by each of them that has another name now, that one.
    senders: the addresses, or "@domain", that a login may send as. signers: the commands of the
    filters that sign, in their order. closed: the networks that may use our envelope senders
    without logging in, or null where everybody may. backups: the same for each domain that we are
    a backup MX for. unknown: such domains of whose recipients nothing is known yet. waiting:
    domains that are to come here from another machine. spool: smtpd's, and free: the bytes that
    must be free there. limits: to how many recipients a login may write in
    each of `WINDOWS`, 0 for any. sent: the file in which they are counted. postmaster: who is told.
    stopped: the file of those who are blocked, an address a line. Raises ValueError.
    """

    KINDS = {  # noqa: RUF012
        **{"hostname": str, "domains": list, "moved": dict, "senders": dict, "signers": list},
        **{"closed": (list, type(None)), "spool": str, "free": int},
        **{"backups": dict, "unknown": list, "waiting": list},
        **{"limits": dict, "sent": str, "postmaster": str, "stopped": str},
    }

    def __init__(self, text):
        given = json.loads(text)
        for key, kind in self.KINDS.items():
            if not isinstance(given, dict) or not isinstance(given.get(key, ...), kind):
                raise ValueError(f"{key}: is missing, or not of its kind")
        self.hostname = given["hostname"]
        self.ours = {*given["domains"], given["hostname"]}
        self.moved = {str(old): str(new) for old, new in given["moved"].items()}
        self.senders = {login: frozenset(names) for login, names in given["senders"].items()}
        self.signers = [list(map(str, command)) for command in given["signers"]]
        self.spool, self.free = given["spool"], given["free"]
        self.closed = _networks(given["closed"])
        self.backups = {name: _networks(listed) for name, listed in given["backups"].items()}
        self.unknown = frozenset(given["unknown"])
        self.waiting = frozenset(given["waiting"])
        self.limits = {login: list(map(int, most)) for login, most in given["limits"].items()}
        if any(len(most) != len(WINDOWS) for most in self.limits.values()):
            raise ValueError(f"limits: each has a number for {' and for '.join(WINDOWS)}")
        self.sent, self.postmaster = given["sent"], given["postmaster"]
        self.stopped, self.blocked = given["stopped"], frozenset()

    def is_ours(self, address):
        """Whether an address is in one of our domains."""
        return address.rpartition("@")[2].lower() in self.ours

    def now(self, address):
        """The address in the domain that its own has moved to, if it has."""
        local, at, domain = address.rpartition("@")
        return f"{local}{at}{self.moved.get(domain.lower(), domain)}"

    def may(self, login, address):
        """Whether that login may send as this address, with or without a tag."""
        names = self.senders.get(login, ())
        local, _, domain = address.lower().rpartition("@")
        untagged = f"{local.partition('+')[0]}@{domain}"
        return bool({f"{local}@{domain}", untagged, f"@{domain}"} & {*names})

    def is_forged(self, address, host):
        """Whether a stranger at that IP address may not have this as the sender of an envelope."""
        domain = address.rpartition("@")[2].lower()
        closed = self.closed if domain in self.ours else self.backups.get(domain)
        if closed is None:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return True
        return not any(address in network for network in closed) and not _is_here(address)

    def account(self, address):
        """The login whose own address this is, with or without a tag; empty where there is none."""
        local, _, domain = address.lower().rpartition("@")
        untagged = f"{local.partition('+')[0]}@{domain}"
        return untagged if untagged in self.senders else ""

    def is_blocked(self, login, address):
        """Whether this login, or the account whose own address this is, may send nothing."""
        return bool(self.blocked and {login, self.account(address)} & self.blocked)


def _networks(listed):
    return None if listed is None else list(map(ipaddress.ip_network, listed))


def enveloped(sender, hostname):
    """The sender of an envelope as smtpd(8) takes it: without a route, and with a domain."""
    local, at, domain = sender.rpartition("@") if "@" in sender else (sender, "@", hostname)
    return f"{local.partition(':')[2] or local}{at}{domain}" if sender else ""


# Addresses, RFC 5322, 3.4 with what 4.4 still allows


class Address:
    """One entry of an address list: `name`, `local` and `domain`, None where there is none."""

    def __init__(self, name="", local=None, domain=None, group=False):
        self.name, self.local, self.domain, self.group = name, local, domain, group

    def complete(self, hostname):
        """The address with its domain; empty where there is none or it is no plain one."""
        domain = hostname if self.domain is None else self.domain.lower()
        if self.group or not DOT_ATOM.fullmatch(self.local or "") or not HOST.fullmatch(domain):
            return ""
        return f"{self.local}@{domain}"


def addresses(text):
    """
    The entries of an address list, `Address`es; one without an address has a name alone.

    text
        The unfolded body of a field.

    Raises ValueError where a strict reader would have to guess.
    """
    entries, current, in_group = [], [], False
    opened = closed = 0  # a route (RFC 5322, 4.4) has commas and a colon of its own
    for token in [*_tokens(text), (",", "")]:
        kind = token[0]
        if kind == ":" and not in_group and not opened:
            if not current or any(t[0] not in ("word", ".") for t in _bare(current)):
                raise ValueError("no name before a group's colon")
            in_group = True
            entries.append(Address(_phrase(current), group=True))
            current = []
        elif kind == ";":
            if not in_group:
                raise ValueError("a semicolon outside of a group")
            in_group = False
            current = []
            opened = closed = 0
        elif kind == "," and opened <= closed:
            if current and not in_group:
                entries.append(_entry(current))
            current = []
            opened = closed = 0
        else:
            opened += kind == "<"
            closed += kind == ">"
            current.append(token)
    if in_group or opened > closed or _bare(current):
        raise ValueError("ends in the middle")
    return entries


def _bare(tokens):
    return [token for token in tokens if token[0] != "comment"]


def _tokens(text):
    """Words, literals, comments and specials, as (kind, text); a special is its own kind."""
    result, at = [], 0
    while at < len(text):
        char = text[at]
        if char in " \t\r\n":
            at += 1
        elif char == '"':
            word, at = _until(text, at + 1, '"')
            result.append(("word", word))
        elif char == "(":
            word, at = _comment(text, at)
            result.append(("comment", word))
        elif char == "[":
            word, at = _until(text, at + 1, "]")
            result.append(("literal", f"[{word}]"))
        elif char in "<>@,;:.":
            result.append((char, char))
            at += 1
        else:
            atom = ENCODED.match(text, at) or ATOM.match(text, at)
            if not atom:
                raise ValueError("a character that must be quoted")
            result.append(("word", atom[0]))
            at = atom.end()
    return result


def _until(text, at, end):
    word = []
    while at < len(text):
        if text[at] == end:
            return "".join(word), at + 1
        at += text[at] == "\\"
        word.append(text[at : at + 1])
        at += 1
    raise ValueError("a quote or a literal that does not end")


def _comment(text, at):
    word, depth = [], 0
    while at < len(text):
        if text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
            if not depth:
                return "".join(word[1:]), at + 1
        elif text[at] == "\\":
            at += 1
        word.append(text[at : at + 1])
        at += 1
    raise ValueError("a comment that does not end")


def _phrase(tokens):
    words = []
    for kind, word in tokens:
        if kind == "." and words:
            words[-1] += "."
        elif kind == "word":
            words.append(word)
    return " ".join(words)


def _entry(tokens):
    comment = next((word for kind, word in tokens if kind == "comment"), "")
    bare = _bare(tokens)
    kinds = [kind for kind, _ in bare]
    if "<" not in kinds:
        if "@" in kinds or len(bare) == 1 or _dotted(kinds):
            return Address(comment, *_addr_spec(bare))
        if not {*kinds} <= {"word", "."}:
            raise ValueError("neither a name nor an address")
        return Address(_phrase(bare))
    at = kinds.index("<")
    if kinds[-1] != ">" or kinds.count("<") > 1 or not {*kinds[:at]} <= {"word", "."}:
        raise ValueError("an angle bracket at a wrong place")
    spec = bare[at + 1 : -1]
    if spec and spec[0][0] == "@" and ":" in kinds[at:]:
        spec = spec[[kind for kind, _ in spec].index(":") + 1 :]  # an obsolete route
    if not spec:
        return Address(_phrase(bare[:at]) or comment)
    return Address(_phrase(bare[:at]) or comment, *_addr_spec(spec))


def _dotted(kinds):
    """word.word, as a local part is."""
    return len(kinds) % 2 == 1 and all(
        kind == ("." if index % 2 else "word") for index, kind in enumerate(kinds)
    )


def _addr_spec(tokens):
    kinds = [kind for kind, _ in tokens]
    at = kinds.index("@") if "@" in kinds else len(kinds)
    local, domain = tokens[:at], tokens[at + 1 :]
    if not _dotted(kinds[:at]):
        raise ValueError("no local part")
    if at == len(kinds):
        return "".join(word for _, word in local), None
    if [kind for kind, _ in domain] != ["literal"] and not _dotted([kind for kind, _ in domain]):
        raise ValueError("no domain")
    return "".join(word for _, word in local), "".join(word for _, word in domain)


def mailbox(name, address):
    """
    The lines of a From: field of one address, in a form that no reader reads differently.

    name
        The display name, text; encoded words (RFC 2047) stay as they are.

    address
        A plain address.

    Returns bytes, folded, without line ends.
    """
    name = _line(name)[:LIMIT]
    if not name:
        return [f"From: <{address}>".encode()]
    parts = name.split(" ")
    if any(map(ENCODED.fullmatch, parts)):
        said = _decoded(name)
        if not all(map(IN_A_NAME.fullmatch, parts)) or said != _line(said):
            parts = _encoded(_line(said))
    elif not re.fullmatch(r"[A-Za-z0-9 _'-]+", name):
        quotable = len(name) < 60 and re.fullmatch(r"[ !#-;=?A-\[\]-~]+", name)
        parts = [f'"{name}"'] if quotable and "=?" not in name else _encoded(name)
    if max(map(len, parts)) > 200:
        parts = _encoded(name)
    lines = ["From:"]
    for part in [*parts, f"<{address}>"]:
        if len(lines[-1]) + 1 + len(part) > 78 and lines[-1] not in ("From:", ""):
            lines.append("")
        lines[-1] += f" {part}"
    return [line.encode() for line in lines]


def _line(name):
    """A name without what no reader can show; ZWNJ and ZWJ belong to some scripts' words."""
    shown = (c if c.isprintable() or c in "\u200c\u200d" else " " for c in name)
    return " ".join("".join(shown).split())


def _decoded(name):
    """A name with its encoded words read; as it is where they cannot be."""
    try:
        parts = email.header.decode_header(name)
        return "".join(
            part if isinstance(part, str) else part.decode(charset or "ascii", "replace")
            for part, charset in parts
        )
    except (LookupError, UnicodeError, email.errors.HeaderParseError):
        return name


def _encoded(name):
    """RFC 2047: at most 75 characters a word, no character split."""
    words, held = [], b""
    for char in name:
        more = char.encode("utf-8", "replace")
        if len(held) + len(more) > 42:
            words.append(held)
            held = b""
        held += more
    return [f"=?utf-8?B?{base64.b64encode(word).decode()}?=" for word in [*words, held]]


# What smtpd(8) rewrites in To: and Cc: after all filters (smtp_session.c): an entry without a
# domain gets the listener's hostname. What it would still change behind us breaks signatures, so
# it is done here, by its rules: those of 7.4, which looks for commas without knowing an escaped
# character in quotes, and of later ones.


def completed(value, hostname):
    """
    The body of a To: or Cc: with its addresses completed.

    value
        The body, lines joined by LF, bytes.

    Returns bytes that smtpd(8) of any version leaves as they are. Raises Refused.
    """
    if PLAIN_TO.fullmatch(value):
        return value
    for _ in range(6):
        before = value
        for quoting in (True, False):
            parts = _split(value + b"\n", quoting)
            value = b",".join(_appended(part, hostname.encode()) for part in parts)[:-1]
        if value == before:
            return value
    raise Refused


def _split(value, quoting):
    parts, start = [], 0
    escape = quote = False
    comment = 0
    for at, char in enumerate(value):
        if char == 10:
            continue  # to smtpd(8) a line's end is none of its characters
        if char == 40 and not escape and not quote:
            comment += 1
        if char == 34 and not escape and not comment:
            quote = not quote
        if char == 41 and not escape and not quote and comment:
            comment -= 1
        escape = char == 92 and not escape and not comment and (quoting or not quote)
        if char == 44 and not escape and not quote and not comment:
            parts.append(value[start:at])
            start = at + 1
    return [*parts, value[start:]]


def _appended(part, hostname):
    if len(part) + len(hostname) + 1 >= 4096 or not part:
        return part
    escape = quote = False
    comment = bracket = 0
    angle = component = 0
    has_angle = False
    for at, char in enumerate(part):
        if char == 40 and not escape and not quote:
            comment += 1
        if char == 34 and not escape and not comment:
            quote = not quote
        if char == 41 and not escape and not quote and comment:
            comment -= 1
        escape = char == 92 and not escape and not comment and not quote
        outside = not escape and not comment and not quote
        if char == 60 and outside and not bracket:
            bracket, has_angle = 1, True
        if char == 62 and outside and bracket:
            bracket, angle = 0, at
        if char in (64, 58) and outside:
            return part  # a domain, or a group: readable or not, it stays
        if not comment and char != 41 and not _space(char):
            component = at
    if escape or quote or comment or bracket:
        return part
    if has_angle:
        insert = angle - 1
        while insert >= 0 and _space(part[insert]):
            insert -= 1
        if insert < 0 or part[insert] == 60:
            return part
    else:
        insert = component
        if _space(part[insert]):
            return part
    return part[: insert + 1] + b"@" + hostname + part[insert + 1 :]


def _space(char):
    return char in b" \t\n\v\f\r"


# The header


class Header:
    """The fields of a header: a list of (name in lower case, lines)."""

    def __init__(self, lines):
        """Raises Refused with the reply where a line belongs to no field."""
        self.fields = []
        for line in lines:
            if line[:1] in (b" ", b"\t") and self.fields:
                if line.strip(b" \t"):  # a blank line to those who read strictly
                    self.fields[-1][1].append(line)
                continue
            field = FIELD.match(line)
            if field and len(field[1]) < MAX_NAME:
                self.fields.append((field[1].lower(), [field[1] + b":" + line[field.end() :]]))
            elif not re.match(rb">?From ", line):  # the line of an mbox
                raise Refused(NO_FIELD.format(_printable(line[:40].decode("latin-1"))))

    def all(self, name):
        """The bodies of all fields of that name, lines joined by LF."""
        return [
            b"\n".join(lines).partition(b":")[2] for known, lines in self.fields if known == name
        ]

    def replace(self, name, lines):
        """Put these lines in place of the first field of that name, or at the end."""
        at = next((i for i, field in enumerate(self.fields) if field[0] == name), len(self.fields))
        self.fields = [field for field in self.fields if field[0] != name]
        self.fields.insert(at, (name, lines))

    def remove(self, *names):
        """Remove all fields of these names."""
        self.fields = [field for field in self.fields if field[0] not in names]

    def once(self):
        """Keep the first of each field that may stand once; join those that list addresses."""
        first, fields = {}, []
        for name, lines in self.fields:
            if name in first and name in JOINED:
                body = [lines[0].partition(b":")[2].strip(b" \t"), *lines[1:]]
                if b"".join(body).strip():
                    first[name][-1] += b","
                    first[name] += [b" " + line.strip(b" \t") for line in body if line]
            elif name not in first or name not in ONCE:
                first[name] = lines
                fields.append((name, lines))
        self.fields = fields

    def lines(self):
        """All lines, as they are sent."""
        return [line for _, lines in self.fields for line in lines]


def _text(body):
    unfolded = body.replace(b"\n", b" ")
    try:
        return unfolded.decode()
    except UnicodeDecodeError:
        return unfolded.decode("latin-1")


def prepare(lines, door, login, sender, rules):
    """
    Make the header of a message right.

    lines
        The lines of the header, bytes without line ends, as smtpd(8) has taken them.

    door
        "user", "program" or "sieve".

    login
        Who has logged in; empty at the other doors.

    sender
        MAIL FROM, text without brackets; empty for none.

    rules
        The `Rules`.

    Returns (lines, sign, note): the lines to pass on, whether the message is ours to sign, and what
    was done to From:, for the log. Raises Refused with the reply.
    """
    if door == "sieve":
        # What Dovecot passes on has the Received: of its way here beside the one just written.
        if sum(line[:9].lower() == b"received:" for line in lines) > 1:
            return lines, False, ""
        login = rules.account(sender)
        door = "user" if login else "program"
    if door == "program" and not _is_ours(lines, sender, rules):
        if not _is_somebodys(lines):
            raise Refused(NO_AUTHOR)
        return lines, False, ""
    if any(b"\r" in line for line in lines):
        raise Refused(CARRIAGE_RETURN)
    header = Header([line.translate(BLANKS) for line in lines])
    header.remove(b"bcc", b"resent-bcc")
    header.once()
    may = (lambda a: rules.may(login, a)) if door == "user" else rules.is_ours
    fallback = sender or (login if "@" in login else f"MAILER-DAEMON@{rules.hostname}")
    author, note = _one_author(header, may, fallback, rules)
    if door == "program" and rules.is_blocked("", author):
        raise Refused(BLOCKED.format(550, author))
    _sender(header, may, author, rules)
    for name in JOINED:
        for body in header.all(name):
            title = name.decode().capitalize()
            if len(body) > MAX_FIELD:
                raise Refused(LONG_FIELD.format(title))
            try:
                whole = completed(body, rules.hostname)
            except Refused:
                raise Refused(UNREADABLE.format(title)) from None
            if whole != body:
                header.replace(name, (title.encode() + b":" + whole).split(b"\n"))
    if not b"".join(header.all(b"date")).strip():
        today = email.utils.formatdate(localtime=True)
        header.replace(b"date", [f"Date: {today}".encode()])
    if not b"".join(header.all(b"message-id")).strip():
        unique = f"Message-ID: <{secrets.token_hex(12)}@{rules.hostname}>"
        header.replace(b"message-id", [unique.encode()])
    return header.lines(), True, note


def _is_ours(lines, sender, rules):
    """Whether a program's message is ours: by its author, else by MAIL FROM."""
    try:
        bodies = Header(lines).all(b"from")
        author = _author(bodies)
        entries = [author] if author else _entries(bodies)
    except (Refused, ValueError):
        return rules.is_ours(sender)
    authors = [entry.complete(rules.hostname) for entry in entries]
    if authors and all(author and not rules.is_ours(author) for author in authors):
        return False
    return bool(author and authors[0]) or rules.is_ours(sender)


def _is_somebodys(lines):
    """Whether a message has been on its way before, or has one author that can be read."""
    if sum(line[:9].lower() == b"received:" for line in lines) > 1:
        return True
    try:
        author = _author(Header(lines).all(b"from"))
    except (Refused, ValueError):
        return False
    return bool(author and author.domain)


def _entries(bodies):
    """The entries of these fields of addresses; raises ValueError as `addresses` does."""
    if sum(map(len, bodies)) > MAX_AUTHORS:
        raise ValueError("longer than any list of authors")
    return [entry for body in bodies for entry in addresses(_text(body))]


def _author(bodies):
    """The one author of these From: fields, an `Address`; None where there are more or none."""
    if len(bodies) != 1:
        return None
    *before, last = _entries(bodies) or [None]
    if any(entry.domain is not None or entry.group for entry in before):
        return None
    if before and last.domain is not None:
        # Example, Ann <ann@example.com>: a name that should have stood in quotes.
        last.name = ", ".join([*(e.local or e.name for e in before), last.name])
    return None if before and last.domain is None else last


def _one_author(header, may, fallback, rules):
    """Leave one From:; returns its address and a note where it is another than was given."""
    fields = [lines for name, lines in header.fields if name == b"from"]
    if len(fields) == 1 and len(fields[0]) == 1:
        plain = PLAIN_FROM.fullmatch(fields[0][0])
        address = plain and plain[plain.lastindex].decode()
        usual = plain and DOT_ATOM.fullmatch(address.rpartition("@")[0])
        if usual and may(address) and rules.now(address) == address:
            return address, ""
    bodies = header.all(b"from")
    try:
        author = _author(bodies)
        entries = [author] if author else _entries(bodies)
    except ValueError:
        author, entries = None, []
    given = rules.now(author.complete(rules.hostname)) if author else ""
    address = given if given and may(given) else fallback
    if author:
        name = author.name or ("" if given == address or author.domain else author.local or "")
    else:
        same = [e for e in entries if e.complete(rules.hostname).lower() == fallback.lower()]
        name = same[0].name if same else ""
    header.replace(b"from", mailbox(name, address))
    said = b"".join(bodies)[:200].decode("utf-8", "replace")
    return address, "" if given == address else f"From:{said} is now {address}"


def _sender(header, may, author, rules):
    """Sender: stays where it is an address of this account beside From: (DKIMproxy signs by it)."""
    try:
        found = _entries(header.all(b"sender"))
    except ValueError:
        found = []
    address = rules.now(found[0].complete(rules.hostname)) if len(found) == 1 else ""
    if not may(address) or address.rpartition("@")[2] != author.rpartition("@")[2].lower():
        header.remove(b"sender")
    elif len(header.all(b"sender")) == 1:
        header.replace(b"sender", [f"Sender: <{address}>".encode()])


# What was sent


class Sent:
    """
    To how many recipients each login has written, by slots of time, and of whom postmaster was
    told: a database (SQLite) that outlives this process, and that several of them may have open.

    Where it cannot be used, mail goes on and is counted in memory: a limit is a brake for a thief,
    and a fault of the counter is none. A file that is no such database, or another user's, is begun
    anew.
    """

    def __init__(self, log):
        self.log, self.path, self.base = log, None, None
        self.in_memory, self.again, self.memory = False, 0.0, None

    def beyond(self, path, login, more, limits):
        """
        Which of its limits a login would pass with so many recipients more: (limit, window, sent,
        until), the last a time in seconds; None where it would pass none.
        """
        return self._use(path, lambda base: _beyond(base, login, more, limits, time.time()))

    def add(self, path, login, more, limits):
        """Count them, or say as `beyond` does which limit they would pass: one or the other."""

        def add(base):
            with base:
                base.execute("BEGIN IMMEDIATE")
                now = time.time()
                passed = _beyond(base, login, more, limits, now)
                if not passed:
                    base.execute(FORGET + " AND login = ?", (*_around(now), login))
                    base.execute(COUNT, (login, int(now // SLOT * SLOT), more))
                return passed

        return self._use(path, add)

    def is_told(self, path, login):
        """Whether postmaster was told of that login within a day."""
        now = int(time.time())
        asked = (login, now - DAY + 1, now + DAY)
        return self._use(path, lambda base: base.execute(IS_TOLD, asked).fetchone())

    def tell(self, path, login):
        """Remember that postmaster was."""
        told = (login, int(time.time()))
        self._use(path, lambda base: base.execute(TELL, told))

    def _use(self, path, function):
        for _ in range(3 if sqlite3 else 0):
            try:
                return function(self._opened(path))
            except (sqlite3.Error, TypeError, ValueError, OverflowError) as exc:
                self._failed(path, exc)
        return None

    def _opened(self, path):
        now = time.monotonic()
        if path != self.path or (self.in_memory and now > self.again):
            self.path, self.again = path, now + LATER
            self.base, self.in_memory = _database(path), False
        return self.base

    def _failed(self, path, exc):
        self.log(f"{path}: {exc}")
        broken = getattr(exc, "sqlite_errorcode", BROKEN[0]) & 0xFF in BROKEN
        if broken and self.base and not self.in_memory:
            self.base.close()  # before its file goes
        if broken and _removed(path):
            self.path = None
        elif not self.in_memory:
            # What came and went is counted on: a disk that is full can be opened.
            self.memory = self.memory or _database(":memory:")
            self.base, self.in_memory = self.memory, True


def _database(path):
    # Nothing waits for the disk: what was killed is whole, and after a power cut it may be begun
    # anew. A journal in WAL mode is faster, and read through shared memory: where its file was cut
    # short, the process gets a SIGBUS, and smtpd(8) would end with it.
    with contextlib.suppress(OSError):
        if os.stat(path).st_uid != os.geteuid():  # of another signer's user, who was here before
            _removed(path)
    base = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    try:
        base.executescript(TABLES)
        base.execute(FORGET, _around(time.time()))
    except BaseException:
        base.close()
        raise
    return base


def _removed(path):
    try:
        for part in "", "-journal":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + part)
    except OSError:
        return False
    return True


def _around(now):
    """The slots that count; a clock that was put back has left some in the future, which do."""
    return int(now) - DAY - SLOT, int(now) + DAY + SLOT


def _beyond(base, login, more, limits, now):
    rows, passed = base.execute(COUNTED, (login, *_around(now))).fetchall(), None
    for (window, seconds), limit in zip(WINDOWS.items(), limits, strict=True):
        kept = [(slot, many) for slot, many in rows if abs(now - slot) < seconds + SLOT]
        sent = sum(many for _, many in kept)
        over = sent + more - limit
        if not limit or over <= 0:
            continue
        until = now + seconds  # where the message alone has more
        for slot, many in kept:
            over -= many
            if over <= 0:
                until = slot + SLOT + seconds
                break
        if not passed or until > passed[3]:
            passed = limit, window, sent, until
    return passed


# The signers


class Signer:
    """A filter that signs, as a child: what it registered, and its pipes."""

    def __init__(self, command, config, guard):
        self.guard, self.name = guard, os.path.basename(command[0])
        self.reports, self.filters, self.ready, self.seen = set(), set(), False, set()
        self.unread, self.unsent, self.ended = b"", [], False
        self.pending, self.moved = 0, 0.0
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        guard.selector.register(self.process.stdout, selectors.EVENT_READ, self.read)
        self.send(b"".join(line + b"\n" for line in config))

    def send(self, data):
        """Write to the filter, now or when it reads again."""
        if self.ended:
            return
        if not self.unsent:
            self.guard.selector.register(self.process.stdin, selectors.EVENT_WRITE, self.write)
            self.moved = time.monotonic()
        self.unsent.append(data)
        self.pending += len(data)

    def write(self):
        """Called when the filter reads."""
        data = b"".join(self.unsent)
        try:
            sent = os.write(self.process.stdin.fileno(), data[: 1 << 18])
        except BlockingIOError:
            return
        except OSError:
            self.end()
            return
        self.moved = time.monotonic()
        self.unsent = [data[sent:]] if sent < len(data) else []
        self.pending = len(data) - sent
        if not self.unsent:
            self.guard.selector.unregister(self.process.stdin)

    def read(self):
        """Called when the filter has written."""
        data = os.read(self.process.stdout.fileno(), 1 << 18)
        if not data:
            self.end()
            return
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self.guard.heard(self, line)

    def end(self):
        """It is gone, or shall go."""
        if self.ended:
            return
        if self.unsent:
            self.guard.selector.unregister(self.process.stdin)
        self.guard.selector.unregister(self.process.stdout)
        self.ended, self.unsent, self.pending = True, [], 0
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.kill()
        self.process.wait()


class Chain:
    """The signers of one configuration, in their order; a message goes through all of them."""

    def __init__(self, commands, config, guard):
        self.commands, self.busy = commands, set()
        self.signers = []
        try:
            for command in commands:
                self.signers.append(Signer(command, config, guard))
        except OSError as exc:
            guard.log(f"{command[0]} cannot be started: {exc}")
            self.end()

    @property
    def ready(self):
        """Whether all take messages."""
        return len(self.signers) == len(self.commands) and all(
            signer.ready and not signer.ended for signer in self.signers
        )

    @property
    def ended(self):
        """Whether one of them is gone."""
        return len(self.signers) < len(self.commands) or any(s.ended for s in self.signers)

    def end(self):
        """End them all."""
        for signer in self.signers:
            signer.end()


# The protocol


class Session:
    """What is known of an SMTP session."""

    def __init__(self, door, host=""):
        self.door, self.host, self.login, self.sender = door, host, "", ""
        self.passed_on = ""  # by the Sieve script of that mailbox
        self.number, self.named = b"", []  # of its message, for the log
        self.reports, self.message, self.recipients = [], None, 0


class Message:
    """
    A message on its way through. `state` is "header" while its lines are held, then "pass" (to
    smtpd(8)), "sign" (through `chain`) or "drop" (it is refused).
    """

    def __init__(self, token, state):
        self.token, self.state = token, state
        self.lines, self.size = [], 0
        self.ours = False
        self.reply = ""  # of a refusal
        self.ended = False  # smtpd(8) has sent the last line
        self.finished = False  # and has it back
        self.chain, self.asked = None, None  # the signers, and which one judges it now
        self.unsigned, self.in_header = 0, True  # signatures that are still to come
        self.blank = False  # the last line of the text ends in one
        self.name, self.naming = b"", False  # the Message-ID; None when the log has it


class Guard:
    """
    The filter: `take` is given what smtpd(8) writes, `write` is called with the answers.

    rules
        A function that gives the `Rules` that hold now.

    write, log
        Functions of bytes and of a text.
    """

    def __init__(self, rules, write, log, selector):
        self.rules, self.output, self.selector = rules, write, selector
        self._log = log
        self.sent, self.mails = Sent(self.log), []
        self.sessions, self.config = {}, []
        self.registered, self.chain, self.retired = False, None, []
        self.unread, self.out = b"", []
        self.next_start, self.delay, self.started = 0.0, 0.0, time.monotonic()

    def log(self, text):
        """One printable line."""
        self._log("".join(c if c.isprintable() else "?" for c in text)[:600])

    def take(self, data):
        """Read what smtpd(8) wrote, a piece of any length."""
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            try:
                self._line(line)
            except Exception as exc:  # it never ends
                self.log(f"a fault of guard's own: {exc!r}")
                self._fault(line)
        self.flush()

    def flush(self):
        """Write the answers so far."""
        if self.out:
            data, self.out = b"".join(self.out), []
            self.output(data)

    def tick(self):
        """Called between two pieces, and every second: start signers, register."""
        rules, now = self.rules(), time.monotonic()
        self.mails = [mail for mail in self.mails if mail.poll() is None]
        for chain in filter(None, (self.chain, *self.retired)):
            for signer in chain.signers:
                if signer.unsent and now > signer.moved + STUCK:
                    self.log(f"{signer.name} takes nothing any more")
                    signer.end()
            if chain.ended and chain is not self.chain:
                self._lost(chain)
        if not self.config or self.config[-1] != b"config|ready":
            return
        wanted = rules.signers if rules else []
        if wanted and (self.chain is None or self.chain.ended or self.chain.commands != wanted):
            if now >= self.next_start:
                self._start(wanted, now)
        elif not wanted and self.chain:
            self._retire()
        for chain in [chain for chain in self.retired if not chain.busy]:
            chain.end()
            self.retired.remove(chain)
        if self.chain and self.chain.ready:
            self.delay = 0.0
        late = now > self.started + PATIENCE
        if not self.registered and (late or not wanted or (self.chain and self.chain.ready)):
            self.registered = True
            lines = [f"report|smtp-in|{name}" for name in REPORTS]
            lines += [f"filter|smtp-in|{name}" for name in FILTERS]
            self.out += [f"register|{line}\n".encode() for line in [*lines, "ready"]]
            self.flush()

    def _start(self, wanted, now):
        if self.chain and self.chain.ended:
            self.log("a signer ended; it is started again")
            self._lost(self.chain)
        if self.chain:
            self._retire()
        # The first end costs nothing; one that ends again and again is not chased.
        self.next_start, self.delay = now + self.delay, min(30.0, self.delay * 2 or 0.5)
        self.chain = Chain(wanted, self.config, self)

    def _retire(self):
        self.retired.append(self.chain)
        self.chain = None

    def _lost(self, chain):
        """Messages that a signer took with it."""
        for sid in list(chain.busy):
            message = self.sessions[sid].message
            if message.asked is not None:
                self._judged(sid, message, f"reject|{UNSIGNED}")
            else:
                self._refuse(sid, message, UNSIGNED)
        chain.end()

    # What smtpd(8) says

    def _line(self, line):
        kind, _, rest = line.partition(b"|")
        if kind == b"filter":
            fields = rest.split(b"|", 6)
            if len(fields) == 7:
                self._filter(*fields[3:])
        elif kind == b"report":
            fields = rest.split(b"|", 5)
            if len(fields) >= 5:
                self._report(line, fields[3], fields[4], fields[5] if len(fields) > 5 else b"")
        elif kind == b"config" and not self.registered:
            self.config.append(line)

    def _fault(self, line):
        """Whatever went wrong with a line: its message is answered with 451, and smtpd goes on."""
        fields = line.split(b"|", 7)
        if fields[0] != b"filter" or len(fields) < 8:
            return
        event, sid, token, value = fields[4:]
        session = self.sessions.setdefault(sid, Session("stranger"))
        if event == b"data-line":
            session.message = session.message or Message(token, "drop")
            self._refuse(sid, session.message, FAULT)
            if value == b".":
                self._end(sid, session.message)
        elif event == b"commit":
            self._drop_message(sid, session)
            self._result(sid, token, f"reject|{FAULT}")
        else:
            self._result(sid, token, "proceed")

    def _report(self, line, event, sid, value):
        session = self.sessions.get(sid)
        if event == b"link-connect":
            session = self.sessions[sid] = Session(*_door(value))
        elif session is None:
            return
        elif event == b"link-auth":
            result, _, login = value.partition(b"|")
            if result == b"pass":
                session.login = login.decode("utf-8", "replace").lower()
        elif event == b"tx-begin":
            session.number, session.named = value[:8], []
        elif event == b"tx-rcpt":
            session.recipients += value.split(b"|")[1:2] == [b"ok"]
            if len(session.named) < 3:
                session.named.append(value.rpartition(b"|")[2])
        if session.door == "stranger" and event != b"link-disconnect":
            return
        for signer in self._signers(session):
            if sid in signer.seen and event.decode() in signer.reports:
                signer.send(line + b"\n")
        if event == b"link-disconnect":
            self._forget(sid, session)
        elif event in (b"tx-reset", b"tx-commit", b"tx-rollback"):
            session.reports = [old for old in session.reports if b"|link-" in old]
        elif len(session.reports) < 2000:
            session.reports.append(line)

    def _signers(self, session):
        chain = session.message.chain if session.message else None
        chains = {id(c): c for c in (chain, self.chain, *self.retired) if c}
        return [signer for c in chains.values() for signer in c.signers]

    def _forget(self, sid, session):
        for signer in self._signers(session):
            signer.seen.discard(sid)
        for chain in (self.chain, *self.retired):
            if chain:
                chain.busy.discard(sid)
        del self.sessions[sid]

    def _filter(self, event, sid, token, value):
        session = self.sessions.get(sid)
        if session is None:  # it began before us: never so in smtpd(8)
            session = self.sessions[sid] = Session("stranger")
        if event == b"data-line":
            self._data(sid, session, token, value)
        elif event == b"mail-from":
            self._mail_from(sid, session, token, value.decode("utf-8", "replace"))
        elif event == b"rcpt-to":
            recipient = value.decode("utf-8", "replace")
            answer = self._stopped(session) or self._not_known(session, recipient)
            self._result(sid, token, answer or self._passed(session, "beyond"))
        elif event == b"commit":
            self._commit(sid, session, token)
        else:
            self._result(sid, token, "proceed")

    def _result(self, sid, token, text):
        self.out.append(b"filter-result|%s|%s|%s\n" % (sid, token, text.encode()))

    def _mail_from(self, sid, session, token, sender):
        rules = self.rules()
        self._drop_message(sid, session)
        session.recipients, session.passed_on = 0, ""
        session.sender = sender = enveloped(sender, rules.hostname) if rules else sender
        if _is_full(rules):
            self.log("the disk of the queue is nearly full: mail is refused")
            self._result(sid, token, f"reject|{FULL}")
        elif session.door == "stranger" and rules and rules.is_forged(sender, session.host):
            said = FORGED if rules.is_ours(sender) else FORGED_ELSEWHERE
            self._result(sid, token, f"reject|{said.format(_printable(sender))}")
        elif stopped := self._stopped(session):
            self._result(sid, token, stopped)
        elif session.login and not sender:
            # A read receipt (RFC 8098) has none, which `senders` refuses: "530 Sender rejected".
            login = session.login
            session.sender = login if "@" in login else f"MAILER-DAEMON@{login}"
            self._result(sid, token, f"rewrite|<{session.sender}>")
        elif rules and session.door != "stranger" and rules.now(sender) != sender:
            session.sender = rules.now(sender)
            self._result(sid, token, f"rewrite|<{session.sender}>")
        else:
            self._result(sid, token, "proceed")

    def _stopped(self, session):
        """What an account that is blocked is told, whatever it was about; empty where it is not."""
        rules = self.rules()
        if session.door == "stranger" or not rules:
            return ""
        sender = session.sender or session.passed_on
        if not rules.is_blocked(session.login, sender):
            return ""
        its_own = session.login in rules.blocked
        name = _printable(session.login if its_own else sender)
        self.log(f"{name} is blocked: refused at the door {session.door}")
        # 421 ends the session, as a login that began before the account was blocked shall.
        if its_own:
            return f"disconnect|{BLOCKED.format('421', name)}"
        return f"reject|{BLOCKED.format('550', name)}"

    def _not_known(self, session, recipient):
        """
        What is said of a domain that we are a backup MX for and know nothing of, and to
        strangers of one that is to come here: our users' mail goes to where it is.
        """
        rules, domain = self.rules(), recipient.rpartition("@")[2].lower()
        if rules and domain in rules.waiting and session.door == "stranger":
            return f"reject|{NOT_HERE_YET.format(domain)}"
        known = not rules or domain not in rules.unknown
        return "" if known else f"reject|{NOT_KNOWN.format(domain)}"

    def _kept(self, session):
        """
        What Sieve is told that rejects a message (RFC 5429): so many times, and not while somebody
        is blocked, since whose script it is cannot be known. It writes what it likes to a sender
        that the message names, and it is signed as postmaster's. By 451, the message is kept.
        """
        rules = self.rules()
        if session.door != "sieve" or session.sender or session.passed_on or not rules:
            return ""
        if rules.blocked or self.sent.add(rules.sent, "", session.recipients, REJECTIONS):
            self.log("a rejection of a user's filter is not sent")
            return f"reject|{NO_REJECTION}"
        return "proceed"

    def _passed(self, session, asked):
        """
        What smtpd(8) is told of another recipient (`asked` is "beyond") or of the whole message
        ("add"), by the limits of the login, or of the account whose Sieve script it is of: that can
        take its recipients from the very messages that a thief sends to it. It is counted apart:
        strangers who fill a mailbox that is forwarded do not keep its owner from writing.
        """
        rules, login, host = self.rules(), session.login, session.host
        counted = login
        if session.door == "sieve" and rules:
            login, host = rules.account(session.sender or session.passed_on), "its own filters"
            counted = f"{login} filters"
        limits = rules.limits.get(login, ()) if rules else ()
        if not any(limits):
            return "proceed"
        more = session.recipients + (asked == "beyond")
        passed = getattr(self.sent, asked)(rules.sent, counted, more, limits)
        if not passed:
            return "proceed"
        limit, window, sent, until = passed
        until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(until))
        if not self.sent.is_told(rules.sent, counted):
            self.log(f"{login} has written to {sent} recipients in {window}, from {host}")
            about = {"login": login, "host": host, "postmaster": rules.postmaster}
            about |= {"limit": limit, "window": window, "sent": sent, "until": until}
            self._mail(rules.postmaster, TOLD.format(**about))
            self.sent.tell(rules.sent, counted)
        reply = ENOUGH.format(login, limit, window, until)
        if session.door == "sieve":  # the message is to stay in the mailbox, and not in the queue
            reply = reply.replace("451 4", "550 5", 1)
        return f"reject|{reply}"

    def _mail(self, postmaster, text):
        """Send it, without waiting: smtpd(8) will ask this filter about it."""
        command = [SENDMAIL, "-f", postmaster, postmaster]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            mail = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
            self.mails.append(mail)
            with mail.stdin as pipe:  # it holds 64 kB
                pipe.write(text.encode())
        except OSError as exc:
            self.log(f"postmaster cannot be told: {exc}")

    def _drop_message(self, sid, session):
        if session.message and session.message.chain:
            session.message.chain.busy.discard(sid)
        session.message = None

    def _data(self, sid, session, token, line):
        message = session.message
        if message is None:
            state = "pass" if session.door == "stranger" else "header"
            message = session.message = Message(token, state)
        if message.ended:
            return
        if message.name is not None and message.state == "pass":
            self._named(sid, session, message, line)
        if message.state == "header":
            if line not in (b"", b"."):
                self._hold(sid, message, line)
                return
            self._begin(sid, session, message)
            if line == b"" or message.ours:
                self._pass(sid, message, b"")
            if line == b"":
                return
        if line == b".":
            if message.blank and message.state == "sign":
                self._pass(sid, message, b"")  # rspamd hashes a blank at the very end wrongly
            self._end(sid, message)
        elif message.ours and b"\r" in line:
            self._refuse(sid, message, CARRIAGE_RETURN)
        else:
            message.blank = line[-1:] in (b" ", b"\t")
            self._pass(sid, message, line)

    def _hold(self, sid, message, line):
        message.size += len(line) + 1
        if message.size > MAX_HEADER:
            self._refuse(sid, message, LONG_HEADER)
        else:
            message.lines.append(line[1:] if line[:1] == b"." else line)

    def _begin(self, sid, session, message):
        """The header is complete: decide."""
        rules, given = self.rules(), message.lines
        message.lines = []
        if session.door == "sieve":
            session.passed_on = _passed_on(given)
        try:
            if not rules:
                raise Refused(FAULT)
            lines, message.ours, note = prepare(
                given, session.door, session.login, session.sender, rules
            )
            if message.ours and rules.signers and not (self.chain and self.chain.ready):
                raise Refused(UNSIGNED)
        except Refused as refused:
            self._refuse(sid, message, str(refused))
            return
        if note:
            self.log(f"{sid.decode()} {session.login or session.door}: {note}")
        message.state = "pass"
        if message.ours and rules.signers:
            message.state, message.chain = "sign", self.chain
            message.chain.busy.add(sid)
            already = sum(line[:15].lower() == b"dkim-signature:" for line in lines)
            message.unsigned = already + len(message.chain.signers)
            for signer in message.chain.signers:
                self._introduce(signer, sid, session)
        for line in [*lines, b""]:
            self._named(sid, session, message, line)
        for line in lines:
            self._pass(sid, message, b"." + line if line[:1] == b"." else line)

    def _named(self, sid, session, message, line):
        """
        Once in the log: nothing else there leads from a Message-ID to smtpd(8)'s own number, and
        from an address to a message that the next filter refuses.
        """
        if line in (b"", b"."):
            sender, to = session.sender.encode()[:100], b",".join(session.named)[:200]
            said = b"%s msgid=%s from=<%s> to=<%s>" % (sid, session.number, sender, to)
            self.log((said + b" message-id=" + message.name.strip()).decode("utf-8", "replace"))
            message.name = None
        elif line[:1] not in (b" ", b"\t"):
            message.naming = not message.name and line[:11].lower() == b"message-id:"
            message.name += line[11:600] if message.naming else b""
        elif message.naming:  # folded
            message.name = message.name[:600] + line

    def _introduce(self, signer, sid, session):
        """Tell a signer of a session what it has missed."""
        if sid not in signer.seen:
            signer.seen.add(sid)
            for line in session.reports:
                if _event(line) in signer.reports:
                    signer.send(line + b"\n")

    def _pass(self, sid, message, line):
        if message.state == "pass":
            self.out.append(b"filter-dataline|%s|%s|%s\n" % (sid, message.token, line))
        elif message.state == "sign":
            self._sign(sid, message, b"data-line", line, 0)

    def _sign(self, sid, message, event, line, at):
        message.chain.signers[at].send(
            b"filter|0.7|%.6f|smtp-in|%s|%s|%s|%s\n"
            % (time.time(), event, sid, message.token, line)
        )

    def _refuse(self, sid, message, reply):
        if not message.reply:
            message.reply = reply
            self.log(f"{sid.decode('ascii', 'replace')} refused: {reply}")
        message.state, message.lines = "drop", []
        if message.chain:
            message.chain.busy.discard(sid)
        if message.ended:
            self._finish(sid, message)

    def _end(self, sid, message):
        """smtpd(8) has sent the last line."""
        message.ended = True
        if message.state == "sign":
            self._pass(sid, message, b".")
        else:
            self._finish(sid, message)

    def _finish(self, sid, message):
        """The last line goes back, and once: smtpd(8) dies of a second one."""
        if not message.finished:
            message.finished = True
            self.out.append(b"filter-dataline|%s|%s|.\n" % (sid, message.token))

    def _commit(self, sid, session, token):
        message = session.message
        reply = message.reply if message else ""
        if not reply and _is_full(self.rules(), 16):
            reply = FULL
        if message and message.chain and not reply:
            message.token = token
            self._ask(sid, message, 0)
            return
        verdict = f"reject|{reply}" if reply else self._allowed(session)
        self._drop_message(sid, session)
        self._result(sid, token, verdict)

    def _allowed(self, session):
        """What smtpd(8) is told of a message that is right in all else: now it counts."""
        return self._stopped(session) or self._kept(session) or self._passed(session, "add")

    def _ask(self, sid, message, at):
        """Ask the signers, one after the other, whether they are content."""
        for index, signer in list(enumerate(message.chain.signers))[at:]:
            if "commit" in signer.filters and not message.chain.ended:
                message.asked = index
                self._sign(sid, message, b"commit", b"", index)
                return
        # One that refuses has not signed, either: it has said why.
        signed = message.unsigned <= 0 and not message.chain.ended
        self._judged(sid, message, "proceed" if signed else f"reject|{UNSIGNED}")

    def _judged(self, sid, message, verdict):
        if verdict == "proceed":
            verdict = self._allowed(self.sessions[sid])
        self._drop_message(sid, self.sessions[sid])
        if verdict != "proceed":
            self.log(f"{sid.decode()} refused: {verdict.partition('|')[2]}")
        self._result(sid, message.token, verdict)

    # What a signer says

    def heard(self, signer, line):
        """A line that a signer has written."""
        kind, _, rest = line.partition(b"|")
        if kind == b"register":
            what, _, name = rest.decode("ascii", "replace").partition("|smtp-in|")
            {"report": signer.reports, "filter": signer.filters}.get(what, set()).add(name)
            signer.ready = signer.ready or rest == b"ready"
            return
        sid, _, rest = rest.partition(b"|")
        value = rest.partition(b"|")[2]
        session = self.sessions.get(sid)
        message = session.message if session else None
        if not message or not message.chain or signer not in message.chain.signers:
            return
        at = message.chain.signers.index(signer)
        if kind == b"filter-dataline" and message.state == "sign" and not message.finished:
            self._signed(sid, message, value, at)
        elif kind == b"filter-result" and message.asked == at:
            message.asked = None
            if value == b"proceed":
                self._ask(sid, message, at + 1)
            else:
                self._judged(sid, message, _reply(value))

    def _signed(self, sid, message, line, at):
        if at + 1 < len(message.chain.signers):
            self._sign(sid, message, b"data-line", line, at + 1)
        elif line == b".":
            self._finish(sid, message)
        else:
            if message.in_header:
                message.unsigned -= line[:15].lower() == b"dkim-signature:"
                message.in_header = line != b""
            self.out.append(b"filter-dataline|%s|%s|%s\n" % (sid, message.token, line))


def _event(line):
    return line.split(b"|", 5)[4].decode("ascii", "replace")


def _door(value):
    """The door and the IP address of a link-connect: rdns|fcrdns|src|dest."""
    source, destination = (value.split(b"|") + [b""] * 4)[2:4]
    host, _, _ = source.rpartition(b":")
    _, _, port = destination.rpartition(b":")
    address = host.decode("ascii", "replace").strip("[]")
    if source.startswith(SOCKET):
        return "program", address
    if port == SIEVE_PORT:
        return "sieve", address
    if port in USER_PORTS:
        return "user", address
    if host in LOOPBACK:
        return "program", address
    return "stranger", address


def _passed_on(lines):
    """
    Whose Sieve script passes a message on, by what Pigeonhole writes above it (cmd-redirect.c): the
    envelope has no sender where the message came without.
    """
    field = b"x-sieve-redirected-from:"
    found = (line[len(field) :] for line in lines if line[: len(field)].lower() == field)
    return next(found, b"").decode("ascii", "replace").strip(" <>")


def _reply(value):
    """A signer's refusal as one that keeps the session: 421 would end it."""
    text = value.decode("utf-8", "replace")
    known = re.fullmatch(r"reject\|([45]\d\d) (.*)", text)
    return f"reject|{known[1]} {known[2]}" if known and known[1] != "421" else f"reject|{UNSIGNED}"


def _is_here(address):
    """
    Whether an IP address is this machine's own: then its mail has gone round to itself, and smtpd's
    "Invalid recipient" is the better answer.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as found:
        try:
            found.bind((str(address), 0))
        except OSError:
            return False
    return True


def _printable(text):
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)[:200]


def _is_full(rules, divisor=1):
    """Whether smtpd's disk is too full: it would answer 250 and store an empty message."""
    try:
        disk = os.statvfs(rules.spool)
    except (AttributeError, OSError):
        return False
    inodes = disk.f_files and disk.f_favail < 1000 // divisor
    return bool(inodes or disk.f_bavail * disk.f_frsize < rules.free // divisor)


# The program


class File:
    """A file, read again when it was replaced; `made` makes something of its bytes."""

    def __init__(self, path, made, log):
        self.path, self.made, self.log = path, made, log
        self.looked, self.stamp, self.held = 0.0, None, None

    def read(self):
        """What was made of it; of an unusable file what there was before, None at first."""
        now = time.monotonic()
        if not self.looked or now > self.looked + 0.5:
            self.looked = now
            try:
                about = os.stat(self.path)
                stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
            except OSError as exc:
                stamp = str(exc)
            if stamp != self.stamp:
                self.stamp = stamp
                try:
                    with open(self.path, "rb") as file:
                        self.held = self.made(file.read())
                except (OSError, ValueError) as exc:
                    self.log(f"{self.path}: {exc}")
        return self.held


def blocked(text):
    """The names in the file of those who are blocked, which Dovecot reads, too: one a line."""
    lines = text.decode("ascii", "replace").splitlines()
    return frozenset(line.strip().lower() for line in lines if line[:1] not in ("", "#"))


class Files:
    """The configuration, and who is blocked."""

    def __init__(self, path, log):
        self.config, self.stopped, self.log = File(path, Rules, log), None, log

    def rules(self):
        """The `Rules` that hold now; None where there are none."""
        rules = self.config.read()
        if rules:
            if not self.stopped or self.stopped.path != rules.stopped:
                self.stopped = File(rules.stopped, blocked, self.log)
            rules.blocked = self.stopped.read() or frozenset()
        return rules


def _write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main(path):
    """Serve smtpd(8) until it ends."""

    def log(text):
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())

    selector = selectors.DefaultSelector()
    guard = Guard(Files(path, log).rules, _write, log, selector)

    def read():
        data = os.read(0, 1 << 18)
        if not data:
            sys.exit(0)  # smtpd(8) has ended
        guard.take(data)

    reading = False
    while True:
        unread = sum(s.pending for s in guard.chain.signers) if guard.chain else 0
        if reading != (unread < MAX_UNREAD):
            reading = not reading
            selector.register(0, selectors.EVENT_READ, read) if reading else selector.unregister(0)
        for key, _ in selector.select(1):
            try:
                key.data()
            except Exception as exc:  # it never ends
                guard.log(f"a fault of guard's own: {exc!r}")
        try:
            guard.tick()
            guard.flush()
        except BrokenPipeError:
            sys.exit(0)
        except Exception as exc:
            guard.log(f"a fault of guard's own: {exc!r}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["-n"]:
        if sqlite3 is None:
            sys.exit("Python's module sqlite3 is not there: install its package")
        with open(sys.argv[2], "rb") as file:
            try:
                Rules(file.read())
            except ValueError as exc:
                sys.exit(f"{sys.argv[2]}: {exc}")
    else:
        main(sys.argv[1])
