"""guard, the filter before the signers: what it makes of headers, and that nothing ends it."""

import calendar
import contextlib
import email
import email.policy
import email.utils
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guard

ANN, BOB, ROOT = "ann@one.example", "bob@one.example", "root@mail.one.example"
RULES = {
    "hostname": "mail.one.example",
    "domains": ["one.example", "uno.example", "ein.example"],
    "moved": {"ein.example": "one.example"},
    "senders": {
        ANN: [ANN, "sales@one.example", "@uno.example"],
        BOB: [BOB],
        "web.one.example": ["@web.one.example"],
    },
    "signers": [],
    "closed": ["203.0.113.0/24", "2001:db8::/32"],
    "backups": {"due.example": ["203.0.113.7/32"], "tre.example": None},
    "unknown": ["quattro.example"],
    "waiting": ["cinque.example"],
    "spool": "/",
    "free": 1,
    "limits": {},
    "sent": ":memory:",
    "postmaster": "postmaster@one.example",
    "stopped": "/nonexistent",
}


def rules(**changed):
    return guard.Rules(json.dumps({**RULES, **changed}))


def prepare(*lines, door="user", login=ANN, sender=ANN):
    lines = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return guard.prepare(lines, door, login if door == "user" else "", sender, rules())


def prepared(*lines, **about):
    return b"\n".join(prepare(*lines, **about)[0]).decode()


def author(*lines, **about):
    """The From: that is left, unfolded, its encoded words read."""
    head = email.message_from_string(prepared(*lines, **about), policy=email.policy.default)
    (found,) = head.get_all("From")
    return str(found)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (f"From: {ANN}", ANN),
        (f"From: Ann <{ANN}>", f"Ann <{ANN}>"),
        (f'From: "Ann, of One" <{ANN}>', f'"Ann, of One" <{ANN}>'),
        ("From: Sales <sales@one.example>", "Sales <sales@one.example>"),
        ("From: any.body+tag@uno.example", "any.body+tag@uno.example"),
        ("From: Ann+Tag@One.EXAMPLE", "Ann+Tag@one.example"),
        ("From: =?utf-8?q?J=C3=B6?= <ann@one.example>", f"Jö <{ANN}>"),
        ("From: Jö <ann@one.example>", f"Jö <{ANN}>"),
        (b"From: J\xf6 <ann@one.example>", f"Jö <{ANN}>"),
        # obsolete forms, RFC 5322, 4.4, and what their readers stumbled over
        (f"From: <@relay.example,@other.example:{ANN}>", ANN),
        ("From: ann @ one . example", ANN),
        ("From: ann(the (first))@one.example (Ann)", f'"the (first)" <{ANN}>'),
        (f"From: A. N. N. <{ANN}>", f'"A. N. N." <{ANN}>'),
        (f"From : Ann <{ANN}>", f"Ann <{ANN}>"),
        (f"FROM:\tAnn\n <{ANN}>", f"Ann <{ANN}>"),
        (f"From: Example, Ann <{ANN}>", f'"Example, Ann" <{ANN}>'),
        (f'From: "a\\"b\\\\" <{ANN}>', f'"a\\"b\\\\" <{ANN}>'),
        ('From: "ann"@one.example', ANN),
        # encoded words as they are written, and what they must not hide
        (f"From: =?utf-8?Q?J=C3=B6_M.,?= N. <{ANN}>", f'"Jö M., N." <{ANN}>'),
        (f'From: "=?utf-8?q?J=C3=B6?=" <{ANN}>', f"Jö <{ANN}>"),
        (f"From: =?utf-8?q?a=0Ab=00=E2=80=AEc?= <{ANN}>", f"a b c <{ANN}>"),
        (f"From: =?x-none?q?a?= <{ANN}>", f"a <{ANN}>"),
        ("From: ann+=?utf-8?q?=0A?=x@one.example", ANN),
        (f"From: \u0645\u06cc\u200c\u062e <{ANN}>", f"\u0645\u06cc\u200c\u062e <{ANN}>"),
        # a domain that has another name now
        ("From: ann@ein.example", ANN),
        ("From: Ann <Ann+Tag@EIN.example>", "Ann <Ann+Tag@one.example>"),
        ("From: CEO <bob@ein.example>", f"CEO <{ANN}>"),
        # somebody else: MAIL FROM, and the name stays
        ("From: CEO <bob@one.example>", f"CEO <{ANN}>"),
        ("From: <@x.example:bob@one.example>", ANN),
        ("From: G: CEO <bob@one.example>;", f"G <{ANN}>"),
        (f"From: G: {ANN};", f"G <{ANN}>"),
        ("From: undisclosed:;", f"undisclosed <{ANN}>"),
        ("From: CEO: Jane <bob@one.example>", ANN),
        ("From: (open <bob@one.example>", ANN),
        ('From: "open <bob@one.example>', ANN),
        ("From: bob@one.example, carl@one.example", ANN),
        (f"From: bob@one.example, Ann <{ANN}>", f"Ann <{ANN}>"),
        ("From: bob@one.example <ann@one.example>", ANN),
        ("From: <bob@one.example> <ann@one.example>", ANN),
        ("From: bob@[10.0.0.1]", ANN),
        ("From: Scanner in room 5", f"Scanner in room 5 <{ANN}>"),
        ("From: scanner", f"scanner <{ANN}>"),
        ("From: root (Cron Daemon)", f"Cron Daemon <{ANN}>"),
        ("From:", ANN),
        ("From: <>", ANN),
        ("From: Nobody <>", f"Nobody <{ANN}>"),
        ("X-Other: no author at all", ANN),
        (f"Sender: {BOB}", ANN),
    ],
)
def test_a_user_is_the_one_author(given, left):
    lines = given.split(b"\n" if isinstance(given, bytes) else "\n")
    assert author(*lines) == left


@pytest.mark.parametrize(
    "name",
    [
        *('"=?utf-8?q?<ceo@x.example>,?="', '"=?<ceo@x.example>,?q?x?="', '"=?\\"(,?q?x?="'),
        *("(=?utf-8?q?<ceo@x.example>,?=)", "=?utf-8?q?ceo@x.example,(?=", '"=?a?b?=?="'),
        *("=?utf-8?b?PGNlb0B4LmV4YW1wbGU+LA==?=", '"a =?utf-8?q?,?= ceo@x.example,"'),
    ],
)
def test_no_name_is_read_as_another_author(name):
    (field,) = (f for f in prepared(f"From: {name} <{ANN}>").split("\n") if f.startswith("From"))
    rest = field.removeprefix("From: ").removesuffix(f" <{ANN}>")
    assert re.fullmatch(r"(=\?[\w-]+\?[bBqQ]\?[\w!*+/=-]*\?= ?)+", rest)


@pytest.mark.parametrize("given", [f"<{ANN}", f"{ANN}>", f"Ann <{ANN}"])
def test_half_a_bracket_does_not_stay(given):
    assert f"From: <{ANN}>\n" in prepared(f"From: {given}")


def test_of_two_from_fields_neither_counts():
    assert author(f"From: Ann <{ANN}>", f"From: CEO <{BOB}>") == f"Ann <{ANN}>"
    assert author(f"From: CEO <{BOB}>", "From: x@y.example") == ANN


def test_a_long_name_is_folded_and_read_again():
    for name in ("x" * 900, "wort " * 100, "ä" * 500, "=?utf-8?q?J=C3=B6?= " * 40):
        lines = prepare(f"From: {name.strip()} <{ANN}>")[0]
        assert max(map(len, lines)) < 300
        assert author(f"From: {name.strip()} <{ANN}>").endswith(f"<{ANN}>")


def test_what_is_right_stays_byte_for_byte():
    lines = [
        b"Received: from x",
        b"\tby mail.one.example",
        f"From: Ann B <{ANN}>".encode(),
        b"To: A <a@x.example>,",
        b"  b@y.example",
        b"Date: Wed, 25 Nov 2026 02:00:00 +0000",
        b"Message-ID: <1@x>",
        b"Subject:  two  blanks ",
        b"X-Empty:",
    ]
    assert prepare(*lines)[0] == lines


def test_what_is_missing_is_added():
    text = prepared(f"From: {ANN}")
    assert re.search(r"^Date: \w{3}, ", text, re.MULTILINE)
    assert re.search(r"^Message-ID: <\w+@mail\.one\.example>$", text, re.MULTILINE)
    assert "root@mail.one.example, x@y.example" in prepared("To: root, x@y.example")


def test_what_may_stand_once_does():
    text = prepared(
        *(f"From: {ANN}", "Subject: one", "Subject: two", "Bcc: secret@x.example", "bcc : more"),
        *("To: a@x.example,", " b@x.example", "Cc: c@x.example", "To: d@x.example", "To:"),
        *("Date: Wed, 25 Nov 2026 02:00:00 +0000", "Date: Thu, 26 Nov 2026 02:00:00 +0000"),
    )
    assert text.count("Subject:") == text.count("To:") == text.count("Date:") == 1
    assert "Subject: one" in text
    assert "secret" not in text
    assert "more" not in text
    assert "To: a@x.example,\n b@x.example,\n d@x.example" in text


@pytest.mark.parametrize(
    ("sender", "stays"),
    [(ANN, True), ("sales@one.example", True), (BOB, False), ("x@uno.example", False)],
)
def test_a_sender_field_is_of_the_account_and_the_authors_domain(sender, stays):
    assert ("Sender:" in prepared(f"From: {ANN}", f"Sender: {sender}")) is stays


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Subject: a\rFrom: ceo@one.example", "carriage return"),
        ("no field", "'no field' is no header field"),
        ("X Y: z", "is no header field"),
        (" leads nowhere", "is no header field"),
        ("\0\x01: x", "is no header field"),
        ("x" * 1000 + ": y", "is no header field"),
        ("To: " + "a@x.example," * 6000, "To: is longer"),
    ],
)
def test_what_cannot_be_made_right_is_refused_with_a_sentence(line, said):
    with pytest.raises(guard.Refused, match=re.escape(said)) as refused:
        prepare(line, f"From: {ANN}")
    assert re.fullmatch(r"5\d\d 5\.\d\.\d [ -~]+", str(refused.value))
    assert len(str(refused.value)) < 200


def test_vertical_tabs_and_form_feeds_are_blanks():
    """Signers and verifiers disagree about them: the signature was not valid."""
    text = prepared(f"From: {ANN}", "Subject: \fa\v", "\f\v", " b\f", "\fc")
    assert "Subject:  a \n b \n c\n" in text


def test_the_line_of_an_mbox_is_left_out():
    assert "From ann" not in prepared("From ann Wed Nov 25 02:00:00 2026", f"From: {ANN}")


@pytest.mark.parametrize(
    ("lines", "sender", "left", "signed"),
    [
        ([f"From: {BOB}"], ROOT, BOB, True),
        ([f"From: {BOB}"], "x@elsewhere.example", BOB, True),
        ([f"From: {BOB}"], "", BOB, True),
        (["From: root (Cron Daemon)"], ROOT, f"Cron Daemon <{ROOT}>", True),
        (["Subject: none"], ROOT, ROOT, True),
        (["From: CEO: Jane <bob@one.example>"], ROOT, ROOT, True),
        (["From: x@elsewhere.example"], ROOT, "x@elsewhere.example", False),
        (["From: x@elsewhere.example"], "x@elsewhere.example", "x@elsewhere.example", False),
        (["From: <@a:x@elsewhere.example>"], "", "<@a:x@elsewhere.example>", False),
    ],
)
def test_a_program_names_any_address_of_ours_and_else_nothing_is_changed(
    lines, sender, left, signed
):
    lines = [line.encode() for line in lines]
    out, ours, _ = guard.prepare(lines, "program", "", sender, rules())
    assert ours is signed
    if signed:
        assert author(*lines, door="program", sender=sender) == left
    else:
        assert out == lines


RECEIVED = "Received: by mail.one.example (OpenSMTPD)"


@pytest.mark.parametrize(
    ("given", "sender", "left"),
    [
        (ANN, ANN, ANN),
        ("Sales <sales@one.example>", "ann+x@one.example", "Sales <sales@one.example>"),
        (f"CEO <{BOB}>", ANN, f"CEO <{ANN}>"),
        ("x@elsewhere.example", ANN, ANN),
        ("postmaster@one.example", "", "postmaster@one.example"),
    ],
)
def test_what_dovecot_writes_is_its_users(given, sender, left):
    assert author(RECEIVED, f"From: {given}", door="sieve", sender=sender) == left


def test_what_dovecot_passes_on_is_unchanged_and_unsigned():
    lines = [line.encode() for line in (RECEIVED, RECEIVED, "From : <@x:ceo@one.example>", "odd")]
    assert guard.prepare(lines, "sieve", "", ANN, rules()) == (lines, False, "")


PIECES = [*"ab.@<>()[]:;,\"\\ \t=?_*'\0\r-é€", "ann@one.example", "root", "\n ", "=?utf-8?q?x?="]
TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
NAMES = st.sampled_from(["From", "from ", "To", "Cc", "Sender", "Bcc", "Subject", "Date", "X-Y"])
LINES = st.lists(st.tuples(NAMES, TEXT), max_size=6)


def as_lines(fields):
    return "\n".join(f"{name}:{text}" for name, text in fields).encode().split(b"\n")


@settings(max_examples=600, deadline=None)
@given(LINES, st.sampled_from(["user", "program", "sieve"]))
def test_any_header_leaves_with_one_author_of_ours_or_is_refused(fields, door):
    lines = as_lines(fields)
    try:
        out, ours, _ = guard.prepare(lines, door, ANN if door == "user" else "", ANN, rules())
    except guard.Refused as refused:
        reply = str(refused)
    else:
        reply = ""
    if reply:
        assert re.fullmatch(r"5\d\d 5\.\d\.\d [ -~]+", reply)
        return
    if not ours:
        assert out == lines
        return
    authors = [line for line in out if re.match(rb"(?i)from[ \t]*:", line)]
    assert len(authors) == 1
    head = email.message_from_bytes(b"\n".join(out))
    _, address = email.utils.parseaddr(head["From"])
    assert address == guard.addresses(head["From"])[0].complete("")
    if door == "program":
        assert rules().is_ours(address)
    else:
        assert rules().may(ANN, address)
    assert b"\r" not in b"".join(out)
    assert head["Date"]
    assert head["Message-ID"]
    again, _, note = guard.prepare(out, door, ANN if door == "user" else "", ANN, rules())
    assert (again, note) == (out, "")


@settings(max_examples=600, deadline=None)
@given(TEXT.map(lambda text: text.replace("\r", "").replace("\0", "").encode()))
def test_smtpd_leaves_what_is_completed(value):
    """By both rules of smtpd(8) that are known; the lab asks the real ones."""
    try:
        once = guard.completed(value, "mail.one.example")
    except guard.Refused:
        return
    assert guard.completed(once, "mail.one.example") == once


@pytest.mark.parametrize(
    ("name", "unit", "end"),
    [
        *(("To", "a@b@c,", "("), ("Cc", "@@,", '"'), ("To", "a,", "\\"), ("To", '"a\\",', "")),
        *(("From", "<,", ""), ("From", "a,", ""), ("From", "a\nFrom: ", ""), ("Sender", "<,", "")),
        *(("From", "a <a:", ""), ("From", "a.", "b"), ("From", "(", ")"), ("X-Y", "a\nb:", "")),
    ],
)
def test_no_header_takes_long(name, unit, end):
    """One process serves all sessions: what it works at, everybody waits for."""
    size = 60_000 if name in ("To", "Cc") else guard.MAX_HEADER - 100
    lines = f"{name}: {unit * (size // len(unit))}{end}".split("\n")
    for door in "user", "program":
        began = time.process_time()
        with contextlib.suppress(guard.Refused):
            prepare(*lines, *[f"From: {ANN}"] * (name != "From"), door=door)
        assert time.process_time() - began < 3


class Wire:
    """smtpd(8)'s end of a guard, as unkind as the real one: it dies of what that dies of."""

    def __init__(self, signers=(), **changed):
        self.said, self.log = b"", []
        self.rules = rules(signers=list(signers), **changed)
        self.selector = guard.selectors.DefaultSelector()
        self.guard = guard.Guard(lambda: self.rules, self._hear, self.log.append, self.selector)
        self.guard.take(b"config|protocol|0.7\nconfig|subsystem|smtp-in\nconfig|ready\n")
        self.until(lambda: b"register|ready\n" in self.said)
        self.said = b""

    def _hear(self, data):
        self.said += data

    def until(self, found, seconds=10):
        end = time.monotonic() + seconds
        self.guard.tick()
        while not found():
            assert time.monotonic() < end, (self.said[-500:], self.log)
            for key, _ in self.selector.select(0.05):
                key.data()
            self.guard.tick()
            self.guard.flush()

    def report(self, event, sid, value):
        self.guard.take(b"report|0.7|1.0|smtp-in|%s|%s|%s\n" % (event, sid, value))

    def ask(self, event, sid, value=b""):
        """Ask, and wait for the one answer."""
        before = self.said
        self.guard.take(b"filter|0.7|1.0|smtp-in|%s|%s|77|%s\n" % (event, sid, value))
        self.until(lambda: self.said != before)
        (line,) = self.said[len(before) :].splitlines()
        kind, answered, token, result = line.split(b"|", 3)
        assert (kind, answered, token) == (b"filter-result", sid, b"77")
        return result.decode()

    def connect(self, sid=b"a1", source=b"198.51.100.7:1", port=b"465", login=ANN):
        self.report(b"link-connect", sid, b"x|pass|%s|198.51.100.1:%s" % (source, port))
        if login:
            self.report(b"link-auth", sid, b"pass|" + login.encode())
        return sid

    def mail(self, sid, sender, lines, recipients=()):
        """A whole message; returns (lines as smtpd gets them, the reply at its end)."""
        said = self.ask(b"mail-from", sid, sender.encode())
        if said.startswith(("reject", "disconnect")):
            return None, said
        for recipient in recipients:
            said = self.ask(b"rcpt-to", sid, recipient)
            result = b"ok" if said == "proceed" else b"tempfail"
            self.report(b"tx-rcpt", sid, b"77|%s|%s" % (result, recipient))
        before = len(self.said)
        for line in [*lines, b"."]:
            self.guard.take(b"filter|0.7|1.0|smtp-in|data-line|%s|77|%s\n" % (sid, line))
        self.until(lambda: self.said.endswith(b"|.\n"))
        got = self.said[before:].split(b"\n")[:-1]
        prefix = b"filter-dataline|%s|77|" % sid
        assert all(line.startswith(prefix) for line in got)
        got = [line[len(prefix) :] for line in got]
        assert got.count(b".") == 1
        return got[:-1], self.ask(b"commit", sid)


def test_a_strangers_message_passes_untouched():
    wire = Wire()
    sid = wire.connect(port=b"25", login="")
    odd = [b"From : <@x:ceo@one.example>", b"Bcc: x", b"", b"..dot", b"a\rb", b""]
    assert wire.mail(sid, "x@elsewhere.example", odd) == (odd, "proceed")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([b"Message-Id: <1@a.example>", b"Message-ID: <2@a.example>"], ["<1@a.example>"]),
        ([b"MESSAGE-ID:", b"\t<1@a.", b" example>", b"To: x"], ["<1@a. example>"]),
        ([b"Message-ID: \xff\x1b[2J <1>"], ["?[2J <1>".rjust(9, "\ufffd")]),
        ([b"X: y", b" Message-ID: <1>", b"", b"Message-ID: <1>"], [""]),
        ([b"Message-ID: " + b"x" * 5000], ["x" * 5000]),
        ([], [""]),
    ],
)
def test_the_log_says_which_message_has_which_message_id(given, said):
    wire = Wire()
    sid = wire.connect(port=b"25", login="")
    wire.report(b"tx-begin", sid, b"0f0fe0bc")
    wire.report(b"tx-rcpt", sid, b"0f0fe0bc|ok|" + ANN.encode())
    assert wire.mail(sid, "x@elsewhere.example", given) == (given, "proceed")
    known = f"a1 msgid=0f0fe0bc from=<x@elsewhere.example> to=<{ANN}> message-id="
    assert wire.log == [(known + name)[:600] for name in said]


def test_the_log_says_the_message_id_that_guard_has_made():
    wire = Wire()
    sid = wire.connect()
    for number in (b"0f0fe0bc", b"6d5ac3a1"):  # two messages of one session
        wire.report(b"tx-begin", sid, number)
        lines, said = wire.mail(sid, ANN, [f"From: {ANN}".encode(), b"", b"Message-ID: <x>"])
        [name] = [line[12:] for line in lines if line[:12] == b"Message-ID: "][:1]
        assert (said, wire.log[-1]) == (
            "proceed",
            f"a1 msgid={number.decode()} from=<{ANN}> to=<> message-id={name.decode()}",
        )
    assert len(wire.log) == 2


def test_a_stranger_does_not_use_our_senders_where_spf_forbids_it():
    for sender in (ANN, "Nobody@ONE.example", ROOT):
        wire = Wire()
        _, reply = wire.mail(wire.connect(port=b"25", login=""), sender, [])
        assert reply == f"reject|{guard.FORGED.format(sender)}"
        wire.rules = rules(closed=None)
        assert wire.mail(b"a1", sender, [b""])[1] == "proceed"


def test_who_is_a_backup_mx_refuses_what_the_primary_would():
    for sender, host, told in (
        (
            "x@due.example",
            "198.51.100.9",
            f"reject|{guard.FORGED_ELSEWHERE.format('x@due.example')}",
        ),
        ("x@DUE.example", "203.0.113.7", "proceed"),
        ("x@tre.example", "198.51.100.9", "proceed"),
        ("x@sub.due.example", "198.51.100.9", "proceed"),
    ):
        wire = Wire()
        stranger = wire.connect(source=f"{host}:1".encode(), port=b"25", login="")
        assert wire.ask(b"mail-from", stranger, sender.encode()) == told, sender


@pytest.mark.parametrize("login", ["", ANN])
def test_mail_for_a_primary_that_nothing_is_known_of_is_put_off(login):
    wire = Wire()
    session = wire.connect(port=b"587" if login else b"25", login=login)
    wire.ask(b"mail-from", session, ANN.encode() if login else b"x@elsewhere.example")
    for recipient, told in (
        (b"ann@Quattro.example", f"reject|{guard.NOT_KNOWN.format('quattro.example')}"),
        (b"ann@due.example", "proceed"),
        (b"quattro.example", "reject|" + guard.NOT_KNOWN.format("quattro.example")),
        (b"\xff@\xfe", "proceed"),
        (b"", "proceed"),
    ):
        assert wire.ask(b"rcpt-to", session, recipient) == told, recipient


def test_a_sender_is_what_smtpd_makes_of_it():
    """A word is an address of this machine, a route is dropped: filter-dkimsign dies of one."""
    wire = Wire()
    stranger = wire.connect(port=b"25", login="")
    for sender in "root", "ann", f"@x.example:{ANN}", "x:root@mail.one.example":
        assert wire.ask(b"mail-from", stranger, sender.encode()).startswith("reject|550 5.7.1")
    for sender in "x@elsewhere.example", f"{ANN}:x@elsewhere.example":
        assert wire.ask(b"mail-from", stranger, sender.encode()) == "proceed"
    lines, _ = wire.mail(wire.connect(b"b2"), f"@x.example:{ANN}", [b"Subject: x", b"", b"x"])
    assert f"From: <{ANN}>".encode() in lines
    program = wire.connect(b"c3", source=b"127.0.0.1:9", port=b"25", login="")
    lines, _ = wire.mail(program, "root", [b"Subject: x", b"", b"x"])
    assert f"From: <{ROOT}>".encode() in lines


@pytest.mark.parametrize("source", [b"203.0.113.5:1", b"[2001:db8::7]:1"])
def test_whom_spf_names_sends_as_us(source):
    wire = Wire()
    sid = wire.connect(source=source, port=b"25", login="")
    assert wire.mail(sid, ANN, [b""])[1] == "proceed"


@pytest.mark.parametrize("source", [b"127.0.0.1:9", b"[::1]:9", b"unix:/var/run/smtpd.sock"])
def test_a_program_of_this_machine_is_no_stranger(source):
    wire = Wire()
    sid = wire.connect(source=source, port=b"25", login="")
    lines, reply = wire.mail(sid, ROOT, [b"From: bob@one.example", b"", b"x"])
    assert reply == "proceed"
    assert [line.partition(b":")[0] for line in lines] == [
        *(b"From", b"Date", b"Message-ID", b"", b"x")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is the machine's own on Linux alone")
def test_this_machine_by_its_own_address_is_told_what_smtpd_thinks_of_it():
    wire = Wire()
    sid = wire.connect(source=b"127.0.0.2:9", port=b"25", login="")
    assert wire.mail(sid, ANN, GOOD) == (GOOD, "proceed")


@pytest.mark.parametrize("lines", [["Subject: x"], ["From: x: y@z"], ["From: a@b.c, d@e.f, g"]])
def test_a_programs_message_without_an_author_is_refused(lines):
    with pytest.raises(guard.Refused, match="There is no From: that can be read"):
        prepare(RECEIVED, *lines, door="program", sender="x@elsewhere.example")
    lines = [RECEIVED, RECEIVED, *lines]
    _, ours, _ = prepare(*lines, door="program", sender="x@elsewhere.example")
    assert not ours


def test_a_read_receipt_gets_its_accounts_sender():
    """RFC 8098: no sender, which `senders` of smtpd.conf refuses."""
    wire = Wire()
    assert wire.ask(b"mail-from", wire.connect(), b"") == f"rewrite|<{ANN}>"
    sid = wire.connect(b"b2", login="web.one.example")
    assert wire.ask(b"mail-from", sid, b"") == "rewrite|<MAILER-DAEMON@web.one.example>"


@pytest.mark.parametrize("port", [b"587", b"465", b"10026", b"25"])
def test_what_leaves_with_the_name_of_before_has_the_one_of_now(port):
    """By all doors but that of strangers, who are refused the domain or, here, from its network."""
    wire = Wire()
    sid = wire.connect(source=b"203.0.113.9:5", port=port, login="")
    said = wire.ask(b"mail-from", sid, b"Ann+x@EIN.example")
    assert said == ("proceed" if port == b"25" else "rewrite|<Ann+x@one.example>")
    assert wire.ask(b"mail-from", sid, ANN.encode()) == "proceed"


def test_a_message_without_a_body_gets_its_empty_line():
    wire = Wire()
    lines, reply = wire.mail(wire.connect(), ANN, [b"From: ann@one.example"])
    assert lines[-1] == b""
    assert reply == "proceed"


def test_dots_stay_stuffed():
    wire = Wire()
    lines, _ = wire.mail(wire.connect(), ANN, [b"..X: y", b"From: ann@one.example", b"", b"..z"])
    assert b"..X: y" in lines
    assert lines[-1] == b"..z"


def test_a_carriage_return_in_the_text_is_refused_at_the_end():
    wire = Wire()
    sid = wire.connect()
    _, reply = wire.mail(sid, ANN, [b"From: ann@one.example", b"", b"a\rb", b"c"])
    assert reply == f"reject|{guard.CARRIAGE_RETURN}"
    assert wire.mail(sid, ANN, [b"From: ann@one.example", b"", b"c"])[1] == "proceed"


def test_a_header_is_held_up_to_256_kilobytes():
    wire = Wire()
    lines = [b"X-%d: %s" % (number, b"x" * 900) for number in range(250)]
    assert wire.mail(wire.connect(), ANN, [*lines, b"", b"x"])[1] == "proceed"
    wire = Wire()
    _, reply = wire.mail(wire.connect(), ANN, [*lines, *lines, b"", b"x"])
    assert reply == f"reject|{guard.LONG_HEADER}"


def test_a_full_disk_is_said_before_smtpd_takes_a_message():
    wire = Wire(free=1 << 60)
    assert wire.ask(b"mail-from", wire.connect(port=b"25", login=""), b"x@y.example") == (
        f"reject|{guard.FULL}"
    )


def test_a_fault_of_its_own_is_a_451_for_that_message(monkeypatch):
    wire = Wire()
    sid, other = wire.connect(), wire.connect(b"b2")
    monkeypatch.setattr(guard, "prepare", lambda *_: 1 / 0)
    lines, reply = wire.mail(sid, ANN, [b"From: ann@one.example", b"", b"x"])
    assert (lines, reply) == ([], f"reject|{guard.FAULT}")
    assert any("ZeroDivisionError" in line for line in wire.log)
    monkeypatch.undo()
    assert wire.mail(other, ANN, [b"From: ann@one.example", b"", b"x"])[1] == "proceed"


# Limits, and who is blocked

GREETING = [b"Subject: x", b"", b"x"]
LOT = [b"v%d@elsewhere.example" % number for number in range(1000)]
NOON = 1_800_000_000


@pytest.fixture
def clock(monkeypatch):
    """The time that it is; `clock.now` may be set."""
    time_ = types.SimpleNamespace(now=NOON)
    monkeypatch.setattr(guard.time, "time", lambda: time_.now)
    return time_


@pytest.fixture
def postmaster(monkeypatch, tmp_path):
    """What postmaster is told, mail by mail."""
    program, mails = tmp_path / "sendmail", tmp_path / "mails"
    mails.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >{mails}/$$.new; cat >>{mails}/$$.new\n'
        f"mv {mails}/$$.new {mails}/$$\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(guard, "SENDMAIL", str(program))

    def told(*wires):
        for wire in wires:
            wire.until(lambda wire=wire: not wire.guard.mails)
        return [file.read_text() for file in sorted(mails.iterdir())]

    return told


def limited(tmp_path, hour=10, day=25, **changed):
    limits = {ANN: [hour, day], BOB: [0, 0]}
    return Wire(limits=limits, sent=str(tmp_path / "sent.sqlite"), **changed)


def taken(wire, login, count, sid=b"a1"):
    """To how many of so many recipients a message of that login goes; 0 where it does not."""
    wire.connect(sid, login=login)
    before = len(wire.said)
    _, reply = wire.mail(sid, login, GREETING, LOT[:count])
    asked = wire.said[before:].count(b"|proceed\n")
    wire.report(b"link-disconnect", sid, b"")
    return asked - 2 if reply == "proceed" else 0  # of MAIL FROM and the commit


def test_an_account_may_write_to_so_many_and_others_go_on(tmp_path, clock, postmaster):
    wire = limited(tmp_path)
    assert [taken(wire, ANN, 4), taken(wire, ANN, 5), taken(wire, ANN, 5)] == [4, 5, 1]
    assert taken(wire, ANN, 1) == 0
    assert taken(wire, BOB, 900) == 900
    assert taken(wire, "web.one.example", 900) == 900
    (mail,) = postmaster(wire)
    assert mail.startswith("-f postmaster@one.example postmaster@one.example\nFrom: ")
    for text in ANN, "to 9 recipients", "limit is 10.", "198.51.100.7", f"mailsrv.block {ANN}":
        assert text in mail
    assert re.search(r"after 2027-01-15 \d\d:\d0 UTC", mail)


def test_the_refusal_says_when_it_goes_on_and_then_it_does(tmp_path, clock, postmaster):
    wire = limited(tmp_path)
    taken(wire, ANN, 10)
    sid = wire.connect()
    wire.ask(b"mail-from", sid, ANN.encode())
    said = wire.ask(b"rcpt-to", sid, LOT[0])
    when = re.fullmatch(
        rf"reject\|451 4.7.1 {ANN} may write to 10 recipients in an hour: the rest can go after"
        r" (.*) UTC",
        said,
    )[1]
    until = calendar.timegm(time.strptime(when, "%Y-%m-%d %H:%M"))
    assert 3600 < until - NOON <= 3600 + guard.SLOT
    clock.now = until - 1
    assert taken(wire, ANN, 1) == 0
    clock.now = until
    assert taken(wire, ANN, 20) == 10
    clock.now = until + 4200
    assert taken(wire, ANN, 20) == 5  # of the day
    clock.now = NOON + 86400 - 1
    assert taken(wire, ANN, 20) == 0
    clock.now = NOON + 86400 + guard.SLOT
    assert taken(wire, ANN, 20) == 10
    assert len(postmaster(wire)) == 2  # on the first day, and on the second


def test_what_is_refused_or_given_up_does_not_count(tmp_path, clock):
    wire = limited(tmp_path)
    sid = wire.connect()
    for event in b"tx-reset", b"tx-rollback":
        wire.ask(b"mail-from", sid, ANN.encode())
        for recipient in LOT[:9]:
            wire.ask(b"rcpt-to", sid, recipient)
            wire.report(b"tx-rcpt", sid, b"77|ok|" + recipient)
        wire.report(event, sid, b"77")
    wire.ask(b"mail-from", sid, ANN.encode())
    for result in b"permfail", b"tempfail":
        wire.report(b"tx-rcpt", sid, b"77|%s|x@y" % result)
    assert wire.ask(b"commit", sid) == "proceed"
    assert wire.mail(sid, ANN, [b"From: ann@one.example", b"", b"a\rb"], LOT[:9])[1] == (
        f"reject|{guard.CARRIAGE_RETURN}"
    )
    assert taken(wire, ANN, 20, b"b2") == 10


def passed_on(wire, sender, by, *, sid=b"s1", recipients=1):
    """What smtpd(8) is told of a message that a Sieve script passes on, in the end."""
    wire.connect(sid, source=b"127.0.0.1:9", port=b"10026", login="")
    lines = [b"Received: here", b"X-Sieve: Pigeonhole", b"X-Sieve-Redirected-From: " + by]
    lines += [b"X-Sieve-Redirected-From: bob@one.example", b"Received: there", b"", b"x"]
    reply = wire.mail(sid, sender, lines, LOT[:recipients])[1]
    wire.report(b"link-disconnect", sid, b"")
    return reply


def test_what_a_sieve_script_sends_counts(tmp_path, clock, postmaster):
    """A script may write to whom the message at hand names: without a limit, a thief's relay."""
    wire = limited(tmp_path, hour=3)
    for sender in ANN, "Ann+x@ONE.example", "":
        assert passed_on(wire, sender, b"ann+x@one.example") == "proceed"
    # 550: Sieve keeps the message; with 451 it would wait in the queue.
    assert passed_on(wire, "", b"ann@one.example").startswith(f"reject|550 5.7.1 {ANN} may ")
    sid = wire.connect(source=b"127.0.0.1:9", port=b"10026", login="")
    assert wire.ask(b"mail-from", sid, ANN.encode()) == "proceed"
    assert wire.ask(b"rcpt-to", sid, LOT[0]).startswith(f"reject|550 5.7.1 {ANN} may ")
    (mail,) = postmaster(wire)
    assert "came from its own filters" in mail
    assert taken(wire, ANN, 20) == 3  # strangers who fill the mailbox do not stop her
    for by in b"bob@one.example", b"", b"\xff|<>", b"bob@elsewhere.example":
        assert passed_on(wire, "", by) == "proceed"


def test_what_sieve_scripts_reject_counts_together_and_a_block_keeps_it(tmp_path, clock):
    wire = limited(tmp_path)
    said = [passed_on(wire, "", b"") for _ in range(102)]
    kept = f"reject|{guard.NO_REJECTION}"
    assert said == ["proceed"] * 100 + [kept] * 2
    clock.now += 4200
    assert passed_on(wire, "", b"") == "proceed"
    wire.rules.blocked = frozenset({BOB})
    assert passed_on(wire, "", b"") == kept
    assert passed_on(wire, "", b"ann@one.example") == "proceed"


def test_sessions_side_by_side_pass_no_limit(tmp_path, clock, postmaster):
    """Each may name all its recipients before another message is counted."""
    wire = limited(tmp_path)
    sids = [wire.connect(b"a%d" % number) for number in range(3)]
    for sid in sids:
        wire.ask(b"mail-from", sid, ANN.encode())
        for recipient in LOT[:6]:
            assert wire.ask(b"rcpt-to", sid, recipient) == "proceed"
            wire.report(b"tx-rcpt", sid, b"77|ok|" + recipient)
    said = [wire.ask(b"commit", sid) for sid in sids]
    assert said[0] == "proceed"
    assert all(text.startswith("reject|451 4.7.1 ") for text in said[1:])
    assert taken(wire, ANN, 20, b"b2") == 4


def test_what_was_sent_outlives_guard_and_several_count_together(tmp_path, clock, postmaster):
    one, other = limited(tmp_path), limited(tmp_path)
    assert [taken(one, ANN, 3), taken(other, ANN, 3)] == [3, 3]
    third, fourth = limited(tmp_path), limited(tmp_path)
    assert taken(third, ANN, 20) == 4
    assert [taken(wire, ANN, 1) for wire in (one, other, fourth)] == [0, 0, 0]
    assert len(postmaster(one, other, third, fourth)) == 1


COUNTER = """
import sys
sys.path.append(sys.argv[1])
import guard
sent = guard.Sent(print)
while True:
    assert sent.add(sys.argv[2], "ann", 1, [0, 0]) is None
    print("+", flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_counted(tmp_path):
    path, heard = str(tmp_path / "sent.sqlite"), 0
    for number in range(6):
        command = [sys.executable, "-c", COUNTER, os.path.dirname(guard.__file__), path]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        heard += sum(1 for _ in range(3 + 17 * number) if process.stdout.readline() == b"+\n")
        process.kill()
        heard += process.stdout.read().count(b"+\n")
        process.wait()
    log = []
    limit, _, sent, _ = guard.Sent(log.append).beyond(path, "ann", 1, [1, 0])
    assert heard >= 18
    assert heard <= sent <= heard + 6  # that one which was counted, and not yet said
    assert (limit, log) == (1, [])


def garbage():
    """Files that are no such database, or another one."""
    head = b"SQLite format 3\0"
    return st.binary(max_size=5000) | st.binary(max_size=5000).map(lambda rest: head + rest)


@settings(deadline=None, max_examples=60)
@given(
    text=garbage(), cut=st.integers(0, 9000), part=st.sampled_from(["", "-journal", "-wal", "-shm"])
)
def test_garbage_in_the_state_ends_nothing_and_the_limit_holds(text, cut, part):
    with tempfile.TemporaryDirectory() as directory:
        path, log = os.path.join(directory, "sent.sqlite"), []
        sent = guard.Sent(log.append)
        assert sent.add(path, "ann", 3, [5, 0]) is None
        del sent
        with open(path + part, "r+b" if cut and os.path.exists(path + part) else "wb") as file:
            file.seek(cut)
            file.write(text)
        sent = guard.Sent(log.append)
        results = [sent.add(path, "ann", 1, [5, 0]) is None for _ in range(7)]
        assert results[:2] == [True, True]
        assert not results[-1]
        assert not guard.Sent(log.append).is_told(path, "ann")


@pytest.mark.parametrize("made", ["nothing", "a directory", "closed", "another database"])
def test_a_state_that_cannot_be_used_counts_in_memory(tmp_path, made, postmaster):
    path = tmp_path / "there/sent.sqlite"
    if made != "nothing":
        path.parent.mkdir()
    if made == "a directory":
        path.mkdir()
    elif made == "closed":
        path.symlink_to("/proc/1/nothing")
    elif made == "another database":
        with contextlib.closing(guard.sqlite3.connect(path)) as base:
            base.execute("CREATE TABLE sent (login BLOB)")
    wire = Wire(limits={ANN: [5, 0]}, sent=str(path))
    assert [taken(wire, ANN, 3), taken(wire, ANN, 3), taken(wire, ANN, 3)] == [3, 2, 0]
    assert any(str(path) in line for line in wire.log)
    assert len(postmaster(wire)) == 1


@pytest.mark.skipif(os.geteuid(), reason="files of another user")
def test_the_state_of_another_user_is_begun_anew(tmp_path):
    """root changes no owners in a directory where somebody else can put links."""
    path = tmp_path / "sent.sqlite"
    assert taken(limited(tmp_path), ANN, 9) == 9
    os.chown(path, 12345, -1)
    path.chmod(0o400)
    wire = limited(tmp_path)
    assert [taken(wire, ANN, 9), taken(limited(tmp_path), ANN, 9)] == [9, 1]
    assert path.stat().st_uid == 0
    assert not any(str(path) in line for line in wire.log)


def test_a_disk_that_is_full_gives_no_fresh_budget(tmp_path, clock, monkeypatch, postmaster):
    """It can be opened all the time, and not be written to."""
    now, database = time.monotonic(), guard._database

    def full(path):
        base = database(path)
        if path != ":memory:":
            base.execute("PRAGMA query_only = ON")
        return base

    monkeypatch.setattr(guard, "_database", full)
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    wire = limited(tmp_path)
    went = 0
    for _ in range(5):
        went += taken(wire, ANN, 9)
        now += guard.LATER + 1
    assert went == 9
    assert len(postmaster(wire)) == 1


def test_without_the_module_mail_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "sqlite3", None)
    assert taken(limited(tmp_path), ANN, 30) == 30


def test_a_state_that_can_be_used_again_is(tmp_path, clock, monkeypatch):
    wire = limited(tmp_path / "later")
    now = time.monotonic()
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    assert taken(wire, ANN, 10) == 10
    (tmp_path / "later").mkdir()
    assert taken(wire, ANN, 10) == 0
    now += guard.LATER + 1
    assert [taken(wire, ANN, 10), taken(limited(tmp_path / "later"), ANN, 1)] == [10, 0]


@settings(deadline=None, max_examples=80)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([1, 700, 3700, 90000, -1, -700, -3700, -90000, 1 << 25, -(1 << 25)])
            | st.integers(-100_000, 100_000),
            st.integers(1, 12),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_clock_that_jumps_gives_nobody_more_than_a_limit_at_a_time(steps):
    """Backwards and by a year: within any hour of a clock that stands right, the limit holds."""
    sent, now, passed = guard.Sent(print), NOON, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard.time, "time", lambda: now)
        for step, more in steps:
            now += step
            beyond = sent.add(":memory:", "ann", more, [10, 20])
            if not beyond:
                # What was far away when something was counted has been forgotten.
                passed = [(t, n) for t, n in passed if abs(t - now) <= 86400]
                passed.append((now, more))
                assert sum(n for t, n in passed if abs(t - now) < 3600) <= 10
                assert sum(n for t, n in passed if abs(t - now) < 86400) <= 20
            else:
                assert beyond[3] > now
                time.gmtime(beyond[3])
        rows = sent.base.execute("SELECT count(*) FROM sent").fetchone()[0]
        assert rows <= 2 * 86400 / guard.SLOT + 3


def test_the_state_stays_small(tmp_path, clock):
    """10 000 accounts that send all day: no more than their slots of one day."""
    sent, path = guard.Sent(print), str(tmp_path / "sent.sqlite")
    for day in range(4):
        clock.now = NOON + 100_000 * day
        guard._database(path).close()
        sent.add(path, "ann", 1, [0, 0])
    assert sent.base.execute("SELECT count(*) FROM sent").fetchone() == (1,)


def test_who_is_blocked_is_refused_at_every_door(tmp_path):
    wire = Wire()
    sid = wire.connect()
    wire.ask(b"mail-from", sid, ANN.encode())
    wire.rules.blocked = frozenset({ANN})
    ended = f"disconnect|{guard.BLOCKED.format('421', ANN)}"
    assert wire.ask(b"rcpt-to", sid, LOT[0]) == ended
    wire.rules.blocked = frozenset()
    assert wire.mail(sid, ANN, GREETING)[1] == "proceed"
    wire.rules.blocked = frozenset({ANN})
    for sender in ANN, "sales@one.example", "":
        assert wire.ask(b"mail-from", sid, sender.encode()) == ended
    refused = f"reject|{guard.BLOCKED.format('550', ANN)}"
    program = wire.connect(b"b2", source=b"unix:/run/smtpd.sock", login="")
    sieve = wire.connect(b"c3", source=b"127.0.0.1:9", port=b"10026", login="")
    for sid in program, sieve:
        for sender in ANN, "Ann+tag@ONE.example":
            assert wire.ask(b"mail-from", sid, sender.encode()).startswith("reject|550 5.7.1 ")
        assert wire.mail(sid, BOB, GREETING)[1] == "proceed"
    assert wire.mail(program, ROOT, [b"From: Ann <ann@one.example>", b"", b"x"])[1] == refused
    assert wire.mail(wire.connect(b"d4", login=BOB), BOB, GREETING)[1] == "proceed"
    assert passed_on(wire, "", b"Ann+tag@one.example") == refused.replace(
        ANN, "Ann+tag@one.example"
    )
    assert passed_on(wire, "", b"bob@one.example") == "proceed"
    other = wire.connect(b"f6", login=BOB)
    assert wire.ask(b"mail-from", other, ANN.encode()) == refused  # is not ended for its own name
    stranger = wire.connect(b"e5", port=b"25", login="")
    assert wire.mail(stranger, "x@elsewhere.example", GREETING, LOT[:3])[1] == "proceed"


def test_a_block_holds_for_what_was_half_sent(tmp_path, signer):
    for signers in ([], [signer("well")]):
        wire = Wire(signers)
        sid = wire.connect()
        wire.ask(b"mail-from", sid, ANN.encode())
        said = wire.said
        for line in *GREETING, b".":
            wire.guard.take(b"filter|0.7|1.0|smtp-in|data-line|%s|77|%s\n" % (sid, line))
        wire.until(lambda said=said, wire=wire: wire.said != said and wire.said.endswith(b"|.\n"))
        wire.rules.blocked = frozenset({ANN})
        assert wire.ask(b"commit", sid).startswith("disconnect|421 ")


def test_files_are_read_again_when_they_are_replaced(tmp_path, monkeypatch):
    path, stopped = tmp_path / "guard.json", tmp_path / "blocked"
    path.write_text(json.dumps({**RULES, "stopped": str(stopped)}))
    log, now = [], 0.0
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    files = guard.Files(str(path), log.append)
    found = []
    for text in None, f"# x\n{ANN}\n", "\xff\0:\n\n", f"{ANN.upper()}\nweb.one.example":
        now += 1
        if text is not None:
            stopped.write_bytes(text.encode("latin-1"))
        found.append({*files.rules().blocked})
    assert found[:2] == [set(), {ANN}]
    assert ANN not in found[2]
    assert found[3] == {ANN, "web.one.example"}
    assert len(log) == 1  # it was not there


SIGNER = r"""
import sys
what, kind = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "dkim"
out = lambda text: print(text, flush=True)
held, known = {}, set()
for line in sys.stdin:
    line = line.rstrip("\n")
    if line == "config|ready":
        if what == "stillborn":
            sys.exit(1)
        for name in ("report|smtp-in|link-connect", "report|smtp-in|tx-begin",
                     "filter|smtp-in|data-line", "filter|smtp-in|commit"):
            out("register|" + name)
        out("register|ready")
    part = line.split("|", 7)
    if part[0] == "report":
        known.add(part[5])
    elif part[0] == "filter" and part[4] == "data-line":
        sid, token, text = part[5:8]
        assert sid in known, "a session that was never introduced"
        held.setdefault(sid, []).append(text)
        if what in text:
            sys.exit(0)
        if text == ".":
            if what not in ("silent", "refuses unsigned"):
                out(f"filter-dataline|{sid}|{token}|DKIM-Signature: {kind}")
            for text in held.pop(sid):
                out(f"filter-dataline|{sid}|{token}|{text}")
            if what == "talkative":
                for text in ("more", "."):
                    out(f"filter-dataline|{sid}|{token}|{text}")
                out("garbage"), out("filter-result|x"), out("filter-dataline|zz|1|x")
    elif part[0] == "filter":
        if what == "dies-at-commit":
            sys.exit(0)
        verdict = "reject|550 no" if what.startswith("refuses") else "proceed"
        verdict = "disconnect|Internal server error" if what == "hangs-up" else verdict
        out(f"filter-result|{part[5]}|{part[6]}|{verdict}")
"""
GOOD = [b"From: ann@one.example", b"", b"x"]


@pytest.fixture
def signer(tmp_path):
    """Commands of filters that sign, in their own manner."""
    program = tmp_path / "signer.py"
    program.write_text(SIGNER)
    return lambda *manner: [sys.executable, str(program), *manner]


def test_mail_of_ours_is_signed_by_each_signer(signer):
    wire = Wire([signer("well", "rsa"), signer("well", "ed")])
    sid = wire.connect()
    for _ in range(3):
        lines, reply = wire.mail(sid, ANN, GOOD)
        assert lines[:2] == [b"DKIM-Signature: ed", b"DKIM-Signature: rsa"]
        assert reply == "proceed"
    sid = wire.connect(b"s3", port=b"25", login="")
    assert wire.mail(sid, "x@elsewhere.example", GOOD) == (GOOD, "proceed")


def test_no_signed_text_ends_in_a_blank(signer):
    """Empty lines at the end do not count, RFC 6376, 3.4.4; rspamd's hash of the blank is wrong."""
    wire = Wire([signer("well")])
    sid = wire.connect()
    assert wire.mail(sid, ANN, [*GOOD, b"-- "])[0][-2:] == [b"-- ", b""]
    assert wire.mail(sid, ANN, [*GOOD, b"-- ", b"Ann"])[0][-2:] == [b"-- ", b"Ann"]


@pytest.mark.parametrize("manner", ["silent", "hangs-up", "dies-at-commit"])
def test_unsigned_mail_does_not_leave(signer, manner):
    wire = Wire([signer("well"), signer(manner)])
    assert wire.mail(wire.connect(), ANN, GOOD)[1] == f"reject|{guard.UNSIGNED}"


@pytest.mark.parametrize("manner", ["refuses", "refuses unsigned"])
def test_a_signers_refusal_is_passed_on(signer, manner):
    wire = Wire([signer(manner)])
    assert wire.mail(wire.connect(), ANN, GOOD)[1] == "reject|550 no"


def test_what_a_signer_says_too_much_does_not_reach_smtpd(signer):
    wire = Wire([signer("talkative")])
    sid = wire.connect()
    for _ in range(3):
        assert wire.mail(sid, ANN, GOOD)[1] == "proceed"


def test_a_signer_that_ends_costs_a_451_and_is_started_again(signer):
    wire = Wire([signer("poison"), signer("well")])
    one, two = wire.connect(), wire.connect(b"b2")
    for _ in range(2):
        _, reply = wire.mail(one, ANN, [b"From: ann@one.example", b"", b"poison", b"y"])
        assert reply == f"reject|{guard.UNSIGNED}"
        wire.until(lambda: wire.guard.chain.ready)
        assert wire.mail(two, ANN, GOOD)[1] == "proceed"


def test_a_signer_that_is_stuck_does_not_hold_up_everybody(signer, monkeypatch):
    """smtpd(8) is not read from while too much waits for a signer, which may never read again."""
    monkeypatch.setattr(guard, "STUCK", 0.3)
    wire = Wire([signer("well")])
    for renew in False, True:
        old = wire.guard.chain
        wire.ask(b"mail-from", wire.connect(), ANN.encode())
        old.signers[0].process.send_signal(signal.SIGSTOP)
        for line in [*GOOD, *[b"x" * 900] * 500]:
            wire.guard.take(b"filter|0.7|1.0|smtp-in|data-line|a1|77|%s\n" % line)
        if renew:  # it is an old one's, and another takes over
            wire.rules = rules(signers=[signer("well", "new")])
        wire.until(lambda old=old: old.ended)
        wire.until(lambda: wire.guard.chain and wire.guard.chain.ready)
        said = len(wire.said)
        wire.guard.take(b"filter|0.7|1.0|smtp-in|data-line|a1|77|.\n")
        wire.until(lambda said=said: wire.said[said:] == b"filter-dataline|a1|77|.\n")
        assert wire.ask(b"commit", b"a1") == f"reject|{guard.UNSIGNED}"
        assert wire.mail(b"a1", ANN, GOOD)[1] == "proceed"


def test_a_signer_that_cannot_start_is_said_and_strangers_mail_flows(signer):
    for command in (signer("stillborn"), ["/nowhere/filter"]):
        wire = Wire([command])
        assert wire.mail(wire.connect(), ANN, GOOD)[1] == f"reject|{guard.UNSIGNED}"
        sid = wire.connect(b"s3", port=b"25", login="")
        assert wire.mail(sid, "x@elsewhere.example", GOOD)[1] == "proceed"
        assert wire.log


def test_other_signers_take_over_between_two_messages(signer):
    wire = Wire([signer("well", "old")])
    sid = wire.connect()
    assert wire.mail(sid, ANN, GOOD)[0][0] == b"DKIM-Signature: old"
    wire.rules = rules(signers=[signer("well", "new")])
    wire.until(lambda: wire.guard.chain.commands == wire.rules.signers and wire.guard.chain.ready)
    assert wire.mail(sid, ANN, GOOD)[0][0] == b"DKIM-Signature: new"
    wire.until(lambda: not wire.guard.retired)


EVENTS = st.sampled_from(
    [
        b"report|0.7|1|smtp-in|link-connect|%s|x|pass|1.2.3.4:5|6.7.8.9:465",
        b"report|0.7|1|smtp-in|link-connect|%s|x|pass|unix:/s|unix:/s",
        b"report|0.7|1|smtp-in|link-connect|%s|x",
        b"report|0.7|1|smtp-in|link-auth|%s|pass|ann@one.example",
        b"report|0.7|1|smtp-in|link-auth|%s|fail|ann|x",
        b"report|0.7|1|smtp-in|link-disconnect|%s|",
        b"report|0.7|1|smtp-in|tx-reset|%s|01",
        b"filter|0.7|1|smtp-in|mail-from|%s|7|ann@one.example",
        b"filter|0.7|1|smtp-in|mail-from|%s|7|",
        b"filter|0.7|1|smtp-in|data-line|%s|7|From: \xff\xfe <@a:b@c>|",
        b"filter|0.7|1|smtp-in|data-line|%s|7|",
        b"filter|0.7|1|smtp-in|data-line|%s|7|.",
        b"filter|0.7|1|smtp-in|commit|%s|7|",
        b"filter|0.7|1|smtp-in|wiz|%s|7|",
        b"filter|0.7|%s",
        b"%s\0garbage",
        b"report|%s",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.sampled_from([b"a", b"b"])), max_size=30), st.integers(1, 99))
def test_no_stream_ends_it_and_each_question_has_one_answer(events, size):
    wire = Wire()
    stream = b"".join(event % sid + b"\n" for event, sid in events)
    for at in range(0, len(stream), size):
        wire.guard.take(stream[at : at + size])
    asked = [e.split(b"|")[4] for e, _ in events if e.startswith(b"filter|") and e.count(b"|") > 5]
    questions = sum(event != b"data-line" for event in asked)
    assert len(re.findall(rb"(?m)^filter-result\|", wire.said)) == questions
    assert not any("fault" in line for line in wire.log), wire.log
