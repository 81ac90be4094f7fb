"""A certification authority as ACME clients know one: a root that signs an intermediate."""

import contextlib
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def new_key(kind="ecdsa"):
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, {"rsa": 2048, "short": 1024}[kind])


def key_pem(key, password=None):
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def cert_pem(*certificates):
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def fingerprint(pem):
    """The SHA-256 of the first certificate."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


@contextlib.contextmanager
def trusted(machine, authority):
    """While it is entered, that machine's programs believe the authority."""
    own = "/usr/local/share/ca-certificates/lab.crt"
    machine.put(own, cert_pem(authority.root))
    machine.run("update-ca-certificates")
    try:
        yield
    finally:
        # Without --fresh the links stay, and lead nowhere.
        machine.run(f"rm {own} && update-ca-certificates --fresh")


class Authority:
    def __init__(self, ends=90):
        """It ends so many days from now."""
        self._key, self._root_key = new_key(), new_key()
        for_ca = {"signer": self._root_key, "ends": ends, "ca": True}
        self.root = self._sign("Root", self._root_key, "Root", **for_ca)
        self.intermediate = self._sign("R1", self._key, "Root", **for_ca)

    def issue(self, *names, key="ecdsa", begins=-1, ends=90, by=None):
        """The certificate alone, and its key; it begins and ends so many days from now."""
        key, signer = new_key(key) if isinstance(key, str) else key, by[1] if by else self._key
        return self._sign(names[0][:60], key, "R1", signer, names, begins, ends), key

    def weak(self):
        """Another intermediate, and its key, which is too short for OpenSSL."""
        key = new_key("short")
        return self._sign("R1", key, "Root", self._root_key, ca=True), key

    def pems(self, *names, **options):
        """What an ACME client writes: the chain and the key."""
        leaf, key = self.issue(*names, **options)
        return cert_pem(leaf, self.intermediate), key_pem(key)

    def _sign(self, subject, key, issuer, signer, names=(), begins=-1, ends=90, ca=False):
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)
        )
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder(issuer, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY)
            .not_valid_after(now + ends * DAY)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(signer, hashes.SHA256())
