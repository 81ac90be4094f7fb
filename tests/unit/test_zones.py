"""Zones made of what other machines put into the mine: records, and nothing else."""

import copy
import re
import time

import _mailsrv_signer as signer
import pytest
import yaml
from _mailsrv import published, resolve
from _mailsrv.published import LABEL, VALUES
from _mailsrv.records import zone
from dns import message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saltext.mailsrv.modules import dkim, nsd

SERVERS = ["ns1.example.net", "ns2.example.net"]
A = {"name": "mx.example.com.", "type": "A", "value": "192.0.2.1"}
B = A | {"name": "mx.example.org."}


OWNERS = {"mx1": ["example.com", "test.com"], "mx2": ["example.org", "test.org"]}


@pytest.fixture
def plan(loader, known, tmp_path):
    """What is to be served of what stands in the mine, under the names of these servers."""
    known()["nsd"] = {
        "directory": str(tmp_path),
        "whole": str(tmp_path / "nsd.conf"),
        "config": str(tmp_path / "nsd.conf.d/mailsrv.conf"),
        "signer": {"config": str(tmp_path / "knot.conf"), "zones": str(tmp_path / "signer")},
    }

    def of(mine, servers=SERVERS, machines=None):
        def get(target, function, tgt_type):
            assert (function, tgt_type) == ("mailsrv.dns", "list")
            return {minion: found for minion, found in mine.items() if minion == target}

        owners = {minion: OWNERS[minion] for minion in mine}
        loader["__salt__"]["mine.get"] = get
        loader.next_run(mailsrv={"nsd": {"nameservers": servers, "machines": machines or owners}})
        found = nsd.plan()
        assert found["faults"] == []
        assert not found["made"].keys() & found["refused"].keys()
        assert found["served"] == sorted([*found["made"], *found["kept"]])
        return found

    return of


@pytest.fixture
def records(keys):
    """What mailsrv.dns returns of a machine with two domains: a record of every type."""
    key = dkim.txt(keys[4096][1])

    def of(domain):
        return [
            {"name": f"{domain}.", "type": "MX", "value": "10 mx.example.com."},
            {"name": f"{domain}.", "type": "TXT", "value": "v=spf1 mx -all"},
            {"name": f"mailsrv._domainkey.{domain}.", "type": "TXT", "value": key},
            {"name": f"_imaps._tcp.{domain}.", "type": "SRV", "value": "0 1 993 mx.example.com."},
            {"name": f"_imap._tcp.{domain}.", "type": "SRV", "value": "0 0 0 ."},
            {"name": f"mta-sts.{domain}.", "type": "CNAME", "value": "www.example.com."},
        ]

    aaaa = A | {"type": "AAAA", "value": "2001:db8::1"}
    tlsa = {"name": "_25._tcp.mx.example.com.", "type": "TLSA", "value": f"3 1 1 {'0f' * 32}"}
    caa = {"name": "mx.example.com.", "type": "CAA", "value": '0 issue "letsencrypt.org"'}
    return {"example.com": [*of("example.com"), A, aaaa, tlsa, caa], "test.com": of("test.com")}


def serial(text):
    return int(re.search(r"SOA.*\(\s+(\d+) ", text)[1])


def test_a_name_server_loads_the_zones_of_a_mail_machine(plan, records, load_zone):
    found = plan({"mx1": records})
    assert found["served"] == ["example.com", "test.com"]
    assert (found["refused"], found["kept"]) == ({}, [])
    for domain, text in found["made"].items():
        load_zone(domain, text)


def test_the_serial_rises_with_a_change_and_stays_without(plan, records, tmp_path):
    file = tmp_path / "example.com.zone"

    def zone(records):
        return plan({"mx1": records})["made"]["example.com"]

    first = zone(records)
    assert serial(first) // 100 == int(time.strftime("%Y%m%d", time.gmtime()))
    file.write_text(first)
    assert zone(records) == first
    changed = copy.deepcopy(records)
    changed["example.com"][0]["value"] = "20 mx.example.com."
    second = zone(changed)
    assert "MX\t20 " in second
    assert serial(second) == serial(first) + 1
    # The second is as the previous release wrote it: the serial in the line of SOA.
    for between in ("\n\t", " "):
        for number in ("2099010100", "1"):
            file.write_text(re.sub(r"\(\s+\d+", f"({between}{number}", first))
            assert serial(zone(changed)) >= max(int(number) + 1, serial(first))


def test_where_a_zone_is_refused_the_previous_one_stays(plan, records, tmp_path):
    (tmp_path / "test.org.zone").write_text("as it was\n")
    found = plan({"mx1": records, "mx2": {"example.org": [{}], "test.org": [{}]}})
    assert [*found["made"]] == ["example.com", "test.com"]
    assert [*found["refused"]] == ["example.org", "test.org"]
    assert found["kept"] == ["test.org"]
    assert found["served"] == ["example.com", "test.com", "test.org"]


# As NSD writes it after a transfer.
TRANSFERRED = """; zone test.org. is written by NSD 4.6.1
test.org.\t3600\tIN\tSOA\tns1.example.net. hostmaster.test.org. 2099010100 3600 900 604800 3600
test.org.\t3600\tIN\tTXT\t"(1)"
"""


def test_a_zone_that_came_from_elsewhere_stays_until_there_is_something_to_sign(
    plan, loader, records, tmp_path
):
    """A second name server becomes the first while the mine is empty; or the signer lost it."""
    plan({"mx1": records, "mx2": {"example.org": [B]}})
    loader.next_run(mailsrv={"nsd": loader["__pillar__"]["mailsrv"]["nsd"] | {"dnssec": True}})
    assert nsd.plan()["faults"] == []  # NSD has had nothing of test.org
    (tmp_path / "test.org.zone").write_text(TRANSFERRED)
    assert nsd.plan()["faults"] == [
        "test.org: mx2 has published no records of it; see docs/fleet.md#dns-of-all-machines, or "
        "remove it from mailsrv:nsd:machines; it is served as NSD has it, and until then nothing "
        "is changed"
    ]
    (tmp_path / "signer").mkdir()
    (tmp_path / "signer/test.org.zone").write_text(f"; {nsd.COMMENT}\n")
    found = nsd.plan()
    assert (found["faults"], found["kept"]) == ([], ["test.org"])


def test_who_signed_and_is_the_first_no_more_goes_on_until_the_new_one_has_the_keys(
    plan, loader, records, tmp_path, monkeypatch
):
    plan({"mx1": records})
    servers = [{"ns9.example.net": "192.0.2.1"}, {loader["__grains__"]["fqdn"]: "192.0.2.2"}]
    given = {"machines": OWNERS, "nameservers": servers, "tsig": "c2VjcmV0" * 8, "dnssec": True}
    loader.next_run(mailsrv={"nsd": given})
    assert nsd.plan()["faults"] == []
    (tmp_path / "knot.conf").touch()
    monkeypatch.setattr(resolve, "known", lambda *asked: ["1 13 2 00"])
    (fault,) = nsd.plan()["faults"]
    assert "ns9.example.net is the first name server now" in fault
    (tmp_path / "knot.conf").unlink()
    assert nsd.plan()["primary"] == ["192.0.2.1"]


@pytest.mark.parametrize("ds", [["1 13 2 00"], []])
@pytest.mark.parametrize("ends", [{"ns1": 7, "ns2": 7}, {"ns1": 7, "ns2": 5}, {"ns1": 7}])
def test_signatures_that_nobody_renews_are_told_before_they_end(monkeypatch, ds, ends):
    """Of each server as it shows them: the signer may be dead, or the zone stuck on its way."""

    def exchange(name, kind, address):
        if address not in ends:
            raise EOFError
        end = time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + ends[address] * 86400))
        shown = f"{name} 1 IN RRSIG {kind} 13 2 1 {end} 20260101000000 1 {name} AAAA"
        return message.from_text(f"id 1\n;QUESTION\n{name} IN {kind}\n;ANSWER\n{shown}\n")

    servers = {server: resolve.Answer(["1 13 2 00"]) for server in ("ns1", "ns2")}
    monkeypatch.setattr(signer, "_signed", lambda *asked: (["1 13 2 00"], ""))
    monkeypatch.setattr(resolve, "ask", lambda asked: {asked[0]: servers})
    monkeypatch.setattr(resolve, "known", lambda *asked: ds)
    monkeypatch.setattr(resolve, "servers", lambda name: (name, {s: s for s in servers}))
    monkeypatch.setattr(resolve, "exchange", exchange)
    found = signer.ds("a.example", 54)
    if ends.get("ns2") == 7:
        well = "ok" if ds else "give it to the registrar of a.example"
        assert (found["says"], found["fault"]) == (well, False)
    else:
        why = "ns2 has signatures that nobody renews" if "ns2" in ends else "ns2 does not answer"
        assert found["says"].startswith(f"{'FAULT' if ds else 'wait with the DS record'}: {why}")
        assert found["fault"] == bool(ds)


def test_the_serial_rises_above_that_of_a_zone_as_nsd_writes_it(plan, tmp_path):
    (tmp_path / "test.org.zone").write_text(TRANSFERRED)
    found = plan({"mx2": {"example.org": [B], "test.org": [B | {"name": "test.org."}]}})
    assert serial(found["made"]["test.org"]) == 2099010101


def test_a_machine_publishes_what_it_owns_and_nothing_else(plan, records, tmp_path):
    (tmp_path / "test.com.zone").write_text("as it was\n")
    others = ("test.com", "mail.example.com", "_domainkey.example.com", "com", "../../etc/x", "")
    zones = {"example.org": [B], "test.org": [B | {"name": "test.org."}]}
    zones |= {name: [A] for name in others}
    found = plan({"mx1": {"example.com": records["example.com"]}, "mx2": zones})
    assert [*found["made"]] == ["example.com", "example.org", "test.org"]
    assert found["refused"] == {
        "test.com": "test.com: mx1 has published no records of it; see "
        "docs/fleet.md#dns-of-all-machines, or remove it from mailsrv:nsd:machines"
    }
    assert found["kept"] == ["test.com"]
    assert found["foreign"] == {
        "mx2": "mx2 publishes '', '../../etc/x', '_domainkey.example.com' and 3 more, which "
        "mailsrv:nsd:machines does not give it: nothing of that is served"
    }
    for domain, text in found["made"].items():
        assert domain == "example.com" or "example.com" not in text


def test_a_name_server_of_the_pillar_has_the_address_of_the_pillar(plan, records, load_zone):
    named = "ns1.example.com"
    records["example.com"].append({"name": f"{named}.", "type": "A", "value": "198.51.100.66"})
    servers = [{named: ["192.0.2.53", "2001:db8::53"]}, "ns2.example.net"]
    found = plan({"mx1": records}, servers)
    text = found["made"]["example.com"]
    assert f"{named}.\tIN\tA\t192.0.2.53\n{named}.\tIN\tAAAA\t2001:db8::53\n" in text
    assert "198.51.100.66" not in text
    assert "192.0.2.53" not in found["made"]["test.com"]
    load_zone("example.com", text)


def test_a_name_server_in_the_zone_needs_its_address_there(plan, records):
    found = plan({"mx1": records}, ["ns1.test.com", "mx.example.com"])
    assert found["refused"] == {
        "test.com": "test.com: its name server ns1.test.com has no address in it; say it in "
        "mailsrv:nsd:nameservers, like ns1.test.com: 192.0.2.1, or name a host elsewhere"
    }


def test_a_record_of_another_zone_is_left_out(plan, load_zone):
    pointer = {"name": "1.2.0.192.in-addr.arpa.", "type": "PTR", "value": "mx.example.com."}
    text = plan({"mx1": {"example.com": [A, pointer]}})["made"]["example.com"]
    assert "PTR" not in text
    load_zone("example.com", text)


@pytest.mark.parametrize(
    "record",
    [
        B | {"name": "mx.example.org"},
        B | {"name": "mx.example.org.\n$INCLUDE /etc/shadow\n.example.org."},
        B | {"name": "a b.example.org."},
        B | {"value": "192.0.2.1\n$INCLUDE /etc/shadow"},
        B | {"value": "192.0.2.256"},
        B | {"value": "2001:db8::1"},
        B | {"type": "AAAA"},
        B | {"type": "NS", "value": "ns.attacker.example."},
        B | {"type": "A\n$INCLUDE"},
        B | {"type": "MX", "value": "10 mx.example.org.\n$INCLUDE /etc/shadow"},
        B | {"type": "TXT", "value": 'a" "b'},
        B | {"type": "TXT", "value": "a\\"},
        B | {"type": "TXT", "value": "a\nb"},
        B | {"type": "TXT", "value": ["a"]},
        B | {"name": "*.example.org."},
        B | {"name": "\\046.example.org."},
        B | {"name": "mx.Example.org."},
        B | {"name": "m\u0445.example.org."},
        B | {"name": "a." * 130 + "example.org."},
        B | {"name": "a" * 64 + ".example.org."},
        B | {"name": "a" * 10_000_000},
        B | {"type": "DNAME", "value": "attacker.example."},
        B | {"type": "DS", "value": f"1 8 2 {'00' * 32}"},
        B | {"type": "SOA", "value": "a. b. 1 1 1 1 1"},
        B | {"type": "TYPE2", "value": "\\# 1 00"},
        B | {"type": "A" * 10_000_000},
        B | {"type": "CNAME", "value": "mail.attacker.example."},  # mx has an address
        B | {"name": "example.org.", "type": "CNAME", "value": "mail.attacker.example."},
        B | {"type": "MX", "value": "99999 mx.example.org."},
        B | {"type": "MX", "value": f"10 {'a.' * 130}"},
        B | {"type": "TLSA", "value": "3 1 1 abc"},
        B | {"type": "TXT", "value": "a" * 10_000_000},
        B | {"value": "192.0.2.1\0"},
        B | {"value": "192.0.2.1 ; \n"},
        {"name": "mx.example.org."},
        {},
        None,
        [[[[[]]]]],
        "A",
    ],
    ids=lambda record: str(record)[:60],
)
def test_what_is_no_record_refuses_the_zone_of_its_machine_alone(plan, records, record):
    test = [B | {"name": "test.org."}]
    found = plan({"mx1": records, "mx2": {"example.org": [B, record], "test.org": test}})
    (fault,) = found["refused"].values()
    assert fault.startswith("example.org: ")
    assert "\n" not in fault
    assert len(fault) < 300
    assert found["served"] == ["example.com", "test.com", "test.org"]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([B] * 10_001, "10001 records are more than a zone may have, 10000"),
        ([B | {"type": "TXT", "value": "a" * 4000}] * 300, "are more than 1000000 characters"),
        ("a" * 10_000_000, "is text, and no list of records"),
        ({"name": "x"}, "is keys and values, and no list of records"),
        (None, "is nothing, and no list of records"),
    ],
    ids=["records", "characters", "text", "mapping", "nothing"],
)
def test_what_is_too_much_or_no_list_is_refused_at_once(plan, records, listed, said):
    test = [B | {"name": "test.org."}]
    found = plan({"mx1": records, "mx2": {"example.org": listed, "test.org": test}})
    assert said in found["refused"]["example.org"]
    assert found["served"] == ["example.com", "test.com", "test.org"]


values = st.one_of(
    *(st.from_regex(VALUES[kind], fullmatch=True).map(lambda v, k=kind: (k, v)) for kind in VALUES)
)
labels = st.from_regex(LABEL, fullmatch=True) | st.sampled_from(["mx", "_dmarc", "a" * 63])
owners = st.lists(labels, max_size=5).map(lambda found: ".".join([*found, "example.com."]))


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.tuples(owners, values), max_size=30))
def test_whatever_is_taken_is_loaded(load_zone, found):
    """So no machine can make a zone at which nsd-checkzone, and with it the run, fails."""
    listed = [{"name": name, "type": kind, "value": value} for name, (kind, value) in found]
    entries, fault = published.entries("example.com", listed, SERVERS, {})
    if not fault:
        load_zone("example.com", zone("example.com", entries, SERVERS, 1))


@pytest.mark.parametrize("published", ["a string", None, [], {5: 6}, {"": [B]}])
def test_what_names_no_domain_makes_no_file(plan, published):
    found = plan({"mx1": published})
    assert (found["made"], found["kept"], found["served"]) == ({}, [], [])
    assert [*found["refused"]] == ["example.com", "test.com"]


def test_of_whom_the_mine_cannot_be_read_is_not_taken_and_the_others_are(plan, loader, records):
    plan({"mx1": records, "mx2": {}})
    get = loader["__salt__"]["mine.get"]

    def fails(target, function, tgt_type):
        if target == "mx2":
            raise MemoryError
        return get(target, function, tgt_type)

    loader["__salt__"]["mine.get"] = fails
    found = nsd.plan()
    assert found["served"] == ["example.com", "test.com"]
    assert [*found["refused"]] == ["example.org", "test.org"]


@pytest.mark.parametrize("given", [{}, {"machines": "mx*"}, {"nameservers": SERVERS}, None])
def test_who_owns_what_is_to_be_said_and_the_mine_shows_how(loader, known, given):
    """A target let every minion of it publish every domain."""
    found = {
        "mx1.example.net": {"example.com": [], "EXAMPLE.net": [], "a b": []},
        "mx2.example.net": {"example.org": []},
        "evil}, x: [": {"example.edu": []},
        "mx3.example.net": "a string",
    }
    asked = []

    def get(target, function, tgt_type):
        asked.append((target, tgt_type))
        return found

    loader["__salt__"]["mine.get"] = get
    loader.next_run(mailsrv={"nsd": given} if given is not None else {})
    (fault,) = nsd.plan()["faults"]
    target = (given or {}).get("machines")
    assert asked == [(target or "*", "glob")]
    said = f"{target!r} lets any of these own any domain" if target else "is missing"
    shown = "{mx1.example.net: [example.com, example.net], mx2.example.net: [example.org]}"
    assert fault == (
        f"mailsrv:nsd:machines: {said}; say who may publish what, as the mine has it, which is "
        f"what they say themselves: machines: {shown}"
    )
    assert yaml.safe_load(fault.partition(": machines: ")[2]) == yaml.safe_load(shown)
    found.clear()
    (fault,) = nsd.plan()["faults"]
    assert fault.endswith("like this: machines: {mx1.example.net: [example.com]}")


def test_a_pillar_that_is_not_valid_asks_nobody(loader, known):
    loader["__salt__"]["mine.get"] = None
    loader.next_run(mailsrv={"nsd": {"nameservers": ["ns1"], "machines": OWNERS}})
    (fault,) = nsd.plan()["faults"]
    assert fault.startswith("mailsrv:nsd:nameservers: 'ns1' is not a host name")


def test_a_system_without_nsd_is_named(loader, known):
    del known()["nsd"]
    loader.next_run(mailsrv={"nsd": {"nameservers": SERVERS}})
    assert nsd.plan()["faults"] == ["mailsrv.nsd: this formula does not know NSD on Debian"]
