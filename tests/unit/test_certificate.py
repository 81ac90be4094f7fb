"""certificate.look: what servers and clients would say of a certificate, before they see it."""

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from salt.exceptions import CommandExecutionError

from authority import Authority, cert_pem, fingerprint, key_pem, new_key
from saltext.mailsrv.modules import certificate

HOST = "mx.example.com"


@pytest.fixture(scope="module")
def authority():
    return Authority()


def faults(chain, key, hostname=HOST):
    found = certificate.look(chain, hostname, key)
    return found["broken"] + found["doubtful"]


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_certificate_is_taken_with_its_key_and_described(authority, kind):
    chain, key = authority.pems("other.example.com", HOST, key=kind)
    found = certificate.look(chain, HOST, key)
    assert (found["broken"], found["doubtful"]) == ([], [])
    assert (found["fingerprint"], found["chain"]) == (fingerprint(chain), chain)
    assert found["names"] == ["other.example.com", HOST]
    assert (found["days"], found["self_signed"]) == (89, False)


def test_a_chain_may_stand_with_its_key_and_with_other_text_and_have_its_root(authority):
    leaf, key = authority.issue(HOST)
    chain = cert_pem(leaf, authority.intermediate, authority.root)
    found = certificate.look(f"subject=mx\n{key_pem(key)}{chain}", HOST, key_pem(key) + chain)
    assert (found["broken"], found["doubtful"], found["chain"]) == ([], [], chain)


def test_the_form_of_a_key_does_not_matter(authority, program):
    chain, key = authority.pems(HOST)
    command = [program("openssl"), "ec"]
    old = subprocess.run(command, input=key, capture_output=True, text=True, check=True).stdout
    assert "BEGIN EC PRIVATE KEY" in old
    assert faults(chain, old) == []


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n", "ä\0"])
def test_what_is_no_certificate_is_said_to_be_none(authority, text):
    _, key = authority.pems(HOST)
    assert faults(text, key) == [
        ("cert", "holds no certificate in PEM form; name the file with the chain")
    ]


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN PRIVATE KEY-----\nAAAA\n", "ä\0"])
def test_what_is_no_key_is_said_to_be_none(authority, text):
    chain, _ = authority.pems(HOST)
    assert faults(chain, text) == [
        ("key", "holds no private key in PEM form; name the file with the private key")
    ]


def test_cert_and_key_the_wrong_way_round_are_both_named(authority):
    chain, key = authority.pems(HOST)
    assert [part for part, _ in faults(key, chain)] == ["cert"]


def test_a_locked_key_is_refused(authority):
    leaf, key = authority.issue(HOST)
    assert faults(cert_pem(leaf), key_pem(key, b"secret")) == [
        ("key", "is locked with a passphrase, which no daemon knows; openssl pkey removes it")
    ]


def test_a_key_that_is_too_short_is_refused(authority):
    chain, key = authority.pems(HOST, key="short")
    assert faults(chain, key) == [("key", "is an RSA key of 1024 bits; OpenSSL wants 2048 or more")]


def test_a_key_that_smtpd_cannot_use_is_refused(authority):
    key = ed25519.Ed25519PrivateKey.generate()
    chain, key = authority.pems(HOST, key=key)
    assert faults(chain, key) == [
        ("key", "is neither an RSA nor an ECDSA key, and OpenSMTPD takes no other; make one")
    ]


@pytest.mark.parametrize("other", ["ecdsa", "rsa"])
def test_a_key_of_another_certificate_is_refused(authority, other):
    chain, _ = authority.pems(HOST)
    assert faults(chain, key_pem(new_key(other))) == [
        ("cert", "is not the certificate of the key; renew both, or name those of one order")
    ]


def test_a_chain_in_the_wrong_order_is_refused(authority):
    leaf, key = authority.issue(HOST)
    chain = cert_pem(authority.intermediate, leaf)
    assert faults(chain, key_pem(key))[0] == (
        "cert",
        "has its certificates in the wrong order: the server's is number 2, it must be the first, "
        "then the one that signed it",
    )
    chain = cert_pem(leaf, authority.root, authority.intermediate)
    assert faults(chain, key_pem(key)) == [
        (
            "cert",
            "has its certificates in the wrong order: number 2 did not sign number 1; after the "
            "server's comes the one that signed it, and so on",
        )
    ]


def test_a_certificate_out_of_its_time_is_doubtful(authority):
    chain, key = authority.pems(HOST, begins=-90, ends=-1)
    ((part, sentence),) = faults(chain, key)
    assert (part, sentence[:13], sentence[-10:]) == ("cert", "expired on 20", "; renew it")
    chain, key = authority.pems(HOST, begins=1)
    ((part, sentence),) = faults(chain, key)
    assert sentence.startswith("is not valid before 20")
    assert sentence.endswith(" UTC; look at this machine's clock, or wait")


@pytest.mark.parametrize(
    ("names", "hostname"),
    [
        (["mx.example.com"], "mx.example.com"),
        (["MX.Example.com"], "mx.example.com"),
        (["*.example.com"], "mx.example.com"),
        (["a.example", "*.example.com"], "mx.example.com"),
    ],
)
def test_the_names_of_a_certificate_that_fit(authority, names, hostname):
    assert faults(*authority.pems(*names), hostname) == []


@pytest.mark.parametrize(
    ("names", "hostname"),
    [
        (["example.com"], "mx.example.com"),
        (["*.example.com"], "example.com"),
        (["*.example.com"], "a.mx.example.com"),
        (["m*.example.com"], "mx.example.com"),
        (["*.*.com"], "mx.example.com"),
        (["mx.example.com.evil.example"], "mx.example.com"),
    ],
)
def test_the_names_of_a_certificate_that_do_not_fit(authority, names, hostname):
    assert faults(*authority.pems(*names), hostname) == [
        (
            "cert",
            f"is for {', '.join(names)}, not for {hostname}; get one for that name, or set "
            "mailsrv:hostname",
        )
    ]


def test_a_common_name_is_no_name(authority):
    key = new_key()
    leaf = authority._sign(HOST, key, "R1", authority._key)
    ((_, sentence),) = faults(cert_pem(leaf), key_pem(key))
    assert sentence.startswith("is for no host name at all, not for ")


def test_no_sentence_holds_key_material(authority):
    chain, key = authority.pems(HOST)
    lines = {line for line in key.splitlines() if "-" not in line}
    for given in (key, key[:150], key.replace("PRIVATE", "SECRET")):
        said = str(faults(given, given) + faults(chain, given) + faults(given, key))
        assert not [line for line in lines if line in said]


def test_a_certificate_is_pinned_by_its_sha256(tmp_path, loader):
    path = tmp_path / "relay.pem"
    with pytest.raises(CommandExecutionError, match="is missing; put the relay's certificate"):
        certificate.pin(str(path))
    path.write_text("nothing\n")
    with pytest.raises(CommandExecutionError, match="holds no certificate in PEM form"):
        certificate.pin(str(path))
    path.write_text("-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n")
    # printf MIID | base64 -d | sha256sum
    assert certificate.pin(str(path)) == (
        "1c8998b78a3213f2de5668dbf0a22c1c54f4961da3912802e208bc839ac09f11"
    )


def test_in_test_mode_a_certificate_that_is_still_to_be_fetched_has_a_pin(tmp_path, loader):
    loader["__opts__"]["test"] = True
    assert certificate.pin(str(tmp_path / "relay.pem")) == "0" * 64


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_and_its_certificate_have_the_same_digest(authority, kind, tmp_path, program):
    chain, key = authority.pems(HOST, key=kind)
    for name, text in (("crt", chain), ("key", key), ("odd", "nothing")):
        (tmp_path / name).write_text(text)
    command = [program("openssl"), "pkey", "-in", tmp_path / "key", "-pubout", "-outform", "DER"]
    public = subprocess.run(command, capture_output=True, check=True).stdout
    digest = hashlib.sha256(public).hexdigest()
    assert certificate.key_digest(tmp_path / "crt") == digest
    assert certificate.key_digest(tmp_path / "key") == digest
    with pytest.raises(CommandExecutionError, match="holds neither a certificate nor a key"):
        certificate.key_digest(tmp_path / "odd")
