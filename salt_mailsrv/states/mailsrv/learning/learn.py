"""
Gives rspamd what users take for spam and what not: python3 -I learn.py SPOOL SOCKET

SPOOL/new holds a message a file, whose name says when it came, from which process, whether it is
``spam`` or ``ham``, and whose mailbox it was in: ``1790000000,17,spam,ann@example.com``. SOCKET is
that of rspamd's controller. It goes on until there is nothing left, waits for an rspamd that does
not answer, and leaves out what cannot be learned. SPOOL/state.json is what mailcheck reads.

What one user teaches counts for all: nobody teaches more than a number of messages a day.
"""

import contextlib
import fcntl
import http.client
import json
import os
import re
import socket
import sys
import time

NAME = re.compile(r"([0-9]{1,12}),[0-9]+,(spam|ham),([\w.+@-]*)", re.ASCII)
LARGEST = 1 << 20  # bytes
TIMEOUT = 30  # seconds for one message
PAUSE = 10  # seconds before a server that does not answer is asked again
TRIES = 3  # of one message, at which the connection breaks each time: it may be to blame
PER_DAY = 1000  # messages of one user
REFUSED = 10  # messages in a row, at which it is not the messages
OLDEST = 7 * 86400  # seconds that a message waits
LEFT = 3600  # seconds after which a file that was begun is nobody's

# What rspamd answers: that it has learned, that it had learned that before, and that there is
# nothing to learn from in so few words, or that it knows already.
LEARNED, KNOWN = (200,), (204, 208, 404)


class Controller(http.client.HTTPConnection):
    """rspamd's, by its socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


def ask(path, kind, message):
    """The status of rspamd's answer, and what it says; ``OSError`` where it does not answer."""
    with contextlib.closing(Controller(path)) as controller:
        try:
            controller.request("POST", f"/learn{kind}", message)
            answer = controller.getresponse()
            return answer.status, answer.read(2000).decode(errors="replace").strip()
        except http.client.HTTPException as exc:
            raise OSError(f"{type(exc).__name__}: {exc}") from None


class State:
    """What mailcheck reads: how often was taught, by whom today, and what is the matter."""

    def __init__(self, spool):
        self.path = os.path.join(spool, "state.json")
        self.taught, self.day, self.users, self.fault, self.refused = 0, 0, {}, "", 0
        broken = (OSError, ValueError, TypeError, AttributeError, KeyError)
        with contextlib.suppress(*broken), open(self.path) as file:
            found = json.load(file)
            users = {str(user): int(count) for user, count in found["users"].items()}
            self.taught, self.day, self.users = int(found["taught"]), int(found["day"]), users

    def may(self, user):
        """Whether this user may teach one more today."""
        if self.day != (today := int(time.time() // 86400)):
            self.day, self.users = today, {}
        self.users[user] = self.users.get(user, 0) + 1
        if self.users[user] == PER_DAY + 1:
            say(f"{user} has taught {PER_DAY} messages today: until tomorrow, no more is learned")
        return self.users[user] <= PER_DAY

    def answered(self, status, said):
        """Note what rspamd has answered; returns whether it has learned."""
        if status in LEARNED + KNOWN:
            self.refused, self.fault = 0, ""
            self.taught += status in LEARNED
            return status in LEARNED
        self.refused += 1
        why = f"rspamd answers {status}: {said[:200]!r}"
        self.fault = f"{why}, to {self.refused} in a row" if self.refused >= REFUSED else ""
        say(f"a message is not learned: {why}")
        return False

    def save(self):
        """Write it down, whole or not at all."""
        text = json.dumps({key: vars(self)[key] for key in ("taught", "day", "users", "fault")})
        with open(f"{self.path}.new", "w") as file:
            file.write(text)
        os.replace(f"{self.path}.new", self.path)


def say(text):
    print(text, file=sys.stderr, flush=True)


def content(path):
    """The message in a file; None: it is none that teach has written."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            message = file.read(LARGEST + 1)
            return message if message and len(message) <= LARGEST else None
    return None


def tidy(directory):
    """Remove what a teach that was killed has begun."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            if os.lstat(path).st_mtime < time.time() - LEFT:
                os.unlink(path)


def waiting(new):
    """What is to be taught, the oldest first; a directory nobody has to make there."""
    with os.scandir(new) as entries:
        return sorted(e.name for e in entries if not e.is_dir(follow_symlinks=False))


def remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def learn(new, controller, state, tries):
    """
    Teach what is there, the oldest first. Returns by user and kind how many were learned; ends with
    the first message at which rspamd does not answer.
    """
    learned = {}
    for name in waiting(new):
        path, found = os.path.join(new, name), NAME.fullmatch(name)
        message = content(path) if found else None
        if message is None or int(found[1]) < time.time() - OLDEST:
            remove(path)
            continue
        if not tries.get(name) and not state.may(found[3]):
            remove(path)
            continue
        try:
            status, said = ask(controller, found[2], message)
        except OSError as exc:
            # A server that is away is no fault of the message; one that goes away at it may be.
            if not isinstance(exc, (ConnectionRefusedError, FileNotFoundError, PermissionError)):
                tries[name] = tries.get(name, 0) + 1
            if tries.get(name, 0) < TRIES:
                state.fault = f"rspamd does not answer: {exc}"
                return learned
            say(f"left out a message that rspamd does not come to an end with: {name}")
            remove(path)
            continue
        if state.answered(status, said):
            learned[found[3], found[2]] = learned.get((found[3], found[2]), 0) + 1
        remove(path)
    return learned


def main(spool, controller):
    new, tries, told = os.path.join(spool, "new"), {}, ""
    with open(os.path.join(spool, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        tidy(os.path.join(spool, "tmp"))
        state = State(spool)
        while waiting(new):
            learned = learn(new, controller, state, tries)
            for (user, kind), count in learned.items():
                say(f"{user or 'somebody'} taught {count} {kind}")
            if state.fault and state.fault != told:
                say(state.fault)
            told = state.fault
            state.save()
            time.sleep(PAUSE if state.fault else 0)
        if os.listdir(new):
            raise OSError(f"{new} holds what is no message")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as exc:  # systemd calls again at once while there is something to learn
        say(f"{type(exc).__name__}: {exc}")
        time.sleep(PAUSE)
        sys.exit(1)
