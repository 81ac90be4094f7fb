"""No secret is in what is shown, returned, logged or kept, but in the files that are for it."""

import itertools
import json
import logging
import os
import re
import subprocess

import pytest
from passlib.hash import sha512_crypt

FILES = ["dovecot-passwd", "credentials"]
KEPT = {"/etc/dovecot/dovecot-passwd", "/etc/mail/credentials", "/etc/mail/relays"}
SALT, PASSWORD, CHANGED = "s4ltOfThePillar", "hunter2hunter2", "correcthorse"
HASH = "$6$saltsalt$" + "Xa" * 43
PILLAR = """#!yaml
salt: {}
domains: [example.com]
accounts:
  - [user1@example.com, {}]
  - {{address: user2@example.com, hash: {}}}
mailsrv:
  tls:
    acme:
      email: admin@example.com
      eab: {{kid: one, hmac: macOfTheAccountAtTheCA}}
      challenge: dns-01
      provider: rfc2136
      settings: {{RFC2136_TSIG_SECRET: tsigOfTheNameServer}}
  relay: {{host: smtp.example.org, user: userOfTheRelay, password: passwordOfTheRelay}}
"""


@pytest.fixture(scope="session")
def machine(minion, pillar):
    directory = pillar(PILLAR.format(SALT, PASSWORD, HASH))
    return minion(pillar=directory, services=("opensmtpd", "dovecot"))


def found(text):
    return re.findall(
        rf"{SALT}|{PASSWORD}|{CHANGED}|macOfThe|tsigOfThe|userOfThe|passwordOfThe|\$6\$[\w./$]*"
        "|XaXaXa|PRIVATE KEY",
        str(text),
    )


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
    (relays,) = [name for name in first if name.endswith("/relays")]
    assert "all userOfTheRelay:passwordOfTheRelay\n" in machine.at(relays).read_text()
    accounts = [["user1@example.com", CHANGED]]
    relay = {"host": "smtp.example.org", "user": "userOfTheRelay", "password": CHANGED}
    second = machine.write(pillar={"accounts": accounts, "mailsrv": {"relay": relay}})
    assert f"all userOfTheRelay:{CHANGED}\n" in machine.at(relays).read_text()
    assert second[relays]
    assert all(second[name] and HASH not in machine.at(name).read_text() for name in secrets)
    assert not found((first, second))
    assert not found(caplog.text)


def test_the_files_with_hashes_are_closed(machine):
    closed = ("mailsrv-dovecot-passwd", "mailsrv-opensmtpd-credentials", "mailsrv-opensmtpd-relays")
    for name in closed:
        state = machine.state(f"file: {name}")
        assert (state["mode"], state["show_changes"]) == ("0640", False)
        assert state["group"] in ("dovecot", "opensmtpd")
    state = machine.state("file: mailsrv-acme-config")
    assert (state["user"], state["mode"], state["show_changes"]) == ("root", "0600", False)


KEYS = {"mailsrv.password_key": rb"(?s).{32}", "mailsrv.srs_key": rb'srs key "[0-9a-f]{48}"\n'}


@pytest.fixture
def key_state(machine, tmp_path):
    """Apply the state of a key to tmp/key."""
    if os.geteuid():
        pytest.skip("only root can give a file to root")
    return lambda name, test=False, **arguments: machine.state_function(name, test)(
        str(tmp_path / "key"), **arguments
    )


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_made_once_for_root_alone(key_state, tmp_path, name):
    key = tmp_path / "key"
    assert key_state(name, test=True)["result"] is None
    assert not key.exists()
    assert [key_state(name)["changes"] for _ in range(2)] == [{"key": "new"}, {}]
    assert re.fullmatch(KEYS[name], key.read_bytes())
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [key]
    key.chmod(0o644)
    assert key_state(name)["changes"] == {"owner": "root, 0600"}
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (before, 0o600)


@pytest.mark.parametrize("left", [b"", bytes(4096)], ids=["empty", "zeros"])
@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_a_power_cut_emptied_is_named_and_made_again(key_state, tmp_path, name, left):
    """smtpd did not start any more, or every run failed."""
    key = tmp_path / "key"
    key.write_bytes(left)
    made = key_state(name)
    assert (made["result"], made["changes"]) == (True, {"key": "new"})
    assert made["warnings"][0].startswith(f"{key} was empty, as after a power cut: ")
    assert re.fullmatch(KEYS[name], key.read_bytes())


@pytest.mark.parametrize("name", KEYS)
def test_a_file_that_is_no_key_is_refused_and_stays(key_state, tmp_path, name):
    key = tmp_path / "key"
    key.write_text("something else\n")
    refused = key_state(name)
    assert (refused["result"], refused["changes"]) == (False, {})
    assert "remove it" in refused["comment"]
    assert "something" not in str(refused)
    assert key.read_text() == "something else\n"


def test_another_name_of_the_srs_key_makes_a_new_one_and_keeps_the_one_before(key_state, tmp_path):
    key, found = tmp_path / "key", []
    for name in ("", "2026", "2027", "2027"):
        key_state("mailsrv.srs_key", key=name)
        found.append(key.read_text().splitlines())
    assert [lines[0] for lines in found[1:]] == ["# 2026", "# 2027", "# 2027"]
    for before, after in itertools.pairwise(found[:3]):
        signing = next(line for line in before if line.startswith("srs key "))
        assert after[2:] == [signing.replace("srs key", "srs key backup")]
    assert found[3] == found[2]


def test_what_a_killed_run_has_left_beside_its_files_goes(machine, tmp_path):
    """Salt's copy of a file with hashes stayed, under a name that nobody looks for."""
    if os.geteuid():
        pytest.skip("the copies are root's")
    directory, elsewhere = tmp_path / "mail", tmp_path / "smtpd.conf"
    directory.mkdir()
    kept = [
        directory / "credentials",
        directory / "credentials.old",
        directory / "vdomainsaaaaaaaa",
    ]
    left = [directory / "credentialsqxcjz_3t", tmp_path / "smtpd.confabcdefgh"]
    for file in (*kept, *left, elsewhere):
        file.write_text("secret")
        file.chmod(0o600)
    for test, result in ((True, None), (False, True)):
        tidied = machine.state_function("mailsrv.tidied", test)
        ret = tidied(str(directory), files=[str(elsewhere)])
        assert (ret["result"], ret["changes"]) == (result, {"deleted": sorted(map(str, left))})
    assert [file for file in left if file.exists()] == []
    assert all(file.exists() for file in (*kept, elsewhere))
    assert tidied(str(directory), files=[str(elsewhere)])["changes"] == {}
