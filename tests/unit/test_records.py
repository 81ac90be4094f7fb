"""mailsrv: the DNS records of a model, and what is read from the machine for them."""

import re
import subprocess
import xml.etree.ElementTree as ElementTree

import dns.zone
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import dkim, mailsrv

ADDRESSES = ["192.0.2.1", "2001:db8::1"]


@pytest.fixture
def model(read):
    def of(domains=("example.com", "test.com"), hostname="mx.example.com", **settings):
        return read({"domains": list(domains), "mailsrv": {"hostname": hostname, **settings}})

    return of


@pytest.fixture
def certificate(tmp_path, program):
    """The certificate that the daemons read, and its key, in one file."""
    path = tmp_path / "mx.example.com.copy.crt"
    command = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=mx -keyout {path} -out {path}"
    subprocess.run([program("openssl"), *command.split()], check=True, capture_output=True)
    return str(path)


@pytest.fixture
def here(loader, seed, keys, tmp_path, facts, monkeypatch):
    """A machine with the seed's pillar, whose DKIM keys are made."""
    known = facts("FreeBSD")
    known["dkim"]["directory"] = known["tls"]["directory"] = str(tmp_path)
    monkeypatch.setattr(mailsrv, "facts", lambda: known)
    loader["__pillar__"].update(seed)
    for domain, bits in (("example.com", 2048), ("test.com", 4096)):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "mailsrv.private").write_text(keys[bits][0])
    return loader


def values(records, domain, kind):
    return {r["name"]: r["value"] for r in records[domain] if r["type"] == kind}


def records_of(model, public="MIIB", addresses=ADDRESSES, tlsa=None):
    published = {domain: {"mailsrv": dkim.txt(public)} for domain in model["domains"]}
    return mailsrv.records(model, published, addresses, tlsa)


def test_every_domain_has_mx_spf_dkim_and_dmarc(model, keys):
    domains = {"example.com": keys[1024][1], "test.com": keys[2048][1]}
    published = {domain: {"s1": dkim.txt(public)} for domain, public in domains.items()}
    records = mailsrv.records(model(), published, ADDRESSES)
    for domain, public in domains.items():
        assert values(records, domain, "MX") == {f"{domain}.": "10 mx.example.com."}
        txt = values(records, domain, "TXT")
        assert txt[f"{domain}."] == "v=spf1 mx -all"
        assert txt[f"s1._domainkey.{domain}."] == f"v=DKIM1; k=rsa; t=s; p={public}"
        assert txt[f"_dmarc.{domain}."] == "v=DMARC1; p=quarantine"


def test_every_published_selector_has_its_record(model):
    published = {"example.com": {"s1": "v=DKIM1; p=AAAA", "s2": "v=DKIM1; k=ed25519; p=BBBB"}}
    txt = values(mailsrv.records(model(["example.com"]), published, []), "example.com", "TXT")
    assert txt["s1._domainkey.example.com."] == "v=DKIM1; p=AAAA"
    assert txt["s2._domainkey.example.com."] == "v=DKIM1; k=ed25519; p=BBBB"


def test_every_record_says_how_much_it_is_needed_and_why(model):
    options = {"web": "www.example.net", "mta_sts": "testing", "tls_reports": "a@b.example"}
    for records in records_of(model(dns=options), tlsa="00" * 32).values():
        for record in records:
            assert list(record) == ["name", "type", "value", "need", "why"]
            assert record["name"].endswith(".")
            assert record["need"] in ("required", "recommended")
            assert record["why"]
            assert not record["why"].endswith(".")


def test_required_is_what_mail_does_not_come_or_go_without(model):
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
def test_the_hosts_records_stand_with_the_domains_it_is_in(model, domains, hostname, zones):
    records = records_of(model(domains, hostname), tlsa="00" * 32)
    for domain in domains:
        v4, v6 = ({f"{hostname}.": a} if domain in zones else {} for a in ADDRESSES)
        assert values(records, domain, "A") == v4
        assert values(records, domain, "AAAA") == v6
        assert (f"{hostname}." in values(records, domain, "TXT")) == (domain in zones)
        assert bool(values(records, domain, "TLSA")) == (domain in zones)
        assert bool(values(records, domain, "PTR")) == (domain in zones)


def test_the_reverse_records_lead_to_the_host(model):
    assert values(records_of(model()), "example.com", "PTR") == {
        "1.2.0.192.in-addr.arpa.": "mx.example.com.",
        f"1.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa.": "mx.example.com.",
    }


def test_an_address_behind_nat_has_no_reverse_record_and_says_what_to_do(model):
    found = records_of(model(), addresses=["10.0.0.5"])["example.com"]
    assert "PTR" not in {record["type"] for record in found}
    (host,) = [record for record in found if record["type"] == "A"]
    assert host["why"].endswith("name the one that it sees in mailsrv:dns:addresses")


def test_clients_find_the_services_with_tls_and_only_these(model):
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


def test_without_a_web_host_nothing_leads_to_one(model):
    for records in records_of(model()).values():
        assert not [r for r in records if r["type"] == "CNAME" or "STS" in r["value"]]


def test_with_a_web_host_clients_and_senders_are_led_there(model):
    records = records_of(model(dns={"web": "www.example.net"}))
    assert values(records, "test.com", "CNAME") == {
        "mta-sts.test.com.": "www.example.net.",
        "autoconfig.test.com.": "www.example.net.",
    }
    assert "_mta-sts.test.com." not in values(records, "test.com", "TXT")


def test_the_id_of_the_policy_changes_with_the_policy_and_only_then(model):
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


def test_reports_go_to_the_address_of_the_pillar(model):
    dns = {
        "dmarc": {"policy": "reject", "reports": "d@there.example"},
        "tls_reports": "t@there.example",
    }
    records = records_of(model(dns=dns))
    txt = values(records, "test.com", "TXT")
    assert txt["_dmarc.test.com."] == "v=DMARC1; p=reject; rua=mailto:d@there.example"
    assert txt["_smtp._tls.test.com."] == "v=TLSRPTv1; rua=mailto:t@there.example"
    (dmarc,) = [r for r in records["test.com"] if r["name"] == "_dmarc.test.com."]
    assert dmarc["why"].endswith(
        "its reports come only with the consent of there.example, a TXT record v=DMARC1 at "
        "test.com._report._dmarc.there.example"
    )


def test_a_domain_of_ours_consents_to_the_reports_about_the_others(model):
    dns = {"dmarc": {"reports": "a@example.com"}}
    domains = ["example.com", "test.com", "sub.example.com"]
    accounts = [["a@example.com", "secret"]]
    records = records_of(model(domains, dns=dns, accounts=accounts))
    found = {name for d in domains for name in values(records, d, "TXT") if "_report." in name}
    assert found == {"test.com._report._dmarc.example.com."}
    assert "consent" not in next(
        r["why"] for r in records["test.com"] if r["name"] == "_dmarc.test.com."
    )


def test_the_key_of_the_served_certificate_is_published_where_it_is_wanted(here, certificate):
    assert not values(mailsrv.dns(), "example.com", "TLSA")
    here["__pillar__"]["mailsrv"] = {
        "dns": {"dane": True},
        "tls": {"cert": certificate, "key": certificate},
    }
    script = (
        f"openssl x509 -in {certificate} -pubkey -noout | openssl pkey -pubin -outform DER"
        " | sha256sum"
    )
    digest = subprocess.run(script, shell=True, capture_output=True, text=True).stdout.split()[0]
    assert values(mailsrv.dns(), "example.com", "TLSA") == {
        "_25._tcp.mx.example.com.": f"3 1 1 {digest}"
    }


def test_a_certificate_that_is_not_there_yet_is_named_with_what_makes_it(here, tmp_path):
    here["__pillar__"]["mailsrv"] = {"dns": {"dane": True}}
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.dns()
    assert str(raised.value).endswith(
        "/mx.example.com.crt is not there yet; salt-call state.apply mailsrv.tls makes it"
    )


def test_addresses_of_the_pillar_come_before_the_machines_own(here):
    here["__pillar__"]["mailsrv"] = {"dns": {"addresses": ["203.0.113.9"]}}
    assert values(mailsrv.dns(), "example.com", "A") == {"mx.example.com.": "203.0.113.9"}
    assert values(mailsrv.dns(), "example.com", "AAAA") == {}


def test_dns_reads_the_public_keys_of_this_machine(here, keys):
    found = mailsrv.dns()
    assert list(found) == ["example.com", "test.com"]
    for domain, bits in (("example.com", 2048), ("test.com", 4096)):
        value = values(found, domain, "TXT")[f"mailsrv._domainkey.{domain}."]
        assert value.endswith(f"p={keys[bits][1]}")
    assert mailsrv.dns("test.com") == {"test.com": found["test.com"]}


def test_both_algorithms_are_published_each_under_its_selector(here, tmp_path, load_zone):
    here["__pillar__"]["mailsrv"] = {"dkim": {"signer": "rspamd", "ed25519": True}}
    pairs = {domain: dkim.generate(algorithm="ed25519") for domain in ("example.com", "test.com")}
    for domain, (private, _) in pairs.items():
        (tmp_path / domain / "mailsrv-ed25519.private").write_text(private)
    for domain, (_, public) in pairs.items():
        txt = values(mailsrv.dns(), domain, "TXT")
        assert txt[f"mailsrv-ed25519._domainkey.{domain}."] == dkim.txt(public)
        assert "; k=rsa; " in txt[f"mailsrv._domainkey.{domain}."]
    load_zone("test.com", mailsrv.zone("test.com"))


def test_dns_names_the_domains_it_knows(here):
    with pytest.raises(SaltInvocationError) as raised:
        mailsrv.dns("other.example")
    assert str(raised.value) == (
        "mailsrv.dns: 'other.example' is not one of the pillar's domains: example.com, test.com"
    )


def test_dns_says_who_makes_a_key_that_is_not_there(here, tmp_path):
    key = tmp_path / "test.com/mailsrv.private"
    key.unlink()
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.dns()
    assert str(raised.value) == (
        f"{key} is not there yet; salt-call state.apply mailsrv.genkeys makes it"
    )


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "published"),
    [
        (["127.0.0.1", "10.0.0.5", "8.8.4.4"], ["::1", "fe80::1"], ["8.8.4.4"]),
        (["127.0.0.1", "8.8.4.4"], ["::1", "2600::1"], ["8.8.4.4", "2600::1"]),
        (["127.0.0.1", "10.0.0.5"], ["::1", "fe80::1"], ["10.0.0.5"]),
        (["127.0.0.1"], ["::1"], []),
    ],
)
def test_the_addresses_to_publish_are_those_the_world_can_reach(here, ipv4, ipv6, published):
    here["__grains__"].update(ipv4=ipv4, ipv6=ipv6)
    found = mailsrv.dns("example.com")
    hosts = values(found, "example.com", "A") | values(found, "example.com", "AAAA")
    assert [r["value"] for r in found["example.com"] if r["type"] in ("A", "AAAA")] == published
    assert set(hosts) <= {"mx.example.com."}


EVERYTHING = {
    "spf": "mx ip4:192.0.2.0/24 include:_spf.elsewhere.example ~all",
    "dmarc": {"policy": "reject", "reports": "user1@example.com"},
    "tls_reports": "user1@example.com",
    "web": "www.example.net",
    "mta_sts": "testing",
    "dane": True,
    "addresses": ["203.0.113.9", "2001:db8::9"],
    "nameservers": ["ns1.provider.example", "ns2.provider.example"],
}


@pytest.fixture(params=["plain", "everything"])
def any_here(request, here, certificate):
    """The machine without any option of DNS and with all of them."""
    if request.param == "everything":
        tls = {"cert": certificate, "key": certificate}
        here["__pillar__"]["mailsrv"] = {"dns": EVERYTHING, "tls": tls}
    return here


@pytest.mark.parametrize("domain", ["example.com", "test.com"])
def test_name_servers_load_the_zone(any_here, load_zone, domain):
    load_zone(domain, mailsrv.zone(domain))


@pytest.mark.parametrize("bits", [1024, 2048, 3072, 4096])
def test_name_servers_load_the_zone_with_keys_of_every_size(here, load_zone, keys, tmp_path, bits):
    (tmp_path / "test.com/mailsrv.private").write_text(keys[bits][0])
    load_zone("test.com", mailsrv.zone("test.com"))


@pytest.mark.parametrize("domain", ["example.com", "test.com"])
def test_a_zone_file_says_what_the_records_say(any_here, domain):
    zone = dns.zone.from_text(mailsrv.zone(domain))
    ours = [r for r in mailsrv.dns(domain)[domain] if r["name"].endswith(f"{domain}.")]
    assert {record["type"] for record in ours} >= {"MX", "TXT", "SRV"}
    for record in ours:
        name = dns.name.from_text(record["name"]).relativize(zone.origin)
        (rdata,) = zone.find_rdataset(name, record["type"])
        if record["type"] == "TXT":
            assert b"".join(rdata.strings).decode() == record["value"]
        else:
            assert rdata.to_text(origin=zone.origin, relativize=False) == record["value"]


def test_what_belongs_into_another_zone_is_a_comment(any_here):
    lines = mailsrv.zone("example.com").splitlines()
    reverse = [line for line in lines if "arpa" in line]
    assert len(reverse) == 2
    assert all(line.startswith("; in another zone: ") for line in reverse)
    assert "another zone" not in mailsrv.zone("test.com")


def test_name_servers_of_the_pillar_stand_in_the_zone(here):
    placeholder = "; SOA and NS: put your own name servers here"
    assert placeholder in mailsrv.zone("test.com")
    here["__pillar__"]["mailsrv"] = {"dns": {"nameservers": EVERYTHING["nameservers"]}}
    text = mailsrv.zone("test.com")
    assert placeholder not in text
    zone = dns.zone.from_text(text, relativize=False)
    names = [f"{name}." for name in EVERYTHING["nameservers"]]
    assert [str(ns.target) for ns in zone.get_rdataset("test.com.", "NS")] == names
    assert str(zone.get_soa().mname) == names[0]


def test_the_files_for_the_web_host_are_those_that_the_records_lead_to(here):
    here["__pillar__"]["mailsrv"] = {"dns": {"web": "www.example.net", "mta_sts": "testing"}}
    files = mailsrv.web()
    assert list(files) == ["example.com", "test.com"]
    assert mailsrv.web("test.com") == {"test.com": files["test.com"]}
    aliases = values(mailsrv.dns(), "test.com", "CNAME")
    assert {f"{url.split('/')[2]}." for url in files["test.com"]} == set(aliases)
    policy = files["test.com"]["https://mta-sts.test.com/.well-known/mta-sts.txt"]
    assert policy == (
        "version: STSv1\r\nmode: testing\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"
    )


def test_the_settings_for_mail_clients_are_those_that_the_srv_records_say(here):
    here["__pillar__"]["mailsrv"] = {"dns": {"web": "www.example.net"}}
    text = mailsrv.web("test.com")["test.com"]["https://autoconfig.test.com/mail/config-v1.1.xml"]
    provider = ElementTree.fromstring(text).find("emailProvider")
    assert provider.findtext("domain") == "test.com"
    servers = [*provider.iter("incomingServer"), *provider.iter("outgoingServer")]
    found = [(s.get("type"), s.findtext("port"), s.findtext("socketType")) for s in servers]
    assert found == [("imap", "993", "SSL"), ("pop3", "995", "SSL"), ("smtp", "465", "SSL")]
    assert {s.findtext("hostname") for s in servers} == {"mx.example.com"}
    assert {s.findtext("username") for s in servers} == {"%EMAILADDRESS%"}


def test_without_a_web_host_there_are_no_files_to_serve(here):
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.web()
    assert str(raised.value) == (
        "mailsrv.web: no host serves these files; name one in mailsrv:dns:web"
    )


def test_without_a_domain_the_zones_stand_one_after_the_other(here):
    assert re.findall(r"^\$ORIGIN (.*)$", mailsrv.zone(), re.M) == ["example.com.", "test.com."]


def test_a_host_below_a_mail_domain_below_another_leaves_the_upper_zone_loadable(
    here, load_zone, tmp_path
):
    domains = ["example.com", "test.example.com"]
    (tmp_path / "test.com").rename(tmp_path / domains[1])
    here["__pillar__"].clear()
    here["__pillar__"]["mailsrv"] = {"hostname": f"mx.{domains[1]}", "domains": domains}
    load_zone("example.com", mailsrv.zone("example.com"))


def test_lint_gives_the_sentences_alone_and_a_status(here, seed):
    assert mailsrv.lint() == []
    assert "retcode" not in here["__context__"]
    here["__pillar__"]["domains"] = ["mail"]
    here["__pillar__"]["accounts"] = []
    assert mailsrv.lint() == ["domains[0]: 'mail' is not a domain; write it like example.com"]
    assert here["__context__"]["retcode"] == 1


def test_a_mail_client_is_told_the_host_and_the_secure_ports(here):
    told = " ".join(mailsrv.client().values())
    assert all(word in told for word in ("mx.example.com", "993", "995", "465", "587"))


@pytest.mark.parametrize(
    ("installed", "candidate", "version"),
    [
        ("1:2.3.19.1+dfsg1-2.1+deb12u7", "", [2, 3, 19, 1]),
        ("", "1:2.4.1+dfsg1-6", [2, 4, 1]),
        ("2.4.5_2", "2.4.6", [2, 4, 5]),
        ("7.8.0p1_2,1", "", [7, 8, 0]),
        ("7.4.0p1-1~bpo12+1", "", [7, 4, 0]),
        ("6.8.0p2-4", "", [6, 8, 0]),
    ],
)
def test_versions_are_read_from_the_packages_of_both_systems(loader, installed, candidate, version):
    loader["__salt__"]["pkg.version"] = lambda name: installed
    loader["__salt__"]["pkg.latest_version"] = lambda name, refresh: candidate
    assert mailsrv.version("some-package") == version


def test_a_package_that_is_nowhere_is_named(loader):
    loader["__salt__"]["pkg.version"] = lambda name: ""
    loader["__salt__"]["pkg.latest_version"] = lambda name, refresh: ""
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.version("dovecot-core")
    assert str(raised.value) == "no version of the package dovecot-core can be found"


@pytest.mark.parametrize(
    ("spf", "closed"),
    [
        ("mx -all", []),
        ("+mx a ip4:203.0.113.0/24 ip6:2001:db8::/32 -all", ["203.0.113.0/24", "2001:db8::/32"]),
        ("mx ~all", None),
        ("mx include:_spf.elsewhere.example -all", None),
        ("mx a:other.example.com -all", None),
        ("redirect=_spf.elsewhere.example", None),
    ],
)
def test_strangers_may_use_our_senders_as_far_as_spf_says(model, spf, closed):
    assert model(dns={"spf": spf})["dns"]["closed"] == closed
