"""salt-call, as a person types it."""

import json
import subprocess
import sys

import pytest
from Crypto.PublicKey import RSA

SEED_HASH = (
    "$6$aoiuasdfhalsdfiu$2K1Ck/C/FKHeU5wqftVRuuQralARHm2EhAAxc1N3cOFfR4cggSGunhuWnJ3."
    "SxB28h1B4b8oI6vXBxnPirJgB1"
)


@pytest.fixture(scope="session")
def salt_call(minion):
    """Run salt-call with the configuration of a minion: status, output, everything it said."""

    def call(*arguments, out="json", machine=None, **options):
        machine = machine or minion(**options)
        machine.configure()
        # What it is called tells the modules who prints.
        script = "import sys, salt.scripts; sys.argv[0] = 'salt-call'; salt.scripts.salt_call()"
        command = [sys.executable, "-c", script, "--config-dir", machine.root]
        command += ["--retcode-passthrough", "--log-level=error", *arguments]
        command += [f"--out={out}"] if out else []
        ran = subprocess.run(command, capture_output=True, text=True)
        output = json.loads(ran.stdout)["local"] if out == "json" else ran.stdout
        return ran.returncode, output, ran.stdout + ran.stderr

    return call


def test_password_hash_gives_what_it_gave_in_the_seed(salt_call):
    status, output, _ = salt_call("password.hash", "pass1", "aoiuasdfhalsdfiuyh")
    assert (status, output) == (0, SEED_HASH)


def test_lint_finds_nothing_in_the_example(salt_call):
    assert salt_call("mailsrv.lint")[:2] == (0, [])


def test_lint_fails_with_every_fault_and_no_secret(salt_call, pillar):
    text = "domains: [mail]\naccounts: [[a@example.com, hunter2, hunter2], [b, '']]\n"
    status, faults, said = salt_call("mailsrv.lint", pillar=pillar(text))
    assert status == 1
    assert [fault.split(": ")[0] for fault in faults] == [
        "domains[0]",
        "accounts[0]",
        "accounts[1]",
    ]
    assert "hunter2" not in said


def test_a_person_gets_sentences_in_80_columns_and_a_program_the_data(salt_call, pillar):
    faulty = pillar("domains: [mail]\naliases: {sales@example.com: nobody@example.com}\n")
    faults = salt_call("mailsrv.lint", pillar=faulty)[1]
    status, shown, _ = salt_call("mailsrv.lint", pillar=faulty, out=None)
    assert status == 1
    assert " ".join(shown.split()) == " ".join(f"- {fault}" for fault in faults)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert salt_call("mailsrv.lint", out=None)[:2] == (0, "nothing\n")


def test_a_pillar_that_is_no_yaml_is_called_so(salt_call, pillar):
    """Not: list at least one domain."""
    status, faults, _ = salt_call("mailsrv.lint", pillar=pillar("domains: [example.com\n"))
    assert status == 1
    assert [fault.partition(": ")[0] for fault in faults] == ["the pillar cannot be read"]


def test_a_faulty_pillar_stops_a_run_with_a_status(salt_call, pillar):
    faulty = pillar("domains: [mail]\n")
    status, output, _ = salt_call("state.apply", "mailsrv", pillar=faulty)
    assert status != 0
    (state,) = output.values()
    assert state["comment"] == "domains[0]: 'mail' is not a domain; write it like example.com"


@pytest.mark.parametrize("sls", ["mailsrv", "mailsrv.opensmtpd"])
def test_a_minion_that_never_synced_says_so_without_a_traceback(salt_call, minion, sls):
    machine = minion(disable_modules=["mailsrv"])
    status, output, said = salt_call("state.apply", sls, machine=machine, out="highstate")
    assert status != 0
    first = next(line for line in output.splitlines() if "mailsrv: " in line)
    assert first.split(":", 1)[1].startswith(
        " mailsrv: the execution modules are not on this minion yet; run: salt-call "
    )
    assert "Traceback" not in said
    assert len(said.splitlines()) < 20


@pytest.fixture(scope="module", params=[None, "txt"])
def printed(request, salt_call, minion):
    """The zone as bootstrap prints it, and as text of Salt's own."""
    machine = minion()
    for key in [chunk for chunk in machine.low() if chunk["fun"] == "key_present"]:
        file = machine.at(key["name"])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(RSA.generate(2048).export_key())
    status, output, _ = salt_call("mailsrv.zone", "example.com", machine=machine, out=request.param)
    assert status == 0
    own = "local: " if request.param else ""
    return "".join(line[len(own) :] for line in output.splitlines(True))


def test_the_zone_that_is_printed_loads(printed, load_zone):
    load_zone("example.com", printed)
