"""
What the mail daemons wrote into the log, as events: one reader for whoever counts or tells.

Strangers choose half of what stands in these lines: user names, addresses, Message-IDs, commands.
So a line is taken apart from the sides that the daemon writes, an identifier is read from where the
daemon puts it, and what does not look exactly as the daemon writes it is no event.
"""

import re

KINDS = (
    "connected",  # to smtpd: `address`, and in `peer` its name
    "accepted",  # a message by smtpd: `session`, `message`
    "queued",  # a recipient of it: `envelope`, `sender`, `recipient`
    "named",  # guard says which Message-ID a message has: `message`, `message_id`, `sender`, and
    # as `recipient` the first ones, with commas; it is not taken yet
    "refused",  # a command or a message, at the door: `cause`, `reason`, and in `command` which
    "noted",  # guard has changed or refused something, in its words: `reason`
    "delivered",  # by smtpd into a mailbox: `envelope`, `recipient`
    "relayed",  # to another server: `envelope`, `recipient`, `peer`, and its answer as `reason`
    "deferred",  # tried again later: `cause`, `reason`
    "bounced",  # given back to the sender: `cause`, `reason`
    "stored",  # by Dovecot: `message_id`, `user`, and the folder as `reason`
    "forwarded",  # by a user's filter: `message_id`, `user`, `recipient`
    "answered",  # by a user's vacation: `message_id`, `user`, `recipient`
    "discarded",  # by a user's filter: `message_id`, `user`
    "kept_out",  # not stored, and why: `message_id`, `user`, `cause`, `reason`
    "login",  # `daemon`, `user`, `address`
    "login_failed",  # the same, and in `count` how often
    "started",  # a daemon
    "stopped",  # the same
    "failed",  # a daemon that ended by a fault
    "fault",  # what a daemon calls an error: `reason`
)

CAUSES = (
    *("relay denied", "no such mailbox", "sender", "password", "spam", "size", "mailbox full"),
    *("limit", "DNS", "connection", "TLS", "command", "other"),
)

# Who may write what: the unit of the process that wrote a line is the kernel's word.
UNITS = {
    "opensmtpd.service": "smtpd",
    "dovecot.service": "dovecot",
    "dkimproxy_out.service": "dkimproxy",
    "rspamd.service": "rspamd",
}

# In the unit of smtpd(8), what a user of the machine names in ~/.forward runs, too, as that user.
WRITERS = {"opensmtpd.service": ("root", "opensmtpd", "opensmtpq")}

FIELDS = "--output-fields=MESSAGE,MESSAGE_ID,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,UNIT"

# What follows from the words of a refusal or of a failure; the first that fits.
_CAUSES = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"must issue an auth", "relay denied"),
        (r"^535|authentication failed", "password"),
        (r"sender rejected|is an address of this server|5\.1\.[78]", "sender"),
        (r"invalid recipient|expansion problem|5\.1\.[16]|user unknown", "no such mailbox"),
        (r"unknown user|no such (user|mailbox|recipient)", "no such mailbox"),
        (r"5\.2\.2|mailbox is full|over ?quota|quota exceeded", "mailbox full"),
        (r"too big|too large|5\.3\.4|exceeds", "size"),
        (r"too many|4\.5\.3|rate limit|limit (is|was|has)|an hour", "limit"),
        (r"domain does not exist|\bmx\b|resol|\bdns\b|nxdomain|4\.4\.3|reverse", "DNS"),
        (r"spam|blocklist|blacklist|blocked|5\.7\.1 .*(reject|reputation)", "spam"),
        (r"\btls\b|certificate|handshake", "TLS"),
        (r"connect|network|timeout|timed out|hangup|route|gone away|bad dns", "connection"),
        (r"^50[0-4]", "command"),
    )
)  # fmt: skip

_HEX = "[0-9a-f]"
_SMTPD = re.compile(rf"({_HEX}{{16}}) (smtp|mta|mda) ([a-z-]+) ?(.*)\Z", re.DOTALL)
_CONNECTED = re.compile(r"address=(\S+) host=(.*)\Z", re.DOTALL)
_ACCEPTED = re.compile(rf"msgid=({_HEX}{{8}}) ")
_QUEUED = re.compile(rf"evpid=({_HEX}{{16}}) from=<([^<>]*)> to=<([^<>]*)>\Z")
_AUTHENTICATION = re.compile(r"user=(.*) result=(ok|permfail|tempfail)\Z", re.DOTALL)
_FAILED_COMMAND = re.compile(r"command=\"(.*)\" result=\"([45]\d\d.*)\"\Z", re.DOTALL)
_BAD_INPUT = re.compile(r"result=\"(.*)\"\Z", re.DOTALL)
_DELIVERY = re.compile(
    rf"evpid=({_HEX}{{16}}) from=<([^<>]*)> to=<([^<>]*)> (?:rcpt=<([^<>]*)> )?"
    r"(?:user=\S+|source=\".*?\" relay=\"(.*?)\") delay=\S+ "
    r"result=\"?(Ok|TempFail|PermFail)\"? stat=\"?(.*?)\"?\Z",
    re.DOTALL,
)
_NO_SERVER = "Network error on destination MXs"
_NO_ROUTE = re.compile(r"No valid route for \[connector:[^,]*->\[relay:([^,\]]+)")
_PATH = re.compile(r"[A-Za-z ]+:\s*<([^<>]*)>")
_RELAY = re.compile(r"([0-9A-Fa-f.:]+) \((.*)\)\Z", re.DOTALL)
_RESULTS = {"TempFail": "deferred", "PermFail": "bounced"}

_NAMED = re.compile(
    rf"({_HEX}{{16}}) msgid=({_HEX}{{8}}) from=<([^<>]*)> to=<([^<>]*)> message-id=(.*)\Z",
    re.DOTALL,
)
_NOTED = re.compile(rf"({_HEX}{{16}}) (.*)\Z", re.DOTALL)

# The user's name stands between what Dovecot writes; the last end that fits is the true one.
_LOGIN = re.compile(
    r"(imap|pop3|managesieve|submission)-login: (?:Info: )?(.*?): user=<(.*)>, "
    r"(?:method=\S+, )?rip=([0-9A-Fa-f.:]+), lip=[0-9A-Fa-f.:]+(?:, .*?)?, session=<([^<>]*)>\Z",
    re.DOTALL,
)
_ATTEMPTS = re.compile(r"auth failed, (\d{1,6}) attempts")
_LMTP = re.compile(
    r"lmtp\(([^()]*)\)<[^<>]*><([^<>]*)>: (?:sieve: )?msgid=(.*): "
    r"(stored mail into mailbox |saved mail to |forwarded to |sent vacation response to |"
    r"failed to store into mailbox |save failed to |rejected message from |left message in |"
    r"[Mm]arked message to be discarded |discarded duplicate forward )(.*)\Z",
    re.DOTALL,
)
_ACTION = re.compile(r": [a-z0-9-]+ action\Z")
_SAID = {
    "stored mail into mailbox ": "stored",
    "saved mail to ": "stored",
    "left message in ": "stored",
    "forwarded to ": "forwarded",
    "sent vacation response to ": "answered",
    "failed to store into mailbox ": "kept_out",
    "save failed to ": "kept_out",
    "rejected message from ": "kept_out",
}
_FAULT = re.compile(
    r"([a-z0-9-]+)(?:\([^()]*\)(?:<[^<>]*>)*)?: (?:Error|Fatal|Panic): (.*)\Z", re.DOTALL
)


# systemd.journal-fields(7), sd-messages.h: what systemd says of a unit, in every language.
_LIFE = {
    "39f53479d3a045ac8e11786248231fbf": "started",
    "9d1aaa27d60140bd96365438aad20286": "stopped",
    "d9b373ed55a64feb8242e02dbe79a49c": "failed",
    "be02cf6855d2428ba40df7e9d022f03d": "failed",
}

# A line of the daemons is shorter; a session that never ends is not remembered for ever.
LINE, SESSIONS = 4096, 20000


def matches(ids):
    """
    What journalctl(1) is asked, its arguments: for what the daemons have written, and what systemd
    says of them.

    ids
        The number of each user of the machine, by name.
    """
    found = [FIELDS]
    for unit in UNITS:
        found += [f"_SYSTEMD_UNIT={unit}"]
        found += [f"_UID={ids[name]}" for name in WRITERS.get(unit, ()) if name in ids]
        found += ["+"]
    return [*found, "_PID=1", *(f"UNIT={unit}" for unit in UNITS)]


def events(entries, domains=()):
    """
    The events that stand in entries of a journal, in their order.

    entries
        Dicts as ``journalctl -o json`` prints them: ``__REALTIME_TIMESTAMP`` (microseconds),
        ``SYSLOG_IDENTIFIER``, ``MESSAGE``, ``_SYSTEMD_UNIT``. Whatever else they are, nothing is
        raised; what is not of a mail daemon is left out.

    domains
        Ours. A recipient elsewhere that was refused at the door is ``relay denied``.

    Yields a dict for each, always with the same keys: ``time`` (seconds since 1970), ``daemon``,
    ``kind`` (one of :data:`KINDS`), ``count``, and as texts, empty where unknown: ``session``,
    ``message`` (smtpd's eight digits), ``envelope`` (its sixteen), ``message_id`` (with its angle
    brackets), ``address`` (of the network), ``peer``, ``user``, ``sender``, ``recipient``,
    ``original`` (what ``recipient`` was before aliases), ``command``, ``cause`` (one of
    :data:`CAUSES`) and ``reason``. What was sent after ``smtp connected`` has the address of its
    session where the connection stands in the same entries.
    """
    reader = _Reader(domains)
    for entry in entries:
        event = reader.read(entry) if isinstance(entry, dict) else None
        if event:
            yield event


def cause(reason, recipient="", domains=()):
    """Which of :data:`CAUSES` the words of a server mean; ``recipient`` of ``domains`` is ours."""
    for pattern, found in _CAUSES:
        if pattern.search(reason):
            elsewhere = recipient.rpartition("@")[2].lower() not in domains
            if found == "no such mailbox" and recipient and domains and elsewhere:
                return "relay denied"
            return found
    return "other"


def text(message):
    """What an entry says; journalctl gives numbers where it is not UTF-8."""
    if isinstance(message, list):
        try:
            message = bytes(message).decode("utf-8", "replace")
        except (TypeError, ValueError):
            message = next((one for one in message if isinstance(one, str)), "")
    return message[:LINE] if isinstance(message, str) else ""


class _Reader:
    def __init__(self, domains):
        self.domains = frozenset(domains)
        self.sessions, self.named = {}, {}
        self.error, self.failed = "", {}  # of the last connection; by the server that it was to

    def read(self, entry):
        said, name = text(entry.get("MESSAGE")), entry.get("SYSLOG_IDENTIFIER")
        unit = entry.get("_SYSTEMD_UNIT")
        if name == "systemd":
            found = unit == "init.scope" and self._systemd(entry)
        elif unit is not None and (not isinstance(unit, str) or UNITS.get(unit) is None):
            return None
        elif name == "smtpd":
            found = unit in (None, "opensmtpd.service") and self._smtpd(said)
        elif name == "dovecot":
            found = unit in (None, "dovecot.service") and self._dovecot(said)
        else:
            return None
        if not found:
            return None
        found.setdefault("daemon", name)
        event = dict(_EMPTY, time=_time(entry.get("__REALTIME_TIMESTAMP")))
        event.update(found)
        return event

    @staticmethod
    def _systemd(entry):
        kind, unit = _LIFE.get(_plain(entry.get("MESSAGE_ID"))), _plain(entry.get("UNIT"))
        return kind and unit in UNITS and {"kind": kind, "daemon": UNITS[unit]}

    def _smtpd(self, said):
        line = _SMTPD.match(said)
        if line is None:
            return self._beside(said)
        session, part, word, rest = line.groups()
        if word == "delivery":
            return part != "smtp" and self._delivery(session, rest)
        if (part, word) == ("mta", "error"):
            self.error = rest.removeprefix("reason=")
            return None
        return part == "smtp" and self._smtp(session, word, rest)

    def _smtp(self, session, word, rest):
        if word == "connected":
            found = _CONNECTED.match(rest)
            return found and self._begun(session, {"address": found[1], "peer": found[2]})
        if word == "disconnected":
            self._forget(session)
            return None
        known = self.sessions.get(session, {"session": session})
        if word == "message":
            found = _ACCEPTED.match(rest)
            self.named.pop(session, None)
            return found and {**known, "kind": "accepted", "message": found[1]}
        if word == "envelope":
            found = _QUEUED.match(rest)
            return found and {
                **{**known, "kind": "queued", "envelope": found[1], "message": found[1][:8]},
                **{"sender": found[2], "recipient": found[3]},
            }
        if word == "authentication":
            return self._authentication(session, known, _AUTHENTICATION.match(rest))
        if word == "failed-command":
            return self._refused(known, _FAILED_COMMAND.match(rest))
        found = word == "bad-input" and _BAD_INPUT.match(rest)
        return found and {**known, "kind": "refused", "cause": "command", "reason": found[1]}

    def _begun(self, session, known):
        if len(self.sessions) >= SESSIONS:
            self._forget(next(iter(self.sessions)))
        self.sessions[session] = {"session": session, **known}
        return {**self.sessions[session], "kind": "connected"}

    def _forget(self, session):
        self.sessions.pop(session, None)
        self.named.pop(session, None)

    def _authentication(self, session, known, found):
        if not found:
            return None
        if found[2] != "ok":
            why = "password" if found[2] == "permfail" else "other"
            return {**known, "kind": "login_failed", "user": found[1], "cause": why}
        known = {**known, "user": found[1]}
        if session in self.sessions:
            self.sessions[session] = known
        return {**known, "kind": "login"}

    def _refused(self, known, found):
        # Of a login that failed, the line before has said it, with the name.
        if not found or (found[1].startswith("AUTH ") and found[2][:3] in ("535", "421")):
            return None
        command, reason = found[1].partition(" ")[0].upper(), found[2]
        path = _PATH.match(found[1])
        who = {"MAIL": "sender", "RCPT": "recipient"}.get(command)
        about = {who: path[1]} if who and path else {}
        if command in ("DATA", "."):  # of a message that was not taken, smtpd says nothing else
            about = self.named.pop(known["session"], {})
        why = cause(reason, about.get(who, ""), self.domains)
        return {
            **{**known, **about, "kind": "refused", "command": found[1][:200]},
            **{"cause": why, "reason": reason},
        }

    def _delivery(self, session, rest):
        found = _DELIVERY.match(rest)
        if not found:
            return None
        envelope, sender, recipient, original, relay, result, reason = found.groups()
        event = {
            **{"session": session, "envelope": envelope, "message": envelope[:8]},
            **{"sender": sender, "recipient": recipient, "reason": reason},
            "original": original if original and original != "-" else "",
        }
        if relay is not None:
            to = _RELAY.match(relay)
            event["address"], event["peer"] = to.groups() if to else ("", relay)
            if reason == _NO_SERVER and relay in self.failed:
                event["reason"] = reason = self.failed[relay]
        if result == "Ok":
            return {**event, "kind": "delivered" if relay is None else "relayed"}
        return {**event, "kind": _RESULTS[result], "cause": cause(reason)}

    def _beside(self, said):
        """What smtpd says outside a session, and hands on from its filters."""
        name, _, rest = said.partition(": ")
        if name == "guard":
            return {"daemon": "guard", **self._guard(rest)}
        if name == "smtp-out":
            self._gave_up(_NO_ROUTE.match(rest))
            return None
        return name in ("warn", "fatal") and {"kind": "fault", "reason": said}

    def _gave_up(self, found):
        """A server is left alone: of what waits for it, smtpd says no more than that."""
        if found and self.error:
            self.failed[found[1]], self.error = self.error, ""
            if len(self.failed) > SESSIONS:
                del self.failed[next(iter(self.failed))]

    def _guard(self, said):
        found = _NAMED.match(said)
        if found:
            about = dict(zip(_ABOUT, found.groups(), strict=True))
            if about["session"] in self.sessions:
                self.named[about["session"]] = about
            return {**about, "kind": "named"}
        found = _NOTED.match(said)
        if found:
            return {"kind": "noted", "session": found[1], "reason": found[2]}
        return {"kind": "fault", "reason": said}

    def _dovecot(self, said):
        if said.startswith("lmtp("):
            found = _LMTP.match(said)
            if found:
                return self._stored(*found.groups())
        elif "-login: " in said[:24]:
            found = _LOGIN.match(said)
            return found and self._login(*found.groups())
        found = _FAULT.match(said)
        return found and {"kind": "fault", "daemon": found[1], "reason": found[2]}

    @staticmethod
    def _login(daemon, said, user, address, session):
        event = {"daemon": daemon, "user": user, "address": address, "session": session}
        if said in ("Login", "Logged in"):
            return {**event, "kind": "login"}
        found = _ATTEMPTS.search(said)
        return found and {
            **{**event, "kind": "login_failed", "count": int(found[1])},
            **{"cause": "password", "reason": said},
        }

    @staticmethod
    def _stored(user, session, message_id, said, rest):
        kind, message_id = _SAID.get(said, "discarded"), _ACTION.sub("", message_id)
        event = {
            **{"daemon": "lmtp", "kind": kind, "user": user, "session": session},
            "message_id": "" if message_id == "unspecified" else message_id,
        }
        if kind in ("forwarded", "answered"):
            return {**event, "recipient": rest.strip().strip("<>")}
        if kind == "stored":
            return {
                **event,
                "reason": rest.removeprefix("mailbox ").removeprefix("'").removesuffix("'"),
            }
        if kind == "kept_out":
            return {**event, "reason": said + rest, "cause": cause(said + rest)}
        return {**event, "reason": said + rest}


_ABOUT = ("session", "message", "sender", "recipient", "message_id")
_EMPTY = {
    **dict.fromkeys(("time", "daemon", "kind"), None),
    **dict.fromkeys(("session", "message", "envelope", "message_id", "address", "peer"), ""),
    **dict.fromkeys(("user", "sender", "recipient", "original"), ""),
    **dict.fromkeys(("command", "cause", "reason"), ""),
    "count": 1,
}


def _plain(value):
    return value if isinstance(value, str) else ""


def _time(stamp):
    try:
        return int(stamp) / 1_000_000
    except (TypeError, ValueError, OverflowError):
        return 0.0
