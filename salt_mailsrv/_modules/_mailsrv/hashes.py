"""
Password hashes that both mail daemons verify: the kinds of crypt(5), ``$6$`` (SHA512-CRYPT) made.

Also what a plain password may be, and the hashes that stay: the salt of a hash is derived from a
key, the address and the password, so a hash with this very salt is known to be that of this
password, at the cost of one HMAC. Without the key the salt tells nothing about the password.

A password or a hash is never part of a sentence.
"""

import base64
import hashlib
import hmac
import re
import secrets
import warnings

try:
    with warnings.catch_warnings():
        # "'crypt' is deprecated and slated for removal in Python 3.13", from inside passlib
        warnings.simplefilter("ignore", DeprecationWarning)
        from passlib.hash import sha512_crypt
except ImportError:
    sha512_crypt = None

CRYPT64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SALT_LENGTH = 16
MAX_LENGTH = 511  # bytes: libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE, less the NUL that ends it
DEFAULT_ROUNDS = 5000  # that of crypt(3), which is not written out
MIN_ROUNDS = 1000
MAX_ROUNDS = 999_999_999
KEY_LENGTH = 32  # bytes of the key that salts are derived from

SHA512_CRYPT = re.compile(
    r"\$6\$(?:rounds=(?P<rounds>[1-9][0-9]{3,8})\$)?(?P<salt>[./0-9A-Za-z]{0,16})\$[./0-9A-Za-z]{86}"
)

# The kinds of crypt(5) that are still good. Which of them the crypt(3) of a system verifies, and
# with it OpenSMTPD, is known to the formula (osmap.yaml); Dovecot asks crypt(3) too.
KINDS = {
    "sha512": SHA512_CRYPT,
    "sha256": re.compile(
        r"\$5\$(?:rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{0,16}\$[./0-9A-Za-z]{43}"
    ),
    "bcrypt": re.compile(r"\$2[ab]\$[0-3][0-9]\$[./0-9A-Za-z]{53}"),
    "bcrypt-y": re.compile(r"\$2y\$[0-3][0-9]\$[./0-9A-Za-z]{53}"),
    "yescrypt": re.compile(r"\$y\$[./0-9A-Za-z]{3,16}\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43}"),
}

# How hashes begin that cannot be used, and why.
REFUSED = (
    (r"\$argon2", "is Argon2, which OpenSMTPD cannot verify: it asks crypt(3)"),
    (r"\$(1|md5)\b", "is MD5, which falls to anybody who gets hold of it"),
    (r"\{[A-Za-z0-9.-]+\}\$", "starts with Dovecot's {SCHEME}, which OpenSMTPD does not know"),
)
CURE = "make one with: salt-call password.hash PASSWORD"

# A line of either daemon's file: the address and the whole hash, which is nobody's behind a "!".
STANDING = re.compile(
    r"([^\s:]+)(?: |:\{SHA512-CRYPT\})!?(\$6\$[./0-9A-Za-z=$]+\$[./0-9A-Za-z]{86})(?:$|:)"
)


def lint(hash, kinds=None):
    """
    What is wrong with a hash that is to stand in the pillar; None where both daemons verify it.

    `kinds` are those that the system's crypt(3) verifies, of :data:`KINDS`; None: all of them.
    """
    text = hash if isinstance(hash, str) else ""
    for kind, form in KINDS.items():
        if form.fullmatch(text):
            if kinds is None or kind in kinds:
                return None
            prefix = text.split("$")[1]
            return f"is of the kind ${prefix}$, which crypt(3) here does not verify; {CURE}"
    for form, fault in REFUSED:
        if re.match(form, text):
            return f"{fault}; {CURE}"
    return f"is not of the form $6$SALT$HASH; {CURE}"


def fault(password):
    """What is wrong with a plain password, a text; None where crypt(3) takes it."""
    if not password:
        return "is empty; give one, or a hash"
    if "\0" in password:
        return "holds a NUL character, where crypt(3) stops; remove it"
    try:
        length = len(password.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if length > MAX_LENGTH:
        return f"is longer than the {MAX_LENGTH} bytes crypt(3) takes; shorten it"
    return None


def using(salt, rounds):
    """What hashes with a salt, of which crypt(3) reads 16 characters, and that many rounds."""
    return sha512_crypt.using(salt=salt[:SALT_LENGTH], rounds=rounds)


def random_salt():
    """A salt nobody knows."""
    return "".join(secrets.choice(CRYPT64) for _ in range(SALT_LENGTH))


def prefix(key, address, password, rounds):
    """How the hash of an account's password begins: all of it but what is costly."""
    mac = hmac.new(key, f"{address}\0{password}".encode(), hashlib.sha256).digest()
    salt = base64.b64encode(mac[:12], altchars=b"./").decode("ascii")
    cost = "" if rounds == DEFAULT_ROUNDS else f"rounds={rounds}$"
    return f"$6${cost}{salt}$"


def standing(lines):
    """The hashes in the lines of a daemon's file, by address."""
    return dict(match.groups() for match in map(STANDING.match, lines) if match)


def of_accounts(accounts, key, stand, rounds):
    """
    The hash of every account: the one that stands, where it is this password's, else a new one.

    accounts
        As :func:`_mailsrv.accounts.read` reads them, valid.

    key
        Bytes; who has it, and a hash, can tell whether a password is right without hashing.

    stand
        The hashes that stand, by address.

    rounds
        Cost of a new hash.

    Returns a dictionary of hashes by address, in the order of the accounts.
    """
    result = {}
    for account in accounts:
        address, secret = account["address"], account["secret"]
        if "hash" in secret:
            result[address] = secret["hash"]
            continue
        begins = prefix(key, address, secret["password"], rounds)
        if stand.get(address, "").startswith(begins):
            result[address] = stand[address]
        else:
            salt = begins.rsplit("$", 2)[1]
            result[address] = using(salt, rounds).hash(secret["password"])
    return result
