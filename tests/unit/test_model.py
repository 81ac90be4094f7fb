"""mailsrv.model: one pillar in, complete and checked data out, or every fault as a sentence."""

import datetime
import json
import re
import time

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import mailsrv

SECRET = "hunter2"
HASH = "$6$salt$" + "a" * 86
HOST = "mx.example.com"


# What the model makes of a valid pillar


def test_the_seeds_pillar_is_valid_as_it_stands(read, seed):
    model = read(seed)
    assert model["hostname"] == HOST
    assert model["domains"] == ["example.com", "test.com"]
    assert [account["address"] for account in model["accounts"]] == [
        "user1@example.com",
        "users2@example.com",
        "users3@test.com",
    ]
    assert model["notes"] == []


def test_the_seeds_keys_may_stand_under_mailsrv_too(read, seed):
    assert read({"mailsrv": seed}) == read(seed)
    accounts = seed.pop("accounts")
    assert read({**seed, "mailsrv": {"accounts": accounts}}) == read(
        {"mailsrv": seed | {"accounts": accounts}}
    )


def test_the_long_form_of_an_account_says_the_same_as_the_short_one(read):
    short = {"domains": ["example.com"], "accounts": [["a@example.com", SECRET]]}
    for secret in ({"password": SECRET}, {"hash": HASH}):
        long = short | {"accounts": [{"address": "a@example.com", **secret}]}
        assert read(long) == read(short)


def test_domains_and_addresses_are_read_in_lower_case(read):
    pillar = {"domains": ["Example.COM"], "accounts": [["User@EXAMPLE.com", SECRET]]}
    model = read(pillar | {"mailsrv": {"hostname": "MX.Example.com"}})
    assert model["domains"] == ["example.com"]
    assert [account["address"] for account in model["accounts"]] == ["user@example.com"]
    assert model["hostname"] == HOST


def test_other_keys_of_the_pillar_are_no_business_of_this_formula(read, seed):
    assert read(seed | {"mine": {"interval": 5}}) == read(seed)


def test_a_name_server_needs_nothing_of_a_mail_server():
    settings = mailsrv.nameserver({}, "ns1.example.net")
    assert settings == {"machines": "*", "nameservers": ["ns1.example.net"], "faults": []}
    nsd = {"machines": "mx*", "nameservers": ["NS1.example.net", "ns2.example.net"]}
    settings = mailsrv.nameserver({"mailsrv": {"nsd": nsd}}, "localhost")
    assert settings["machines"] == "mx*"
    assert settings["nameservers"] == ["ns1.example.net", "ns2.example.net"]
    assert settings["faults"] == []


def test_a_name_server_without_a_name_is_told_to_have_one():
    assert mailsrv.nameserver({}, "localhost")["faults"] == [
        "mailsrv:nsd:nameservers: is missing, and this machine's own name, localhost, is none; "
        "list host names, e.g. [ns1.example.net]"
    ]


def test_a_server_may_have_no_accounts_yet(read):
    assert read({"domains": ["example.com"]})["accounts"] == []
    assert read({"domains": ["example.com"], "accounts": None})["accounts"] == []


def test_no_secret_is_part_of_the_model(read):
    accounts = [["a@example.com", SECRET], {"address": "b@example.com", "hash": HASH}]
    model = repr(read({"salt": "pepper", "domains": ["example.com"], "accounts": accounts}))
    assert not [secret for secret in (SECRET, HASH, "pepper") if secret in model]


@pytest.mark.parametrize(
    "fqdn", ["localhost", "bookworm", "localhost.localdomain", "example.com", "a_b.example.com", ""]
)
def test_a_machine_without_a_usable_name_is_called_mail_and_says_so(read, fqdn):
    model = read({"domains": ["example.com"]}, fqdn=fqdn)
    assert model["hostname"] == "mail.example.com"
    assert model["notes"] == [
        f"this machine's own name, {fqdn}, cannot be the mail server's: it is called "
        "mail.example.com. Set mailsrv:hostname for another name."
    ]


def test_the_hostname_of_the_pillar_comes_before_the_machines_own(read):
    model = read({"domains": ["example.com"], "mailsrv": {"hostname": "a.b.example"}})
    assert (model["hostname"], model["notes"]) == ("a.b.example", [])


def test_the_hostname_by_default_is_never_a_mail_domain(read):
    domains = ["example.com", "mail.example.com"]
    assert read({"domains": domains}, fqdn="localhost")["hostname"] not in domains


def test_an_international_domain_is_a_domain_as_dns_writes_it(read):
    model = read(
        {"domains": ["XN--Bcher-kva.example"], "accounts": [["a@xn--bcher-kva.example", "p"]]}
    )
    assert model["domains"] == ["xn--bcher-kva.example"]


def test_without_the_library_of_international_domains_the_cure_is_the_plain_one(read, monkeypatch):
    monkeypatch.setattr(mailsrv, "idna", None)
    with pytest.raises(SaltInvocationError, match=r"is not a domain; write it like example\.com"):
        read({"domains": ["straße.example"]})


def test_what_the_pillar_says_of_filters_and_tags_is_in_the_model(read):
    model = read({"domains": ["example.com"]})
    assert (model["subaddress"], model["quota_warning"], model["sieve"]) == ("inbox", 90, "")
    assert model["srs"] == {"key": ""}
    given = {"subaddress": "mailbox", "quota_warning": 0, "sieve": "\n\nkeep;\n\tstop;\n\n"}
    model = read({"domains": ["example.com"], "mailsrv": given | {"srs": {"key": "2027"}}})
    assert (model["subaddress"], model["quota_warning"]) == ("mailbox", 0)
    assert model["sieve"] == "keep;\n\tstop;"
    assert model["srs"] == {"key": "2027"}


@pytest.mark.parametrize(("family", "good"), [("Debian", True), ("FreeBSD", False)])
def test_a_hash_is_one_that_the_crypt_of_the_system_verifies(read, family, good):
    hash = "$y$j9T$abcdefghijklmnop$ZrkBpUBCDi3MK7LE9Ay9jscShCxVaFVi4wHPDobzz36"
    pillar = {"domains": ["example.com"], "accounts": [{"address": "a@example.com", "hash": hash}]}
    model, error = outcome(read, pillar, HOST, family)
    assert bool(model) == good
    assert good or "is of the kind $y$, which crypt(3) here does not verify" in error


def test_passwords_are_hashed_with_the_rounds_of_the_pillar(read):
    assert read({"domains": ["example.com"]})["passwords"] == {"rounds": 5000}
    given = {"domains": ["example.com"], "mailsrv": {"passwords": {"rounds": 100_000}}}
    assert read(given)["passwords"] == {"rounds": 100_000}


# TLS


def tls(read, **given):
    return read({"domains": ["example.com"], "mailsrv": {"tls": given} if given else {}})["tls"]


def test_without_a_certificate_one_is_to_be_made(read):
    assert tls(read) == {
        "self_signed": True,
        "sources": {},
        "cert": f"/etc/mail/tls/{HOST}.crt",
        "key": f"/etc/mail/tls/{HOST}.key",
    }


@pytest.mark.parametrize("where", ["/etc/letsencrypt/live/mx.example.com", "salt://certs"])
def test_a_certificate_of_the_pillar_is_copied_and_leaves_the_self_signed_one_alone(read, where):
    given = {"cert": f"{where}/fullchain.pem", "key": f"{where}/privkey.pem"}
    assert tls(read, **given) == {
        "self_signed": False,
        "sources": given,
        "cert": f"/etc/mail/tls/{HOST}.copy.crt",
        "key": f"/etc/mail/tls/{HOST}.copy.key",
    }


# DKIM

KEYS = {"Debian": "/etc/mail/dkim", "FreeBSD": "/usr/local/etc/mail/dkim"}
SEED_KEY = "/usr/local/etc/dkimproxy/{}/private"


def dkim(read, family="Debian", domains=("example.com", "test.com"), **given):
    return read({"domains": list(domains), "mailsrv": {"dkim": given}}, family=family)["dkim"]


@pytest.mark.parametrize(("family", "signer"), [("Debian", "dkimsign"), ("FreeBSD", "dkimproxy")])
def test_each_system_has_a_signer_of_its_own(read, family, signer):
    found = dkim(read, family)
    assert (found["signer"], found["selector"], found["bits"]) == (signer, "mailsrv", 2048)


@pytest.mark.parametrize("signer", ["dkimproxy", "rspamd"])
@pytest.mark.parametrize("family", KEYS)
def test_dkimproxy_and_rspamd_sign_with_a_key_for_each_domain(read, family, signer):
    found = dkim(read, family, signer=signer, selector="s1")["keys"]
    assert [key["domains"] for key in found] == [["example.com"], ["test.com"]]
    assert [key["private"] for key in found] == [
        f"{KEYS[family]}/example.com/s1.private",
        f"{KEYS[family]}/test.com/s1.private",
    ]


@pytest.mark.parametrize("family", KEYS)
def test_dkimsign_signs_with_one_key_for_all(read, family):
    (key,) = dkim(read, family, signer="dkimsign", selector="s1")["keys"]
    assert key["domains"] == ["example.com", "test.com"]
    assert key["private"] == f"{KEYS[family]}/s1.private"
    assert key["public"] == f"{KEYS[family]}/s1.public"


@pytest.mark.parametrize("signer", ["dkimproxy", "rspamd"])
@pytest.mark.parametrize("family", KEYS)
def test_whoever_changes_the_signer_keeps_the_key_and_its_record(read, family, signer):
    own = dkim(read, family, signer=signer)["keys"]
    (shared,) = dkim(read, family, signer="dkimsign")["keys"]
    assert own[0]["private"] in shared["adopt"]
    assert all(shared["private"] in key["adopt"] for key in own)
    for signer in ("dkimproxy", "rspamd"):
        keys = dkim(read, family, signer=signer)["keys"]
        assert [key["private"] for key in keys] == [key["private"] for key in own]


@pytest.mark.parametrize("signer", ["dkimsign", "rspamd"])
def test_a_key_of_ed25519_stands_beside_each_of_rsa(read, signer):
    plain = dkim(read, signer=signer)["keys"]
    both = dkim(read, signer=signer, ed25519=True)["keys"]
    assert both[: len(plain)] == plain
    assert {(key["selector"], key["algorithm"]) for key in plain} == {("mailsrv", "rsa")}
    for rsa, ed25519 in zip(plain, both[len(plain) :], strict=True):
        assert (ed25519["selector"], ed25519["algorithm"]) == ("mailsrv-ed25519", "ed25519")
        assert ed25519["domains"] == rsa["domains"]
        for file in ("private", "public"):
            assert ed25519[file] == rsa[file].replace("mailsrv", "mailsrv-ed25519")
        assert ed25519["adopt"] == [
            file.replace("mailsrv.", "mailsrv-ed25519.")
            for file in rsa["adopt"]
            if "dkimproxy" not in file
        ]
        assert (rsa["bare"], bool(ed25519["bare"])) == ("", signer == "rspamd")


@pytest.mark.parametrize(
    ("signer", "spam_filter", "needed"),
    [
        ("dkimsign", False, False),
        ("dkimproxy", True, True),
        ("dkimsign", True, True),
        ("rspamd", False, True),
    ],
)
def test_rspamd_is_needed_to_sign_or_to_filter(read, signer, spam_filter, needed):
    mailsrv = {"dkim": {"signer": signer}, "spam_filter": spam_filter}
    model = read({"domains": ["example.com"], "mailsrv": mailsrv})
    assert (model["rspamd"], model["spam_filter"]) == (needed, spam_filter)


def test_the_seeds_keys_are_adopted_under_the_selector_they_are_published_under(read):
    own = dkim(read, signer="dkimproxy")["keys"]
    assert [key["adopt"][0] for key in own] == [
        SEED_KEY.format("example.com"),
        SEED_KEY.format("test.com"),
    ]
    assert dkim(read, signer="dkimsign")["keys"][0]["adopt"][0] == SEED_KEY.format("example.com")
    for signer in ("dkimproxy", "dkimsign"):
        keys = dkim(read, signer=signer, selector="s2")["keys"]
        assert "/usr/local/etc/dkimproxy" not in repr(keys)


def test_an_archive_of_ones_own_replaces_upstreams(read):
    archive = {"source": "salt://dkimproxy.tar.gz", "source_hash": "sha256=" + "0" * 64}
    assert archive.items() <= dkim(read, archive=archive)["archive"].items()
    assert dkim(read)["archive"]["source"].startswith("https://")


@pytest.mark.parametrize(
    "source_hash", ["sha256=" + "0" * 64, "https://a.example/dkimproxy.sha256", "salt://a/../b"]
)
def test_an_archive_has_a_directory_of_its_own_or_is_refused(read, source_hash):
    archive = {"source": "salt://dkimproxy.tar.gz", "source_hash": source_hash}
    pillar = {"domains": ["example.com"], "mailsrv": {"dkim": {"archive": archive}}}
    model, error = outcome(read, pillar)
    assert error or re.fullmatch(
        "/usr/local/lib/dkimproxy/[0-9a-f]+", model["dkim"]["archive"]["directory"]
    )


def test_an_unknown_system_is_named(facts):
    with pytest.raises(CommandExecutionError) as raised:
        facts("RedHat")
    assert str(raised.value) == "mailsrv: this formula knows Debian and FreeBSD, not RedHat"


# DNS


def dns(read, **given):
    pillar = {"domains": ["example.com", "test.com"], "accounts": [["a@example.com", SECRET]]}
    tls = {"cert": "/etc/ssl/mail.pem", "key": "/etc/ssl/mail.key"}
    return read({**pillar, "mailsrv": {"dns": given, "tls": tls}})["dns"]


def test_without_a_word_about_dns_what_is_safe_is_published(read):
    assert dns(read) == {
        "spf": ["mx", "-all"],
        "dmarc": {"policy": "quarantine", "reports": None},
        "tls_reports": None,
        "web": None,
        "mta_sts": "none",
        "dane": False,
        "addresses": [],
        "nameservers": [],
        "skip": [],
        "closed": [],
    }


@pytest.mark.parametrize(
    "spf",
    [
        "mx -all",
        "MX ~all",
        "a mx/24 a:mail.example.net/24//64 ip4:192.0.2.1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all",
        "mx include:_spf.elsewhere.example exists:a.example -all exp=why.example.com",
        "mx redirect=_spf.elsewhere.example",
        " ".join(["mx", *(f"include:_spf{i}.example.net" for i in range(9)), "-all"]),
    ],
)
def test_an_spf_record_is_taken_as_it_is_in_lower_case(read, spf):
    assert dns(read, spf=spf)["spf"] == spf.lower().split()


@pytest.mark.parametrize(
    ("address", "read_as"),
    [
        ("a@example.com", "a@example.com"),
        ("A+dmarc@Example.com", "a+dmarc@example.com"),
        ("postmaster@test.com", "postmaster@test.com"),
        ("Reports=x@there.example", "Reports=x@there.example"),
    ],
)
def test_reports_go_to_an_address_that_is_there(read, address, read_as):
    found = dns(read, dmarc={"reports": address}, tls_reports=address)
    assert found["dmarc"] == {"policy": "quarantine", "reports": read_as}
    assert found["tls_reports"] == read_as


def test_what_the_check_shall_skip_is_a_name_or_a_type_or_both(read):
    skip = ["srv", "_DMARC.example.com.", "example.com MX"]
    assert dns(read, skip=skip)["skip"] == [
        ["", "SRV"],
        ["_dmarc.example.com", ""],
        ["example.com", "MX"],
    ]


def test_addresses_and_name_servers_are_each_named_once(read):
    found = dns(
        read,
        addresses=["192.0.2.1", "2001:DB8::1", "2001:db8:0::1"],
        nameservers=["NS1.example.net", "ns1.example.net", HOST],
    )
    assert found["addresses"] == ["192.0.2.1", "2001:db8::1"]
    assert found["nameservers"] == ["ns1.example.net", HOST]


# Faults: what stands in the pillar beside `domains: [example.com]`, and what is said about it

A = "accounts[0] (a@example.com)"
FAULTS = [
    ("salt: 5", "salt: must be text; quote it"),
    ("domains: []", "domains: list at least one domain, e.g. domains: [example.com]"),
    ("domains: example.com", "domains: list at least one domain, e.g. domains: [example.com]"),
    ("domains: [mail]", "domains[0]: 'mail' is not a domain; write it like example.com"),
    (
        "domains: [a b.example]",
        "domains[0]: 'a b.example' is not a domain; write it like example.com",
    ),
    ("domains: [192.0.2.1]", "domains[0]: '192.0.2.1' is not a domain; write it like example.com"),
    (
        "domains: [-a.example]",
        "domains[0]: '-a.example' is not a domain; write it like example.com",
    ),
    (
        r'domains: ["a.example\n"]',
        r"domains[0]: 'a.example\n' is not a domain; write it like example.com",
    ),
    ("domains: [1.5]", "domains[0]: '1.5' is not a domain; write it like example.com"),
    # An international domain is written as it is in DNS: RFC 5891, not Python's codec of 2003.
    (
        "domains: [straße.example]",
        r"domains[0]: 'stra\xdfe.example' is not a domain; write it like xn--strae-oqa.example",
    ),
    (
        "domains: [☃.example]",
        r"domains[0]: '\u2603.example' is not a domain; write it like example.com",
    ),
    (
        "domains: [example.com, EXAMPLE.com]",
        "domains[1]: example.com is listed twice; remove one of them",
    ),
    ("accounts: {a@example.com: hunter2}", "accounts: must be a list, not keys and values"),
    ("accounts: [a@example.com]", "accounts[0]: must be [address, password] or keys and values"),
    ("accounts: [[a@example.com]]", "accounts[0]: must be [address, password], two values"),
    ("accounts: [[a@example.com hunter2]]", "accounts[0]: must be [address, password], two values"),
    (
        "accounts: [[a@example.com, hunter2, 5G]]",
        "accounts[0]: must be [address, password], two values",
    ),
    (
        "accounts: [[a@elsewhere.example, hunter2]]",
        "accounts[0] (a@elsewhere.example): its domain is not in domains; add it there",
    ),
    (
        "accounts: [[a@example.com, hunter2], [A@example.com, hunter2]]",
        "accounts[1] (a@example.com): this account is listed twice; remove one of them",
    ),
    (
        "accounts: [[a@example.com, yes]]",
        f"{A}: password: YAML reads this one as true or false; quote it",
    ),
    (
        "accounts: [[a@example.com, 12345]]",
        f"{A}: password: YAML reads this one as a number; quote it",
    ),
    (
        "accounts: [[a@example.com, 1.10]]",
        f"{A}: password: YAML reads this one as a number; quote it",
    ),
    (
        "accounts: [[a@example.com, 2024-01-01]]",
        f"{A}: password: YAML reads this one as a date; quote it",
    ),
    ("accounts: [[a@example.com, ~]]", f"{A}: password: YAML reads this one as nothing; quote it"),
    (
        "accounts: [[a@example.com, [hunter2]]]",
        f"{A}: password: YAML reads this one as a list; quote it",
    ),
    ("accounts: [[a@example.com, '']]", f"{A}: password: is empty; give one, or a hash"),
    (
        r'accounts: [[a@example.com, "hunter2\n"]]',
        f"{A}: password: holds a control character; remove it",
    ),
    (
        "accounts: [{address: a@example.com, password: hunter2, hash: $6$salt$hunter2}]",
        f"{A}: give either a password or a hash",
    ),
    ("accounts: [{address: a@example.com}]", f"{A}: give either a password or a hash"),
    (
        "accounts: [{address: a@example.com, hash: '{PLAIN}hunter2'}]",
        f"{A}: hash: is not of the form $6$SALT$HASH; make one with: "
        "salt-call password.hash PASSWORD",
    ),
    (
        "accounts: [{address: a@example.com, pasword: hunter2}]",
        "accounts[0]:pasword: no such key; did you mean password?\n"
        f"{A}: give either a password or a hash",
    ),
    (
        "accounts: [{address: a@example.com, hash: '$argon2id$v=19$m=65536,t=3,p=1$c2E$aGE'}]",
        f"{A}: hash: is Argon2, which OpenSMTPD cannot verify: it asks crypt(3); "
        "make one with: salt-call password.hash PASSWORD",
    ),
    ("mailsrv: [hostname]", "mailsrv: must hold keys and values, not a list"),
    (
        "mailsrv: {subaddress: folder}",
        "mailsrv:subaddress: 'folder' is not usable; choose inbox or mailbox",
    ),
    (
        "mailsrv: {subaddress: yes}",
        "mailsrv:subaddress: 'True' is not usable; choose inbox or mailbox",
    ),
    (
        "mailsrv: {quota_warning: 90%}",
        "mailsrv:quota_warning: '90%' is not a percentage; "
        "write a number from 1 to 99, or 0 for no warning",
    ),
    (
        "mailsrv: {quota_warning: 100}",
        "mailsrv:quota_warning: '100' is not a percentage; "
        "write a number from 1 to 99, or 0 for no warning",
    ),
    ("mailsrv: {sieve: [keep]}", "mailsrv:sieve: must be the text of a script, not a list"),
    ("mailsrv: {sieve: ' '}", "mailsrv:sieve: is empty; write a script, or remove it"),
    (
        r'mailsrv: {sieve: "keep;\0"}',
        "mailsrv:sieve: holds a control character; remove it",
    ),
    (
        "mailsrv: {srs: {key: 2027}}",
        "mailsrv:srs:key: '2027' is no name for a key; write letters, digits and . _ -, quoted",
    ),
    (
        r'mailsrv: {srs: {key: "a\nsrs key b"}}',
        r"mailsrv:srs:key: 'a\nsrs key b' is no name for a key; "
        "write letters, digits and . _ -, quoted",
    ),
    ("mailsrv: {hostnme: a.b.example}", "mailsrv:hostnme: no such key; did you mean hostname?"),
    (
        "mailsrv: {domains: [example.com]}",
        "domains: stands at the top and under mailsrv:; remove one of them",
    ),
    (
        "mailsrv: {hostname: mail}",
        "mailsrv:hostname: 'mail' is not a host name; write it like mail.example.com",
    ),
    (
        "mailsrv: {hostname: example.com}",
        "mailsrv:hostname: example.com is a mail domain too; name the host mail.example.com",
    ),
    ("mailsrv: {tls: /etc/ssl/mail.pem}", "mailsrv:tls: must hold keys and values, not text"),
    (
        "mailsrv: {tls: {cert: /etc/ssl/mail.pem}}",
        "mailsrv:tls:key: is missing; name both cert and key",
    ),
    (
        "mailsrv: {tls: {cert: /etc/ssl/mail.pem, key: my key.pem}}",
        "mailsrv:tls:key: 'my key.pem' is not a path; write it like /etc/ssl/mail.pem "
        "or salt://mail.pem, without blanks",
    ),
    ("mailsrv: {nsd: ns1}", "mailsrv:nsd: must hold keys and values, not text"),
    (
        "mailsrv: {nsd: {machines: [mx1]}}",
        "mailsrv:nsd:machines: \"['mx1']\" names no minions; write it like 'mx*'",
    ),
    (
        "mailsrv: {nsd: {nameservers: ns1.example.net}}",
        "mailsrv:nsd:nameservers: must be a list, not text",
    ),
    (
        "mailsrv: {nsd: {nameservers: [ns1]}}",
        "mailsrv:nsd:nameservers: 'ns1' is not a host name; write it like ns1.example.net",
    ),
    (
        "mailsrv: {dkim: {signer: opendkim}}",
        "mailsrv:dkim:signer: 'opendkim' is not a signer; choose dkimproxy, dkimsign or rspamd",
    ),
    (
        "mailsrv: {dkim: {selector: Mail_1}}",
        "mailsrv:dkim:selector: 'Mail_1' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {selector: 2024}}",
        "mailsrv:dkim:selector: '2024' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {ed25519: maybe}}",
        "mailsrv:dkim:ed25519: 'maybe' is no switch; write true or false",
    ),
    (
        "mailsrv: {dkim: {ed25519: true, signer: dkimproxy}}",
        "mailsrv:dkim:ed25519: dkimproxy cannot sign with Ed25519; choose dkimsign or rspamd as "
        "the signer, or leave it out",
    ),
    (
        "mailsrv: {dkim: {ed25519: true, selector: a." + 56 * "b" + "}}",
        f"mailsrv:dkim:ed25519: 'a.{56 * 'b'}' is too long a selector to have -ed25519 put behind "
        "it; choose a shorter one",
    ),
    (
        "mailsrv: {spam_filter: rspamd}",
        "mailsrv:spam_filter: 'rspamd' is no switch; write true or false",
    ),
    ("mailsrv: {spam_filter: 1}", "mailsrv:spam_filter: '1' is no switch; write true or false"),
    (
        "mailsrv: {dkim: {bits: 512}}",
        "mailsrv:dkim:bits: '512' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {bits: '2048'}}",
        "mailsrv:dkim:bits: '2048' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {bits: 2048.0}}",
        "mailsrv:dkim:bits: '2048.0' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {archive: {source: /tmp/dkimproxy.tar.gz}}}",
        "mailsrv:dkim:archive:source_hash: is missing; name both source and source_hash, a SHA-256",
    ),
    (
        "mailsrv: {dkim: {archive: {url: 1, source: a, source_hash: sha256=" + "0" * 64 + "}}}",
        "mailsrv:dkim:archive:url: no such key; known are source, source_hash",
    ),
    ("mailsrv: {dns: mx}", "mailsrv:dns: must hold keys and values, not text"),
    ("mailsrv: {dns: {sfp: mx}}", "mailsrv:dns:sfp: no such key; did you mean spf?"),
    *(
        (f"mailsrv: {{dns: {{spf: {json.dumps(spf)}}}}}", f"mailsrv:dns:spf: {sentence}")
        for spf, sentence in [
            (["mx"], "\"['mx']\" is no list of terms; write it like mx -all"),
            ("", "'' is no list of terms; write it like mx -all"),
            ("v=spf1 mx -all", "v=spf1 is put before it; leave it out"),
            ("mx", "'mx' does not end in one all or redirect=; add -all"),
            ("-all mx", "'-all mx' does not end in one all or redirect=; add -all"),
            (
                "mx -all redirect=a.example",
                "'mx -all redirect=a.example' does not end in one all or redirect=; add -all",
            ),
            ("mx all", "all lets everybody send as these domains; write -all"),
            ("mx +all", "+all lets everybody send as these domains; write -all"),
            *(
                (
                    f"mx {term} -all",
                    f"'{term}' is not a term of SPF; known are all, include:, a, mx, ip4:, ip6:, "
                    "exists:, redirect= and exp=",
                )
                for term in (
                    *("ptr", "incude:a.example", "include:", "ip4:300.1.1.1", "ip4:2001:db8::1"),
                    *("ip6:192.0.2.1", "ip4:192.0.2.0/33", "v=spf1", "exists:%{i}.a.example"),
                )
            ),
            (
                " ".join(["mx", *(f"a:a{i}.example.net" for i in range(10)), "-all"]),
                "11 terms look something up, receivers stop at 10; write addresses, ip4: and ip6:, "
                "instead",
            ),
        ]
    ),
    ("mailsrv: {dns: {dmarc: reject}}", "mailsrv:dns:dmarc: must hold keys and values, not text"),
    (
        "mailsrv: {dns: {dmarc: {policy: drop}}}",
        "mailsrv:dns:dmarc:policy: 'drop' is not usable; choose none, quarantine or reject",
    ),
    (
        "mailsrv: {dns: {dmarc: {reports: 'mailto:a@b.example'}}}",
        "mailsrv:dns:dmarc:reports: 'mailto:a@b.example' is not an address; write it like "
        "dmarc@example.com",
    ),
    (
        "mailsrv: {dns: {dmarc: {reports: dmarc@example.com}}}",
        "mailsrv:dns:dmarc:reports: dmarc@example.com is neither an account nor an alias; add it",
    ),
    (
        "mailsrv: {dns: {tls_reports: tls@example.com}}",
        "mailsrv:dns:tls_reports: tls@example.com is neither an account nor an alias; add it",
    ),
    (
        "mailsrv: {dns: {web: https://a.example}}",
        "mailsrv:dns:web: 'https://a.example' is not a host name; write it like www.example.com",
    ),
    (
        "mailsrv: {dns: {web: autoconfig.example.com}}",
        "mailsrv:dns:web: autoconfig.example.com is to lead to this host as an alias, and cannot "
        "be a host or a mail domain itself; choose another name for that",
    ),
    (
        "mailsrv: {hostname: mta-sts.example.com, dns: {web: www.example.com}}",
        "mailsrv:dns:web: mta-sts.example.com is to lead to this host as an alias, and cannot "
        "be a host or a mail domain itself; choose another name for that",
    ),
    (
        "mailsrv: {dns: {mta_sts: on, web: a.example}}",
        "mailsrv:dns:mta_sts: 'True' is not usable; choose none, testing or enforce",
    ),
    (
        "mailsrv: {dns: {mta_sts: testing}}",
        "mailsrv:dns:mta_sts: senders fetch the policy by HTTPS; name the host that serves it in "
        "mailsrv:dns:web",
    ),
    (
        "mailsrv: {dns: {mta_sts: enforce, web: a.example}}",
        "mailsrv:dns:mta_sts: nobody who enforces it takes a self-signed certificate; name one "
        "that the world trusts in mailsrv:tls, or write testing",
    ),
    (
        "mailsrv: {dns: {dane: 'yes'}}",
        "mailsrv:dns:dane: 'yes' is not usable; write true or false",
    ),
    (
        "mailsrv: {dns: {addresses: 192.0.2.1}}",
        "mailsrv:dns:addresses: must be a list, not text",
    ),
    (
        "mailsrv: {dns: {addresses: [192.0.2.0/24]}}",
        "mailsrv:dns:addresses: '192.0.2.0/24' is not an IP address; write it like 192.0.2.1",
    ),
    (
        "mailsrv: {dns: {nameservers: ns1.example.net}}",
        "mailsrv:dns:nameservers: must be a list, not text",
    ),
    (
        "mailsrv: {dns: {nameservers: [ns1]}}",
        "mailsrv:dns:nameservers: 'ns1' is not a host name; write it like ns1.example.net",
    ),
    (
        "mailsrv: {dns: {nameservers: [ns1.example.com]}}",
        "mailsrv:dns:nameservers: ns1.example.com is in a zone that would need its address, too; "
        "name a host elsewhere, or leave nameservers out and complete the zone yourself",
    ),
    ("mailsrv: {dns: {skip: SRV}}", "mailsrv:dns:skip: must be a list, not text"),
    *(
        (
            f"mailsrv: {{dns: {{skip: ['{entry}']}}}}",
            f"mailsrv:dns:skip: '{entry}' is not a record; write a type, a name, or both: SRV, "
            "_dmarc.example.com, example.com MX",
        )
        for entry in ("", "SPF", "example.com MX TXT", "ex*mple.com MX", "MX example.com")
    ),
    (
        "mailsrv: {dkim: {rotate: weekly}}",
        "mailsrv:dkim:rotate: 'weekly' is not usable; choose yearly, quarterly or monthly",
    ),
    (
        f"mailsrv: {{dkim: {{rotate: yearly, selector: {'a' * 60}}}}}",
        f"mailsrv:dkim:rotate: '{'a' * 60}-{time.strftime('%Y')}' would be too long a selector; "
        "choose a shorter one in mailsrv:dkim:selector",
    ),
    (
        "mailsrv: {dkim: {revoked: s1}}",
        "mailsrv:dkim:revoked: must be a list of selectors, not text",
    ),
    (
        "mailsrv: {dkim: {revoked: [2024]}}",
        "mailsrv:dkim:revoked: '2024' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {revoked: [mailsrv]}}",
        "mailsrv:dkim:revoked: mailsrv is the selector that shall sign; "
        "name another one in mailsrv:dkim:selector",
    ),
    (
        "mailsrv: {passwords: {rounds: 999}}",
        "mailsrv:passwords:rounds: '999' is not usable; write a number from 1000 to 1000000",
    ),
    (
        "mailsrv: {limits: {message_size: 50}}",
        "mailsrv:limits:message_size: '50' is not a size; write it like 50M",
    ),
    (
        "mailsrv: {limits: {recipients: 99}}",
        "mailsrv:limits:recipients: '99' is not usable; write a number from 100 to 100000",
    ),
    (
        "mailsrv: {limits: {connections: true}}",
        "mailsrv:limits:connections: 'True' is not usable; write a number from 1 to 1000",
    ),
    (
        "mailsrv: {limits: {message: 5}}",
        "mailsrv:limits:message: no such key; did you mean messages?",
    ),
    (
        "mailsrv: {passwords: {cost: 5}}",
        "mailsrv:passwords:cost: no such key; known are rounds",
    ),
]


@pytest.mark.parametrize(("pillar", "sentence"), FAULTS, ids=[pillar for pillar, _ in FAULTS])
def test_a_fault_is_named_with_its_key_and_its_cure(read, pillar, sentence):
    with pytest.raises(SaltInvocationError) as raised:
        read({"salt": "pepper", "domains": ["example.com"], **yaml.safe_load(pillar)})
    assert str(raised.value) == f"the pillar is not valid:\n{sentence}"
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        *("a", "a@", "@example.com", "a@b@example.com", "a+b@example.com", "a b@example.com", ""),
        *(
            "a:b@example.com",
            "a#b@example.com",
            "a/b@example.com",
            ".a@example.com",
            "-a@example.com",
            "%a@example.com",
        ),
        *("ä@example.com", "a@example", "a@example.com\n", f"{'a' * 65}@example.com", None, 5),
    ],
)
def test_what_is_no_address_for_an_account_is_named_with_its_place(read, address):
    with pytest.raises(SaltInvocationError) as raised:
        read({"domains": ["example.com"], "accounts": [[address, SECRET]]})
    head, fault = str(raised.value).split("\n")
    assert head == "the pillar is not valid:"
    assert re.fullmatch(
        r"accounts\[0\]: .*; write it like user@example.com, with letters, digits and .*", fault
    )


def test_every_fault_is_named_at_once_in_the_order_of_the_reference(read):
    pillar = """
        salt: 1
        domains: [example.com, mail]
        accounts: [[a@example.com, 5], [b@example.com, '']]
        mailsrv: {hostname: x, tls: {cert: c}, dkim: {bits: 1}, dns: {spf: a},
          passwords: {rounds: 1}, more: 1}
    """
    with pytest.raises(SaltInvocationError) as raised:
        read(yaml.safe_load(pillar))
    lines = str(raised.value).splitlines()[1:]
    assert [line.split(" ")[0].rstrip(":") for line in lines] == [
        "mailsrv:more",
        "salt",
        "domains[1]",
        "accounts[0]",
        "accounts[1]",
        "mailsrv:hostname",
        "mailsrv:tls:cert",
        "mailsrv:tls:key",
        "mailsrv:dkim:bits",
        "mailsrv:dns:spf",
        "mailsrv:passwords:rounds",
    ]


def test_the_longest_password_is_the_longest_that_crypt_takes(read):
    def pillar(length):
        return {
            "domains": ["example.com"],
            "accounts": [["a@example.com", "ä" + "x" * (length - 2)]],
        }

    assert read(pillar(511))
    with pytest.raises(SaltInvocationError, match="longer than the 511 bytes"):
        read(pillar(512))


@pytest.mark.parametrize(
    "accounts",
    [
        [[SECRET, "a@example.com"]],
        [[f"a@example.com {SECRET}"]],
        [{"a@example.com": SECRET}],
        [{"address": f"a@example.com:{SECRET}", "password": ""}],
        [{"address": ["a@example.com", SECRET], "password": ""}],
        [{"address": "a@example.com", "hash": "$argon2id$v=19$m=65536", f"p=1${SECRET}": None}],
        {"a@example.com": SECRET},
        f"a@example.com {SECRET}",
    ],
    ids=str,
)
def test_a_password_in_the_wrong_place_is_not_repeated(read, accounts):
    with pytest.raises(SaltInvocationError) as raised:
        read({"domains": ["example.com"], "accounts": accounts})
    assert SECRET not in str(raised.value)


# Any pillar at all

any_number = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.dates(max_value=datetime.date(2100, 1, 1)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
nasty = st.sampled_from(["", "%d", "..", "+x", *" #\n\t\0:/@,{'\"|ä\u017f\u2028"])
domains = st.sampled_from(["example.com", "EXAMPLE.com", "test.com"]) | st.builds(
    "{}{}example.com".format, nasty, nasty
)
addresses = st.builds(
    "{}{}@{}".format, st.sampled_from(["a", "B.c", "d_-e", "=~^"]), nasty, domains
)
paths = st.builds("{}{}".format, st.sampled_from(["/etc/ssl/a", "salt://a", "a"]), nasty)
secrets = st.text(min_size=1, max_size=8) | junk


def section(**keys):
    return st.fixed_dictionaries({}, optional={k: v | junk for k, v in keys.items()}) | junk


spf_terms = [
    "mx",
    "-all",
    "~all",
    "a/24",
    "ip4:192.0.2.1",
    "include:a.example",
    "redirect=a.example",
]
sizes = st.sampled_from(["2G", "500M", "2g", "0G", "5G\n"])
targets = st.lists(addresses | domains.map("@{}".format), max_size=3) | addresses
accounts = st.lists(
    st.lists(addresses | secrets, max_size=3)
    | st.tuples(addresses, secrets).map(list)
    | section(
        address=addresses,
        password=secrets,
        hash=st.just(HASH),
        quota=sizes,
        send_as=targets,
    )
    | junk,
    max_size=4,
)
seed_keys = {"salt": st.text(), "domains": st.lists(domains, max_size=3), "accounts": accounts}
pillars = st.fixed_dictionaries(
    {},
    optional={
        **{key: value | junk for key, value in seed_keys.items()},
        "mailsrv": section(
            **seed_keys,
            hostname=domains,
            aliases=st.dictionaries(addresses | domains.map("@{}".format), targets, max_size=3),
            quota=sizes,
            quota_warning=st.integers(-1, 100),
            subaddress=st.sampled_from(["inbox", "mailbox"]),
            sieve=st.text(),
            srs=section(key=st.text(max_size=5)),
            spam_filter=st.booleans(),
            tls=section(cert=paths, key=paths),
            dkim=section(
                signer=st.sampled_from(["dkimproxy", "dkimsign", "rspamd"]),
                selector=st.text(max_size=5) | st.text("ab-", min_size=50, max_size=64),
                ed25519=st.booleans(),
                rotate=st.sampled_from(["yearly", "quarterly", "monthly"]),
                revoked=st.lists(st.text(max_size=5), max_size=2),
                bits=st.integers(),
                archive=section(source=paths, source_hash=paths),
            ),
            dns=section(
                spf=st.lists(st.sampled_from(spf_terms) | nasty, max_size=4).map(" ".join),
                dmarc=section(policy=st.sampled_from(["none", "reject"]), reports=addresses),
                tls_reports=addresses,
                web=domains,
                mta_sts=st.sampled_from(["none", "testing", "enforce"]),
                dane=st.booleans(),
                addresses=st.lists(st.ip_addresses().map(str) | nasty, max_size=2),
                nameservers=st.lists(domains, max_size=2),
                skip=st.lists(
                    st.builds("{} {}".format, domains, st.sampled_from(["MX", "txt", ""])),
                    max_size=2,
                ),
            ),
            nsd=section(machines=st.text(max_size=3), nameservers=st.lists(domains, max_size=3)),
            passwords=section(rounds=st.integers()),
            satellites=st.dictionaries(domains, section(hash=st.just(HASH)), max_size=3) | domains,
        ),
    },
)
likely = st.fixed_dictionaries(
    {
        "domains": st.just(["example.com", "test.com"]),
        "accounts": st.just([["a@example.com", "p"], ["d_-e@test.com", "p"]]),
        "mailsrv": st.fixed_dictionaries(
            {"aliases": st.dictionaries(addresses | st.just("@test.com"), targets, max_size=3)}
        ),
    }
)


def texts(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def outcome(read, *arguments):
    try:
        return read(*arguments), None
    except SaltInvocationError as exc:
        return None, str(exc)


mine = st.dictionaries(st.sampled_from(["web1"]) | domains, section(hash=st.just(HASH)), max_size=3)


@settings(any_number, max_examples=200)
@given(
    pillars | likely, st.sampled_from(["Debian", "FreeBSD"]), domains | st.just("localhost"), mine
)
@example({"mailsrv": {"dkim": {"signer": []}}}, "Debian", HOST, {})
@example({"mailsrv": {"dkim": {"archive": {"\t": None}}}}, "Debian", HOST, {})
def test_any_pillar_gives_a_clean_model_or_clear_faults(read, pillar, family, fqdn, mined):
    model, error = outcome(read, pillar, fqdn, family, mined)
    if error:
        head, *faults = error.split("\n")
        assert head == "the pillar is not valid:"
        assert faults
        assert all(
            fault.isprintable() and re.match(r"[^ ]+( \([^ ]+\))?: ", fault) for fault in faults
        )
        return
    model.pop("notes")
    script = model.pop("sieve")
    assert script == script.strip("\n")
    assert script.replace("\n", "").replace("\t", "").isprintable()
    assert not [text for text in texts(model) if re.search(r"[\s#\0'\"{}<>|;$]", text)]
    assert json.loads(json.dumps(model)) == model
    mailboxes = [account["address"] for account in model["accounts"]]
    for address in (*mailboxes, *model["aliases"]):
        local, _, domain = address.partition("@")
        assert domain in model["domains"]
        assert re.fullmatch("[a-z0-9._-]*", local)
    for targets in model["aliases"].values():
        assert targets
        for target in targets:
            local, _, domain = target.partition("@")
            assert domain not in model["domains"] or f"{local.split('+')[0]}@{domain}" in mailboxes
            assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=&~-]*", local)


@any_number
@given(pillars, st.text("0123456789", min_size=9, max_size=9), st.text(max_size=3))
def test_no_secret_is_part_of_an_error(read, pillar, secret, other):
    accounts = [
        ["a@example.com", secret],
        ["a@example.com", secret, other],
        [f"a@example.com{other}", secret + other],
        {"address": other, "password": secret, "hash": secret},
        {"address": "a@example.com", "hash": secret},
        {"adress": "a@example.com", "password": [secret]},
    ]
    with pytest.raises(SaltInvocationError) as raised:
        read({"mailsrv": pillar.get("mailsrv"), "accounts": accounts, "salt": [secret]})
    assert secret not in str(raised.value)
