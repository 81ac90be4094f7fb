"""Two name servers on a Salt master: the second one has the zones from the first one."""

import base64
import concurrent.futures
import json
import os
from types import SimpleNamespace

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.xfr
import dns.zone
import pytest

from fleet import Fleet, install_salt
from lab import HEAD
from spy import Spy
from wire import until

pytestmark = pytest.mark.lab

DOMAIN = "shop.example"
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
    lab.dns.serve("names.example", HEAD + hosts)
    alone = {"machines": {ns1.fqdn: [DOMAIN]}}
    pair = alone | {"nameservers": [{m.fqdn: m.address} for m in both], "tsig": TSIG}
    first = {
        "domains": [DOMAIN],
        "accounts": [],
        "mine_functions": {"mailsrv.dns": []},
        "mailsrv": {"hostname": f"mx.{DOMAIN}", "nsd": pair},
    }
    with concurrent.futures.ThreadPoolExecutor() as pool:
        other = pool.submit(install_salt, lab, ns2)
        install_salt(lab, ns1)
        other.result()
        fleet = Fleet(ns1)
        fleet.join(ns1, ["mailsrv.genkeys", "mailsrv.nsd"], first)
        fleet.join(ns2, ["mailsrv.nsd"], {"mailsrv": {"nsd": pair}})
        fleet.salt(ns1.fqdn, "saltutil.sync_all")
        fleet.salt(ns1.fqdn, "state.apply", "mailsrv.genkeys")
        assert fleet.salt(ns1.fqdn, "mine.update") is True
        with Spy(ns1, TSIG) as spy, Spy(ns2, TSIG) as other_spy:
            other = pool.submit(fleet.highstate, ns2.fqdn)
            told = [fleet.highstate(ns1.fqdn), other.result()]
    yield SimpleNamespace(
        **{"fleet": fleet, "ns1": ns1, "ns2": ns2, "both": both, "first": first, "alone": alone},
        told=json.dumps(told),
        seen=spy.seen + other_spy.seen,
    )
    for machine in both:
        machine.stop()


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

    def publish(**options):
        mailsrv = servers.first["mailsrv"] | {"dns": options}
        fleet.assign(ns1.fqdn, servers.first | {"mailsrv": mailsrv})
        fleet.salt(ns1.fqdn, "saltutil.refresh_pillar", "wait=True")
        assert fleet.salt(ns1.fqdn, "mine.update") is True
        assert {*fleet.highstate(ns1.fqdn)} == {
            f"mailsrv-nsd-zone-{DOMAIN}",
            "mailsrv-nsd-service",
        }

    def there(*values):
        return lambda: shown(ns2, REPORTS, "TXT") == [*values]

    until(there(), 20, "the zone does not come")
    publish(tls_reports="tls@elsewhere.example")
    until(there('"v=TLSRPTv1; rua=mailto:tls@elsewhere.example"'), 10, "it does not come")
    publish()
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
