"""_mailsrv.compare: what live DNS says against what is desired."""

import pytest
from _mailsrv import records as wanted
from _mailsrv.compare import findings, questions
from hypothesis import given
from hypothesis import strategies as st

import reading

KEY = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"
DKIM = "s1._domainkey.example.com"
DMARC = "_dmarc.example.com"
AB, CD = "ab" * 32, "cd" * 32


def record(name, kind, value, need="required"):
    """A record as _mailsrv.records makes it."""
    return {"name": f"{name}.", "type": kind, "value": value, "need": need, "why": "it is needed"}


def compare(desired, *servers, name="example.com", kind="TXT"):
    """The findings about one record: fault and what is shown."""
    live = {f"{name} {kind}": {f"ns{i}": list(values) for i, values in enumerate(servers, 1)}}
    return findings([record(name, kind, desired)] if desired else [], live)


# Which CA may issue

CAA = record("mx.shop.example.com", "CAA", '0 issue "letsencrypt.org"', "recommended")


def caa(*levels):
    """The finding about CAA where these values stand at the host, above it, and so on."""
    names = ["mx.shop.example.com", "shop.example.com", "example.com"]
    live = dict(zip([f"{name} CAA" for name in names], [{"ns1": v} for v in levels], strict=True))
    found = findings([CAA], live)
    assert len(found) <= 1
    return (found[0]["fault"], found[0]["need"], found[0]["name"]) if found else None


@pytest.mark.parametrize(
    "values",
    [
        ['0 issue "letsencrypt.org"'],
        ['0 issue "LetsEncrypt.org; validationmethods=http-01"'],
        ['128 issue " letsencrypt.org "'],
        ['0 issue "other.example"', '0 ISSUE "letsencrypt.org"', '0 iodef "mailto:a@b.example"'],
        ['0 iodef "mailto:a@b.example"'],
        ['0 issuewild ";"'],
        ['0 new "x"'],
    ],
)
def test_a_ca_that_may_issue_is_well(values):
    assert caa(values, [], []) is None
    assert caa([], values, []) is None
    # The nearest name decides, whatever stands above.
    assert caa([], values, ['0 issue ";"']) is None


@pytest.mark.parametrize(
    "values",
    [
        ['0 issue ";"'],
        ['0 issue ""'],
        ['0 issue "other.example"'],
        ['0 issue "letsencrypt.org.other.example"', '0 iodef "mailto:a@b.example"'],
        ['128 new "x"', '0 issue "letsencrypt.org"'],
    ],
)
def test_a_ca_that_may_not_issue_is_a_fault_at_the_name_that_says_so(values):
    assert caa(values, [], []) == ("wrong", "required", "mx.shop.example.com")
    assert caa([], [], values) == ("wrong", "required", "example.com")


def test_where_every_ca_may_issue_that_is_a_hint():
    assert caa([], [], []) == ("missing", "recommended", "mx.shop.example.com")
    # Who cannot be asked may have the record.
    assert caa([], "does not answer", []) == ("unknown", "recommended", "shop.example.com")


def test_a_server_that_lags_behind_with_caa_is_named():
    ours, other = ['0 issue "letsencrypt.org"'], ['0 issue "other.example"']
    host, domain = "mx.shop.example.com CAA", "example.com CAA"
    live = {host: {"ns1": ours, "ns2": []}, domain: {"ns1": other, "ns2": other}}
    (found,) = findings([CAA], live)
    assert (found["fault"], found["name"], found["servers"]) == ("wrong", "example.com", ["ns2"])
    (found,) = findings([CAA], {host: live[host], domain: {"ns1": [], "ns2": []}})
    assert (found["fault"], found["servers"]) == ("missing", ["ns2"])
    assert findings([CAA], {host: {"ns1": ours, "ns2": ours}, domain: live[domain]}) == []
    # The domain above has servers of its own.
    assert findings([CAA], {host: {"ns1": [], "ns2": []}, domain: {"ns9": ours}}) == []


def test_caa_is_asked_of_the_host_and_above_it():
    model = reading.model({"domains": ["example.com"], "mailsrv": {"hostname": "mx.a.example.com"}})
    host = record("mx.a.example.com", "CAA", '0 issue "letsencrypt.org"')
    assert [q for q in questions("example.com", [host], model, []) if q[1] == "CAA"] == [
        ("mx.a.example.com", "CAA"),
        ("a.example.com", "CAA"),
        ("example.com", "CAA"),
    ]
    assert "CAA" not in {kind for _, kind in questions("example.com", [], model, [])}
    # Nobody wants to know.
    assert findings([host], {"example.com CAA": {"ns1": ['0 issue ";"']}}) == []


@given(st.lists(st.text(max_size=40) | st.from_regex(r'[0-9]{1,4} [a-z]+ "?.*"?'), max_size=4))
def test_nonsense_of_others_in_caa_raises_nothing(values):
    caa(values, values, [])


# Desired, and what a provider makes of it

SAME = [
    ("example.com", "MX", "10 mx.example.com.", "10 MX.Example.COM."),
    ("example.com", "MX", "10 mx.example.com.", "0 mx.example.com."),
    ("_imaps._tcp.example.com", "SRV", "0 1 993 mx.example.com.", "5 0 993 MX.example.com."),
    ("_imap._tcp.example.com", "SRV", "0 0 0 .", "10 1 0 ."),
    ("mx.example.com", "AAAA", "2001:db8::1", "2001:DB8:0:0::1"),
    ("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.", "Mx.example.com."),
    ("_25._tcp.mx.example.com", "TLSA", f"3 1 1 {AB}", f"3 1 1 AB {AB[2:]}"),
    ("example.com", "TXT", "v=spf1 mx -all", "V=SPF1  +MX  -ALL"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx:example.com. -all"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 mx -all a"),
    ("example.com", "TXT", "v=spf1 a mx ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1/32 mx a -all"),
    ("example.com", "TXT", "v=spf1 mx -all", "v=spf1 redirect=a.example mx -all"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f" v=DKIM1;k=rsa;p={KEY};t=s;"),
    (DKIM, "TXT", f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM1; p= {KEY[:10]} {KEY[10:]}"),
    (
        DKIM,
        "TXT",
        f"v=DKIM1; k=rsa; t=s; p={KEY}",
        f"h=sha1:sha256; s=email; p={KEY}",
    ),
    (DMARC, "TXT", "v=DMARC1; p=reject", "v=DMARC1;p=Reject;sp=reject;adkim=r;pct=100;"),
    (
        DMARC,
        "TXT",
        "v=DMARC1; p=none; rua=mailto:a@b.example,mailto:c@d.example",
        "v=DMARC1; p=none; rua=mailto:c@d.example, mailto:A@B.example",
    ),
    ("_mta-sts.example.com", "TXT", "v=STSv1; id=20ab", "v=STSv1;id=20ab;"),
]
OTHER = [
    ("example.com", "MX", "10 mx.example.com.", "0 ."),
    ("_imaps._tcp.example.com", "SRV", "0 1 993 mx.example.com.", "0 1 993 mx.test.com."),
    ("mx.example.com", "A", "192.0.2.1", "192.0.2.2"),
    ("1.2.0.192.in-addr.arpa", "PTR", "mx.example.com.", "static-192-0-2-1.provider.example."),
    ("_25._tcp.mx.example.com", "TLSA", f"3 1 1 {AB}", f"3 1 1 {CD}"),
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
    # Under a selector, verifiers may take any.
    (found,) = compare(f"v=DKIM1; p={KEY}", ["nonsense", f"v=DKIM1; p={KEY}"], name=DKIM)
    assert (found["fault"], found["live"], found["need"]) == (
        "superfluous",
        ["nonsense"],
        "required",
    )


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
        ("_25._tcp.mx.example.com", "TLSA", None, [f"3 1 1 {AB}"], 0),
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
        ("_25._tcp.mx.example.com", "TLSA", f"3 1 1 {AB}", [f"3 1 1 {AB}", f"3 1 1 {CD}"]),
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
    (found,) = findings([record("mx.example.com", "A", "192.0.2.1")], live)
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
    found = findings([record("mta-sts.example.com", "CNAME", "www.example.net.")], live)
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
    (found,) = findings(records, live)
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
    assert [f["need"] for f in findings(records, live)] == ["required", "recommended"]


def test_what_mailsrv_publishes_compares_with_itself():
    options = {"web": "www.example.net", "mta_sts": "testing", "tls_reports": "a@b.example"}
    model = reading.model({"domains": ["example.com"], "mailsrv": {"dns": options}})
    published = {"example.com": {"s1": f"v=DKIM1; k=rsa; t=s; p={KEY}"}}
    records = wanted.records(model, published, ["192.0.2.1"], ["ab" * 32, "cd" * 32])["example.com"]
    live = {}
    for r in records:
        question = f"{r['name'].rstrip('.')} {r['type']}"
        live.setdefault(question, {"ns": []})["ns"].append(r["value"])
    assert findings(records, live) == []
    live = {question: {"ns": []} for question in live}
    missed = findings(records, live)
    assert {finding["fault"] for finding in missed} == {"missing"}
    assert len(missed) == len(records)


# What to ask for


def asked(domain="example.com", hostname="mx.example.com", selectors=(), tlsa=(), **dns):
    model = reading.model(
        {"domains": ["example.com", "test.com"], "mailsrv": {"hostname": hostname, "dns": dns}}
    )
    published = {name: {"s1": f"v=DKIM1; p={KEY}"} for name in model["domains"]}
    records = wanted.records(model, published, ["192.0.2.1"], tlsa)[domain]
    return questions(domain, records, model, selectors)


def test_every_record_is_asked_for_once_and_what_may_be_too_much():
    found = asked(selectors=["s0", "s1"])
    assert len(found) == len({*found})
    assert {
        ("example.com", "MX"),
        ("example.com", "TXT"),
        (DKIM, "TXT"),
        ("s0._domainkey.example.com", "TXT"),
        ("_mta-sts.example.com", "TXT"),
        ("mx.example.com", "A"),
        ("mx.example.com", "AAAA"),
        ("_25._tcp.mx.example.com", "TLSA"),
    } <= {*found}


def test_the_host_is_asked_for_with_the_domains_that_it_is_in():
    assert not [name for name, _ in asked("test.com") if name.endswith("mx.example.com")]
    assert ("mx.elsewhere.example", "AAAA") in asked(hostname="mx.elsewhere.example")


def test_an_alias_is_asked_for_with_the_addresses_that_may_stand_in_its_place():
    found = asked("test.com", web="www.example.net")
    for name in ("mta-sts.test.com", "autoconfig.test.com", "www.example.net"):
        assert {(name, "A"), (name, "AAAA")} <= {*found}


# What receivers throw away is nothing, whatever was meant


@pytest.mark.parametrize(
    ("name", "desired", "live", "why"),
    [
        (DKIM, f"v=DKIM1; k=rsa; t=s; p={KEY}", f"k=rsa; p={KEY}; v=DKIM1", "v= is not first"),
        (DKIM, f"v=DKIM1; k=rsa; t=s; p={KEY}", f"v=DKIM2; p={KEY}", "its version is not DKIM1"),
        (DKIM, f"v=DKIM1; k=rsa; t=s; p={KEY}", f"p={KEY}; p={KEY}", "p= is there twice"),
        (DMARC, "v=DMARC1; p=reject", "V=DMARC1; p=reject", "v=DMARC1 is not first"),
        ("_mta-sts.example.com", "v=STSv1; id=20ab", "v = STSv1; id=20ab", "v=STSv1 is not first"),
    ],
)
def test_why_a_record_is_thrown_away_is_said(name, desired, live, why):
    (found,) = compare(desired, [live], name=name)
    assert (found["fault"], found["live"]) == ("wrong", [live])
    assert found["says"].endswith(f": it is needed; verifiers throw away what is there: {why}")


@pytest.mark.parametrize(
    "live",
    [
        "v=spf1 mx -al",
        "v=spf1 mx  ip4:2001:db8::1 -all",
        "v=spf1\tmx -all",
        " v=spf1 mx -all",
        "v=spf1 mx -all redirect=a.example redirect=b.example",
    ],
)
def test_an_spf_record_that_no_receiver_takes_is_wrong(live):
    (found,) = compare("v=spf1 mx -all", [live])
    assert (found["fault"], found["live"]) == ("wrong", [live])


def test_a_version_glued_to_the_next_word_is_no_spf_record():
    (found,) = compare("v=spf1 mx -all", ["v=spf1mx -all"])
    assert (found["fault"], found["live"]) == ("missing", [])
