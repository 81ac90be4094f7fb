"""
What became of messages, told from the events of :mod:`_mailsrv.journal`, which are read twice:
first to find out which belong together, then to tell what happened to those that were asked for.

Guard's line leads from a Message-ID to smtpd's own number of the message, an envelope begins with
that number, DKIMproxy's answer names the number under which the message came back, and Dovecot
knows the Message-ID again.
"""

import re

LOOPBACK = ("127.0.0.1", "::1")
CAME_BACK = re.compile(r"2\d\d \S+ ([0-9a-f]{8}) Message accepted for delivery")
BY_NAME = ("stored", "forwarded", "answered", "discarded", "kept_out")
SHOWN = 200  # characters of a Message-ID, by Dovecot


class Trace:
    """
    What became of the messages of ``sought``: an address, or a Message-ID with or without its angle
    brackets. :meth:`learn` is given all events, in their order, then :meth:`tell` the same again.
    """

    def __init__(self, sought):
        self._sought = sought.strip().strip("<>").lower()
        # A Message-ID has the form of an address (RFC 5322, 3.6.4).
        self._name = f"<{self._sought}>"
        self._names, self._pairs = {}, {}  # by message: its Message-ID, what it was before signing
        self._roots = set()

    def learn(self, events):
        """Find out which messages are sought."""
        found = set()
        for event in events:
            message, name = event["message"], event["message_id"].lower()
            if event["kind"] == "named" and name:
                self._names[message] = name
            elif event["kind"] == "relayed" and event["address"] in LOOPBACK:
                back = CAME_BACK.match(event["reason"])
                if back:
                    self._pairs[back[1]] = message
            if self._is_sought(event):
                found.add(message or name)
        self._roots = {self._root(key) for key in found if key}

    def tell(self, events):
        """
        The messages, each with all that happened to it: dicts of ``message_id`` and ``events``, in
        order of time. What was refused before there was a message is together by session.
        """
        groups, notes = {}, {}
        for event in events:
            if event["kind"] == "noted":
                # It comes before smtpd gives a number: it is of the next message of its session.
                notes[event["session"]] = [*notes.pop(event["session"], [])[-9:], event]
                if len(notes) > 1000:
                    del notes[next(iter(notes))]
                continue
            before = []
            if event["kind"] in ("accepted", "refused"):
                before = notes.pop(event["session"], [])
            key = self._key(event)
            if key:
                group = groups.setdefault(key, {"message_id": "", "events": []})
                group["message_id"] = event["message_id"] or group["message_id"]
                group["events"] += [*before, event]
        return list(groups.values())

    def _key(self, event):
        """Of which group an event is; None: of none that is sought."""
        if event["message"]:
            key = self._root(event["message"])
        elif event["kind"] in BY_NAME:
            key = event["message_id"].lower()
        elif event["kind"] == "refused" and self._is_sought(event):
            return event["session"]
        else:
            return None
        return key if key in self._roots else None

    def _root(self, key):
        """What all of one message have in common: its Message-ID, else its first number."""
        for _ in range(10):
            if key not in self._pairs:
                break
            key = self._pairs[key]
        return self._names.get(key, key)

    def _is_sought(self, event):
        kind, name = event["kind"], event["message_id"].lower()
        who = [event["sender"], event["original"], *event["recipient"].split(",")]
        who += [event["user"]] * (kind in BY_NAME or kind == "refused")
        if self._sought and self._sought in (one.lower() for one in who):
            return True
        return name == self._name or (len(name) >= SHOWN and self._name[: SHOWN - 4] in name)


def called(group):
    """How a message that :meth:`Trace.tell` gives is called."""
    if group["message_id"]:
        return group["message_id"]
    refused = all(event["kind"] in ("refused", "noted") for event in group["events"])
    return "refused at the door" if refused else "a message without Message-ID"


def lines(events):
    """What happened, in words: ``time`` (seconds since 1970), ``daemon`` and ``says``."""
    taken = any(event["kind"] == "accepted" for event in events)
    return [
        {"time": event["time"], "daemon": event["daemon"], "says": _words(event)}
        for event in events
        if event["kind"] != "named" or not taken
    ]


def _words(event):
    kind, why, user, to = event["kind"], event["reason"], event["user"], event["recipient"]
    if event["cause"] not in ("", "other"):
        why = f"{event['cause']}: {why}"
    peer = event["peer"].strip("<>-")
    where = " ".join(filter(None, (peer, f"[{event['address']}]" * bool(event["address"]))))
    if event["address"] == "local":
        where = "a program of this machine"
    sender = event["sender"] or "<>"
    if kind == "accepted":
        who = f", logged in as {user}" if user else ""
        return f"taken from {where}{who}, as number {event['message']}"
    if kind == "delivered" and event["original"].lower() not in ("", to.lower()):
        to = f"{to}, for {event['original']}"
    if kind == "relayed" and event["address"] in LOOPBACK:
        return f"given to DKIMproxy, which signs it, for {to}"
    return {
        "queued": f"from {sender} to {to}",
        "named": f"offered, from {sender} to {to}",
        "refused": f"refused, {why}" + f" (from {where})" * bool(where),
        "delivered": f"delivered to {to}",
        "relayed": f"sent to {to} by {where}: {why}",
        "deferred": f"waits to be sent to {to}: {why}",
        "bounced": f"failed for {to}, the sender is told: {why}",
        "stored": f"stored in {why} of {user}",
        "forwarded": f"sent on to {to} by the filter of {user}",
        "answered": f"answered to {to} by the vacation of {user}",
        "discarded": f"by the filter of {user}: {why}",
        "kept_out": f"not stored for {user}: {why}",
    }.get(kind, why)
