"""_mailsrv.verifiers: what verifiers throw away is nothing; the real ones are the judges."""

import base64
import contextlib

import dkim as dkimpy
import pytest
import spf as pyspf
from _mailsrv import compare, verifiers
from _mailsrv import spf as ours
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

from saltext.mailsrv.modules import dkim, mailcheck

KEY = dkim.generate(1024)[1]
OTHER = dkim.generate(1024)[1]
EDWARD = dkim.generate(algorithm="ed25519")[1]
NAME = "s1._domainkey.example.com"

# Keys that every verifier takes for ours; `p=` stands for its base64.
TAKEN = [
    "v=DKIM1; k=rsa; t=s; p=",
    "v=DKIM1;k=rsa;t=s;p=",
    "p=",
    "k=rsa; p=",
    " v=DKIM1 ;\tp = ",
    "v=DKIM1; n=a note, with = and blanks; p=",
    "v=DKIM1; h=sha1:sha256; p=",
    "v=DKIM1; h = sha1:sha256; s = email; p=",
    "v=DKIM1; s=email; t=s:x-other; p=",
    "v=DKIM1; s=*; x_1=unknown; x=; p=",
]

# What is thrown away, or does not count for mail as ours is signed, and a word of the reason.
THROWN_AWAY = [
    ("v=DKIM2; p={}", "version"),
    ("v=DKIM11; p={}", "version"),
    ("v=dkim1; p={}", "version"),
    ("v=; p={}", "version"),
    ("v=DKIM1 DKIM1; p={}", "version"),
    ("k=rsa; v=DKIM1; p={}", "not first"),
    ("k=rsa; p={}; v=DKIM1", "not first"),
    ("v=DKIM1; v=DKIM1; p={}", "v= is there twice"),
    ("v=DKIM1; p={}; p={}", "p= is there twice"),
    ("v=DKIM1; p=; p={}", "p= is there twice"),
    ("v=DKIM1; k=rsa; k=rsa; p={}", "k= is there twice"),
    ("v=DKIM1; P={}", "p= is missing"),
    ("v=DKIM1; k=rsa", "p= is missing"),
    ("V=DKIM1; K=rsa; P={}", "p= is missing"),
    ("v=DKIM1; k=RSA; p={}", "k="),
    ("v=DKIM1; k=dsa; p={}", "k="),
    ("v=DKIM1; k=; p={}", "k="),
    ("v=DKIM1; h=sha1; p={}", "h="),
    ("v=DKIM1; h=SHA256; p={}", "h="),
    ("v=DKIM1; h=sha1 : sha256; p={}", "h="),  # Mail::DKIM
    ("v=DKIM1; h=sha1 sha256; p={}", "h="),
    ("v=DKIM1; h=; p={}", "h="),
    ("v=DKIM1; s=tlsrpt; p={}", "s="),
    ("v=DKIM1; s=other; p={}", "s="),
    ("v=DKIM1; s=tlsrpt:email; p={}", "s="),  # dkimpy
    ("v=DKIM1; s=EMAIL; p={}", "s="),
    ("v=DKIM1; s=; p={}", "s="),
    ("v=DKIM1; t=y; p={}", "t=y"),
    ("v=DKIM1; t=y:s; p={}", "t=y"),
    ("v=DKIM1; t=s:y; p={}", "t=y"),
    ("v=DKIM1; t=s : y; p={}", "t="),
    ("v=DKIM1; p={}!", "base64"),
    ("v=DKIM1; p=\\{}", "base64"),
    ('v=DKIM1; p="{}"', "base64"),
    ("v=DKIM1 p={}", "version"),
    ("v=DKIM1, p={}", "version"),
    ("v=DKIM1;; p={}", "list"),
    ("; v=DKIM1; p={}", "list"),
    ("v=DKIM1; p={}; junk", "list"),
    ("v=DKIM1; =x; p={}", "list"),
    ("v=DKIM1; 1a=x; p={}", "list"),
    ("v=DKIM1; a-b=x; p={}", "list"),
    ('"v=DKIM1; p={}"', "list"),
    ("v=DKIM1; n=\\233; p={}\\", "base64"),
    ("v=DKIM1; n=b\xfccher; p={}", "list"),
    ("v=DKIM1; p={}\x00", "list"),
    ("", "list"),
    ("nonsense", "list"),
]


def judged_by_dkimpy(text):
    """The key that dkimpy finds in a record, its octets; None where it throws the record away."""
    try:
        key, _, kind, _ = dkimpy.evaluate_pk("name", text)
    except Exception:
        return None
    if key is None:
        return None
    return ("ed25519", bytes(key)) if kind == b"ed25519" else ("rsa", key["modulus"])


@pytest.mark.parametrize("text", TAKEN)
def test_a_key_is_taken_in_any_spelling_that_verifiers_take(text):
    for record in (text + KEY, text + f"{KEY[:20]} {KEY[20:40]}\t{KEY[40:]} ;"):
        assert verifiers.dkim(record) == ("rsa", base64.b64decode(KEY))
        assert judged_by_dkimpy(record) == judged_by_dkimpy(f"p={KEY}")
        assert compare.lacks(NAME, "TXT", dkim.txt(KEY), [record]) == ""


@pytest.mark.parametrize(("text", "why"), THROWN_AWAY)
def test_a_key_that_verifiers_throw_away_is_nothing(text, why):
    record = text.format(*[KEY] * text.count("{}"))
    with pytest.raises(verifiers.Refused, match=why):
        verifiers.dkim(record)
    said = compare.lacks(NAME, "TXT", dkim.txt(KEY), [record])
    assert said.startswith("shows one that verifiers throw away: ")
    assert why in said


def test_another_key_or_none_is_not_ours():
    for record in (
        dkim.txt(OTHER),
        dkim.txt(EDWARD),
        f"v=DKIM1; k=ed25519; p={KEY}",
        f"v=DKIM1; p={KEY.swapcase()}",
        "v=DKIM1; p=",
        "p=",
        f"v=DKIM1; p={KEY[:-8]}",
    ):
        assert compare.lacks(NAME, "TXT", dkim.txt(KEY), [record]) == "still lacks it"


def test_of_several_records_under_one_selector_none_is_relied_on():
    for more in (dkim.txt(KEY), dkim.txt(OTHER), "v=DKIM1; p=", "nonsense", ""):
        shown = [dkim.txt(KEY), more]
        for values in (shown, shown[::-1]):
            assert compare.lacks(NAME, "TXT", dkim.txt(KEY), values) == (
                "shows 2 such records, of which verifiers take none or any"
            )


def test_a_key_of_edwards_curve_is_told_by_its_kind():
    wanted = dkim.txt(EDWARD)
    assert compare.lacks(NAME, "TXT", wanted, [f"k=ed25519;p={EDWARD}"]) == ""
    for record in (f"v=DKIM1; p={EDWARD}", f"v=DKIM1; k=rsa; p={EDWARD}"):
        assert compare.lacks(NAME, "TXT", wanted, [record]) == "still lacks it"
    assert judged_by_dkimpy(wanted) == verifiers.dkim(wanted)


def test_a_revoked_key_is_revoked_whatever_else_it_says():
    for record in ("v=DKIM1; p=", "p=", "k=dsa; p= ;", "v=DKIM1; t=y; p="):
        assert verifiers.dkim(record) == verifiers.REVOKED


pieces = st.sampled_from(
    [text.partition("{}")[0].rpartition("p=")[0].strip("; ") for text, _ in THROWN_AWAY]
    + ["v=DKIM1", "k=rsa", "t=s", "s=*", "h=sha256", "n=x", f"p={KEY}", f"p={EDWARD}", "p="]
    + ["k=ed25519", "", " "]
)
ends = st.sampled_from([";", "; ", " ;\t", ""])
some = st.lists(st.tuples(pieces, ends), max_size=6).map(lambda found: "".join(map("".join, found)))


@given(some | st.text(max_size=60))
def test_what_is_taken_here_dkimpy_takes_for_the_same_key(text):
    try:
        kind, octets = verifiers.dkim(text)
    except verifiers.Refused:
        return
    if kind == "revoked":
        assert judged_by_dkimpy(text) is None
    elif (kind, octets) in (verifiers.dkim(f"p={KEY}"), verifiers.dkim(dkim.txt(EDWARD))):
        value = base64.b64encode(octets).decode()
        assert judged_by_dkimpy(text) == judged_by_dkimpy(f"k={kind}; p={value}")


def test_nothing_that_no_verifier_takes_is_waited_for():
    with pytest.raises(SaltInvocationError, match=r"is not the value of .* TXT: v= is not first"):
        mailcheck.lacking(NAME, "TXT", f"p={KEY}; v=DKIM1")


# SPF


class Judge(pyspf.query):
    """pyspf, for whom every host has an address and every name a record that says no."""

    def dns(self, name, kind, **more):
        answers = {"A": ["192.0.2.9"], "MX": [(10, "a.example")], "SPF": [], "PTR": ["a.example"]}
        return answers.get(kind, ["v=spf1 -all"])

    def dns_txt(self, name, rr="TXT", **more):
        return [b"v=spf1 -all"] if rr == "TXT" else []


def judged_by_pyspf(text):
    """Whether pyspf throws a record away."""
    query = Judge(i="198.51.100.1", s="ann@example.com", h="a.example", strict=True)
    return query.check(spf=text)[0] in ("permerror", "none")


SPF = [
    *("v=spf1 mx foo -all", "v=spf1 mx -all foo", "v=spf1 incude:a.example -all", "v=spf1 mx -al"),
    *("v=spf1 ip4:192.0.2.0/33 -all", "v=spf1 ip4:192.0.2 -all", "v=spf1 ip6:2001:db8::/129 -all"),
    *("v=spf1 a/33 -all", "v=spf1 a:%{q}.a.example -all", "v=spf1 exists:%{i -all"),
    *(
        "v=spf1 include: -all",
        "v=spf1 mx redirect=a.example redirect=b.example",
        "v=spf1 ip4: -all",
    ),
    "v=spf1 exp=a.example exp=b.example -all",
]


@pytest.mark.parametrize("text", SPF)
def test_an_spf_record_that_pyspf_throws_away_is_nothing(text):
    assert judged_by_pyspf(text)
    assert ours.parse(text) is None
    said = compare.lacks("example.com", "TXT", "v=spf1 mx -all", [text])
    assert said.startswith("shows one that verifiers throw away: it is not v=spf1 and terms")


@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 mx -all",
        "v=spf1 a/24 mx//64 ip4:192.0.2.0/24 ip6:2001:db8::/32 include:a.example ~all",
        "v=spf1 mx moo=cow redirect=a.example",
        "v=spf1 exists:%{ir}.a.example ptr ?all",
    ],
)
def test_an_spf_record_that_pyspf_takes_is_one(text):
    assert not judged_by_pyspf(text)
    assert ours.parse(text) is not None


def test_of_two_spf_records_none_is_relied_on():
    two = ["v=spf1 mx -all", "v=spf1 mx -all foo"]
    said = compare.lacks("example.com", "TXT", two[0], two)
    assert said.startswith("shows 2 such records")
    assert compare.lacks("example.com", "TXT", two[0], [two[0], "v=verify", "MS=ms1"]) == ""


# Policies


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("v=DMARC2; p=reject", "first"),
        ("v=dmarc1; p=reject", "first"),
        ("V=DMARC1; p=reject", "first"),
        ("p=reject; v=DMARC1", "first"),
        ("v=DMARC1", "second"),
        ("v=DMARC1; rua=mailto:a@b.example; p=reject", "second"),
        ("v=DMARC1; P=reject", "second"),
        ("v=DMARC1; p=rejects", "none of"),
        ("v=DMARC1; p=", "none of"),
        ("v=DMARC1; p=reject; sp=all", "none of"),
        ("v=DMARC1; p=reject; p=none", "twice"),
        ("v=DMARC1 p=reject", "first"),
        ("v=DMARC1; p=reject; junk", "list"),
        ("v=DMARC1,p=reject", "first"),
        ("", "list"),
    ],
)
def test_a_dmarc_record_that_some_receiver_throws_away_is_nothing(text, why):
    with pytest.raises(verifiers.Refused, match=why):
        verifiers.dmarc(text)


def test_a_dmarc_record_is_what_its_known_tags_say():
    said = verifiers.dmarc("v=DMARC1; p=reject")
    for text in (
        "v = DMARC1 ;p= REJECT;",
        "v=DMARC1; p=reject; sp=reject; np=reject; pct=100; t=n; psd=u; x=unknown",
    ):
        assert verifiers.dmarc(text) == said
    for text in ("t=y", "sp=none", "np=none", "pct=0", "rua=mailto:a@b.example", "adkim=s"):
        assert verifiers.dmarc(f"v=DMARC1; p=reject; {text}") != said


def test_a_consent_to_reports_needs_its_version_alone():
    name, wanted = "a.example._report._dmarc.b.example", "v=DMARC1"
    for shown in ("v=DMARC1;", "v=DMARC1; p=none"):
        assert compare.lacks(name, "TXT", wanted, [shown]) == ""
    assert compare.lacks(name, "TXT", wanted, ["v=DMARC1; rua=mailto:c@d.example"])
    assert compare.lacks(name, "TXT", wanted, ["V=DMARC1"])


@pytest.mark.parametrize(
    "text",
    [
        *("v=STSv1", "v=STSv1;", "v=STSv1; id=", "v=STSv1; id=a-b", "v=STSv1; id=a b"),
        *("v=stsv1; id=1", "V=STSv1; id=1", " v=STSv1; id=1", "v=STSv1 id=1", "id=1; v=STSv1"),
        *("v=STSv1; ID=1", "v=STSv1; id=1; id=1", "v=STSv1; id=1;; x=1", "v=STSv1; id=1; x"),
        *("v=STSv2; id=1", f"v=STSv1; id={'1' * 33}", "v = STSv1; id=1", "v=STSv1; id = 1"),
    ],
)
def test_an_mta_sts_record_that_senders_throw_away_is_nothing(text):
    with pytest.raises(verifiers.Refused):
        verifiers.mta_sts(text)


def test_an_mta_sts_record_says_its_id():
    for text in ("v=STSv1; id=20Ab", "v=STSv1;id=20Ab;", "v=STSv1 \t; x=1 ; id=20Ab ;"):
        assert verifiers.mta_sts(text) == "20Ab"


@pytest.mark.parametrize(
    "text",
    [
        *("v=TLSRPTv1", "v=TLSRPTv1; rua=", "v=tlsrptv1; rua=mailto:a@b.example"),
        *("v=TLSRPTv1; rua=a@b.example", "v=TLSRPTv1 rua=mailto:a@b.example"),
        *("v=TLSRPTv1; rua=mailto:a@b.example,", "rua=mailto:a@b.example; v=TLSRPTv1"),
        "v=TLSRPTv1; rua=mailto:a@b.example; rua=mailto:a@b.example",
    ],
)
def test_a_record_for_reports_about_tls_that_is_thrown_away_is_nothing(text):
    with pytest.raises(verifiers.Refused):
        verifiers.tls_reports(text)


def test_reports_about_tls_go_to_addresses():
    said = verifiers.tls_reports("v=TLSRPTv1; rua=mailto:a@b.example , https://c.example/x?y=z;")
    assert said == {"mailto:a@b.example", "https://c.example/x?y=z"}


@pytest.mark.parametrize(
    "text",
    [
        *(f"0 1 1 {'ab' * 32}", f"1 1 1 {'ab' * 32}", f"4 1 1 {'ab' * 32}", f"3 2 1 {'ab' * 32}"),
        *(f"3 1 3 {'ab' * 32}", f"3 1 1 {'ab' * 31}", f"3 1 2 {'ab' * 32}", "3 1 1", "3 1 0 abc"),
    ],
)
def test_a_tlsa_record_that_mail_servers_cannot_use_is_nothing(text):
    with pytest.raises(verifiers.Refused):
        verifiers.tlsa(text)
    wanted = f"3 1 1 {'ab' * 32}"
    assert compare.lacks("_25._tcp.mx.example.com", "TLSA", wanted, [text])


JUDGES = (verifiers.dkim, verifiers.dmarc, verifiers.mta_sts, verifiers.tls_reports)


@given(st.text(max_size=80))
def test_nonsense_of_strangers_is_refused_and_nothing_else(text):
    for judge in JUDGES:
        with contextlib.suppress(verifiers.Refused):
            judge(text)


def test_a_very_long_text_is_judged_in_no_time():
    for piece in ("a=b;", "a ", "=", ";", ":", ",", "x=y,"):
        for start in ("v=DKIM1; h=", "v=DMARC1; p=none; rua=", "v=TLSRPTv1; rua=", "v=STSv1; id="):
            for judge in JUDGES:
                with pytest.raises(verifiers.Refused):
                    judge(start + piece * 20000 + "\x00")
