"""metrics.py: counters that never go back, whatever stands in the journal and whoever is killed."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reading import ROOT

PROGRAM = ROOT / "salt_mailsrv/states/mailsrv/metrics/metrics.py"
CORE = ROOT / "salt_mailsrv/_modules/_mailsrv"
SERIES = re.compile(r'mailsrv_[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"\})? -?[0-9.e+]+')
JOURNALCTL = """#!{python}
# The journal in a file, as journalctl(1) shows it: an entry a line, the cursor its number.
import json, os, sys, time
first = 0
for option in sys.argv[1:]:
    if option.startswith("--after-cursor="):
        cursor = option.partition("=")[2]
        if not cursor.isdigit():
            sys.exit("Failed to seek to cursor: Invalid argument")
        first = int(cursor) + 1
lines = open({file!r}).read().splitlines()
if "--lines=1" in sys.argv:
    first = len(lines) - 1
for number in range(max(first, 0), len(lines)):
    print(lines[number].replace("@@", str(number)), flush=True)
    time.sleep({pause})
"""


@pytest.fixture(scope="module")
def metrics():
    """The program, with the modules that stand beside it on a machine."""
    sys.path.append(str(CORE))
    spec = importlib.util.spec_from_file_location("metrics", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(CORE))


class Machine:
    """Files and programs as the program finds them; the journal is a file."""

    def __init__(self, path):
        self.path, self.journal = path, path / "journal"
        (path / "bin").mkdir()
        (path / "program").mkdir()
        for source in PROGRAM, CORE / "journal.py", CORE / "waiting.py":
            (path / "program" / source.name).write_text(source.read_text())
        self.journal.write_text("")
        self.log("daemon: anything")
        self.settings = {
            "disks": ["/", "/nonexistent"],
            "domains": ["one.example"],
            "rspamd": "",
            "directory": str(path),
            **{name: str(path / f"{name}.json") for name in ("state", "notes", "run")},
        }
        (path / "settings").write_text(json.dumps(self.settings))
        self.slow(0)

    def slow(self, pause):
        program = self.path / "bin/journalctl"
        text = JOURNALCTL.format(python=sys.executable, file=str(self.journal), pause=pause)
        program.write_text(text)
        program.chmod(0o755)

    def log(self, *lines):
        with self.journal.open("a") as file:
            for line in lines:
                entry = {
                    "__CURSOR": "@@",
                    "__REALTIME_TIMESTAMP": "1795724997000000",
                    "SYSLOG_IDENTIFIER": "smtpd",
                    "_SYSTEMD_UNIT": "opensmtpd.service",
                    "MESSAGE": line,
                }
                file.write(json.dumps(entry) + "\n")

    def start(self, *before):
        program = [self.path / "program/metrics.py", self.path / "settings"]
        command = [*before, sys.executable, "-I", *program]
        environment = {"PATH": f"{self.path}/bin"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def run(self):
        """The series after a run."""
        process = self.start()
        said = process.communicate()[1]
        assert (process.returncode, said) == (0, "")
        return self.series()

    def series(self):
        text = (self.path / "mailsrv.prom").read_text()
        shown = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(map(SERIES.fullmatch, shown))
        return {name: float(value) for name, _, value in (s.rpartition(" ") for s in shown)}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


ACCEPTED = "0123456789abcdef smtp message msgid=01234567 size=944 nrcpt=1 proto=ESMTP"


def accepted(machine):
    return machine.run()["mailsrv_messages_accepted_total"]


def test_what_is_logged_from_now_on_is_counted_once(machine):
    machine.log(*[ACCEPTED] * 3)
    assert accepted(machine) == 0
    assert accepted(machine) == 0
    machine.log(*[ACCEPTED] * 3)
    assert accepted(machine) == 3
    assert accepted(machine) == 3
    machine.log(ACCEPTED)
    assert accepted(machine) == 4


def test_a_series_begins_at_zero(machine):
    series = machine.run()
    assert series['mailsrv_refused_total{cause="spam"}'] == 0
    assert series['mailsrv_logins_failed_total{daemon="imap"}'] == 0
    assert series["mailsrv_smtpd_up"] == 0  # there is no smtpctl here
    assert 'mailsrv_disk_free_ratio{path="/"}' in series
    assert not [name for name in series if "nonexistent" in name or "queue" in name]


def test_whoever_is_killed_counts_nothing_twice_and_leaves_nothing_out(machine):
    accepted(machine)
    for number in range(8):
        machine.log(*[ACCEPTED] * 10)
        machine.slow(0.02)
        process = machine.start()
        time.sleep(0.05 + number * 0.06)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    machine.slow(0)
    assert accepted(machine) == 80


def test_entries_that_are_many_are_noted_on_the_way(machine, metrics):
    state = {"totals": {}, "cursor": ""}
    lines = [json.dumps({"__CURSOR": str(number)}) for number in range(metrics.SAVED + 10)]
    path = machine.path / "noted.json"
    assert len([*metrics.entries(lines, str(path), state)]) == len(lines)
    assert json.loads(path.read_text())["cursor"] == str(metrics.SAVED - 1)
    assert state["cursor"] == str(len(lines) - 1)


@pytest.mark.parametrize("state", ["", "{", "[]", '{"totals": 1, "cursor": "1"}', '{"cursor": 1}'])
def test_a_state_that_is_damaged_begins_anew(machine, state):
    machine.log(*[ACCEPTED] * 3)
    (machine.path / "state.json").write_text(state)
    assert accepted(machine) == 0
    machine.log(ACCEPTED)
    assert accepted(machine) == 1


def test_a_place_that_the_journal_does_not_know_keeps_the_totals(machine):
    state = {"totals": {"messages_accepted": {"": 41}}, "cursor": "gone"}
    (machine.path / "state.json").write_text(json.dumps(state))
    machine.log(ACCEPTED)
    assert accepted(machine) == 41
    machine.log(ACCEPTED)
    assert accepted(machine) == 42


def test_what_strangers_wrote_into_the_log_is_no_series_of_theirs(machine):
    machine.run()
    before = machine.series().keys()
    machine.log(
        'x smtp failed-command command="RCPT TO:<a\\"}b@one.example>" result="550 }{\\"\n"',
        f'{ACCEPTED[:16]} smtp failed-command command="MAIL\nfoo" result="550 a{{b=\\"c\\"}} 1"',
        f"{ACCEPTED[:16]} smtp authentication user=a\nb=c result=permfail",
        'evil"}-x(1): Error: 1',
        "\0" * 50,
    )
    with machine.journal.open("a") as file:
        file.write('[1]\n{"__CURSOR": 7}\nnonsense\n{"MESSAGE": {"a": [[]]}, "__CURSOR": "@@"}\n')
        file.write("[" * 100000 + "\n")
    assert machine.run().keys() == before


@given(st.text())
def test_a_label_holds_whatever_a_check_is_called(metrics, said):
    shown = metrics.text(metrics.gauges("check_state", "About.", "check", {said: 1}))
    (line,) = shown[shown.index("mailsrv_check_state{") :].rstrip("\n").split("\n")
    assert SERIES.fullmatch(line)


def test_the_self_checks_own_tries_are_not_counted(machine):
    machine.run()
    refused = 'smtp failed-command command="RCPT TO:<a@b.example>" result="550 Invalid recipient"'
    for session, address in (("0" * 16, "127.0.0.2"), ("1" * 16, "198.51.100.7")):
        machine.log(f"{session} smtp connected address={address} host=x", f"{session} {refused}")
    series = machine.run()
    assert sum(v for name, v in series.items() if name.startswith("mailsrv_refused")) == 1


def test_what_the_last_look_and_the_last_run_saw_is_shown(machine):
    notes = {
        "looked": {"machine": 5.0, "DNS": 4, "look: DNS": 4},
        "seen": {
            "machine": {"queue": "WARNING: 3", "service dovecot": "FAULT: x", "port 25": "ok: x"},
            "DNS": {"a MX": "FAULT: missing", "b TXT": "WARNING: missing", "c A": "ok"},
            "run": {"a run, x": "WARNING: would change"},
        },
        "told": {},
        "about": {},
        "outbox": [1],
        "figures": {"certificate_end": 2111085678, "keys_waiting": 1},
    }
    (machine.path / "notes.json").write_text(json.dumps(notes))
    run = {"time": 7, "states": {"ok": 70, "changed": 2, "failed": 0}}
    (machine.path / "run.json").write_text(json.dumps(run))
    found = machine.run()
    assert {
        'mailsrv_check_state{check="queue"}': 1,
        'mailsrv_check_state{check="service dovecot"}': 2,
        'mailsrv_check_state{check="port 25"}': 0,
        'mailsrv_dns_findings{need="required"}': 1,
        'mailsrv_dns_findings{need="recommended"}': 1,
        "mailsrv_run_would_change": 1,
        'mailsrv_look_timestamp_seconds{part="machine"}': 5,
        "mailsrv_certificate_end_timestamp_seconds": 2111085678,
        "mailsrv_dkim_keys_waiting": 1,
        "mailsrv_mails_untold": 1,
        'mailsrv_run_states{result="changed"}': 2,
        "mailsrv_run_timestamp_seconds": 7,
    }.items() <= found.items()
    assert 'mailsrv_look_timestamp_seconds{part="look: DNS"}' not in found


def test_everybody_may_read_what_is_shown_and_root_alone_how_far_it_was_read(machine):
    os.umask(os.umask(0o077))
    machine.run()
    assert (machine.path / "mailsrv.prom").stat().st_mode & 0o777 == 0o644
    assert (machine.path / "state.json").stat().st_mode & 0o777 == 0o600


def test_on_a_full_disk_the_metrics_stay_and_one_line_says_why(machine):
    before = machine.run()
    process = machine.start("/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    said = process.communicate()[1]
    assert (process.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("the metrics stay as they were: ")
    assert machine.series() == before
    assert machine.run().keys() == before.keys()
