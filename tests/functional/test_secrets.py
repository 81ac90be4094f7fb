"""No secret is in what is shown, returned, logged or kept, but in the files that are for it."""

import json
import logging
import re
import subprocess

import pytest
from passlib.hash import sha512_crypt

FILES = ["dovecot-passwd", "credentials"]
KEPT = {"/etc/dovecot/dovecot-passwd", "/etc/mail/credentials"}
SALT, PASSWORD, CHANGED = "s4ltOfThePillar", "hunter2hunter2", "correcthorse"
HASH = "$6$saltsalt$" + "Xa" * 43
PILLAR = """#!yaml
salt: {}
domains: [example.com]
accounts:
  - [user1@example.com, {}]
  - {{address: user2@example.com, hash: {}}}
"""


@pytest.fixture(scope="session")
def machine(minion, pillar):
    directory = pillar(PILLAR.format(SALT, PASSWORD, HASH))
    return minion(pillar=directory, services=("opensmtpd", "dovecot"))


def found(text):
    return re.findall(rf"{SALT}|{PASSWORD}|{CHANGED}|\$6\$[\w./$]*|XaXaXa|PRIVATE KEY", str(text))


@pytest.mark.parametrize("function", ["show_sls", "show_low_sls", "show_highstate"])
def test_no_secret_is_shown(machine, function):
    arguments = ["mailsrv"] if "sls" in function else []
    shown = json.dumps(machine(f"state.{function}", *arguments), default=str)
    assert "mailsrv" in shown
    assert not found(shown)


def test_no_secret_is_in_a_run_in_test_mode_nor_in_what_salt_keeps_of_it(machine, caplog):
    caplog.set_level(logging.DEBUG)
    result = machine("state.apply", "mailsrv", test=True)
    states = {state["__id__"] for state in result.values()}
    assert {"mailsrv-dovecot-passwd", "mailsrv-opensmtpd-credentials"} <= states
    assert not [state["comment"] for state in result.values() if state["result"] is False]
    assert not found(result)
    assert not found(caplog.text)
    for file in machine.root.rglob("*"):
        if file.is_file() and machine.bare(str(file)) not in KEPT:
            assert not found(file.read_bytes().decode(errors="replace")), file


@pytest.fixture
def keys(tmp_path_factory, program):
    """A directory for the keys of gpg, whose agent ends with the test."""
    keys = tmp_path_factory.mktemp("gpg")
    yield keys
    subprocess.run([program("gpgconf"), "--homedir", keys, "--kill", "all"], check=True)


def test_a_password_may_be_encrypted_in_the_pillar(minion, pillar, program, keys):
    gpg = [program("gpg"), "--homedir", keys, "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "mailsrv", "rsa2048", "encr", "never"], check=True)
    encrypt = [*gpg, "--armor", "--trust-model", "always", "--encrypt", "-r", "mailsrv"]
    ran = subprocess.run(encrypt, input=PASSWORD, capture_output=True, text=True, check=True)
    accounts = [{"address": "user1@example.com", "password": ran.stdout}]
    text = {"domains": ["example.com"], "accounts": accounts}
    machine = minion(pillar=pillar(f"#!json|gpg\n{json.dumps(text)}"), gpg_keydir=str(keys))
    (line,) = machine.files()["/etc/mail/credentials"].splitlines()[1:]
    assert sha512_crypt.verify(PASSWORD, line.split(" ")[1])


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_no_secret_is_in_the_changes_or_the_log_of_a_run(minion, pillar, caplog, system):
    machine = minion(system, pillar(PILLAR.format(SALT, PASSWORD, HASH)))
    caplog.set_level(logging.DEBUG)
    first = machine.write()
    secrets = {name: machine.at(name).read_text() for name in first if name.endswith(tuple(FILES))}
    assert len(secrets) == 2
    assert all(HASH in text for text in secrets.values())
    accounts = [["user1@example.com", CHANGED]]
    second = machine.write(pillar={"accounts": accounts})
    assert all(second[name] and HASH not in machine.at(name).read_text() for name in secrets)
    assert not found((first, second))
    assert not found(caplog.text)


def test_the_files_with_hashes_are_closed(machine):
    for name in ("mailsrv-dovecot-passwd", "mailsrv-opensmtpd-credentials"):
        state = machine.state(f"file: {name}")
        assert (state["mode"], state["show_changes"]) == ("0640", False)
        assert state["group"] in ("dovecot", "opensmtpd")


@pytest.mark.parametrize(
    ("state", "content"),
    [
        ("mailsrv-genkeys-password-key", rb"(?s).{32}"),
        ("mailsrv-genkeys-srs-key", rb'srs key "[0-9a-f]{48}"\n'),
    ],
)
def test_a_key_is_made_once_for_root_alone(machine, tmp_path, state, content):
    command = machine.state(f"cmd: {state}")["name"]
    key = tmp_path / "key"
    arguments = {"env": [{"KEY": str(key)}], "creates": str(key)}
    for changes in (True, False):
        (made,) = machine("state.single", "cmd.run", command, **arguments).values()
        assert made["result"] is True
        assert bool(made["changes"]) is changes
        assert made["changes"].get("stdout", "") == ""
    assert re.fullmatch(content, key.read_bytes())
    assert key.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [key]
