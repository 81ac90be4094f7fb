"""_mailsrv.records: the DNS records of a model, zone files, and what clients are told."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from _mailsrv import records as core

import reading
from reading import HOST

ADDRESSES = ["192.0.2.1", "2001:db8::1"]
HASH = "$6$salt$" + "a" * 86


def model(domains=("example.com", "test.com"), hostname=HOST, **settings):
    return reading.model({"domains": list(domains), "mailsrv": {"hostname": hostname, **settings}})


def txt(public):
    return f"v=DKIM1; k=rsa; t=s; p={public}"


def values(records, domain, kind):
    return {r["name"]: r["value"] for r in records[domain] if r["type"] == kind}


def records_of(model, public="MIIB", addresses=ADDRESSES, tlsa=()):
    published = {domain: {"mailsrv": txt(public)} for domain in model["domains"]}
    return core.records(model, published, addresses, tlsa)


def test_every_domain_has_mx_spf_dkim_and_dmarc(keys):
    domains = {"example.com": keys[1024][1], "test.com": keys[2048][1]}
    published = {domain: {"s1": txt(public)} for domain, public in domains.items()}
    records = core.records(model(), published, ADDRESSES)
    for domain, public in domains.items():
        assert values(records, domain, "MX") == {f"{domain}.": "10 mx.example.com."}
        found = values(records, domain, "TXT")
        assert found[f"{domain}."] == "v=spf1 mx -all"
        assert found[f"s1._domainkey.{domain}."] == f"v=DKIM1; k=rsa; t=s; p={public}"
        assert found[f"_dmarc.{domain}."] == "v=DMARC1; p=quarantine"


@pytest.mark.parametrize(
    ("settings", "issuer"),
    [
        ({}, "letsencrypt.org"),
        ({"server": "https://acme.zerossl.com:443/v2/DV90"}, "sectigo.com"),
        ({"server": "https://ca.example/dir", "caa": "CA.Example"}, "ca.example"),
        ({"server": "https://ca.example/dir"}, None),  # nobody knows what it is called there
        (None, None),
    ],
)
def test_the_ca_of_acme_may_issue_for_the_host_and_no_other(settings, issuer):
    acme = {"tls": {"acme": {"email": "a@example.com", **settings}}} if settings is not None else {}
    records = records_of(model(["test.com", "example.com"], web=bool(acme), **acme))
    expected = {f"{HOST}.": f'0 issue "{issuer}"'} if issuer else {}
    assert values(records, "example.com", "CAA") == expected
    # The names of the web are aliases of the host, and beside an alias nothing may stand.
    assert values(records, "test.com", "CAA") == {}


def test_every_published_selector_has_its_record():
    published = {"example.com": {"s1": "v=DKIM1; p=AAAA", "s2": "v=DKIM1; k=ed25519; p=BBBB"}}
    found = values(core.records(model(["example.com"]), published, []), "example.com", "TXT")
    assert found["s1._domainkey.example.com."] == "v=DKIM1; p=AAAA"
    assert found["s2._domainkey.example.com."] == "v=DKIM1; k=ed25519; p=BBBB"


def test_every_record_says_how_much_it_is_needed_and_why():
    options = {"web": "www.example.net", "mta_sts": "testing", "tls_reports": "a@b.example"}
    for records in records_of(model(dns=options), tlsa=["00" * 32]).values():
        for record in records:
            assert list(record) == ["name", "type", "value", "need", "why"]
            assert record["name"].endswith(".")
            assert record["need"] in ("required", "recommended")
            assert record["why"]
            assert not record["why"].endswith(".")


def test_required_is_what_mail_does_not_come_or_go_without():
    records = records_of(model())["example.com"]
    required = [record["type"] for record in records if record["need"] == "required"]
    assert required == ["MX", "TXT", "TXT", "A", "AAAA", "PTR", "PTR"]


@pytest.mark.parametrize(
    ("domains", "hostname", "zones"),
    [
        (["example.com", "test.com"], "mx.example.com", ["example.com"]),
        # One zone or two: without them the upper one would not load.
        (["example.com", "a.example.com"], "mx.a.example.com", ["example.com", "a.example.com"]),
        # In no zone of ours they stand with the first domain, and in no zone file.
        (["example.com", "test.com"], "mx.elsewhere.example", ["example.com"]),
        (["example.com", "test.com"], "mx.notexample.com", ["example.com"]),
    ],
)
def test_the_hosts_records_stand_with_the_domains_it_is_in(domains, hostname, zones):
    records = records_of(model(domains, hostname), tlsa=["00" * 32])
    for domain in domains:
        v4, v6 = ({f"{hostname}.": a} if domain in zones else {} for a in ADDRESSES)
        assert values(records, domain, "A") == v4
        assert values(records, domain, "AAAA") == v6
        assert (f"{hostname}." in values(records, domain, "TXT")) == (domain in zones)
        assert bool(values(records, domain, "TLSA")) == (domain in zones)
        assert bool(values(records, domain, "PTR")) == (domain in zones)


def test_the_reverse_records_lead_to_the_host():
    assert values(records_of(model()), "example.com", "PTR") == {
        "1.2.0.192.in-addr.arpa.": "mx.example.com.",
        f"1.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa.": "mx.example.com.",
    }


def test_an_address_behind_nat_has_no_reverse_record_and_says_what_to_do():
    found = records_of(model(), addresses=["10.0.0.5"])["example.com"]
    assert "PTR" not in {record["type"] for record in found}
    (host,) = [record for record in found if record["type"] == "A"]
    assert host["why"].endswith("name the one that it sees in mailsrv:dns:addresses")


def test_clients_find_the_services_with_tls_and_only_these():
    found = values(records_of(model()), "test.com", "SRV")
    assert found == {
        "_imaps._tcp.test.com.": "0 1 993 mx.example.com.",
        "_pop3s._tcp.test.com.": "10 1 995 mx.example.com.",
        "_submissions._tcp.test.com.": "0 1 465 mx.example.com.",
        "_submission._tcp.test.com.": "0 1 587 mx.example.com.",
        "_sieve._tcp.test.com.": "0 1 4190 mx.example.com.",
        "_imap._tcp.test.com.": "0 0 0 .",
        "_pop3._tcp.test.com.": "0 0 0 .",
    }


def test_without_a_web_host_nothing_leads_to_one():
    for records in records_of(model()).values():
        assert not [r for r in records if r["type"] == "CNAME" or "STS" in r["value"]]


def test_with_a_web_host_clients_and_senders_are_led_there():
    records = records_of(model(dns={"web": "www.example.net"}))
    assert values(records, "test.com", "CNAME") == {
        "mta-sts.test.com.": "www.example.net.",
        "autoconfig.test.com.": "www.example.net.",
    }
    assert "_mta-sts.test.com." not in values(records, "test.com", "TXT")


def test_the_id_of_the_policy_changes_with_the_policy_and_only_then():
    def of(domains=("example.com", "test.com"), mode="testing", **given):
        given = model(list(domains), dns={"web": "www.a.example", "mta_sts": mode}, **given)
        records = records_of(given)
        return {values(records, d, "TXT")[f"_mta-sts.{d}."] for d in domains}

    (once,) = of()
    assert re.fullmatch("v=STSv1; id=[0-9a-f]{20}", once)
    assert of() == of(domains=["example.com"]) == {once}
    assert of(hostname="mx2.example.com") != {once}
    tls = {"cert": "/etc/ssl/a", "key": "/etc/ssl/b"}
    assert of(tls=tls) == {once}
    assert of(tls=tls, mode="enforce") != {once}


def test_reports_go_to_the_address_of_the_pillar():
    dns = {
        "dmarc": {"policy": "reject", "reports": "d@there.example"},
        "tls_reports": "t@there.example",
    }
    records = records_of(model(dns=dns))
    found = values(records, "test.com", "TXT")
    assert found["_dmarc.test.com."] == "v=DMARC1; p=reject; rua=mailto:d@there.example"
    assert found["_smtp._tls.test.com."] == "v=TLSRPTv1; rua=mailto:t@there.example"
    (dmarc,) = [r for r in records["test.com"] if r["name"] == "_dmarc.test.com."]
    assert dmarc["why"].endswith(
        "its reports come only with the consent of there.example, a TXT record v=DMARC1 at "
        "test.com._report._dmarc.there.example"
    )


def test_a_domain_of_ours_consents_to_the_reports_about_the_others():
    dns = {"dmarc": {"reports": "a@example.com"}}
    domains = ["example.com", "test.com", "sub.example.com"]
    accounts = [["a@example.com", "secret"]]
    records = records_of(model(domains, dns=dns, accounts=accounts))
    found = {name for d in domains for name in values(records, d, "TXT") if "_report." in name}
    assert found == {"test.com._report._dmarc.example.com."}
    assert "consent" not in next(
        r["why"] for r in records["test.com"] if r["name"] == "_dmarc.test.com."
    )


def test_a_satellite_is_found_by_our_mx_and_its_mail_by_our_addresses():
    satellites = {"web1.example.com": {"hash": HASH}, "web1.other.net": {"hash": HASH}}
    records = records_of(model(satellites=satellites))
    of_satellites = [
        (record["name"], record["type"], record["value"])
        for record in (*records["example.com"], *records["test.com"])
        if record["name"].startswith("web1.")
    ]
    assert of_satellites == [
        ("web1.example.com.", "MX", "10 mx.example.com."),
        ("web1.example.com.", "TXT", "v=spf1 mx -all"),
    ]


def test_the_policy_is_a_file_whose_lines_end_as_http_wants_them():
    found = model(dns={"web": "www.example.net", "mta_sts": "testing"})
    assert core.web_files("test.com", found)[
        "https://mta-sts.test.com/.well-known/mta-sts.txt"
    ] == ("version: STSv1\r\nmode: testing\r\nmx: mx.example.com\r\nmax_age: 604800\r\n")


def test_the_settings_for_mail_clients_are_those_that_the_srv_records_say():
    provider = ElementTree.fromstring(core.autoconfig("test.com", model())).find("emailProvider")
    assert provider.findtext("domain") == "test.com"
    servers = [*provider.iter("incomingServer"), *provider.iter("outgoingServer")]
    found = [(s.get("type"), s.findtext("port"), s.findtext("socketType")) for s in servers]
    assert found == [("imap", "993", "SSL"), ("pop3", "995", "SSL"), ("smtp", "465", "SSL")]
    assert {s.findtext("hostname") for s in servers} == {"mx.example.com"}
    assert {s.findtext("username") for s in servers} == {"%EMAILADDRESS%"}


def test_a_mail_client_is_told_the_host_and_the_secure_ports():
    told = " ".join(core.client(model()).values())
    assert all(word in told for word in ("mx.example.com", "993", "995", "465", "587"))


# The zone file

MX = {"name": "example.com.", "type": "MX", "value": "10 mx.example.com."}
A = {"name": "mx.example.com.", "type": "A", "value": "192.0.2.1"}
POINTER = {"name": "1.2.0.192.in-addr.arpa.", "type": "PTR", "value": "mx.example.com."}
SERVERS = ["ns1.example.net", "ns2.example.net"]


def test_a_zone_begins_with_its_authority_and_its_name_servers():
    assert core.zone("example.com", [MX, A], SERVERS, 2027010100, "why").splitlines() == [
        "; why",
        "$ORIGIN example.com.",
        "$TTL 3600",
        "@\tIN\tSOA\tns1.example.net. hostmaster.example.com. (",
        "\t2027010100 3600 900 1209600 300 )",
        "@\tIN\tNS\tns1.example.net.",
        "@\tIN\tNS\tns2.example.net.",
        "example.com.\tIN\tMX\t10 mx.example.com.",
        "mx.example.com.\tIN\tA\t192.0.2.1",
    ]


def test_a_record_of_another_zone_is_a_comment_or_left_out(load_zone):
    text = core.zone("example.com", [A, POINTER], SERVERS, 1)
    assert text.endswith("; in another zone: 1.2.0.192.in-addr.arpa.\tIN\tPTR\tmx.example.com.\n")
    load_zone("example.com", text)
    text = core.zone("example.com", [A, POINTER], SERVERS, 1, others=False)
    assert "PTR" not in text
    load_zone("example.com", text)


LONG = A | {"type": "TXT", "value": "a; b" * 60}


@pytest.mark.parametrize(
    ("length", "lengths"), [(0, [0]), (68, [68]), (69, [68, 1]), (150, [68, 68, 14])]
)
def test_a_text_is_cut_into_strings_of_a_line_each(length, lengths):
    lines = re.findall(r'"(x*)"', core.quoted("x" * length))
    assert [len(line) for line in lines] == lengths
    assert all(len(line.expandtabs()) <= 80 for line in core.quoted("x" * length).split("\n"))


def test_a_text_of_another_zone_is_a_comment_to_its_last_line(load_zone):
    text = core.zone("example.com", [A, LONG | {"name": "a.elsewhere.example."}], SERVERS, 1)
    _, _, comment = text.partition("; in another zone: ")
    assert comment.count("\n; \t") == 4
    load_zone("example.com", text)
    load_zone("example.com", core.zone("example.com", [A, LONG], SERVERS, 1))


def test_every_port_has_a_number_and_a_service_of_its_own():
    assert len(core.NUMBERS) == len({port.number for port in core.PORTS}) == len(core.PORTS)
