"""What the run on the master makes of what two machines answer, at the worst moments."""

import contextlib

import pytest

from saltext.mailsrv.runners import mailsrv

MX1, MX2 = "mx1.example.net", "mx2.example.net"
COPY = mailsrv._Move._copy
BUSY = ['The function "state.highstate" is running as PID 7 and was started at noon with jid 8']


class Machines:
    """What both answer by function; `asked` is what they were asked that changes something."""

    def __init__(self):
        self.phase = {MX1: "here", MX2: "waiting"}
        self.accounts = {MX1: ["eva@example.org"], MX2: ["eva@example.org"]}
        self.answers, self.asked = {}, []

    def ask(self, target, function, arguments=(), tgt_type="list", timeout=0, kwarg=None):
        return {name: self._answer(name, function, *arguments) for name in target}

    def _answer(self, name, function, *arguments):
        said = self.answers.get((name, function), ...)
        if isinstance(said, list):
            said = said.pop(0) if said else ...
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, str):
            return {"ret": said, "retcode": 1}
        if function == "saltutil.term_job":
            self.asked.append((name, function, *arguments))
        if function.startswith(("moving.", "state.")) and function != "moving.state":
            self.asked.append((name, function, *arguments[1:]))
        moved = {"freeze": "frozen", "thaw": "here", "take": "here", "leave": "gone"}
        word = function.partition(".")[2]
        if said is ... and word in moved:
            self.phase[name] = moved[word]
        known = {
            "test.ping": True,
            "moving.state": self._state(name),
            "moving.answer": 250 if self.phase[MX2] == "here" else 451,
            "moving.frozen": [],
            "moving.figures": {"eva@example.org": "same"},
        }
        return {"ret": known.get(function, {}) if said is ... else said, "retcode": 0}

    def _state(self, name):
        way, peer = ("to", MX2) if name == MX1 else ("from", MX1)
        known = {"way": way, "peer": peer, "phase": self.phase[name], "host": name, "shown": ""}
        accounts = self.accounts[name]
        return {**known, "accounts": accounts, "recipients": [], "sends_from": ["192.0.2.1"]}


@pytest.fixture
def machines(monkeypatch, tmp_path):
    found = Machines()
    monkeypatch.setattr(mailsrv, "_ask", found.ask)
    monkeypatch.setattr(mailsrv, "__opts__", {"cachedir": str(tmp_path)}, raising=False)
    monkeypatch.setattr(mailsrv, "__context__", {}, raising=False)
    monkeypatch.setattr(mailsrv._Move, "_copy", lambda self: 0)
    monkeypatch.setattr(mailsrv.time, "sleep", lambda seconds: None)
    return found


class Client(contextlib.nullcontext):
    """Who gives jobs away; the one who hands out has said nothing yet."""

    def __enter__(self):
        return self

    def cmd_async(self, *arguments):
        return "20261127"

    def get_cache_returns(self, job):
        return {}


@pytest.mark.parametrize("wrong", [KeyboardInterrupt(), "it hangs"])
def test_who_hands_out_ends_whatever_the_other_one_does(machines, monkeypatch, wrong):
    monkeypatch.setattr(mailsrv, "ENDING", 0)
    monkeypatch.setattr(mailsrv._Move, "_copy", COPY)
    monkeypatch.setattr(mailsrv.salt.client, "get_local_client", lambda mopts: Client())
    machines.answers[MX2, "moving.fetch"] = wrong
    machines.phase[MX1] = "frozen"
    assert "as before; mend that and run it again" in move()["stopped"]
    assert (MX1, "saltutil.term_job", "20261127") in machines.asked


def move():
    return mailsrv.move("example.org", **{"from": MX1, "to": MX2})


def test_it_moves_and_the_new_machine_hears_where_late_mail_comes_from(machines):
    told = move()
    assert "stopped" not in told
    assert told["phases"] == {MX1: "gone", MX2: "here"}
    assert (MX2, "moving.take", ["192.0.2.1"]) in machines.asked


def test_what_was_cut_off_when_it_had_gone_is_finished(machines):
    machines.phase = {MX1: "gone", MX2: "here"}
    assert move()["moved"] == "before"
    highstates = [(name, "state.highstate") for name in (MX1, MX2)]
    assert machines.asked == [*highstates, (MX1, "moving.hand_on")]


@pytest.mark.parametrize("wrong", [KeyboardInterrupt(), "no answer", TypeError("odd"), {}])
def test_whatever_happens_before_the_other_one_has_it_lets_users_in_again(machines, wrong):
    machines.answers[MX2, "moving.figures"] = wrong
    told = move()
    assert machines.phase == {MX1: "here", MX2: "waiting"}
    assert f"example.org is on {MX1} as before; mend that and run it again" in told["stopped"]
    assert machines.asked[-2:] == [
        (MX1, "moving.thaw"),
        (MX1, "state.apply"),
    ]


def test_who_was_in_while_the_last_was_copied_has_it_done_again(machines):
    machines.answers[MX1, "moving.frozen"] = [["eva@example.org"], ["eva@example.org"]]
    assert "eva@example.org: still logged in while it was copied" in move()["stopped"]
    assert machines.phase == {MX1: "here", MX2: "waiting"}


@pytest.mark.parametrize(
    ("function", "wrong"),
    [("moving.take", "ERROR"), ("moving.take", KeyboardInterrupt()), ("state.apply", "ERROR")],
)
def test_what_fails_when_the_other_one_may_have_it_is_not_put_back(machines, function, wrong):
    machines.answers[MX2, function] = wrong
    assert "The users of example.org are out, and its mail waits: mend that" in move()["stopped"]
    assert machines.phase[MX1] == "frozen"
    machines.answers.clear()
    assert move()["phases"] == {MX1: "gone", MX2: "here"}


def test_a_run_that_stops_early_says_that_users_are_out_since_the_one_before(machines):
    machines.phase[MX1] = "frozen"
    machines.answers[MX2, "state.highstate"] = "ERROR"
    said = "ERROR. The users of example.org are out, and its mail waits"
    assert said in move()["stopped"]


def test_another_run_on_a_machine_is_waited_for(machines):
    machines.answers[MX2, "state.highstate"] = [BUSY, BUSY]
    assert "stopped" not in move()


def test_an_account_that_nobody_could_copy_is_named_before_it_begins(machines):
    machines.accounts[MX2].append("new@example.org")
    assert f"new@example.org: no account in the pillar of {MX1}" in move()["stopped"]
    assert machines.asked == []
    machines.phase = {MX1: "gone", MX2: "here"}
    assert "stopped" not in move()


def test_an_address_is_no_domain_and_nobody_is_asked(machines):
    told = mailsrv.move("eva@example.org", **{"from": MX1, "to": MX2})
    assert told["stopped"].startswith("eva@example.org is an address, and its domain has one MX")
    assert (told["retcode"], machines.asked) == (1, [])


def test_a_folder_that_cannot_be_copied_is_named_before_it_begins(machines):
    machines.answers[MX1, "moving.unfit"] = {"eva@example.org": ["x%2Fy", "q%41"]}
    stopped = move()["stopped"]
    assert stopped.startswith("eva@example.org: q%41; eva@example.org: x%2Fy: no name with a %")
    assert machines.asked == [(MX1, "moving.unfit")]
    machines.phase = {MX1: "gone", MX2: "here"}
    assert "stopped" not in move()


def test_one_that_comes_while_it_is_copied_ends_the_copy(machines, monkeypatch):
    monkeypatch.setattr(mailsrv._Move, "_copy", COPY)
    machines.answers[MX1, "moving.unfit"] = [{}, {"eva@example.org": ["x%2Fy"]}]
    assert move()["stopped"].startswith("eva@example.org: x%2Fy: no name with a % is copied")
    assert machines.phase == {MX1: "here", MX2: "waiting"}
