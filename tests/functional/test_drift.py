"""Drift without a master, on a machine of one state that is well, or not."""

import json
import socket
import stat
import subprocess
import sys

import pytest
import salt.loader
import salt.payload

SECRET = "hunter2"
ROOM = """
drifting:
  file.managed:
    - name: {file}
    - contents: {{{{ pillar["secret"] }}}}
"""
OTHER = "of-somebody-else: test.succeed_with_changes\n"
DRIFTED = {
    "changes": ["drifting"],
    "failures": [],
    "impossible": False,
    "well": False,
    "says": "a run would change drifting",
}


@pytest.fixture(scope="module")
def machine(minion, pillar):
    """A masterless minion, and the file that the one state of ours writes."""
    made = minion(id="drifting", pillar=pillar(f"secret: {SECRET}"))
    made.tree, made.file = made.root / "overlay", made.root / "drifting"
    (made.tree / "top.sls").write_text("base: {'*': [mailsrv.room, other]}\n")
    (made.tree / "other.sls").write_text(OTHER)
    return made


@pytest.fixture
def look(machine):
    """Look for drift: what it says, and the status."""
    (machine.tree / "mailsrv/room.sls").write_text(ROOM.format(file=machine.file))
    machine.file.write_text(f"{SECRET}\n")

    def tell():
        machine("test.ping")
        context = machine._functions.pack["__context__"]
        context["retcode"] = 0
        said = machine("drift.tell")
        assert SECRET not in json.dumps(said)
        return said, context["retcode"]

    yield tell
    machine.at("/var/lib/mailsrv/drift.json").unlink(missing_ok=True)


def test_it_is_told_once_and_again_when_it_is_well(machine, look):
    said, status = look()
    assert (said["well"], said["told"], status) == (True, "before", 0)
    notes = machine.at("/var/lib/mailsrv/drift.json")
    assert not notes.exists()

    machine.file.write_text("edited\n")
    assert look() == ({**DRIFTED, "told": "there is no master"}, 1)
    assert stat.S_IMODE(notes.stat().st_mode) == 0o600
    assert SECRET not in notes.read_text()
    assert look() == ({**DRIFTED, "told": "before"}, 1)
    assert machine.file.read_text() == "edited\n"
    machine.file.write_text("edited otherwise\n")
    assert look()[0]["told"] == "before"

    machine.file.write_text(f"{SECRET}\n")
    said, status = look()
    assert (said["well"], said["told"], status) == (True, "there is no master", 0)
    assert look()[0]["told"] == "before"


def test_what_cannot_be_rendered_is_drift_without_a_word_of_it(machine, look):
    (machine.tree / "mailsrv/room.sls").write_text("{{ pillar['secret'].x }}: [{{ missing }}\n")
    said, status = look()
    assert (said["impossible"], said["told"], status) == (True, "there is no master", 1)
    assert said["says"].startswith("a run is not possible")


def test_while_another_run_goes_on_nothing_is_told(machine, look):
    """As Salt notes a run of its own: a process of Salt's that lives."""
    machine.file.write_text("edited\n")
    directory = machine.root / "var/cache/salt/minion/proc"
    directory.mkdir(parents=True, exist_ok=True)
    job = directory / "20261127133000000000"
    command = [sys.executable, "-c", "print(flush=True); input()", "salt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        run.stdout.readline()  # earlier, the kernel does not know its arguments yet
        about = {"pid": run.pid, "fun": "state.highstate", "jid": job.name, "arg": []}
        job.write_bytes(salt.payload.dumps(about))
        said, status = look()
        run.stdin.close()
    job.unlink(missing_ok=True)
    assert (said, status) == ({"says": "another run goes on; the next look will tell"}, 0)
    assert look()[0]["told"] == "there is no master"


def test_a_master_that_is_away_is_one_sentence_and_not_drift(machine):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    away = {"master_uri": f"tcp://127.0.0.1:{port}", "request_channel_timeout": 1}
    away |= {"request_channel_tries": 1, "auth_tries": 1, "auth_timeout": 1}
    away |= {"file_client": "remote", "master_ip": "127.0.0.1", "__role": "minion"}
    (machine.root / "etc/salt/pki/minion").mkdir(parents=True, exist_ok=True)
    functions = salt.loader.minion_mods({**machine._opts, **away})
    said = functions["drift.tell"]()
    assert said.keys() == {"says"}
    assert said["says"].startswith("it is not known what a run would change: ")
    assert "master" in said["says"]
    assert functions.pack["__context__"]["retcode"] == 1
    assert not machine.at("/var/lib/mailsrv/drift.json").exists()


def test_a_disk_that_takes_no_note_is_one_sentence(machine, look):
    machine.file.write_text("edited\n")
    notes = machine.at("/var/lib/mailsrv/drift.json")
    notes.mkdir(parents=True)
    try:
        said, status = look()
    finally:
        notes.rmdir()
    assert status == 1
    assert said["says"].startswith("it is not known what a run would change: [Errno ")
