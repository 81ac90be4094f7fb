"""mailsrv.model and mailsrv.satellite: who of a fleet may send as what, and through whom."""

import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import mailsrv

HASH = "$6$salt$" + "a" * 86
OTHER = "$6$other$" + "b" * 86
WEB1 = "web1.example.com"
PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"
RENAME = "give the minion an id like web1.example.com"


@pytest.fixture
def mail(read):
    """The model of a mail machine with these satellites in the pillar, and those in the mine."""

    def model(satellites="*", mined=None, domains=("example.com", "test.com")):
        pillar = {"domains": list(domains), "accounts": [["a@example.com", "pass1"]]}
        return read({**pillar, "mailsrv": {"satellites": satellites}}, mined=mined)

    return model


@pytest.fixture
def satellite(facts):
    """The model of a satellite with this in its pillar."""

    def model(text="{}", name=WEB1, certificate="", family="Debian"):
        given = {"relay": "mail.example.com", "root": "admin@example.com"}
        pillar = {"mailsrv": {"satellite": {**given, **yaml.safe_load(text)}}}
        return mailsrv.satellite(pillar, name, facts(family), certificate)

    return model


# The mail machine


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_satellite_is_known_by_hand_or_from_the_mine(mail, by_hand):
    given = {WEB1: {"hash": HASH}}
    model = mail(given) if by_hand else mail("web*", given)
    assert model["satellites"] == [{"name": WEB1, "signed_by": "example.com", "aligned": True}]
    assert (model["notes"], model["has_fleet"]) == ([], not by_hand)
    assert HASH not in repr(model)


def test_what_is_in_the_mine_counts_only_where_the_pillar_names_a_target(read):
    model = read({"domains": ["example.com"]}, mined={WEB1: {"hash": HASH}})
    assert (model["satellites"], model["has_fleet"]) == ([], False)


def test_a_satellite_is_no_account(mail):
    model = mail({WEB1: {"hash": HASH}})
    assert [account["address"] for account in model["accounts"]] == ["a@example.com"]
    assert model["domains"] == ["example.com", "test.com"]


def test_the_nearest_domain_signs_for_a_satellite(mail):
    domains = ["example.com", "eu.example.com"]
    (found,) = mail({"a.eu.example.com": {"hash": HASH}}, domains=domains)["satellites"]
    assert (found["signed_by"], found["aligned"]) == ("eu.example.com", True)


def test_a_satellite_outside_of_our_domains_is_signed_by_the_first_and_that_is_said(mail):
    model = mail({"web1.other.net": {"hash": HASH}})
    assert model["satellites"] == [
        {"name": "web1.other.net", "signed_by": "example.com", "aligned": False}
    ]
    assert model["notes"] == [
        "satellite web1.other.net is in none of our domains: its mail is signed by example.com, "
        "which does not count for its own name (DMARC)"
    ]


def test_before_the_first_satellite_ran_it_is_said_what_to_do(mail):
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
def test_trouble_with_a_satellite_by_hand_is_a_fault(mail, name, hash, trouble):
    with pytest.raises(SaltInvocationError) as raised:
        mail({name: {"hash": hash}})
    assert str(raised.value) == (f"the pillar is not valid:\nmailsrv:satellites:{name}: {trouble}")


@pytest.mark.parametrize(("name", "hash", "trouble"), TROUBLE)
def test_trouble_with_one_minion_stops_nobodys_mail(mail, name, hash, trouble):
    """What a minion publishes is its own word, but for its id."""
    model = mail("*", {name: {"hash": hash}, "ok.example.com": {"hash": HASH}})
    assert [found["name"] for found in model["satellites"]] == ["ok.example.com"]
    assert model["notes"] == [f"satellite '{name}' cannot send: it {trouble}"]


@pytest.mark.parametrize("published", [None, "junk", ["hash"], {"hash": {"a": 1}}, 5])
def test_junk_in_the_mine_is_nobodys_password(mail, published):
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
def test_what_names_no_satellites_is_refused(mail, satellites, fault):
    with pytest.raises(SaltInvocationError) as raised:
        mail(satellites)
    assert str(raised.value) == f"the pillar is not valid:\nmailsrv:satellites{fault}"


def test_the_hashes_of_satellites_stand_beside_those_of_the_accounts(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    accounts = {"domains": ["example.com"], "accounts": [["a@example.com", "pass1"]]}
    by_hand = {**accounts, "mailsrv": {"satellites": {WEB1: {"hash": HASH}}}}
    assert mailsrv.hashes(by_hand, str(key), [], 1000)[WEB1] == HASH
    target = {**accounts, "mailsrv": {"satellites": "*"}}
    mined = {WEB1: {"hash": OTHER, "reader": "mx"}}
    assert mailsrv.hashes(target, str(key), [], 1000, mined)[WEB1] == OTHER


def test_a_minion_with_the_name_of_an_account_does_not_get_its_password_changed(mail, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    pillar = {
        "domains": ["example.com"],
        "accounts": [{"address": "a@example.com", "hash": HASH}],
        "mailsrv": {"satellites": "*"},
    }
    mined = {"a@example.com": {"hash": OTHER}}
    assert mailsrv.hashes(pillar, str(key), [], 1000, mined) == {"a@example.com": HASH}
    assert mail("*", mined)["satellites"] == []


def test_a_satellite_is_found_by_our_mx_and_its_mail_by_our_addresses(mail):
    model = mail({WEB1: {"hash": HASH}, "web1.other.net": {"hash": HASH}})
    records = mailsrv.records(model, {domain: {} for domain in model["domains"]}, [])
    of_satellites = [
        (record["name"], record["type"], record["value"])
        for record in (*records["example.com"], *records["test.com"])
        if record["name"].startswith("web1.")
    ]
    assert of_satellites == [
        ("web1.example.com.", "MX", "10 mx.example.com."),
        ("web1.example.com.", "TXT", "v=spf1 mx -all"),
    ]


@pytest.fixture
def here(loader):
    """The pillar of a mail machine with one satellite in our domains and one outside."""
    satellites = {WEB1: {"hash": HASH}, "web1.other.net": {"hash": HASH}}
    accounts = [["a@example.com", "pass1"]]
    loader["__pillar__"].update(domains=["example.com"], accounts=accounts)
    loader["__pillar__"]["mailsrv"] = {"satellites": satellites}
    return loader


def test_explain_says_who_may_send_as_root_of_a_satellite_and_that_nobody_receives(here):
    found = mailsrv.explain("root@web1.example.com")
    assert found["senders"] == {
        WEB1: "it is the satellite of this name; signed by example.com",
    }
    assert (found["accepted"], found["because"]) == (
        "no",
        "web1.example.com is a satellite, which sends only",
    )
    (why,) = mailsrv.explain("root@web1.other.net")["senders"].values()
    assert why.endswith("signed by example.com, which does not count for its own name (DMARC)")
    assert WEB1 not in mailsrv.explain("a@example.com")["senders"]


def test_lint_names_what_is_valid_but_not_aligned_and_does_not_fail(here):
    (note,) = mailsrv.lint()
    assert note.startswith("satellite web1.other.net is in none of our domains")
    assert "retcode" not in here["__context__"]


def test_the_mine_is_asked_for_the_target_of_the_pillar_alone(here):
    asked = []
    here["__salt__"]["mine.get"] = lambda *args, **kwargs: asked.append((args, kwargs)) or {}
    for satellites in (None, {WEB1: {"hash": HASH}}, ["web1"], ""):
        assert mailsrv.mined({"mailsrv": {"satellites": satellites}}) == {}
    assert asked == []
    mailsrv.mined({"mailsrv": {"satellites": "web*"}})
    assert asked == [(("web*", "mailsrv.satellite_credential"), {"tgt_type": "compound"})]


# The satellite


def test_a_satellite_needs_no_more_than_its_relay_and_a_person(satellite):
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
def test_the_relay_is_trusted_by_its_own_certificate_a_file_or_the_systems_store(satellite, family):
    here = {"Debian": "/etc/mail", "FreeBSD": "/usr/local/etc/mail"}[family] + "/relay.pem"

    def trust(text="{}", certificate=""):
        found = satellite(text, certificate=certificate, family=family)
        return found["ca"], found["ca_source"]

    assert trust() == ("", "")
    assert trust(certificate=PEM) == (here, "")
    assert trust("{ca: /etc/ssl/ours.pem}") == ("/etc/ssl/ours.pem", "")
    assert trust("{ca: /etc/ssl/ours.pem}", PEM) == ("/etc/ssl/ours.pem", "")
    assert trust("{ca: salt://ours.pem}", PEM) == (here, "salt://ours.pem")


def test_dma_knows_the_relay_by_its_certificate(satellite):
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
def test_a_fault_of_a_satellite_is_named_with_its_key_and_its_cure(satellite, text, name, fault):
    with pytest.raises(SaltInvocationError) as raised:
        satellite(text, name)
    head, said = str(raised.value).split("\n")
    assert head == "the pillar is not valid:"
    assert said.startswith(fault)


def test_lint_on_a_satellite_looks_at_the_satellites_pillar(loader):
    loader["__opts__"]["id"] = WEB1
    loader["__salt__"]["mine.get"] = lambda *args, **kwargs: {}
    given = {"relay": "mail.example.com", "root": "admin@example.com"}
    loader["__pillar__"]["mailsrv"] = {"satellite": given}
    assert mailsrv.lint() == []
    given["root"] = "admin"
    assert [fault.split(": ")[0] for fault in mailsrv.lint()] == ["mailsrv:satellite:root"]
    assert loader["__context__"]["retcode"] == 1
    # A pillar for the whole fleet reaches the mail machine, too.
    given["root"] = "admin@example.com"
    loader["__pillar__"].update(domains=["mail"])
    assert [fault.split(": ")[0] for fault in mailsrv.lint()] == ["domains[0]"]


@pytest.mark.parametrize("found", [{}, {"mail.example.com": ""}, {"mail.example.com": "junk"}])
def test_what_is_no_certificate_is_not_trusted(loader, found):
    pillar = {"mailsrv": {"satellite": {"relay": "mail.example.com"}}}
    loader["__salt__"]["mine.get"] = lambda *args, **kwargs: found
    assert mailsrv.mined_certificate(pillar) == ""
    loader["__salt__"]["mine.get"] = lambda *args, **kwargs: {"mail.example.com": PEM}
    assert mailsrv.mined_certificate(pillar) == PEM


def test_the_mine_is_not_asked_in_the_name_of_nobody(loader):
    for nobody in ({}, {"satellite": {}}, {"satellite": {"relay": "*"}}, {"satellite": "x"}):
        assert mailsrv.mined_certificate({"mailsrv": nobody}) == ""


def test_a_certificate_is_pinned_by_its_sha256(tmp_path, loader):
    path = tmp_path / "relay.pem"
    with pytest.raises(CommandExecutionError, match="is missing; put the relay's certificate"):
        mailsrv.fingerprint(str(path))
    path.write_text("nothing\n")
    with pytest.raises(CommandExecutionError, match="holds no certificate in PEM form"):
        mailsrv.fingerprint(str(path))
    path.write_text(PEM)
    # printf MIID | base64 -d | sha256sum
    assert mailsrv.fingerprint(str(path)) == (
        "1c8998b78a3213f2de5668dbf0a22c1c54f4961da3912802e208bc839ac09f11"
    )


any_number = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
words = st.sampled_from(
    ["mail.example.com", "a@example.com", "dma", "opensmtpd", "salt://a.pem", "/a.pem", "web1"]
)
junk = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(words, max_size=2)
KEYS = ["relay", "root", "agent", "minion", "ca", "more"]
sections = st.dictionaries(st.sampled_from(KEYS), words | junk) | junk


@settings(any_number, max_examples=200)
@given(sections, words | st.just(WEB1), st.sampled_from(["", PEM]))
def test_any_pillar_of_a_satellite_gives_a_clean_model_or_clear_faults(
    facts, section, name, certificate
):
    pillar = {"mailsrv": {"satellite": section}}
    try:
        model = mailsrv.satellite(pillar, name, facts("Debian"), certificate)
    except SaltInvocationError as exc:
        head, *faults = str(exc).split("\n")
        assert head == "the pillar is not valid:"
        assert faults
        assert all(fault.isprintable() and re.match(r"[^ ]+: ", fault) for fault in faults)
        return
    assert not [text for text in model.values() if re.search(r"[\s#\0'\"{}<>|;$]", text)]
    assert model["relay"]
    assert model["root"].count("@") == 1
