"""The lines of the mail daemons, as they were written by real ones, and what is made of them."""

import random
import re
import time

import _mailsrv_log as log
import pytest
from _mailsrv import journal

OURS = ("one.example",)
SID = "3b91c31f834f9e81"
CONNECTED = f"{SID} smtp connected address=198.51.100.100 host=mx.elsewhere.example"


def entry(said, name="smtpd", unit="opensmtpd.service", **more):
    return {
        "__REALTIME_TIMESTAMP": "1795724345281234",
        "SYSLOG_IDENTIFIER": name,
        "_SYSTEMD_UNIT": unit,
        "MESSAGE": said,
        **more,
    }


def dovecot(said):
    return entry(said, "dovecot", "dovecot.service")


def events(*entries):
    return list(journal.events([e if isinstance(e, dict) else entry(e) for e in entries], OURS))


def seen(event):
    """What an event says beside its time."""
    return {k: v for k, v in event.items() if v not in ("", 1) and k != "time"}


def test_a_server_that_cannot_be_used_is_told_with_the_reason():
    """smtpd says of such a message no more than "Network error on destination MXs"."""
    relay = "[connector:[]->[relay:{},port=587,smtp+tls,auth=relays:all,mx,heloname=a.example],0x0]"
    delivery = (
        f"{'0' * 16} mta delivery evpid=5f548a6857b46aab from=<a@one.example> to=<x@b.example> "
        'rcpt=<-> source="-" relay="{}" delay=1s result="TempFail" stat="{}"'
    )
    usual = "Network error on destination MXs"
    gave_up = f"smtp-out: No valid route for {relay.format('smtp.b.example')}"
    found = events(
        f"{SID} mta error reason=AUTH rejected: 535 5.7.8 no",
        gave_up,
        delivery.format("smtp.b.example", usual),
        delivery.format("smtp.c.example", usual),
        delivery.format("smtp.b.example", "No MX found for domain"),
        gave_up,  # it is left alone still
        delivery.format("smtp.b.example", usual),
    )
    assert [event["reason"] for event in found] == [
        "AUTH rejected: 535 5.7.8 no",
        usual,
        "No MX found for domain",
        "AUTH rejected: 535 5.7.8 no",
    ]


LINES = {
    f"{SID} smtp message msgid=0f0fe0bc size=1164 nrcpt=1 proto=ESMTP": {
        "kind": "accepted",
        "message": "0f0fe0bc",
    },
    f"{SID} smtp envelope evpid=0f0fe0bcd300372d from=<> to=<ann@one.example>": {
        "kind": "queued",
        "message": "0f0fe0bc",
        "envelope": "0f0fe0bcd300372d",
        "recipient": "ann@one.example",
    },
    f'{SID} smtp failed-command command="rcpt TO:<x@else.example>" '
    'result="550 Invalid recipient: <x@else.example>"': {
        "kind": "refused",
        "cause": "relay denied",
        "recipient": "x@else.example",
        "command": "rcpt TO:<x@else.example>",
        "reason": "550 Invalid recipient: <x@else.example>",
    },
    f'{SID} smtp failed-command command="RCPT TO:<x@One.example> NOTIFY=NEVER" '
    'result="550 Invalid recipient: <x@One.example>"': {
        "kind": "refused",
        "cause": "no such mailbox",
        "recipient": "x@One.example",
        "command": "RCPT TO:<x@One.example> NOTIFY=NEVER",
        "reason": "550 Invalid recipient: <x@One.example>",
    },
    f'{SID} smtp failed-command command="mail FROM:<bob@one.example> size=100" '
    'result="530 Sender rejected"': {
        "kind": "refused",
        "cause": "sender",
        "sender": "bob@one.example",
        "command": "mail FROM:<bob@one.example> size=100",
        "reason": "530 Sender rejected",
    },
    # The command is a stranger's: what looks like the end of the line is within it.
    f'{SID} smtp failed-command command="FOO bar" result="250 x" '
    'result="500 5.5.1 Invalid command: Command unrecognized"': {
        "kind": "refused",
        "cause": "command",
        "command": 'FOO bar" result="250 x"'[:-1],
        "reason": "500 5.5.1 Invalid command: Command unrecognized",
    },
    f"{SID} smtp authentication user=ann@one.example result=ok": {
        "kind": "login",
        "user": "ann@one.example",
    },
    f"{SID} smtp authentication user=a result=ok result=permfail": {
        "kind": "login_failed",
        "user": "a result=ok",
        "cause": "password",
    },
    f"{SID} mda delivery evpid=6d5ac3a1edc284a5 from=<ann@one.example> to=<bob@one.example> "
    "rcpt=<team@one.example> user=vmail delay=0s result=Ok stat=Delivered": {
        "kind": "delivered",
        "message": "6d5ac3a1",
        "envelope": "6d5ac3a1edc284a5",
        "sender": "ann@one.example",
        "recipient": "bob@one.example",
        "original": "team@one.example",
        "reason": "Delivered",
    },
    f"{SID} mda delivery evpid=6d5ac3a1edc284a5 from=<a@b.example> to=<bob@one.example> "
    "rcpt=<bob@one.example> user=vmail delay=1m2s result=PermFail "
    'stat=Error ("552 5.2.2 <bob@one.example> The mailbox is full")': {
        "kind": "bounced",
        "cause": "mailbox full",
        "message": "6d5ac3a1",
        "envelope": "6d5ac3a1edc284a5",
        "sender": "a@b.example",
        "recipient": "bob@one.example",
        "original": "bob@one.example",
        "reason": 'Error ("552 5.2.2 <bob@one.example> The mailbox is full")',
    },
    f"{SID} mta delivery evpid=6d5ac3a17ff45339 from=<ann@one.example> to=<x@else.example> "
    'rcpt=<-> source="198.51.100.101" relay="198.51.100.100 (mx.else.example)" delay=1s '
    'result="Ok" stat="250 2.0.0 taken"': {
        "kind": "relayed",
        "message": "6d5ac3a1",
        "envelope": "6d5ac3a17ff45339",
        "sender": "ann@one.example",
        "recipient": "x@else.example",
        "address": "198.51.100.100",
        "peer": "mx.else.example",
        "reason": "250 2.0.0 taken",
    },
    "0000000000000000 mta delivery evpid=63decfa276d726df from=<ann@one.example> "
    'to=<y@nowhere.invalid> rcpt=<-> source="-" relay="nowhere.invalid" delay=0s '
    'result="TempFail" stat="Domain does not exist"': {
        "kind": "deferred",
        "cause": "DNS",
        "session": "0000000000000000",
        "message": "63decfa2",
        "envelope": "63decfa276d726df",
        "sender": "ann@one.example",
        "recipient": "y@nowhere.invalid",
        "peer": "nowhere.invalid",
        "reason": "Domain does not exist",
    },
    f"guard: {SID} ann@one.example: From: a b, c is now ann@one.example": {
        "kind": "noted",
        "daemon": "guard",
        "reason": "ann@one.example: From: a b, c is now ann@one.example",
    },
    f"guard: {SID} msgid=6d5ac3a1 from=<> to=<a@b.example> message-id=<1@one.example>": {
        "kind": "named",
        "daemon": "guard",
        "message": "6d5ac3a1",
        "recipient": "a@b.example",
        "message_id": "<1@one.example>",
    },
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_smtpd_is_the_event_that_it_was(line):
    expected = {"daemon": "smtpd", "session": SID, **LINES[line]}
    assert [seen(event) for event in events(line)] == [expected]


LOGIN = (
    "imap-login: Login aborted: Connection closed (auth failed, 2 attempts in 6 secs) "
    "(auth_failed): user=<{}>, method=PLAIN, rip=198.51.100.100, lip=198.51.100.101, "
    "TLS: Connection closed, session=<jzJArTNhyKPGM2Rk>"
)
SIEVE = "lmtp(ann@one.example)<3748><qeHwDP6dCGukDgAAJ/yPRw>: sieve: msgid=<1@a.example>"
STORED = (
    "lmtp(ann@one.example)<3723><S4WUFzmUCGuLDgAAJ/yPRw>: sieve: msgid={}: "
    "stored mail into mailbox 'INBOX'"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            LOGIN.format("ann@one.example"),
            {"user": "ann@one.example", "count": 2, "cause": "password"},
        ),
        # Debian 12's.
        (
            "pop3-login: Disconnected: Connection closed (auth failed, 3 attempts in 9 secs): "
            "user=<ann@one.example>, method=PLAIN, rip=2001:db8::5, lip=2001:db8::1, TLS, "
            "session=<jzJArTNhyKPGM2Rk>",
            {"daemon": "pop3", "user": "ann@one.example", "count": 3, "address": "2001:db8::5"},
        ),
        (
            "imap-login: Login: user=<ann@one.example>, method=PLAIN, rip=198.51.100.100, "
            "lip=198.51.100.101, mpid=4212, TLS, session=<gsygqjNh/MnGM2Rk>",
            {"kind": "login", "user": "ann@one.example"},
        ),
        (
            "managesieve-login: Logged in: user=<ann@one.example>, method=PLAIN, rip=::1, "
            "lip=::1, mpid=4212, TLS, session=<gsygqjNh/MnGM2Rk>",
            {"kind": "login", "daemon": "managesieve", "address": "::1"},
        ),
        (STORED.format("<1@a.example>"), {"message_id": "<1@a.example>", "reason": "INBOX"}),
        (STORED.format("unspecified"), {"message_id": "", "reason": "INBOX"}),
        (
            f"{SIEVE}: redirect action: forwarded to <y@else.example>",
            {"kind": "forwarded", "recipient": "y@else.example", "message_id": "<1@a.example>"},
        ),
        (
            f"{SIEVE}: vacation action: sent vacation response to <q@else.example>",
            {"kind": "answered", "recipient": "q@else.example", "message_id": "<1@a.example>"},
        ),
        (
            f"{SIEVE}: fileinto action: stored mail into mailbox 'New 'x' : stored'",
            {"kind": "stored", "reason": "New 'x' : stored", "message_id": "<1@a.example>"},
        ),
        (
            f"{SIEVE}: discard action: Marked message to be discarded if not explicitly delivered "
            "(discard action)",
            {"kind": "discarded", "message_id": "<1@a.example>"},
        ),
        (
            f"{SIEVE}: reject action: rejected message from <q@else.example> (reject)",
            {"kind": "kept_out", "message_id": "<1@a.example>"},
        ),
        (
            f"{SIEVE}: failed to store into mailbox 'INBOX': The mailbox is full, or the message "
            "is larger than what is left of it",
            {"kind": "kept_out", "cause": "mailbox full", "message_id": "<1@a.example>"},
        ),
        (
            "lmtp(ann@one.example)<1><x>: msgid=<1@a.example>: saved mail to INBOX",
            {"kind": "stored", "reason": "INBOX"},
        ),
        (
            "imap(ann@one.example)<4212><gs>: Error: Mailbox INBOX: x",
            {"kind": "fault", "daemon": "imap", "reason": "Mailbox INBOX: x"},
        ),
    ],
)  # fmt: skip
def test_a_line_of_dovecot_is_the_event_that_it_was(line, expected):
    [event] = events(dovecot(line))
    assert {key: event[key] for key in expected} == expected


def test_what_a_session_did_has_the_address_that_it_came_from():
    refused = f'{SID} smtp failed-command command="RSET" result="503 no"'
    failed = f"{SID} smtp authentication user=ann result=permfail"
    login = f"{SID} smtp authentication user=ann@one.example result=ok"
    message = f"{SID} smtp message msgid=0f0fe0bc size=1 nrcpt=1 proto=ESMTP"
    ended = f"{SID} smtp disconnected reason=quit"
    found = events(CONNECTED, refused, failed, login, message, ended, refused)
    assert [(e["address"], e["user"]) for e in found[1:]] == [
        ("198.51.100.100", ""),
        ("198.51.100.100", "ann"),
        ("198.51.100.100", "ann@one.example"),
        ("198.51.100.100", "ann@one.example"),
        ("", ""),
    ]


def test_a_message_that_was_not_taken_is_the_one_that_guard_has_seen():
    named = f"guard: {SID} msgid=6d5ac3a1 from=<x@y.example> to=<a@b.example> message-id=<1>"
    said = f'{SID} smtp failed-command command="{{}}" result="550 5.7.1 Spam"'
    found = events(CONNECTED, named, said.format("."), said.format("data"))
    assert [(e["sender"], e["message_id"], e["cause"]) for e in found[1:]] == [
        ("x@y.example", "<1>", ""),
        ("x@y.example", "<1>", "spam"),
        ("", "", "spam"),
    ]


def test_a_line_of_syslogd_is_an_entry():
    now = 1795724345
    line = "Nov 26 20:19:05 mail smtpd[712]: " + CONNECTED
    made = log.syslog(line, now)
    assert time.localtime(made["__REALTIME_TIMESTAMP"] / 1e6)[:6] == (2026, 11, 26, 20, 19, 5)
    assert events(made)[0]["address"] == "198.51.100.100"
    made = log.syslog(line.replace("Nov 26", "Dec  1"), now)  # of the year before
    assert time.localtime(made["__REALTIME_TIMESTAMP"] / 1e6)[:3] == (2025, 12, 1)
    for garbage in ("", "x", "Feb 30 20:19:05 mail smtpd: x", "Xxx 99 99:99:99 m smtpd: x", "\0"):
        assert log.syslog(garbage, now) is None
    assert log.syslog("Feb 29 00:00:00 mail smtpd: x", now) is None  # of neither year


def test_units_that_come_and_go():
    ids = {
        "39f53479d3a045ac8e11786248231fbf": "started",
        "d9b373ed55a64feb8242e02dbe79a49c": "failed",
    }
    for number, kind in ids.items():
        about = {"MESSAGE_ID": number, "UNIT": "dovecot.service"}
        [event] = events(entry("Gestartet", "systemd", "init.scope", **about))
        assert seen(event) == {"daemon": "dovecot", "kind": kind}
    assert not events(entry("", "systemd", "user@0.service", **about))


FORGED = [
    "ann@one.example>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, session=<xx>",
    ">, rip=192.0.2.1, lip=192.0.2.2, session=<xx>\nimap-login: Login: user=<bob@one.example",
    "x\nimap-login: Login: user=<bob@one.example>, method=PLAIN, rip=192.0.2.1, lip=::1, "
    "mpid=4212, TLS, session=<xx>",
]


@pytest.mark.parametrize("name", FORGED)
def test_a_user_name_that_looks_like_the_line_is_a_user_name(name):
    [event] = events(dovecot(LOGIN.format(name)))
    assert (event["kind"], event["address"], event["user"]) == (
        "login_failed",
        "198.51.100.100",
        name,
    )
    found = events(CONNECTED, f"{SID} smtp authentication user={name} result=permfail")
    assert [e["kind"] for e in found] == ["connected", "login_failed"]
    assert (found[1]["user"], found[1]["address"]) == (name, "198.51.100.100")


def test_a_message_id_that_looks_like_the_line_is_a_message_id():
    name = "<1>: discarded duplicate forward to <x>: sieve: msgid=<2>"
    [event] = events(dovecot(STORED.format(name)))
    assert (event["kind"], event["message_id"]) == ("stored", name)


def test_nobody_else_writes_for_a_daemon():
    for unit in ("user@1000.service", "dovecot.service", "session-1.scope", 5, ["x"]):
        assert not events(entry(CONNECTED, unit=unit))
    assert events({"SYSLOG_IDENTIFIER": "smtpd", "MESSAGE": CONNECTED})  # a log without units


def test_what_a_user_runs_in_the_unit_of_smtpd_is_not_asked_for():
    asked = journal.matches({"root": 0, "opensmtpd": 103, "opensmtpq": 104, "mallory": 1000})
    at = asked.index("_SYSTEMD_UNIT=opensmtpd.service")
    assert asked[at + 1 : at + 5] == ["_UID=0", "_UID=103", "_UID=104", "+"]
    assert "_UID=0" in journal.matches({"root": 0})
    assert "_UID=1000" not in asked


def test_what_is_not_utf8_is_numbers_and_read_all_the_same():
    said = f"{SID} smtp authentication user=".encode() + b"\xff\xfe result=permfail"
    [event] = events(entry(list(said)))
    assert event["user"] == "\ufffd\ufffd"
    assert events(entry([CONNECTED, "x"]))[0]["session"] == SID


# What Dovecot says of a message in other words than those that are known here.
UNKNOWN = (
    "lmtp(ann@one.example)<12><ab>: msgid={}: Auto-submitted message discarded: no longer here"
)


def test_garbage_is_no_event_and_raises_nothing():
    rng = random.Random(7)
    lines = [*LINES, CONNECTED, LOGIN, STORED, *FORGED]
    values = [
        None,
        0,
        -1,
        1e400,
        "",
        "x",
        [],
        [1, 2],
        [300],
        [[]],
        ["a"],
        {},
        b"x",
        "9" * 400,
        True,
    ]
    keys = [*entry("x"), "MESSAGE_ID", "UNIT"]
    found = list(journal.events([None, 5, "x", [], {}, {"MESSAGE": None}]))
    for _ in range(5000):
        line = list(rng.choice(lines))
        for _ in range(rng.randrange(4)):
            line[rng.randrange(len(line))] = rng.choice('\0\n"<>=():\xe4\u202e x')
        made = entry("".join(line), *rng.choice([("smtpd",), ("dovecot", "dovecot.service")]))
        if rng.random() < 0.5:
            made[rng.choice(keys)] = rng.choice(values)
        found += journal.events([made], OURS)
    assert {event["kind"] for event in found} <= {*journal.KINDS}
    assert {event["cause"] for event in found} <= {*journal.CAUSES, ""}
    assert all(isinstance(event["time"], float) and event["count"] > 0 for event in found)
    # Whatever became of the line, it is of the session that the daemon wrote at its beginning.
    assert all(re.fullmatch("[0-9a-f]{16}", e["session"]) for e in found if e["daemon"] == "smtpd"
               and e["kind"] not in ("fault", "started"))  # fmt: skip


def test_a_message_id_is_no_fault_of_dovecot():
    assert not events(dovecot(UNKNOWN.format("<x): Error: The disk is broken")))
    [event] = events(dovecot("imap(ann@one.example)<12><ab/c>: Error: x"))
    assert (event["daemon"], event["kind"], event["reason"]) == ("imap", "fault", "x")


def test_a_huge_line_costs_no_time_and_a_session_without_end_no_memory(monkeypatch):
    hostile = [
        f'{SID} smtp failed-command command="' + '" result="' * 400000,
        f"{SID} mta delivery evpid=63decfa276d726df from=<> to=<> " + 'relay="" delay= ' * 100000,
        f"{SID} smtp authentication user=" + " result=ok" * 400000 + "x",
    ]
    assert not events(*hostile)
    assert not events(dovecot(LOGIN.format(">, rip=::1, lip=::1" * 200000)))
    assert not events(dovecot(UNKNOWN.format(")" + "<>" * 39)))
    [event] = events(dovecot(STORED.format("<>: stored mail into mailbox " * 200000)))
    assert (event["kind"], event["session"]) == ("stored", "S4WUFzmUCGuLDgAAJ/yPRw")
    monkeypatch.setattr(journal, "SESSIONS", 10)
    reader = journal._Reader(())
    for number in range(100):
        reader.read(entry(CONNECTED.replace(SID, f"{number:016x}")))
    assert len(reader.sessions) == 10
