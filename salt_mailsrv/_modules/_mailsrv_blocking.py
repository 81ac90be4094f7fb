"""
One account stopped at the doors of the running daemons, and let in again.

All that is read stands on the machine: a thief does not wait until the pillar can be read. A run
writes the same into the same files.
"""

import os
import subprocess
import time

import _mailsrv_disk as disk
from _mailsrv import waiting
from _mailsrv.names import base

HEADING = "# Who neither logs in nor sends. See mailsrv.block."
SEEN = 0.7  # seconds after which guard has read its list again
PATIENCE = 10  # seconds for a daemon to answer


def logins(facts):
    """Who may log in on this machine, and what each may send as: smtpd's table of senders."""
    lines = disk.text(f"{facts['directory']}/sendas").splitlines()
    fields = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return {name: rest.split(",") for name, rest in (pair for pair in fields if len(pair) == 2)}


def listed(facts):
    """Who is blocked now: by name, since when, or empty where the pillar says so."""
    since = disk.blocked(f"{facts['kept']}/blocked")
    lines = disk.text(f"{facts['directory']}/blocked").splitlines()
    return {line: since.get(line, "") for line in lines if line and not line.startswith("#")}


def shut(facts, name):
    """
    Stop an account at every door, and end its sessions. What one daemon does not do, as where it
    does not run, does not keep the others from it, nor does a file that cannot be written.

    Returns how many sessions were ended, how many messages of the queue are held, and what failed,
    a sentence each.
    """
    since = disk.blocked(f"{facts['kept']}/blocked")
    if name not in since:
        since[name] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    failed = []
    _remember(facts, since, failed)
    _list(facts, [*listed(facts), name], failed)
    _lock(facts, name, "!", failed)
    ended = _kick(name, failed)
    time.sleep(SEEN)
    ended += _kick(name, [])  # whose login was on its way
    return ended, _envelopes(facts, name, "pause", failed), failed


def let_in(facts, name):
    """Let an account in again. Returns how many messages go on, and what failed, as `shut` does."""
    since, failed = disk.blocked(f"{facts['kept']}/blocked"), []
    since.pop(name, None)
    _remember(facts, since, failed)
    _list(facts, [other for other in listed(facts) if other != name], failed)
    _lock(facts, name, "", failed)
    return _envelopes(facts, name, "resume", failed), failed


def _remember(facts, since, failed):
    text = "".join(f"{name} {when}\n" for name, when in since.items())
    _write(f"{facts['kept']}/blocked", text, 0o600, failed)


def _list(facts, names, failed):
    path = f"{facts['directory']}/blocked"
    heading = [line for line in disk.text(path).splitlines()[:1] if line.startswith("#")]
    text = "\n".join([*(heading or [HEADING]), *dict.fromkeys(names)])
    _write(path, f"{text}\n", 0o644, failed)


def _lock(facts, name, mark, failed):
    """smtpd's table of passwords: crypt(3) makes no hash that begins with this mark."""
    path = f"{facts['directory']}/credentials"
    before = disk.text(path)
    lines = [line.split(" ", 1) for line in before.split("\n")]
    lines = [f"{n[0]} {mark}{n[1].lstrip('!')}" if n[0] == name else " ".join(n) for n in lines]
    after = "\n".join(lines)
    if after != before:
        _write(path, after, 0o600, failed)
    _ask(["smtpctl", "update", "table", "credentials"], failed)


def _write(path, text, mode, failed):
    try:
        disk.write(path, text, mode)
    except OSError as exc:  # as where the disk is full
        failed.append(f"{path}: {exc.strerror}: make room, and do it again")


def _kick(name, failed):
    """The IMAP, POP3 and ManageSieve sessions of an account, ended: how many."""
    who = _ask(["doveadm", "who", "-1", name], failed).splitlines()
    count = sum(line.split()[:1] == [name] for line in who)
    if count:
        _ask(["doveadm", "kick", name], failed)
    return count


def _envelopes(facts, name, verb, failed):
    """Pause or resume what an account has in the queue: how many messages."""
    found = waiting.entries(_ask(["smtpctl", "show", "queue"], failed))
    messages = owned(found, name, logins(facts), "suspend" if verb == "resume" else None)
    for message in messages:
        _ask(["smtpctl", verb, "envelope", message], failed)
    return len(messages)


def owned(found, name, known, flag=None):
    """
    The messages among entries of the queue that are an account's, by their senders, which nobody
    else in `known` (see :func:`logins`) may use; with that flag alone.
    """
    return {
        entry["message"]
        for entry in found
        if (flag is None or flag in entry["flags"]) and _is_of(name, entry["sender"], known)
    }


def _is_of(name, sender, known):
    """Whether a sender is an account's, or a satellite's, and of nobody else."""
    sender = base(sender.lower())
    domain = sender[sender.rfind("@") :]
    if "@" not in name:
        return domain == f"@{name}"
    # An address that somebody has is his, though another may send as its whole domain.
    for names in {sender}, {domain}:
        having = [login for login, senders in known.items() if names & {*senders}]
        if having:
            return having == [name]
    return False


def _ask(command, failed):
    surroundings = {"env": {**os.environ, "LC_ALL": "C"}, "timeout": PATIENCE}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        ran = subprocess.run(command, errors="replace", **output, **surroundings)
    except (OSError, subprocess.TimeoutExpired) as exc:
        failed.append(f"{' '.join(command)}: {exc}")
        return ""
    if ran.returncode:
        failed.append(f"{' '.join(command)}: {ran.stdout.strip()}")
        return ""
    return ran.stdout
