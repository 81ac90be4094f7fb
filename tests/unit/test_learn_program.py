"""
learn.py: each message once, none lost while rspamd is away, none that hinders the others; and what
mailcheck.run says of it.
"""

import importlib.util
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import _mailsrv_learning as checks
import pytest
from salt.exceptions import CommandExecutionError

from reading import STATES

PROGRAM = STATES / "learning/learn.py"


@pytest.fixture
def spool(tmp_path):
    for name in ("new", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def learn(spool, monkeypatch):
    spec = importlib.util.spec_from_file_location("learn", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE", 0.01)
    module.here = lambda: module.main(str(spool), str(spool / "socket"))
    return module


@pytest.fixture
def rspamd(spool):
    """What listens on the socket and answers what the test says; `asked` is what came."""
    control = SimpleNamespace(asked=[], answers=lambda message: b"200 OK", before=lambda: None)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            head = b"".join(iter(self.rfile.readline, b"\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            message = self.rfile.read(int(length[1]) if length else 0)
            control.asked.append((head.split()[1], message))
            control.before()
            if answer := control.answers(message):
                line, _, body = answer.partition(b"\n")
                self.wfile.write(b"HTTP/1.1 " + line + b"\r\nConnection: close\r\n\r\n" + body)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(spool / "socket"), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield control
        server.shutdown()


def lay(spool, *names, text="hello", at=None):
    for number, name in enumerate(names):
        (spool / "new" / f"{at or int(time.time())},{number + 1},{name}").write_text(text)


def state(spool):
    return json.loads((spool / "state.json").read_text())


def test_all_is_taught_in_its_order_and_gone(learn, rspamd, spool, capsys):
    lay(spool, "spam,ann@a.example", at=int(time.time()) - 5)
    lay(spool, "ham,ann@a.example", "spam,ann@a.example")
    learn.here()
    assert [path for path, _ in rspamd.asked] == ["/learnspam", "/learnham", "/learnspam"]
    assert os.listdir(spool / "new") == []
    assert (state(spool)["taught"], state(spool)["fault"]) == (3, "")
    assert "ann@a.example taught 2 spam\nann@a.example taught 1 ham\n" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["204 No Content", "208 Already", "404 Not found"])
def test_what_rspamd_knows_already_is_no_fault_and_does_not_count(learn, rspamd, spool, status):
    rspamd.answers = lambda message: status.encode()
    lay(spool, "spam,ann@a.example")
    learn.here()
    assert (state(spool)["taught"], state(spool)["fault"]) == (0, "")


def test_one_that_rspamd_refuses_is_left_out_and_ten_in_a_row_are_a_fault(learn, rspamd, spool):
    rspamd.answers = lambda message: b"403 Forbidden\nno\r\n\x1b[2Jsuch"
    lay(spool, *["spam,a@a.example"] * 9)
    learn.here()
    assert state(spool)["fault"] == ""
    lay(spool, *["spam,a@a.example"] * 10)
    learn.here()
    assert re.fullmatch(r"rspamd answers 403: '[ -~]+', to 10 in a row", state(spool)["fault"])
    assert os.listdir(spool / "new") == []


def test_one_that_kills_rspamd_each_time_is_left_out(learn, rspamd, spool):
    lay(spool, "spam,a@a.example", text="evil", at=int(time.time()) - 5)
    lay(spool, "spam,a@a.example")
    rspamd.answers = lambda message: b"" if message == b"evil" else b"200 OK"
    learn.here()
    assert [message for _, message in rspamd.asked] == [b"evil"] * 3 + [b"hello"]
    assert state(spool)["taught"] == 1


def test_while_rspamd_is_away_nothing_is_lost(learn, spool, capsys):
    lay(spool, *["ham,a@a.example"] * 3)
    tries = {}
    told = learn.State(str(spool))
    assert learn.learn(str(spool / "new"), str(spool / "socket"), told, tries) == {}
    assert told.fault.startswith("rspamd does not answer: ")
    assert len(os.listdir(spool / "new")) == 3


def test_what_is_no_message_is_removed_unread(learn, rspamd, spool):
    secret = spool / "secret"
    secret.write_text("secret")
    new, now = spool / "new", int(time.time())
    (new / f"{now},1,spam,a").symlink_to(secret)
    (new / f"{now},2,spam,a").symlink_to(new)
    os.mkfifo(new / f"{now},3,spam,a")
    (new / f"{now},4,spam,a").write_bytes(b"")
    (new / f"{now},5,spam,a").write_bytes(b"x" * (learn.LARGEST + 1))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(new / f"{now},6,spam,a"))
    os.mknod(new / "strange name\n")
    lay(spool, "spam,..%2Fa", "eggs,a", "spam,a\nspam,b")
    lay(spool, "spam,a", at=now - 8 * 86400)
    lay(spool, "spam,a", at="99999999999999999999")
    learn.here()
    assert (rspamd.asked, os.listdir(new), secret.read_text()) == ([], [], "secret")
    listening.close()


def test_a_directory_hinders_nothing_and_is_named(learn, rspamd, spool):
    (spool / "new/0,1,spam,a/b").mkdir(parents=True)
    lay(spool, "spam,a")
    with pytest.raises(OSError, match="holds what is no message"):
        learn.here()
    assert state(spool)["taught"] == 1


def test_nobody_teaches_more_than_so_many_a_day(learn, rspamd, spool, monkeypatch, capsys):
    monkeypatch.setattr(learn, "PER_DAY", 5)
    lay(spool, *["spam,eve@a.example"] * 8)
    lay(spool, "ham,ann@a.example", at=int(time.time()) + 1)
    learn.here()
    assert (len(rspamd.asked), os.listdir(spool / "new")) == (6, [])
    assert capsys.readouterr().err.count("eve@a.example has taught 5 messages today") == 1
    lay(spool, "spam,eve@a.example")
    learn.here()
    assert len(rspamd.asked) == 6
    told = state(spool)
    (spool / "state.json").write_text(json.dumps({**told, "day": told["day"] - 1}))
    lay(spool, "spam,eve@a.example")
    learn.here()
    assert len(rspamd.asked) == 7


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"users": {"a": "b"}}', '{"users": 7}'])
def test_a_state_that_is_garbage_is_begun_anew(learn, rspamd, spool, text):
    (spool / "state.json").write_text(text)
    lay(spool, "spam,a")
    learn.here()
    assert state(spool)["taught"] == 1


def test_what_a_teach_that_was_killed_has_begun_is_removed_after_an_hour(learn, spool):
    for name, age in (("old", 3700), ("young", 60)):
        path = spool / "tmp" / name
        path.write_text("x")
        os.utime(path, (time.time() - age,) * 2)
    learn.here()
    assert os.listdir(spool / "tmp") == ["young"]


def test_whenever_it_is_killed_nothing_is_lost(rspamd, spool):
    """A message whose answer it did not see any more it gives again: rspamd knows it then."""
    lay(spool, *[f"spam,user{number}@a.example" for number in range(40)])
    rspamd.before = lambda: time.sleep(0.005)
    command = [sys.executable, "-I", PROGRAM, spool, spool / "socket"]
    for number in range(5):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wanted = 7 * (number + 1)
        while len(rspamd.asked) < wanted and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert os.listdir(spool / "new") == []
    assert 40 <= len(rspamd.asked) <= 45


def test_two_at_once_are_one(learn, rspamd, spool):
    lay(spool, *["spam,a@a.example"] * 10)
    rspamd.before = lambda: time.sleep(0.02)
    other = threading.Thread(target=learn.here)
    other.start()
    learn.here()
    other.join()
    assert len(rspamd.asked) == 10


# What mailcheck.run says

MODEL = {"redis": True, "learns": True}


def says(spool, least=200):
    return checks.learns(str(spool / "socket"), str(spool), least, 2)


def test_it_is_checked_what_the_pillar_has_switched_on():
    facts = {
        "redis": {"socket": "/s"},
        "rspamd": {"controller": "/c"},
        "learning": {"spool": "/x"},
        "min_learns": 200,
    }
    names = [*checks.checks(MODEL, facts, 5)]
    assert names == ["memory of the spam filter", "learning"]
    assert [*checks.checks({**MODEL, "learns": False}, facts, 5)] == names[:1]
    assert checks.checks({"redis": False, "learns": False}, facts, 5) == {}


def test_what_is_learned_is_what_rspamd_says(rspamd, spool):
    files = [{"symbol": f"BAYES_{kind}", "revision": 300} for kind in ("SPAM", "HAM")]
    rspamd.answers = lambda message: b"200 OK\n" + json.dumps({"statfiles": files}).encode()
    assert says(spool) == "300 spam and 300 other messages are learned"


def test_that_it_learns_nothing_is_said(rspamd, spool):
    rspamd.answers = lambda message: b"200 OK\n" + json.dumps({"statfiles": []}).encode()
    written = spool / "state.json"
    written.write_text(json.dumps({"taught": 7, "day": 1, "users": {}, "fault": ""}))
    assert says(spool).startswith("0 spam and 0 other")
    os.utime(written, (time.time() - 400,) * 2)
    assert says(spool).startswith("WARNING: 7 messages were taught, and rspamd knows of none")
    written.write_text(json.dumps({"taught": 7, "day": 1, "users": {}, "fault": "it is late"}))
    assert says(spool) == "WARNING: it is late"
    lay(spool, "spam,a", at=int(time.time()) - 1000)
    assert re.match("WARNING: 1 messages .* wait for 16 minutes", says(spool))


def test_an_rspamd_that_is_away_or_babbles_is_a_fault(spool, rspamd):
    rspamd.answers = lambda message: b"what?"
    with pytest.raises(CommandExecutionError, match="does not say what it has learned"):
        says(spool)
    os.unlink(spool / "socket")
    with pytest.raises(CommandExecutionError, match="does not say what it has learned"):
        says(spool)
    with pytest.raises(CommandExecutionError, match="is missing; run the highstate"):
        says(spool / "nowhere")
