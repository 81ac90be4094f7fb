"""Two name servers on a Salt master: the second has the zones from the first, signed or not."""

import base64
import concurrent.futures
import contextlib
import json
import os
import socket
from types import SimpleNamespace

import dns.dnssec
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.xfr
import dns.zone
import pytest

from fleet import Fleet, call, install_salt
from lab import HEAD
from spy import Spy
from wire import until

pytestmark = pytest.mark.lab

DOMAIN = "shop.names.example"
TLSA = f"_25._tcp.mx.{DOMAIN}"
REPORTS = f"_smtp._tls.{DOMAIN}"
CONFIG, KEPT = "/etc/nsd/nsd.conf.d/mailsrv.conf", "/var/lib/mailsrv/nsd.conf"
TSIG, STRANGE = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))


@pytest.fixture(scope="module")
def servers(lab, copy):
    """
    The first name server, on Debian 13, which is the machine of the domain and the master, too; the
    second on Debian 12; and what was seen while they were made that.
    """
    ns1 = lab.machine("trixie", "ns1.names.example")
    ns2 = lab.machine("bookworm", "ns2.names.example")
    both = [ns1, ns2]
    hosts = "".join(f"{machine.fqdn}. A {machine.address}\n" for machine in both)
    hosts += "".join(f"{DOMAIN}. NS {machine.fqdn}.\n" for machine in both)

    def delegate(ds=()):
        """What the parent says of the domain."""
        lab.dns.serve("names.example", HEAD + hosts + "".join(f"{DOMAIN}. DS {d}\n" for d in ds))

    delegate()
    lab.gateway.zones[dns.name.from_text(DOMAIN)] = ns1.address
    alone = {"machines": {ns1.fqdn: [DOMAIN]}}
    pair = alone | {"nameservers": [{m.fqdn: m.address} for m in both], "tsig": TSIG}
    first = {
        "domains": [DOMAIN],
        "accounts": [],
        "mine_functions": {"mailsrv.dns": []},
        "mailsrv": {"hostname": f"mx.{DOMAIN}", "nsd": pair, "dns": {"dane": True}},
    }
    with concurrent.futures.ThreadPoolExecutor() as pool:
        other = pool.submit(install_salt, lab, ns2)
        install_salt(lab, ns1)
        other.result()
        fleet = Fleet(ns1)
        fleet.join(ns1, ["mailsrv.genkeys", "mailsrv.nsd"], first)
        fleet.join(ns2, ["mailsrv.nsd"], {"mailsrv": {"nsd": pair}})
        fleet.salt(ns1.fqdn, "saltutil.sync_all")
        fleet.salt(ns1.fqdn, "state.apply", "mailsrv.genkeys,mailsrv.tls")
        assert fleet.salt(ns1.fqdn, "mine.update") is True
        with Spy(ns1, TSIG) as spy, Spy(ns2, TSIG) as other_spy:
            other = pool.submit(fleet.highstate, ns2.fqdn)
            told = [fleet.highstate(ns1.fqdn), other.result()]
    yield SimpleNamespace(
        **{"fleet": fleet, "ns1": ns1, "ns2": ns2, "both": both, "first": first, "alone": alone},
        delegate=delegate,
        told=json.dumps(told),
        seen=spy.seen + other_spy.seen,
    )
    del lab.gateway.zones[dns.name.from_text(DOMAIN)]
    for machine in both:
        machine.stop()


def publish(servers, **options):
    """Change what the machine publishes of its domain, and run; the states that changed."""
    fleet, ns1 = servers.fleet, servers.ns1
    given = fleet.pillar(ns1.fqdn)
    mailsrv = given["mailsrv"] | {"dns": {"dane": True, **options}}
    fleet.assign(ns1.fqdn, given | {"mailsrv": mailsrv})
    fleet.salt(ns1.fqdn, "saltutil.refresh_pillar", "wait=True")
    assert fleet.salt(ns1.fqdn, "mine.update") is True
    return {*fleet.highstate(ns1.fqdn)}


def shown(server, name, kind):
    """What a name server says of that name with authority, as text; None where it says nothing."""
    query = dns.message.make_query(name, kind)
    try:
        answer = server.lab.outside.call(dns.query.udp, query, server.address, timeout=2)
    except (OSError, dns.exception.Timeout):
        return None
    known = answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    if not (known and answer.flags & dns.flags.AA):
        return None
    return sorted(str(record) for found in answer.answer for record in found)


def serves(server):
    return shown(server, DOMAIN, "MX") == [f"10 mx.{DOMAIN}."]


def transferred(host, server, secret=None):
    """The zone as that host gets it by AXFR; or why it does not, an exception."""
    query = dns.message.make_query(DOMAIN, "AXFR")
    if secret:
        keys = dns.tsigkeyring.from_text({"mailsrv": ("hmac-sha256", secret)})
        query.use_tsig(keys, algorithm=dns.tsig.HMAC_SHA256)
    zone = dns.zone.Zone(DOMAIN)
    try:
        host.call(dns.query.inbound_xfr, server.address, zone, query, timeout=5)
    except (dns.xfr.TransferError, dns.exception.DNSException, OSError) as exc:
        return exc
    return zone


def having(machine):
    """The files that hold the secret, with mode and owner; it is in no log."""
    places = "/etc /var/lib /var/log /var/cache/salt/minion /var/tmp /tmp /run /root"
    find = f'grep -rlFs "$0" {places} | grep -vx /etc/salt/master | xargs -r stat -c "%a %U:%G %n"'
    logged = machine.run(["sh", "-c", 'journalctl | grep -cF "$0"', TSIG], check=False).stdout
    assert logged == "0\n"
    return sorted(machine.run(["sh", "-c", find, TSIG]).stdout.splitlines())


def test_the_secret_is_shown_to_nobody(servers):
    assert servers.seen == []
    assert TSIG not in servers.told
    for machine in servers.both:
        assert having(machine) == [f"600 root:root {KEPT}", f"640 root:nsd {CONFIG}"]
        plan = json.dumps(servers.fleet.salt(machine.fqdn, "nsd.plan"))
        assert DOMAIN in plan
        assert TSIG not in plan


def test_a_new_record_is_at_the_second_name_server_within_seconds(servers):
    fleet, ns1, ns2 = servers.fleet, servers.ns1, servers.ns2
    changed = {f"mailsrv-nsd-zone-{DOMAIN}", "mailsrv-nsd-service"}

    def there(*values):
        return lambda: shown(ns2, REPORTS, "TXT") == [*values]

    until(there(), 20, "the zone does not come")
    assert publish(servers, tls_reports="tls@elsewhere.example") == changed
    until(there('"v=TLSRPTv1; rua=mailto:tls@elsewhere.example"'), 10, "it does not come")
    assert publish(servers) == changed
    until(there(), 10, "it does not go")
    assert fleet.highstate(ns2.fqdn) == {}
    assert shown(ns2, DOMAIN, "NS") == [f"{ns1.fqdn}.", f"{ns2.fqdn}."]


def test_who_is_no_name_server_of_ours_or_has_no_key_gets_no_zone(lab, servers):
    assert len(transferred(servers.ns2, servers.ns1, TSIG).nodes) > 5
    for host, secrets in ((servers.ns2, (STRANGE, None)), (lab.outside, (TSIG, STRANGE, None))):
        for secret in secrets:
            for server in servers.both:
                found = transferred(host, server, secret)
                assert isinstance(found, Exception), (host.fqdn, server.fqdn)


def test_the_second_name_server_serves_on_while_the_first_is_off(servers):
    ns1, ns2 = servers.both
    until(lambda: serves(ns2), 20, "the zone does not come")
    # What came is on the disk within a minute.
    kept = ["test", "-s", f"/var/lib/nsd/mailsrv/{DOMAIN}.zone"]
    until(lambda: not ns2.run(kept, check=False).returncode, 90, "the zone is not kept")
    ns1.run("systemctl stop nsd")
    try:
        assert serves(ns2)
        ns2.run("systemctl kill --signal=KILL nsd; systemctl restart nsd")
        until(lambda: serves(ns2), 10, "the zone is lost")
        assert not serves(ns1)
    finally:
        ns1.run("systemctl start nsd")
        until(lambda: serves(ns1), 10, "the first name server does not come back")


def test_without_the_key_in_the_pillar_the_secret_is_gone_and_no_zone_is_passed_on(servers):
    fleet, (ns1, ns2) = servers.fleet, servers.both
    before = [fleet.pillar(machine.fqdn) for machine in servers.both]
    nsd = servers.alone | {"nameservers": [machine.fqdn for machine in servers.both]}
    for machine, pillar in zip(servers.both, before, strict=True):
        fleet.assign(machine.fqdn, pillar | {"mailsrv": pillar["mailsrv"] | {"nsd": nsd}})
    try:
        for machine in servers.both:
            assert TSIG not in json.dumps(fleet.highstate(machine.fqdn))
            assert having(machine) == []
            assert fleet.highstate(machine.fqdn) == {}
        assert isinstance(transferred(ns2, ns1, TSIG), Exception)
        assert serves(ns1)
    finally:
        for machine, pillar in zip(servers.both, before, strict=True):
            fleet.assign(machine.fqdn, pillar)
            fleet.highstate(machine.fqdn)
    until(lambda: serves(ns2), 20, "the zone does not come back")


def answered(server, name, kind, address=None):
    """What a name server says of that name, with the signatures."""
    asked = dns.message.make_query(name, kind, want_dnssec=True)
    return server.lab.outside.call(dns.query.tcp, asked, address or server.address, timeout=5)


def validated(server, ds, *questions):
    """
    What a name server shows, each set of records validated by the key of these DS records: answers,
    and where there is none, what proves it. A KeyError where it is not signed.
    """
    apex, result = dns.name.from_text(DOMAIN), []
    (keys, *_), found = answered(server, DOMAIN, "DNSKEY").answer, []
    for key in keys:
        made = dns.dnssec.make_ds(apex, key, "SHA256").to_text().split()
        found += [key] * (f"{' '.join(made[:3])} {''.join(made[3:])}" in ds)
    assert found, (ds, keys)
    trusted = {apex: dns.rrset.from_rdata_list(apex, 3600, found)}
    for name, kind in ((DOMAIN, "DNSKEY"), *questions):
        reply = answered(server, name, kind)
        sets = [*reply.answer, *reply.authority]
        signatures = {(r.name, r.covers): r for r in sets if r.rdtype == dns.rdatatype.RRSIG}
        for records in sets:
            if records.rdtype != dns.rdatatype.RRSIG:
                dns.dnssec.validate(records, signatures[records.name, records.rdtype], trusted)
                trusted |= {apex: records} if records.rdtype == dns.rdatatype.DNSKEY else {}
        result.append(reply)
    return result[1:]


def proven(server, ds):
    """Senders can rely on what is there, the record of DANE, and on what is not there."""
    tlsa, missing, empty = validated(
        server, ds, (TLSA, "TLSA"), (f"n.{DOMAIN}", "A"), (DOMAIN, "CAA")
    )
    assert {r.rdtype for r in tlsa.answer} == {dns.rdatatype.TLSA, dns.rdatatype.RRSIG}
    assert (missing.rcode(), empty.rcode()) == (dns.rcode.NXDOMAIN, dns.rcode.NOERROR)
    for reply in (missing, empty):
        assert not reply.answer
        assert dns.rdatatype.NSEC in {r.rdtype for r in reply.authority}


def renews(server):
    """Whether the signer renews what is good for two weeks when a week is left."""
    return "re-sign: +6D" in server.run("knotc -c /etc/knot/mailsrv.conf zone-status").stdout


def is_signed(server):
    return lambda: len(answered(server, DOMAIN, "SOA").answer) == 2


def serial(server):
    return int(shown(server, DOMAIN, "SOA")[0].split()[2])


def sign(servers, machine, dnssec, **nsd):
    given = servers.fleet.pillar(machine.fqdn)
    nsd = {key: value for key, value in given["mailsrv"]["nsd"].items() if key != "dnssec"} | nsd
    nsd |= {"dnssec": True} if dnssec else {}
    servers.fleet.assign(machine.fqdn, given | {"mailsrv": given["mailsrv"] | {"nsd": nsd}})


def run(servers, machine):
    """A run in which states may fail: those that changed, and what those say that failed."""
    states = servers.fleet.salt(machine.fqdn, "state.highstate").values()
    failed = [state["comment"] for state in states if not state["result"]]
    return {state["__id__"] for state in states if state["changes"]}, failed


@pytest.fixture(scope="module")
def ds(servers):
    """The zone is signed: the DS records."""
    fleet, (ns1, ns2) = servers.fleet, servers.both
    unsigned = serial(ns1)
    for machine in servers.both:
        sign(servers, machine, True)
    # With a change, since the second one made the zone itself for a while, with its own serial.
    assert "mailsrv-signer-service" in publish(servers, tls_reports="tls@elsewhere.example")
    for server in servers.both:
        until(is_signed(server), 30, f"{server.fqdn} does not have the signed zone")
    assert serial(ns1) > unsigned
    assert fleet.highstate(ns1.fqdn) == fleet.highstate(ns2.fqdn) == {}
    found = call(ns1, "nsd.ds", DOMAIN)[DOMAIN]
    assert (found["parent"], found["says"]) == ([], f"give it to the registrar of {DOMAIN}")
    (record,) = found["ds"]
    return [record]


def test_a_signed_zone_is_validated_at_both_name_servers(servers, ds):
    for server in servers.both:
        proven(server, ds)
    ns1 = servers.ns1
    assert renews(ns1)
    (finding,) = [f for f in call(ns1, "mailcheck.dns")[DOMAIN] if "DNSSEC" in f["says"]]
    assert (finding["need"], finding["type"]) == ("recommended", "TLSA")
    servers.delegate([f"{ds[0][:-2]}00"])
    assert "has a DS record of another key" not in call(ns1, "nsd.ds")[DOMAIN]["says"]
    (finding,) = [f for f in call(ns1, "mailcheck.dns")[DOMAIN] if "DNSSEC" in f["says"]]
    assert (finding["need"], len(finding["servers"])) == ("required", 2)
    servers.delegate(ds)
    assert call(ns1, "nsd.ds") == {DOMAIN: {"ds": ds, "parent": ds, "says": "ok"}}
    assert "DNSSEC" not in json.dumps(call(ns1, "mailcheck.dns"))


@pytest.mark.usefixtures("ds")
def test_signatures_that_nobody_renews_are_told_of_both_name_servers(servers):
    ns1, knotc = servers.ns1, "knotc -c /etc/knot/mailsrv.conf"
    short = "s/rrsig-lifetime: 14d/rrsig-lifetime: 5d/; s/rrsig-refresh: 7d/rrsig-refresh: 1d/"
    ns1.run(["sed", "-i", short, "/etc/knot/mailsrv.conf"])
    ns1.run(f"{knotc} reload; {knotc} zone-sign {DOMAIN}")

    def told():
        return call(ns1, "nsd.ds")[DOMAIN]["says"]

    until(lambda: told().count("has signatures that nobody renews") == 2, 30, "nothing is told")
    assert told().startswith("FAULT: ")
    assert {*servers.fleet.highstate(ns1.fqdn)} >= {"mailsrv-signer-config"}
    ns1.run(f"{knotc} zone-sign {DOMAIN}")
    until(lambda: told() == "ok", 30, "they are not renewed")


@pytest.mark.usefixtures("ds")
def test_a_configuration_that_is_none_for_the_signer_is_refused(servers):
    fleet, ns1 = servers.fleet, servers.ns1
    config = "/etc/knot/mailsrv.conf"
    low = fleet.salt(ns1.fqdn, "state.show_low_sls", "mailsrv.nsd")
    (check,) = [chunk["check_cmd"] for chunk in low if chunk["name"] == config]
    for text, refused in (("nonsense: [\n", True), (ns1.get(config), False)):
        ns1.put("/root/candidate", text)
        assert bool(ns1.run(f"{check} /root/candidate", check=False).returncode) == refused


def test_the_keys_are_readable_by_the_signer_alone(servers, ds):
    top = "/var/lib/mailsrv-signer"
    ns1 = servers.ns1
    assert ns1.run(f"stat -c '%a %U' {top}").stdout == "700 knot\n"
    assert ns1.run(f"find {top}/keys -name '*.pem' -perm /007").stdout == ""
    private = ns1.run(f"cat {top}/keys/keys/*.pem").stdout.splitlines()[1]
    find = ["sh", "-c", 'grep -rlFs "$0" /etc /var /tmp /run /root', private]
    (path,) = ns1.run(find).stdout.splitlines()
    assert path.startswith(top)
    # Nobody but this machine can ask the signer.
    for kind in (dns.query.tcp, dns.query.udp):
        with pytest.raises((OSError, dns.exception.Timeout)):
            servers.ns2.call(
                kind, dns.message.make_query(DOMAIN, "SOA"), ns1.address, timeout=1, port=54
            )


def test_a_new_record_is_signed_while_the_signer_is_killed_and_fed_with_garbage(servers, ds):
    ns1 = servers.ns1

    def garbage():
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as peer:
                peer.settimeout(5)
                peer.connect(("127.0.0.1", 54))
                for size in (0, 1, 11, 12, 600, 20000):
                    with contextlib.suppress(OSError):  # it hangs up
                        peer.send(os.urandom(size))

    pid = "systemctl show -P MainPID mailsrv-signer"
    for value in ("a@elsewhere.example", "b@elsewhere.example"):
        ns1.call(garbage)
        ns1.run("systemctl kill --signal=KILL mailsrv-signer")
        assert shown(ns1, DOMAIN, "MX")  # nobody waits for the signer
        until(lambda: ns1.run(pid).stdout != "0\n", 20, "the signer does not come back")
        publish(servers, tls_reports=value)
        for server in servers.both:
            until(
                lambda server=server, value=value: value in str(shown(server, REPORTS, "TXT")),
                20,
                f"{server.fqdn} does not have {value}",
            )
            validated(server, ds, (REPORTS, "TXT"))
    for server in servers.both:
        proven(server, ds)
    assert servers.fleet.highstate(ns1.fqdn) == {}


def test_a_zone_is_unsigned_when_nobody_relies_on_it_any_more(servers, ds):
    ns1, ns2 = servers.both
    leaving = "/var/lib/mailsrv/nsd.leaving"
    sign(servers, ns1, False)
    changed, (said,) = run(servers, ns1)
    assert changed == set()
    assert said.startswith(f"mailsrv:nsd:dnssec: {DOMAIN} stays signed: its parent has a DS record")
    servers.delegate()
    assert run(servers, ns1) == ({"mailsrv-signer-leaving"}, [])
    assert run(servers, ns1) == (set(), [])
    proven(ns2, ds)
    ns1.run(["touch", "-d", "-47 hours", leaving])
    assert run(servers, ns1) == (set(), [])
    before = serial(ns1)
    ns1.run(["touch", "-d", "-49 hours", leaving])
    assert run(servers, ns1)[1] == []
    for server in servers.both:
        until(lambda server=server: not is_signed(server)(), 30, "it stays signed")
        assert serial(server) > before
        assert shown(server, TLSA, "TLSA")
    assert run(servers, ns1) == (set(), [])
    assert ns1.run("systemctl is-active mailsrv-signer", check=False).stdout == "inactive\n"
    # Who comes back has the same key.
    sign(servers, ns1, True)
    assert run(servers, ns1)[1] == []
    for server in servers.both:
        until(is_signed(server), 30, f"{server.fqdn} does not have the signed zone")
        proven(server, ds)


def test_debian_12_becomes_the_first_name_server_with_the_keys_of_the_other(servers, ds):
    ns1, ns2 = servers.both
    servers.delegate(ds)
    keys = "/var/lib/mailsrv-signer"
    ns1.run("systemctl stop mailsrv-signer")
    moved = ns1.run(f"tar -C {keys} -cSf - keys | base64").stdout
    ns1.run("systemctl start mailsrv-signer")
    ns2.run(f"mkdir -p {keys}; base64 -d | tar -C {keys} -xf -", input=moved)
    order = [{machine.fqdn: machine.address} for machine in (ns2, ns1)]
    for machine in servers.both:
        sign(servers, machine, True, nameservers=order)
    before = serial(ns1)
    assert run(servers, ns2)[1] == []
    changed, failed = run(servers, ns1)
    assert changed == set()
    assert f"{ns2.fqdn} is the first name server now; nothing is changed here" in str(failed)
    until(lambda: call(ns2, "nsd.ds")[DOMAIN]["says"] == "ok", 30, "the keys are not the same")
    ns1.run("systemctl disable --now mailsrv-signer; rm /etc/knot/mailsrv.conf")
    assert run(servers, ns1)[1] == []
    for server in servers.both:
        until(lambda server=server: serial(server) > before, 30, "it keeps its own zone")
        proven(server, ds)
    assert renews(ns2)
    assert run(servers, ns2) == run(servers, ns1) == (set(), [])
