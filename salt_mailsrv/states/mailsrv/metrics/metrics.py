"""
metrics: what smtpd(8), its log and the last look know, as a text file for the node exporter.

    python3 -I metrics.py FILE

Once a minute. FILE is JSON: `disks`, paths; `domains`, ours; `rspamd`, the socket
of its controller, or empty; and the files `state`, the totals and how far the journal was read;
`notes`, what `mailcheck.notify` saw last; `run`, what the last run did; and `directory`, where is
written.

A counter never goes back: the totals and the place in the journal up to which they count stand in
one file, which is replaced at once, so whoever is killed counts nothing twice and leaves nothing
out. Python's standard library alone.
"""

import contextlib
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import time

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import journal
import waiting

PATIENCE = 50  # seconds for smtpctl(8)
SAVED = 50000  # entries of the journal after which it is noted how far it was read
OURSELVES = "127.0.0.2"  # from where the self-check tries what a stranger would

DAEMONS = ("smtpd", "dovecot", "rspamd", "dkimproxy")
PROCESSES = (
    *("smtpd", "guard", "imap", "pop3", "managesieve", "imap-login", "pop3-login"),
    *("managesieve-login", "lmtp", "auth", "master", "stats", "other"),
)
DOORS = ("smtpd", "imap", "pop3", "managesieve")
# By kind of event: the counter, what tells its series apart, their values, and what it counts.
COUNTED = {
    "accepted": ("messages_accepted", "", (), "Messages that smtpd took."),
    "refused": ("refused", "cause", journal.CAUSES, "Commands and messages refused at the door."),
    "delivered": ("delivered", "", (), "Recipients whose message went into a mailbox."),
    "relayed": ("relayed", "", (), "Recipients whose message another server took."),
    "deferred": ("deferred", "cause", journal.CAUSES, "Attempts to deliver to be repeated."),
    "bounced": ("bounced", "cause", journal.CAUSES, "Recipients given back to the sender."),
    "kept_out": ("kept_out", "cause", journal.CAUSES, "Messages that Dovecot did not store."),
    "login": ("logins", "daemon", DOORS, "Logins."),
    "login_failed": ("logins_failed", "daemon", DOORS, "Logins with a wrong name or password."),
    "started": ("daemon_starts", "daemon", DAEMONS, "Starts of a daemon."),
    "failed": ("daemon_failures", "daemon", DAEMONS, "Ends of a daemon by a fault."),
    "fault": ("daemon_errors", "daemon", PROCESSES, "Lines that a daemon calls an error."),
}
AGES = {"0-5m": 300, "5m-1h": 3600, "1h-4h": 4 * 3600, "4h-1d": 86400, "1d-": float("inf")}


def main(path):
    """Count, look, write."""
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    state = totals(settings)
    metrics = [*counters(state["totals"]), *queue(), *disks(settings["disks"])]
    metrics += [*seen(loaded(settings["notes"])), *run(loaded(settings["run"]))]
    # Each its own file: the exporter leaves out one that it cannot read.
    write(f"{settings['directory']}/mailsrv.prom", "".join(map(text, metrics)), 0o644)
    if settings["rspamd"]:
        write(f"{settings['directory']}/mailsrv-rspamd.prom", rspamd(settings["rspamd"]), 0o644)


def totals(settings):
    """The counts of all events so far: read on where it was read last, from now on at first."""
    state = loaded(settings["state"])
    if not isinstance(state.get("totals"), dict) or not isinstance(state.get("cursor"), str):
        state = {"totals": {}, "cursor": ""}
    # Totals without a place, or a place that the journal does not know any more: from now on.
    place = [f"--after-cursor={state['cursor']}"] if state["cursor"] else ["--lines=1"]
    before = state["cursor"]
    read = follow(settings, state, place, bool(before))
    if not read and state["cursor"] == before:
        follow(settings, state, ["--lines=1"], False)
    return state


def follow(settings, state, place, counts):
    """Read the journal from that place; whether it could be read."""
    command = ["journalctl", "--output=json", "--no-pager", "--quiet", "--all", *place]
    command += journal.matches({user.pw_name: user.pw_uid for user in pwd.getpwall()})
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **quiet) as process:
        found = entries(process.stdout, settings["state"], state)
        for event in journal.events(found, settings["domains"]) if counts else found:
            if counts and event["address"] != OURSELVES:
                count(state["totals"], event)
    if process.returncode == 0:
        write(settings["state"], json.dumps(state), 0o600)
    return process.returncode == 0


def entries(lines, path, state):
    """The entries of the journal; noted is how far they were counted."""
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        yield entry
        # Here the one who counts has come back for the next one.
        if isinstance(entry, dict) and isinstance(entry.get("__CURSOR"), str):
            state["cursor"] = entry["__CURSOR"]
        if number % SAVED == 0:
            write(path, json.dumps(state), 0o600)


def count(totals, event):
    """Add an event to the totals, by counter and series."""
    if event["kind"] in COUNTED:
        name, label, known, _ = COUNTED[event["kind"]]
        value = event[label] if label else ""
        if label and value not in known:
            value = "other"
        series = totals.setdefault(name, {})
        series[value] = series.get(value, 0) + event["count"]


def counters(totals):
    """The counters, each series from its beginning at zero."""
    for name, label, known, about in COUNTED.values():
        series = {**dict.fromkeys(known or [""], 0), **totals.get(name, {})}
        yield (
            f"{name}_total",
            "counter",
            about,
            {((label, k),) * bool(label): v for k, v in series.items()},
        )


def queue():
    """What waits."""
    try:
        shown = subprocess.run(
            ["smtpctl", "show", "queue"], capture_output=True, timeout=PATIENCE, errors="replace"
        )
        answers = shown.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        answers = False
    yield gauge("smtpd_up", "Whether smtpd answers smtpctl.", int(answers))
    if not answers:
        return
    found, now = waiting.entries(shown.stdout), time.time()
    oldest = waiting.oldest(found, now) or 0
    yield gauge("queue_messages", "Messages that wait.", waiting.count(found))
    yield gauge("queue_oldest_seconds", "How long the oldest message waits.", round(oldest))
    ages = dict.fromkeys(AGES, 0)
    causes = dict.fromkeys(journal.CAUSES, 0)
    for entry in found:
        age = now - entry["created"]
        ages[next(name for name, end in AGES.items() if age < end)] += 1
        if entry["reason"]:
            causes[journal.cause(entry["reason"])] += 1
    yield gauges("queue_recipients", "Recipients that wait, by age.", "age", ages)
    about = "Recipients that wait since an attempt to deliver failed, by its cause."
    yield gauges("queue_failed_recipients", about, "cause", causes)


def rspamd(path):
    """What rspamd's controller counts, as it says it; nothing where it does not answer."""
    # process_start_time_seconds is the exporter's own, too: it would show nothing at all.
    own = re.compile(r"(# (HELP|TYPE) )?rspamd_")
    said = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(PATIENCE)
        asked.connect(path)
        asked.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        while piece := asked.recv(1 << 16):
            said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    lines = body.decode(errors="replace").splitlines(True) if b" 200 " in head[:20] else []
    return "".join(filter(own.match, lines))


def disks(paths):
    """How full the disks are where mail is, and the queue."""
    space, inodes = {}, {}
    for path in paths:
        with contextlib.suppress(OSError):
            found = os.statvfs(path)
            space[path] = found.f_bavail / found.f_blocks if found.f_blocks else 1
            inodes[path] = found.f_favail / found.f_files if found.f_files else 1
    yield gauges("disk_free_ratio", "The part of the space that is free.", "path", space)
    yield gauges("disk_inodes_free_ratio", "The part of the inodes that is free.", "path", inodes)


def seen(notes):
    """What the last look saw."""
    looked, parts = notes.get("looked", {}), notes.get("seen", {})
    about = "When a part was looked at last, in seconds since 1970."
    yield gauges(
        "look_timestamp_seconds", about, "part", {p: t for p, t in looked.items() if ":" not in p}
    )
    checks = {
        check: rank(says)
        for part in ("machine", "messages")
        for check, says in parts.get(part, {}).items()
    }
    yield gauges("check_state", "0 well, 1 warning, 2 fault.", "check", checks)
    if "DNS" in parts:
        ranks = [rank(says) for says in parts["DNS"].values()]
        needs = {"required": ranks.count(2), "recommended": ranks.count(1)}
        yield gauges("dns_findings", "Records that are not as they shall be.", "need", needs)
    if "run" in parts:
        would = sum(1 for says in parts["run"].values() if rank(says))
        yield gauge("run_would_change", "States that a run would change.", would)
    figures = notes.get("figures", {})
    if "certificate_end" in figures:
        about = "When the certificate ends, in seconds since 1970."
        yield gauge("certificate_end_timestamp_seconds", about, figures["certificate_end"])
    if "keys_waiting" in figures:
        about = "DKIM keys that shall sign and wait for their record in DNS."
        yield gauge("dkim_keys_waiting", about, figures["keys_waiting"])
    if notes:
        yield gauge(
            "mails_untold", "Mails about changes that wait for smtpd.", len(notes["outbox"])
        )


def run(last):
    """What the last run did."""
    if last:
        about = "When the last run ended, in seconds since 1970."
        yield gauge("run_timestamp_seconds", about, last["time"])
        yield gauges("run_states", "States of the last run, by result.", "result", last["states"])


def rank(says):
    """As a number what a check said."""
    return {"WARNING": 1, "FAULT": 2}.get(says.partition(":")[0], 0)


def gauge(name, about, value):
    """A gauge of one series."""
    return name, "gauge", about, {(): value}


def gauges(name, about, label, values):
    """A gauge of a series for each value of a label."""
    return name, "gauge", about, {((label, value),): number for value, number in values.items()}


def text(metric):
    """A metric in the text format of Prometheus; nothing where it has no series."""
    name, kind, about, series = metric
    lines = [f"# HELP mailsrv_{name} {about}", f"# TYPE mailsrv_{name} {kind}"]
    for labels, value in series.items():
        shown = ",".join(f'{label}="{escaped(said)}"' for label, said in labels)
        lines.append(f"mailsrv_{name}{{{shown}}} {value}" if shown else f"mailsrv_{name} {value}")
    return "\n".join([*lines, ""]) if series else ""


def escaped(value):
    """The value of a label."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def loaded(path):
    """The object in a file; an empty one where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def write(path, content, mode):
    """Replace a file at once."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OSError as exc:
        sys.exit(f"the metrics stay as they were: {exc}")
