"""
DKIM keys, RSA (RFC 6376) and Ed25519 (RFC 8463), and the DNS records that publish them.

Pure functions of their arguments: no pillar, no file, no network. Keys on disk are the work of the
state :mod:`dkim.key_present`.
"""

import base64
import binascii

from _mailsrv import keys, records
from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    from Crypto.PublicKey import ECC, RSA
except ImportError:
    try:
        from Cryptodome.PublicKey import ECC, RSA  # what Salt's own packages bring
    except ImportError:
        ECC = RSA = None

__virtualname__ = "dkim"

# RFC 8301: signers use 1024 bits at least and should use 2048; verifiers take up to 4096.
MIN_BITS = 1024
MAX_BITS = 4096

ALGORITHMS = ("rsa", "ed25519")

# RFC 8032, section 5.1.5: a private key and a public key of Ed25519 have this many octets.
ED25519_LENGTH = 32


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'dkim.generate'".
    return __virtualname__


def generate(bits=2048, algorithm="rsa"):
    """
    Make a key pair.

    bits
        Length of an RSA key: 1024, 2048 (the default), 3072 or 4096; its exponent is 65537. An
        Ed25519 key has one length only.

    algorithm
        ``rsa`` (the default) or ``ed25519``.

    Returns ``[private, public]``: the private key as PEM text, Ed25519 as PKCS#8; the public key as
    base64 text without newlines, as ``p=`` wants it: of RSA the SubjectPublicKeyInfo (RFC 6376,
    section 3.6.1), of Ed25519 the bare 32 octets (RFC 8463, section 4).

    CLI Example:

    .. code-block:: bash

        salt-call dkim.generate
        salt-call dkim.generate 4096
        salt-call dkim.generate algorithm=ed25519
    """
    if algorithm not in ALGORITHMS:
        raise SaltInvocationError(
            f"dkim.generate: algorithm={algorithm!r} is not {' or '.join(ALGORITHMS)}"
        )
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise SaltInvocationError(f"dkim.generate: bits must be a number, not {bits!r}")
    if not MIN_BITS <= bits <= MAX_BITS or bits % 256:
        raise SaltInvocationError(
            f"dkim.generate: bits={bits} is not 1024, 2048, 3072 or 4096 "
            f"(or another multiple of 256 between them)"
        )
    _library()
    if algorithm == "ed25519":
        private = ECC.generate(curve="Ed25519").export_key(format="PEM")
    else:
        private = RSA.generate(bits, e=65537).export_key("PEM").decode("ascii")
    return [private, public_key(private)]


def public_key(private):
    """
    The public half of a private key.

    private
        A key as PEM text: RSA, PKCS#1 or PKCS#8, or Ed25519, PKCS#8.

    Returns base64 text without newlines, as ``p=`` wants it. Raises ``SaltInvocationError`` where
    the text holds no such key; the text is not repeated in the error.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.public_key "$(cat /etc/mail/dkim/example.com/mailsrv.private)"
    """
    key = _load(private).public_key()
    der = key.export_key(format="DER")
    # The octets themselves are the last thing in Ed25519's SubjectPublicKeyInfo (RFC 8410).
    return _base64(der if isinstance(key, RSA.RsaKey) else der[-ED25519_LENGTH:])


def algorithm(private):
    """
    The algorithm of a private key given as PEM text: ``rsa`` or ``ed25519``.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.algorithm "$(cat /etc/mail/dkim/example.com/mailsrv.private)"
    """
    return "rsa" if isinstance(_load(private), RSA.RsaKey) else "ed25519"


def bare(private):
    """
    An Ed25519 private key as the base64 text of its 32 octets (RFC 8032, section 5.1.5).

    private
        The key as PEM text, PKCS#8. Raises ``SaltInvocationError`` where it is none of Ed25519.

    rspamd 3 reads its key in this form alone.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.bare "$(cat /etc/mail/dkim/example.com/mailsrv-ed25519.private)"
    """
    key = _load(private)
    if isinstance(key, RSA.RsaKey):
        raise SaltInvocationError("dkim.bare: the key is RSA; rspamd reads that as it is")
    return _base64(key.seed)


def txt(public):
    """
    The value of the TXT record of a public key (RFC 6376, section 3.6.1), as one string.

    public
        The public key, base64, as :func:`generate` returns it; its length tells the algorithm.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.txt MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB…
    """
    try:
        key = base64.b64decode(public, validate=True)
        if public != _base64(key):
            raise ValueError
    except (TypeError, ValueError, binascii.Error):
        raise SaltInvocationError("dkim.txt: the public key is not base64 on one line") from None
    kind = "ed25519" if len(key) == ED25519_LENGTH else "rsa"
    return f"v=DKIM1; k={kind}; t=s; p={public}"


def record(selector, public):
    """
    The public key as a line of a zone file that BIND and NSD load, at every key size.

    selector
        The selector; the record's name is ``SELECTOR._domainkey``, relative to the zone.

    public
        The public key, base64, as :func:`generate` returns it.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.record mailsrv MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB…
    """
    return f"{selector}._domainkey\tIN\tTXT\t{records.quoted(txt(public))}"


def next_stage(known, wanted, lacking, now, keep, revoked=(), waits=False):
    """
    The next step in the life of a key: which selector signs, and which previous ones are over.

    Mail is signed under another selector only when every server shows its record, and the record of
    before stays for as long as mail signed under it may be on its way.

    known
        How it stands: ``{"signing": SELECTOR, "retired": {SELECTOR: WHEN}}``, the times in seconds
        since 1970; empty where nothing has signed yet.

    wanted
        The selector that shall sign.

    lacking
        Why its record cannot be relied on yet: a sentence for each server, none where all show it.

    now
        The time, in seconds since 1970.

    keep
        For how many seconds the record of a selector that no longer signs is still looked up.

    revoked
        Selectors whose keys are known to others: they stop signing at once, whatever DNS shows.

    waits
        Whether the first key, too, waits for its record. Without it, it signs at once: there is
        nothing else to sign with.

    Returns a dictionary: ``signing`` (empty: nothing signs yet), ``retired``, ``over`` (the
    selectors whose keys are no longer needed), and ``says``, a sentence.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.next_stage '{"signing": "s1", "retired": {}}' s2 '[]' 1800000000 604800
    """
    return keys.next_stage(known, wanted, lacking, now, keep, revoked, waits)


def signs_for(domains, listed):
    """
    Whose signature mail of each domain has: its own; of one that is new, while its record is
    awaited, that of the nearest domain above it, or else of the first one that is signed.

    domains
        All domains.

    listed
        The keys that sign, as :func:`mailsrv.signing` returns them.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.signs_for '[a.example]' '[{"algorithm": rsa, "domains": [a.example]}]'
    """
    return keys.signs_for(domains, listed)


def _load(private):
    _library()
    for read in (RSA.import_key, ECC.import_key):
        try:
            key = read(private)
        except (ValueError, IndexError, TypeError, AttributeError):
            continue
        if key.has_private() and getattr(key, "curve", "Ed25519") == "Ed25519":
            return key
    raise SaltInvocationError("dkim: the text is not an RSA or Ed25519 private key in PEM form")


def _library():
    if RSA is None:
        raise CommandExecutionError(
            "dkim: the Python library pycryptodome is missing where Salt runs; install it with: "
            "salt-pip install pycryptodome (or, in Salt's venv, pip install pycryptodome)"
        )


def _base64(octets):
    return base64.b64encode(octets).decode("ascii")
