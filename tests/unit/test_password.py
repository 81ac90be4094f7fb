"""password: hashes that crypt(3) makes and verifies."""

import ctypes
import ctypes.util
import re

import pytest
from _mailsrv import hashes
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.hash import sha512_crypt
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import password

SEED_SALT = "aoiuasdfhalsdfiuyh"
SEED_HASH = (
    "$6$aoiuasdfhalsdfiu$2K1Ck/C/FKHeU5wqftVRuuQralARHm2EhAAxc1N3cOFfR4cggSGunhuWnJ3."
    "SxB28h1B4b8oI6vXBxnPirJgB1"
)
SECRET = "hunter2"

# The test vectors of Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512", and the seed's.
VECTORS = [
    ("pass1", SEED_SALT, 5000, SEED_HASH),
    (
        "This is just a test",
        "toolongsaltstring",
        5000,
        "$6$toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSb"
        "q3y6JMxxl8audkUEm0",
    ),
    (
        "Hello world!",
        "saltstringsaltstring",
        10000,
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8"
        "vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        "we have a short salt string but not a short password",
        "short",
        77777,
        "$6$rounds=77777$short$WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxF"
        "mtlcGZelFl5CxtgfiAc0",
    ),
]

salts = st.text(hashes.CRYPT64, min_size=1, max_size=20)
passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=100)


@pytest.fixture(scope="module")
def crypt():
    """crypt(3) of this machine, which is what OpenSMTPD asks."""
    try:
        function = ctypes.CDLL(ctypes.util.find_library("crypt")).crypt
    except (AttributeError, OSError):
        pytest.skip("this machine's crypt(3) cannot be called")
    function.restype = ctypes.c_char_p
    return lambda pw, setting: function(pw.encode(), setting.encode()).decode()


@pytest.mark.parametrize(("pw", "salt", "rounds", "expected"), VECTORS)
def test_hashes_are_those_of_the_specification(pw, salt, rounds, expected):
    assert password.hash(pw, salt, rounds) == expected
    assert password.verify(pw, expected)


@pytest.fixture(scope="module", params=["os_crypt", "builtin"])
def backend(request):
    """passlib's two ways: crypt(3) up to Python 3.12, its own from 3.13 on."""
    if not sha512_crypt.has_backend(request.param):
        pytest.skip(f"passlib cannot use {request.param} here")
    before = sha512_crypt.get_backend()
    sha512_crypt.set_backend(request.param)
    yield request.param
    sha512_crypt.set_backend(before)


@settings(deadline=None, max_examples=50)
@given(passwords, salts, st.integers(1000, 1100))
def test_hashes_are_those_of_this_machines_crypt(crypt, backend, pw, salt, rounds):
    assert password.hash(pw, salt, rounds) == crypt(pw, f"$6$rounds={rounds}${salt}$")


def test_the_longest_password_is_the_longest_that_crypt_takes(crypt):
    longest = "x" * 511
    assert password.hash(longest, "salt") == crypt(longest, "$6$salt$")
    assert crypt(longest + "x", "$6$salt$") == "*0"
    with pytest.raises(SaltInvocationError, match="511"):
        password.hash(longest + "x")


def test_without_a_salt_every_hash_has_a_new_one():
    salts = {password.hash("pass1").split("$")[2] for _ in range(3)}
    assert len(salts) == 3
    assert all(re.fullmatch("[./0-9A-Za-z]{16}", salt) for salt in salts)


def test_five_thousand_rounds_are_not_written_out():
    assert password.hash("pass1", "salt") == password.hash("pass1", "salt", rounds=5000)
    assert password.hash("pass1", "salt").startswith("$6$salt$")


def test_a_number_on_the_command_line_is_a_password_as_it_was_in_the_seed():
    assert password.hash(12345, "salt") == password.hash("12345", "salt")


def test_verify_knows_the_right_password_from_another():
    assert password.verify("pass1", SEED_HASH) is True
    assert password.verify("pass2", SEED_HASH) is False
    assert password.verify("pass1", "{SHA512-CRYPT}" + SEED_HASH) is True


@pytest.mark.parametrize(
    ("salt", "rounds", "error"),
    [
        ("", 5000, "password.hash: the salt '' is not of the characters ./0-9A-Za-z"),
        ("so:so", 5000, "password.hash: the salt 'so:so' is not of the characters ./0-9A-Za-z"),
        ("a\nb", 5000, "password.hash: the salt 'a\\nb' is not of the characters ./0-9A-Za-z"),
        ("sälz", 5000, "password.hash: the salt 'sälz' is not of the characters ./0-9A-Za-z"),
        ("rounds=1", 5000, "password.hash: the salt 'rounds=1' is not of the characters "),
        ("salt", 999, "password.hash: rounds=999 is outside 1000 to 999999999"),
        ("salt", 10**9, "password.hash: rounds=1000000000 is outside 1000 to 999999999"),
        ("salt", "5000", "password.hash: rounds must be a number, not '5000'"),
        ("salt", True, "password.hash: rounds must be a number, not True"),
    ],
)
def test_a_salt_or_cost_that_crypt_cannot_take_is_named(salt, rounds, error):
    with pytest.raises(SaltInvocationError) as raised:
        password.hash(SECRET, salt, rounds)
    assert str(raised.value).startswith(error)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "pw",
    ["", "hunter2\0", True, False, None, "hunter2" * 80, "hunter2" * 800, "hunter2\udcff"],
    ids=["empty", "NUL", "yes", "no", "null", "560 bytes", "5600 bytes", "no UTF-8"],
)
def test_a_password_that_crypt_cannot_take_is_refused_and_not_repeated(pw):
    with pytest.raises(SaltInvocationError) as raised:
        password.hash(pw)
    assert str(raised.value).startswith("password: ")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("pw", [1.10, ["hunter2"], {"hunter2": 1}], ids=repr)
def test_what_yaml_made_of_a_password_is_refused_rather_than_hashed(pw):
    """salt-call password.hash 1.10: YAML reads the number 1.1, another password."""
    with pytest.raises(SaltInvocationError, match="quote it twice"):
        password.hash(pw)


NO_HASHES = [
    "",
    "hunter2",
    SEED_HASH[:-1],
    SEED_HASH + "\n",
    SEED_HASH.replace("$6$", "$5$"),
    SEED_HASH.replace("$6$", "$6$rounds=999$"),
    "{SHA512-CRYPT}{SHA512-CRYPT}" + SEED_HASH,
    "$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe",
]


@pytest.mark.parametrize("hash", NO_HASHES)
def test_verify_refuses_a_hash_of_another_kind(hash):
    with pytest.raises(SaltInvocationError) as raised:
        password.verify(SECRET, hash)
    assert str(raised.value) == "password.verify: the hash is not of the form $6$SALT$HASH"


def test_lint_says_why_a_hash_cannot_be_used_and_nothing_of_a_good_one():
    assert password.lint(SEED_HASH) is None
    assert password.lint("hunter2") == (
        "is not of the form $6$SALT$HASH; make one with: salt-call password.hash PASSWORD"
    )
    assert "here does not verify" in password.lint(SEED_HASH, ["yescrypt"])


def test_without_passlib_the_module_loads_and_says_what_to_install(without, monkeypatch):
    monkeypatch.setattr(password, "hashes", without(hashes, "passlib", "passlib.hash"))
    assert password.__virtual__() == "password"
    assert password.lint(SEED_HASH) is None
    for call in (lambda: password.hash(SECRET), lambda: password.verify(SECRET, SEED_HASH)):
        with pytest.raises(CommandExecutionError) as raised:
            call()
        assert str(raised.value) == (
            "password: the Python library passlib is missing where Salt runs; "
            "install it with: salt-pip install passlib (or, in Salt's venv, pip install passlib)"
        )
