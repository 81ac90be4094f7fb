"""_mailsrv.pillar: one pillar in, complete and checked data out, or every fault as a sentence."""

import copy
import datetime
import json
import re
import types
from typing import get_args, get_origin, get_type_hints, is_typeddict

import pytest
import yaml
from _mailsrv import keys, pillar
from _mailsrv import model as shape
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from reading import FAMILIES, HOST, ROOT, facts, faults, model, read, said

SECRET = "hunter2"
HASH = "$6$salt$" + "a" * 86


# What a valid pillar means


def test_the_seeds_pillar_is_valid_as_it_stands(seed):
    found = model(seed)
    assert found["hostname"] == HOST
    assert found["domains"] == ["example.com", "test.com"]
    assert [account["address"] for account in found["accounts"]] == [
        "user1@example.com",
        "users2@example.com",
        "users3@test.com",
    ]
    assert found["notes"] == []


def test_the_seeds_keys_may_stand_under_mailsrv_too(seed):
    assert model({"mailsrv": seed}) == model(seed)
    accounts = seed.pop("accounts")
    assert model({**seed, "mailsrv": {"accounts": accounts}}) == model(
        {"mailsrv": seed | {"accounts": accounts}}
    )


def test_other_keys_of_the_pillar_are_no_business_of_this_formula(seed):
    assert model(seed | {"mine": {"interval": 5}}) == model(seed)
    # Nor is any where nothing of ours stands at the top, or where ours stands in its place.
    aliases = {"aliases": {"sales@example.com": "user1@example.com"}}
    other = {"aliases": {"/": "/srv"}, "hostname": 5}
    assert model({"mailsrv": seed | aliases} | other) == model({"mailsrv": seed | aliases})
    given = {"mailsrv": aliases | {"hostname": HOST}}
    assert model(seed | given | other) == model(seed | given)


def test_no_secret_is_part_of_the_model():
    accounts = [["a@example.com", SECRET], {"address": "b@example.com", "hash": HASH}]
    found = repr(model({"salt": "pepper", "domains": ["example.com"], "accounts": accounts}))
    assert not [secret for secret in (SECRET, HASH, "pepper") if secret in found]


@pytest.mark.parametrize(
    ("signer", "spam_filter", "needed"),
    [
        ("dkimsign", False, False),
        ("dkimproxy", True, True),
        ("dkimsign", True, True),
        ("rspamd", False, True),
    ],
)
def test_rspamd_is_needed_to_sign_or_to_filter(signer, spam_filter, needed):
    mailsrv = {"dkim": {"signer": signer}, "spam_filter": spam_filter}
    found = model({"domains": ["example.com"], "mailsrv": mailsrv})
    assert (found["rspamd"], found["spam_filter"] is not None) == (needed, spam_filter)


MACHINES = {"mx1": ["example.com", "test.com"], "mx2.example.net": ["example.org"]}


def nameserver(fqdn, minion="ns", **nsd):
    found, faults = pillar.nameserver({"mailsrv": {"nsd": nsd}}, fqdn, minion)
    return faults or found


def test_a_name_server_needs_nothing_of_a_mail_server():
    assert nameserver("ns1.example.net", machines=MACHINES) == {
        "machines": MACHINES,
        "nameservers": ["ns1.example.net"],
        "addresses": {},
        "tsig": False,
        "dnssec": False,
        "primary": [],
        "secondaries": [],
    }
    servers = ["NS1.example.net", "ns2.example.net", {"ns1.example.com": "2001:DB8:0::1"}]
    found = nameserver("localhost", machines={"mx1": ["Test.com"] * 2}, nameservers=servers[:2])
    assert found["machines"] == {"mx1": ["test.com"]}
    assert found["nameservers"] == ["ns1.example.net", "ns2.example.net"]
    found = nameserver("localhost", machines=MACHINES, nameservers=servers[2:])
    assert found["addresses"] == {"ns1.example.com": ["2001:db8::1"]}
    assert (found["primary"], found["secondaries"]) == ([], [])


SERVERS = [
    {"ns1.example.net": ["192.0.2.1", "2001:db8::1"]},
    {"ns2.example.net": "192.0.2.2"},
    {"ns3.example.net": ["2001:db8::3"]},
    "ns.provider.example",
]
TSIG = "c2VjcmV0" * 8


@pytest.mark.parametrize(
    ("fqdn", "minion", "primary", "secondaries"),
    [
        ("ns1.example.net", "ns1", [], ["192.0.2.2", "2001:db8::3"]),
        ("localhost", "ns1.example.net", [], ["192.0.2.2", "2001:db8::3"]),
        ("ns3.example.net", "ns3", ["192.0.2.1", "2001:db8::1"], []),
        ("localhost", "ns2.example.net", ["192.0.2.1", "2001:db8::1"], []),
    ],
)
def test_name_servers_of_one_pillar_know_their_place(fqdn, minion, primary, secondaries):
    found = nameserver(fqdn, minion, machines=MACHINES, nameservers=SERVERS, tsig=TSIG)
    assert (found["primary"], found["secondaries"]) == (primary, secondaries)
    assert TSIG not in str(found)


@pytest.mark.parametrize(
    ("nsd", "sentence"),
    [
        ({"tsig": None}, "tsig: is missing, the secret by which the name servers know each other"),
        ({"tsig": "c2VjcmV0"}, "tsig: is no secret of 32 octets in base64; write what this prints"),
        ({"tsig": "hunter2"}, "tsig: is no secret of 32 octets in base64; write what this prints"),
        ({"tsig": 5}, "tsig: is no secret of 32 octets in base64; write what this prints"),
        (
            {"nameservers": SERVERS[1:]},
            "nameservers: this machine, ns1, is none of ns2.example.net, ns3.example.net; give it "
            "its place there, with its address",
        ),
        (
            {"nameservers": ["ns1.example.net", *SERVERS[1:]]},
            "nameservers: ns1.example.net comes first, so the others get the zones from it; say "
            "where it is, like ns1.example.net: 192.0.2.1",
        ),
        (
            {"nameservers": [{"ns1.example.net": "ns1"}]},
            "nameservers:ns1.example.net: 'ns1' is not an address; write it like 192.0.2.1",
        ),
        (
            {"nameservers": [{"ns1.example.net": None, "x": 1}]},
            "nameservers: \"{'ns1.example.net': None, 'x': 1}\" is not a host name; ",
        ),
        ({"dnssec": "yes"}, "dnssec: 'yes' is no switch; write true or false"),
        (
            {"dnssec": True, "machines": {"mx1": ["example.com", "a.example.com"]}},
            "dnssec: a.example.com lies in example.com, which has no DS record of it, so nobody ",
        ),
        ({"machines": {}}, "machines: is missing; say who may publish what, like "),
        ({"machines": {"mx*": ["example.com"]}}, "machines: 'mx*' is not the id of a minion; "),
        ({"machines": {"mx1,mx2": []}}, "machines: 'mx1,mx2' is not the id of a minion; "),
        ({"machines": {"mx1": "example.com"}}, "machines:mx1: must be a list, not text"),
        (
            {"machines": {"mx1": ["a/b.com"]}},
            "machines:mx1: 'a/b.com' is not a domain; write it like example.com",
        ),
        (
            {"machines": {"mx1": ["example.com"], "mx2": ["Example.com"]}},
            "machines: example.com is of mx1 and of mx2; choose one",
        ),
        (
            {"machines": {"mx1": ["example.com"], "mx2": ["mail.b.example.com"]}},
            "machines: mail.b.example.com of mx2 lies in example.com of mx1; give both to one of",
        ),
    ],
)
def test_a_name_server_that_cannot_be_made_says_why(nsd, sentence):
    given = {"machines": MACHINES, "nameservers": SERVERS, "tsig": TSIG} | nsd
    (fault,) = nameserver("ns1.example.net", "ns1", **given)
    assert fault.startswith(f"mailsrv:nsd:{sentence}")
    assert "hunter2" not in fault


def test_the_first_name_server_signs_and_no_other():
    given = {"machines": MACHINES, "nameservers": SERVERS, "tsig": TSIG, "dnssec": True}
    assert nameserver("ns1.example.net", "ns1.example.net", **given)["dnssec"] is True
    assert nameserver("ns2.example.net", "ns2.example.net", **given)["dnssec"] is False
    alone = {"machines": MACHINES, "dnssec": True}
    assert nameserver("ns1.example.net", **alone)["dnssec"] is True
    alone |= {"nameservers": ["ns1.example.net", "ns2.example.net"]}
    assert nameserver("localhost", "ns1.example.net", **alone)["dnssec"] is True
    assert nameserver("hidden.example.net", **alone)["dnssec"] is True
    for fqdn, minion in (("ns2.example.net", "ns2"), ("localhost", "ns2.example.net")):
        (fault,) = nameserver(fqdn, minion, **alone)
        assert fault.startswith("mailsrv:nsd:dnssec: ns1.example.net alone signs, and ns2.")


def test_a_machine_may_have_a_zone_within_its_own():
    machines = {"mx1": ["lists.example.com", "example.com"]}
    assert nameserver("ns1.example.net", machines=machines)["machines"] == machines


def test_a_name_server_without_a_name_is_told_to_have_one():
    assert nameserver("localhost", machines=MACHINES) == [
        "mailsrv:nsd:nameservers: is missing, and this machine's own name, localhost, is none; "
        "list host names, e.g. [ns1.example.net]"
    ]


# Faults: what stands in the pillar beside `domains: [example.com]`, and what is said about it

FAULTS = [
    ("salt: 5", "salt: must be text; quote it"),
    (
        "aliases: {b@example.com: a@example.com}",
        "aliases: means nothing at the top, beside domains and salt; move it under mailsrv:, or, "
        "where it belongs to another formula, move domains and salt there",
    ),
    (
        "{accounts: [[a@example.com, hunter2]], quota: 5G, hostname: ~, mailsrv: {quota: 5G}}",
        "hostname: means nothing at the top, beside domains, accounts and salt; move it under "
        "mailsrv:, or, where it belongs to another formula, move domains, accounts and salt there",
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
    ("mailsrv: {hostnme: a.b.example}", "mailsrv:hostnme: no such key; did you mean hostname?"),
    (
        "mailsrv: {domains: [example.com]}",
        "domains: stands at the top and under mailsrv:; remove one of them",
    ),
    (
        "mailsrv: {spam_filter: rspamd}",
        "mailsrv:spam_filter: 'rspamd' is no switch; write true or false",
    ),
    ("mailsrv: {spam_filter: 1}", "mailsrv:spam_filter: '1' is no switch; write true or false"),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_fault_is_named_with_its_key_and_its_cure(text, sentence):
    assert said(text) == sentence


def test_every_fault_is_named_at_once_in_the_order_of_the_reference():
    text = """
        salt: 1
        domains: [example.com, mail]
        accounts: [[a@example.com, 5], [b@example.com, '']]
        mailsrv: {hostname: x, tls: {cert: c}, dkim: {bits: 1}, dns: {spf: a},
          passwords: {rounds: 1}, more: 1}
    """
    assert [line.split(" ")[0].rstrip(":") for line in faults(yaml.safe_load(text))] == [
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


# The shape of a model, as it is written down


def misfits(value, kind, path="model"):
    """What of a value is not of its type, each by its path."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict):
            yield f"{path} is no {kind.__name__}"
            return
        yield from (f"{path}:{key} is missing" for key in hints if key not in value)
        yield from (f"{path}:{key} is not written down" for key in value if key not in hints)
        for key in hints.keys() & value.keys():
            yield from misfits(value[key], hints[key], f"{path}:{key}")
    elif get_origin(kind) is types.UnionType:
        if all([*misfits(value, one, path)] for one in get_args(kind)):
            yield f"{path} is {value!r}, not {kind}"
    elif get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, *get_args(kind), f"{path}[{index}]")
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from misfits(key, get_args(kind)[0], f"{path}, its key")
            yield from misfits(item, get_args(kind)[1], f"{path}:{key}")
    elif type(value) is not kind:
        yield f"{path} is {value!r}, not {kind}"


EXAMPLE = yaml.safe_load((ROOT / "pillar.example/mail/users.sls").read_text())
ONE = {"domains": ["example.com"], "accounts": [["a@example.com", SECRET]]}
FULL = yaml.safe_load(f"""
salt: pepper
domains: [example.com, test.com, old.example.com]
accounts:
  a@example.com: {SECRET}
  c@test.com:
    password: {SECRET}
    forward: x@elsewhere.example
    vacation: {{text: Back soon, subject: Away, from: 2027-01-10, until: 2027-12-31, days: 3}}
  b@test.com: {{hash: {HASH}, quota: 2G, send_as: ["@test.com", a@example.com]}}
mailsrv:
  hostname: mail.example.com
  removes: 3
  bans: {{own: [192.0.2.0/24]}}
  aliases:
    {{sales@example.com: [a@example.com, x@elsewhere.example], "@test.com": b@test.com,
      team-*@example.com: a@example.com}}
  moved: {{old.example.com: example.com}}
  subaddress: mailbox
  quota: 5G
  quota_warning: 80
  expire: {{Trash: 30d, Lists/Old: 2w}}
  sieve: keep;
  srs: {{key: "2027"}}
  tls: {{cert: /etc/ssl/mail.pem, key: salt://mail.key}}
  dkim: {{selector: s, rotate: yearly, revoked: [old], bits: 4096}}
  dns:
    spf: mx ip4:192.0.2.0/24 -all
    dmarc: {{policy: reject, reports: a@example.com}}
    tls_reports: reports@elsewhere.example
    web: www.example.net
    mta_sts: enforce
    dane: true
    addresses: [192.0.2.1, "2001:db8::1"]
    nameservers: [ns1.example.net]
    skip: [SRV, example.com MX]
  nsd:
    machines: {{mx1: [example.com]}}
    nameservers: [ns1.example.net: 192.0.2.1, ns2.example.net: [192.0.2.2, "2001:db8::2"]]
    tsig: {"c2VjcmV0" * 8}
  spam_filter: true
  limits:
    {{message_size: 100M, messages: 5, recipients: 500, connections: 9, recipients_per_hour: 100,
      recipients_per_day: 0, satellite_recipients_per_day: 5000}}
  blocked: [a@example.com, web2.other.net]
  passwords: {{rounds: 10000}}
  logs: {{keep: 30d}}
  abandon_queue: true
  notify: [a@example.com, x@elsewhere.example]
  metrics: true
  search: {{attachments: true}}
  backup: {{mx2.example.net: 192.0.2.2}}
  backup_for: {{mx3.example.net: [example.org]}}
  satellites: {{web1.example.com: {{hash: {HASH}}}, web2.other.net: {{hash: {HASH}}}}}
""")
FLEET = {"web1.example.com": {"hash": HASH}, "odd": None}


def having(settings, **dkim):
    """The full pillar with other settings."""
    found = copy.deepcopy(FULL)
    found["mailsrv"]["dkim"] |= dkim
    return {**found, "mailsrv": {**found["mailsrv"], **settings}}


SHAPED = {
    "one account": ONE,
    "no account": {"domains": ["example.com"]},
    "pillar.example": EXAMPLE,
    "every section": FULL,
    "a fleet": having({"satellites": "web*"}),
    "a certificate by itself": having({"tls": {"acme": {"email": "a@example.com"}}}),
    "no networks": having({"dns": {"spf": "mx ~all"}}),
    **{f"signed by {signer}": having({}, signer=signer) for signer in keys.SIGNERS},
    **{
        f"signed by {signer}, ed25519": having({}, signer=signer, ed25519=True)
        for signer in ("dkimsign", "rspamd")
    },
    **{
        f"without {section}": having({section: None})
        for section in (*("aliases", "quota", "sieve", "srs", "limits", "bans"), "passwords", "dns")
    },
}
KNOWN = {"hostname": "old.example.com", "accounts": ["c@example.com"]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("known", [{}, KNOWN], ids=["first run", "next run"])
@pytest.mark.parametrize("name", SHAPED)
def test_a_model_has_the_shape_that_is_written_down(name, known, family):
    found, wrong = read(SHAPED[name], HOST, family, FLEET, **known)
    assert (wrong, [*misfits(found, shape.Model)]) == ([], [])
    assert json.loads(json.dumps(found)) == found


def test_the_seeds_model_has_it_too(seed):
    for family in FAMILIES:
        assert [*misfits(model(seed, family=family), shape.Model)] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"agent": "dma", "ca": "salt://a.pem"}, {"minion": "mx1"}])
def test_a_satellites_model_has_the_shape_that_is_written_down(family, more):
    given = {"satellite": {"relay": "mail.example.com", "root": "a@example.com", **more}}
    found = pillar.satellite({"mailsrv": given}, "web1.example.com", facts(family), "")
    assert (found[1], [*misfits(found[0], shape.Sender)]) == ([], [])


def test_every_part_of_the_full_pillar_is_in_its_model():
    """Else the shape of a list that is empty would be the shape of anything."""
    coming = {**FULL, "domains": [*FULL["domains"], "new.example"]}
    coming["accounts"] = {**FULL["accounts"], "d@new.example": SECRET}
    coming["mailsrv"] = {**FULL["mailsrv"], "moves_from": {"new.example": "mx4.example.net"}}
    found = model(coming, accounts=KNOWN["accounts"])
    assert [*misfits(found, shape.Model)] == []
    empty = [key for key, value in found.items() if value in ("", [], {}, None)]
    assert empty == []
    assert found["dns"].pop("dropped") == ""  # what is enforced is not taken away
    assert [key for key, value in found["dns"].items() if value in ("", [], {}, None)] == []
    assert found["removed"] == ["c@example.com"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda m: m.pop("dns"), "model:dns is missing"),
        (lambda m: m.update(more=1), "model:more is not written down"),
        (lambda m: m["tls"].update(more=1), "model:tls:more is not written down"),
        (lambda m: m["tls"].pop("key"), "model:tls:key is missing"),
        (lambda m: m.update(tls=[]), "model:tls is no Tls"),
        (lambda m: m.update(domains="a"), "model:domains is 'a', not list[str]"),
        (lambda m: m["domains"].append(1), "model:domains[3] is 1, not <class 'str'>"),
        (lambda m: m["aliases"].update(x="y"), "model:aliases:x is 'y', not list[str]"),
        (lambda m: m["aliases"].update({1: []}), "model:aliases, its key is 1, not <class 'str'>"),
        (
            lambda m: m["accounts"][0].update(quota=2),
            "model:accounts[0]:quota is 2, not str | None",
        ),
        (lambda m: m["limits"].update(messages=True), "model:limits:messages is True, not <class "),
        (lambda m: m["dkim"]["keys"][0].pop("bare"), "model:dkim:keys[0]:bare is missing"),
        (lambda m: m["dns"].update(skip=[["", 1]]), "model:dns:skip[0][1] is 1, not <class 'str'>"),
    ],
)
def test_a_model_of_another_shape_is_found(break_it, said):
    found = json.loads(json.dumps(model(FULL)))
    break_it(found)
    (misfit,) = misfits(found, shape.Model)
    assert misfit.startswith(said)


# Every section and every key of it is read

# A pillar with a section that stands elsewhere than `mailsrv:SECTION`, and what its faults begin
# with: where a key is unknown, and where it is known.
PLACES = {
    "mailsrv": (lambda value: {"mailsrv": ONE | value}, "mailsrv:", "mailsrv:"),
    "account": (
        lambda value: ONE | {"accounts": [{"address": "a@example.com", **value}]},
        "accounts[0]:",
        "accounts[0] (a@example.com): ",
    ),
    "accounts": (
        lambda value: ONE | {"accounts": {"a@example.com": value}},
        "accounts:a@example.com:",
        "accounts:a@example.com: ",
    ),
    **{
        section: (
            lambda value, up=up, section=section: ONE | {"mailsrv": {up: {section: value}}},
            f"mailsrv:{up}:{section}:",
            f"mailsrv:{up}:{section}:",
        )
        for up, section in (
            *(("dns", "dmarc"), ("dkim", "archive"), ("tls", "acme")),
            ("spam_filter", "thresholds"),
        )
    },
    "vacation": (
        lambda value: ONE | {"accounts": {"a@example.com": {"password": "x", "vacation": value}}},
        "accounts:a@example.com: vacation:",
        "accounts:a@example.com: vacation:",
    ),
    "eab": (
        lambda value: ONE | {"mailsrv": {"tls": {"acme": {"eab": value}}}},
        "mailsrv:tls:acme:eab:",
        "mailsrv:tls:acme:eab:",
    ),
    "satellites": (
        lambda value: ONE | {"mailsrv": {"satellites": {"web1.example.com": value}}},
        "mailsrv:satellites:web1.example.com:",
        "mailsrv:satellites:web1.example.com: has no ",
    ),
    "satellite": (
        lambda value: {"mailsrv": {"satellite": {"relay": "mail.example.com", **value}}},
        "mailsrv:satellite:",
        "mailsrv:satellite:",
    ),
}
BEGINNINGS = {
    **{("mailsrv", key): key for key in pillar.SEED_KEYS},
    ("account", "address"): "accounts[0]: has no address",
    **{
        ("satellites", key): f"mailsrv:satellites:web1.example.com:{key}: "
        for key in ("recipients_per_hour", "recipients_per_day")
    },
}


def place(section):
    path = f"mailsrv:{section}:"
    return PLACES.get(section, (lambda value: ONE | {"mailsrv": {section: value}}, path, path))


def told(given):
    """What is said of a pillar, be it a mail machine's or a satellite's."""
    return faults(given) + pillar.satellite(given, "web1.example.com", facts(), "")[1]


@pytest.mark.parametrize("section", pillar.KEYS)
def test_a_key_that_nobody_reads_is_named_in_every_section(section):
    make, path, _ = place(section)
    key = f"{pillar.KEYS[section][0]}x"
    begins = f"{path}{key}: no such key; "
    assert [fault for fault in told(make({key: None})) if fault.startswith(begins)]


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, known in pillar.KEYS.items() for key in known]
)
def test_a_key_that_is_known_is_read(section, key):
    """What can be no value of any key is a fault under its name."""
    make, _, path = place(section)
    begins = BEGINNINGS.get((section, key), f"{path}{key}")
    found = [fault for fault in told(make({key: [["?"]]})) if fault.startswith(begins)]
    assert found
    assert "no such key" not in "".join(found)


# Any pillar at all

any_number = settings(deadline=None)
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
nasty = st.sampled_from(["", "*", "%d", "..", "+x", *" #\n\t\0:/@,{'\"|ä\u017f\u2028"])
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
day = st.dates() | st.dates().map(str) | st.sampled_from(["2027-02-29", "0000-01-01", "\u0661"])
text = st.text(max_size=20)
away = section(**{"text": text, "subject": text, "from": day, "until": day, "days": st.integers()})
account = {"password": secrets, "hash": st.just(HASH), "quota": sizes, "send_as": targets}
account |= {"forward": targets, "keep_copy": st.booleans(), "vacation": away}
any_accounts = st.lists(
    st.lists(addresses | secrets, max_size=3)
    | st.tuples(addresses, secrets).map(list)
    | section(address=addresses, **account)
    | junk,
    max_size=4,
) | st.dictionaries(addresses, secrets | section(address=addresses, **account), max_size=3)
seed_keys = {"salt": st.text(), "domains": st.lists(domains, max_size=3), "accounts": any_accounts}
pillars = st.fixed_dictionaries(
    {},
    optional={
        **{key: value | junk for key, value in seed_keys.items()},
        **dict.fromkeys(("aliases", "hostname"), junk),
        "mailsrv": section(
            **seed_keys,
            removes=st.integers(0, 3),
            hostname=domains,
            aliases=st.dictionaries(addresses | domains.map("@{}".format), targets, max_size=3),
            moved=st.dictionaries(domains, domains, max_size=2),
            quota=sizes,
            quota_warning=st.integers(-1, 100),
            subaddress=st.sampled_from(["inbox", "mailbox"]),
            expire=st.dictionaries(st.text(max_size=9), st.sampled_from(["1d", "0d", "4w", 3])),
            search=st.booleans() | section(attachments=st.booleans()),
            logs=section(keep=st.sampled_from(["1d", "0d", "9999w", "4w"]) | st.text(max_size=4)),
            sieve=st.text(),
            srs=section(key=st.text(max_size=5)),
            spam_filter=st.booleans()
            | section(
                **dict.fromkeys(("learn", "greylist", "reputation"), st.booleans()),
                thresholds=section(reject=st.integers(-1, 30) | st.just(False)),
                **dict.fromkeys(("allow", "block"), st.lists(domains | addresses, max_size=2)),
            ),
            tls=section(
                cert=paths,
                key=paths,
                acme=section(
                    email=addresses,
                    server=st.just("https://ca.example/dir") | nasty,
                    challenge=st.sampled_from(["http-01", "tls-alpn-01", "dns-01"]),
                    key=st.sampled_from(["rsa", "ecdsa"]),
                    ca=paths,
                    eab=section(kid=st.text(max_size=5), hmac=st.text("ab-=", max_size=20)),
                    provider=st.just("rfc2136") | nasty,
                    settings=st.dictionaries(st.just("RFC2136_TSIG_KEY") | nasty, secrets),
                ),
            ),
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
            nsd=section(
                machines=st.dictionaries(domains, st.lists(domains, max_size=3), max_size=3),
                nameservers=st.lists(
                    domains | st.dictionaries(domains, domains, max_size=2), max_size=3
                ),
                tsig=st.text(max_size=9),
            ),
            passwords=section(rounds=st.integers()),
            satellites=st.dictionaries(domains, section(hash=st.just(HASH)), max_size=3) | domains,
        ),
    },
)
likely = st.fixed_dictionaries(
    {
        "domains": st.just(["example.com", "test.com"]),
        "accounts": st.just([["a@example.com", "p"], ["d_-e@test.com", "p"]])
        | st.just({"a@example.com": "p", "d_-e@test.com": {"password": "p"}}),
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


standing = st.fixed_dictionaries(
    {},
    optional={
        "hostname": st.sampled_from([HOST, "example.com", ""]),
        "accounts": st.lists(
            st.sampled_from([f"{name}@example.com" for name in "abcd"]), max_size=4, unique=True
        ),
    },
)
mine = st.dictionaries(st.sampled_from(["web1"]) | domains, section(hash=st.just(HASH)), max_size=3)


@settings(any_number, max_examples=200)
@given(
    pillars | likely,
    st.sampled_from(FAMILIES),
    domains | st.just("localhost"),
    mine,
    standing,
)
@example({"mailsrv": {"dkim": {"signer": []}}}, "Debian", HOST, {}, {})
@example({"mailsrv": {"dkim": {"archive": {"\t": None}}}}, "Debian", HOST, {}, {})
def test_any_pillar_gives_a_clean_model_or_clear_faults(given, family, fqdn, mined, standing):
    model, faults = read(given, fqdn, family, mined, **standing)
    if faults:
        assert all(
            fault.isprintable() and re.match(r"[^ ]+( \([^ ]+\))?: ", fault) for fault in faults
        )
        return
    assert [*misfits(model, shape.Model)] == []
    script = model["sieve"]
    model = {key: value for key, value in model.items() if key not in ("notes", "sieve")}
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
def test_no_secret_is_part_of_an_error(given, secret, other):
    assume(secret not in str(given))
    accounts = [
        ["a@example.com", secret],
        ["a@example.com", secret, other],
        [f"a@example.com{other}", secret + other],
        {"address": other, "password": secret, "hash": secret},
        {"address": "a@example.com", "hash": secret},
        {"adress": "a@example.com", "password": [secret]},
    ]
    mapped = {
        "a@example.com": [secret],
        secret: "b@example.com",
        f"c@example.com{other}:{secret}": None,
        "d@example.com": {"hash": secret, f"password{other}{secret}": None},
        "e@example.com": {"password": secret, "quota": {}},
    }
    for either in (accounts, mapped):
        found = faults({"mailsrv": given.get("mailsrv"), "accounts": either, "salt": [secret]})
        assert found
        assert secret not in "".join(found)
