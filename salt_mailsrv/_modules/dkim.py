"""
DKIM keys (RFC 6376) and the DNS records that publish them.

Pure functions of their arguments: no pillar, no file, no network. Keys on disk are the work of the
state :mod:`dkim.key_present`.
"""

import base64
import binascii

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    from Crypto.PublicKey import RSA
except ImportError:
    try:
        from Cryptodome.PublicKey import RSA  # what Salt's own packages bring
    except ImportError:
        RSA = None

__virtualname__ = "dkim"

# RFC 8301: signers use 1024 bits at least and should use 2048; verifiers take up to 4096.
MIN_BITS = 1024
MAX_BITS = 4096

# RFC 1035, section 3.3.14: a TXT record is made of strings of at most 255 octets.
MAX_STRING = 255


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'dkim.generate'".
    return __virtualname__


def generate(bits=2048):
    """
    Make an RSA key pair with the exponent 65537.

    bits
        Length of the key: 1024, 2048 (the default), 3072 or 4096.

    Returns ``[private, public]``: the private key as PEM text, the public key as the base64 text of
    its SubjectPublicKeyInfo, without newlines, as ``p=`` wants it (RFC 6376, section 3.6.1).

    CLI Example:

    .. code-block:: bash

        salt-call dkim.generate
        salt-call dkim.generate 4096
    """
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise SaltInvocationError(f"dkim.generate: bits must be a number, not {bits!r}")
    if not MIN_BITS <= bits <= MAX_BITS or bits % 256:
        raise SaltInvocationError(
            f"dkim.generate: bits={bits} is not 1024, 2048, 3072 or 4096 "
            f"(or another multiple of 256 between them)"
        )
    private = _rsa().generate(bits, e=65537).export_key("PEM").decode("ascii")
    return [private, public_key(private)]


def public_key(private):
    """
    The public half of a private key.

    private
        An RSA key as PEM text, PKCS#1 or PKCS#8.

    Returns base64 text without newlines, as ``p=`` wants it. Raises ``SaltInvocationError`` where
    the text holds no such key; the text is not repeated in the error.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.public_key "$(cat /etc/mail/dkim/example.com/mailsrv.private)"
    """
    return base64.b64encode(_load(private).public_key().export_key("DER")).decode("ascii")


def bits(private):
    """
    The length in bits of a private key given as PEM text.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.bits "$(cat /etc/mail/dkim/example.com/mailsrv.private)"
    """
    return _load(private).n.bit_length()


def txt(public):
    """
    The value of the TXT record of a public key (RFC 6376, section 3.6.1), as one string.

    public
        The public key, base64, as :func:`generate` returns it.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.txt MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCB…
    """
    try:
        if public != base64.b64encode(base64.b64decode(public, validate=True)).decode("ascii"):
            raise ValueError
    except (TypeError, ValueError, binascii.Error):
        raise SaltInvocationError("dkim.txt: the public key is not base64 on one line") from None
    return f"v=DKIM1; k=rsa; t=s; p={public}"


def strings(value):
    """
    The value of a TXT record as the quoted strings of a zone file.

    value
        The value, of printable ASCII without quotes.

    Returns a list of strings, each of at most 255 octets between its quotes.

    CLI Example:

    .. code-block:: bash

        salt-call dkim.strings 'v=spf1 mx -all'
    """
    return [f'"{value[i : i + MAX_STRING]}"' for i in range(0, len(value), MAX_STRING)]


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
    lines = "\n\t\t\t\t  ".join(strings(txt(public)))
    return f"{selector}._domainkey\tIN\tTXT\t( {lines} )"


def _load(private):
    try:
        key = _rsa().import_key(private)
        if key.has_private():
            return key
    except (ValueError, IndexError, TypeError):
        pass
    raise SaltInvocationError("dkim: the text is not an RSA private key in PEM form")


def _rsa():
    if RSA is None:
        raise CommandExecutionError(
            "dkim: the Python library pycryptodome is missing where Salt runs; install it with: "
            "salt-pip install pycryptodome (or, in Salt's venv, pip install pycryptodome)"
        )
    return RSA
