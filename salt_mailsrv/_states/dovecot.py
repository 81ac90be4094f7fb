"""What Dovecot does not do by itself: compile the scripts of the system, log out who is gone."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile

from _mailsrv_files import content, octets, write

__virtualname__ = "dovecot"

PATIENCE = 30  # seconds for a program that asks Dovecot
LATE = 124  # what timeout(1) ends with, too
ADDRESS = re.compile(r"[a-z0-9_][a-z0-9._-]*@[a-z0-9.-]+")  # what an account may be called


def __virtual__():
    return __virtualname__


def sieve_compiled(name, options=()):
    """
    A Sieve script of the system is compiled, by the Pigeonhole that is installed now.

    Dovecot runs it as a user who cannot write the compiled script beside it, and another release of
    Pigeonhole does not read the old one: it would be compiled for each message.

    name
        The script; ``.svbin`` in place of ``.sieve`` is the compiled one.

    options
        Of sievec(1), which plugins and extensions the script needs.

    .. code-block:: yaml

        /etc/dovecot/sieve/junk.sieve:
          dovecot.sieve_compiled:
            - watch:
              - file: /etc/dovecot/sieve/junk.sieve
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the script is compiled"}
    compiled = f"{name.removesuffix('.sieve')}.svbin"
    if octets(compiled) and _written(compiled) >= max(_written(name), _installed("sievec")):
        return ret
    with tempfile.TemporaryDirectory() as directory:
        new = os.path.join(directory, "new.svbin")
        ran = _run(["sievec", *options, name, new])
        if ran.returncode and not __opts__["test"]:
            ret.update(result=False, comment=f"sievec {name}: {ran.stdout.strip()}")
            return ret
        code = octets(new)
    if code and code == octets(compiled):  # a package that was installed once more
        if not __opts__["test"]:
            os.utime(compiled)
        return ret
    ret["changes"]["compiled"] = compiled
    if __opts__["test"]:
        ret.update(result=None, comment="the script would be compiled")
        return ret
    write(compiled, code, mode=0o644)
    return ret


def vacations(name, accounts=()):
    """
    Nobody else is on vacation: of who is back, the script is gone, and with it its compiled one.

    name
        The directory of the scripts, each named after its account.

    accounts
        The addresses of those who are away.

    .. code-block:: yaml

        /etc/dovecot/sieve/vacation:
          dovecot.vacations:
            - accounts: [user1@example.com]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "nobody else is on vacation"}
    there = os.listdir(name) if os.path.isdir(name) else []
    gone = sorted(file for file in there if os.path.splitext(file)[0] not in accounts)
    if not gone:
        return ret
    ret["changes"]["removed"] = gone
    if __opts__["test"]:
        ret.update(result=None, comment="they would be removed")
        return ret
    for file in gone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(name, file))
    return ret


def logged_out(name, removed=()):
    """
    Whoever has a session has an account that may have one.

    name
        The passwd-file of all accounts.

    removed
        Addresses in that file that are no such account: those that a dry run leaves there, and
        those that are blocked.

    .. code-block:: yaml

        /etc/dovecot/dovecot-passwd:
          dovecot.logged_out: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "nobody is in who is gone"}
    accounts = {line.partition(":")[0] for line in (content(name) or "").splitlines()}
    # Beside them there is a heading, and whatever a daemon that is not well says.
    who = _run(["doveadm", "who", "-1"])
    if who.returncode == LATE:
        ret.update(result=False, comment=who.stdout)
        return ret
    words = [line.split()[:1] for line in who.stdout.splitlines()]
    sessions = {word for (word,) in filter(None, words) if ADDRESS.fullmatch(word)}
    gone = sorted(sessions - (accounts - {*removed})) if accounts else []
    if not gone:
        return ret
    ret["changes"]["logged out"] = gone
    if __opts__["test"]:
        ret.update(result=None, comment="they would be logged out")
        return ret
    faults = []
    for user in gone:
        ran = _run(["doveadm", "kick", user])
        faults += [ran.stdout.strip()] if ran.returncode else []
        if ran.returncode == LATE:
            break  # nor does it for the others
    if faults:
        ret.update(result=False, comment="\n".join(faults))
    return ret


def mod_watch(name, sfun=None, **kwargs):
    """
    The script will change in a test, and then be compiled.

    name, sfun, kwargs
        As for the state.

    .. code-block:: yaml

        /etc/dovecot/sieve/junk.sieve:
          dovecot.mod_watch: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the script is compiled"}
    if __opts__["test"]:
        ret.update(result=None, comment="the script would be compiled")
    return ret


def _written(path):
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_mtime
    return 0


def _installed(program):
    """When a package brought a program; the file itself is as old as its build."""
    path = shutil.which(program)
    return os.stat(path).st_ctime if path else 0


def _run(command):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        return subprocess.run(command, **options, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        said = f"{' '.join(command)} does not end within {PATIENCE} seconds; is Dovecot well?"
        return subprocess.CompletedProcess(command, LATE, said)
    except FileNotFoundError:  # in a dry run on a fresh machine
        return subprocess.CompletedProcess(command, 127, f"{command[0]} is not there")
