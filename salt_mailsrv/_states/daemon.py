"""
A daemon runs, and with what stands on the disk now; a timer waits; another service does not run.

What a run changed says nothing about what a daemon runs with: the run that wrote a file may have
been killed before it told the daemon, or somebody restarted it with another file. So each run
compares. A daemon has what it took last, which is noted until the next reboot; or else what was
there when it started.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import subprocess
import time

import psutil
from _mailsrv_files import content, owner, sync, write
from salt.exceptions import CommandExecutionError

__virtualname__ = "daemon"

TICK = 0.1  # seconds: more exactly, nobody knows when a process started and a file was touched
PATIENCE = 10  # seconds for a command that asks or tells a daemon
WORDS = 8  # lines of a daemon's log that are shown where it does not come up

# What systemd is asked of a unit, and the answer where it says nothing.
KNOWN = {
    "MainPID": "0",
    "DropInPaths": "",
    "NeedDaemonReload": "no",
    "ActiveState": "inactive",
    "UnitFileState": "",
}


def __virtual__():
    return __virtualname__


def running(
    name,
    record,
    restart=(),
    reload=(),
    update=None,
    pidfile="",
    ready="",
    port=0,
    patience=PATIENCE,
    keep=None,
):
    """
    A service is enabled, runs with what stands on the disk, and answers.

    name
        The service.

    record
        A file for what the daemon has taken. It need not outlive a reboot.

    restart
        What it reads at its start alone: files, or directories, of which the entries count.

    reload
        Files that it reads again at a reload.

    update
        Files for which there is a command that makes it read them again: the command by file.

    pidfile
        Where it writes its process ID; counts where no systemd knows it.

    ready
        A command that ends with 0 as soon as it answers. Default: it answers when it runs.

    port
        A TCP port that it listens on when its start is through. Default: none.

    patience
        Seconds to wait for that. Default: 10.

    keep
        Where to keep a copy of a file that it came up with, by file. Where it does not come up with
        a new one, the copy is put back and it is started again. Default: none is kept.

    .. code-block:: yaml

        opensmtpd:
          daemon.running:
            - record: /run/mailsrv/opensmtpd
            - restart: [/etc/smtpd.conf]
            - update:
                /etc/mail/vdomains: smtpctl update table vdomains
            - ready: smtpctl show status
            - keep:
                /etc/smtpd.conf: /var/lib/mailsrv/smtpd.conf
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} runs as it shall"}
    update, keep = update or {}, keep or {}
    found = {path: _look(path) for path in (*restart, *reload, *update)}
    try:
        unit = _unit(name)
        process = _process(name, pidfile, unit)
        stale = _stale(process, record, found)
        changes = ret["changes"] = _due(name, process, unit, stale, restart, reload, update)
        if not changes and not _waited(lambda: _answers(ready), patience):
            changes["restarted"] = ["it did not answer"]
        if not changes:
            _note(record, process, found)
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be: {', '.join(changes)}")
            return ret
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                sync(path)
        since = time.time()
        fault = _act(name, changes, update)
        process = _settles(name, pidfile, ready, port, patience)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=f"{name}: {exc}")
        return ret
    if process and not fault:
        _note(record, process, found)
        _keep(keep)
        ret["comment"] = f"{name} is now: {', '.join(changes)}"
        return ret
    new = ", ".join(sorted(stale)) or "its files"
    said = f"{name} does not come up with {new}: {fault or 'no answer'}\n{_words(name, since)}"
    back = _put_back(keep)
    if back:
        changes["put back"] = back
        _act(name, {"restarted": back}, update)
        runs = _settles(name, pidfile, ready, port, patience)
        said += f"\n{', '.join(back)} is as before, and {name} {'runs' if runs else 'does not run'}"
    ret.update(result=False, comment=said)
    return ret


def timer(name):
    """
    A timer of systemd is enabled and waits, as it and its service stand on the disk.

    name
        The timer, without its ``.timer``.

    .. code-block:: yaml

        mailsrv-purge:
          daemon.timer: []
    """
    return _waits(name, "timer", "its time")


def path(name):
    """
    A path unit of systemd is enabled and waits, as it and its service stand on the disk.

    name
        The unit, without its ``.path``.

    .. code-block:: yaml

        mailsrv-learning:
          daemon.path: []
    """
    return _waits(name, "path", "work")


def _waits(name, kind, what):
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} waits for {what}"}
    units = [f"{name}.{kind}", f"{name}.service"]
    states = [_unit(unit) for unit in units]
    changes = ret["changes"]
    if any(state["NeedDaemonReload"] == "yes" for state in states):
        changes["unit"] = "read again"
    if states[0]["UnitFileState"] != "enabled":
        changes["enabled"] = True
    if states[0]["ActiveState"] != "active":
        changes["started"] = True
    if not changes:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be: {', '.join(changes)}")
        return ret
    for command in (["daemon-reload"], ["enable", units[0]], ["restart", units[0]]):
        ran = _run(["systemctl", *command])
        if ran.returncode:
            ret.update(result=False, comment=f"{name}: {ran.stdout.strip()}")
            return ret
    ret["comment"] = f"{name} is now: {', '.join(changes)}"
    return ret


def removed(name, files):
    """
    A unit of systemd that came with files of ours does not run, nor after a reboot, and the files
    are gone. Where none of them is there, the unit is nobody's or another's, and stays as it is.

    name
        The unit, with its ending.

    files
        The files that made it ours: a timer and its service, or what came beside another's unit.

    .. code-block:: yaml

        mailsrv-watch.timer:
          daemon.removed:
            - files:
              - /etc/systemd/system/mailsrv-watch.timer
              - /etc/systemd/system/mailsrv-watch.service
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is not there"}
    there = [path for path in files if os.path.lexists(path)]
    if not there:
        return ret
    ret["changes"]["removed"] = there
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be stopped and removed")
        return ret
    _run(["systemctl", "disable", "--now", name])
    for path in there:
        os.unlink(path)
    ran = _run(["systemctl", "daemon-reload"])
    if ran.returncode:
        ret.update(result=False, comment=f"{name}: {ran.stdout.strip()}")
        return ret
    ret["comment"] = f"{name} was stopped and removed"
    return ret


def without(name, record, files):
    """
    A service that stays has no part of ours any more: the files are gone, and it was reloaded where
    it had read them. One that is not there, or does not run, is left so.

    name
        The service.

    record
        What :func:`running` noted of it, which goes last: a run that was killed is repaired.

    files
        What it read of ours.

    .. code-block:: yaml

        nginx:
          daemon.without:
            - record: /run/mailsrv/web
            - files: [/etc/nginx/sites-enabled/zz-mailsrv]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} has nothing of ours"}
    there = [path for path in files if os.path.lexists(path)]
    if not there and not os.path.exists(record):
        return ret
    ret["changes"]["removed"] = there or [record]
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be reloaded without them")
        return ret
    for path in there:
        os.unlink(path)
    fault = ""
    if name in __salt__["service.get_all"]() and __salt__["service.status"](name):
        fault = _act(name, {"reloaded": there}, {})
    if fault:
        ret.update(result=False, comment=f"{name}: {fault}")
        return ret
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record)
    ret["comment"] = f"{name} runs without them"
    return ret


def stopped(name):
    """
    A service does not run, nor after a reboot. One that is not there is as it shall.

    name
        The service.

    .. code-block:: yaml

        exim4:
          daemon.stopped: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} does not run"}
    if name not in __salt__["service.get_all"]():
        return ret
    unit = _unit(name)
    # One that has failed can be stopped again and again.
    idle = ("inactive", "failed")
    if unit["ActiveState"] not in idle if unit else __salt__["service.status"](name):
        ret["changes"]["stopped"] = True
    if _enabled(name, unit):
        ret["changes"]["disabled"] = True
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be: {', '.join(ret['changes'])}")
        return ret
    ret["comment"] = f"{name} is now: {', '.join(ret['changes'])}"
    try:
        for verb, done in (("stop", "stopped"), ("disable", "disabled")):
            if done in ret["changes"] and not __salt__[f"service.{verb}"](name):
                ret.update(result=False, comment=f"{name}: {verb} failed")
    except CommandExecutionError as exc:
        ret.update(result=False, comment=f"{name}: {exc}")
    return ret


def mod_watch(name, sfun=None, **kwargs):
    """
    What a daemon watches will change in a test, and then the daemon takes it.

    name, sfun, kwargs
        As for the state.

    .. code-block:: yaml

        opensmtpd:
          daemon.mod_watch: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} runs as it shall"}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would take what changes")
    return ret


def _due(name, process, unit, stale, restart, reload, update):
    """What is to be done, and for which of the files."""
    due = {}
    if unit and _unread(name, unit):
        due["unit"] = "read again"
    if not _enabled(name, unit):
        due["enabled"] = True
    if not process:
        due["started"] = True
    elif stale & {*restart}:
        due["restarted"] = sorted(stale)
    elif stale:
        for done, paths in (("reloaded", reload), ("updated", update)):
            if not stale.isdisjoint(paths):
                due[done] = [path for path in paths if path in stale]
    return due


def _act(name, due, update):
    """Do it; returns what the system said of what failed."""
    try:
        if "unit" in due:
            __salt__["service.systemctl_reload"]()
        if "enabled" in due:
            __salt__["service.enable"](name)
        if _systemd() and not {"started", "restarted"}.isdisjoint(due):
            # "Start request repeated too quickly", once it has ended often enough.
            _run(["systemctl", "reset-failed", name])
        for verb, done in (("start", "started"), ("restart", "restarted"), ("reload", "reloaded")):
            if done in due and not __salt__[f"service.{verb}"](name):
                return f"{verb} failed"
    except CommandExecutionError as exc:
        return re.sub(r"^Running as unit: .*\n", "", str(exc))  # what Salt started systemctl in
    for path in due.get("updated", ()):
        ran = _run(update[path].split())
        if ran.returncode:
            return f"{update[path]}: {ran.stdout.strip()}"
    return ""


def _process(name, pidfile, unit):
    """The ID of the daemon's first process and when it started; None where it does not run."""
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        if unit:
            number = int(unit["MainPID"])
        elif pidfile:
            number = int(content(pidfile) or 0)
        elif __grains__["kernel"] == "FreeBSD":
            number = _of_script(name)
        else:
            return [0, 0] if __salt__["service.status"](name) else None
        process = psutil.Process(number) if number else None
        if not process or process.status() == psutil.STATUS_ZOMBIE:
            return None
        started = _started(process)
        # Another process may have the number of one that is gone.
        if unit or not pidfile or started < os.stat(pidfile).st_mtime + TICK:
            return [number, started]
    return None


def _of_script(name):
    """The process ID that a service's script of rc(8) finds by the command line; 0: none."""
    said = _run(["service", name, "onestatus"]).stdout
    found = re.search(r" is running as pid ([\d ]+)", said)
    parents = {}
    for number in map(int, found[1].split() if found else ()):
        with contextlib.suppress(psutil.Error):
            parents[number] = psutil.Process(number).ppid()
    # Those that it has forked are called the same.
    return next((number for number in parents if parents[number] not in parents), 0)


def _started(process):
    """When a process started, in seconds since 1970."""
    try:
        ticks = int(content(f"/proc/{process.pid}/stat").rpartition(")")[2].split()[19])
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, IndexError):
        return process.create_time()  # on Linux, half a second too early or too late
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _answers(ready):
    return not ready or not _run(ready.split()).returncode


def _settles(name, pidfile, ready, port, patience):
    """The process, as soon as it answers, listens, and is the same one a moment later."""

    def settled():
        process = _process(name, pidfile, _unit(name))
        if process and _answers(ready) and (not port or _listens(process[0], port)):
            # One whose filter ends right away has started, too, and is gone a moment later.
            time.sleep(1)
            return process if _same(process, _process(name, pidfile, _unit(name))) else None
        return None

    return _waited(settled, patience)


def _waited(found, seconds):
    """What is found, as soon as it is something; else what is found at the end."""
    end = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < end:
        time.sleep(0.5)
    return result


def _listens(number, port):
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(number)
        family = {p.pid for p in (process, *process.children(recursive=True))}
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.net_connections("tcp")
            if connection.pid in family
        )
    return False


def _same(one, other):
    return bool(one and other) and one[0] == other[0] and abs(one[1] - other[1]) < 1


def _look(path):
    """What stands there: a digest and when it was written last, and when touched last."""
    try:
        status = os.stat(path)
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                seen = [(e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries]
            octets = repr(sorted(seen)).encode()
        else:
            with open(path, "rb") as file:
                octets = file.read()
    except FileNotFoundError:
        return {"digest": "", "written": 0, "touched": 0}
    return {
        "digest": hashlib.sha256(octets).hexdigest(),
        "written": status.st_mtime_ns,
        "touched": status.st_ctime,
    }


def _stale(process, record, found):
    """The files of which the process has something else."""
    try:
        noted = json.loads(content(record) or "{}")
    except ValueError:
        noted = {}
    taken = noted.get("taken", {}) if _same(process, noted.get("process")) else {}
    return {
        path
        for path, there in found.items()
        if process
        and taken.get(path) != [there["digest"], there["written"]]
        and process[1] < there["touched"] + TICK
    }


def _note(record, process, found):
    if __opts__["test"]:
        return
    taken = {path: [there["digest"], there["written"]] for path, there in found.items()}
    text = json.dumps({"process": process, "taken": taken})
    if content(record) != text:
        write(record, text)


def _keep(keep):
    for path, copy in keep.items():
        if _differs(path, copy):
            with open(path, "rb") as file:
                write(copy, file.read())


def _put_back(keep):
    back = [path for path, copy in keep.items() if os.path.exists(copy) and _differs(path, copy)]
    for path in back:
        with open(keep[path], "rb") as file:
            write(path, file.read(), *owner(path))
    return back


def _differs(path, copy):
    return _look(path)["digest"] != _look(copy)["digest"]


def _systemd():
    return __grains__.get("init") == "systemd"


def _unit(name):
    """What systemd knows of a unit; nothing where there is no systemd."""
    if not _systemd():
        return {}
    shown = _run(["systemctl", "show", f"--property={','.join(KNOWN)}", name])
    lines = (line.partition("=") for line in shown.stdout.splitlines())
    return KNOWN | {key: value for key, _, value in lines if key in KNOWN}


def _enabled(name, unit):
    """Whether it starts with the machine. Salt knows scripts of old, and asks more than once."""
    state = unit.get("UnitFileState")
    return state == "enabled" or (state != "disabled" and __salt__["service.enabled"](name))


def _unread(name, unit):
    """Whether the unit's files are not those that systemd knows."""
    # systemd of Debian 12 itself does not see that a unit got its first drop-in.
    directory = f"/etc/systemd/system/{name}.service.d/"
    known = {p for p in unit["DropInPaths"].split() if p.startswith(directory)}
    there = {*glob.glob(f"{glob.escape(directory)}*.conf")}
    return there != known or unit["NeedDaemonReload"] == "yes"


def _words(name, since):
    """What the daemon said since that time."""
    if not _systemd():
        return "its log says why"
    asked = ["journalctl", f"_SYSTEMD_UNIT={name}.service", f"--since=@{int(since)}"]
    said = _run([*asked, "--output=cat", "--no-pager", "--quiet"]).stdout.splitlines()
    return "\n".join([*dict.fromkeys(said)][-WORDS:])


def _run(command):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        return subprocess.run(command, timeout=PATIENCE, **options)
    except subprocess.TimeoutExpired:  # a daemon that hangs lets those who ask it hang, too
        return subprocess.CompletedProcess(command, 1, f"no answer in {PATIENCE} seconds")
