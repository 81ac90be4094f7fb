"""The timers that look at the machine: for mail about what has changed, and for Prometheus."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = "/etc/systemd/system/mailsrv-watch"
CRON = "/usr/local/etc/cron.d/mailsrv-watch"
PILLAR = "{domains: [a.example], accounts: [[a@a.example, pw]], mailsrv: {metrics: true}}"
TOLD = {"notify": "admin@elsewhere.example"}


def of_the_room(machine, room="mailsrv.watch", **mailsrv):
    """The states of the room, by kind."""
    low = machine.low(room, **mailsrv)
    return {f"{chunk['state']}.{chunk['fun']}": chunk for chunk in low if chunk["__sls__"] == room}


def command(machine, system):
    """What the timer runs, as words."""
    files = machine.files("mailsrv.watch", **TOLD)
    if system == "FreeBSD":
        line = files[CRON].splitlines()[-1]
        return shlex.split(line)[6:]
    (line,) = [
        line for line in files[f"{UNITS}.service"].splitlines() if line.startswith("ExecStart=")
    ]
    return shlex.split(line.removeprefix("ExecStart="))


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_the_timer_calls_this_very_salt_with_its_configuration(minion, system):
    machine = minion(system)
    machine.configure()
    words = command(machine, system)
    assert words[-1] == "mailcheck.notify"
    words = [
        f"--config-dir={machine.root}" if word.startswith("--config-dir=") else word
        for word in words
        if not word.startswith("--out")
    ]
    ran = subprocess.run(
        [*words[:-1], "--local", "--out=json", "--log-level=quiet", "config.get", "root_dir"],
        capture_output=True,
        text=True,
    )
    assert f'"local": "{machine.root}"' in ran.stdout, ran


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_without_the_key_there_is_no_timer(minion, system):
    machine = minion(system)
    assert {*of_the_room(machine)} <= {"daemon.removed", "file.absent"}
    found = of_the_room(machine, **TOLD)
    assert "file.absent" not in found
    assert "daemon.removed" not in found
    assert ("daemon.timer" in found) == (system == "Debian")


def test_what_was_told_is_forgotten_when_nobody_is_told_any_more(minion):
    machine = minion(id="untold")
    notes = machine.at("/var/lib/mailsrv/watch.json")
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text("{}")
    assert machine.apply("mailsrv-watch-notes", test=True)["result"] is None
    assert notes.exists()
    assert machine.apply("mailsrv-watch-notes")["changes"]
    assert not notes.exists()


def exporter(machine):
    """Whether we say where the node exporter listens, and which states there are."""
    low = machine.low("mailsrv.metrics", metrics=True)
    states = [chunk["__id__"] for chunk in low if chunk["__sls__"] == "mailsrv.metrics"]
    return "mailsrv-metrics-exporter" in states, states


def test_an_exporter_of_ours_listens_on_loopback_alone_before_it_is_installed(minion):
    machine = minion(id="metrics")
    ours, states = exporter(machine)
    assert ours
    assert states.index("mailsrv-metrics-exporter") < states.index("mailsrv-metrics-packages")
    assert states[-1] == "mailsrv-metrics-run"
    drop_in = "/etc/systemd/system/prometheus-node-exporter.service.d/mailsrv-metrics.conf"
    text = machine.files("mailsrv.metrics", metrics=True)[drop_in]
    assert "\nExecStart=\nExecStart=/usr/bin/prometheus-node-exporter --web.listen" in text
    assert "=127.0.0.1:9100 $ARGS" in text


def test_an_exporter_that_was_here_before_listens_where_it_did(minion):
    machine = minion(id="exporter", packages=(("prometheus-node-exporter", "1.9.0-1"),))
    assert not exporter(machine)[0]
    drop_in = machine.at("/etc/systemd/system/prometheus-node-exporter.service.d/x").parent
    drop_in.mkdir(parents=True)
    (drop_in / "mailsrv-metrics.conf").write_text("ours, of an earlier run")
    again = minion(id="exporter-of-ours", packages=(("prometheus-node-exporter", "1.9.0-1"),))
    (again.at(machine.bare(str(drop_in)))).mkdir(parents=True)
    (again.at(machine.bare(str(drop_in))) / "mailsrv-metrics.conf").write_text("ours")
    assert exporter(again)[0]


def test_without_the_key_there_are_no_metrics(minion):
    machine = minion()
    assert {*of_the_room(machine, "mailsrv.metrics")} == {"daemon.removed", "file.absent"}
    assert "9900" not in machine.files()["/etc/dovecot/dovecot.conf"]
    assert "mailsrv-watch.timer" not in "".join(machine.files())
    assert "/etc/systemd/system/mailsrv-watch.timer" in machine.files(metrics=True)


def test_where_there_is_no_journal_there_are_no_metrics_and_lint_says_so(minion, pillar):
    machine = minion("FreeBSD")
    assert of_the_room(machine, "mailsrv.metrics", metrics=True) == {}
    on = minion("FreeBSD", pillar=pillar(PILLAR))
    assert [note for note in on("mailsrv.lint") if "mailsrv:metrics" in note] == [
        "mailsrv:metrics: does nothing on this system, which has no journal to count from"
    ]


def test_the_settings_of_the_metrics_are_what_the_program_reads(minion):
    machine = minion(id="settings")
    text = machine.files("mailsrv.metrics", metrics=True)["/etc/mail/metrics.json"]
    settings = json.loads(text)
    source = (ROOT / "salt_mailsrv/states/mailsrv/metrics/metrics.py").read_text()
    assert {*re.findall(r"""settings\[["'](\w+)["']\]""", source)} == settings.keys()
    assert settings["rspamd"] == ""


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_dovecot_and_rspamd_take_what_is_for_prometheus(minion, program, suite, tmp_path):
    version = "1:2.3.19.1" if suite == "bookworm" else "1:2.4.1"
    machine = minion(id=f"for-{suite}", packages=(("dovecot-core", version),))
    files = machine.files(metrics=True, spam_filter=True)
    conf = tmp_path / "dovecot.conf"
    text = files["/etc/dovecot/dovecot.conf"]
    conf.write_text(re.sub(r"(?m)^(ssl_(cert|key|server_\w+) = ).*", "", text))
    ran = subprocess.run(
        [program("doveconf", suite), "-c", conf, "service", "metric"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "9900" in ran.stdout
    assert "mail_delivery_finished" in ran.stdout
    assert "controller.sock mode=0600" in files["/etc/rspamd/rspamd.conf"]


def test_what_a_run_did_is_noted_and_is_no_change(minion, tmp_path):
    machine, file = minion(), tmp_path / "run.json"
    states = {
        "before": {"test": ["nop"]},
        "note": {"mailsrv": ["ran", {"name": str(file)}, {"order": "last"}]},
    }
    dry = machine("state.high", states, test=True)
    assert [(s["name"], s["changes"]) for s in dry.values()][1:] == [(str(file), {})]
    assert not file.exists()
    assert [s["changes"] for s in machine("state.high", states).values()] == [{}, {}]
    assert json.loads(file.read_text()).keys() == {"time", "states"}
