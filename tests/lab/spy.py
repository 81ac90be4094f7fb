"""What the users of a machine could see of its secrets while something is done there.

    with Spy(machine, "hunter2") as spy:
        machine.run("salt-call state.highstate")
    assert spy.seen == []

It looks from outside: at each file that is made, written, renamed or opened up below the machine's
directories, the moment the kernel tells, and at the arguments of all processes, every few
milliseconds. What lasts for less than that may escape it.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

# What is secret on any machine: hashes, private keys, the key of rewritten senders.
SECRET = rb"\$6\$[\w./]{1,16}\$[\w./]{86}|PRIVATE KEY-----\n[\w/+]{60}|srs key (backup )?\"[0-9a-f]"
NAMES = ("password.key", "srs.conf")  # and files whose content does not tell
WATCHED = ("etc", "var/cache", "var/log", "var/tmp", "tmp", "root", "run")
# Packages, as they are unpacked and built, and what they bring.
SKIPPED = re.compile(r"apt|pip(-.*)?|tmp.*wheel.*|ssl|ca-certificates|systemd|udev|man|perl")
INTERVAL = 20  # milliseconds

# inotify(7): IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE, and the flags
EVENTS, IS_DIRECTORY, NO_LINK = 0x2 | 0x4 | 0x8 | 0x80 | 0x100, 0x40000000, 0x02000000


class Spy:
    """While it is entered, it looks at a `Machine`; `seen` are then sentences, one for each leak.

    words
        What is secret beside keys and hashes, texts.
    """

    def __init__(self, machine, *words):
        self._machine, self._words, self.seen = machine, words, []

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._machine.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process.stdin.write(json.dumps(self._words) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self.seen = json.loads(self._process.communicate()[0])


class Watch:
    """The files below a directory that change, by inotify(7)."""

    def __init__(self, root):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self._libc.inotify_init1(os.O_NONBLOCK)
        self._paths = {}
        for name in WATCHED:
            self._add(Path(root, name))

    def _add(self, directory):
        for path, names, _ in os.walk(directory):
            names[:] = [name for name in names if not SKIPPED.fullmatch(name)]
            number = self._libc.inotify_add_watch(self.handle, path.encode(), EVENTS | NO_LINK)
            self._paths[number] = Path(path)

    def changed(self):
        """The paths of the files that changed since the last call."""
        try:
            data = os.read(self.handle, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, mask, _, length = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace")
            at += 16 + length
            path = self._paths.get(number, Path()) / name
            if mask & IS_DIRECTORY and not SKIPPED.fullmatch(name):
                self._add(path)
                yield from (Path(top, file) for top, _, files in os.walk(path) for file in files)
            else:
                yield path


def exposed(path, secret):
    """The mode of a file that is open to everybody and holds a secret; None for any other."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o004:
            return None
        if path.name.startswith(NAMES) or secret.search(path.read_bytes()[: 1 << 20]):
            return f"{stat.S_IMODE(status.st_mode):o}"
    return None


def arguments(root):
    """The command lines of the processes there."""
    for process in os.listdir(f"{root}/proc"):
        if process.isdigit():
            with contextlib.suppress(OSError):
                yield Path(root, "proc", process, "cmdline").read_bytes().replace(b"\0", b" ")


def main(root):
    secret = re.compile(
        b"|".join([SECRET, *(re.escape(word.encode()) for word in json.loads(input()))])
    )
    watch, seen, looked = Watch(root), {}, 0.0
    print("ready", flush=True)
    while True:
        ready = select.select([0, watch.handle], [], [], INTERVAL / 1000)[0]
        for path in watch.changed():
            if mode := exposed(path, secret):
                seen[f"{path} was open to everybody ({mode})"] = True
        if time.monotonic() > looked + INTERVAL / 1000:
            looked = time.monotonic()
            for line in filter(secret.search, arguments(root)):
                seen[f"an argument: {line.decode(errors='replace')}"] = True
        if 0 in ready:
            print(json.dumps(list(seen)))
            return


if __name__ == "__main__":
    main(sys.argv[1])
