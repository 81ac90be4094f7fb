"""The page that shows a mail server to people."""

import html.parser
import re
import time

import _mailsrv_gathering as gathering
import pytest
from _mailsrv import journal, report

NOW = time.mktime((2026, 11, 26, 12, 0, 0, 0, 0, -1))
DAY = 86400
DAYS = [f"2026-11-{number:02}" for number in range(1, 27)]


def day(moment):
    return time.strftime("%Y-%m-%d", time.localtime(moment))


def event(kind, ago=0, **more):
    return {**journal._EMPTY, "time": NOW - ago, "kind": kind, **more}


def machine(**more):
    history = report.history([event("delivered"), event("relayed", ago=DAY)], DAYS, day)
    return {
        "name": "mail.example.com",
        "made": "2026-11-26 12:00",
        "checks": {"queue": "ok: empty", "service dovecot": "ok"},
        "dns": {"example.com": "ok"},
        "rotation": {"example.com": {"rsa": {"signs": "mailsrv"}}},
        **history,
        "queue": {"messages": 0, "oldest": None, "reasons": {}},
        "certificate": {
            **{"names": ["mail.example.com"], "until": "2027-02-01T00:00:00", "days": 67},
            **{"self_signed": False, "faults": []},
        },
        "mailboxes": [
            {"address": "ann@example.com", "bytes": 1234567, "quota": "2G", "gone": False}
        ],
        **more,
    }


class Text(html.parser.HTMLParser):
    """What a reader of a page sees, and the elements that stand in it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.words = set(), [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def seen(*machines):
    found = Text(report.page(list(machines), "2026-11-26 12:00"))
    assert found.open == []
    return found


def test_each_recipient_counts_on_its_day_and_the_self_check_does_not():
    counted = report.history(
        [
            event("delivered", ago=40 * DAY),
            event("queued", message="00000001", address="127.0.0.1", envelope="0000000100000001"),
            event("delivered", message="00000001"),
            event("queued", message="00000002", address="192.0.2.1", envelope="0000000200000001"),
            event("delivered", message="00000002"),
            event("delivered", message="00000002", ago=DAY),
            event("stored", reason="Junk"),
            event("stored", reason="INBOX"),
            event("relayed"),
            event("refused", cause="relay denied"),
            event("refused", cause="spam", ago=2 * DAY),
            event("refused", cause="spam"),
            event("login_failed", count=3, address="192.0.2.1"),
            event("login_failed", address="127.0.0.1"),
            event("refused", cause="relay denied", address="127.0.0.2"),
        ],
        DAYS,
        day,
    )
    assert counted["since"] == NOW - 40 * DAY
    assert [counted["day"] for counted in counted["days"]] == DAYS
    *_, before, yesterday, today = counted["days"]
    assert (before["refused"], before["spam"], yesterday["received"]) == (1, 1, 1)
    assert {name: today[name] for name in report.COUNTED} == {
        **{"received": 1, "sent": 1, "refused": 2, "spam": 2, "failed logins": 3},
    }
    assert counted["refused"] == {"spam": 2, "relay denied": 1}


def test_an_empty_log_makes_a_page_too():
    counted = report.history([], DAYS, day)
    assert counted["since"] is None
    assert "which is empty" in seen(machine(**counted)).text


def test_what_is_wrong_stands_first_with_its_words():
    checks = {"a": "ok", "b": "skipped: no such address", "c": "FAULT: is not running"}
    text = seen(machine(checks=checks)).text
    assert "FAULT : to look at: c" in text
    assert text.index("is not running") < text.index("no such address")
    findings = [{"need": "recommended", "says": "no TLSA"}]
    assert report.verdicts([machine(dns={"example.com": findings})]) == {
        "mail.example.com": "WARNING: to look at: DNS of example.com"
    }
    unasked = machine(dns={"example.com": "mailcheck: no resolver"})
    assert report.verdicts([unasked])["mail.example.com"].startswith("FAULT")
    assert report.verdicts([machine()]) == {"mail.example.com": "ok: every check is ok"}


def test_a_fleet_has_a_line_for_each_machine_and_for_one_that_is_silent():
    silent = {"name": "mx2.example.net", "fault": "does not answer"}
    text = seen(machine(), silent).text
    assert "mx2.example.net FAULT does not answer" in text
    assert report.verdicts([machine(), silent])["mx2.example.net"] == "FAULT: does not answer"


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><b>",
    "{{ 7 * 7 }}{% for %}",
    "\x1b[2J\u202egnirts\x00\ud800",
    "&lt;" * 2000,
]


@pytest.mark.parametrize("words", HOSTILE)
def test_what_strangers_wrote_is_text_and_nothing_else(words):
    plain = seen(machine()).tags
    found = seen(
        machine(
            checks={"queue": f"WARNING: {words}"},
            dns={"example.com": [{"need": "required", "says": words}]},
            queue={"messages": 1, "oldest": 7300, "reasons": {words: 1}},
            refused={words: 3},
            mailboxes=[{"address": words, "bytes": 0, "quota": None, "gone": True}],
        )
    )
    assert found.tags - plain <= {"p", "br"}
    assert not re.search("[\x00\x1b\u202e\ud800]", found.text)
    assert "2 hours" in found.text
    assert "49" not in "".join(re.findall(r"WARNING (\S+)", found.text))


def test_the_page_needs_nothing_from_outside():
    page = report.page([machine()], "2026-11-26 12:00")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(|@import|<script|<link|src=", page)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234567, "1.2 MB"), (25e9, "25 GB"), (3e15, "3000 TB")],
)
def test_sizes_are_readable(count, shown):
    assert report._size(count) == shown


def test_only_the_largest_mailboxes_have_a_line():
    boxes = [
        {"address": f"a{n}@example.com", "bytes": n * 10**6, "quota": None, "gone": False}
        for n in range(30)
    ]
    text = seen(machine(mailboxes=boxes)).text
    assert "a29@example.com" in text
    assert "a9@example.com" not in text
    assert "10 more 45 MB" in text


@pytest.mark.parametrize(
    "answer",
    [
        {"checks": {}},
        {**machine(), "checks": {"a": 5}},
        {**machine(), "checks": {"a": "odd"}},
        {**machine(), "days": []},
        {**machine(), "mailboxes": [{"address": "x", "bytes": "9", "quota": 0, "gone": False}]},
        {**machine(), "refused": {"spam": "<script>"}},
        {**machine(), "queue": None},
        {**machine(), "name": ["x"]},
    ],
)
def test_a_minion_that_answers_something_else_does_not_spoil_the_page_of_the_others(answer):
    found = [gathering._of("mx1", {"ret": machine()}), gathering._of("mx2", {"ret": answer})]
    text = seen(*found).text
    assert "mx2" in text
    assert "does not answer as this version does" in text
    assert report.verdicts(found)["mx2"].startswith("FAULT: ")


def test_a_minion_that_takes_the_name_of_another_does_not_speak_for_it():
    bad, good = machine(checks={"queue": "FAULT: x"}), machine()
    found = gathering.told_apart({"mx1": bad, "mx2": good, "mx3": {"name": "mx3", "fault": "y"}})
    assert report.verdicts(found) == {
        "mx1": "FAULT: to look at: queue",
        "mx2": "ok: every check is ok",
        "mx3": "FAULT: y",
    }
    assert gathering.told_apart({"mx1": bad}) == [bad]
