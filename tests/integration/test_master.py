"""A master and the mail machines of one pillar tree: real daemons, keys, jobs and events."""

import json
import os
import re
import subprocess

import pytest

# What a state needs to write a file here: no owner, no check by a daemon, nothing it waits for.
WRITTEN = {"name", "source", "contents", "template", "mode", "show_changes", "makedirs"}
MX1, MX2 = "mx1.example.com", "mx2.example.net"
# Where a master keeps what it compiled: from Salt 3008 on, and before.
COMPILED = {("pillar", f"{MX1}.p"), (MX1, "data.p")}
FIRST, SECOND = "hunter2hunter2", "correcthorsebattery"


@pytest.mark.parametrize("sls", ["mailsrv", "mailsrv.opensmtpd"])
def test_a_new_machine_is_told_to_sync_in_one_sentence(fleet, sls):
    shown = fleet["shown"][sls]
    assert shown.returncode != 0
    assert "Traceback" not in shown.stdout
    assert len(shown.stdout.splitlines()) < 20
    assert (
        "Name: mailsrv: the execution modules are not on this minion yet; run: salt-call "
        f"saltutil.sync_all (from the master: salt '{MX1}' saltutil.sync_all)\n"
    ) in shown.stdout


def test_the_first_highstate_of_a_new_machine_brings_what_it_needs(fleet, salt):
    for states in fleet["highstate"].values():
        assert isinstance(states, dict), states
        assert not [state["comment"] for state in states.values() if state["result"] is False]
        ids = {state["__id__"] for state in states.values()}
        assert {"mailsrv-dovecot-config", "mailsrv-opensmtpd-config"} <= ids
    for functions in salt("mx*", "sys.list_state_functions", "dkim").values():
        assert functions == ["dkim.key_present", "dkim.remembered", "dkim.signing"]


@pytest.mark.usefixtures("fleet")
def test_each_machine_answers_for_its_own_domains_alone(salt):
    answers = salt("mx*", "mailsrv.explain", "user1@example.com")
    assert answers[MX1]["accepted"] == "yes"
    assert answers[MX2]["because"] == "example.com is not one of our domains: example.net"


@pytest.mark.usefixtures("fleet")
def test_a_master_prints_with_what_it_has_itself(master):
    """Without --out: "Invalid outputter mailsrv specified, fall back to nested"."""
    cli = master.salt_cli()
    command = [cli.python_executable, cli.get_script_path(), f"--config-dir={cli.config_dir}"]
    command += ["--log-level=error", MX1, "mailsrv.explain", "user1@example.com"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"{MX1}:\n  accepted: 'yes'\n" in ran.stdout


@pytest.fixture(scope="session")
def used(fleet, salt, salt_run, pillar_tree, short_tmp):
    """
    A machine whose files and keys its master wrote, twice: a password changed in between. Its
    directory.
    """
    machine = short_tmp / "machines" / MX1
    (machine / "etc/mail").mkdir(parents=True, exist_ok=True)
    (machine / "etc/mail/password.key").write_bytes(os.urandom(32))
    users = pillar_tree / "mail/mx1.sls"
    for password in (FIRST, SECOND):
        users.write_text(users.read_text().replace(FIRST, password))
        salt(MX1, "saltutil.refresh_pillar", "wait=True")
        states = dict(filter(None, map(writing, salt(MX1, "state.show_low_sls", "mailsrv"))))
        assert all(str(machine) in json.dumps(state) for state in states.values())
        result = salt(MX1, "state.high", states, "test=False").values()
        assert {state["result"] for state in result} == {True}
        changed = {state["__id__"] for state in result if state["changes"]}
        assert {"mailsrv-dovecot-passwd", "mailsrv-opensmtpd-credentials"} <= changed
    salt(MX1, "state.apply", "mailsrv")
    if os.getuid() == 0:
        salt(MX1, "mine.update")
    listed = salt_run("jobs.list_jobs", "search_function=state.high").data
    jobs = [job for job, about in listed.items() if about["Target"] == MX1]
    shown = [salt_run("jobs.lookup_jid", job).stdout for job in jobs]
    assert len(shown) == 2
    assert all("mailsrv-dovecot-passwd" in text for text in shown)
    (short_tmp / "salt/jobs").write_text("\n".join(shown))
    return machine


def writing(chunk):
    """A state that writes a file of ours, less what it would need of a real machine."""
    if (chunk["state"], chunk["fun"]) == ("file", "managed"):
        arguments = {key: chunk[key] for key in WRITTEN & chunk.keys()} | {"makedirs": True}
    elif chunk["fun"] == "key_present" and os.getuid() == 0:
        arguments = {key: chunk[key] for key in ("name", "selector", "public", "bits")}
    else:
        return None
    arguments = [{key: value} for key, value in arguments.items()]
    return chunk["__id__"], {chunk["state"]: [chunk["fun"], *arguments]}


def test_a_secret_is_on_the_machine_and_in_the_compiled_pillar_alone(used, short_tmp):
    """Not in the job cache, a return, an event, the mine, nor a log, both at level debug."""
    written = (used / "etc/mail/credentials").read_text()
    secrets = [FIRST, SECOND, "s4ltOfThePillar", *re.findall(r"\$6\$\S+", written)]
    assert len(secrets) == 5
    keys = [(used / "etc/mail/password.key").read_bytes()]
    for key in used.glob("etc/mail/dkim/**/*.private"):
        keys.append(key.read_bytes().splitlines()[-3])  # the first ones are of the public half
    files = [file for file in (short_tmp / "salt").rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"return.p", "events", "jobs", "master.log", "minion.log"} <= names
    for file in files:
        content = file.read_bytes()
        found = [secret for secret in [*(s.encode() for s in secrets), *keys] if secret in content]
        if file.parts[-2:] in COMPILED:
            assert file.stat().st_mode & 0o077 == 0, file
            assert SECOND.encode() in found
        else:
            assert not found, file
    assert {file.parts[-2:] for file in files} & COMPILED
