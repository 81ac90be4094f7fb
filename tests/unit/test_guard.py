"""guard, the filter before the signers: what it makes of headers, and that nothing ends it."""

import contextlib
import email
import email.policy
import email.utils
import json
import re
import signal
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guard

ANN, BOB, ROOT = "ann@one.example", "bob@one.example", "root@mail.one.example"
RULES = {
    "hostname": "mail.one.example",
    "domains": ["one.example", "uno.example"],
    "senders": {
        ANN: [ANN, "sales@one.example", "@uno.example"],
        BOB: [BOB],
        "web.one.example": ["@web.one.example"],
    },
    "signers": [],
    "closed": ["203.0.113.0/24", "2001:db8::/32"],
    "spool": "/",
    "free": 1,
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

    def mail(self, sid, sender, lines):
        """A whole message; returns (lines as smtpd gets them, the reply at its end)."""
        said = self.ask(b"mail-from", sid, sender.encode())
        if said.startswith("reject"):
            return None, said
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


def test_a_stranger_does_not_use_our_senders_where_spf_forbids_it():
    for sender in (ANN, "Nobody@ONE.example", ROOT):
        wire = Wire()
        _, reply = wire.mail(wire.connect(port=b"25", login=""), sender, [])
        assert reply == f"reject|{guard.FORGED.format(sender)}"
        wire.rules = rules(closed=None)
        assert wire.mail(b"a1", sender, [b""])[1] == "proceed"


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
