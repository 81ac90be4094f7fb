"""A machine of the lab whose clock may be moved, with a disk that may be filled.

A container has the host's clock. On this machine clock.c stands in /etc/ld.so.preload, so every
program, systemd and those in Go, too, sees another one. What it does not move: the monotonic clock,
by which waiting is measured, and what asks the kernel itself (programs without libc, rspamd).
"""

import shutil
import struct
import subprocess
import time
from pathlib import Path

from lab import Machine

SIZE = "6G"  # the most that the disk may hold; the host's has what was written alone
NEEDS = "gcc", "mke2fs"
FILE, LIBRARY = "/etc/lab-clock", "/usr/lib/lab-clock.so"
LENGTH = 65536
MOVES = LENGTH // 16 - 1


def missing():
    """What keeps such a machine from being made here, as one sentence; empty when nothing does."""
    lacking = [program for program in NEEDS if not shutil.which(program)]
    return f"a clock to be moved needs: apt-get install {' '.join(lacking)}" if lacking else ""


class Moved(Machine):
    def _configure(self, suite):
        super()._configure(suite)
        small, files, disk = (self._disk / name for name in ("small", "files", "disk"))
        small.mkdir()
        files.mkdir()
        (self._disk / "upper").rename(files / "upper")
        (self._disk / "work").rename(files / "work")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", files, disk, SIZE], check=True)
        shutil.rmtree(files)
        for name in "upper", "work":
            (self._disk / name).symlink_to(small / name)
        self.before = f"mount -o loop {disk} {small}"
        self._ahead, self._moves = 0, 0

    def start_clock(self):
        """From now on its clock is one of its own; it is restarted for it."""
        library = self._disk / "clock.so"
        source = Path(__file__).with_suffix(".c")
        command = ("gcc", "-O2", "-shared", "-fPIC", "-fno-builtin", "-w", "-o", library, source)
        subprocess.run(command, check=True)
        shutil.copy(library, self.root + LIBRARY)
        Path(self.root + FILE).write_bytes(bytes(LENGTH))
        Path(self.root + "/etc/ld.so.preload").write_text(f"{LIBRARY}\n")
        self.reboot()

    def now(self):
        """What its clock shows, in seconds since 1970."""
        return time.time() + self._ahead / 1e9

    def set_clock(self, seconds):
        """Have its clock show that time, in seconds since 1970."""
        now = time.time_ns()
        self._ahead = int(seconds * 1e9) - now
        if self._moves == MOVES:
            raise ValueError(f"a clock can be moved {MOVES} times")
        with open(self.root + FILE, "r+b", buffering=0) as file:
            file.seek(8 + 16 * self._moves)
            file.write(struct.pack("=qq", now, self._ahead))
            self._moves += 1
            file.seek(0)
            file.write(struct.pack("=q", self._moves))
