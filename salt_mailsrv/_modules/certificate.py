"""
TLS certificates (RFC 5280) and their private keys: whether they fit each other and a server's name.

What is looked at is an argument or a file; :func:`renew` alone has something done, and asks the CA
of ``mailsrv:tls:acme``. Certificates on disk are the work of states: :mod:`certificate.installed`.
"""

import datetime
import hashlib
import itertools
import os
import ssl

from _mailsrv import acme, records
from _mailsrv.satellites import CERTIFICATE
from _mailsrv_here import Here, valid
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from salt.exceptions import CommandExecutionError

__virtualname__ = "certificate"

MIN_BITS = 2048  # OpenSSL at Debian's security level: "ee key too small"


def pin(path):
    """
    The SHA-256 of the first certificate in a file, as dma(8) pins it.

    path
        The file, PEM.

    Returns 64 digits. In test mode the file may not be there yet.

    CLI Example:

    .. code-block:: bash

        salt-call certificate.pin /etc/mail/relay.pem
    """
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
    except FileNotFoundError:
        if __opts__["test"]:
            return "0" * 64
        raise CommandExecutionError(
            f"{path} is missing; put the relay's certificate there"
        ) from None
    found = CERTIFICATE.search(text)
    if not found:
        raise CommandExecutionError(f"{path} holds no certificate in PEM form")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()


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
    else; ``fingerprint``, its SHA-256; ``names``; ``until``, its end; ``days`` until then, of
    the days of its whole ``life``; ``kind``, ``rsa`` or ``ecdsa``; and ``self_signed``.

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
        "life": (end - begin).days,
        "kind": "rsa" if isinstance(leaf.public_key(), rsa.RSAPublicKey) else "ecdsa",
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


def key_digest(path):
    """
    The SHA-256 of a public key, as a TLSA record ``3 1 1`` has it (RFC 6698).

    path
        The file of its certificate, or of its private key, PEM.

    CLI Example:

    .. code-block:: bash

        salt-call certificate.key_digest /etc/mail/tls/mail.example.com.crt
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        if b"PRIVATE KEY" in text:
            public = serialization.load_pem_private_key(text, password=None).public_key()
        else:
            public = x509.load_pem_x509_certificate(text).public_key()
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise CommandExecutionError(f"{path} holds neither a certificate nor a key") from None
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def asking():
    """
    What the program that asks for certificates needs to know, with its secrets. For its template,
    and for nobody else.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.acme test=True
    """
    known = _known()
    model = valid(*known.read())
    facts, tls = known.facts(), model["tls"]
    systemd = __grains__.get("init") == "systemd"
    daemons = []
    readers = [("dovecot", "reload"), ("opensmtpd", "restart")]
    for name, how in [*readers, *[("web", "reload")] * model["web"]]:
        service = facts[name]["service"]
        tell = ["service", service, how]
        if systemd:  # one that was stopped stays so
            how = how.replace("reload", "reload-or-restart")
            tell = ["systemctl", f"try-{how}", f"{service}.service"]
        daemons.append({"tell": tell, "record": f"{facts['run']}/{name}"})
    given = {key: tls["acme"][key] for key in ("email", "server", "challenge", "ca", "provider")}
    return {
        "hostname": model["hostname"],
        "names": records.web_names(model) if model["web"] else [],
        "webroot": facts["web"]["challenges"] if model["web"] else "",
        "addresses": model["dns"]["addresses"],
        **given,
        "kind": tls["acme"]["key"],
        "cert": tls["cert"],
        "key": tls["key"],
        "next": tls["acme"]["next"],
        "dane": model["dns"]["dane"],
        "directory": facts["acme"]["directory"],
        "lego": facts["acme"]["program"],
        "daemons": daemons,
        **acme.secrets(known.settings()["tls"], []),
    }


def renew(new_key=False):
    """
    Ask for the certificate of ``mailsrv:tls:acme`` now, instead of when the timer does; where the
    one that is served has more than a third of its life left, nothing is asked.

    new_key
        Whether the next certificate is for a new key, as after a theft. Default: ``False``. With
        ``dns:dane`` it waits for its record: publish what :func:`dns` shows then, and run the
        highstate when every name server has it. Two hours later the key is used.

    Returns a sentence. The exit status is 1 where there is no certificate, and the sentence says
    why.

    CLI Example:

    .. code-block:: bash

        salt-call certificate.renew
        salt-call certificate.renew new_key=True
    """
    facts, tls = _known().facts(), valid(*_known().read())["tls"]
    config = f"{facts['directory']}/acme.json"
    if not tls["acme"] or not os.path.exists(config):
        raise CommandExecutionError(
            "certificate.renew: nothing asks for certificates here; set mailsrv:tls:acme and run "
            "the highstate"
        )
    said = ""
    for what in [*["new-key"] * (new_key is True), "now"]:
        command = [facts["guard"]["python"], "-I", f"{facts['directory']}/acme.py", what, config]
        ran = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
        said = (ran["stdout"] or ran["stderr"]).strip().rpartition("\n")[2]
        __context__["retcode"] = 1 if ran["retcode"] else 0
        if ran["retcode"]:
            return said
    if os.path.exists(f"{tls['acme']['next']}.key"):
        said += (
            "; the next key waits for its TLSA record: publish what mailsrv.dns shows, then run "
            "the highstate"
        )
    return said


def _known():
    return Here(__salt__, __context__, __opts__, __grains__, __pillar__)


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
