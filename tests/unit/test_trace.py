"""What became of messages, of lines of the log."""

import time

import _mailsrv_log as log
import pytest
from _mailsrv import journal
from _mailsrv.trace import Trace, called, lines

A, B, C = "00000000000000aa", "00000000000000bb", "00000000000000cc"
DKIMPROXY = "127.0.0.1 (localhost)"


def smtpd(said):
    return {
        "SYSLOG_IDENTIFIER": "smtpd",
        "__REALTIME_TIMESTAMP": "1795724345281234",
        "MESSAGE": said,
    }


def lmtp(user, name, said="stored mail into mailbox 'INBOX'"):
    said = f"lmtp({user})<1><x>: sieve: msgid={name}: {said}"
    return {**smtpd(said), "SYSLOG_IDENTIFIER": "dovecot"}


def begun(sid, user=""):
    login = [smtpd(f"{sid} smtp authentication user={user} result=ok")] if user else []
    return [smtpd(f"{sid} smtp connected address=192.0.2.1 host=mx.else.example"), *login]


def named(sid, number, sender, to, name):
    return smtpd(f"guard: {sid} msgid={number} from=<{sender}> to=<{to}> message-id={name}")


def taken(sid, number, sender, *to):
    yield smtpd(f"{sid} smtp message msgid={number} size=1 nrcpt={len(to)} proto=ESMTP")
    for index, one in enumerate(to):
        said = f"{sid} smtp envelope evpid={number}0000000{index} from=<{sender}> to=<{one}>"
        yield smtpd(said)


def delivered(number, index, to, was=None):
    return smtpd(
        f"{C} mda delivery evpid={number}0000000{index} from=<x> to=<{to}> rcpt=<{was or to}> "
        "user=vmail delay=0s result=Ok stat=Delivered"
    )


def sent(number, index, to, relay, answer, result="Ok"):
    return smtpd(
        f"{C} mta delivery evpid={number}0000000{index} from=<x> to=<{to}> rcpt=<-> "
        f'source="-" relay="{relay}" delay=0s result="{result}" stat="{answer}"'
    )


def of(sought, *log):
    """What is told of `sought`: by each message its name, and the sentences."""
    entries = [entry for part in log for entry in ([part] if isinstance(part, dict) else part)]
    found = Trace(sought)
    found.learn(journal.events(entries, ["one.example"]))
    told = found.tell(journal.events(entries, ["one.example"]))
    return [(called(m), [f"{e['daemon']} {e['says']}" for e in lines(m["events"])]) for m in told]


def test_a_message_through_all_daemons():
    log = [
        *begun(A, "ann@one.example"),
        smtpd(f"guard: {A} ann@one.example: From: x is now ann@one.example"),
        named(A, "11111111", "ann@one.example", "bob@one.example", "<1@one.example>"),
        *taken(A, "11111111", "ann@one.example", "team@one.example", "y@else.example"),
        # Between them, another one of the same session.
        named(A, "22222222", "ann@one.example", "eva@one.example", "<2@one.example>"),
        *taken(A, "22222222", "ann@one.example", "eva@one.example"),
        lmtp("bob@one.example", "<1@one.example>"),
        lmtp("eva@one.example", "<2@one.example>"),
        delivered("11111111", 0, "bob@one.example", "team@one.example"),
        sent("11111111", 1, "y@else.example", "else.example", "Network error", "TempFail"),
        sent("11111111", 1, "y@else.example", "192.0.2.9 (mx.else.example)", "250 ok"),
    ]
    expected = [
        (
            "<1@one.example>",
            [
                "guard ann@one.example: From: x is now ann@one.example",
                "smtpd taken from mx.else.example [192.0.2.1], logged in as ann@one.example, "
                "as number 11111111",
                "smtpd from ann@one.example to team@one.example",
                "smtpd from ann@one.example to y@else.example",
                "lmtp stored in INBOX of bob@one.example",
                "smtpd delivered to bob@one.example, for team@one.example",
                "smtpd waits to be sent to y@else.example: connection: Network error",
                "smtpd sent to y@else.example by mx.else.example [192.0.2.9]: 250 ok",
            ],
        )
    ]
    for sought in ("1@one.example", " <1@ONE.example> ", "y@else.example", "team@one.example"):
        assert of(sought, log) == expected
    assert of("bob@one.example", log) == expected
    assert [name for name, _ in of("ann@one.example", log)] == [
        "<1@one.example>",
        "<2@one.example>",
    ]
    assert of("nobody@one.example", log) == []
    assert of("", log) == of("<>", log) == []


def test_through_dkimproxy_it_stays_one_message():
    log = [
        *begun(A),
        named(A, "11111111", "ann@one.example", "y@else.example", "<1@one.example>"),
        *taken(A, "11111111", "ann@one.example", "y@else.example"),
        *taken(B, "33333333", "ann@one.example", "y@else.example"),
        sent("11111111", 0, "y@else.example", DKIMPROXY,
             "250 2.0.0 33333333 Message accepted for delivery"),
        sent("33333333", 0, "y@else.example", "192.0.2.9 (mx.else.example)", "250 ok"),
        # Another server that answers with a number of ours joins nothing.
        *taken(A, "44444444", "ann@one.example", "z@else.example"),
        sent("44444444", 0, "z@else.example", "192.0.2.9 (mx.else.example)",
             "250 2.0.0 11111111 Message accepted for delivery"),
    ]  # fmt: skip
    [(name, said)] = of("<1@one.example>", log)
    assert name == "<1@one.example>"
    assert said[-2:] == [
        "smtpd given to DKIMproxy, which signs it, for y@else.example",
        "smtpd sent to y@else.example by mx.else.example [192.0.2.9]: 250 ok",
    ]
    assert len(of("y@else.example", log)) == 1
    assert not any("z@else" in line for line in said)


def test_what_was_refused_says_so_whether_there_was_a_message_or_not():
    log = [
        *begun(A),
        smtpd(f'{A} smtp failed-command command="RCPT TO:<no@one.example>" result="550 Invalid '
              'recipient: <no@one.example>"'),
        named(A, "11111111", "x@else.example", "ann@one.example", "<1@else.example>"),
        smtpd(f'{A} smtp failed-command command="." result="550 5.7.1 Spam message"'),
    ]  # fmt: skip
    where = "(from mx.else.example [192.0.2.1])"
    no_such = f"smtpd refused, no such mailbox: 550 Invalid recipient: <no@one.example> {where}"
    assert of("no@one.example", log) == [("refused at the door", [no_such])]
    expected = [
        (
            "<1@else.example>",
            [
                "guard offered, from x@else.example to ann@one.example",
                f"smtpd refused, spam: 550 5.7.1 Spam message {where}",
            ],
        )
    ]
    for sought in ("ann@one.example", "x@else.example", "<1@else.example>"):
        assert of(sought, log) == expected


def test_a_long_message_id_is_found_where_dovecot_shows_its_beginning():
    name = f"<{'x' * 240}@else.example>"
    log = [*begun(A), named(A, "11111111", "a@b.example", "ann@one.example", name),
           *taken(A, "11111111", "a@b.example", "ann@one.example"),
           lmtp("ann@one.example", f"{name[:197]}...")]  # fmt: skip
    assert len(of(name, log)) == 2
    assert of(name, [lmtp("ann@one.example", f"{name[:197]}...")])


def test_garbage_in_the_log_is_told_of_nobody():
    junk = [smtpd(f"guard: {A} " + "x" * n + "<>\0") for n in range(2000)]
    junk += [smtpd(f"guard: {n:016x} msgid=11111111 from=<> to=<> message-id=") for n in range(99)]
    junk += [{"MESSAGE": None}, {"SYSLOG_IDENTIFIER": "smtpd", "MESSAGE": [255]}]
    assert of("ann@one.example", junk) == []
    loop = [sent(a, 0, "y@e.example", DKIMPROXY, f"250 2.0.0 {b} Message accepted for delivery")
            for a, b in (("11111111", "22222222"), ("22222222", "11111111"))]  # fmt: skip
    assert of("y@e.example", loop)


@pytest.mark.parametrize(
    ("since", "ago"), [("90m", 5400), ("36h", 129600), ("7d", 604800), ("2w", 1209600)]
)
def test_how_far_back_to_look(since, ago):
    assert log.begin(since, 2e9) == 2e9 - ago


def test_since_when_to_look():
    assert log.begin("2026-11-26", 0) == time.mktime((2026, 11, 26, 0, 0, 0, 0, 0, -1))
    assert log.begin("2026-11-26 08:30", 0) == time.mktime((2026, 11, 26, 8, 30, 0, 0, 0, -1))
    for nonsense in (
        "",
        "0d",
        "7",
        "d",
        "7y",
        "yesterday",
        "-1d",
        "2026-13-01",
        None,
        [],
        "7d\n x",
    ):
        assert log.begin(nonsense, 2e9) is None
