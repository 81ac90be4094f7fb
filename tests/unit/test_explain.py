"""_mailsrv.explain: what happens to mail for an address, and who may send as it."""

import copy

import pytest
import yaml
from _mailsrv.explain import explain as explained

from reading import model

HASH = "$6$salt$" + "a" * 86
WEB1 = "web1.example.com"
AWAY = "someone@elsewhere.example"
PILLAR = yaml.safe_load(f"""
domains: [example.com, test.com]
accounts:
  - [ann@example.com, pass1]
  - [bob@example.com, pass2]
  - {{address: eve@test.com, password: pass3, quota: 2G, send_as: ["@test.com", ann@example.com]}}
mailsrv:
  quota: 5G
  aliases:
    sales@example.com: [ann@example.com, {AWAY}]
    "@test.com": bob@example.com
""")


def explain(address, **settings):
    pillar = copy.deepcopy(PILLAR)
    pillar["mailsrv"] |= settings
    return explained(address, model(pillar))


@pytest.mark.parametrize(
    ("address", "accepted", "because", "boxes", "away"),
    [
        ("ann@example.com", "yes", "ann@example.com is an account", ["ann@example.com"], []),
        ("ann+x@example.com", "yes", "ann@example.com is an account", ["ann@example.com"], []),
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
def test_explain_says_where_mail_goes_and_why(address, accepted, because, boxes, away):
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
def test_explain_says_who_may_send_as_an_address(address, senders):
    assert explain(address)["senders"] == senders


def test_explain_names_the_rule_and_the_line_that_decide():
    said = explain("sales@example.com")
    assert said["rule"].endswith(' rcpt-to <recipients> action "mailbox"')
    assert said["table line"] == f"virtuals: sales@example.com ann@example.com,{AWAY}"
    assert explain("eve+x@test.com")["table line"] == "virtuals: eve@test.com vmail"
    assert explain("nobody@example.com")["rule"] == "match from any for domain <vdomains> reject"
    assert explain(AWAY)["rule"] == 'match from auth for any action "relay"'


def test_explain_names_the_filters_before_a_mailbox():
    plain = explain("ann@example.com")["filters"]
    filters = {"sieve": "keep;", "subaddress": "mailbox"}
    (first, *others, last) = explain("ann@example.com", **filters)["filters"]
    assert others == plain
    assert (first, last[:40]) == (
        "the script in mailsrv:sieve",
        "what is left of mail to user+tag goes to",
    )
    aliases = {"away@example.com": AWAY}
    assert explain("away@example.com", aliases=aliases, **filters)["filters"] == []


def test_explain_names_the_quota_that_counts():
    assert explain("eve@test.com")["quota"] == {"eve@test.com": "2G"}
    assert explain("ann@example.com")["quota"] == {"ann@example.com": "5G"}


@pytest.mark.parametrize(
    ("signer", "action"), [("dkimproxy", "sign"), ("dkimsign", "relay"), ("rspamd", "relay")]
)
def test_mail_for_elsewhere_goes_to_the_signer_that_stands_behind_the_queue(signer, action):
    rule = explain(AWAY, dkim={"signer": signer})["rule"]
    assert rule == f'match from auth for any action "{action}"'


def test_explain_says_who_may_send_as_root_of_a_satellite_and_that_nobody_receives():
    satellites = {WEB1: {"hash": HASH}, "web1.other.net": {"hash": HASH}}
    found = explain("root@web1.example.com", satellites=satellites)
    assert found["senders"] == {
        WEB1: "it is the satellite of this name; signed by example.com",
    }
    assert (found["accepted"], found["because"]) == (
        "no",
        "web1.example.com is a satellite, which sends only",
    )
    assert found["rule"] == "match from any for domain <vdomains> reject"
    (why,) = explain("root@web1.other.net", satellites=satellites)["senders"].values()
    assert why.endswith("signed by example.com, which does not count for its own name (DMARC)")
    assert WEB1 not in explain("ann@example.com", satellites=satellites)["senders"]


def test_who_is_blocked_may_not_and_gets_mail():
    found = explain(
        "ann@example.com", satellites={WEB1: {"hash": HASH}}, blocked=["ann@example.com", WEB1]
    )
    assert found["accepted"] == "yes"
    assert found["senders"] == {
        "ann@example.com": "it is the account's own address, but it is blocked",
        "eve@test.com": "its send_as says so",
    }
    (why,) = explain(f"root@{WEB1}", satellites={WEB1: {"hash": HASH}}, blocked=[WEB1])[
        "senders"
    ].values()
    assert why.endswith(", but it is blocked")


def test_explain_tells_of_a_domain_that_moved_and_of_who_is_away():
    pillar = copy.deepcopy(PILLAR)
    pillar["domains"] += ["old.example"]
    pillar["mailsrv"]["moved"] = {"old.example": "example.com"}
    vacation = {"text": "x", "until": "2027-12-31"}
    pillar["accounts"][0] = {"address": "ann@example.com", "password": "x", "vacation": vacation}
    found = explained("ann@old.example", model(pillar))
    assert found["because"] == ("ann@old.example is an alias; old.example has moved to example.com")
    assert found["delivered to"] == ["ann@example.com"]
    assert found["filters"][1] == "the vacation of ann@example.com answers until 2027-12-31"
    assert len(explained("bob@old.example", model(pillar))["filters"]) == 2


def test_explain_names_the_pattern_that_takes_an_address():
    aliases = {"a-*@example.com": AWAY, "a-b*@example.com": "bob@example.com"}
    aliases["a-exact@example.com"] = "ann@example.com"
    found = explain("A-bc+Tag@example.com".lower(), aliases=aliases)
    assert found["because"] == "it is an alias by the pattern a-*@example.com"
    assert found["table line"] == f"pattern1: @example.com {AWAY}"
    assert found["rule"] == (
        'match from any for domain <vdomains> rcpt-to regex "^a-[A-Za-z0-9._=-]+([+][^@]*)?'
        '@example[.]com$" action "pattern1"'
    )
    assert (found["delivered to"], found["forwarded to"]) == ([], [AWAY])
    assert explain("a-exact@example.com", aliases=aliases)["delivered to"] == ["ann@example.com"]
    for unknown in ("a-@example.com", "xa-b@example.com", "a-b@example.com.test.com"):
        assert explain(unknown, aliases=aliases)["because"] != found["because"]
