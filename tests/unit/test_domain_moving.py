"""A domain between two machines: who has it, and what becomes of the one that does not."""

import json
import random

import pytest
from _mailsrv import moving, pillar

from reading import HOST, facts, faults, model

MX1, MX2 = "mx1.example.net", "mx2.example.net"
PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"
PILLAR = {
    "domains": ["example.com", "example.org"],
    "accounts": [["ann@example.com", "hunter2"], ["eva@example.org", "hunter2"]],
}
ALIASES = {
    "sales@example.com": "eva@example.org",
    "info@example.org": "eva@example.org",
    "news-*@example.org": "ann@example.com",
}
TO = {"moves_to": {"example.org": MX2}}
FROM = {"moves_from": {"example.org": MX1}}


def having(**settings):
    return {**PILLAR, "mailsrv": {"aliases": ALIASES, **settings}}


def record(way, phase, peer=None, **more):
    peer = peer or {"to": MX2, "from": MX1}[way]
    return {"example.org": {"way": way, "phase": phase, "peer": peer, **more}}


def addresses(found):
    return [account["address"] for account in found["accounts"]]


def test_a_domain_that_is_to_move_is_here_until_it_is_told_otherwise():
    found = model(having(**TO))
    (move,) = found["moves"]
    assert (move["way"], move["peer"], move["phase"]) == ("to", MX2, "here")
    assert move["accounts"] == ["eva@example.org"]
    assert {"eva", "info", "news-*", "postmaster"} <= {*move["recipients"]}
    without = model(having())
    changed = {key for key in found if found[key] != without[key]}
    assert changed == {"moves"}


def test_while_the_last_of_it_is_fetched_nobody_gets_in():
    found = model(having(**TO), moving=record("to", "frozen"))
    without = model(having(**TO))
    assert {key for key in found if found[key] != without[key]} == {"moves"}
    assert found["moves"][0]["phase"] == "frozen"


def test_a_domain_that_has_gone_is_handed_on_like_a_primarys():
    gone = record("to", "gone", hostname="mail.two.example", certificate=PEM)
    found = model(having(**TO), moving=gone)
    assert found["domains"] == ["example.com"]
    assert addresses(found) == ["ann@example.com"]
    assert (found["copied"], found["blocked"], found["removed"]) == ([], [], [])
    assert {alias.rpartition("@")[2] for alias in found["aliases"]} == {"example.com"}
    assert found["aliases"]["sales@example.com"] == ["eva@example.org"]
    assert found["patterns"] == []
    assert {domain for key in found["dkim"]["keys"] for domain in key["domains"]} == {"example.com"}
    (primary,) = found["backup_for"]
    assert (primary["minion"], primary["hostname"]) == (MX2, "mail.two.example")
    assert (primary["certificate"], primary["unknown"]) == (PEM, [])
    assert {"eva", "info"} <= {*primary["domains"]["example.org"]}
    assert [pattern["domain"] for pattern in primary["patterns"]] == ["example.org"]


def test_it_goes_by_the_same_way_as_what_is_kept_for_that_machine():
    gone = record("to", "gone", hostname="mail.two.example", certificate=PEM)
    published = {"hostname": MX2, "message_size": "50M", "certificate": "", "closed": None}
    mined = {MX2: {**published, "domains": {"example.edu": ["kim"]}}}
    pillar = having(**TO, backup_for={MX2: ["example.edu"]})
    (primary,) = model(pillar, primaries=mined, moving=gone)["backup_for"]
    assert [*primary["domains"]] == ["example.edu", "example.org"]
    assert primary["hostname"] == MX2


def test_a_domain_that_is_to_come_has_accounts_that_nobody_logs_in_to():
    found = model(having(**FROM))
    assert found["domains"] == ["example.com"]
    assert addresses(found) == ["ann@example.com"]
    assert [account["address"] for account in found["copied"]] == ["eva@example.org"]
    assert found["backup_for"] == []
    assert model(having(**FROM), moving=record("from", "here"))["copied"] == []


def test_the_machine_that_hands_on_late_mail_may_use_the_names_of_who_has_come():
    """From one of the domain to another: a stranger would be refused, and the mail returned."""
    come = record("from", "here", addresses=["192.0.2.7", "2001:db8::7"])
    nets = model(having())["dns"]["closed"]
    assert model(having(**FROM), moving=record("from", "here"))["dns"]["closed"] == nets
    found = model(having(**FROM), moving=come)
    assert found["dns"]["closed"] == [*nets, "192.0.2.7", "2001:db8::7"]
    assert model(having(), moving=come)["dns"]["closed"] == nets
    anybody = having(**FROM, dns={"spf": "mx ~all"})
    assert model(anybody, moving=come)["dns"]["closed"] is None


def test_the_last_domain_leaves_a_machine_with_its_own_name():
    pillar = {"domains": ["example.org"], "accounts": [["eva@example.org", "hunter2"]]}
    gone = record("to", "gone", hostname=MX2)
    found = model({**pillar, "mailsrv": TO}, moving=gone)
    assert (found["domains"], found["accounts"]) == ([found["hostname"]], [])
    assert [key["domains"] for key in found["dkim"]["keys"]] == [[found["hostname"]]]


@pytest.mark.parametrize(
    ("settings", "known", "said"),
    [
        ({"moves_to": ["example.org"]}, {}, "mailsrv:moves_to"),
        (
            {"moves_to": {"example.org": 1}},
            {},
            "moves_to:example.org: '1' is not the id of a minion",
        ),
        ({"moves_to": {"example.edu": MX2}}, {}, "moves_to:example.edu: is not in domains"),
        ({"moves_to": {"mx.example.com": MX2}}, {}, "mx.example.com: is not in domains"),
        (TO | FROM, {}, "moves_from:example.org: moves to and from this machine"),
        (FROM, {"accounts": ["eva@example.org"]}, "this machine serves it already"),
        (FROM, {"moving": record("to", "here")}, "this machine serves it already"),
        (FROM, {"moving": record("from", "here", "mx3")}, "is here since it came from mx3"),
        ({}, {"moving": record("to", "gone")}, "example.org has moved to mx2.example.net, which"),
        ({}, {"moving": record("from", "waiting")}, "has not come from mx1.example.net yet"),
        ({}, {"moving": record("to", "frozen")}, "example.org may be on mx2.example.net already"),
        (TO, {"moving": record("to", "gone", "mx3")}, "example.org has moved to mx3, which serves"),
        (TO, {"moving": record("to", "frozen", "mx3")}, "example.org may be on mx3 already"),
        (TO, {"moving": record("from", "waiting")}, "has not come from mx1.example.net yet"),
    ],
)
def test_what_would_make_two_machines_have_it_is_refused(settings, known, said):
    assert said in "\n".join(faults(having(**settings), **known))


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        (FROM, {"moving": record("to", "gone"), "accounts": []}),  # it comes back
        (FROM, {"moving": record("from", "waiting"), "accounts": ["eva@example.org"]}),
        (TO, {"moving": record("from", "here")}),  # and goes on to somebody else
        ({}, {"moving": record("from", "here")}),
        ({}, {"moving": record("to", "here")}),  # it was called off
    ],
)
def test_what_an_administrator_does_next_is_valid(settings, known):
    assert faults(having(**settings), **known) == []


def test_a_run_never_puts_back_what_a_domain_has_reached():
    moves = model(having(**TO))["moves"]
    for phase in moving.PHASES["to"]:
        before = moving.records(record("to", phase, hostname=MX2))
        assert moving.noted(before, moves) == before
    other = moving.records(record("to", "gone", "mx3"))
    assert moving.noted(other, moves)["example.org"]["phase"] == "here"
    assert moving.noted(other, []) == {}


def test_a_note_is_whole_or_none():
    """One that is overlooked would let a machine serve what has gone."""
    chance = random.Random(1)
    wholes = record("to", "gone", hostname=MX2, certificate=PEM)["example.org"]
    wholes |= {"copied": ["eva@example.org"], "addresses": ["192.0.2.1"]}
    assert moving.records({"example.org": wholes}) == {"example.org": wholes}
    junk = [None, 1, True, [], {}, "x\ny", ["x", 1], [["x"]]]
    for _ in range(300):
        broken = {key: chance.choice([value, *junk]) for key, value in wholes.items()}
        for given in {"example.org": broken}, {"Example.Org": wholes}, [broken], None, 7:
            try:
                (note,) = moving.records(given).values()
            except ValueError:
                continue
            assert note["phase"] in moving.PHASES[note["way"]]
            assert note["peer"] == MX2
            assert note["hostname"] in ("", MX2)
            assert note["certificate"] in ("", PEM)
            assert note["addresses"] in ([], ["192.0.2.1"])
    assert moving.records(json.loads(moving.text(moving.records(record("to", "gone"))))) != {}
    assert moving.records({}) == {}


def test_a_note_that_cannot_be_read_is_a_fault():
    known = facts()
    known["standing"]["moving"] = "/var/lib/mailsrv/moving.json: it is none"
    assert pillar.read(having(), HOST, known, None)[1] == [
        "/var/lib/mailsrv/moving.json: it is none"
    ]
