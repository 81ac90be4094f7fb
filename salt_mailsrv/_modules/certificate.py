"""
TLS certificates (RFC 5280) and their private keys: whether they fit each other and a server's name.

Pure functions of their arguments: no pillar, no file, no network. Certificates on disk are the work
of the state :mod:`certificate.installed`.
"""

import datetime
import itertools

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

__virtualname__ = "certificate"

MIN_BITS = 2048  # OpenSSL at Debian's security level: "ee key too small"


def __virtual__():
    return __virtualname__


def look(chain, hostname, key=None, now=None):
    """
    What a certificate is and what is wrong with it.

    chain
        PEM text: the certificate, then the one that signed it, and so on. Other text is no matter.

    hostname
        The name that clients connect to.

    key
        PEM text of the private key. Absent: not looked at.

    now
        The time, an aware ``datetime``. Default: that of the machine.

    Returns a dictionary. ``broken`` and ``doubtful`` are lists of faults: the part, ``cert`` or
    ``key``, and a sentence without its subject, which never holds key material. What is broken, no
    server should start with; what is doubtful, clients refuse: expired, not valid yet, for another
    name (RFC 6125). Where it is a certificate, there are also ``chain``, its PEM text and nothing
    else; ``fingerprint``, its SHA-256; ``names``; ``until``, its end; ``days`` until then; and
    ``self_signed``.

    CLI Example:

    .. code-block:: bash

        salt-call certificate.look "$(cat /etc/ssl/mail.pem)" mail.example.com
    """
    result = {"broken": [], "doubtful": []}
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        result["broken"].append(
            (
                "cert",
                "holds no certificate in PEM form; name the file with the chain",
            )
        )
        return result
    leaf = certificates[0]
    now = now or datetime.datetime.now(datetime.timezone.utc)
    begin, end = _time(leaf, "before"), _time(leaf, "after")
    names = _names(leaf)
    result |= {
        "chain": "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates),
        "fingerprint": leaf.fingerprint(hashes.SHA256()).hex(),
        "names": names,
        "until": end.isoformat(),
        "days": (end - now).days,
        "self_signed": leaf.issuer == leaf.subject,
    }
    private = None
    if key is not None:
        private, fault = _private(key)
        if fault:
            result["broken"].append(("key", fault))
    result["broken"] += [("cert", fault) for fault in _disorder(certificates, private)]
    if end <= now:
        result["doubtful"].append(("cert", f"expired on {_day(end)}; renew it"))
    if begin > now:
        result["doubtful"].append(
            ("cert", f"is not valid before {_day(begin)}; look at this machine's clock, or wait")
        )
    if not any(_matches(name, hostname) for name in names):
        result["doubtful"].append(
            (
                "cert",
                f"is for {', '.join(names) or 'no host name at all'}, not for {hostname}; get one "
                "for that name, or set mailsrv:hostname",
            )
        )
    return result


def _time(certificate, which):
    # cryptography before 42 has no aware times, and warns about the others since.
    aware = getattr(certificate, f"not_valid_{which}_utc", None)
    naive = None if aware else getattr(certificate, f"not_valid_{which}")
    return aware or naive.replace(tzinfo=datetime.timezone.utc)


def _day(time):
    return time.strftime("%Y-%m-%d %H:%M UTC")


def _names(certificate):
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []  # the common name means nothing to clients any more
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]


def _matches(name, hostname):
    """RFC 6125, section 6.4.3: a wildcard stands for one whole label, the leftmost."""
    if name.startswith("*."):
        return name[2:] == hostname.partition(".")[2]
    return name == hostname


def _private(pem):
    """The private key, or why it cannot be used."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        return (
            None,
            "is locked with a passphrase, which no daemon knows; openssl pkey removes it",
        )
    except (ValueError, UnsupportedAlgorithm):
        return None, "holds no private key in PEM form; name the file with the private key"
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_BITS:
            return key, f"is an RSA key of {key.key_size} bits; OpenSSL wants {MIN_BITS} or more"
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        return key, "is neither an RSA nor an ECDSA key, and OpenSMTPD takes no other; make one"
    return key, None


def _disorder(certificates, private):
    """Why this is not a chain that begins with the certificate of the key."""
    if private:
        public = private.public_key()
        fits = [certificate.public_key() == public for certificate in certificates]
        if not any(fits):
            return ["is not the certificate of the key; renew both, or name those of one order"]
        if not fits[0]:
            return [
                f"has its certificates in the wrong order: the server's is number "
                f"{fits.index(True) + 1}, it must be the first, then the one that signed it"
            ]
    for number, (one, signer) in enumerate(itertools.pairwise(certificates), 1):
        if one.issuer != signer.subject:
            return [
                f"has its certificates in the wrong order: number {number + 1} did not sign number "
                f"{number}; after the server's comes the one that signed it, and so on"
            ]
    return []
