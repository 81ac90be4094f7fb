"""dkim: keys and the records that publish them."""

import base64

import dkim as dkimpy
import dns.zone
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import dkim

BITS = [1024, 2048, 3072, 4096]
MESSAGE = b"From: a@example.com\r\nTo: b@there.example\r\nSubject: x\r\n\r\nhello\r\n"
ZONE = """\
$ORIGIN example.com.
@ IN SOA mx hostmaster ( 1 3600 900 1209600 300 )
@ IN NS mx
mx IN A 192.0.2.1
"""


@pytest.fixture(params=BITS)
def pair(request, keys):
    return (request.param, *keys[request.param])


def load(private):
    return serialization.load_pem_private_key(private.encode(), None)


def test_a_key_pair_is_of_the_length_asked_for(pair):
    bits, private, public = pair
    loaded = serialization.load_der_public_key(base64.b64decode(public, validate=True))
    assert load(private).public_key().public_numbers() == loaded.public_numbers()
    assert (loaded.key_size, loaded.public_numbers().e) == (bits, 65537)
    assert dkim.public_key(private) == public


def test_a_public_key_is_one_line_of_text(pair):
    assert isinstance(pair[2], str)
    assert not set(pair[2]) - set(map(chr, range(33, 127)))


@pytest.fixture(scope="module")
def ed25519_pair():
    return dkim.generate(algorithm="ed25519")


# RFC 8463, appendix A.2: the private key, the public one in the record.
RFC_8463 = (
    "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
    "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
)


def pkcs8(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def test_an_ed25519_key_of_the_rfc_has_its_record():
    bare, public = RFC_8463
    private = pkcs8(ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(bare)))
    assert dkim.public_key(private) == public
    assert dkim.bare(private) == bare
    assert dkim.txt(public) == f"v=DKIM1; k=ed25519; t=s; p={public}"


def test_an_ed25519_key_is_new_each_time_and_known_by_its_algorithm(ed25519_pair, keys):
    private, public = ed25519_pair
    assert dkim.generate(algorithm="ed25519") != ed25519_pair
    assert load(private).public_key().public_bytes_raw() == base64.b64decode(public)
    assert (dkim.public_key(private), dkim.algorithm(private)) == (public, "ed25519")
    assert dkim.algorithm(keys[1024][0]) == "rsa"


def test_an_ed25519_signature_is_verified_with_the_record(ed25519_pair):
    private, public = ed25519_pair
    signed = dkimpy.sign(
        MESSAGE,
        b"mailsrv-ed25519",
        b"example.com",
        dkim.bare(private).encode(),
        signature_algorithm=b"ed25519-sha256",
    )
    other = dkim.generate(algorithm="ed25519")[1]
    for key, good in ((public, True), (other, False)):
        record = dkim.txt(key).encode()
        found = dkimpy.verify(signed + MESSAGE, dnsfunc=lambda name, timeout, r=record: r)
        assert found is good


def test_an_rsa_key_has_no_bare_form(keys):
    with pytest.raises(SaltInvocationError) as raised:
        dkim.bare(keys[1024][0])
    assert str(raised.value) == "dkim.bare: the key is RSA; rspamd reads that as it is"


@pytest.mark.parametrize("algorithm", ["dsa", "RSA", None, ["rsa"]])
def test_an_algorithm_that_dkim_does_not_have_is_refused(algorithm):
    with pytest.raises(SaltInvocationError) as raised:
        dkim.generate(2048, algorithm)
    assert str(raised.value) == f"dkim.generate: algorithm={algorithm!r} is not rsa or ed25519"


def test_name_servers_load_a_record_of_ed25519(ed25519_pair, load_zone):
    load_zone("example.com", f"{ZONE}{dkim.record('mailsrv', ed25519_pair[1])}\n")


def test_every_key_is_a_new_one_of_2048_bits():
    first, second = dkim.generate(), dkim.generate()
    assert first != second
    assert load(first[0]).key_size == 2048


@pytest.mark.parametrize("kind", ["TraditionalOpenSSL", "PKCS8"])
def test_keys_of_openssl_are_read_in_both_forms(keys, kind):
    private, public = keys[1024]
    pem = load(private).private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, kind),
        serialization.NoEncryption(),
    )
    assert dkim.public_key(pem.decode()) == public


def test_a_signature_is_verified_with_the_record(keys):
    private, public = keys[2048]
    signed = dkimpy.sign(MESSAGE, b"mailsrv", b"example.com", private.encode()) + MESSAGE
    record = dkim.txt(public).encode()
    assert dkimpy.verify(signed, dnsfunc=lambda name, timeout: record)
    other = dkim.txt(keys[1024][1]).encode()
    assert not dkimpy.verify(signed, dnsfunc=lambda name, timeout: other)


@pytest.mark.parametrize(
    ("bits", "error"),
    [
        (512, "dkim.generate: bits=512 is not 1024, 2048, 3072 or 4096"),
        (2047, "dkim.generate: bits=2047 is not 1024, 2048, 3072 or 4096"),
        (8192, "dkim.generate: bits=8192 is not 1024, 2048, 3072 or 4096"),
        ("2048", "dkim.generate: bits must be a number, not '2048'"),
        (True, "dkim.generate: bits must be a number, not True"),
        (None, "dkim.generate: bits must be a number, not None"),
    ],
)
def test_a_length_that_verifiers_do_not_take_is_refused(bits, error):
    with pytest.raises(SaltInvocationError) as raised:
        dkim.generate(bits)
    assert str(raised.value).startswith(error)


def test_what_is_no_private_key_is_refused_and_not_repeated(keys, ed25519_pair):
    public_only = load(keys[1024][0]).public_key()
    elliptic = ec.generate_private_key(ec.SECP256R1())
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    faulty = [
        "",
        "hunter2",
        keys[1024][0][:200],
        public_only.public_bytes(pem[0], serialization.PublicFormat.PKCS1).decode(),
        pkcs8(elliptic),
        pkcs8(ed448.Ed448PrivateKey.generate()),
        load(ed25519_pair[0])
        .public_key()
        .public_bytes(pem[0], serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        load(keys[1024][0])
        .private_bytes(*pem, serialization.BestAvailableEncryption(b"hunter2"))
        .decode(),
        None,
    ]
    for private in faulty:
        for function in (dkim.public_key, dkim.algorithm, dkim.bare):
            with pytest.raises(SaltInvocationError) as raised:
                function(private)
            assert str(raised.value) == (
                "dkim: the text is not an RSA or Ed25519 private key in PEM form"
            )


@pytest.mark.parametrize("public", [None, "not base64", "QUJD\nREVG", "QUJD=", b"QUJD", "b'QUJD'"])
def test_a_record_is_made_of_base64_on_one_line_alone(public):
    with pytest.raises(SaltInvocationError) as raised:
        dkim.txt(public)
    assert str(raised.value) == "dkim.txt: the public key is not base64 on one line"


def test_a_record_says_what_txt_says_in_strings_that_dns_can_hold(pair):
    _, _, public = pair
    zone = dns.zone.from_text(f"{ZONE}{dkim.record('mailsrv', public)}\n")
    (rdata,) = zone.find_rdataset("mailsrv._domainkey", "TXT")
    assert all(len(string) <= 255 for string in rdata.strings)
    assert all(len(line.expandtabs()) <= 80 for line in dkim.record("s", public).split("\n"))
    assert b"".join(rdata.strings).decode() == dkim.txt(public)
    assert dkim.txt(public) == f"v=DKIM1; k=rsa; t=s; p={public}"


def test_name_servers_load_the_record(pair, load_zone):
    load_zone("example.com", f"{ZONE}{dkim.record('mailsrv', pair[2])}\n")


def test_salts_own_library_does_where_pycryptodome_is_missing(without, keys):
    pytest.importorskip("Cryptodome", reason="pycryptodomex is not installed here")
    other = without(dkim, "Crypto.PublicKey")
    assert other.RSA.__name__ == "Cryptodome.PublicKey.RSA"
    for algorithm in ("rsa", "ed25519"):
        private, public = other.generate(1024, algorithm)
        assert dkim.public_key(private) == public
    assert other.public_key(keys[1024][0]) == keys[1024][1]


def test_without_both_libraries_the_module_loads_and_says_what_to_install(without):
    bare = without(dkim, "Crypto.PublicKey", "Cryptodome.PublicKey")
    assert bare.__virtual__() == "dkim"
    for call in (bare.generate, lambda: bare.public_key("x"), lambda: bare.algorithm("x")):
        with pytest.raises(CommandExecutionError) as raised:
            call()
        assert str(raised.value) == (
            "dkim: the Python library pycryptodome is missing where Salt runs; install it with: "
            "salt-pip install pycryptodome (or, in Salt's venv, pip install pycryptodome)"
        )
