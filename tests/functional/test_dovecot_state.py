"""dovecot: who is gone is logged out, who is back has no vacation; and nobody else."""

import functools
import os
import re
import subprocess
import time

import pytest

ACCOUNTS = (
    "# Managed by Salt\nann@example.com:{SHA512-CRYPT}$6$x$y::::::\nbob@example.com:x::::::\n"
)
HEADING = "username                 # proto (pids) (ips)\n"


@pytest.fixture
def doveadm(tmp_path, monkeypatch):
    """A doveadm(1) that prints what it is given, and notes whom it is told to kick."""
    program, said, kicked = (tmp_path / name for name in ("doveadm", "said", "kicked"))
    program.write_text(
        f"""#!/bin/sh
case $1 in
who) cat {said}; exit "$(cat {tmp_path}/status)" ;;
kick) echo "$2" >>{kicked} ;;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    kicked.write_text("")

    def prints(text, status=0):
        said.write_bytes(text.encode(errors="surrogateescape"))
        (tmp_path / "status").write_text(str(status))

    prints.kicked = lambda: kicked.read_text().split()
    return prints


@pytest.fixture
def logged_out(minion, tmp_path):
    file = tmp_path / "dovecot-passwd"
    file.write_text(ACCOUNTS)

    def apply(test=False, **arguments):
        return minion().state_function("dovecot.logged_out", test)(str(file), **arguments)

    return apply


def test_who_is_no_account_any_more_is_logged_out(doveadm, logged_out):
    doveadm(f"{HEADING}ann@example.com 1 imap (1) (::1)\neve@example.com 2 imap (2) (::1)\n")
    assert (logged_out(test=True)["result"], doveadm.kicked()) == (None, [])
    ret = logged_out()
    assert (ret["result"], ret["changes"]) == (True, {"logged out": ["eve@example.com"]})
    assert doveadm.kicked() == ["eve@example.com"]


def test_a_dry_run_knows_whom_the_run_removes(doveadm, logged_out):
    doveadm(f"{HEADING}ann@example.com 1 imap (1) (::1)\n")
    assert logged_out(test=True)["changes"] == {}
    removed = ["ann@example.com"]
    assert logged_out(test=True, removed=removed)["changes"] == {"logged out": removed}


@pytest.mark.parametrize(
    "said",
    [
        "",
        HEADING,
        "\n  \n\n",
        "doveadm(root): Warning: the setting x is obsolete\n" + HEADING,
        "doveadm(root): Fatal: net_connect_unix(/run/dovecot/anvil) failed: No such file\n",
        HEADING + "-A 1 imap\n* 1 imap\neve 1 imap\n\x00\x1b[31m@example.com 1 imap\n",
    ],
)
@pytest.mark.parametrize("status", [0, 75])
def test_what_doveadm_says_beside_is_nobody(doveadm, logged_out, said, status):
    """A warning before the heading would have made its first word a user."""
    doveadm(said, status)
    ret = logged_out()
    assert (ret["result"], ret["changes"], doveadm.kicked()) == (True, {}, [])


@pytest.mark.parametrize("asked", ["who", "kick"])
def test_a_dovecot_that_hangs_does_not_hold_up_the_run(
    doveadm, minion, tmp_path, monkeypatch, asked
):
    (tmp_path / "dovecot-passwd").write_text(ACCOUNTS)
    doveadm(f"{HEADING}eve@example.com 1 imap (1) (::1)\nfay@example.com 1 imap (1) (::1)\n")
    program = tmp_path / "doveadm"
    program.write_text(
        program.read_text().replace("#!/bin/sh", f'#!/bin/sh\n[ "$1" != {asked} ] || exec sleep 60')
    )
    function = minion().state_function("dovecot.logged_out")
    monkeypatch.setitem(function.func.__globals__, "PATIENCE", 0.5)
    began = time.monotonic()
    ret = function(str(tmp_path / "dovecot-passwd"))
    assert time.monotonic() - began < 20
    assert ret["result"] is False
    assert ret["comment"].startswith(f"doveadm {asked} ")
    assert "does not end within 0.5 seconds" in ret["comment"]


def test_without_a_list_of_accounts_nobody_is_logged_out(doveadm, logged_out, tmp_path):
    (tmp_path / "dovecot-passwd").write_bytes(bytes(512))
    doveadm(f"{HEADING}ann@example.com 1 imap (1) (::1)\n")
    assert (logged_out()["changes"], doveadm.kicked()) == ({}, [])


@pytest.fixture
def night(minion, tmp_path):
    """A night's work, in which doveadm notes what it is asked; returns that."""
    machine, asked = minion(id="nights"), tmp_path / "asked"
    text = machine.files(expire={"Trash": "30d"})["/etc/dovecot/purge"]
    doveadm = tmp_path / "doveadm"
    doveadm.write_text(f'#!/bin/sh\necho "$1" >>{asked}\n')
    doveadm.chmod(0o755)
    kept = tmp_path / "kept"
    program = text.replace("/usr/bin/doveadm", str(doveadm))
    program = re.sub(r"[\w/.-]*/var/lib/mailsrv", str(kept), program)

    def work():
        asked.write_text("")
        ran = subprocess.run(["sh", "-c", program], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return asked.read_text().split()

    work.last = kept / "expired"
    return work


def test_mail_does_not_go_in_the_first_night_nor_after_a_leap_of_the_clock(night):
    """A clock that is a year ahead makes all mail old."""
    assert night() == ["purge"]
    assert night() == ["expunge", "purge"]
    now = time.time()
    for days, gone in ((3, True), (365, False), (0, True), (-365, True), (10, False)):
        os.utime(night.last, (now - days * 86400,) * 2)
        assert ("expunge" in night()) == gone


def test_who_is_back_has_no_script_any_more(minion, tmp_path):
    directory = tmp_path / "vacation"
    vacations = functools.partial(minion().state_function, "dovecot.vacations")
    assert vacations(True)(str(directory))["result"] is True  # a dry run on a fresh machine
    directory.mkdir()
    for name in ("ann@a.example", "ann@a.example.com", "bob@a.example"):
        for end in ("sieve", "svbin"):
            (directory / f"{name}.{end}").touch()
    gone = [
        f"{name}.{end}" for name in ("ann@a.example", "bob@a.example") for end in ("sieve", "svbin")
    ]
    kept = {"accounts": ["ann@a.example.com"]}
    ret = vacations(True)(str(directory), **kept)
    assert (ret["result"], ret["changes"]) == (None, {"removed": gone})
    assert len(os.listdir(directory)) == 6
    ret = vacations(False)(str(directory), **kept)
    assert (ret["result"], ret["changes"]) == (True, {"removed": gone})
    assert sorted(os.listdir(directory)) == ["ann@a.example.com.sieve", "ann@a.example.com.svbin"]
    assert vacations(False)(str(directory), **kept)["changes"] == {}
