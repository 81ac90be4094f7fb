"""mailsrv: what its commands read from the machine, and what they say."""

import re
import subprocess

import dns.zone
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from reading import HOST
from saltext.mailsrv.modules import dkim, mailsrv

SECRET = "hunter2"
HASH = "$6$salt$" + "a" * 86
WEB1 = "web1.example.com"


@pytest.fixture
def certificate(tmp_path, program):
    """The certificate that the daemons read, and its key, in one file."""
    path = tmp_path / "mx.example.com.copy.crt"
    command = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=mx -keyout {path} -out {path}"
    subprocess.run([program("openssl"), *command.split()], check=True, capture_output=True)
    return str(path)


@pytest.fixture
def here(loader, known, seed, keys, tmp_path):
    """A machine with the seed's pillar, whose DKIM keys are made."""
    facts = known("FreeBSD")
    facts["dkim"]["directory"] = facts["tls"]["directory"] = str(tmp_path)
    loader["__pillar__"].update(seed)
    for domain, bits in (("example.com", 2048), ("test.com", 4096)):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "mailsrv.private").write_text(keys[bits][0])
    return loader


def values(records, domain, kind):
    return {r["name"]: r["value"] for r in records[domain] if r["type"] == kind}


# The pillar


def test_lint_gives_the_sentences_alone_and_a_status(here):
    assert mailsrv.lint() == []
    assert "retcode" not in here["__context__"]
    here.next_run(domains=["mail"], accounts=[])
    assert mailsrv.lint() == ["domains[0]: 'mail' is not a domain; write it like example.com"]
    assert here["__context__"]["retcode"] == 1


def test_lint_names_what_is_valid_but_not_aligned_and_does_not_fail(loader):
    satellites = {WEB1: {"hash": HASH}, "web1.other.net": {"hash": HASH}}
    accounts = [["a@example.com", "pass1"]]
    loader.next_run(domains=["example.com"], accounts=accounts, mailsrv={"satellites": satellites})
    (note,) = mailsrv.lint()
    assert note.startswith("satellite web1.other.net is in none of our domains")
    assert "retcode" not in loader["__context__"]


def test_lint_on_a_satellite_looks_at_the_satellites_pillar(loader):
    loader["__opts__"]["id"] = WEB1
    given = {"relay": "mail.example.com", "root": "admin@example.com"}
    loader.next_run(mailsrv={"satellite": given})
    assert mailsrv.lint() == []
    loader.next_run(mailsrv={"satellite": given | {"root": "admin"}})
    assert [fault.split(": ")[0] for fault in mailsrv.lint()] == ["mailsrv:satellite:root"]
    assert loader["__context__"]["retcode"] == 1
    # A pillar for the whole fleet reaches the mail machine, too.
    loader.next_run(mailsrv={"satellite": given}, domains=["mail"])
    assert [fault.split(": ")[0] for fault in mailsrv.lint()] == ["domains[0]"]


def test_a_pillar_that_is_not_valid_is_refused_with_a_line_for_each_fault(here):
    here.next_run(domains=["mail", "example.com"], accounts=[])
    for command in (mailsrv.dns, mailsrv.client, mailsrv.leftovers, mailsrv.signing):
        here.next_run(mailsrv={"quota": 5})
        # Of an invocation error, Salt would print the whole docstring below it.
        with pytest.raises(CommandExecutionError) as raised:
            command()
        assert str(raised.value) == (
            "the pillar is not valid:\n"
            "domains[0]: 'mail' is not a domain; write it like example.com\n"
            "mailsrv:quota: '5' is not a size; write it like 500M or 2G"
        )


def test_explain_takes_an_address_in_any_case(here):
    found = mailsrv.explain("User1+x@Example.com")
    assert found["because"] == "user1@example.com is an account"
    assert found == mailsrv.explain("user1+x@example.com")


@pytest.mark.parametrize("address", ["ann", "@test.com", "a b@example.com", "", 5])
def test_explain_refuses_what_is_no_address(here, address):
    with pytest.raises(SaltInvocationError) as raised:
        mailsrv.explain(address)
    assert str(raised.value) == f"mailsrv.explain: {str(address)!a} is not an address"


# What is published


def test_the_key_of_the_served_certificate_is_published_where_it_is_wanted(here, certificate):
    assert not values(mailsrv.dns(), "example.com", "TLSA")
    here.next_run(
        mailsrv={
            "dns": {"dane": True},
            "tls": {"cert": certificate, "key": certificate},
        }
    )
    script = (
        f"openssl x509 -in {certificate} -pubkey -noout | openssl pkey -pubin -outform DER"
        " | sha256sum"
    )
    digest = subprocess.run(script, shell=True, capture_output=True, text=True).stdout.split()[0]
    assert values(mailsrv.dns(), "example.com", "TLSA") == {
        "_25._tcp.mx.example.com.": f"3 1 1 {digest}"
    }


def test_a_certificate_that_is_not_there_yet_is_named_with_what_makes_it(here, tmp_path):
    here.next_run(mailsrv={"dns": {"dane": True}})
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.dns()
    assert str(raised.value).endswith(
        "/mx.example.com.crt is not there yet; salt-call state.apply mailsrv.tls makes it"
    )


def test_addresses_of_the_pillar_come_before_the_machines_own(here):
    here.next_run(mailsrv={"dns": {"addresses": ["203.0.113.9"]}})
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
    here.next_run(mailsrv={"dkim": {"signer": "rspamd", "ed25519": True}})
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
        here.next_run(mailsrv={"dns": EVERYTHING, "tls": tls})
    return here


@pytest.mark.parametrize("domain", ["example.com", "test.com"])
def test_name_servers_load_the_zone(any_here, load_zone, domain):
    load_zone(domain, mailsrv.zone(domain))


@pytest.mark.parametrize("bits", [1024, 2048, 3072, 4096])
def test_name_servers_load_the_zone_with_keys_of_every_size(here, load_zone, keys, tmp_path, bits):
    (tmp_path / "test.com/mailsrv.private").write_text(keys[bits][0])
    text = mailsrv.zone("test.com")
    assert all(len(line.expandtabs()) <= 80 for line in text.split("\n") if line[:1] != ";")
    load_zone("test.com", text)


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
    here.next_run(mailsrv={"dns": {"nameservers": EVERYTHING["nameservers"]}})
    text = mailsrv.zone("test.com")
    assert placeholder not in text
    zone = dns.zone.from_text(text, relativize=False)
    names = [f"{name}." for name in EVERYTHING["nameservers"]]
    assert [str(ns.target) for ns in zone.get_rdataset("test.com.", "NS")] == names
    assert str(zone.get_soa().mname) == names[0]


def test_the_files_for_the_web_host_are_those_that_the_records_lead_to(here):
    here.next_run(mailsrv={"dns": {"web": "www.example.net", "mta_sts": "testing"}})
    files = mailsrv.web()
    assert list(files) == ["example.com", "test.com"]
    assert mailsrv.web("test.com") == {"test.com": files["test.com"]}
    aliases = values(mailsrv.dns(), "test.com", "CNAME")
    assert {f"{url.split('/')[2]}." for url in files["test.com"]} == set(aliases)
    policy = files["test.com"]["https://mta-sts.test.com/.well-known/mta-sts.txt"]
    assert policy == (
        "version: STSv1\r\nmode: testing\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"
    )


def test_without_a_web_host_there_are_no_files_to_serve(here):
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.web()
    assert str(raised.value) == (
        "mailsrv.web: no host serves these files; name one in mailsrv:dns:web, or let this "
        "machine do it by mailsrv:web: true"
    )


def test_without_a_domain_the_zones_stand_one_after_the_other(here):
    assert re.findall(r"^\$ORIGIN (.*)$", mailsrv.zone(), re.M) == ["example.com.", "test.com."]


def test_a_host_below_a_mail_domain_below_another_leaves_the_upper_zone_loadable(
    here, load_zone, tmp_path
):
    domains = ["example.com", "test.example.com"]
    (tmp_path / "test.com").rename(tmp_path / domains[1])
    here["__pillar__"].clear()
    here.next_run(mailsrv={"hostname": f"mx.{domains[1]}", "domains": domains})
    load_zone("example.com", mailsrv.zone("example.com"))


def test_a_mail_client_is_told_the_host_and_the_secure_ports(here):
    told = " ".join(mailsrv.client().values())
    assert all(word in told for word in ("mx.example.com", "993", "995", "465", "587"))


# The software


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


def test_a_machine_without_lists_of_packages_fetches_them(loader):
    answers = {False: {"dovecot-core": ""}, True: "1:2.4.1+dfsg1-6"}  # as Salt's are on Debian
    loader["__salt__"]["pkg.version"] = lambda name: ""
    loader["__salt__"]["pkg.latest_version"] = lambda name, refresh: answers[refresh]
    assert mailsrv.version("dovecot-core") == [2, 4, 1]
    answers[True] = answers[False]
    assert mailsrv.version("dovecot-core") > [2, 4]


# What the machines of a fleet tell each other


@pytest.fixture
def etc(known, tmp_path):
    """The directories of a machine's own files."""
    facts = known()
    facts["directory"] = facts["tls"]["directory"] = str(tmp_path)
    return tmp_path


def test_a_satellite_publishes_its_hash_for_one_reader(loader, etc):
    given = {"relay": "mail.example.com", "root": "admin@example.com", "minion": "mx1"}
    loader.next_run(mailsrv={"satellite": given})
    loader["__opts__"]["id"] = WEB1
    with pytest.raises(CommandExecutionError, match=r"state\.apply mailsrv\.satellite"):
        mailsrv.satellite_credential()
    (etc / "satellite.hash").write_text(f"{HASH}\n")
    assert mailsrv.satellite_credential() == {"hash": HASH, "reader": "mx1"}


def test_a_mail_machine_publishes_its_certificate_if_it_is_its_own(loader, etc):
    loader.next_run(domains=["example.com"])
    with pytest.raises(CommandExecutionError, match=r"state\.apply mailsrv\.tls makes it"):
        mailsrv.certificate()
    (etc / f"{HOST}.crt").write_text("PEM\n")
    assert mailsrv.certificate() == "PEM\n"
    loader.next_run(mailsrv={"tls": {"cert": "/etc/ssl/a.pem", "key": "/etc/ssl/a.key"}})
    assert mailsrv.certificate() == ""
