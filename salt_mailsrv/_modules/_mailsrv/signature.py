"""
Whether a message is signed as ours are: DKIM (RFC 6376, RFC 8463) against the keys on the disk.
"""

import base64
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding

from _mailsrv.verifiers import Refused, tags


def fault(message, domain, keys, where="on the disk"):
    """
    Why a message is not well signed for a domain (RFC 6376); empty where it is.

    keys
        By the name in DNS the tags of its record, as they stand `where`.
    """
    head, _, body = message.partition(b"\r\n\r\n")
    fields = [field.partition(b":") for field in re.split(rb"\r\n(?![ \t])", head)]
    fields = [(name.strip().lower(), value) for name, _, value in fields]
    signatures = [value for name, value in fields if name == b"dkim-signature"]
    try:
        listed = [tags(re.sub(r"\s", "", value.decode("ascii", "replace"))) for value in signatures]
    except Refused as exc:
        return f"has a signature that verifiers throw away: {exc}"
    if domain not in [signed.get("d") for signed in listed]:
        return "is not signed; is the signer configured for it? run the highstate"
    for value, signed in zip(signatures, listed, strict=True):
        name = f"{signed['s']}._domainkey.{signed['d']}"
        if name not in keys:
            return f"is signed with a key that is not {where}: {name}"
        if signed.get("c") != "relaxed/relaxed":
            return f"is signed in the form c={signed.get('c')}, which does not outlive its way"
        if base64.b64decode(signed["bh"]) != hashlib.sha256(_relaxed_body(body)).digest():
            return f"the text was changed after it was signed by {name}"
        try:
            _verify(_signed_data(fields, value, signed["h"]), signed, keys[name])
        except InvalidSignature:
            return (
                f"the signature does not fit the public key of {name} {where}: the signer has "
                "another key; restart it, and run the highstate"
            )
    return ""


def said(by):
    """What to say of signatures that are well: by domain the one that signs for it."""
    own = [domain for domain, signer in by.items() if domain == signer]
    waiting = {domain: signer for domain, signer in by.items() if domain != signer}
    if not waiting:
        return f"verified for {', '.join(own)}"
    found = ", ".join(f"{domain} as {signer}" for domain, signer in waiting.items())
    return (
        f"WARNING: verified for {', '.join(own)}; signed as another domain, until DNS shows its "
        f"record: {found}; publish what mailsrv.dns shows, then run the highstate "
        "(mailsrv.rotation says what it waits for)"
    )


def _verify(data, signed, key):
    public, signature = base64.b64decode(key["p"]), base64.b64decode(signed["b"])
    if signed["a"] == "ed25519-sha256":  # RFC 8463
        digest = hashlib.sha256(data).digest()
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, digest)
    else:
        rsa = serialization.load_der_public_key(public)
        rsa.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())


def _signed_data(fields, signature, listed):
    """The header fields that were signed, from the last of a name upwards, and the signature's."""
    rest, data = list(reversed(fields)), b""
    for name in listed.lower().encode().split(b":"):
        found = next((field for field in rest if field[0] == name), None)
        if found:
            rest.remove(found)
            data += _relaxed(*found) + b"\r\n"
    unsigned = re.sub(rb"((?:^|;)\s*b\s*=)[^;]*", rb"\1", signature)
    return data + _relaxed(b"dkim-signature", unsigned)


def _relaxed(name, value):
    """RFC 6376, section 3.4.2."""
    return name + b":" + re.sub(rb"\s+", b" ", value).strip()


def _relaxed_body(body):
    """RFC 6376, section 3.4.4."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def published(line):
    """The name in DNS, without the domain, and the tags of a key's record as it is on the disk."""
    return line.split()[0], tags("".join(re.findall(r'"([^"]*)"', line)))
