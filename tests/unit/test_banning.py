"""_mailsrv.bans: who is refused for a while, in the pillar and in what fail2ban and nft say."""

import ipaddress
import json

import pytest
from _mailsrv import bans
from hypothesis import given
from hypothesis import strategies as st

from reading import model, read, said

PILLAR = {"domains": ["example.com"]}


def found(value, **known):
    return model({**PILLAR, "mailsrv": {"bans": value}}, **known)["bans"]


def test_nobody_is_banned_where_the_pillar_does_not_say_so():
    assert model(PILLAR)["bans"] is None
    assert found(False) is None


def test_true_is_all_defaults_and_one_key_changes_that_one():
    everything = {
        "own": [],
        "after": 10,
        "within": 600,
        "lasts": 3600,
        "longest": 86400,
        "ports": [110, 143, 465, 587, 993, 995, 4190],
    }
    assert found(True) == found({}) == everything
    assert found({"for": "2d"}) == {**everything, "lasts": 172800, "longest": 172800}
    own = ["192.0.2.0/24", "192.0.2.1", "2001:db8::/48", "192.0.2.0/24"]
    assert found({"own": own})["own"] == ["192.0.2.0/24", "192.0.2.1/32", "2001:db8::/48"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bans: 'yes'", "mailsrv:bans: must hold keys and values, not text"),
        ("bans: {afer: 3}", "mailsrv:bans:afer: no such key; did you mean after?"),
        (
            "bans: {after: 3}",
            "mailsrv:bans:after: '3' is not usable; write a number from 5 to 1000",
        ),
        (
            "bans: {after: true}",
            "mailsrv:bans:after: 'True' is not usable; write a number from 5 to 1000",
        ),
        (
            "bans: {for: 3600}",
            "mailsrv:bans:for: '3600' is not a time; write it like 10m, 2h or 1d",
        ),
        (
            "bans: {within: 0m}",
            "mailsrv:bans:within: '0m' is not a time; write it like 10m, 2h or 1d",
        ),
        (
            "bans: {own: [192.0.2.1/24]}",
            "mailsrv:bans:own: '192.0.2.1/24' is not a network; write it like 192.0.2.0/24, "
            "2001:db8:1::/48 or 192.0.2.1",
        ),
        (
            "bans: {own: ['::/0']}",
            "mailsrv:bans:own: ::/0 is everybody; write the networks that are yours",
        ),
        ("bans: {own: 192.0.2.1}", "mailsrv:bans:own: must be a list, not text"),
    ],
)
def test_each_fault_is_one_sentence(text, sentence):
    assert said(f"mailsrv: {{{text}}}") == sentence


def test_they_are_debians():
    found = model({**PILLAR, "mailsrv": {"bans": True}}, family="FreeBSD")
    assert found["bans"] is None
    assert found["notes"] == ["mailsrv:bans: nobody is banned: that needs fail2ban, as on Debian"]


def test_a_machine_that_cannot_ban_says_so_and_is_a_mail_server_all_the_same(monkeypatch):
    monkeypatch.setattr("reading.CANNOT_BAN", "this machine may not change its firewall")
    known, wrong = read({**PILLAR, "mailsrv": {"bans": True}})
    assert (known["bans"], wrong) == (None, [])
    assert known["notes"] == [
        "mailsrv:bans: nobody is banned: this machine may not change its firewall"
    ]


def test_the_list_of_fail2ban_is_read():
    text = (
        "198.51.100.7 \t2027-02-28 09:30:00 + 3600 = 2027-02-28 10:30:00\n"
        "2001:db8:1:2::/64 \t2027-02-28 09:30:00 + 7200 = 2027-02-28 11:30:00\n"
        "gibberish\n"
    )
    assert {str(network): until for network, until in bans.banned(text).items()} == {
        "198.51.100.7/32": "2027-02-28 10:30:00",
        "2001:db8:1:2::/64": "2027-02-28 11:30:00",
    }


def test_the_set_of_nftables_is_read():
    elements = ["192.0.2.1", {"prefix": {"addr": "2001:db8:1:2::", "len": 64}}]
    listing = {"nftables": [{"metainfo": {}}, {"set": {"name": "banned6", "elem": elements}}]}
    wanted = {bans.network_of("192.0.2.1"), bans.network_of("2001:db8:1:2::/64")}
    assert bans.refused(json.dumps(listing)) == wanted
    assert bans.refused('{"nftables": [{"set": {"name": "banned6"}}]}') == set()


def test_the_reason_is_what_was_tried_last():
    lines = [f"192.0.2.1 wrong password for u{number}, submission" for number in range(5)]
    lines += ["2001:db8::/64 wrong password for ann@one.example, Dovecot", "no reason at all"]
    assert {str(network): reason for network, reason in bans.reasons("\n".join(lines)).items()} == {
        "192.0.2.1/32": "wrong passwords for u2, u3, u4 and 2 more (submission)",
        "2001:db8::/64": "wrong passwords for ann@one.example (Dovecot)",
    }


@given(st.text())
def test_no_text_is_too_odd(text):
    bans.reasons(text)
    bans.banned(text)
    bans.network_of(text)


def test_who_is_to_be_let_in_is_found_by_any_of_his_addresses():
    known = [ipaddress.ip_network(text) for text in ("192.0.2.1/32", "2001:db8:1:2::/64")]

    def touched(text):
        return bans.touching(known, bans.network_of(text))

    assert touched("192.0.2.1") == touched("192.0.2.0/24") == known[:1]
    assert touched("2001:db8:1:2::77") == known[1:]
    assert touched("2001:db8:1:3::77") == touched("192.0.2.2") == []
