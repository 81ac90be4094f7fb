"""mailsrv: the DNS records of a model, and what is read from the machine for them."""

import re

import dns.zone
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import dkim, mailsrv

ADDRESSES = ["192.0.2.1", "2001:db8::1"]


@pytest.fixture
def model(read):
    def of(domains=("example.com", "test.com"), hostname="mx.example.com", **dkim):
        return read({"domains": list(domains), "mailsrv": {"hostname": hostname, "dkim": dkim}})

    return of


@pytest.fixture
def here(loader, seed, keys, tmp_path, facts, monkeypatch):
    """A machine with the seed's pillar, whose DKIM keys are made."""
    known = facts("FreeBSD")
    known["dkim"]["directory"] = str(tmp_path)
    monkeypatch.setattr(mailsrv, "facts", lambda: known)
    loader["__pillar__"].update(seed)
    for domain, bits in (("example.com", 2048), ("test.com", 4096)):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "mailsrv.private").write_text(keys[bits][0])
    return loader


def values(records, domain, kind):
    return {r["name"]: r["value"] for r in records[domain] if r["type"] == kind}


def test_every_domain_has_mx_spf_dkim_and_dmarc(model):
    published = {"example.com": {"s1": "one", "s2": "two"}, "test.com": {"s1": "three"}}
    records = mailsrv.records(model(), published, ADDRESSES)
    for domain in ("example.com", "test.com"):
        assert values(records, domain, "MX") == {f"{domain}.": "10 mx.example.com."}
        txt = values(records, domain, "TXT")
        assert txt[f"{domain}."] == "v=spf1 mx -all"
        for selector, value in published[domain].items():
            assert txt[f"{selector}._domainkey.{domain}."] == value
        assert txt[f"_dmarc.{domain}."].startswith("v=DMARC1; p=")


@pytest.mark.parametrize(
    ("domains", "hostname", "zones"),
    [
        (["example.com", "test.com"], "mx.example.com", ["example.com"]),
        # One zone or two: without them the upper one would not load.
        (["example.com", "a.example.com"], "mx.a.example.com", ["example.com", "a.example.com"]),
        (["example.com", "test.com"], "mx.elsewhere.example", []),
        (["example.com", "test.com"], "mx.notexample.com", []),
    ],
)
def test_the_hosts_addresses_stand_in_the_zones_it_is_in(model, domains, hostname, zones):
    published = {domain: {} for domain in domains}
    records = mailsrv.records(model(domains, hostname), published, ADDRESSES)
    for domain in domains:
        v4, v6 = ({f"{hostname}.": a} if domain in zones else {} for a in ADDRESSES)
        assert values(records, domain, "A") == v4
        assert values(records, domain, "AAAA") == v6
        assert (f"{hostname}." in values(records, domain, "TXT")) == (domain in zones)


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


@pytest.mark.parametrize("domain", ["example.com", "test.com"])
def test_name_servers_load_the_zone(here, load_zone, domain):
    load_zone(domain, mailsrv.zone(domain))


def test_a_zone_file_says_what_the_records_say(here):
    zone = dns.zone.from_text(mailsrv.zone("test.com"))
    for record in mailsrv.dns("test.com")["test.com"]:
        name = dns.name.from_text(record["name"]).relativize(zone.origin)
        (rdata,) = zone.find_rdataset(name, record["type"])
        if record["type"] == "TXT":
            assert b"".join(rdata.strings).decode() == record["value"]
        else:
            assert rdata.to_text(origin=zone.origin, relativize=False) == record["value"]


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
