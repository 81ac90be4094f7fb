"""mailsrv.hashes: a hash is made once and stands as long as its password does."""

import re

import pytest
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import mailsrv, password

ADDRESSES = ["user1@example.com", "users2@example.com", "users3@test.com"]
DAEMONS = {"dovecot": "{}:{{SHA512-CRYPT}}{}::::::\n", "opensmtpd": "{} {}\n"}


@pytest.fixture
def key(tmp_path):
    file = tmp_path / "password.key"
    file.write_bytes(bytes(range(32)))
    return file


@pytest.fixture
def hashed(loader):
    """The passwords that were hashed."""
    calls = []

    def hash(pw, salt, rounds):
        calls.append(pw)
        return password.hash(pw, salt, rounds)

    loader["__salt__"]["password.hash"] = hash
    return calls


@pytest.fixture
def run(loader, seed, key, hashed, tmp_path):
    """A run of both templates, as a highstate makes it; the hashes that the daemons read."""
    files = {daemon: tmp_path / daemon for daemon in DAEMONS}

    def run(pillar=seed, rounds=5000):
        loader["__context__"].clear()
        hashed.clear()
        for daemon, line in DAEMONS.items():
            hashes = mailsrv.hashes(pillar, str(key), list(map(str, files.values())), rounds)
            files[daemon].write_text("".join(line.format(*pair) for pair in hashes.items()))
        return hashes

    run.files = files
    return run


def test_every_account_gets_the_hash_of_its_password_in_the_order_of_the_pillar(run):
    hashes = run()
    assert list(hashes) == ADDRESSES
    assert all(map(password.verify, ["pass1", "pass2", "pass3"], hashes.values()))


def test_each_password_is_hashed_once_for_both_daemons(run, hashed):
    run()
    assert hashed == ["pass1", "pass2", "pass3"]


def test_a_run_without_changes_hashes_nothing(run, hashed):
    first = run()
    assert run() == first
    assert hashed == []


@pytest.mark.parametrize("lost", DAEMONS)
def test_the_file_of_one_daemon_is_enough(run, hashed, lost):
    first = run()
    run.files[lost].unlink()
    assert run() == first
    assert hashed == []


def test_one_changed_password_hashes_one_account(run, hashed, seed):
    first = run()
    seed["accounts"][1][1] = "another"
    second = run(seed)
    assert hashed == ["another"]
    assert [a for a in ADDRESSES if first[a] != second[a]] == [ADDRESSES[1]]
    assert password.verify("another", second[ADDRESSES[1]])


def test_a_run_that_was_interrupted_between_the_daemons_ends_with_one_hash(run, seed):
    run()
    stale = run.files["opensmtpd"].read_text()
    seed["accounts"][1][1] = "another"
    whole = run(seed)
    run.files["opensmtpd"].write_text(stale)
    assert run(seed) == whole
    assert whole[ADDRESSES[1]] in run.files["opensmtpd"].read_text()


def test_a_new_account_leaves_the_others_as_they_are(run, hashed, seed):
    first = run()
    seed["accounts"].insert(0, ["new@test.com", "pass4"])
    second = run(seed)
    assert hashed == ["pass4"]
    assert {address: second[address] for address in ADDRESSES} == first


def test_an_account_that_is_gone_has_no_hash(run, seed):
    run()
    del seed["accounts"][0]
    assert list(run(seed)) == ADDRESSES[1:]


@pytest.mark.parametrize("what", ["salt", "no salt", "rounds", "key"])
def test_what_goes_into_every_hash_makes_all_of_them_anew(run, hashed, seed, key, what):
    first, rounds = run(), 5000
    if what == "salt":
        seed["salt"] = "another"
    elif what == "no salt":
        del seed["salt"]
    elif what == "rounds":
        rounds = 1000
    else:
        key.write_bytes(bytes(32))
    second = run(seed, rounds)
    assert hashed == ["pass1", "pass2", "pass3"]
    assert not set(first.values()) & set(second.values())
    assert all(map(password.verify, hashed, second.values()))
    assert all(value.startswith("$6$rounds=1000$") == (rounds == 1000) for value in second.values())


def test_equal_passwords_have_different_hashes(run, seed):
    seed["accounts"] = [[address, "pass1"] for address in ADDRESSES]
    assert len(set(run(seed).values())) == 3


def test_the_salt_of_a_hash_takes_all_of_crypts_characters_and_length(run):
    assert all(re.match(r"\$6\$[./0-9A-Za-z]{16}\$", value) for value in run().values())


def test_a_hash_of_the_pillar_is_passed_on_as_it_is(run, hashed, seed):
    given = password.hash("pass9", "salt")
    seed["accounts"] = [{"address": "A@test.com", "hash": given}]
    assert run(seed) == {"a@test.com": given}
    assert hashed == []


def test_the_pillar_may_stand_under_mailsrv(run, hashed, seed):
    first = run()
    assert run({"mailsrv": seed}) == first
    assert hashed == []


@pytest.mark.parametrize(
    "standing",
    ["", "# a comment\n\n", "user1@example.com\n", "user1@example.com:{PLAIN}pass1::::::\n"],
)
def test_lines_without_a_hash_of_ours_are_no_hash(run, hashed, standing):
    run()
    for file in run.files.values():
        file.write_text(standing)
    run()
    assert hashed == ["pass1", "pass2", "pass3"]


def test_a_hash_that_was_cut_short_is_made_anew(run):
    first = run()
    for file in run.files.values():
        file.write_text(re.sub(r"(\$6\$[^:\s]+)[^:\s]{9}", r"\1", file.read_text()))
    assert run() == first


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_a_fault_with_its_cure(run, key, length):
    key.write_bytes(bytes(length))
    with pytest.raises(CommandExecutionError) as raised:
        run()
    assert str(raised.value) == (
        f"{key} must hold 32 bytes, not {length}; "
        "remove it and run again: every password is hashed anew"
    )


def test_without_a_key_nothing_is_hashed(run, key):
    key.unlink()
    with pytest.raises(CommandExecutionError) as raised:
        run()
    assert str(raised.value) == f"{key} is missing; the state mailsrv.genkeys makes it"


def test_in_test_mode_a_key_that_is_still_to_be_made_is_no_fault(run, key, loader):
    key.unlink()
    loader["__opts__"]["test"] = True
    assert all(map(password.verify, ["pass1", "pass2", "pass3"], run().values()))
    assert not key.exists()
