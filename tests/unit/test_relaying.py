"""By which ways mail leaves: what the pillar's relay means, and what is wrong with it."""

import pytest
from _mailsrv import relaying
from _mailsrv.explain import explain
from _mailsrv.records import records

from reading import faults, model

SECRET = "5ecret"
LOGIN = {"user": f"u-{SECRET}", "password": f"p-{SECRET}"}
A = {"host": "SMTP.a.example", **LOGIN, "spf": "_spf.a.example"}
B = {"host": "smtp.b.example", "port": 465}


def pillar(relay, **mailsrv):
    return {
        "domains": ["example.com", "test.com"],
        "accounts": [["ann@example.com", SECRET]],
        "mailsrv": {"relay": relay, **mailsrv},
    }


def way(relay, **mailsrv):
    (found,) = model(pillar(relay, **mailsrv))["relay"]["ways"]
    return found


@pytest.mark.parametrize(
    ("given", "port", "tls"),
    [
        ({}, 587, "starttls"),
        ({"port": 465}, 465, "smtps"),
        ({"tls": "smtps"}, 465, "smtps"),
        ({"port": 2525}, 2525, "starttls"),
        ({"port": 2525, "tls": "smtps"}, 2525, "smtps"),
    ],
)
def test_port_and_tls_follow_each_other(given, port, tls):
    found = way({**A, **given})
    assert (found["host"], found["port"], found["tls"]) == ("smtp.a.example", port, tls)


def test_the_login_stays_in_the_pillar():
    given = pillar({"senders": {"Example.com": A}, "recipients": {"c.example": B}})
    found = model(given)["relay"]
    assert SECRET not in str(found)
    assert [relaying.login(given, way) for way in found["ways"]] == [(*LOGIN.values(),), ()]
    assert found["default"] == ""
    assert found["senders"] == {"example.com": "from-example.com"}


FAULTS = {
    "text": ("smtp://us:5ecret@a.example", ": must hold keys and values, such as host, user"),
    "empty": ({}, ":host: is missing; name the provider's server, like smtp.example.com"),
    "url": ({**A, "host": "smtps://us:5ecret@a.example"}, ":host: is not a host name; name the"),
    "word": ({**A, "host": "localhost"}, ":host: 'localhost' is not a host name; name the"),
    "tls": ({**A, "tls": "none"}, ":tls: 'none' is not usable; choose starttls or smtps"),
    "port": ({**A, "port": "587"}, ":port: '587' is no port; write a number, like 587"),
    "no password": ({"host": "a.example", "user": SECRET}, ":password: is missing; name both user"),
    "no user": ({"host": "a.example", "password": SECRET}, ":user: is missing; name both user"),
    "number": ({**A, "password": 5}, ":password: must be text, not a number; quote it"),
    "lines": ({**A, "password": "5ecret\n"}, ":password: must be one line of 1 to 500 characters"),
    "blank": ({**A, "password": "5ecret "}, ":password: has a blank at an end, which smtpd(8)"),
    "colon": ({**A, "user": "5ecret:"}, ":user: has a colon, which smtpd(8) cannot send"),
    "ca": ({**A, "ca": "ca.pem"}, ":ca: 'ca.pem' is not a path; write it like /etc/ssl/"),
    "spf": ({**A, "spf": "include:a.example"}, ":spf: 'include:a.example' is not a name; write"),
    "one string": ({"host: a.example, password:5ecret": None}, ":?: no such key; known are host"),
    "list": ({"senders": ["example.com"]}, ":senders: must be a mapping, like example.com: direct"),
    "stranger": ({"senders": {"c.example": A}}, ":senders: c.example is none of our domains; what"),
    "ours": ({"recipients": {"test.com": A}}, ":recipients: test.com is one of our domains, whose"),
    "no domain": ({"recipients": {"c": "direct"}}, ":recipients: c is no domain; write it like"),
    "twice": ({"recipients": {"c.example": A, "C.example": A}}, "c.example is there twice; remove"),
    "word there": (
        {"senders": {"test.com": "directly"}},
        ":senders:test.com: must be direct, or hold keys and values",
    ),
    "host there": (
        {"senders": {"test.com": {**A, "host": 5}}},
        ":senders:test.com:host: '5' is not a host name",
    ),
    "key there": (
        {"senders": {"test.com": {**A, "hots": 5}}},
        ":senders:test.com:hots: no such key; did you mean host?",
    ),
}


@pytest.mark.parametrize(("given", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_cure_and_without_a_secret(given, sentence):
    found = faults(pillar(given))
    assert [fault for fault in found if fault.startswith("mailsrv:relay") and sentence in fault]
    assert SECRET not in "".join(found)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("c.example", "must be a list of domains, not text"),
        (["c"], "'c' is no domain; write it like example.com"),
        (["test.com"], "test.com is one of our domains, whose mail stays here"),
        (["c.example"], "mail to c.example may leave by a relay"),
        (["d.example"], "mail to d.example may leave by a relay"),
    ],
)
def test_tls_can_be_demanded_where_we_ourselves_bring_the_mail(given, sentence):
    relay = {"senders": {"test.com": A}, "recipients": {"d.example": A, "e.example": "direct"}}
    (fault,) = faults(pillar(relay, tls_required=given))
    assert fault.startswith("mailsrv:tls_required: ")
    assert sentence in fault
    found = model(pillar(relay, tls_required=["E.example", "e.example"]))
    assert found["relay"]["tls_required"] == ["e.example"]
    said = explain("x@e.example", found)["leaves by"]
    assert said == f"{DIRECTLY}, by TLS with a verified certificate alone"


def spf(given):
    """The SPF records of a pillar, by name."""
    found = model(given)
    listed = records(found, {domain: {} for domain in found["domains"]}, [])
    return {
        record["name"]: record["value"]
        for entries in listed.values()
        for record in entries
        if record["value"].startswith("v=spf1")
    }


def test_spf_names_the_servers_that_mail_of_each_domain_leaves_by():
    assert spf(pillar(A, hostname="mx.test.com")) == {
        "example.com.": "v=spf1 mx include:_spf.a.example -all",
        "test.com.": "v=spf1 mx include:_spf.a.example -all",
        "mx.test.com.": "v=spf1 a include:_spf.a.example -all",
    }
    several = {
        "senders": {"test.com": A},
        "recipients": {"c.example": {**B, "spf": "b.example"}},
    }
    assert spf(pillar(several, hostname="mx.test.com")) == {
        "example.com.": "v=spf1 mx include:b.example -all",
        "test.com.": "v=spf1 mx include:_spf.a.example include:b.example -all",
        "mx.test.com.": "v=spf1 a include:b.example -all",
    }
    given = pillar(A, dns={"spf": "include:_spf.a.example ~all"})
    assert spf(given)["example.com."] == "v=spf1 include:_spf.a.example ~all"


def test_lint_asks_for_what_spf_is_to_include():
    def asked(given):
        return [note for note in model(given)["notes"] if "SPF does not name" in note]

    assert asked(pillar(B)) == [
        "mailsrv:relay: receivers see the addresses of smtp.b.example, which SPF does not name: "
        "add spf, the name that the provider tells you to include"
    ]
    assert not asked(pillar(A))
    assert not asked(pillar(B, dns={"spf": "include:b.example -all"}))


def test_spf_with_too_many_lookups_is_refused():
    ten = "mx " + " ".join(f"include:{n}.example" for n in range(9)) + " -all"
    found = faults(pillar(A, dns={"spf": ten}))
    assert len(found) == 2
    assert "11 terms of SPF look something up for example.com" in found[0]


def test_who_else_sends_as_us_is_not_refused_where_only_dns_knows_them():
    assert model(pillar(B))["dns"]["closed"] == []
    assert model(pillar(A))["dns"]["closed"] is None


SOME = {
    **A,
    "senders": {"test.com": "direct"},
    "recipients": {"c.example": B, "d.example": "direct"},
}
DIRECTLY = "the MX of the recipient's domain"


def test_explain_tells_by_what_mail_leaves():
    found = model(pillar(SOME))
    assert explain("x@c.example", found)["leaves by"] == "smtp.b.example, port 465 with SMTPS"
    assert explain("x@d.example", found)["leaves by"] == DIRECTLY
    assert explain("x@e.example", found)["leaves by"] == {
        "from test.com": DIRECTLY,
        "from any other": "smtp.a.example, port 587 with STARTTLS",
    }
    assert explain("ann@example.com", found)["what it sends leaves by"] == {
        "to c.example": "smtp.b.example, port 465 with SMTPS",
        "to d.example": DIRECTLY,
        "to any other": "smtp.a.example, port 587 with STARTTLS",
    }
    assert "leaves by" not in explain("x@c.example", model(pillar(None)))


def test_explain_names_the_rule_by_which_mail_leaves():
    def rule(address, *given, **settings):
        return explain(address, model(pillar(*given, **settings)))["rule"]

    assert rule("x@c.example", None) == 'match from auth for any action "relay"'
    to = 'match from auth for domain "{}" action "{}"'
    assert rule("x@c.example", SOME) == to.format("c.example", "relay-to-c.example")
    assert rule("x@d.example", SOME) == to.format("d.example", "relay-direct")
    assert rule("x@e.example", SOME) == 'match from auth for any action "relay"'
    direct = {"recipients": {"c.example": B, "d.example": "direct"}}
    assert rule("x@d.example", direct) == to.format("d.example", "relay")
    tls = {"tls_required": ["e.example"]}
    assert rule("x@e.example", None, **tls) == to.format("e.example", "relay-tls")
