"""Aliases by pattern, and a domain that has another name now."""

import smtplib

import pytest

from server import arrived, parsed, signed_by
from stock import everywhere

pytestmark = [pytest.mark.lab, everywhere]

SOMEBODY, OUTSIDE = "somebody@elsewhere.example", "pattern@elsewhere.example"


@pytest.fixture(scope="module")
def moved(server):
    """A server that had another domain, `server.old`, and has aliases by pattern."""
    server.domain = domain = server.pillar["domains"][0]
    server.old = old = f"old.{domain}"
    server.users = [name for name in server.accounts if name.endswith(f"@{domain}")][:2]
    first, second = server.users
    aliases = {
        f"sales-*@{domain}": [first, second, OUTSIDE],
        f"sales-eu@{domain}": second,
        f"team@{domain}": [first, second],
    }
    plain = server.pillar
    server.pillar = {**plain, "domains": [*plain["domains"], old]}
    with server.having(aliases=aliases, moved={old: domain}):
        server.publish()
        assert server.highstate() == {}
        yield server
        server.pillar = plain
    assert server.highstate() == {}


def replies(server, *names):
    with server.smtp() as smtp:
        smtp.ehlo("client.example")
        smtp.mail(SOMEBODY)
        return {name: smtp.rcpt(name)[0] for name in names}


def copies(server, subject):
    server.idle()
    return [len(server.fetch(user, subject)) for user in server.users]


def test_an_alias_by_pattern_takes_what_fits_and_nothing_else(moved):
    domain, old = moved.domain, moved.old
    taken = [f"sales-{x}" for x in ("1", "a.b_c", "De", "x=y", "a+tag")] + ["SALES-x"]
    refused = ["sales-", "sales", "xsales-1", "sales-a b", "sales-a!", "sales-\u00e4"]
    for home in (domain, domain.upper(), old):
        found = replies(moved, *[f"{name}@{home}" for name in taken])
        assert {*found.values()} == {250}, found
        found = replies(
            moved, *[f'"{n}"@{home}' if " " in n else f"{n}@{home}" for n in refused[:-1]]
        )
        assert 250 not in found.values(), found
    elsewhere = replies(moved, *[f"sales-1@{home}" for home in moved.pillar["domains"][1:-1]])
    assert 250 not in elsewhere.values()


def test_each_target_of_a_pattern_gets_a_message_once(moved, sink):
    names = [f"sales-1@{moved.domain}", f"sales-2@{moved.old}", moved.users[0]]
    subject = moved.deliver(names)
    assert copies(moved, subject) == [1, 1]
    (envelope,) = arrived(sink, subject)
    assert {*envelope.rcpt_tos} == {OUTSIDE}
    assert envelope.mail_from.startswith("SRS0=")
    assert copies(moved, moved.deliver([f"sales-eu@{moved.domain}"])) == [0, 1]


def test_explain_has_the_rule_of_the_pattern(moved):
    told = moved.salt("mailsrv.explain", f"sales-7@{moved.domain}")
    rules = moved.machine.get(moved.facts["opensmtpd"]["config"]).splitlines()
    assert told["rule"] in rules
    assert told["delivered to"] == moved.users


def test_every_address_of_the_old_domain_leads_to_the_new_one(moved):
    local = moved.users[0].partition("@")[0]
    known = [f"{name}@{moved.old}" for name in (local, f"{local.upper()}+x", "team", "postmaster")]
    found = replies(moved, *known, f"nobody@{moved.old}")
    assert [*found.values()] == [250, 250, 250, 250, 550]
    assert copies(moved, moved.deliver([known[0], known[2]])) == [1, 1]


def test_what_is_sent_by_the_old_name_leaves_by_the_new_one(lab, moved, sink):
    user = moved.users[0]
    local, old = user.partition("@")[0], moved.old
    sent = {
        moved.submit(user, [SOMEBODY], sender=f"{name}@{old}", From=f"Me <{name}@{old}>"): name
        for name in (local, f"{local}+tag", "team")
    }
    sent[moved.submit(user, [SOMEBODY], From=f"{local}@{old.upper()}", port=465)] = local
    for envelope, name in zip(arrived(sink, *sent), sent.values(), strict=True):
        expected = f"{name}@{moved.domain}"
        (author,) = parsed(envelope.content)["From"].addresses
        assert (envelope.mail_from, author.addr_spec) == (expected, expected)
        assert signed_by(lab, envelope.content) == {moved.domain}
    other = moved.users[1].partition("@")[0]
    with pytest.raises(smtplib.SMTPSenderRefused):
        moved.submit(user, [SOMEBODY], sender=f"{other}@{old}")
