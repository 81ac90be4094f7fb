"""mailcheck: what live DNS says against what is desired; what the checks of a machine say."""

import base64
import os
import time

import dkim as verifier
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import mailcheck, mailsrv

KEY = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"
DKIM = "s1._domainkey.example.com"
DMARC = "_dmarc.example.com"


def record(name, kind, value, need="required"):
    """A record as mailsrv.records makes it."""
    return {"name": f"{name}.", "type": kind, "value": value, "need": need, "why": "it is needed"}


def compare(desired, *servers, name="example.com", kind="TXT"):
    """The findings about one record: fault and what is shown."""
    live = {f"{name} {kind}": {f"ns{i}": list(values) for i, values in enumerate(servers, 1)}}
    return mailcheck.compare([record(name, kind, desired)] if desired else [], live)


# Desired, and what a provider makes of it

SAME = [
    ("example.com", "MX", "10 mx.example.com.", "10 MX.Example.COM."),
    ("example.com", "MX", "10 mx.example.com.", "0 mx.example.com."),
    ("_imaps._tcp.example.com", "SRV", "0 1 993 mx.example.com.", "5 0 993 MX.example.com."),
    ("_imap._tcp.example.com", "SRV", "0 0 0 .", "10 1 0 ."),
    ("mx.example.com", "AAAA", "2001:db8::1", "2001:DB8:0:0::1"),
    ("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.", "Mx.example.com."),
    ("_25._tcp.mx.example.com", "TLSA", "3 1 1 ab01cd", "3 1 1 AB 01CD"),
    ("example.com", "TXT", "v=spf1 mx -all", "V=SPF1  +MX  -ALL"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx:example.com. -all"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx -all a"),
    ("example.com", "TXT", "v=spf1 a mx ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1/32 mx a -all"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 redirect=a.example mx -all"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"k=rsa;p={KEY};v=DKIM1;t=s;"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM1; p= {KEY[:10]} {KEY[10:]}"),
    (
        DKIM,
        "TXT",
        f"v=DKIM1; k=rsa; t=s; p={KEY}",
        f"V=DKIM1; K=RSA; H=sha1:SHA256; s=email; P={KEY}",
    ),
    (DMARC, "TXT", "v=DMARC1; p=reject", "v=DMARC1;p=Reject;sp=reject;adkim=r;pct=100;"),
    (
        DMARC,
        "TXT",
        "v=DMARC1; p=none; rua=mailto:a@b.example,mailto:c@d.example",
        "v=DMARC1; rua=mailto:c@d.example, mailto:A@B.example; p=none",
    ),
    ("_mta-sts.example.com", "TXT", "v=STSv1; id=20ab", "v=STSv1;id=20ab;"),
]
OTHER = [
    ("example.com", "MX", "10 mx.example.com.", "0 ."),
    ("_imaps._tcp.example.com", "SRV", "0 1 993 mx.example.com.", "0 1 993 mx.test.com."),
    ("mx.example.com", "A", "192.0.2.1", "192.0.2.2"),
    ("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.", "static-192-0-2-1.provider.example."),
    ("_25._tcp.mx.example.com", "TLSA", "3 1 1 ab01cd", "3 1 1 ab01ce"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx ~all"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx a -all"),
    ("example.com", "TXT", "v=spf1 -a mx -all", "v=spf1 mx -a -all"),
    ("example.com", "TXT", "v=spf1 mx redirect=a.example", "v=spf1 mx"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM1; k=rsa; t=s; p={KEY.lower()}"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", "v=DKIM1; k=rsa; p="),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM1; t=y; p={KEY}"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM1; h=sha1; p={KEY}"),
    (DMARC, "TXT", "v=DMARC1; p=reject", "v=DMARC1; p=reject; sp=none"),
    (DMARC, "TXT", "v=DMARC1; p=reject", "v=DMARC1; p=reject; pct=50"),
    ("_mta-sts.example.com", "TXT", "v=STSv1; id=20ab", "v=STSv1; id=20AB"),
]


@pytest.mark.parametrize(("name", "kind", "desired", "live"), SAME)
def test_what_means_the_same_is_the_same(name, kind, desired, live):
    assert compare(desired, [live], name=name, kind=kind) == []


@pytest.mark.parametrize(("name", "kind", "desired", "live"), OTHER)
def test_what_means_something_else_is_wrong(name, kind, desired, live):
    (found,) = compare(desired, [live], name=name, kind=kind)
    assert (found["fault"], found["desired"], found["live"]) == ("wrong", desired, [live])


def test_records_of_others_beside_ours_are_no_concern_of_ours():
    others = [
        "google-site-verification=x",
        "v=spf2.0/pra ?all",
        "MS=ms1",
        "",
        "v=verifydomain; p=1",
    ]
    assert compare("v=spf1 mx -all", [*others, "v=spf1 mx -all"]) == []
    (found,) = compare("v=spf1 mx -all", others)
    assert (found["fault"], found["live"]) == ("missing", [])
    assert compare(f"v=DKIM1; p={KEY}", ["nonsense", f"v=DKIM1; p={KEY}"], name=DKIM) == []


def test_a_finding_is_complete_for_programs_and_for_eyes():
    assert compare("v=spf1 mx -all", ["v=spf1 a -all"], ["v=spf1 mx -all"]) == [
        {
            "fault": "wrong",
            "need": "required",
            "name": "example.com",
            "type": "TXT",
            "desired": "v=spf1 mx -all",
            "live": ["v=spf1 a -all"],
            "servers": ["ns1"],
            "says": "example.com TXT is wrong at ns1: it is needed",
        }
    ]


def test_servers_that_say_the_same_are_named_together():
    (found,) = compare("v=spf1 mx -all", [], ["v=spf1 mx -all"], [])
    assert found["says"] == "example.com TXT is missing at ns1 and ns3: it is needed"
    (found,) = compare("v=spf1 mx -all", [], [])
    assert found["says"] == "example.com TXT is missing at every server: it is needed"


@pytest.mark.parametrize(
    ("name", "kind", "desired", "live", "extra"),
    [
        ("example.com", "TXT", "v=spf1 mx -all", ["v=spf1 mx -all", "v=spf1 a -all"], 1),
        ("example.com", "TXT", "v=spf1 mx -all", ["v=spf1 mx -all", "v=spf1 +mx -all"], 1),
        (DMARC, "TXT", "v=DMARC1; p=none", ["v=DMARC1; p=reject", "v=DMARC1; p=none"], 0),
        (
            "example.com",
            "MX",
            "10 mx.example.com.",
            ["10 mx.example.com.", "20 mx.old.example."],
            1,
        ),
        ("mx.example.com", "A", "192.0.2.1", ["192.0.2.1", "192.0.2.9"], 1),
        ("_imap._tcp.example.com", "SRV", "0 0 0 .", ["0 0 0 .", "0 1 143 mx.old.example."], 1),
        ("s0._domainkey.example.com", "TXT", None, [f"v=DKIM1; p={KEY}"], 0),
        (DKIM, "TXT", f"v=DKIM1; p={KEY}", [f"v=DKIM1; p={KEY}", "v=DKIM1; p=AAAA"], 1),
        ("_mta-sts.example.com", "TXT", None, ["v=STSv1; id=1"], 0),
        ("_25._tcp.mx.example.com", "TLSA", None, ["3 1 1 ab"], 0),
    ],
)
def test_what_is_too_much_is_named(name, kind, desired, live, extra):
    (found,) = compare(desired, live, name=name, kind=kind)
    assert (found["fault"], found["desired"], found["live"]) == ("superfluous", None, [live[extra]])
    assert found["says"].endswith("remove it")


@pytest.mark.parametrize(
    ("name", "kind", "desired", "live"),
    [
        ("s0._domainkey.example.com", "TXT", None, ["v=DKIM1; p="]),
        ("_25._tcp.mx.example.com", "TLSA", "3 1 1 ab", ["3 1 1 ab", "3 1 1 cd"]),
        ("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.", ["mx.example.com.", "a.example."]),
        ("example.com", "TXT", None, ["v=spf1 -all"]),
    ],
)
def test_a_revoked_key_the_next_certificate_and_a_second_name_may_stay(name, kind, desired, live):
    assert compare(desired, live, name=name, kind=kind) == []


def test_an_address_of_the_other_protocol_that_is_not_the_hosts_is_too_much():
    live = {
        "mx.example.com A": {"ns": ["192.0.2.1"]},
        "mx.example.com AAAA": {"ns": ["2001:db8::9"]},
    }
    (found,) = mailcheck.compare([record("mx.example.com", "A", "192.0.2.1")], live)
    assert (found["fault"], found["type"], found["need"]) == ("superfluous", "AAAA", "required")


@pytest.mark.parametrize(
    ("own", "faults"),
    [
        ({"A": ["192.0.2.7"]}, []),
        ({"A": ["192.0.2.7"], "AAAA": ["2001:db8::7"]}, []),
        ({"A": ["192.0.2.7", "192.0.2.8"]}, ["missing"]),
        ({"A": []}, ["missing"]),
    ],
)
def test_the_addresses_of_its_target_may_stand_in_the_place_of_an_alias(own, faults):
    live = {
        "mta-sts.example.com CNAME": {"ns": []},
        **{f"mta-sts.example.com {kind}": {"ns": values} for kind, values in own.items()},
        "www.example.net A": {"ns.example.net": ["192.0.2.7"]},
        "www.example.net AAAA": {"ns.example.net": ["2001:db8::7"]},
    }
    found = mailcheck.compare([record("mta-sts.example.com", "CNAME", "www.example.net.")], live)
    assert [finding["fault"] for finding in found] == faults


def test_a_server_that_cannot_be_asked_is_one_finding():
    records = [
        record("example.com", "MX", "10 mx.example.com."),
        record("_dmarc.example.com", "TXT", "v=DMARC1; p=none", "recommended"),
    ]
    live = {
        "_dmarc.example.com TXT": {"ns1": ["v=DMARC1; p=none"], "ns2": "does not answer: why"},
        "example.com MX": {"ns1": ["10 mx.example.com."], "ns2": "does not answer: why"},
    }
    (found,) = mailcheck.compare(records, live)
    assert (found["fault"], found["need"], found["servers"]) == ("unknown", "required", ["ns2"])
    assert found["says"] == (
        "ns2 does not answer: why; it was asked for _dmarc.example.com TXT and 1 more"
    )


def test_what_is_required_comes_first():
    records = [
        record("_dmarc.example.com", "TXT", "v=DMARC1; p=none", "recommended"),
        record("example.com", "MX", "10 mx.example.com."),
    ]
    live = {"_dmarc.example.com TXT": {"ns": []}, "example.com MX": {"ns": []}}
    assert [f["need"] for f in mailcheck.compare(records, live)] == ["required", "recommended"]


def test_what_mailsrv_publishes_compares_with_itself(read):
    options = {"web": "www.example.net", "mta_sts": "testing", "tls_reports": "a@b.example"}
    model = read({"domains": ["example.com"], "mailsrv": {"dns": options}})
    published = {"example.com": {"s1": f"v=DKIM1; k=rsa; t=s; p={KEY}"}}
    records = mailsrv.records(model, published, ["192.0.2.1"], "ab" * 32)["example.com"]
    live = {}
    for r in records:
        question = f"{r['name'].rstrip('.')} {r['type']}"
        live.setdefault(question, {"ns": []})["ns"].append(r["value"])
    assert mailcheck.compare(records, live) == []
    live = {question: {"ns": []} for question in live}
    missed = mailcheck.compare(records, live)
    assert {finding["fault"] for finding in missed} == {"missing"}
    assert len(missed) == len(records)


def test_without_dnspython_the_module_loads_and_says_what_to_install(without):
    bare = without(mailcheck, "dns")
    assert bare.__virtual__() == "mailcheck"
    with pytest.raises(CommandExecutionError) as raised:
        bare.lacking("example.com", "MX", "10 mx.example.com.")
    assert str(raised.value) == (
        "mailcheck: the Python library dnspython is missing where Salt runs; "
        "install it with: salt-pip install dnspython (or, in Salt's venv, pip install dnspython)"
    )


def test_without_a_resolver_nobody_can_be_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(mailcheck, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    with pytest.raises(CommandExecutionError) as raised:
        mailcheck.lacking("example.com", "MX", "10 mx.example.com.")
    assert str(raised.value) == (
        f"mailcheck: {tmp_path}/resolv.conf names no resolver to ask for the name servers"
    )


# The checks of the machine


def test_a_check_that_hangs_or_breaks_does_not_keep_the_others_from_being_seen(monkeypatch):
    monkeypatch.setattr(mailcheck, "LIMIT", 0.3)
    begin = time.monotonic()
    found = mailcheck._together(
        {
            "hangs": (time.sleep, 5),
            "breaks": (lambda: {}["missing"],),
            "is wrong": (mailcheck._disk, "/nonexistent", 10),
            "warns": (lambda: "WARNING: look",),
            "notes": (lambda: "seen",),
            "is fine": (lambda: None,),
        }
    )
    assert time.monotonic() - begin < 3
    assert found.pop("hangs").startswith("FAULT: did not come to an end within 0.3 seconds")
    assert found.pop("is wrong").startswith("FAULT: [Errno 2]")
    assert found == {
        "breaks": "FAULT: 'missing'",
        "warns": "WARNING: look",
        "notes": "ok: seen",
        "is fine": "ok",
    }


ENTRY = "|inet4|mta||a@one.example|b@two.example|b@two.example|{}|1796141066|0|0|pending|1|why"


def test_the_queue_is_counted_in_messages_and_its_oldest_is_timed():
    now = 1795536266
    listing = "\n".join(
        f"{number:016x}{ENTRY.format(now - age)}"
        for number, age in ((0xE87D609E00000001, 60), (0xE87D609E00000002, 60), (1 << 32, 600))
    )
    assert mailcheck._queued("", 3, now) == "empty"
    assert mailcheck._queued(listing, 3, now) == "2 waiting, the oldest for 10 minutes"
    assert mailcheck._queued(listing, 2, now).startswith("WARNING: 2 waiting, the oldest for 10")
    assert mailcheck._queued(listing, 9, now + 4 * 3600) == (
        "WARNING: 2 waiting, the oldest for 4 hours; see why: smtpctl show queue"
    )


@pytest.mark.parametrize(
    ("blocks", "inodes", "says"),
    [
        (50, 50, "50 % of the space free"),
        (10, 50, "10 % of the space free"),
        (9, 50, "WARNING: 9 % of the space free; make room"),
        (50, 4, "WARNING: 4 % of the inodes free; make room"),
        (2, 50, None),
    ],
)
def test_a_disk_that_fills_up_is_a_warning_and_a_full_one_a_fault(
    monkeypatch, blocks, inodes, says
):
    status = os.statvfs_result((4096, 4096, 100, blocks, blocks, 100, inodes, inodes, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    if says:
        assert mailcheck._disk("/var/vmail", 10) == says
    else:
        with pytest.raises(CommandExecutionError, match="mail is refused when it is full"):
            mailcheck._disk("/var/vmail", 10)
    with pytest.raises(CommandExecutionError, match="mail is refused with 452 below 16 MB"):
        mailcheck._disk("/var/spool/smtpd", 10, 1 << 24)


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
    assert mailcheck._signature_fault(message, "one.example", known(public)) == ""
    dual = signed(body, base64.b64encode(bytes(32)), signature_algorithm=b"ed25519-sha256")
    point = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    raw = point.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    ring = known(base64.b64encode(raw).decode(), "ed25519")
    assert mailcheck._signature_fault(dual, "one.example", ring) == ""


@given(lines=st.lists(st.text("ab \t")))
def test_a_body_is_relaxed_as_others_do_it(lines):
    body = "".join(f"{line}\r\n" for line in lines).encode()
    theirs = verifier.canonicalization.Relaxed.canonicalize_body(body)
    assert mailcheck._relaxed_body(body) == theirs


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
    assert mailcheck._signature_fault(message, "one.example", known(public)).startswith(says)


def test_a_signature_by_another_key_does_not_fit(keys):
    message = signed(b"hello\r\n", keys[2048][0].encode())
    fault = mailcheck._signature_fault(message, "one.example", known(keys[3072][1]))
    assert fault == (
        "the signature does not fit the public key of s1._domainkey.one.example on the disk: the "
        "signer has another key; restart it, and run the highstate"
    )


def test_the_public_keys_are_read_from_the_records_on_the_disk(keys, tmp_path, loader):
    file = tmp_path / "s1.public"
    file.write_text(loader["__salt__"]["dkim.record"]("s1", keys[4096][1]) + "\n")
    found = mailcheck._public_keys([{"public": str(file), "domains": ["a.example", "b.example"]}])
    assert {*found} == {"s1._domainkey.a.example", "s1._domainkey.b.example"}
    assert found["s1._domainkey.b.example"]["p"] == keys[4096][1]
