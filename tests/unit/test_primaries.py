"""A backup MX: what a primary publishes, what a backup takes of it, and what the world is told."""

import copy
import ipaddress
import json

import _mailsrv_standing_in as standing_in
import pytest
from _mailsrv import backup_mx
from _mailsrv.records import records, web_files
from salt.exceptions import CommandExecutionError

import reading
from reading import faults, model, read
from saltext.mailsrv.modules import backup_mx as command

MX1, MX2 = "mx1.example.net", "mx2.example.net"
PRIMARY = {
    "domains": ["example.com", "test.com", "old.example"],
    "accounts": [["ann@example.com", "hunter2"], ["bob@test.com", "hunter2"]],
    "mailsrv": {
        "aliases": {
            "sales@example.com": "ann@example.com",
            "news-*@example.com": "ann@example.com",
            "@test.com": "bob@test.com",
        },
        "moved": {"old.example": "example.com"},
        "backup": {"MX2.example.net": ["192.0.2.2", "2001:DB8:0::2"]},
    },
}
PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"
GIVEN = {
    "hostname": MX1,
    "message_size": "50M",
    "certificate": PEM,
    "closed": ["192.0.2.1/32"],
    "domains": {"example.com": ["ann", "news-*"], "test.com": [""]},
}
POLICY = "https://mta-sts.example.com/.well-known/mta-sts.txt"
ROLES = ["abuse", "postmaster"]


def backup(owned=("example.com", "test.com"), **mailsrv):
    return {
        "domains": ["two.example"],
        "accounts": [["eva@two.example", "hunter2"]],
        "mailsrv": {"backup_for": {MX1: [*owned]}, **mailsrv},
    }


def known(mined=None, standing=None, pillar=None):
    """What the backup knows of the primary, and what it says to the administrator."""
    primaries = {} if mined is None else {MX1: mined}
    before = {} if standing is None else {MX1: standing}
    found = model(pillar or backup(), fqdn=MX2, primaries=primaries, backup_for=before)
    (primary,) = found["backup_for"]
    return primary, [note for note in found["notes"] if note.startswith("mailsrv:backup_for")]


def test_a_primary_publishes_whom_it_takes_mail_for():
    found = backup_mx.published(model(PRIMARY, fqdn=MX1), ["192.0.2.1"], PEM)
    assert found["domains"] == {
        "example.com": sorted([*ROLES, "ann", "news-*", "sales"]),
        "test.com": ["", "abuse", "bob", "postmaster"],
        "old.example": sorted([*ROLES, "ann", "news-*", "sales"]),
    }
    assert (found["hostname"], found["message_size"], found["certificate"]) == (MX1, "50M", PEM)
    assert found["closed"] == ["192.0.2.1", "192.0.2.2", "2001:db8::2"]
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize(
    ("spf", "addresses"), [("mx ~all", ["192.0.2.1"]), ("mx -all", ["10.0.0.7", "192.0.2.1"])]
)
def test_senders_are_anybodys_where_spf_or_the_network_leaves_it_open(spf, addresses):
    pillar = copy.deepcopy(PRIMARY)
    pillar["mailsrv"]["dns"] = {"spf": spf}
    assert backup_mx.published(model(pillar, fqdn=MX1), addresses, "")["closed"] is None


def test_the_command_publishes_the_same(loader):
    loader["__pillar__"].update(PRIMARY)
    loader["__salt__"]["mailsrv.certificate"] = lambda: PEM
    addresses = ["192.0.2.1", "2001:db8::1"]
    given = model(PRIMARY)
    assert command.recipients() == backup_mx.published(given, addresses, PEM)


def test_what_is_published_is_what_the_backup_knows_and_finds_again():
    published = backup_mx.published(model(PRIMARY, fqdn=MX1), ["192.0.2.1"], PEM)
    primary, notes = known(json.loads(json.dumps(published)))
    assert notes == []
    assert primary["hostname"] == MX1
    assert primary["unknown"] == []
    assert [*primary["domains"]] == ["example.com", "test.com"]  # the third is not given to it
    assert primary["domains"]["test.com"] == ["", "abuse", "bob", "postmaster"]
    (pattern,) = primary["patterns"]
    assert pattern["regex"] == model(PRIMARY)["patterns"][0]["regex"]
    again, notes = known(None, {key: primary[key] for key in GIVEN})
    assert (again, notes) == (primary, [])


def test_a_primary_that_has_not_published_yet_has_its_mail_put_off():
    primary, notes = known()
    assert primary["unknown"] == ["example.com", "test.com"]
    assert primary["domains"] == {}
    assert "put backup_mx.recipients into mine_functions of mx1.example.net" in notes[0]


def test_a_domain_that_is_published_no_more_is_served_as_it_stood():
    gone = {**GIVEN, "hostname": "mail.example.com", "domains": {"example.com": ["new"]}}
    primary, notes = known(gone, GIVEN)
    assert primary["domains"] == {"example.com": ["new"], "test.com": [""]}
    assert primary["hostname"] == "mail.example.com"
    assert notes == [
        f"mailsrv:backup_for:{MX1}: it publishes no recipients of test.com; its recipients stay "
        "as they were"
    ]


HOSTILE = [
    "all",
    [],
    {},
    7,
    {"hostname": "mail"},
    {"hostname": MX2.upper()},
    {"hostname": 'x" ca "y.example'},
    {"message_size": 50},
    {"message_size": "50M\nlisten on 0.0.0.0"},
    {"certificate": "-----BEGIN CERTIFICATE-----"},
    {"certificate": PEM * 1000},
    {"certificate": None},
    {"closed": "192.0.2.0/24"},
    {"closed": ["0.0.0.0/0", "x"]},
    {"closed": [7]},
    {"closed": ["192.0.2.1"] * 1001},
    {"domains": []},
    {"domains": {"example.com": "ann"}},
    {"domains": {"example.com": {"ann": 1}}},
    {"domains": {"example.com": [7]}},
    {"domains": {"example.com": ["*"]}},
    {"domains": {"example.com": ["**a"]}},
    {"domains": {"example.com": ["a*.*)|(.*"]}},
    {"domains": {"example.com": ["ann@elsewhere.example"]}},
    {"domains": {"example.com": ["ann\n@elsewhere.example"]}},
    {"domains": {"example.com": ["ann b"]}},
    {"domains": {"example.com": ["a" * 65]}},
    {"domains": {"example.com": ["#ann"]}},
    {"domains": {"example.com": ["ann"] * 100_001}},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda given: str(given)[:40])
def test_what_is_none_of_it_changes_nothing(hostile):
    given = {**GIVEN, **hostile} if isinstance(hostile, dict) and hostile else hostile
    primary, notes = known(given, GIVEN)
    assert primary == known(None, GIVEN)[0]
    (note,) = notes
    assert f"mailsrv:backup_for:{MX1}: what it publishes is not used: " in note
    assert len(note) < 300
    assert note.isprintable()
    alone, _ = known(given)
    assert alone["unknown"] == ["example.com", "test.com"]
    # Nor is a file on this machine that somebody has spoilt.
    assert known(None, given)[0]["unknown"] == ["example.com", "test.com"]


def test_what_a_machine_publishes_beyond_its_own_is_nothing():
    more = {"two.example": ["eva"], "gmail.com": [""], "sub.example.com": [""], "com": [""]}
    primary, notes = known({**GIVEN, "domains": {**GIVEN["domains"], **more}}, pillar=backup())
    assert (primary["domains"], notes) == (GIVEN["domains"], [])


def test_sizes_that_differ_are_told():
    _, notes = known({**GIVEN, "message_size": "10M"})
    assert "takes messages of 10M, this machine of 50M" in notes[0]
    assert known({**GIVEN, "message_size": "51200k"})[1] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backup": [MX2]}, "mailsrv:backup: must be names with addresses"),
        ({"backup": {"mx2": "192.0.2.2"}}, "mailsrv:backup: mx2 is not a host name"),
        ({"backup": {MX1: "192.0.2.2"}}, f"mailsrv:backup: {MX1} is this machine itself"),
        ({"backup": {MX2: None}}, f"mailsrv:backup:{MX2}: 'None' is not an address"),
        ({"backup": {MX2: "192.0.2.0/24"}}, "'192.0.2.0/24' is not an address"),
        ({"backup_for": [MX1]}, "mailsrv:backup_for: must be domains by minion"),
        ({"backup_for": {"mx*": ["a.example"]}}, "mailsrv:backup_for: mx? is not the id"),
        ({"backup_for": {MX1: []}}, f"mailsrv:backup_for:{MX1}: names no domain"),
        ({"backup_for": {MX1: "a.example"}}, f"mailsrv:backup_for:{MX1}: must be a list"),
        ({"backup_for": {MX1: ["a"]}}, f"mailsrv:backup_for:{MX1}: 'a' is not a domain"),
        ({"backup_for": {MX1: ["two.example"]}}, "two.example is one of our own"),
        (
            {"backup_for": {MX1: ["a.example"], "mx3": ["A.example"]}},
            f"mailsrv:backup_for: a.example is of {MX1} and of mx3",
        ),
    ],
)
def test_what_cannot_be_said_so(given, said):
    pillar = {**backup(), "mailsrv": given}
    assert any(said in fault for fault in faults(pillar, fqdn=MX1)), faults(pillar, fqdn=MX1)


def test_the_world_is_told_of_the_backup():
    pillar = copy.deepcopy(PRIMARY)
    pillar["mailsrv"]["backup"]["mx.test.com"] = "192.0.2.9"
    pillar["mailsrv"]["satellites"] = {"web.example.com": {"hash": "$6$salt$" + "a" * 86}}
    given = model(pillar, fqdn="mail.example.com")
    found = records(given, {domain: {} for domain in given["domains"]}, ["192.0.2.1"])
    values = {
        (entry["name"], entry["type"], entry["value"])
        for listed in found.values()
        for entry in listed
    }
    for domain in ("example.com.", "test.com."):
        exchangers = {value for name, kind, value in values if (name, kind) == (domain, "MX")}
        assert exchangers == {"10 mail.example.com.", f"20 {MX2}.", "20 mx.test.com."}
        assert (domain, "TXT", "v=spf1 mx -all") in values
    assert ("mx.test.com.", "A", "192.0.2.9") in values
    assert ("mx.test.com.", "TXT", "v=spf1 a -all") in values
    assert not [entry for entry in values if entry[0] == f"{MX2}."]
    # A satellite takes no mail: there is nothing to keep for it.
    exchangers = [
        value for name, kind, value in values if name == "web.example.com." and kind == "MX"
    ]
    assert exchangers == ["10 mail.example.com."]
    lines = web_files("example.com", given)[POLICY].split("\r\n")
    assert [line for line in lines if line.startswith("mx:")] == [
        "mx: mail.example.com",
        f"mx: {MX2}",
        "mx: mx.test.com",
    ]


def test_a_machine_may_be_both():
    pillar = backup()
    pillar["mailsrv"]["backup"] = {MX1: "192.0.2.1"}
    found, wrong = read(pillar, fqdn=MX2, primaries={MX1: GIVEN})
    assert wrong == []
    assert found["backup"] == [{"name": MX1, "addresses": ["192.0.2.1"]}]
    assert found["backup_for"][0]["hostname"] == MX1


@pytest.mark.parametrize("family", reading.FAMILIES)
def test_the_checks_of_both_sides_have_names_of_their_own(family):
    both = {**backup(), "mailsrv": {**backup()["mailsrv"], "backup": {MX1: "192.0.2.1"}}}
    given = model(both, MX2, family, primaries={MX1: GIVEN})
    found = standing_in.checks(given, reading.facts(family), 1)
    assert [*found] == [f"backup MX {MX1}", f"backup for {MX1}"]
    _, _, ca, _, _ = found[f"backup for {MX1}"]
    assert ca == f"{reading.facts(family)['directory']}/backup/{MX1}.pem"
    assert standing_in.checks(model(PRIMARY, MX1, family) | {"backup": []}, {}, 1) == {}


def test_who_knows_nothing_says_so_without_asking_anybody():
    primary, _ = known()
    with pytest.raises(CommandExecutionError, match=r"nothing is known of example\.com, test\.com"):
        standing_in.hands_over(primary, "", {"message_size": "50M"}, 1)


def test_addresses_are_written_one_way():
    (found,) = model(PRIMARY, fqdn=MX1)["backup"]
    assert found == {"name": MX2, "addresses": ["192.0.2.2", "2001:db8::2"]}
    assert all(map(ipaddress.ip_address, found["addresses"]))
