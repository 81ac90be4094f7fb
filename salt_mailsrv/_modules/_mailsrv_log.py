"""
The log of the mail daemons, read from where this machine keeps it.
"""

import bz2
import contextlib
import glob
import gzip
import json
import lzma
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time

from _mailsrv import journal
from _mailsrv.settings import duration
from salt.exceptions import CommandExecutionError

# Where syslogd(8) writes it, and newsyslog(8) or logrotate(8) puts the older ones.
FILES = ("/var/log/maillog", "/var/log/mail.log")
OPENERS = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}

_SYSLOG = re.compile(
    r"(?:<\d{1,3}>)?([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ ([\w./-]+)(?:\[\d+\])?: (.*)"
)


def entries(since, until=None):
    """
    The entries of the mail daemons, one after the other in order of time, as journalctl gives them.

    since, until
        Seconds since 1970; without `until`, up to now.

    Reads the journal, or where there is none the files of syslogd(8), of whose lines nothing proves
    who wrote them. One entry is held at a time. Raises ``CommandExecutionError`` where the log
    cannot be read.
    """
    if shutil.which("journalctl"):
        ours = journal.matches({user.pw_name: user.pw_uid for user in pwd.getpwall()})
        limits = [f"--since=@{max(0, int(since))}"]
        limits += [f"--until=@{int(until) + 1}"] if until is not None else []
        found = _journal(*limits, *ours)
    else:
        found = _files(since)
    # Where the clock was set, journalctl's own order of time is another one.
    with contextlib.closing(found):
        for entry in found:
            with contextlib.suppress(TypeError, ValueError, AttributeError):
                at = int(entry.get("__REALTIME_TIMESTAMP")) / 1_000_000
                if since <= at and (until is None or at <= until):
                    yield entry


def oldest():
    """Since when there is a log, in seconds since 1970; None where it is empty."""
    if shutil.which("journalctl"):
        with contextlib.closing(_journal("--output-fields=_PID")) as found:
            first = next(found, {})
    else:
        first = next(_files(0), {})
    with contextlib.suppress(TypeError, ValueError):
        return int(first.get("__REALTIME_TIMESTAMP")) / 1_000_000
    return None


def begin(since, now):
    """The time that ``since`` means, ``36h``, ``7d`` or ``2026-11-26 08:00``; None: nothing."""
    text = str(since).strip()
    ago = duration(text, "mhdw")
    if ago:
        return now - ago
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        try:
            return time.mktime(time.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    return None


def syslog(line, now):
    """
    An entry as journalctl gives it, of a line as syslogd(8) writes it (RFC 3164); None for another.

    now
        Seconds since 1970: such a line does not say its year.
    """
    found = _SYSLOG.match(line)
    try:
        year = time.localtime(now).tm_year
        stamps = [
            time.mktime(time.strptime(f"{at} {found[1]}", "%Y %b %d %H:%M:%S"))
            for at in (year, year - 1)
        ]
    except (TypeError, ValueError, OverflowError):
        return None
    at = next((stamp for stamp in stamps if stamp <= now + 86400), stamps[-1])
    return {
        "__REALTIME_TIMESTAMP": int(at * 1_000_000),
        "SYSLOG_IDENTIFIER": found[2],
        "MESSAGE": found[3],
    }


def _journal(*arguments):
    command = ["journalctl", "--output=json", "--no-pager", "--quiet", "--all", *arguments]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        try:
            for line in process.stdout:
                with contextlib.suppress(ValueError, RecursionError):
                    yield json.loads(line)
            if process.wait():
                complaints.seek(0)
                said = complaints.read(300).decode(errors="replace").strip()
                raise CommandExecutionError(f"journalctl cannot read the log: {said}")
        finally:
            process.kill()


def _files(since):
    now = time.time()
    found = [path for name in FILES for path in glob.glob(f"{glob.escape(name)}*")]
    for path in sorted(found, key=lambda path: (os.path.getmtime(path), path)):
        if os.path.getmtime(path) < since:
            continue
        with contextlib.suppress(OSError, EOFError, lzma.LZMAError), _opened(path) as file:
            for line in file:
                entry = syslog(line.decode("utf-8", "replace"), now)
                if entry:
                    yield entry


def _opened(path):
    return OPENERS.get(os.path.splitext(path)[1], open)(path, "rb")
