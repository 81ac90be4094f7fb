"""_mailsrv.satellites: who of a fleet may send as what, and through whom."""

import re

import pytest
import yaml
from _mailsrv import pillar
from hypothesis import given, settings
from hypothesis import strategies as st

import reading

HASH = "$6$salt$" + "a" * 86
WEB1 = "web1.example.com"
ANY_NUMBER = {"limits": {"recipients_per_hour": 0, "recipients_per_day": 0}}
PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"
RENAME = "give the minion an id like web1.example.com"


def read(satellites="*", mined=None, domains=("example.com", "test.com")):
    """The model of a mail machine with these satellites in the pillar or the mine; its faults."""
    given = {"domains": list(domains), "accounts": [["a@example.com", "pass1"]]}
    return reading.read({**given, "mailsrv": {"satellites": satellites}}, mined=mined)


def mail(*arguments, **keywords):
    """The model where it is valid."""
    model, faults = read(*arguments, **keywords)
    assert faults == []
    return model


def read_satellite(text="{}", name=WEB1, certificate="", family="Debian"):
    """The model of a satellite with this in its pillar, and its faults."""
    given = {"relay": "mail.example.com", "root": "admin@example.com"}
    given = {"mailsrv": {"satellite": {**given, **yaml.safe_load(text)}}}
    return pillar.satellite(given, name, reading.facts(family), certificate)


def satellite(*arguments, **keywords):
    """The model where it is valid."""
    model, faults = read_satellite(*arguments, **keywords)
    assert faults == []
    return model


# The mail machine


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_satellite_is_known_by_hand_or_from_the_mine(by_hand):
    given = {WEB1: {"hash": HASH}}
    model = mail(given) if by_hand else mail("web*", given)
    assert model["satellites"] == [
        {"name": WEB1, "signed_by": "example.com", "aligned": True, **ANY_NUMBER}
    ]
    assert (model["notes"], model["has_fleet"]) == ([], not by_hand)
    assert HASH not in repr(model)


def test_what_is_in_the_mine_counts_only_where_the_pillar_names_a_target():
    model = reading.model({"domains": ["example.com"]}, mined={WEB1: {"hash": HASH}})
    assert (model["satellites"], model["has_fleet"]) == ([], False)


def test_a_satellite_is_no_account():
    model = mail({WEB1: {"hash": HASH}})
    assert [account["address"] for account in model["accounts"]] == ["a@example.com"]
    assert model["domains"] == ["example.com", "test.com"]


def test_the_nearest_domain_signs_for_a_satellite():
    domains = ["example.com", "eu.example.com"]
    (found,) = mail({"a.eu.example.com": {"hash": HASH}}, domains=domains)["satellites"]
    assert (found["signed_by"], found["aligned"]) == ("eu.example.com", True)


def test_a_satellite_outside_of_our_domains_is_signed_by_the_first_and_that_is_said():
    model = mail({"web1.other.net": {"hash": HASH}})
    assert model["satellites"] == [
        {"name": "web1.other.net", "signed_by": "example.com", "aligned": False, **ANY_NUMBER}
    ]
    assert model["notes"] == [
        "satellite web1.other.net is in none of our domains: its mail is signed by example.com, "
        "which does not count for its own name (DMARC)"
    ]


def test_before_the_first_satellite_ran_it_is_said_what_to_do():
    (note,) = mail()["notes"]
    assert note.endswith("run the highstate on the satellites, then here")


# Ids and credentials that no satellite can have, and what is said about them
TROUBLE = [
    ("web1", HASH, f"is not a host name in lower case; {RENAME}"),
    ("WEB1.example.com", HASH, f"is not a host name in lower case; {RENAME}"),
    ("a_b.example.com", HASH, f"is not a host name in lower case; {RENAME}"),
    ("test.com", HASH, f"has the name of a mail domain; {RENAME}"),
    ("mx.example.com", HASH, f"has the name of this server; {RENAME}"),
    *(
        (
            WEB1,
            hash,
            "has no hash that can be used; the satellite prints it: "
            "salt-call mailsrv.satellite_credential",
        )
        for hash in (None, "", "hunter2", f"{HASH}\nx y", HASH.replace("$6$", "$6$rounds=9999999$"))
    ),
]


@pytest.mark.parametrize(("name", "hash", "trouble"), TROUBLE)
def test_trouble_with_a_satellite_by_hand_is_a_fault(name, hash, trouble):
    assert read({name: {"hash": hash}})[1] == [f"mailsrv:satellites:{name}: {trouble}"]


@pytest.mark.parametrize(("name", "hash", "trouble"), TROUBLE)
def test_trouble_with_one_minion_stops_nobodys_mail(name, hash, trouble):
    """What a minion publishes is its own word, but for its id."""
    model = mail("*", {name: {"hash": hash}, "ok.example.com": {"hash": HASH}})
    assert [found["name"] for found in model["satellites"]] == ["ok.example.com"]
    assert model["notes"] == [f"satellite '{name}' cannot send: it {trouble}"]


@pytest.mark.parametrize("published", [None, "junk", ["hash"], {"hash": {"a": 1}}, 5])
def test_junk_in_the_mine_is_nobodys_password(published):
    assert mail("*", {WEB1: published})["satellites"] == []


SATELLITES = "must be a target of minions, like '*.example.com', or names with their hash, not"


@pytest.mark.parametrize(
    ("satellites", "fault"),
    [
        ([WEB1], f": {SATELLITES} a list"),
        (True, f": {SATELLITES} true or false"),
        ("", f": {SATELLITES} nothing"),
        (
            {WEB1: {"hash": HASH, "has": 1}},
            f":{WEB1}:has: no such key; did you mean hash?",
        ),
    ],
)
def test_what_names_no_satellites_is_refused(satellites, fault):
    assert read(satellites)[1] == [f"mailsrv:satellites{fault}"]


# The satellite


def test_a_satellite_needs_no_more_than_its_relay_and_a_person():
    assert satellite() == {
        "name": WEB1,
        "relay": "mail.example.com",
        "minion": "mail.example.com",
        "root": "admin@example.com",
        "agent": "opensmtpd",
        "ca": "",
        "ca_source": "",
    }


@pytest.mark.parametrize("family", ["Debian", "FreeBSD"])
def test_the_relay_is_trusted_by_its_own_certificate_a_file_or_the_systems_store(family):
    here = {"Debian": "/etc/mail", "FreeBSD": "/usr/local/etc/mail"}[family] + "/relay.pem"

    def trust(text="{}", certificate=""):
        found = satellite(text, certificate=certificate, family=family)
        return found["ca"], found["ca_source"]

    assert trust() == ("", "")
    assert trust(certificate=PEM) == (here, "")
    assert trust("{ca: /etc/ssl/ours.pem}") == ("/etc/ssl/ours.pem", "")
    assert trust("{ca: /etc/ssl/ours.pem}", PEM) == ("/etc/ssl/ours.pem", "")
    assert trust("{ca: salt://ours.pem}", PEM) == (here, "salt://ours.pem")


def test_dma_knows_the_relay_by_its_certificate():
    assert satellite("{agent: dma}", certificate=PEM)["agent"] == "dma"
    assert satellite("{agent: dma, ca: salt://relay.pem}")["agent"] == "dma"


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        ("{}", "web1", f"id: 'web1' is not a host name in lower case; {RENAME}"),
        ("{}", "Web1.example.com", "id: 'Web1.example.com' is not a host name in lower case; "),
        (
            "{relay: ~}",
            WEB1,
            "mailsrv:satellite:relay: 'None' is not a host name; name the mail machine, like "
            "mail.example.com",
        ),
        ("{relay: mail}", WEB1, "mailsrv:satellite:relay: 'mail' is not a host name; "),
        (
            f"{{relay: {WEB1}}}",
            WEB1,
            "mailsrv:satellite:relay: is this machine itself; name the mail machine",
        ),
        ("{minion: 'a b'}", WEB1, "mailsrv:satellite:minion: 'a b' is not the id of a minion; "),
        (
            "{root: admin}",
            WEB1,
            "mailsrv:satellite:root: 'admin' is not an address; name who reads root's mail, like "
            "admin@example.com",
        ),
        (
            f"{{root: admin@{WEB1}}}",
            WEB1,
            f"mailsrv:satellite:root: admin@{WEB1} is on this machine; name a mailbox elsewhere",
        ),
        (
            "{agent: nullmailer}",
            WEB1,
            "mailsrv:satellite:agent: 'nullmailer' is no agent; choose opensmtpd or dma",
        ),
        ("{ca: relay.pem}", WEB1, "mailsrv:satellite:ca: 'relay.pem' is not a path; write it like"),
        (
            "{agent: dma}",
            WEB1,
            "mailsrv:satellite:agent: dma verifies no CA, it only knows one certificate again, and "
            "'mail.example.com' has published none; run the highstate there first, or name the "
            "certificate in mailsrv:satellite:ca, or use opensmtpd",
        ),
        ("{relais: mail}", WEB1, "mailsrv:satellite:relais: no such key; did you mean relay?"),
    ],
)
def test_a_fault_of_a_satellite_is_named_with_its_key_and_its_cure(text, name, fault):
    (said,) = read_satellite(text, name)[1]
    assert said.startswith(fault)


words = st.sampled_from(
    ["mail.example.com", "a@example.com", "dma", "opensmtpd", "salt://a.pem", "/a.pem", "web1"]
)
junk = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(words, max_size=2)
KEYS = ["relay", "root", "agent", "minion", "ca", "more"]
sections = st.dictionaries(st.sampled_from(KEYS), words | junk) | junk


@settings(deadline=None, max_examples=200)
@given(sections, words | st.just(WEB1), st.sampled_from(["", PEM]))
def test_any_pillar_of_a_satellite_gives_a_clean_model_or_clear_faults(section, name, certificate):
    model, faults = pillar.satellite(
        {"mailsrv": {"satellite": section}}, name, reading.facts(), certificate
    )
    if faults:
        assert all(fault.isprintable() and re.match(r"[^ ]+: ", fault) for fault in faults)
        return
    assert not [text for text in model.values() if re.search(r"[\s#\0'\"{}<>|;$]", text)]
    assert model["relay"]
    assert model["root"].count("@") == 1
