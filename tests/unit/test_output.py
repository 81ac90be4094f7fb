"""What salt-call prints of the commands' data, as a person sees it in a terminal."""

import re
import time

import pytest

from saltext.mailsrv.modules import mailbox, mailcheck, mailsrv
from saltext.mailsrv.output import mailsrv as outputter

KEY = f"v=DKIM1; k=rsa; t=s; p={'MIIB' * 98}"
WHY = "without it no signature under this selector verifies"


@pytest.fixture
def show(monkeypatch):
    """What is printed, in lines."""

    def show(returned, color=False, minion="local"):
        monkeypatch.setattr(outputter, "__opts__", {"color": color}, raising=False)
        return outputter.output({minion: returned}, _retcode=0).split("\n")

    return show


def test_each_check_is_a_line_with_its_verdict_first(show):
    assert show(
        {
            "service dovecot": "FAULT: is not running; start it and see why: salt-call "
            "service.start dovecot",
            "port 25, SMTP with STARTTLS": "ok",
            "queue": "WARNING: 200 waiting",
            "no open relay": "skipped: this system has no 127.0.0.2",
            "disk of /": "ok: 10 GB free",
        }
    ) == [
        "FAULT    service dovecot: is not running; start it and see why: salt-call",
        "         service.start dovecot",
        "ok       port 25, SMTP with STARTTLS",
        "WARNING  queue: 200 waiting",
        "skipped  no open relay: this system has no 127.0.0.2",
        "ok       disk of /: 10 GB free",
    ]


def test_what_became_of_a_message_is_a_line_for_each_event(show, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    said = "taken from mx.elsewhere.example [198.51.100.100], logged in as ann@one.example"
    events = [
        {"time": 1795724345.2, "daemon": "smtpd", "says": said},
        {"time": 1795724346.0, "daemon": "managesieve", "says": ""},
        {"time": 1795824346.0, "daemon": "lmtp", "says": "stored in \x1b[2JINBOX of ann"},
    ]
    assert show([{"message": "<1@one.example>", "events": events}]) == [
        "<1@one.example>",
        "  2026-11-26",
        "  20:19:05 smtpd   taken from mx.elsewhere.example [198.51.100.100], logged",
        "                   in as ann@one.example",
        "  20:19:06 manages",
        "  2026-11-28",
        "  00:05:46 lmtp    stored in ?[2JINBOX of ann",
    ]


def test_a_verdict_alone_has_a_color(show):
    said = "FAULT: is not running; start it and see why: salt-call service.start dovecot"
    first, second = show({"service dovecot": said}, color=True)
    assert re.fullmatch(r"\x1b\[[0-9;]+mFAULT\x1b\[0;0m    service dovecot: .*", first)
    assert second == "         service.start dovecot"


def test_a_finding_of_dns_is_a_sentence_and_what_to_copy_in_one_piece(show):
    finding = {
        "fault": "wrong",
        "need": "required",
        "name": "s1._domainkey.example.com",
        "type": "TXT",
        "desired": KEY,
        "live": ["v=DKIM1; p="],
        "servers": ["ns1.example.net (192.0.2.1)"],
        "says": f"s1._domainkey.example.com TXT is wrong at every server: {WHY}",
    }
    superfluous = finding | {"need": "recommended", "desired": None, "says": "One too many."}
    assert show({"example.com": [finding, superfluous], "test.com": "ok"}) == [
        "example.com:",
        "    required     s1._domainkey.example.com TXT is wrong at every server:",
        "                 without it no signature under this selector verifies",
        f"                 publish: {KEY}",
        "                 shown: v=DKIM1; p=",
        "    recommended  One too many.",
        "                 shown: v=DKIM1; p=",
        "ok       test.com",
    ]


def test_a_record_shows_its_value_in_one_piece(show):
    record = {"name": "s1._domainkey.example.com.", "type": "TXT", "value": KEY}
    assert show({"example.com": [record | {"need": "required", "why": WHY}]}) == [
        "example.com:",
        "    TXT      s1._domainkey.example.com.",
        f"             {KEY}",
        "             required: without it no signature under this selector verifies",
    ]


def test_a_command_stays_on_its_line(show):
    command = f"apt-get install {' '.join(['dovecot-managesieved'] * 5)}"
    assert show({"commands": [command, "reboot"]}) == ["commands:", f"    {command}", "    reboot"]


def test_sentences_and_what_is_empty(show):
    assert show([f"mailsrv:tls: {WHY}, {WHY}"]) == [
        "- mailsrv:tls: without it no signature under this selector verifies, without",
        "  it no signature under this selector verifies",
    ]
    assert show({"accepted": "yes", "senders": {}, "quota": {"a@example.com": 5}}) == [
        "accepted: yes",
        "senders: none",
        "quota:",
        "    a@example.com: 5",
    ]
    assert show([]) == show({}) == ["nothing"]
    assert show([{"a": "b"}]) == ["-", "  a: b"]


def test_a_text_is_printed_as_it_is(show):
    assert show("$ORIGIN example.com.\n@\tIN\tMX\t10 a.\n") == [
        "$ORIGIN example.com.",
        "@\tIN\tMX\t10 a.",
        "",
    ]


def test_another_minion_is_named(show):
    assert show({"queue": "ok"}, minion="mx1") == ["mx1:", "    ok       queue"]
    assert show([], minion="mx1") == ["mx1:", "    nothing"]


@pytest.mark.parametrize(
    "returned",
    [
        "\x1b[2J",
        ["\x1b[2J"],
        {"queue\x1b[2J": "FAULT: \x1b[2J"},
        {"a": [{"says": "\x1b[2J", "need": "required", "desired": "\x1b", "live": ["\x9b2J"]}]},
        {"commands": ["\x1b[2J"]},
    ],
)
def test_nobody_elses_text_moves_the_terminal(show, returned):
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\n".join(show(returned)))


@pytest.mark.parametrize(
    "module", [mailbox, mailcheck, mailsrv], ids=lambda module: module.__name__
)
@pytest.mark.parametrize(
    ("program", "outputters"), [("salt-minion", {"yaml"}), ("salt-call", {"mailsrv"})]
)
def test_a_master_is_asked_for_no_outputter_that_it_may_not_have(
    monkeypatch, module, program, outputters
):
    monkeypatch.setattr(module, "__outputter__", dict(module.__outputter__))
    module.__init__({"__cli": program})
    assert set(module.__outputter__.values()) == outputters
    assert all(callable(getattr(module, function)) for function in module.__outputter__)
