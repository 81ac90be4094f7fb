"""
Whether what the spam filter remembers is there, and whether it learns: its Redis, rspamd's
controller, and what learn.py has left in its spool.
"""

import contextlib
import http.client
import json
import os
import socket
import time

from _mailsrv import filtering
from salt.exceptions import CommandExecutionError

WAITS = 900  # seconds from which on a lesson waits too long
SAID = 300  # seconds after which rspamd's own count, which is a minute late, must show a lesson


class Controller(http.client.HTTPConnection):
    """rspamd's, by its socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.sock = _connected(path, timeout)

    def connect(self):
        """It is."""


def checks(model, facts, timeout):
    """The checks of `mailcheck.run` of what the pillar has switched on: by name, what to call."""
    found = {}
    if model["redis"]:
        found["memory of the spam filter"] = (remembers, facts["redis"]["socket"], timeout)
    if model["learns"]:
        controller, spool = facts["rspamd"]["controller"], facts["learning"]["spool"]
        found["learning"] = (learns, controller, spool, facts["min_learns"], timeout)
    return found


def remembers(path, timeout):
    """Redis answers, and what it has is on the disk."""
    try:
        with _connected(path, timeout) as connection:
            connection.sendall(b"PING\r\nINFO persistence\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
    except OSError as exc:
        raise CommandExecutionError(
            f"Redis does not answer ({exc.strerror or exc}): mail is judged without what was "
            "learned, and nothing is; run the highstate"
        ) from None
    if "+PONG" not in answer:
        raise CommandExecutionError(f"Redis says {answer[:100].strip()!r}; its log says why")
    if "rdb_last_bgsave_status:ok" not in answer:
        return (
            "WARNING: Redis cannot write down what it has: is there room on the disk? With its "
            "next end it is lost"
        )
    return None


def learns(controller, spool, least, timeout):
    """What was taught does not wait, and it counts; how much there is."""
    names, now = _listed(os.path.join(spool, "new")), time.time()
    since = min(filter(None, map(filtering.taught_at, names)), default=now)
    if now - since > WAITS:
        return (
            f"WARNING: {len(names)} messages that users have put into Junk or out of it wait for "
            f"{int(now - since) // 60} minutes to be learned: journalctl -u mailsrv-learning"
        )
    taught, when, fault = _state(os.path.join(spool, "state.json"))
    if fault:
        return f"WARNING: {fault}"
    try:
        with contextlib.closing(Controller(controller, timeout)) as rspamd:
            rspamd.request("GET", "/stat")
            found = filtering.learned(rspamd.getresponse().read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as exc:
        raise CommandExecutionError(f"rspamd does not say what it has learned: {exc}") from None
    if taught and not sum(found.values()) and now - when > SAID:
        return (
            f"WARNING: {taught} messages were taught, and rspamd knows of none: "
            "journalctl -u rspamd -u mailsrv-redis"
        )
    return filtering.standing(found, least)


def _connected(path, timeout):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _listed(directory):
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        raise CommandExecutionError(f"{directory} is missing; run the highstate") from None


def _state(path):
    """How many messages were taught, when the last time, and what was the matter then."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError), open(path) as file:
        found = json.load(file)
        return int(found["taught"]), os.fstat(file.fileno()).st_mtime, str(found["fault"])
    return 0, 0, ""
