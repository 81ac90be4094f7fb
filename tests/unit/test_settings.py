"""_mailsrv.settings: the name of the server, TLS, what DNS is to say, limits and the rest."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from reading import HOST, model, said

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"


@pytest.mark.parametrize(
    "fqdn", ["localhost", "bookworm", "localhost.localdomain", "example.com", "a_b.example.com", ""]
)
def test_a_machine_without_a_usable_name_is_called_mail_and_says_so(fqdn):
    found = model({"domains": ["example.com"]}, fqdn=fqdn)
    assert found["hostname"] == "mail.example.com"
    assert found["notes"] == [
        f"this machine's own name, {fqdn}, cannot be the mail server's: it is called "
        "mail.example.com. Set mailsrv:hostname for another name."
    ]


def test_the_hostname_of_the_pillar_comes_before_the_machines_own():
    found = model({"domains": ["example.com"], "mailsrv": {"hostname": "a.b.example"}})
    assert (found["hostname"], found["notes"]) == ("a.b.example", [])


def test_the_hostname_by_default_is_never_a_mail_domain():
    domains = ["example.com", "mail.example.com"]
    assert model({"domains": domains}, fqdn="localhost")["hostname"] not in domains


# What the world does not know a machine by, and names like them that it may.
INTERNAL = [
    *("ip-10-0-0-1.ec2.internal", "a.compute.internal", "mx.local", "localhost.localdomain"),
    *("mx.localhost", "nas.lan", "mx.home.arpa", "home.arpa", "mx.home", "mx.corp", "mx.intranet"),
    *("mx.private", "mx.invalid", "MX.Example.LAN"),
]
PUBLIC = ["mx.example", "mx.test", "internal.example.com", "lan.example.com", "mx.mylan.net"]
NO_NAMES = ["localhost", "", "a_b.example.com", ".example.com", "a..example.com", "192.0.2.1"]


@pytest.mark.parametrize("fqdn", INTERNAL)
def test_a_name_of_an_internal_network_is_not_the_mail_servers(fqdn):
    assert model({"domains": ["example.com"]}, fqdn=fqdn)["hostname"] == "mail.example.com"


@pytest.mark.parametrize("fqdn", PUBLIC)
def test_a_name_that_only_looks_internal_is_the_mail_servers(fqdn):
    assert model({"domains": ["example.com"]}, fqdn=fqdn)["hostname"] == fqdn


@pytest.mark.parametrize("fqdn", [*INTERNAL, *PUBLIC, *NO_NAMES])
def test_bootstrap_takes_the_same_names_for_the_machines_own(fqdn):
    """It puts them into the pillar that it makes."""
    script = (ROOT / "bootstrap").read_text()
    function = re.search(r"^usable_name\(\) \{\n.*?^\}\n", script, re.M | re.S)[0]
    asked = subprocess.run(["sh", "-euc", f'{function}usable_name "$1"', "sh", fqdn])
    taken = model({"domains": ["elsewhere.example"]}, fqdn=fqdn)["hostname"] == fqdn.lower()
    assert (asked.returncode == 0) is taken


def test_a_name_of_an_internal_network_may_be_meant():
    """Whoever writes it into the pillar is told, whoever has a mail domain there knows."""
    found = model({"domains": ["example.com"], "mailsrv": {"hostname": "mx.office.lan"}})
    assert found["hostname"] == "mx.office.lan"
    assert found["notes"] == [
        "mailsrv:hostname: mx.office.lan is a name of internal networks: servers elsewhere "
        "neither find it nor take mail from it"
    ]
    for name, fqdn in (("mx.office.lan", HOST), (None, "mx.office.lan")):
        found = model({"domains": ["office.lan"], "mailsrv": {"hostname": name}}, fqdn=fqdn)
        assert (found["hostname"], found["notes"]) == ("mx.office.lan", [])


@pytest.mark.parametrize("fqdn", ["localhost", "other.example.com", "ip-10-0-0-1.ec2.internal", ""])
def test_the_name_that_the_server_has_had_stays_whatever_the_machine_is_called(fqdn):
    pillar = {"domains": ["example.com"]}
    found = model(pillar, fqdn=fqdn, hostname=HOST)
    assert found["hostname"] == HOST
    assert found["notes"] == [
        f"this machine's own name is {fqdn}; the mail server keeps the name that it has had, "
        f"{HOST}. Set mailsrv:hostname to this name, or to another one."
    ]
    assert model(pillar, fqdn=HOST, hostname=HOST)["notes"] == []
    given = pillar | {"mailsrv": {"hostname": "a.b.example"}}
    found = model(given, fqdn=fqdn, hostname=HOST)
    assert (found["hostname"], found["notes"]) == ("a.b.example", [])


def test_a_name_that_has_become_a_mail_domain_is_not_the_servers_any_more():
    found = model({"domains": ["example.com", "mx.example.com"]}, hostname=HOST)
    assert found["hostname"] == "mail.example.com"


def test_what_the_pillar_says_of_filters_and_tags_is_in_the_model():
    found = model({"domains": ["example.com"]})
    assert (found["subaddress"], found["quota_warning"], found["sieve"]) == ("inbox", 90, "")
    assert found["srs"] == {"key": ""}
    given = {"subaddress": "mailbox", "quota_warning": 0, "sieve": "\n\nkeep;\n\tstop;\n\n"}
    found = model({"domains": ["example.com"], "mailsrv": given | {"srs": {"key": "2027"}}})
    assert (found["subaddress"], found["quota_warning"]) == ("mailbox", 0)
    assert found["sieve"] == "keep;\n\tstop;"
    assert found["srs"] == {"key": "2027"}


def test_passwords_are_hashed_with_the_rounds_of_the_pillar():
    assert model({"domains": ["example.com"]})["passwords"] == {"rounds": 5000}
    given = {"domains": ["example.com"], "mailsrv": {"passwords": {"rounds": 100_000}}}
    assert model(given)["passwords"] == {"rounds": 100_000}


# TLS


def tls(**given):
    return model({"domains": ["example.com"], "mailsrv": {"tls": given} if given else {}})["tls"]


def test_without_a_certificate_one_is_to_be_made():
    assert tls() == {
        "self_signed": True,
        "sources": {},
        "cert": f"/etc/mail/tls/{HOST}.crt",
        "key": f"/etc/mail/tls/{HOST}.key",
        "acme": None,
    }


@pytest.mark.parametrize("where", ["/etc/letsencrypt/live/mx.example.com", "salt://certs"])
def test_a_certificate_of_the_pillar_is_copied_and_leaves_the_self_signed_one_alone(where):
    given = {"cert": f"{where}/fullchain.pem", "key": f"{where}/privkey.pem"}
    assert tls(**given) == {
        "self_signed": False,
        "sources": given,
        "cert": f"/etc/mail/tls/{HOST}.copy.crt",
        "key": f"/etc/mail/tls/{HOST}.copy.key",
        "acme": None,
    }


# DNS


def dns(**given):
    pillar = {"domains": ["example.com", "test.com"], "accounts": [["a@example.com", SECRET]]}
    tls = {"cert": "/etc/ssl/mail.pem", "key": "/etc/ssl/mail.key"}
    return model({**pillar, "mailsrv": {"dns": given, "tls": tls}})["dns"]


def test_without_a_word_about_dns_what_is_safe_is_published():
    assert dns() == {
        "spf": ["mx", "-all"],
        "dmarc": {"policy": "quarantine", "reports": None},
        "tls_reports": None,
        "web": None,
        "mta_sts": None,
        "dropped": "",
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
def test_an_spf_record_is_taken_as_it_is_in_lower_case(spf):
    assert dns(spf=spf)["spf"] == spf.lower().split()


@pytest.mark.parametrize(
    ("address", "read_as"),
    [
        ("a@example.com", "a@example.com"),
        ("A+dmarc@Example.com", "a+dmarc@example.com"),
        ("postmaster@test.com", "postmaster@test.com"),
        ("Reports=x@there.example", "Reports=x@there.example"),
    ],
)
def test_reports_go_to_an_address_that_is_there(address, read_as):
    found = dns(dmarc={"reports": address}, tls_reports=address)
    assert found["dmarc"] == {"policy": "quarantine", "reports": read_as}
    assert found["tls_reports"] == read_as


def test_what_the_check_shall_skip_is_a_name_or_a_type_or_both():
    skip = ["srv", "_DMARC.example.com.", "example.com MX"]
    assert dns(skip=skip)["skip"] == [
        ["", "SRV"],
        ["_dmarc.example.com", ""],
        ["example.com", "MX"],
    ]


def test_addresses_and_name_servers_are_each_named_once():
    found = dns(
        addresses=["192.0.2.1", "2001:DB8::1", "2001:db8:0::1"],
        nameservers=["NS1.example.net", "ns1.example.net", HOST],
    )
    assert found["addresses"] == ["192.0.2.1", "2001:db8::1"]
    assert found["nameservers"] == ["ns1.example.net", HOST]


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
def test_strangers_may_use_our_senders_as_far_as_spf_says(spf, closed):
    assert dns(spf=spf)["closed"] == closed


# Faults: what stands in the pillar beside `domains: [example.com]`, and what is said about it

FAULTS = [
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
        "mailsrv:nsd:machines: must be the domains of each minion, like "
        "{mx1.example.net: [example.com]}, not a list",
    ),
    (
        "mailsrv: {nsd: {machines: 'mx*'}}",
        "mailsrv:nsd:machines: must be the domains of each minion, like "
        "{mx1.example.net: [example.com]}, not text",
    ),
    (
        "mailsrv: {nsd: {nameservers: ns1.example.net}}",
        "mailsrv:nsd:nameservers: must be a list, not text",
    ),
    (
        "mailsrv: {nsd: {nameservers: [ns1]}}",
        "mailsrv:nsd:nameservers: 'ns1' is not a host name; write it like ns1.example.net, or "
        "like ns1.example.net: 192.0.2.1",
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
            (
                "ip4:0.0.0.0/0 mx//0 -all",
                "ip4:0.0.0.0/0 and mx//0 would let the world send as these domains; write the "
                "networks of your servers, a /8 of IPv4 or a /19 of IPv6 at most",
            ),
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
        "mailsrv:dns:web, or let this machine do it by mailsrv:web: true",
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
        "mailsrv: {limits: {recipients_per_day: -1}}",
        "mailsrv:limits:recipients_per_day: '-1' is not usable; write a number from 0 to 10000000",
    ),
    (
        "mailsrv: {limits: {satellite_recipients_per_hour: none}}",
        "mailsrv:limits:satellite_recipients_per_hour: 'none' is not usable; write a number from 0 "
        "to 10000000",
    ),
    (
        "accounts: [{address: a@example.com, password: pass1, recipients_per_hour: 1.5}]",
        "accounts[0] (a@example.com): recipients_per_hour: '1.5' is not usable; write a number "
        "from 0 to 10000000",
    ),
    ("mailsrv: {blocked: a@example.com}", "mailsrv:blocked: must be a list, not text"),
    (
        "mailsrv: {blocked: [nobody@example.com]}",
        "mailsrv:blocked: 'nobody@example.com' is neither an account nor a satellite; write it "
        "like user@example.com",
    ),
    (
        "mailsrv: {blocked: [web1.example.com]}",
        "mailsrv:blocked: 'web1.example.com' is neither an account nor a satellite; write it like "
        "user@example.com",
    ),
    (
        "mailsrv: {limits: {message: 5}}",
        "mailsrv:limits:message: no such key; did you mean messages?",
    ),
    (
        "mailsrv: {notify: admin}",
        "mailsrv:notify: 'admin' is not an address; write it like dmarc@example.com",
    ),
    (
        "mailsrv: {notify: [x@elsewhere.example, nobody@example.com]}",
        "mailsrv:notify: nobody@example.com is neither an account nor an alias; add it",
    ),
    ("mailsrv: {notify: {a: b}}", "mailsrv:notify: must be a list, not keys and values"),
    ("mailsrv: {notify: true}", "mailsrv:notify: must be a list, not true or false"),
    ("mailsrv: {notify: [null]}", "mailsrv:notify: holds nothing in its list; write addresses"),
    (
        "mailsrv: {hostname: mx.example.com, notify: root@MX.example.com}",
        "mailsrv:notify: root@mx.example.com is a user of this machine's system, whose mail nobody "
        "fetches; name an account, an alias, or an address elsewhere",
    ),
    (
        "mailsrv: {passwords: {cost: 5}}",
        "mailsrv:passwords:cost: no such key; known are rounds",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_fault_is_named_with_its_key_and_its_cure(text, sentence):
    assert said(text) == sentence


def settings(text, family="Debian"):
    return model({"domains": ["example.com"], "mailsrv": yaml.safe_load(text)}, family=family)


def test_nothing_expires_and_the_log_is_the_systems_unless_the_pillar_says_so():
    for text in ("{}", "{expire: ~, logs: ~}", "{expire: {}, logs: {keep: ~}}"):
        found = settings(text)
        assert (found["expire"], found["logs"], found["notes"]) == ({}, {"keep": 0}, [])


def test_mail_expires_by_folder_in_days():
    found = settings("{expire: {Trash: 30d, Junk: 4w, INBOX: 3650d, Papierkorb/Gelöscht: 1d}}")
    expected = {"Trash": 30, "Junk": 28, "INBOX": 3650, "Papierkorb/Gelöscht": 1}
    assert found["expire"] == expected


def test_where_there_is_no_journal_the_run_says_who_keeps_the_log():
    text = "{hostname: mx.example.com, logs: {keep: 2w}}"
    assert settings(text)["logs"] == {"keep": 14}
    assert settings(text)["notes"] == []
    assert settings(text, "FreeBSD")["notes"] == [
        "mailsrv:logs:keep is for the journal of systemd: on this system, /etc/newsyslog.conf says "
        "how long /var/log/maillog is kept"
    ]


def test_nothing_is_indexed_unless_the_pillar_says_so_and_attachments_when_it_says_that_too():
    for text in ("{}", "{search: ~}", "{search: false}"):
        assert (settings(text)["search"], settings(text)["notes"]) == (None, [])
    for text in ("{search: true}", "{search: {}}", "{search: {attachments: false}}"):
        assert settings(text)["search"] == {"attachments": False}
    assert settings("{search: {attachments: true}}")["search"] == {"attachments": True}


def test_where_nothing_takes_attachments_apart_the_run_says_so():
    found = settings("{hostname: mx.example.com, search: {attachments: true}}", "FreeBSD")
    assert found["search"] == {"attachments": False}
    assert found["notes"] == [
        "mailsrv:search:attachments: does nothing on this system: text alone is indexed"
    ]


LIKE = "write days or weeks, like 30d or 4w, up to 3650d"
NO_FOLDER = (
    "is no mailbox; write one like Trash or Lists/News, without * and quotes: those below it are "
    "included"
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{search: fast}", "mailsrv:search: must hold keys and values, not text"),
        (
            "{search: {attachments: pdf}}",
            "mailsrv:search:attachments: 'pdf' is no switch; write true or false",
        ),
        ("{expire: 30d}", "mailsrv:expire: must hold mailboxes and times, not text"),
        ("{expire: {Trash: 30}}", f"mailsrv:expire:Trash: '30' is not usable; {LIKE}"),
        ("{expire: {Trash: 0d}}", f"mailsrv:expire:Trash: '0d' is not usable; {LIKE}"),
        ("{expire: {Trash: 1h}}", f"mailsrv:expire:Trash: '1h' is not usable; {LIKE}"),
        ("{expire: {Trash: 522w}}", f"mailsrv:expire:Trash: '522w' is not usable; {LIKE}"),
        ('{expire: {Trash: "1d\\n"}}', f"mailsrv:expire:Trash: '1d\\n' is not usable; {LIKE}"),
        ("{expire: {Trash: ~}}", f"mailsrv:expire:Trash: 'None' is not usable; {LIKE}"),
        ("{expire: {trash: 1d}}", "mailsrv:expire:trash: no mailbox is called that; write Trash"),
        ("{expire: {Inbox: 1d}}", "mailsrv:expire:Inbox: no mailbox is called that; write INBOX"),
        ("{expire: {'*': 1d}}", f"mailsrv:expire:?: {NO_FOLDER}"),
        ("{expire: {'Trash/%': 1d}}", f"mailsrv:expire:Trash??: {NO_FOLDER}"),
        ("{expire: {-A: 1d}}", f"mailsrv:expire:-A: {NO_FOLDER}"),
        ("{expire: {'a/': 1d}}", f"mailsrv:expire:a?: {NO_FOLDER}"),
        ('{expire: {"a\'b": 1d}}', f"mailsrv:expire:a?b: {NO_FOLDER}"),
        ('{expire: {"a\\nb": 1d}}', f"mailsrv:expire:a?b: {NO_FOLDER}"),
        ("{expire: {5: 1d}}", f"mailsrv:expire:5: {NO_FOLDER}"),
        ("{logs: {keep: forever}}", f"mailsrv:logs:keep: 'forever' is not usable; {LIKE}"),
        ("{logs: {keep: 30}}", f"mailsrv:logs:keep: '30' is not usable; {LIKE}"),
        ("{logs: {kept: 30d}}", "mailsrv:logs:kept: no such key; did you mean keep?"),
        ("{logs: 30d}", "mailsrv:logs: must hold keys and values, not text"),
    ],
)
def test_what_cannot_be_a_folder_or_a_time_is_refused(text, fault):
    assert said(f"mailsrv: {text}") == fault


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        (None, []),
        ([], []),
        ("x@Elsewhere.example", ["x@elsewhere.example"]),
        (["A@example.com", "a@example.com", "x@b.example"], ["a@example.com", "x@b.example"]),
        ("postmaster@example.com", ["postmaster@example.com"]),
    ],
)
def test_who_is_told_what_changes(given, read_as):
    pillar = {"domains": ["example.com"], "accounts": [["a@example.com", SECRET]]}
    assert model({**pillar, "mailsrv": {"notify": given}})["notify"] == read_as


HASH = "$6$salt$" + "a" * 86
SENDERS = {
    "domains": ["example.com"],
    "accounts": [
        ["a@example.com", SECRET],
        {"address": "b@example.com", "password": SECRET, "recipients_per_hour": 7},
    ],
    "mailsrv": {
        "limits": {"recipients_per_day": 50, "satellite_recipients_per_day": 900},
        "satellites": {
            "web1.example.com": {"hash": HASH},
            "web2.example.com": {"hash": HASH, "recipients_per_day": 0},
        },
    },
}


def test_an_account_and_a_satellite_have_limits_of_their_own_or_those_of_all():
    found = model(SENDERS)
    assert [[*a["limits"].values()] for a in found["accounts"]] == [[2000, 50], [7, 50]]
    assert [[*s["limits"].values()] for s in found["satellites"]] == [[0, 900], [0, 0]]


def test_who_is_blocked_is_so_by_the_pillar_or_by_a_command_and_a_note_says_so():
    pillar = {"mailsrv": {**SENDERS["mailsrv"], "blocked": ["B@example.com", "web1.example.com"]}}
    since = {"a@example.com": "2027-02-27 10:00 UTC", "gone@example.com": "x", "b@example.com": "y"}
    found = model({**SENDERS, **pillar}, blocked=since)
    assert found["blocked"] == ["b@example.com", "web1.example.com", "a@example.com"]
    assert [note for note in found["notes"] if "blocked" in note] == [
        "b@example.com is blocked by mailsrv:blocked: it neither logs in nor sends",
        "web1.example.com is blocked by mailsrv:blocked: it neither logs in nor sends",
        "a@example.com is blocked since 2027-02-27 10:00 UTC: it neither logs in nor sends, until "
        "salt-call mailsrv.unblock a@example.com",
    ]


def test_a_satellite_that_is_out_of_sight_is_no_fault():
    pillar = {"satellites": "web*", "blocked": ["web1.example.com"]}
    assert model({**SENDERS, "mailsrv": pillar})["blocked"] == []
    fleet = {"web1.example.com": {"hash": HASH}}
    assert model({**SENDERS, "mailsrv": pillar}, mined=fleet)["blocked"] == ["web1.example.com"]
