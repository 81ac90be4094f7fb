"""
What stands on the machine, for the commands: files, mailboxes with what is in them, and the queue.
"""

import contextlib
import glob
import os
import re
import stat
import subprocess
import time

from _mailsrv import waiting, withdrawing
from salt.exceptions import CommandExecutionError

# The address in a line of Dovecot's file.
LISTED = re.compile(r"^([a-z0-9_][a-z0-9._-]{0,63}@[a-z0-9.-]{1,253}):", re.MULTILINE)

FULL = 3  # percent of a disk that is free
# Who was blocked, and when.
BLOCKED = re.compile(r"^([a-z0-9_.@-]+) (\d{4}-\d\d-\d\d \d\d:\d\d UTC)$", re.MULTILINE)

# Whose the mail is. Root deletes nothing in a tree where this user may put a link to elsewhere.
VMAIL = {"user": "vmail", "group": "vmail", "extra_groups": []}


def text(path):
    """What a file says; nothing where it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def write(path, text, mode=0o600):
    """
    Write a file of root's; one who is killed, and a power cut, leave the old one or the new. The
    owner and the permissions of one that is there stay.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, mode)
        with contextlib.suppress(FileNotFoundError):
            before = os.stat(path)
            os.fchown(handle, before.st_uid, before.st_gid)
            os.fchmod(handle, stat.S_IMODE(before.st_mode))
        file.write(text)
        file.flush()
        os.fsync(handle)
    os.rename(temporary, path)
    with _opened(directory) as descriptor:
        os.fsync(descriptor)


def may(capability):
    """Whether what the first process starts, a daemon, can have that capability of Linux."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", text("/proc/1/status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> capability & 1)


@contextlib.contextmanager
def _opened(path, within=None):
    """A directory, open. In `within`, one that was just swapped for a link is not followed."""
    here = 0 if within is None else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | here, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _subdirectories(descriptor):
    with os.scandir(descriptor) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def mailboxes(top):
    """What stands where mailboxes do: domain, user, and the domain's directory, open."""
    if not os.path.isdir(top):
        return
    with _opened(top) as home:
        for domain in _subdirectories(home):
            with contextlib.suppress(OSError), _opened(domain, home) as directory:
                for user in _subdirectories(directory):
                    yield domain, user, directory


def size(name, within=None):
    """The bytes of all files below a directory; no link is followed, what is gone not counted."""
    total = 0
    with (
        contextlib.suppress(OSError, RecursionError),
        _opened(name, within) as directory,
        os.scandir(directory) as entries,
    ):
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += size(entry.name, directory)
            else:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def links(paths):
    """Those of the paths that are links, or lead through one."""
    return {path for path in paths if os.path.realpath(path) != path}


def bytes_in(path):
    """The bytes of a file, or of all files below a directory."""
    return size(path) if os.path.isdir(path) else os.lstat(path).st_size


def delete(path):
    """Delete a directory of mail, and that of its domain where it is the last one."""
    surroundings = {**VMAIL, "cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    ran = subprocess.run(["rm", "-rf", "--", path], capture_output=True, **surroundings)
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").partition("\n")[0]
        raise CommandExecutionError(
            f"mailsrv.purge: vmail, whose the mail is, may not delete all of {path}: "
            f"{said!a}; give it to vmail, chown -hR vmail:vmail {path}, and purge it again"
        )
    subprocess.run(
        ["rmdir", "--", os.path.dirname(path)], capture_output=True, check=False, **surroundings
    )


def listed(path):
    """The addresses in Dovecot's file of accounts, each once."""
    return list(dict.fromkeys(LISTED.findall(text(path))))


def queue(timeout):
    """What waits in the queue of smtpd(8), as :func:`_mailsrv.waiting.entries` tells it."""
    command = ["smtpctl", "show", "queue"]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CommandExecutionError(f"smtpctl does not show the queue: {exc}") from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip()
        raise CommandExecutionError(f"smtpctl does not show the queue: {said}")
    return waiting.entries(ran.stdout)


def blocked(path):
    """Who was blocked by a command on this machine, with the time, by name."""
    return dict(BLOCKED.findall(text(path)))


def policies(directory):
    """The MTA-STS policies served there, as :func:`_mailsrv.withdrawing.standing` wants them."""
    for path in glob.glob(f"{directory}/mta-sts.*/.well-known/mta-sts.txt"):
        with contextlib.suppress(OSError):
            forgotten = time.gmtime(os.stat(path).st_mtime + withdrawing.WEEK)
            yield text(path), time.strftime("%Y-%m-%d", forgotten)


def password_key(path, length):
    """The key that the salts of hashes are derived from; empty where there is none."""
    try:
        with open(path, "rb") as file:
            key = file.read()
    except FileNotFoundError:
        return b""
    if key and len(key) != length:
        raise CommandExecutionError(
            f"{path} must hold {length} bytes, not {len(key)}; "
            "remove it and run again: every password is hashed anew"
        )
    return key


def room(path, free, reserve=0):
    """
    How much of the disk at a path is free: a note, or a warning below that percentage. Raises
    ``CommandExecutionError`` where mail is refused, or soon will be.
    """
    status = os.statvfs(path)
    room = status.f_bavail * status.f_frsize
    if room < reserve:
        raise CommandExecutionError(
            f"{room >> 20} MB free; mail is refused with 452 below {reserve >> 20} MB: make room"
        )
    left = 100 * status.f_bavail / status.f_blocks
    what = "of the space"
    if status.f_files and 100 * status.f_favail / status.f_files < left:
        left, what = 100 * status.f_favail / status.f_files, "of the inodes"
    note = f"{left:.0f} % {what} free"
    if left < min(FULL, free):
        raise CommandExecutionError(f"{note}; mail is refused when it is full: make room")
    return f"WARNING: {note}; make room" if left < free else note


def gigabytes(path, least):
    """The free gigabytes there, as a note; ``CommandExecutionError`` below the least."""
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize / 1e9
    if free < least:
        raise CommandExecutionError(
            f"{free:.1f} GB free, {least} are needed: make room (apt-get clean)"
        )
    return f"{free:.0f} GB free"
