"""Live DNS against what is desired: servers that agree, that lag, that are silent or lame."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

from lab import HEAD
from saltext.mailsrv.modules import dkim, mailcheck
from wire import GATEWAY

pytestmark = pytest.mark.lab

NS = {"ns1": "198.51.100.61", "ns2": "198.51.100.62"}
NOBODY = "198.51.100.69"


@pytest.fixture(scope="module")
def name_servers(lab):
    """Two name servers of a provider: ns1 and ns2.provider.example."""
    servers = [lab.name_server(address) for address in NS.values()]
    hosts = "".join(f"{name} A {address}\n" for name, address in NS.items())
    lab.dns.serve("provider.example", f"{HEAD}{hosts}lost A {NOBODY}\n")
    return servers


@pytest.fixture
def from_outside(lab, tmp_path, monkeypatch):
    """Call a function as on the lab's outside host, whose resolver is the lab's."""
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {GATEWAY}\n")
    monkeypatch.setattr(mailcheck, "RESOLV_CONF", str(conf))
    return lambda function, *arguments: lab.outside.call(function, *arguments)


def zone(text, servers=("ns1.provider.example", "ns2.provider.example")):
    """A zone file of a domain that these name servers serve."""
    soa = f"$TTL 60\n@ SOA {servers[0]}. root 1 60 60 600 60\n"
    return soa + "".join(f"@ NS {server}.\n" for server in servers) + text


KEY = dkim.generate(2048)[1]
RECORD = ("s1._domainkey.shop.example", "TXT", dkim.txt(KEY))


def test_a_record_that_every_server_shows_is_lacking_nowhere(name_servers, from_outside):
    for server in name_servers:
        server.serve("shop.example", zone(dkim.record("s1", KEY) + "\n@ MX 10 mx.one.example.\n"))
    assert from_outside(mailcheck.lacking, *RECORD) == []
    assert from_outside(mailcheck.lacking, "Shop.Example.", "MX", "10 mx.one.example.") == []


def test_a_server_that_lags_is_named(name_servers, from_outside):
    first, second = name_servers
    first.serve("shop.example", zone(dkim.record("s1", KEY)))
    second.serve("shop.example", zone(dkim.record("s1", dkim.generate(1024)[1])))
    assert from_outside(mailcheck.lacking, *RECORD) == [
        f"ns2.provider.example ({NS['ns2']}) still lacks it"
    ]
    second.serve("shop.example", zone("@ TXT nothing\n"))
    assert from_outside(mailcheck.lacking, *RECORD) == [
        f"ns2.provider.example ({NS['ns2']}) still lacks it"
    ]


def test_an_alias_is_followed_to_the_servers_of_its_target(lab, name_servers, from_outside):
    alias = "s1._domainkey CNAME one._domainkey.hosted.example.\n"
    for server in name_servers:
        server.serve("shop.example", zone(alias))
        server.serve("hosted.example", zone(dkim.record("one", KEY)))
    assert from_outside(mailcheck.lacking, *RECORD) == []
    name_servers[1].serve("hosted.example", zone("@ TXT nothing\n"))
    assert from_outside(mailcheck.lacking, *RECORD) == [
        f"ns2.provider.example ({NS['ns2']}) still lacks it"
    ]


def test_aliases_in_a_ring_are_no_answer(name_servers, from_outside):
    ring = "s1._domainkey CNAME s2._domainkey\ns2._domainkey CNAME s1._domainkey\n"
    for server in name_servers:
        server.serve("shop.example", zone(ring))
    with pytest.raises(CommandExecutionError, match=r"cannot be asked for s1\._domainkey"):
        from_outside(mailcheck.lacking, *RECORD)


def test_servers_that_are_silent_or_lame_count_as_lacking(lab, name_servers, from_outside):
    servers = ("ns1.provider.example", "lost.provider.example", "ns.provider.example")
    name_servers[0].serve("half.example", zone(dkim.record("s1", KEY), servers))
    name, *record = RECORD
    found = from_outside(mailcheck.lacking, name.replace("shop", "half"), *record)
    assert sorted(found) == [
        f"lost.provider.example ({NOBODY}) does not answer: time is up",
        f"ns.provider.example ({lab.dns.address}) does not serve half.example: REFUSED",
    ]


def test_where_no_server_can_be_asked_there_is_no_answer(lab, name_servers, from_outside):
    lab.dns.serve("silent.example", zone("", ("lost.provider.example", "none.provider.example")))
    with pytest.raises(CommandExecutionError) as raised:
        from_outside(mailcheck.lacking, "silent.example", "MX", "10 mx.one.example.")
    said = str(raised.value)
    assert said.startswith("mailcheck: DNS cannot be asked for silent.example MX: ")
    assert f"lost.provider.example ({NOBODY}) does not answer: " in said
    assert "none.provider.example has no address" in said
    with pytest.raises(CommandExecutionError, match=r"the resolver .*no-such-domain\.example"):
        from_outside(mailcheck.lacking, "no-such-domain.example", "MX", "10 mx.one.example.")


def test_what_can_be_no_record_is_refused():
    with pytest.raises(SaltInvocationError) as raised:
        mailcheck.lacking("shop.example", "MX", "mx.one.example.")
    assert str(raised.value) == (
        "mailcheck.lacking: 'mx.one.example.' is not the value of a record of the type MX"
    )
