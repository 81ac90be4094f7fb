"""What a receiver makes of SPF, keys and receipts, and what the mine may hold of machines."""

import base64
import random

import pytest
import spf as pyspf
from _mailsrv import allowed, peer, receipt

ZONE = {
    ("a.example", "TXT"): ["v=spf1 mx -all"],
    ("a.example", "MX"): ["10 mx.a.example."],
    ("mx.a.example", "A"): ["192.0.2.1"],
    ("mx.a.example", "AAAA"): ["2001:db8::1"],
    ("b.example", "TXT"): ["v=spf1 include:a.example ~all", "something else"],
    ("two.example", "TXT"): ["v=spf1 mx", "v=spf1 a"],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
    ("to.example", "TXT"): ["v=spf1 redirect=a.example"],
    ("net.example", "TXT"): ["v=spf1 ip4:192.0.2.0/30 a:mx.a.example/24 -all"],
}


@pytest.mark.parametrize(
    ("domain", "address", "word"),
    [
        ("a.example", "192.0.2.1", "pass"),
        ("a.example", "2001:db8::1", "pass"),
        ("a.example", "192.0.2.2", "fail"),
        ("b.example", "192.0.2.1", "pass"),
        ("b.example", "192.0.2.9", "softfail"),
        ("two.example", "192.0.2.1", "permerror"),
        ("loop.example", "192.0.2.1", "permerror"),
        ("to.example", "192.0.2.9", "fail"),
        ("net.example", "192.0.2.200", "pass"),
        ("net.example", "198.51.100.1", "fail"),
        ("none.example", "192.0.2.1", "none"),
    ],
)
def test_spf_is_judged_as_receivers_do(domain, address, word):
    assert allowed.result(address, domain, lambda *asked: ZONE.get(asked, []))[0] == word


class Judge(pyspf.query):
    """pyspf in our zone."""

    def dns(self, name, kind, **more):
        values = ZONE.get((name.rstrip("."), kind), [])
        return [(10, v.split()[1].rstrip(".")) for v in values] if kind == "MX" else values

    def dns_txt(self, name, rr="TXT", **more):
        values = ZONE.get((name.rstrip("."), "TXT"), []) if rr == "TXT" else []
        return [value.encode() for value in values]

    def dns_a(self, name, A="A", **more):
        return [pyspf.ipaddress.ip_address(v) for v in ZONE.get((name.rstrip("."), A), [])]


ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.200", "198.51.100.1", "2001:db8::1", "2001:db8::2")


@pytest.mark.parametrize("domain", sorted({name for name, kind in ZONE if kind == "TXT"}))
@pytest.mark.parametrize("address", ADDRESSES)
def test_spf_is_judged_as_pyspf_does(domain, address):
    theirs = Judge(i=address, s=f"ann@{domain}", h=domain, strict=True).check()[0]
    assert allowed.result(address, domain, lambda *asked: ZONE.get(asked, []))[0] == theirs


NAME = "mailsrv._domainkey.a.example"


@pytest.fixture(scope="module")
def key(keys):
    return f"v=DKIM1; k=rsa; t=s; p={keys[2048][1]}"


def test_a_key_is_what_verifiers_take_and_the_mine_has(key, keys):
    assert peer.signing(NAME, [key], key.replace("t=s; ", "")) == ""
    assert peer.signing(NAME, [], key) == f"{NAME} is missing: what it signs does not verify"
    assert "has 2 records" in peer.signing(NAME, [key, key], key)
    other = f"v=DKIM1; k=rsa; p={keys[4096][1]}"
    assert peer.signing(NAME, [other], key) == f"{NAME} is another key than in the mine"
    late = f"k=rsa; v=DKIM1; p={keys[2048][1]}"
    assert peer.signing(NAME, [late], key) == f"verifiers throw {NAME} away: v= is not first"
    assert peer.signing(NAME, [key], late).startswith(f"in the mine, {NAME} is one that verifiers")
    assert peer.signing(NAME, ["v=DKIM1; p="], "v=DKIM1; p=") == ""
    for octets in (b"", b"x" * 32, random.Random(1).randbytes(300)):
        value = f"v=DKIM1; k=rsa; p={base64.b64encode(octets or b'0').decode()}"
        assert peer.signing(NAME, [value], value) == f"{NAME} holds no key of use"


RECEIPT = b"""\
Received: from localhost\r
\tby mail.b.example with LMTP; Fri, 27 Nov 2026 08:44:32 +0000\r
Received: from mx.a.example (mx.a.example [192.0.2.1])\r
\tby mail.b.example (OpenSMTPD) with ESMTPS id fff4201c\r
\tfor <ann@b.example>; Fri, 27 Nov 2026 08:44:32 +0000 (UTC)\r
DKIM-Signature: v=1; a=rsa-sha256; s=s1; d=a.example; h=from; bh=x; b=y\r
Received: from mx.c.example (mx.c.example [192.0.2.66])\r
\tby mail.b.example (OpenSMTPD) with ESMTP id 1; Fri, 27 Nov 2026 08:44:32 +0000\r
From: Mailer Daemon <MAILER-DAEMON@mx.a.example>\r
Content-Type: multipart/mixed; boundary="1/mx"\r
\r
--1/mx\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.a.example\r
\r
Final-Recipient: rfc822; postmaster@a.example\r
Action: delivered\r
Status: 2.0.0\r
\r
--1/mx--\r
"""


def test_a_receipt_is_what_it_says_and_who_brought_it():
    """A line about who brought it that others wrote stands below ours."""
    found = receipt.read(RECEIPT, "mail.b.example")
    name = "s1._domainkey.a.example"
    assert found == receipt.Receipt("delivered", "", "192.0.2.1", [name], "a.example")
    said = receipt.judged(found, "", ("pass", ""), "mx.a.example", 1)
    assert said == "ok: after 1 s from 192.0.2.1, signed by a.example, SPF passes"
    assert receipt.judged(found, "", ("softfail", ""), "mx", 1).startswith(
        "FAULT: the receipt came"
    )
    assert receipt.read(RECEIPT.replace(b"d=a.", b"d=c."), "mail.b.example").domain == ""
    failed = RECEIPT.replace(
        b"Action: delivered", b"Action: failed\r\nDiagnostic-Code: smtp; 550 no"
    )
    failed = receipt.read(failed, "mail.b.example")
    said = receipt.judged(failed, "", ("", ""), "mx", 1)
    assert said == "FAULT: the message came back: smtp; 550 no; see mailsrv.explain there"


def test_a_receipt_may_hold_anything(key):
    """Changed, cut, deep, or anything at all: a sentence, or nothing that can be read."""
    luck = random.Random(7)
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(3000)
    )
    texts = [b"", deep, b"\0" * 9999, b"From: " + b"@" * 70000, luck.randbytes(5000)]
    for _ in range(300):
        text = bytearray(RECEIPT)
        for _ in range(luck.randrange(1, 20)):
            text[luck.randrange(len(text))] = luck.randrange(256)
        texts.append(bytes(text)[: luck.randrange(len(text)) if luck.random() < 0.3 else None])
    for text in texts:
        try:
            found = receipt.read(text, "mail.b.example")
        except Exception:
            continue
        unsigned = receipt.unsigned(text, found, dict.fromkeys(found.names, key))
        assert unsigned or not found.domain
        said = receipt.judged(found, unsigned, ("fail", ""), "mx.a.example", 1)
        assert said.startswith(("FAULT: ", "WARNING: "))
        assert len(said) < 400


def test_what_is_no_record_in_the_mine_is_left_out():
    mx = {"name": "a.example.", "type": "MX", "value": "10 mx.a.example."}
    zones = {"m1": {"a.example": [mx, 7, {"name": None}], "../x": [], "b.example": 3}, "m2": "x"}
    found = peer.machines({"m1": "PEM", "mx9.example": 3}, zones)
    assert found["mx.a.example"] == peer.Machine("m1", {"a.example": [mx]}, "PEM")
    assert {*found} == {"mx.a.example", "mx9.example"}


def test_what_others_say_is_ascii_with_an_end():
    assert peer.quoted("a\x1b[2J\r\nb\u202e" + "x" * 9999).startswith("a?[2J b?x")
    assert len(peer.quoted("x" * 9999)) < 100


def test_the_mine_may_hold_anything():
    """What a minion says of another one's name does not take its place."""
    mx = {"name": "evil.example.", "type": "MX", "value": "10 mail.a.example."}
    zones = {"a-evil": {"evil.example": [mx]}, "mail.a.example": {}}
    found = peer.machines({"mail.a.example": "PEM", "a-evil": "FALSE"}, zones)
    assert found["mail.a.example"] == peer.Machine("mail.a.example", {}, "PEM")
    many = [{**mx, "value": f"10 mx{n}.victim.example."} for n in range(999)]
    assert len(peer.machines({}, {"a-evil": {"evil.example": many}})) == peer.HOSTS
    luck = random.Random(3)
    things = [None, 7, "x" * 9999, b"\xff", [], {}, [[]], {"a.example": [{}]}, {7: 7}, True]
    for _ in range(300):
        ids = [luck.choice(["m1", "", "\x1b[2J", "a.example", 7]) for _ in range(3)]
        certificates = {minion: luck.choice(things) for minion in ids}
        zones = {
            minion: luck.choice([*things, {"a.example": [luck.choice(things), mx]}])
            for minion in ids
        }
        for host, machine in peer.machines(certificates, zones).items():
            assert host.isascii()
            assert host.isprintable()
            assert all(isinstance(listed, list) for listed in machine.domains.values())
