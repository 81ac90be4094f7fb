"""mailsrv.model: aliases, catch-alls, roles, quotas and senders; mailsrv.explain says the same."""

import pytest
import yaml
from salt.exceptions import SaltInvocationError

from saltext.mailsrv.modules import mailsrv

PILLAR = """
domains: [example.com, test.com]
accounts:
  - [ann@example.com, pass1]
  - [bob@example.com, pass2]
  - {address: eve@test.com, password: pass3, quota: 2G, send_as: ["@test.com", ann@example.com]}
mailsrv:
  quota: 5G
"""
AWAY = "someone@elsewhere.example"


@pytest.fixture
def given(read):
    """The model with aliases of its own, less the roles that every domain has."""

    def model(aliases="{}"):
        pillar = yaml.safe_load(PILLAR)
        pillar["mailsrv"]["aliases"] = yaml.safe_load(aliases)
        return read(pillar)

    return model


def roles(aliases):
    return {k: v for k, v in aliases.items() if k.startswith(("postmaster@", "abuse@"))}


@pytest.mark.parametrize(
    ("aliases", "ends"),
    [
        ("{a@example.com: bob@example.com}", {"a@example.com": ["bob@example.com"]}),
        ("{A@Example.COM: Bob@Example.com}", {"a@example.com": ["bob@example.com"]}),
        ("{a@example.com: Bob+Tag@example.com}", {"a@example.com": ["bob+Tag@example.com"]}),
        # RFC 5321, section 2.4: only the other server knows whether case counts.
        ("{a@example.com: Jo@Elsewhere.Example}", {"a@example.com": ["Jo@elsewhere.example"]}),
        (f"{{a@test.com: [{AWAY}]}}", {"a@test.com": [AWAY]}),
        (
            f"{{a@test.com: [eve@test.com, {AWAY}, eve@test.com]}}",
            {"a@test.com": ["eve@test.com", AWAY]},
        ),
        ("{'@test.com': eve@test.com}", {"@test.com": ["eve@test.com"]}),
        ("{a@test.com: eve+lists@test.com}", {"a@test.com": ["eve+lists@test.com"]}),
        (
            f"{{a@test.com: b@test.com, b@test.com: [c@test.com, {AWAY}], "
            "c@test.com: eve@test.com}",
            {
                "a@test.com": ["eve@test.com", AWAY],
                "b@test.com": ["eve@test.com", AWAY],
                "c@test.com": ["eve@test.com"],
            },
        ),
        # An account that keeps a copy.
        (
            f"{{eve@test.com: [eve@test.com, {AWAY}]}}",
            {"eve@test.com": ["eve@test.com", AWAY]},
        ),
    ],
)
def test_an_alias_leads_to_the_ends_of_its_chain_each_once(given, aliases, ends):
    found = given(aliases)["aliases"]
    assert {k: v for k, v in found.items() if k not in roles(found)} == ends


def test_catch_alls_stand_behind_what_has_a_name(given):
    found = given("{'@test.com': eve@test.com, a@test.com: bob@example.com}")["aliases"]
    assert list(found)[-1] == "@test.com"


def test_every_domain_has_its_roles_which_somebody_of_it_reads(given):
    assert given()["aliases"] == {
        "postmaster@example.com": ["ann@example.com"],
        "abuse@example.com": ["ann@example.com"],
        "postmaster@test.com": ["eve@test.com"],
        "abuse@test.com": ["eve@test.com"],
    }


def test_a_domain_without_accounts_leaves_its_roles_to_the_first_of_all(read):
    model = read({"domains": ["a.example", "b.example"], "accounts": [["x@a.example", "p"]]})
    assert model["aliases"]["postmaster@b.example"] == ["x@a.example"]
    assert read({"domains": ["a.example"]})["aliases"] == {}


def test_roles_of_the_pillar_are_left_as_they_are(given, read):
    found = given("{postmaster@test.com: bob@example.com}")["aliases"]
    assert found["postmaster@test.com"] == ["bob@example.com"]
    model = read({"domains": ["a.example"], "accounts": [["abuse@a.example", "p"]]})
    assert list(model["aliases"]) == ["postmaster@a.example"]


def test_an_account_may_send_as_itself_its_aliases_and_what_send_as_lists(given):
    model = given(f"{{a@example.com: [bob@example.com, {AWAY}], '@example.com': bob@example.com}}")
    senders = {account["address"]: account["senders"] for account in model["accounts"]}
    assert senders["bob@example.com"] == ["bob@example.com", "a@example.com"]
    assert senders["eve@test.com"] == [
        "eve@test.com",
        "postmaster@test.com",
        "abuse@test.com",
        "@test.com",
        "ann@example.com",
    ]


def test_quotas_are_an_accounts_own_and_everybodys(given):
    model = given()
    assert model["quota"] == "5G"
    assert [account["quota"] for account in model["accounts"]] == [None, None, "2G"]


SIZE = "is not a size; write it like 500M or 2G"
NO_ALIAS = "is not an alias; write sales@example.com, or @example.com for a catch-all"
NO_TARGET = "is not an address; write it like user@example.com"
FAULTS = [
    ("[a@example.com]", ": must hold aliases and targets, not a list"),
    ("{sales: a@example.com}", f": 'sales' {NO_ALIAS}"),
    ("{'x y@example.com': a@example.com}", f": 'x y@example.com' {NO_ALIAS}"),
    ("{5: a@example.com}", f": '5' {NO_ALIAS}"),
    ("{x@b.example: a@example.com}", ":x@b.example: its domain is not in domains; add it there"),
    (
        "{x@example.com: a@example.com, X@example.com: a@example.com}",
        ":x@example.com: this alias is listed twice; remove one of them",
    ),
    ("{x@example.com: []}", ":x@example.com: leads nowhere; name a target, or remove it"),
    ("{x@example.com: [a@example.com, root]}", f":x@example.com: its target 'root' {NO_TARGET}"),
    ("{x@example.com: '|sh@b.example'}", f":x@example.com: its target '|sh@b.example' {NO_TARGET}"),
    ("{x@example.com: 'a,b@b.example'}", f":x@example.com: its target 'a,b@b.example' {NO_TARGET}"),
    ("{x@example.com: 'a:b@b.example'}", f":x@example.com: its target 'a:b@b.example' {NO_TARGET}"),
    ("{x@example.com: '/a@b.example'}", f":x@example.com: its target '/a@b.example' {NO_TARGET}"),
    # The long s, which is an s where case does not count.
    (
        "{x@example.com: '\u017f@b.example'}",
        f":x@example.com: its target '\\u017f@b.example' {NO_TARGET}",
    ),
    (
        "{x@example.com: nobody@example.com}",
        ":x@example.com: its target nobody@example.com is neither an account nor an alias; add it",
    ),
    (
        "{a@example.com: b@b.example}",
        ":a@example.com: is an account, which would get nothing any more; "
        "add a@example.com to the targets to keep a copy, or remove one of them",
    ),
    ("{x@example.com: x@example.com}", ":x@example.com: leads back to itself; break the loop"),
]


@pytest.mark.parametrize(("aliases", "sentence"), FAULTS, ids=[ascii(row[0]) for row in FAULTS])
def test_a_faulty_alias_is_named_with_its_cure(read, aliases, sentence):
    pillar = {"domains": ["example.com"], "accounts": [["a@example.com", "hunter2"]]}
    with pytest.raises(SaltInvocationError) as raised:
        read(pillar | {"mailsrv": {"aliases": yaml.safe_load(aliases)}})
    assert str(raised.value) == f"the pillar is not valid:\nmailsrv:aliases{sentence}"


def test_every_alias_of_a_loop_is_named(given):
    with pytest.raises(SaltInvocationError) as raised:
        given("{a@test.com: b@test.com, b@test.com: [c@test.com], c@test.com: a@test.com}")
    assert str(raised.value).splitlines()[1:] == [
        f"mailsrv:aliases:{name}@test.com: leads back to itself; break the loop" for name in "abc"
    ]


@pytest.mark.parametrize("size", ["2", "2 G", "2GB", "0G", "-1G", "1.5G", "many", 5, True])
def test_a_quota_that_is_no_size_is_named(read, size):
    pillar = {"domains": ["example.com"], "accounts": [["a@example.com", "hunter2"]]}
    with pytest.raises(SaltInvocationError) as raised:
        read(pillar | {"mailsrv": {"quota": size}})
    assert str(raised.value).endswith(f":\nmailsrv:quota: {str(size)!a} {SIZE}")
    pillar["accounts"] = [{"address": "a@example.com", "password": "hunter2", "quota": size}]
    with pytest.raises(SaltInvocationError) as raised:
        read(pillar)
    assert str(raised.value).endswith(f" (a@example.com): quota: {str(size)!a} {SIZE}")


@pytest.mark.parametrize(
    ("send_as", "sentence"),
    [
        ("info@example.com", "must be a list, not text"),
        (["info"], "'info' is neither an address nor a domain; "),
        (["info@other.example"], "info@other.example is not in domains; mail as it is not signed"),
        (["@other.example"], "@other.example is not in domains; mail as it is not signed"),
    ],
)
def test_a_sender_that_cannot_be_is_named(read, send_as, sentence):
    account = {"address": "a@example.com", "password": "hunter2", "send_as": send_as}
    with pytest.raises(SaltInvocationError) as raised:
        read({"domains": ["example.com"], "accounts": [account]})
    assert f"accounts[0] (a@example.com): send_as: {sentence}" in str(raised.value)


# explain


@pytest.fixture
def explain(loader):
    pillar = yaml.safe_load(PILLAR)
    pillar["mailsrv"]["aliases"] = {
        "sales@example.com": ["ann@example.com", AWAY],
        "@test.com": "bob@example.com",
    }
    loader["__pillar__"].update(pillar)
    return mailsrv.explain


@pytest.mark.parametrize(
    ("address", "accepted", "because", "boxes", "away"),
    [
        ("ann@example.com", "yes", "ann@example.com is an account", ["ann@example.com"], []),
        ("Ann+x@Example.com", "yes", "ann@example.com is an account", ["ann@example.com"], []),
        ("sales@example.com", "yes", "sales@example.com is an alias", ["ann@example.com"], [AWAY]),
        ("abuse@test.com", "yes", "abuse@test.com is an alias", ["eve@test.com"], []),
        ("nobody@test.com", "yes", "@test.com is a catch-all", ["bob@example.com"], []),
        (
            "nobody@example.com",
            "no",
            "there is no such account, no such alias, and no catch-all",
            None,
            None,
        ),
        (
            AWAY,
            "from our users and this machine only",
            "elsewhere.example is not one of our domains: example.com, test.com",
            None,
            [AWAY],
        ),
    ],
)
def test_explain_says_where_mail_goes_and_why(explain, address, accepted, because, boxes, away):
    said = explain(address)
    assert (said["accepted"], said["because"]) == (accepted, because)
    assert (said.get("delivered to"), said.get("forwarded to")) == (boxes, away)


@pytest.mark.parametrize(
    ("address", "senders"),
    [
        (
            "ann@example.com",
            {
                "ann@example.com": "it is the account's own address",
                "eve@test.com": "its send_as says so",
            },
        ),
        ("sales@example.com", {"ann@example.com": "sales@example.com is an alias of it"}),
        ("anything@test.com", {"eve@test.com": "its send_as says so"}),
        (AWAY, {}),
    ],
)
def test_explain_says_who_may_send_as_an_address(explain, address, senders):
    assert explain(address)["senders"] == senders


def test_explain_names_the_rule_and_the_line_that_decide(explain):
    said = explain("sales@example.com")
    assert said["rule"].endswith(' rcpt-to <recipients> action "mailbox"')
    assert said["table line"] == f"virtuals: sales@example.com ann@example.com,{AWAY}"
    assert explain("Eve+x@test.com")["table line"] == "virtuals: eve@test.com vmail"
    assert explain("nobody@example.com")["rule"] == "match from any for domain <vdomains> reject"
    assert explain(AWAY)["rule"] == 'match from auth for any action "relay"'


def test_explain_names_the_filters_before_a_mailbox(explain, loader):
    plain = explain("ann@example.com")["filters"]
    loader["__pillar__"]["mailsrv"] |= {"sieve": "keep;", "subaddress": "mailbox"}
    (first, *others, last) = explain("ann@example.com")["filters"]
    assert others == plain
    assert (first, last[:40]) == (
        "the script in mailsrv:sieve",
        "what is left of mail to user+tag goes to",
    )
    loader["__pillar__"]["mailsrv"]["aliases"]["away@example.com"] = AWAY
    assert explain("away@example.com")["filters"] == []


def test_explain_names_the_quota_that_counts(explain):
    assert explain("eve@test.com")["quota"] == {"eve@test.com": "2G"}
    assert explain("ann@example.com")["quota"] == {"ann@example.com": "5G"}


@pytest.mark.parametrize("address", ["ann", "@test.com", "a b@example.com", "", 5])
def test_explain_refuses_what_is_no_address(explain, address):
    with pytest.raises(SaltInvocationError) as raised:
        explain(address)
    assert str(raised.value) == f"mailsrv.explain: {str(address)!a} is not an address"
