"""Live DNS against what is desired: servers that agree, that lag, that are silent or lame."""

import json
import re
import time

import _mailsrv_spf as costs
import pytest
from _mailsrv import resolve
from salt.exceptions import CommandExecutionError, SaltInvocationError

from lab import HEAD, NS
from saltext.mailsrv.modules import dkim, mailcheck
from wire import GATEWAY

pytestmark = pytest.mark.lab

NOBODY = "198.51.100.69"


@pytest.fixture(scope="module", autouse=True)
def lost(lab, name_servers):
    """A name server of the provider at an address that nobody has."""
    hosts = "".join(f"{name} A {address}\n" for name, address in {**NS, "lost": NOBODY}.items())
    lab.dns.serve("provider.example", HEAD + hosts)


@pytest.fixture
def from_outside(lab, tmp_path, monkeypatch):
    """Call a function as on the lab's outside host, whose resolver is the lab's."""
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {GATEWAY}\n")
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(conf))
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


# What verifiers throw away, as a name server brings it: instead of the record, or beside it.
THROWN_AWAY = {
    f'"v=DKIM2; k=rsa; p=" "{KEY[:200]}" "{KEY[200:]}"': "its version is not DKIM1",
    f'"k=rsa; p=" "{KEY[:200]}" "{KEY[200:]}" "; v=DKIM1"': "v= is not first",
    f'"v=DKIM1; p=; p=" "{KEY[:200]}" "{KEY[200:]}"': "p= is there twice",
    f'"v=DKIM1; t=y; p=" "{KEY[:200]}" "{KEY[200:]}"': "t=y says that the domain only tests",
    f'"v=DKIM1; h=sha1; p=" "{KEY[:200]}" "{KEY[200:]}"': "h= is without sha256",
    f'"v=DKIM1; s=other; p=" "{KEY[:200]}" "{KEY[200:]}"': "s= is neither * nor email",
}


def test_a_key_that_verifiers_throw_away_is_lacking(name_servers, from_outside):
    first, second = name_servers
    first.serve("shop.example", zone(dkim.record("s1", KEY)))
    for value, why in THROWN_AWAY.items():
        second.serve("shop.example", zone(f"s1._domainkey TXT {value}\n"))
        (said,) = from_outside(mailcheck.lacking, *RECORD)
        shown = f"ns2.provider.example ({NS['ns2']}) shows one that verifiers throw away: {why}"
        assert said.startswith(shown)
    second.serve("shop.example", zone(f"{dkim.record('s1', KEY)}\ns1._domainkey TXT x\n"))
    assert from_outside(mailcheck.lacking, *RECORD) == [
        f"ns2.provider.example ({NS['ns2']}) shows 2 such records, of which verifiers take none or "
        "any"
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
    with pytest.raises(CommandExecutionError, match=r"no-such-domain.* the resolver "):
        from_outside(mailcheck.lacking, "no-such-domain.example", "MX", "10 mx.one.example.")


def test_an_spf_record_that_costs_receivers_too_much_is_found_with_all_that_it_includes(
    lab, from_outside
):
    def include(*names):
        return " ".join(["v=spf1", *(f"include:{name}.letters.example" for name in names), "-all"])

    lab.dns.serve(
        "letters.example",
        HEAD
        + f'six TXT "{include(*"abcde")}"\nfive TXT "{include(*"abcd")}"\n'
        + "".join(f'{name} TXT "v=spf1 ip4:192.0.2.{i} -all"\n' for i, name in enumerate("abcde"))
        + 'long TXT "v=spf1 " "a:six.letters.example" " -all"\n',
    )

    def found(text):
        record = {"name": "shop.example.", "type": "TXT", "value": text}
        record |= {"need": "required", "why": "it says who may send"}
        live = {"shop.example TXT": {"ns": [text]}}
        return from_outside(costs.findings, "shop.example", [record], live)

    assert found(include("five", "a", "b", "c", "d")) == []  # 9
    assert found("v=spf1 include:five.letters.example -all") == []
    (finding,) = found(include("six", "five"))
    assert (finding["need"], finding["fault"]) == ("required", "wrong")
    assert finding["says"].startswith("shop.example TXT, SPF: 11 terms, ")
    (finding,) = found(include("none1", "none2", "none3", "long"))
    assert finding["need"] == "recommended"
    names = ", ".join(f"none{i}.letters.example TXT" for i in (1, 2, 3))
    assert f"what is not there, {names}, six.letters.example A; " in finding["says"]


def test_what_can_be_no_record_is_refused():
    with pytest.raises(SaltInvocationError) as raised:
        mailcheck.lacking("shop.example", "MX", "mx.one.example.")
    assert str(raised.value) == (
        "mailcheck.lacking: 'mx.one.example.' is not the value of a record of the type MX"
    )


# mailcheck.dns on a mail server: what it prints is served, and then something is not as printed

DNS = {
    "nameservers": [f"{name}.provider.example" for name in NS],
    "web": "mx.elsewhere.example",
    "mta_sts": "testing",
    "tls_reports": "ann@one.example",
    "dmarc": {"policy": "reject", "reports": "ann@one.example"},
    "dane": True,
}


@pytest.fixture(scope="module")
def zones(lab, one, name_servers):
    """The zones that the server prints with all options on; its usual ones stand afterwards."""
    one.write_pillar({**one.pillar, "mailsrv": {"dns": DNS}})
    yield {domain: one.salt("mailsrv.zone", domain) for domain in one.salt("mailsrv.dns")}
    one.write_pillar(one.pillar)
    one.publish()
    lab.serve_reverse()


@pytest.fixture
def serve(lab, name_servers, zones):
    """Serve the printed zones, edited, by the provider's servers, or by the second one alone."""

    def serve(edit=lambda text: text, second_edit=None):
        for domain, text in zones.items():
            for server in (lab.dns, *name_servers):
                server.serve(domain, edit(text))
            if second_edit:
                name_servers[1].serve(domain, second_edit(text))

    lab.serve_reverse()
    return serve


def check(server, *arguments):
    """
    The exit status of mailcheck.dns and the findings of each domain, but for the one that these
    zones are not signed (test_secondaries.py has some that are).
    """
    command = ["salt-call", "--out=json", "--log-level=warning", "mailcheck.dns", *arguments]
    run = server.machine.run(command, check=False)
    assert run.stderr == ""
    found = json.loads(run.stdout)["local"]
    for domain, findings in found.items():
        if findings != "ok":
            found[domain] = [f for f in findings if " TLSA, DNSSEC: " not in f["says"]] or "ok"
    return run.returncode, found


def without(word):
    """Leave out the records of a zone with that word; a line that begins with a tab goes on."""
    return lambda text: "\n".join(r for r in re.split(r"\n(?!\t)", text) if word not in r)


ALL_OK = {"one.example": "ok", "uno.example": "ok"}


def test_what_is_printed_and_served_is_found_ok(serve, one):
    serve()
    assert check(one) == (0, ALL_OK)
    assert check(one, "uno.example") == (0, {"uno.example": "ok"})


def test_what_a_provider_makes_of_the_records_is_ok(serve, one):
    def as_a_provider(text):
        text = re.sub(r'"v=DKIM1; k=rsa; t=s; p=(.{9})', r'"k=rsa; p=\1" "', text)
        text = text.replace("v=DMARC1; p=reject", "v=DMARC1;  p=REJECT; sp=reject; pct=100")
        text = text.replace('"v=spf1 mx -all"', '"v=spf1" " +MX " "-all"')
        text = re.sub(r"^_(smtp|mta-sts|dmarc)", lambda name: name[0].upper(), text, flags=re.M)
        text = text.replace("10 mail.one.example.", "0 Mail.One.Example.")
        return text + '@ TXT "google-site-verification=x"\n@ TXT "MS=ms1"\n@ TXT v=spf2.0/pra\n'

    serve(as_a_provider)
    assert check(one) == (0, ALL_OK)


def test_a_second_server_that_lags_is_found(serve, one):
    serve(second_edit=without("_domainkey"))
    status, found = check(one)
    assert status == 1
    for domain, (finding,) in found.items():
        assert finding["fault"] == "missing"
        assert finding["need"] == "required"
        assert finding["name"] == f"mailsrv._domainkey.{domain}"
        assert finding["servers"] == [f"ns2.provider.example ({NS['ns2']})"]


def test_a_silent_server_is_named_and_does_not_keep_the_check_for_long(serve, one):
    serve(lambda text: text + "@ NS lost.provider.example.\n")
    start = time.monotonic()
    status, found = check(one)
    assert time.monotonic() - start < resolve.DNS_PATIENCE
    assert status == 1
    for (finding,) in found.values():
        assert (finding["fault"], finding["need"]) == ("unknown", "required")
        assert finding["says"].startswith(f"lost.provider.example ({NOBODY}) does not answer: ")


def test_a_second_spf_record_is_found(serve, one):
    serve(lambda text: text + '@ TXT "v=spf1 include:_spf.elsewhere.example -all"\n')
    status, found = check(one, "uno.example")
    assert status == 1
    (finding,) = found["uno.example"]
    assert finding["fault"] == "superfluous"
    assert finding["live"] == ["v=spf1 include:_spf.elsewhere.example -all"]
    assert finding["says"] == (
        "uno.example TXT is one too many at every server: with two SPF records receivers take "
        "neither; remove it"
    )


def test_a_key_in_dns_that_is_not_the_one_on_the_disk_is_found(serve, one):
    wrong = dkim.record("mailsrv", KEY)
    serve(lambda text: without("_domainkey")(text) + wrong + "\n")
    status, found = check(one)
    assert status == 1
    for (finding,) in found.values():
        assert (finding["fault"], finding["live"]) == ("wrong", [dkim.txt(KEY)])


def test_the_key_of_a_selector_of_before_is_left_over(serve, one):
    serve(lambda text: text + dkim.record("old", KEY) + "\n")
    assert check(one) == (0, ALL_OK)
    files = "/etc/mail/dkim/old.public", "/etc/mail/dkim/a copy of mine.public"
    for file in files:
        one.machine.put(file, dkim.record("old", KEY))
    status, found = check(one)
    one.machine.run(["rm", *files])
    assert status == 0
    for domain, (finding,) in found.items():
        assert (finding["fault"], finding["need"]) == ("superfluous", "recommended")
        assert finding["name"] == f"old._domainkey.{domain}"


def test_a_missing_reverse_record_is_found_and_may_be_skipped(lab, serve, one):
    serve()
    lab.serve_reverse(leave_out=one.machine.fqdn)
    status, found = check(one)
    assert status == 1
    assert found["uno.example"] == "ok"
    (finding,) = found["one.example"]
    assert (finding["fault"], finding["type"]) == ("missing", "PTR")
    assert finding["desired"] == "mail.one.example."
    assert check(one, "skip=[PTR]") == (0, ALL_OK)
    assert check(one, f"skip=['{finding['name']} PTR']") == (0, ALL_OK)


def test_a_host_outside_of_our_domains_is_looked_for_where_it_is(lab, serve, one):
    serve()
    settings = {"dns": {"nameservers": DNS["nameservers"]}, "hostname": "box.housed.example"}
    one.write_pillar({**one.pillar, "mailsrv": settings})
    lab.dns.serve("housed.example", f'{HEAD}box A {one.machine.address}\nbox TXT "v=spf1 a -all"\n')
    try:
        status, found = check(one, "one.example")
    finally:
        one.write_pillar({**one.pillar, "mailsrv": {"dns": DNS}})
    assert status == 1
    faults = {(f["type"], f["fault"]) for f in found["one.example"] if f["need"] == "required"}
    assert faults == {("MX", "wrong"), ("PTR", "wrong")}


def test_a_server_that_serves_nothing_is_named(two):
    """As printed without name servers: NS is the mail host, where no name server runs."""
    two.publish()
    status, found = check(two)
    assert status == 1
    said = [finding["says"] for finding in found["two.example"]]
    assert [said for said in said if said.startswith("mail.two.example (") and "refused" in said]
