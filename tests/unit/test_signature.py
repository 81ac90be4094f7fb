"""_mailsrv.signature: whether a message is signed as ours are; dkimpy signs and verifies, too."""

import base64

import dkim as verifier
import pytest
from _mailsrv import signature
from _mailsrv.signature import fault
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

HEADERS = b"From: <a@one.example>\r\nTo:  b@two.example,\r\n\t c@two.example \r\nSubject:\r\n"
BODIES = [b"", b"\r\n", b"hello", b"hello \t there \r\n\r\n \r\n\r\n", b" \t\r\nb=x;\r\n"]


def signed(body, private, **options):
    options = {"canonicalize": (b"relaxed", b"relaxed"), **options}
    message = HEADERS + b"\r\n" + body
    return verifier.sign(message, b"s1", b"one.example", private, **options) + message


def known(public, kind="rsa"):
    return {"s1._domainkey.one.example": {"v": "DKIM1", "k": kind, "p": public}}


@pytest.mark.parametrize("body", BODIES)
def test_a_signature_of_somebody_elses_making_is_verified(keys, body):
    private, public = keys[2048]
    message = b"Received: here\r\n" + signed(body, private.encode())
    assert fault(message, "one.example", known(public)) == ""
    dual = signed(body, base64.b64encode(bytes(32)), signature_algorithm=b"ed25519-sha256")
    point = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    raw = point.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    ring = known(base64.b64encode(raw).decode(), "ed25519")
    assert fault(dual, "one.example", ring) == ""


@given(lines=st.lists(st.text("ab \t")))
def test_a_body_is_relaxed_as_others_do_it(lines):
    body = "".join(f"{line}\r\n" for line in lines).encode()
    theirs = verifier.canonicalization.Relaxed.canonicalize_body(body)
    assert signature._relaxed_body(body) == theirs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.replace(b"hello", b"hallo"), "the text was changed after it was signed by "),
        (lambda m: m.replace(b"<a@", b"<z@"), "the signature does not fit the public key of "),
        (lambda m: m.partition(b"\r\nFrom")[2], "is not signed; "),
        (
            lambda m: m.replace(b"s=s1", b"s=s2"),
            "is signed with a key that is not on the disk: s2.",
        ),
        (lambda m: m.replace(b"relaxed/relaxed", b"relaxed/simple"), "is signed in the form c="),
    ],
)
def test_what_is_wrong_with_a_signature_is_said(keys, change, says):
    private, public = keys[2048]
    message = change(signed(b"hello\r\n", private.encode()))
    assert fault(message, "one.example", known(public)).startswith(says)


def test_a_signature_by_another_key_does_not_fit(keys):
    message = signed(b"hello\r\n", keys[2048][0].encode())
    assert fault(message, "one.example", known(keys[3072][1])) == (
        "the signature does not fit the public key of s1._domainkey.one.example on the disk: the "
        "signer has another key; restart it, and run the highstate"
    )


def test_the_record_of_a_key_on_the_disk_is_read():
    line = 's1._domainkey\tIN\tTXT\t( "v=DKIM1; k=rsa; t=s; p=AAAA"\n\t"BBBB" )\n'
    name, tags = signature.published(line)
    assert (name, tags["p"]) == ("s1._domainkey", "AAAABBBB")
