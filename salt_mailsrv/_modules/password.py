"""
Password hashes that both mail daemons verify: SHA512-CRYPT, the ``$6$`` form of crypt(3).

Pure functions of their arguments: no pillar, no file, no network. A password or a hash is never
part of an error.
"""

import re
import secrets
import warnings

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    with warnings.catch_warnings():
        # "'crypt' is deprecated and slated for removal in Python 3.13", from inside passlib
        warnings.simplefilter("ignore", DeprecationWarning)
        from passlib.hash import sha512_crypt
except ImportError:
    sha512_crypt = None

__virtualname__ = "password"

CRYPT64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SALT_LENGTH = 16
MAX_LENGTH = 511  # bytes: libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE, less the NUL that ends it
DEFAULT_ROUNDS = 5000
MIN_ROUNDS = 1000
MAX_ROUNDS = 999_999_999

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


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'password.hash'".
    return __virtualname__


def hash(pw, salt=None, rounds=DEFAULT_ROUNDS):
    """
    Hash a password as ``crypt(3)`` does with ``$6$``.

    pw
        The password, text.

    salt
        The salt, of ``./0-9A-Za-z``. ``crypt(3)`` reads the first 16 characters, and so does this.
        Absent: 16 fresh random characters.

    rounds
        Cost, 1000 to 999999999; 5000 is the default of ``crypt(3)`` and is not written out.

    Returns the hash, e.g. ``$6$aoiuasdfhalsdfiu$…``. Raises ``SaltInvocationError`` for a password
    or salt that crypt(3) cannot take, ``CommandExecutionError`` where passlib is missing.

    CLI Example:

    .. code-block:: bash

        salt-call password.hash 'correct horse battery staple'
        salt-call password.hash pass1 aoiuasdfhalsdfiuyh
    """
    return _using(salt, rounds).hash(_password(pw))


def verify(pw, hash):
    """
    Whether a password belongs to a ``$6$`` hash.

    pw
        The password, text.

    hash
        A hash as :func:`hash` makes it, with or without Dovecot's ``{SHA512-CRYPT}`` before it.

    Returns ``True`` or ``False``. Raises ``SaltInvocationError`` for a hash of another kind.

    CLI Example:

    .. code-block:: bash

        salt-call password.verify pass1 '$6$aoiuasdfhalsdfiu$…'
    """
    hash = str(hash).removeprefix("{SHA512-CRYPT}")
    if not SHA512_CRYPT.fullmatch(hash):
        raise SaltInvocationError("password.verify: the hash is not of the form $6$SALT$HASH")
    return _sha512_crypt().verify(_password(pw), hash)


def lint(hash, kinds=None):
    """
    What is wrong with a hash that is to stand in the pillar.

    hash
        A hash in crypt(3) form, without Dovecot's ``{SCHEME}``.

    kinds
        The kinds that the system's ``crypt(3)`` verifies, of ``sha512`` (``$6$``), ``sha256``
        (``$5$``), ``bcrypt`` (``$2a$``, ``$2b$``), ``bcrypt-y`` (``$2y$``) and ``yescrypt``
        (``$y$``). Absent: all of them.

    Returns a sentence with the cure, never with the hash, or ``None`` where both daemons verify it.

    CLI Example:

    .. code-block:: bash

        salt-call password.lint '$6$aoiuasdfhalsdfiu$…'
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


def _using(salt, rounds):
    if salt is None:
        salt = "".join(secrets.choice(CRYPT64) for _ in range(SALT_LENGTH))
    salt = str(salt)[:SALT_LENGTH]
    if not salt or set(salt) - set(CRYPT64):
        raise SaltInvocationError(
            f"password.hash: the salt {salt!r} is not of the characters ./0-9A-Za-z"
        )
    if isinstance(rounds, bool) or not isinstance(rounds, int):
        raise SaltInvocationError(f"password.hash: rounds must be a number, not {rounds!r}")
    if not MIN_ROUNDS <= rounds <= MAX_ROUNDS:
        raise SaltInvocationError(
            f"password.hash: rounds={rounds} is outside {MIN_ROUNDS} to {MAX_ROUNDS}"
        )
    return _sha512_crypt().using(salt=salt, rounds=rounds)


def _password(pw):
    if isinstance(pw, bool) or pw is None:
        raise SaltInvocationError(
            "password: YAML reads a bare yes, no, true, false or null as a value of its own; "
            "quote the password twice: '\"yes\"'"
        )
    if not isinstance(pw, (str, int)):
        raise SaltInvocationError("password: the password is not text; quote it twice: '\"1.10\"'")
    pw = str(pw)
    if not pw:
        raise SaltInvocationError("password: the password is empty")
    if "\0" in pw:
        raise SaltInvocationError("password: crypt(3) stops at a NUL character; remove it")
    try:
        length = len(pw.encode())
    except UnicodeEncodeError:
        raise SaltInvocationError("password: the password is not UTF-8") from None
    if length > MAX_LENGTH:
        raise SaltInvocationError(f"password: crypt(3) takes at most {MAX_LENGTH} bytes")
    return pw


def _sha512_crypt():
    if sha512_crypt is None:
        raise CommandExecutionError(
            "password: the Python library passlib is missing where Salt runs; "
            "install it with: salt-pip install passlib (or, in Salt's venv, pip install passlib)"
        )
    return sha512_crypt
