"""On FreeBSD cron starts a daemon that has ended: its line, run by sh with a `service` of files."""

import os
import re
import subprocess

import pytest

CRON = "/usr/local/etc/cron.d/mailsrv-"
DAEMONS = {
    "opensmtpd": "smtpd",
    "dovecot": "dovecot",
    "dkimproxy": "dkimproxy_out",
    "rspamd": "rspamd",
}
# What is enabled and what runs are files; `restarting` is what runs at the second look.
PROGRAMS = {
    "service": """
        cd "${0%/*}"
        case $2 in
            enabled) [ -e "$1.enabled" ] ;;
            status) echo "$1 is looked at"; [ -e "$1.runs" ] ;;
            start) echo "starting $1"; : >"$1.runs"; echo "$1" >>started ;;
        esac
    """,
    "sleep": 'cd "${0%/*}"; [ ! -e restarting ] || : >"$(cat restarting).runs"; echo "$1" >>slept',
    "logger": 'echo "$*" >>"${0%/*}/log"',
}


@pytest.fixture(params=DAEMONS)
def line(request, minion):
    """The line of a daemon, and the service."""
    text = minion("FreeBSD").files(spam_filter=True)[CRON + request.param]
    (command,) = re.findall(r"^\* \* \* \* \* root (.*)$", text, re.M)
    return command, DAEMONS[request.param]


@pytest.fixture
def look(line, tmp_path):
    """Let cron look once; what it said and which services it started."""
    command, service = line
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def look(enabled=True, runs=False, restarting=False):
        for name, there in (("enabled", enabled), ("runs", runs)):
            if there:
                (tmp_path / f"{service}.{name}").touch()
        if restarting:
            (tmp_path / "restarting").write_text(service)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=environment, check=False
        )
        started = tmp_path / "started"
        return ran.stdout + ran.stderr, started.read_text().split() if started.exists() else []

    return look


def test_what_has_ended_is_started_and_the_log_says_so(look, line, tmp_path):
    assert look() == ("", [line[1]])
    assert f"{line[1]} had ended and is started again" in (tmp_path / "log").read_text()


def test_what_runs_is_let_be_and_nothing_is_said(look, tmp_path):
    assert look(runs=True) == ("", [])
    assert not (tmp_path / "log").exists()


def test_what_is_disabled_stays_so(look):
    assert look(enabled=False) == ("", [])


def test_what_is_just_being_restarted_is_not_started_too(look, tmp_path):
    assert look(restarting=True) == ("", [])
    assert (tmp_path / "slept").read_text() == "10\n"


def test_cron_can_read_it(line, minion):
    """crontab(5): one line each, no percent sign, which would be a new line."""
    for name, text in minion("FreeBSD").files(spam_filter=True).items():
        if name.startswith("/usr/local/etc/cron.d/"):
            assert text.endswith("\n"), name
            assert "%" not in text, name
            assert re.search(r"^PATH=.*:/usr/local/sbin:", text, re.M), name


def test_a_signer_that_left_is_not_looked_at(minion):
    machine = minion("FreeBSD")
    low = machine.low(dkim={"signer": "dkimsign"})
    gone = {machine.bare(chunk["name"]) for chunk in low if chunk["fun"] == "absent"}
    assert gone >= {CRON + "dkimproxy", CRON + "rspamd"}


def test_before_a_stop_smtpd_hands_on_what_it_is_handing_on(minion, tmp_path):
    """A stop that fails, or hangs, does not keep rc.subr(8) from the rest."""
    text = minion("FreeBSD").files()["/usr/local/etc/rc.conf.d/smtpd"]
    (tmp_path / "smtpctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/told\nexit 1\n')
    (tmp_path / "smtpctl").chmod(0o755)
    ran = subprocess.run(
        ["sh", "-ec", f"{text}\n$stop_precmd\necho on"],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("on\n", "", 0)
    told = (tmp_path / "told").read_text().splitlines()
    assert told[:3] == ["pause mta", "pause mda", "show stats"]
