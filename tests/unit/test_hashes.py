"""_mailsrv.hashes: what both daemons verify; a hash stands as long as its password does."""

import re

import pytest
from _mailsrv import hashes
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import mailsrv, password

ADDRESSES = ["user1@example.com", "users2@example.com", "users3@test.com"]
DAEMONS = {
    "dovecot": ("dovecot-passwd", "{}:{{SHA512-CRYPT}}{}::::::\n"),
    "opensmtpd": ("credentials", "{} {}\n"),
}
SEED_HASH = (
    "$6$aoiuasdfhalsdfiu$2K1Ck/C/FKHeU5wqftVRuuQralARHm2EhAAxc1N3cOFfR4cggSGunhuWnJ3."
    "SxB28h1B4b8oI6vXBxnPirJgB1"
)


# What crypt(3) makes of hunter2.
KINDS = {
    "sha512": [SEED_HASH],
    "sha256": [
        "$5$abcdefgh$XEPmEiAJvPG31m/DaIsyckkv.Sxd.8NrmElXxCKFQr/",
        "$5$rounds=1000$abcdefgh$zZYuNxGKBwExkM8Jjfn/KVmR8hkyEavAELgSGSoRhk5",
    ],
    "bcrypt": [
        "$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.",
        "$2a$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.",
    ],
    "bcrypt-y": ["$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8."],
    "yescrypt": [
        "$y$j9T$abcdefghijklmnop$ZrkBpUBCDi3MK7LE9Ay9jscShCxVaFVi4wHPDobzz36",
        "$y$jB5$abcdefgh$d9O08xJyn0QwzG8s03u3J4Loy3DHTAJn/81xGBxKpA5",
    ],
}
CURE = "make one with: salt-call password.hash PASSWORD"


@pytest.mark.parametrize(("kind", "hash"), [(k, h) for k, hashes in KINDS.items() for h in hashes])
def test_lint_knows_what_the_crypt_of_a_system_verifies(kind, hash):
    assert hashes.lint(hash) is None
    assert hashes.lint(hash, [kind]) is None
    others = [other for other in KINDS if other != kind]
    prefix = hash[: hash.index("$", 1) + 1]
    assert hashes.lint(hash, others) == (
        f"is of the kind {prefix}, which crypt(3) here does not verify; {CURE}"
    )


@pytest.mark.parametrize(
    ("hash", "fault"),
    [
        *((hash, "is not of the form $6$SALT$HASH") for hash in ("", "hunter2", SEED_HASH[:-1])),
        *((hash, "is not of the form $6$SALT$HASH") for hash in (None, 6, [SEED_HASH])),
        (SEED_HASH + "\n", "is not of the form $6$SALT$HASH"),
        (SEED_HASH.replace("$6$", "$6$rounds=999$"), "is not of the form $6$SALT$HASH"),
        ("{PLAIN}hunter2", "is not of the form $6$SALT$HASH"),
        (
            "{SHA512-CRYPT}" + SEED_HASH,
            "starts with Dovecot's {SCHEME}, which OpenSMTPD does not know",
        ),
        (
            "$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaA",
            "is Argon2, which OpenSMTPD cannot verify: it asks crypt(3)",
        ),
        (
            "$1$abcdefgh$vhxKZ/s1ygZHyCEDPyqtQ/",
            "is MD5, which falls to anybody who gets hold of it",
        ),
    ],
)
def test_lint_says_why_a_hash_cannot_be_used_and_how_to_make_one(hash, fault):
    assert hashes.lint(hash) == f"{fault}; {CURE}"


@pytest.mark.parametrize("hash", [SEED_HASH, *(hash for made in KINDS.values() for hash in made)])
def test_lint_has_nothing_to_say_about_a_good_hash(hash):
    assert hashes.lint(hash) is None


@pytest.mark.parametrize(
    ("password", "fault"),
    [
        ("x", None),
        ("\xe4" * 255 + "x", None),
        ("", "is empty; give one, or a hash"),
        ("hunter2\0", "holds a NUL character, where crypt(3) stops; remove it"),
        ("\xe4" * 256, "is longer than the 511 bytes crypt(3) takes; shorten it"),
        ("hunter2\udcff", "is not UTF-8"),
    ],
)
def test_a_plain_password_is_one_that_crypt_takes(password, fault):
    assert hashes.fault(password) == fault


# Hashes that stay

KEY = bytes(range(32))


def test_the_beginning_of_a_hash_is_known_without_hashing():
    begins = hashes.prefix(KEY, "a@example.com", "pass1", 5000)
    assert re.fullmatch(r"\$6\$[./0-9A-Za-z]{16}\$", begins)
    salt = begins.split("$")[2]
    assert hashes.using(salt, 5000).hash("pass1").startswith(begins)
    assert hashes.prefix(KEY, "a@example.com", "pass1", 1000) == f"$6$rounds=1000${salt}$"
    others = {
        hashes.prefix(bytes(32), "a@example.com", "pass1", 5000),
        hashes.prefix(KEY, "b@example.com", "pass1", 5000),
        hashes.prefix(KEY, "a@example.com", "pass2", 5000),
        # Where the address ends, and the password begins, is part of it.
        hashes.prefix(KEY, "a@example.comp", "ass1", 5000),
    }
    assert len(others | {begins}) == 5


def test_the_hashes_that_stand_are_read_from_the_lines_of_both_daemons():
    good = f"$6$salt${'a' * 86}"
    lines = [
        f"a@example.com:{{SHA512-CRYPT}}{good}::::::",
        f"b@example.com {good}",
        f"c@example.com:{{SHA512-CRYPT}}{good}::::::userdb_quota_storage_size=2G",
        *(f"d@example.com {good[:-1]}", "e@example.com", "# f@example.com", "", "g@example.com x"),
        *(f"h@example.com:{{PLAIN}}{good}", f"i@example.com {good} ", f" j@example.com {good}"),
    ]
    assert hashes.standing(lines) == dict.fromkeys(
        ("a@example.com", "b@example.com", "c@example.com"), good
    )


def test_a_hash_that_is_given_or_stands_is_taken_as_it_is():
    accounts = [
        {"address": "a@example.com", "secret": {"password": "pass1"}},
        {"address": "b@example.com", "secret": {"hash": "$y$whatever"}},
    ]
    begins = hashes.prefix(KEY, "a@example.com", "pass1", 1000)
    first = hashes.of_accounts(accounts, KEY, {}, 1000)
    assert [*first] == ["a@example.com", "b@example.com"]
    assert first["a@example.com"].startswith(begins)
    assert first["b@example.com"] == "$y$whatever"
    standing = {"a@example.com": f"{begins}whatever", "b@example.com": "another"}
    assert hashes.of_accounts(accounts, KEY, standing, 1000) == {
        "a@example.com": f"{begins}whatever",
        "b@example.com": "$y$whatever",
    }


# Runs of both templates, as the command mailsrv.hashes serves them


@pytest.fixture
def key(tmp_path):
    file = tmp_path / "password.key"
    file.write_bytes(KEY)
    return file


@pytest.fixture
def hashed(monkeypatch):
    """The passwords that were hashed."""
    calls, using = [], hashes.using

    class Noted:
        def __init__(self, *arguments):
            self._made = using(*arguments)

        def hash(self, password):
            calls.append(password)
            return self._made.hash(password)

    monkeypatch.setattr(hashes, "using", Noted)
    return calls


@pytest.fixture
def run(loader, known, seed, key, hashed, tmp_path):
    """A run of both templates, as a highstate makes it; the hashes that the daemons read."""
    facts = known()
    facts["directory"] = facts["dovecot"]["directory"] = str(tmp_path)
    files = {daemon: tmp_path / name for daemon, (name, _) in DAEMONS.items()}

    def run(pillar=seed, rounds=5000):
        loader["__pillar__"].clear()
        settings = {**pillar.get("mailsrv", {}), "passwords": {"rounds": rounds}}
        loader.next_run(**{**pillar, "mailsrv": settings})
        hashed.clear()
        for daemon, (_, line) in DAEMONS.items():
            found = mailsrv.hashes()
            files[daemon].write_text("".join(line.format(*pair) for pair in found.items()))
        return found

    run.files = files
    return run


def test_every_account_gets_the_hash_of_its_password_in_the_order_of_the_pillar(run):
    found = run()
    assert list(found) == ADDRESSES
    assert all(map(password.verify, ["pass1", "pass2", "pass3"], found.values()))


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
    [
        *(b"", b"# a comment\n\n", b"user1@example.com\n"),
        *(b"user1@example.com:{PLAIN}pass1::::::\n", bytes(range(256))),
    ],
)
def test_lines_without_a_hash_of_ours_are_no_hash(run, hashed, standing):
    run()
    for file in run.files.values():
        file.write_bytes(standing)
    run()
    assert hashed == ["pass1", "pass2", "pass3"]


def test_a_hash_that_was_cut_short_is_made_anew(run):
    first = run()
    for file in run.files.values():
        file.write_text(re.sub(r"(\$6\$[^:\s]+)[^:\s]{9}", r"\1", file.read_text()))
    assert run() == first


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_key_of_another_length_is_a_fault_with_its_cure(run, key, length):
    key.write_bytes(bytes(length))
    with pytest.raises(CommandExecutionError) as raised:
        run()
    assert str(raised.value) == (
        f"{key} must hold 32 bytes, not {length}; "
        "remove it and run again: every password is hashed anew"
    )


@pytest.mark.parametrize("empty", [True, False])
def test_without_a_key_nothing_is_hashed(run, key, empty):
    key.write_bytes(b"") if empty else key.unlink()
    with pytest.raises(CommandExecutionError) as raised:
        run()
    assert str(raised.value) == f"{key} is missing; the state mailsrv.genkeys makes it"


def test_in_test_mode_a_key_that_is_still_to_be_made_is_no_fault(run, key, loader):
    key.unlink()
    loader["__opts__"]["test"] = True
    assert all(map(password.verify, ["pass1", "pass2", "pass3"], run().values()))
    assert not key.exists()


WEB1 = "web1.example.com"
GIVEN = f"$6$salt${'a' * 86}"
OTHER = f"$6$other${'b' * 86}"


def test_the_hashes_of_satellites_stand_beside_those_of_the_accounts(run, loader):
    accounts = {"domains": ["example.com"], "accounts": [["a@example.com", "pass1"]]}
    found = run({**accounts, "mailsrv": {"satellites": {WEB1: {"hash": GIVEN}}}})
    assert found[WEB1] == GIVEN
    assert password.verify("pass1", found["a@example.com"])
    loader["__salt__"]["mine.get"] = lambda *_, **__: {WEB1: {"hash": OTHER, "reader": "mx"}}
    assert run({**accounts, "mailsrv": {"satellites": "*"}})[WEB1] == OTHER


def test_a_minion_with_the_name_of_an_account_does_not_get_its_password_changed(run, loader):
    loader["__salt__"]["mine.get"] = lambda *_, **__: {"a@example.com": {"hash": OTHER}}
    pillar = {
        "domains": ["example.com"],
        "accounts": [{"address": "a@example.com", "hash": GIVEN}],
        "mailsrv": {"satellites": "*"},
    }
    assert run(pillar) == {"a@example.com": GIVEN}
    assert mailsrv.here()["model"]["satellites"] == []
