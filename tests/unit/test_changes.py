"""What of the checks is told by mail: each fault once, and once that it is gone."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import _mailsrv_telling as telling
import pytest
from _mailsrv import changes
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st

QUARTER = 15 * 60
NOW = 1795724997.0
FAULT, WARNING = "FAULT: is not running; start it", "WARNING: 112 waiting; see why"
ABOUT = {"to": ["admin@elsewhere.example"], "host": "mail.one.example", "sender": "p@one.example"}


def told(*looks, every=QUARTER):
    """What is told after each look at one check, a look each so many seconds."""
    notes, result = changes.fresh(), []
    for number, says in enumerate(looks):
        look = {"machine": {} if says is None else {"queue": says}}
        notes, new, gone = changes.judge(notes, look, NOW + number * every)
        result.append([says for _, says, _ in new] + ["gone" for _ in gone])
    return result


def test_a_fault_is_told_when_it_was_seen_twice_and_gone_when_it_was_away_for_an_hour():
    away = ["ok", "ok: empty", None, "ok", "ok"]
    said = told("ok", FAULT, FAULT, FAULT, *away)
    assert said == [[], [], [FAULT], [], [], [], [], ["gone"], []]


def test_the_first_look_is_taken_at_its_word():
    assert told(FAULT, FAULT) == [[FAULT], []]


def test_what_gets_worse_or_better_is_told_once():
    worse = told("ok", WARNING, WARNING, FAULT, FAULT)
    assert worse == [[], [], [WARNING], [], [FAULT]]
    better = told(FAULT, *[WARNING] * 4, *["ok"] * 4)
    assert better == [[FAULT], [], [], [], [WARNING], [], [], [], ["gone"]]


def test_other_words_for_the_same_are_no_news():
    assert told("ok", "WARNING: 112 waiting", "WARNING: 113 waiting", "WARNING: 99")[3] == []


@pytest.mark.parametrize("states", [("ok", FAULT), (WARNING, FAULT), ("ok", WARNING, FAULT)])
def test_what_comes_and_goes_is_not_a_mail_each_hour(states):
    said = told("ok", *(states[number % len(states)] for number in range(300)))
    assert sum(map(len, said)) <= 2


@given(st.lists(st.sampled_from(["ok", WARNING, FAULT, None]), max_size=60))
def test_nothing_is_told_twice_and_what_stays_is_told(looks):
    said = [word for words in told(*looks) for word in words]
    assert all(one != other for one, other in itertools.pairwise(said))
    stays = [*looks, *[FAULT] * 5]
    assert [w for words in told(*stays) for w in words][-1] == FAULT
    goes = [w for words in told(*stays, *["ok"] * 5) for w in words]
    assert goes[-1] == "gone"


def test_what_is_not_looked_at_stays_as_it_is():
    notes, new, _ = changes.judge(changes.fresh(), {"DNS": {"one.example MX": FAULT}}, NOW)
    assert new
    for number in range(9):
        notes, new, gone = changes.judge(notes, {"machine": {}}, NOW + number * 3600)
        assert (new, gone) == ([], [])
    assert changes.standing(notes) == [("one.example MX", FAULT)]


def test_what_costs_more_is_looked_at_once_a_day_and_again_soon_where_it_is_not_sure():
    notes, later = changes.fresh(), NOW + changes.DAY
    assert changes.due(notes, "DNS", NOW)
    notes, *_ = changes.judge(notes, {"DNS": {"a": "ok"}}, NOW)
    assert not changes.due(notes, "DNS", NOW + 3600)
    assert changes.due(notes, "DNS", later)
    notes, new, _ = changes.judge(notes, {"DNS": {"a": FAULT}}, later)
    assert not new
    assert not changes.due(notes, "DNS", later + QUARTER)
    assert changes.due(notes, "DNS", later + 3600)
    notes, new, _ = changes.judge(notes, {"DNS": {"a": FAULT}}, later + 3600)
    assert new
    assert not changes.due(notes, "DNS", later + 3 * 3600)


def test_a_clock_that_was_ahead_means_no_silence():
    ahead = NOW + 400 * changes.DAY
    notes, *_ = changes.judge(changes.fresh(), {"DNS": {"a": FAULT}}, ahead)
    assert changes.due(notes, "DNS", NOW)
    assert changes.judge(notes, {"DNS": {"a": "ok"}}, NOW)[2]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"told": 1}', "\0\0\0", '"x"'])
def test_damaged_notes_are_begun_anew(text):
    assert changes.notes(text) == changes.fresh()


def test_notes_are_read_as_they_were_written():
    notes, *_ = changes.judge(changes.fresh(), {"machine": {"queue": FAULT}}, NOW)
    assert changes.notes(json.dumps(notes)) == notes


def mail(new=(), gone=(), still=()):
    known = {"says": WARNING, "since": NOW - 3600, "last": NOW}
    new = [(what, says, None) for what, says in new]
    gone = [(what, "ok", known) for what in gone]
    still = [*still, *((what, says) for what, says, _ in new)]
    return changes.mail("mail.one.example", new, gone, still, NOW)


@pytest.mark.parametrize(
    ("news", "subject"),
    [
        ({"new": [("service dovecot", FAULT)]}, "FAULT: service dovecot: is not running"),
        (
            {"new": [("a", FAULT), ("b", FAULT), ("c", WARNING)], "gone": ["d"]},
            "2 faults, 1 warning, 1 well again: a, b, c",
        ),
        ({"gone": ["queue", "port 25"]}, "all well again: queue, port 25"),
        ({"gone": ["queue"], "still": [("a", FAULT)]}, "well again: queue"),
        (
            {"new": [("queue", WARNING)], "gone": ["a"]},
            "WARNING: queue: 112 waiting; well again: 1",
        ),
    ],
)
def test_the_subject_has_the_gist(news, subject):
    assert mail(**news)[0] == f"mail.one.example: {subject}"


def test_the_mail_has_72_columns_and_what_is_new_gone_and_still_so():
    text = mail([("service dovecot", FAULT)], ["queue"], [("disk of /", WARNING * 9)])[1]
    assert max(map(len, text.splitlines())) <= 72
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles[:3] == ["New:", "Well again:", "Still so:"]
    assert text.count("service dovecot") == 1


@given(st.text(), st.text())
def test_what_strangers_wrote_stays_text_in_its_place(what, says):
    new = [(what, f"FAULT: {says}", None)]
    for subject, text in (
        changes.mail("mail.one.example", new, [], [], NOW),
        changes.first("mail.one.example", [(what, f"FAULT: {says}")], 1, NOW),
    ):
        assert subject.isascii()
        assert subject.isprintable()
        assert len(subject) <= 78
        assert text.isascii()
        assert text.replace("\n", "").isprintable()


def test_a_mail_about_very_much_is_cut():
    text = mail([(f"name{number}.example MX", FAULT) for number in range(500)])[1]
    assert text.count("FAULT") == changes.LIST
    assert f"and {500 - changes.LIST} more" in text


def test_who_is_new_is_told_first_how_it_stands():
    seen = {"machine": {"queue": WARNING, "service dovecot": "ok"}}
    notes, new, gone = changes.judge(changes.fresh(), seen, NOW)
    notes["about"] = ABOUT
    (first,) = changes.mails(changes.fresh(), notes, new, gone, NOW)
    assert first["to"] == ABOUT["to"]
    assert "WARNING  queue: 112 waiting" in first["text"]
    both = {**notes, "about": {**ABOUT, "to": [*ABOUT["to"], "new@elsewhere.example"]}}
    (first,) = changes.mails(notes, both, [], [], NOW)
    assert first["to"] == ["new@elsewhere.example"]
    assert changes.mails(both, both, [], [], NOW) == []


def test_of_dns_and_of_a_run_it_is_said_what_is_not_as_it_shall():
    finding = {"name": "one.example", "type": "MX", "need": "required", "servers": ["ns1"]}
    missing = {**finding, "fault": "missing", "says": "one.example MX is missing at ns1: why"}
    unknown = {**finding, "fault": "unknown", "need": "recommended", "says": "ns1 does not answer"}
    assert changes.of_dns({"one.example": [missing, unknown], "uno.example": "ok"}) == {
        "one.example MX": "FAULT: is missing at ns1: why",
        "ns1": "WARNING: does not answer",
    }
    state = {"__id__": "a", "__sls__": "mailsrv.tls", "comment": "would change\n+secret"}
    states = {
        "1": {**state, "result": None},
        "2": {**state, "__id__": "b", "result": True},
        "3": {**state, "__id__": "c", "__sls__": "nginx", "result": None},
        "4": {**state, "__id__": "d", "result": False},
    }
    said = {"a run, a": "WARNING: would change", "a run, d": "FAULT: would change"}
    assert changes.of_run(states) == said


# To a real server


class Server:
    """A mail server that keeps subjects, and kills a client when it has taken its message."""

    def __init__(self):
        self.subjects, self.kill, self.refused = [], None, set()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.controller = Controller(self, "127.0.0.1", self.port)

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refused:
            return "550 Invalid recipient"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        text = envelope.content.decode()
        self.subjects.append(text.partition("Subject: ")[2].partition("\r\n")[0])
        if self.kill:
            os.kill(self.kill.pid, signal.SIGKILL)
        return "250 OK"


@pytest.fixture
def server(monkeypatch):
    server = Server()
    server.controller.start()
    monkeypatch.setattr(telling, "PORT", server.port)
    yield server
    server.controller.stop()


def tell(path, says, about=ABOUT):
    return telling.tell(
        str(path), lambda due: {"machine": {"queue": says}}, lambda notes: about, lambda notes: {}
    )


def test_each_change_is_mailed_once(server, tmp_path):
    path = tmp_path / "watch.json"
    assert tell(path, "ok")[1] == ""
    assert tell(path, "ok") == (changes.NOTHING, "")
    tell(path, FAULT)
    said, fault = tell(path, FAULT)
    assert (fault, "Subject: mail.one.example: FAULT: queue" in said) == ("", True)
    tell(path, FAULT)
    assert [subject.partition(": ")[0] for subject in server.subjects] == [
        "mail.one.example tells you what changes; all is well",
        "mail.one.example",
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_could_not_be_mailed_is_mailed_later_even_if_it_is_over(server, tmp_path, monkeypatch):
    path = tmp_path / "watch.json"
    tell(path, "ok")
    monkeypatch.setattr(telling, "PORT", 1)
    tell(path, FAULT)
    said, fault = tell(path, FAULT)
    assert "it could not be mailed now" in fault
    assert "Subject: mail.one.example: FAULT: queue" in said
    assert fault in said
    monkeypatch.setattr(telling, "PORT", server.port)
    assert tell(path, "ok") == (changes.NOTHING, "")
    assert len(server.subjects) == 2
    tell(path, "ok")
    assert len(server.subjects) == 2


def test_a_mail_that_is_refused_holds_up_none_of_the_others(server, tmp_path):
    path = tmp_path / "watch.json"
    both = {**ABOUT, "to": [*ABOUT["to"], "new@elsewhere.example"]}
    tell(path, "ok")
    server.refused.add("new@elsewhere.example")
    _, fault = tell(path, "ok", about=both)
    assert "550" in fault
    assert fault.endswith("; 1 wait for the next look")
    for says in ("ok", FAULT, FAULT):
        tell(path, says, about=both)
    assert [subject.partition(": ")[2] for subject in server.subjects] == [
        "",
        "FAULT: queue: is not running",
    ]


def test_who_is_told_no_more_gets_nothing_that_waited(server, tmp_path, monkeypatch):
    path = tmp_path / "watch.json"
    monkeypatch.setattr(telling, "PORT", 1)
    assert "1 wait" in tell(path, FAULT)[1]
    server.refused.add(ABOUT["to"][0])
    monkeypatch.setattr(telling, "PORT", server.port)
    other = {**ABOUT, "to": ["new@elsewhere.example"]}
    assert tell(path, FAULT, about=other)[1] == ""
    assert len(server.subjects) == 1
    monkeypatch.setattr(telling, "PORT", 1)
    tell(path, "ok", about=ABOUT)
    assert tell(path, "ok", about={**ABOUT, "to": []}) == (changes.NOTHING, "")


def test_who_is_killed_between_mail_and_note_sends_it_once_more_and_no_oftener(server, tmp_path):
    path = tmp_path / "watch.json"
    tell(path, "ok")
    tell(path, FAULT)
    source = (
        "import sys; sys.path += sys.argv[3:]; import _mailsrv_telling as t; sys.stdin.read(1);"
        "t.PORT = int(sys.argv[1]); t.tell(sys.argv[2],"
        f" lambda due: {{'machine': {{'queue': {FAULT!r}}}}}, lambda notes: {ABOUT!r},"
        " lambda notes: {})"
    )
    command = [sys.executable, "-c", source, str(server.port), str(path), *sys.path]
    server.kill = subprocess.Popen(command, stdin=subprocess.PIPE)
    server.kill.communicate(b"x")
    assert server.kill.returncode == -signal.SIGKILL
    server.kill = None
    assert len(server.subjects) == 2
    tell(path, FAULT)
    tell(path, FAULT)
    assert len(server.subjects) == 3
    assert server.subjects[1] == server.subjects[2]


def test_two_at_once_do_not_both_mail(tmp_path):
    path = str(tmp_path / "watch.json")
    with telling.alone(path) as alone:
        assert alone
        assert tell(path, FAULT) == ("another one looks just now", "")


def test_a_part_that_hangs_is_told_and_holds_up_no_other(monkeypatch):
    monkeypatch.setattr(telling, "LIMIT", 0.3)
    ends = threading.Event()
    parts = {"run": ends.wait, "DNS": lambda: {"a": "ok"}, "machine": lambda: 1 / 0}
    found = telling.look(parts)
    ends.set()
    said = {part: found[f"look: {part}"][f"looking at it, {part}"] for part in parts}
    assert said.pop("run").startswith("FAULT: did not come to an end within 0")
    assert said == {"DNS": "ok", "machine": "FAULT: division by zero"}
    assert ("run" in found, found["DNS"]) == (False, {"a": "ok"})
