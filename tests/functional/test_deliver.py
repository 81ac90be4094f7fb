"""The program that smtpd hands each message to, against a Dovecot that is as unkind as can be."""

import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

HEAD = b"""Return-Path: <somebody@elsewhere.example>
Delivered-To: Ann@Example.COM
Received: from mx.elsewhere.example (mx.elsewhere.example [192.0.2.9])
\tby mx.example.com (OpenSMTPD) with ESMTP id 0123abcd
\tfor <Ann@Example.COM>;
\tWed, 25 Nov 2026 05:31:28 +0000 (UTC)
Subject: hello
"""
MESSAGE = HEAD + b"\nhello\n"
NUMBERS = itertools.count()
STEPS = ("banner", "LHLO", "MAIL", "RCPT", "DATA", "end")
KIND = {
    "banner": b"220 mx.example.com LMTP\r\n",
    "LHLO": b"250-mx.example.com\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    "MAIL": b"250 2.1.0 OK\r\n",
    "RCPT": b"250 2.1.5 OK\r\n",
    "DATA": b"354 OK\r\n",
    "end": b"250 2.0.0 <ann@example.com> id Saved\r\n",
}
DISPATCHER = """
import os, sys, time
while data := sys.stdin.buffer.read(1 << 16):
    os.write(int(sys.argv[1]), data)
print(flush=True)
time.sleep(60)
"""


class Dovecot:
    """An LMTP server for one delivery after the other; `replies` are its own, by step."""

    def __init__(self, path):
        self.replies = {}
        self.commands = []
        self.messages = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError, ConnectionError):
                self._talk(connection, connection.makefile("rb"))

    def _talk(self, connection, wire):
        for step in STEPS:
            if step == "end":
                self.messages.append(self._message(wire))
            elif step != "banner":
                self.commands.append(wire.readline().decode())
            reply = self.replies.get(step, KIND[step])
            if reply is None:
                return
            connection.sendall(reply)
            if step == "DATA" and not reply.startswith(b"354"):
                return
        self.commands.append(wire.readline().decode())

    @staticmethod
    def _message(wire):
        lines = []
        while (line := wire.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)


class Smtpd:
    """What smtpd is to its delivery: the parent, with a child that is the dispatcher."""

    def __init__(self, machine, directory, **mailsrv):
        self.root = machine.root
        files = machine.files("mailsrv.opensmtpd", **mailsrv)
        (self.program,) = [machine.at(name) for name in files if name.endswith("/deliver")]
        self._text = self._rendered = self.program.read_text()
        self.home = machine.at({"Linux": "/var/vmail", "FreeBSD": "/vmail"}[self.kernel])
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.write()
        (conf,) = [machine.at(name) for name in files if name.endswith("/smtpd.conf")]
        (command,) = re.findall(r'^mda wrapper "deliver" "(.*)"$', conf.read_text(), re.M)
        self.command = re.sub(r"exec \S+", f"exec {shutil.which('perl')}", command)
        (lmtp,) = re.findall(r'^my \$path = "(.*)";', self._text, re.M)
        self.dovecot = Dovecot(directory / "lmtp")
        self.write({lmtp: str(directory / "lmtp")})
        self._start()

    @property
    def kernel(self):
        return "Linux" if "/proc/" in self._text else "FreeBSD"

    def write(self, changes=None):
        """The program, changed."""
        for old, new in (changes or {}).items():
            assert old in self._text
            self._text = self._text.replace(old, new)
        self.program.write_text(self._text)

    def _start(self):
        self._read, self._write = os.pipe()
        self.dispatcher = subprocess.Popen(
            ["smtpd: dispatcher", "-c", DISPATCHER, str(self._write)],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._write],
        )

    def stop(self):
        self.program.write_text(self._rendered)
        self.dovecot.close()
        self.dispatcher.kill()
        self.dispatcher.communicate()
        os.close(self._read)
        os.close(self._write)

    def start(self, recipient="Ann@Example.COM", sender="somebody@elsewhere.example", stdin=None):
        return subprocess.Popen(
            ["/bin/sh", "-c", self.command],
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"RECIPIENT": recipient, "SENDER": sender, "PATH": "/usr/bin:/bin"},
        )

    def deliver(self, message=MESSAGE, **addresses):
        """The exit status, and what smtpd logs: the last line."""
        delivery = self.start(**addresses)
        said = delivery.communicate(message)[0].decode()
        return delivery.returncode, (said.splitlines() or [""])[-1]

    def cut(self, message, end):
        """As the dispatcher's, who holds the pipe, with `end(dispatcher)` before its end."""
        delivery = self.start(stdin=self._read)
        self.dispatcher.stdin.write(message)
        self.dispatcher.stdin.close()
        self.dispatcher.stdout.readline()
        os.close(self._write)
        end(self.dispatcher)
        said = delivery.communicate(timeout=30)[0].decode()
        self._write = os.dup(self._read)
        return delivery.returncode, said


@pytest.fixture
def smtpd_of(minion):
    """smtpd and Dovecot on that system, at paths short enough for a socket."""
    made = []

    def make(system, **mailsrv):
        directory = Path(tempfile.mkdtemp(prefix="lmtp-"))
        machine = minion(system, id="-".join(["deliver", *mailsrv]))
        made.append((Smtpd(machine, directory, **mailsrv), directory))
        return made[-1][0]

    yield make
    for smtpd, directory in made:
        smtpd.stop()
        shutil.rmtree(directory)


@pytest.fixture(params=["Debian", "FreeBSD"])
def smtpd(request, smtpd_of):
    return smtpd_of(request.param)


@pytest.fixture
def debian(smtpd_of):
    return smtpd_of("Debian")


def wire(message):
    return message.replace(b"\n", b"\r\n")


def another(message=MESSAGE):
    """Another message of the same text: smtpd gives each an identifier."""
    return message.replace(b"0123abc", b"%07x" % next(NUMBERS))


def test_a_message_arrives_as_it_is(smtpd):
    assert smtpd.deliver() == (0, "")
    assert smtpd.dovecot.messages == [wire(MESSAGE)]
    assert smtpd.dovecot.commands[1:4] == [
        "MAIL FROM:<somebody@elsewhere.example>\r\n",
        "RCPT TO:<ann@example.com>\r\n",
        "DATA\r\n",
    ]


LINE = b"." * 3 + b"x" * 70 + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        b".\n",
        b".\n.\n..\n.x\n",
        b"\n\n.\n\n",
        b"\xe4\xf6\xfc \xff\0NUL\n",
        b"bare\rCR, two\r\nand three\r\r\n",
        b"\n" * 70000,
        b".\n" * 70000,
        b"x" * (65536 - len(HEAD) - 2) + b"\n.at the beginning of a piece\n",
        b"x" * 200000 + b"\n",
        LINE * 15000,
        LINE * 60000,
    ],
    ids=lambda body: f"{body[:9]}-{len(body)}",
)
def test_no_byte_changes(debian, body):
    assert debian.deliver(HEAD + b"\n" + body) == (0, "")
    assert debian.dovecot.messages == [wire(HEAD + b"\n" + body)]


def test_a_last_line_without_an_end_gets_one(debian):
    for body in b"hello", LINE * 60000 + b"hello":
        message = another(HEAD + b"\n" + body)
        assert debian.deliver(message) == (0, "")
        assert debian.dovecot.messages.pop() == wire(message + b"\n")


def test_memory_does_not_grow_with_the_message(debian):
    kilobytes = []
    for lines in 1, 450000:
        delivery = debian.start()
        delivery.stdin.write(another(HEAD + b"\n" + LINE * lines))
        delivery.stdin.close()
        _, status, usage = os.wait4(delivery.pid, 0)
        assert status == 0
        kilobytes.append(usage.ru_maxrss)
    assert kilobytes[1] - kilobytes[0] < 8 << 10
    assert len(debian.dovecot.messages[1]) > 32 << 20
    files = os.listdir(debian.home / "example.com/ann")
    assert all(file.startswith(".delivery") for file in files)


REPLIES = {
    "closed": None,
    "no LMTP": b"hello\r\n",
    "zeros": b"\0\0\0\0\r\n",
    "an unknown code": b"999 4.3.0 hm\r\n",
    "a code alone": b"25\r\n",
    "half a line": b"250 2.0.0 O",
    "a line without end": b"2" * (1 << 17),
    "half an answer": b"250-2.0.0 more\r\n",
    "too early": b"354 OK\r\n",
    "421": b"421 4.3.2 Shutting down\r\n",
    "451": b"451 4.3.0 <ann@example.com> Temporary internal error\r\n",
    "452": b"452 4.2.2 <ann@example.com> Quota exceeded\r\n",
    "500": b"500 5.5.1 Unknown command\r\n",
    "503": b"503 5.5.1 Bad sequence\r\n",
    "550": b"550 5.1.1 <ann@example.com> User doesn't exist\r\n",
    "552": b"552-5.2.2 <ann@example.com> The mailbox\r\n552 5.2.2 is full\r\n",
}


# To DATA, these are the answer.
SAID = [
    (step, reply)
    for reply in REPLIES
    for step in STEPS
    if step != "DATA" or reply not in ("too early", "half an answer")
]


@pytest.mark.parametrize(("step", "reply"), SAID)
def test_what_dovecot_says_decides(debian, step, reply):
    """Refusals of the recipient and of the message are the sender's; all else waits."""
    debian.write({"alarm 240": "alarm 1"})
    debian.dovecot.replies = {step: REPLIES[reply]}
    if step in ("RCPT", "DATA") and REPLIES[reply] is None:
        debian.dovecot.replies[step] = b""
    if step == "DATA" and reply == "half a line":
        debian.dovecot.replies[step] = b"354"
    status, said = debian.deliver()
    assert status == (69 if reply in ("550", "552") and step in ("RCPT", "end") else 75)
    assert said
    if status == 69:
        words = [part[4:] for part in REPLIES[reply].decode().split("\r\n") if part]
        assert said == f"{reply} {' '.join(words)}"


def test_a_dovecot_that_stops_reading_is_waited_for_and_left(debian):
    """Well before smtpd's alarm, which would be a signal like any other."""
    assert int(re.findall(r"^alarm (\d+);", debian.program.read_text(), re.M)[0]) < 300
    debian.write({"alarm 240": "alarm 1"})
    debian.dovecot.replies = {"end": b""}
    debian.dovecot._message = lambda wire: time.sleep(3)
    started = time.monotonic()
    assert debian.deliver(HEAD + b"\n" + LINE * 60000) == (75, "It took too long")
    assert time.monotonic() - started < 2.5


def test_a_dovecot_that_is_not_there_is_tried_again(debian):
    debian.dovecot.close()
    assert debian.deliver()[0] == 75


def test_what_ends_without_smtpds_end_is_not_delivered(smtpd):
    def killed(dispatcher):
        dispatcher.kill()

    def reaped(dispatcher):
        dispatcher.kill()
        dispatcher.wait()

    for end in killed, reaped:
        status, said = smtpd.cut(MESSAGE * 100, end)
        assert (status, said) == (75, "smtpd ended before the message\n")
        smtpd._start()
    assert smtpd.dovecot.commands == []


def test_what_the_dispatcher_closes_is_whole(debian):
    """As above, but the dispatcher lives on."""
    delivery = debian.start()
    assert delivery.communicate(MESSAGE)[0] == b""
    assert delivery.returncode == 0


def test_nothing_is_no_message(smtpd):
    assert smtpd.deliver(b"") == (75, "smtpd ended before the message")
    assert smtpd.dovecot.commands == []


@pytest.mark.parametrize("hidden", ["/proc", "/bin/ps"])
def test_where_processes_are_hidden_the_parent_is_waited_for(smtpd_of, hidden):
    smtpd = smtpd_of({"/proc": "Debian", "/bin/ps": "FreeBSD"}[hidden])
    smtpd.write(
        {"/proc": {"/proc/$parent": "/nowhere"}, "/bin/ps": {"/bin/ps": "/bin/echo"}}[hidden]
    )
    started = time.monotonic()
    assert smtpd.deliver() == (0, "")
    assert time.monotonic() - started >= 1
    parent = """
import os, subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(0.5)
os._exit(0)
"""
    environment = {"RECIPIENT": "ann@example.com", "SENDER": "", "PATH": "/usr/bin:/bin"}
    orphan = [sys.executable, "-c", parent, "/bin/sh", "-c", smtpd.command]
    said = subprocess.run(orphan, input=MESSAGE, capture_output=True, env=environment).stdout
    assert said == b"smtpd ended before the message\n"


@pytest.mark.parametrize("text", [None, "", "#!/usr/bin/perl\nmy $x = {;\n", "exit(1", "die"])
def test_a_program_that_is_missing_empty_or_broken_returns_no_mail(debian, text):
    """As after a power cut, or in the middle of an upgrade."""
    if text is None:
        debian.program.unlink()
    else:
        debian.program.write_text(text)
    assert debian.deliver()[0] == 75
    debian.write()
    debian.command = debian.command.replace(shutil.which("perl"), "/nowhere/perl")
    assert debian.deliver()[0] == 75


def test_a_home_that_cannot_be_written_waits(debian):
    (debian.home / "example.com").write_text("in the way")
    assert debian.deliver()[0] == 75
    (debian.home / "example.com").unlink()
    (debian.home / "example.com/ann/.delivery.1").mkdir(parents=True)
    assert debian.deliver()[0] == 75
    assert debian.dovecot.commands == []


def test_an_address_has_one_home_however_it_is_spelled(smtpd):
    for address in "ann@example.com", "ANN@EXAMPLE.COM", "aNN+List@Example.com":
        assert smtpd.deliver(another(), recipient=address) == (0, "")
    assert os.listdir(smtpd.home) == ["example.com"]
    assert os.listdir(smtpd.home / "example.com") == ["ann"]
    asked = [command for command in smtpd.dovecot.commands if command.startswith("RCPT")]
    assert asked[-2:] == ["RCPT TO:<ann@example.com>\r\n", "RCPT TO:<ann+List@example.com>\r\n"]
    home = smtpd.home / "example.com/ann"
    assert (home.stat().st_mode & 0o777, next(home.glob(".delivery.*")).stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


@pytest.mark.parametrize("address", ["", "ann", "../x@example.com", "a/b@example.com", "a@..", "@"])
def test_no_address_leaves_the_directory(debian, address):
    assert debian.deliver(recipient=address)[0] == 75
    assert os.listdir(debian.home) == []


@pytest.fixture
def slots(debian):
    """The files of ann's mailbox, one handle each, as other deliveries hold them."""
    debian.deliver(another())
    home = debian.home / "example.com/ann"
    files = [(home / f".delivery.{number}").open("a") for number in range(4)]

    def hold(numbers, seconds_ago=0):
        for number in numbers:
            fcntl.flock(files[number], fcntl.LOCK_EX)
            moment = time.time() - seconds_ago
            os.utime(files[number].name, (moment, moment))

    debian.hold, debian.files = hold, files
    debian.dovecot.messages.clear()
    yield debian
    for file in files:
        file.close()


def timed(debian, **addresses):
    started = time.monotonic()
    status = debian.deliver(**addresses)[0]
    return status, time.monotonic() - started


OWN = int("0123abcd", 16) % 4  # where a message with the identifier in HEAD waits for itself


def test_different_messages_to_a_mailbox_need_not_wait(slots):
    slots.hold({0, 1, 2, 3} - {OWN}, 100)
    status, seconds = timed(slots)
    assert (status, seconds < 1) == (0, True)


def test_nobody_waits_long_for_a_mailbox(slots):
    slots.hold({OWN})
    status, seconds = timed(slots)
    assert (status, 1 < seconds < 5) == (75, True)
    slots.hold({OWN}, 4)
    status, seconds = timed(slots)
    assert (status, seconds < 1) == (75, True)
    assert timed(slots, recipient="bob@example.com")[0] == 0
    assert len(slots.dovecot.messages) == 1


def test_who_waits_is_next(slots):
    slots.hold({OWN})
    delivery = slots.start()
    delivery.stdin.write(MESSAGE)
    delivery.stdin.close()
    time.sleep(0.3)
    assert slots.dovecot.messages == []
    slots.files[OWN].close()
    assert delivery.wait(2) == 0
    assert len(slots.dovecot.messages) == 1


def test_a_delivery_that_is_killed_holds_up_nobody(slots):
    slots.dovecot.replies = {"LHLO": b""}
    delivery = slots.start()
    delivery.stdin.write(MESSAGE)
    delivery.stdin.close()
    time.sleep(0.3)
    delivery.send_signal(signal.SIGKILL)
    delivery.wait()
    slots.dovecot.replies = {}
    assert slots.deliver() == (0, "")


def test_a_message_comes_once_to_a_mailbox_of_several_names(smtpd):
    """And once after smtpd, which had not noted that it was delivered, tries again."""
    for recipient in "ann@example.com", "ANN@example.com", "ann+a@example.com", "ann@example.com":
        assert smtpd.deliver(recipient=recipient) == (0, "")
    assert smtpd.dovecot.messages == [wire(MESSAGE)]
    assert smtpd.deliver(recipient="bob@example.com") == (0, "")
    assert len(smtpd.dovecot.messages) == 2


def test_what_only_looks_the_same_comes(debian):
    """smtpd uses an identifier again, by chance, at another time."""
    for message in MESSAGE, MESSAGE.replace(b"05:31:28", b"05:31:29"), another():
        assert debian.deliver(message) == (0, "")
    assert len(debian.dovecot.messages) == 3


def test_a_mailbox_of_a_tag_gets_its_own_copy(smtpd_of):
    smtpd = smtpd_of("Debian", subaddress="mailbox")
    for recipient in (
        "ann@example.com",
        "ann+a@example.com",
        "ann+b@example.com",
        "Ann+A@Example.com",
    ):
        assert smtpd.deliver(recipient=recipient) == (0, "")
    asked = [command for command in smtpd.dovecot.commands if command.startswith("RCPT")]
    assert asked == [
        f"RCPT TO:<{address}@example.com>\r\n" for address in ("ann", "ann+a", "ann+b")
    ]


@pytest.mark.parametrize("reply", ["closed", "451", "552"])
def test_what_was_not_stored_is_not_remembered(debian, reply):
    debian.dovecot.replies = {"end": REPLIES[reply]}
    assert debian.deliver()[0]
    debian.dovecot.replies = {}
    assert debian.deliver() == (0, "")
    assert len(debian.dovecot.messages) == 2


@pytest.mark.parametrize("stored", [True, False])
def test_what_dovecot_may_have_stored_is_asked_for(smtpd, stored):
    """Nobody heard its answer: the next try asks, with what only that message has."""
    asked = smtpd.home / "asked"
    doveadm = smtpd.home / "doveadm"
    doveadm.write_text(
        f'#!/bin/sh\necho "$USER" "$HOME" "$@" >{asked}\necho refused >&2\n{"echo 1 2" * stored}\n'
    )
    doveadm.chmod(0o755)
    (real,) = re.findall(r"qw\((\S*/doveadm) ", smtpd.program.read_text())
    smtpd.write({real: str(doveadm)})
    smtpd.dovecot.replies = {"end": None}
    assert smtpd.deliver()[0] == 75
    assert not asked.exists()
    smtpd.dovecot.replies = {}
    for _ in range(2):
        assert smtpd.deliver(recipient="ANN+tag@example.com")[0] == 0
    assert len(smtpd.dovecot.messages) == 2 - stored
    what = asked.read_text()
    assert what.startswith(f"ann@example.com {smtpd.home}/example.com/ann search ")
    assert what.endswith(
        "mailbox * header Received id 0123abcd"
        " header Received Wed, 25 Nov 2026 05:31:28 +0000 (UTC)\n"
    )
    assert smtpd.deliver(another()) == (0, "")
    assert asked.read_text() == what


def test_memory_of_messages_is_bounded(debian):
    messages = [another() for _ in range(30)]
    debian.deliver(messages[0])
    (slot,) = (debian.home / "example.com/ann").glob(".delivery.*")
    slot.write_bytes(slot.read_bytes() * 2000)
    for message in messages * 2:
        assert debian.deliver(message) == (0, "")
    assert slot.stat().st_size < 40000
    assert len(debian.dovecot.messages) == len(messages)


def test_the_end_of_smtpd_waits_for_what_dovecot_stores(debian):
    """systemd ends all that smtpd started: to end now could be to deliver again."""

    def answers_late(wire):
        time.sleep(0.5)
        return b"stored"

    debian.dovecot._message = answers_late
    delivery = debian.start()
    delivery.stdin.write(MESSAGE)
    delivery.stdin.close()
    while len(debian.dovecot.commands) < 4:
        time.sleep(0.01)
    time.sleep(0.1)
    delivery.terminate()
    assert delivery.wait(2) == 0
    debian.dovecot.replies = {"end": b""}
    delivery = debian.start()
    delivery.stdin.write(another())
    delivery.stdin.close()
    while len(debian.dovecot.messages) < 2:
        time.sleep(0.01)
    delivery.terminate()
    assert delivery.wait(8) == 75


class Next:
    """smtpd on another port, which wants to answer each command; `replies` are its own, by word."""

    def __init__(self):
        self.replies, self.commands, self.messages = {}, [], []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError, ConnectionError):
                connection.sendall(b"220 mx.example.com ESMTP OpenSMTPD\r\n")
                self._talk(connection, connection.makefile("rb", 0))

    def _talk(self, connection, wire):
        while line := wire.readline():
            self.commands.append(line.decode())
            time.sleep(0.02)
            with suppress(BlockingIOError):
                assert not connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK), "pipelining"
            word = line.split(b":")[0].split()[0].decode()
            reply = self.replies.get(word, b"354 OK\r\n" if word == "DATA" else b"250 OK\r\n")
            connection.sendall(reply)
            if reply.startswith(b"354"):
                self.messages.append(Dovecot._message(wire))
                connection.sendall(self.replies.get("end", b"250 OK\r\n"))


@pytest.fixture(params=["Debian", "FreeBSD"])
def leaving(smtpd_of, request, tmp_path):
    """A machine that example.com leaves: its `phase` is to be written, `next` is who takes mail."""
    smtpd = smtpd_of(request.param, moves_to={"example.com": "mx2.example.net"})
    (path,) = {*re.findall(r'"(\S+/moving)"', smtpd._text)}
    smtpd.moving, smtpd.next = tmp_path / "moving", Next()
    smtpd.write({path: str(smtpd.moving), " 10029,": f" {smtpd.next.port},"})
    yield smtpd
    smtpd.next.close()


def test_of_a_domain_that_moves_nothing_is_stored_while_the_last_of_it_is_fetched(leaving):
    assert leaving.deliver() == (0, "")  # what was never told is here
    for phase, status in ("here", 0), ("frozen", 75), ("here", 0):
        leaving.moving.write_text(f"example.org frozen\nexample.com {phase}\n")
        assert leaving.deliver(another())[0] == status
    assert len(leaving.dovecot.messages) == 3


def test_a_file_that_cannot_be_opened_is_no_leave_to_store(leaving):
    leaving.moving.symlink_to(leaving.moving)
    status, said = leaving.deliver()
    assert status == 75
    assert said.startswith("moving: ")
    assert leaving.dovecot.messages == []


def test_who_stores_holds_the_lock_that_the_last_fetch_waits_for(leaving):
    leaving.moving.write_text("example.com here\n")
    delivery = leaving.start()
    delivery.stdin.write(HEAD)
    delivery.stdin.flush()
    with open(leaving.moving) as file:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_UN)
            except BlockingIOError:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("it holds no lock")
        delivery.communicate(b"\nhello\n")
        assert delivery.returncode == 0
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_had_waited_goes_back_to_smtpd_as_it_came(leaving):
    leaving.moving.write_text("example.com gone\n")
    for body in b"hello\n", b".\n..x\n", LINE * 30000:
        message = another(HEAD + b"\n" + body)
        assert leaving.deliver(message) == (0, "")
        came = b"".join(message.splitlines(True)[2:])  # without what smtpd has put before it
        assert leaving.next.messages.pop() == wire(came)
    assert leaving.next.commands[:4] == [
        "EHLO localhost\r\n",
        "MAIL FROM:<somebody@elsewhere.example>\r\n",
        "RCPT TO:<ann@example.com>\r\n",
        "DATA\r\n",
    ]
    assert leaving.dovecot.messages == []
    assert leaving.deliver(message) == (0, "")
    assert leaving.next.messages == [], "it went twice"


@pytest.mark.parametrize("word", ["MAIL", "RCPT", "DATA", "end"])
def test_what_smtpd_does_not_take_back_waits_and_is_not_returned(leaving, word):
    leaving.moving.write_text("example.com gone\n")
    leaving.next.replies[word] = b"550 5.1.1 Invalid recipient\r\n"
    assert leaving.deliver()[0] == 75
