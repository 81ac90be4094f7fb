"""
Password hashes that both mail daemons verify: SHA512-CRYPT, the ``$6$`` form of crypt(3).

No pillar, no file, no network. A password or a hash is never part of an error.
"""

from _mailsrv import hashes
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "password"


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'password.hash'".
    return __virtualname__


def hash(pw, salt=None, rounds=hashes.DEFAULT_ROUNDS):
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
    password = _plain(pw)
    salt = hashes.random_salt() if salt is None else str(salt)
    if not salt or set(salt[: hashes.SALT_LENGTH]) - set(hashes.CRYPT64):
        raise SaltInvocationError(
            f"password.hash: the salt {salt[: hashes.SALT_LENGTH]!r} is not of the characters "
            "./0-9A-Za-z"
        )
    if isinstance(rounds, bool) or not isinstance(rounds, int):
        raise SaltInvocationError(f"password.hash: rounds must be a number, not {rounds!r}")
    if not hashes.MIN_ROUNDS <= rounds <= hashes.MAX_ROUNDS:
        raise SaltInvocationError(
            f"password.hash: rounds={rounds} is outside {hashes.MIN_ROUNDS} to {hashes.MAX_ROUNDS}"
        )
    _library()
    return hashes.using(salt, rounds).hash(password)


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
    text = str(hash).removeprefix("{SHA512-CRYPT}")
    if not hashes.SHA512_CRYPT.fullmatch(text):
        raise SaltInvocationError("password.verify: the hash is not of the form $6$SALT$HASH")
    _library()
    return hashes.sha512_crypt.verify(_plain(pw), text)


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
    return hashes.lint(hash, kinds)


def _plain(pw):
    """The password of a command line, which YAML has read."""
    if isinstance(pw, bool) or pw is None:
        raise SaltInvocationError(
            "password: YAML reads a bare yes, no, true, false or null as a value of its own; "
            "quote the password twice: '\"yes\"'"
        )
    if not isinstance(pw, (str, int)):
        raise SaltInvocationError("password: the password is not text; quote it twice: '\"1.10\"'")
    fault = hashes.fault(str(pw))
    if fault:
        raise SaltInvocationError(f"password: the password {fault}")
    return str(pw)


def _library():
    if hashes.sha512_crypt is None:
        raise CommandExecutionError(
            "password: the Python library passlib is missing where Salt runs; "
            "install it with: salt-pip install passlib (or, in Salt's venv, pip install passlib)"
        )
