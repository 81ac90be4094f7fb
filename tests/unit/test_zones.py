"""Zones made of what other machines put into the mine: records, and nothing else."""

import copy
import re
import time

import pytest

from saltext.mailsrv.modules import dkim, nsd

SERVERS = ["ns1.example.net", "ns2.example.net"]
A = {"name": "mx.example.com.", "type": "A", "value": "192.0.2.1"}
B = A | {"name": "mx.example.org."}


@pytest.fixture(autouse=True)
def siblings(monkeypatch):
    monkeypatch.setattr(nsd, "__salt__", {"dkim.strings": dkim.strings}, raising=False)


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
    return {"example.com": [*of("example.com"), A, aaaa, tlsa], "test.com": of("test.com")}


def serial(text):
    return int(re.search(r"SOA.*\( (\d+) ", text)[1])


def refused(zones):
    assert all(bool(zone["fault"]) is not bool(zone["text"]) for zone in zones.values())
    return {domain: zone["fault"] for domain, zone in zones.items() if zone["fault"]}


def test_a_name_server_loads_the_zones_of_a_mail_machine(records, load_zone, tmp_path):
    zones = nsd.zones({"mx1": records}, SERVERS, tmp_path)
    assert sorted(zones) == ["example.com", "test.com"]
    assert not refused(zones)
    for domain, zone in zones.items():
        load_zone(domain, zone["text"])


def test_the_serial_rises_with_a_change_and_stays_without(records, tmp_path):
    first = nsd.zone("example.com", records["example.com"], SERVERS)
    assert serial(first) == int(time.strftime("%Y%m%d00", time.gmtime()))
    assert nsd.zone("example.com", records["example.com"], SERVERS, first) == first
    changed = copy.deepcopy(records["example.com"])
    changed[0]["value"] = "20 mx.example.com."
    second = nsd.zone("example.com", changed, SERVERS, first)
    assert "MX\t20 " in second
    assert serial(second) == serial(first) + 1
    for number in ("2099010100", "1"):
        later = nsd.zone("example.com", changed, SERVERS, re.sub(r"\( \d+", f"( {number}", first))
        assert serial(later) > max(int(number), serial(first) - 1)
    (tmp_path / "example.com.zone").write_text(first)
    again = nsd.zones({"mx1": records}, SERVERS, tmp_path)
    assert (again["example.com"]["text"], again["example.com"]["stands"]) == (first, True)
    assert again["test.com"]["stands"] is False


def test_a_domain_of_two_machines_is_nobodys(records, tmp_path):
    mine = {"mx1": records, "mx2": {"test.com": records["test.com"]}}
    assert refused(nsd.zones(mine, SERVERS, tmp_path))["test.com"] == (
        "test.com: mx1 and mx2 both publish it; remove it from the pillar of one of them"
    )


def test_a_name_server_in_the_zone_needs_its_address_there(records, tmp_path):
    zones = nsd.zones({"mx1": records}, ["ns1.test.com", "mx.example.com"], tmp_path)
    assert refused(zones) == {
        "test.com": "test.com: its name server ns1.test.com has no address in it; "
        "name a host elsewhere in mailsrv:nsd:nameservers"
    }


def test_a_record_of_another_zone_is_left_out(load_zone):
    pointer = {"name": "1.2.0.192.in-addr.arpa.", "type": "PTR", "value": "mx.example.com."}
    text = nsd.zone("example.com", [A, pointer], SERVERS)
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
        {"name": "mx.example.org."},
        {},
        "A",
    ],
    ids=str,
)
def test_what_is_no_record_refuses_the_zone_of_its_machine_alone(records, tmp_path, record):
    mine = {"mx1": records, "mx2": {"example.org": [B, record]}}
    (fault,) = refused(nsd.zones(mine, SERVERS, tmp_path)).values()
    assert fault.startswith("example.org: ")
    assert "\n" not in fault


@pytest.mark.parametrize("published", ["a string", None, {"../../etc/cron.d/x": [B]}, {"": [B]}])
def test_what_names_no_domain_makes_no_file(tmp_path, published):
    assert nsd.zones({"mx1": published}, SERVERS, tmp_path) == {}
