"""A certificate that comes by itself, from a real CA: pebble, Let's Encrypt's own for tests."""

import contextlib
import hashlib
import http.client
import json
import re
import socket
import ssl
import time
from contextlib import contextmanager

import dns.name
import pytest
from cryptography.hazmat.primitives import serialization

from authority import Authority, cert_pem, fingerprint, trusted
from ca import DIRECTORY, EAB
from lab import HEAD, NS
from spy import Spy
from wire import inside, sh, until

pytestmark = pytest.mark.lab

DAY = 86400
TLS = "/etc/mail/tls/{}.acme"
SAID = "/var/lib/mailsrv/acme/said"
CA = "/etc/ssl/lab-ca.pem"


class Acme:
    """A server that gets its certificate from the lab's CA."""

    def __init__(self, server, pebble):
        self.server, self.pebble = server, pebble
        self.machine, self.host = server.machine, server.machine.fqdn
        self.stem = TLS.format(self.host)
        self.settings = {"email": "admin@elsewhere.example", "server": DIRECTORY, "ca": CA}
        self.settings["caa"] = "ca.example"

    @contextmanager
    def running(self, **options):
        with self.pebble.running(**options):
            self.machine.put(CA, self.pebble.https + self.pebble.root)
            yield

    def pillar(self, dns=None, web=False, **acme):
        """Write it; the next run is the test's."""
        settings = {"tls": {"acme": {**self.settings, **acme}}, "dns": dns or {}, "web": web}
        self.server.write_pillar({**self.server.pillar, "mailsrv": settings})

    def at(self, time):
        """Have the timer wait so long for its first time."""
        drop_in = f"[Timer]\nOnActiveSec=\nOnActiveSec={time}\nRandomizedDelaySec=0\n"
        self.machine.put("/run/systemd/system/mailsrv-acme.timer.d/lab.conf", drop_in)
        self.machine.run("systemctl daemon-reload")

    def look(self):
        """As the timer does."""
        self.machine.run("systemctl start mailsrv-acme.service")
        return json.loads(self.machine.get(SAID))

    def served(self):
        """The fingerprint that every port serves, as soon as it is the same."""

        def same():
            try:
                found = {self.server.certificate(port) for port in (25, 465, 993, 143)}
            except OSError:
                return None  # smtpd restarts
            return found.pop() if len(found) == 1 else None

        return until(same, 20, "ports serve different certificates")

    def standing(self):
        """The fingerprint of what stands on the disk, and the key."""
        return fingerprint(self.machine.get(f"{self.stem}.crt")), self.machine.get(
            f"{self.stem}.key"
        )

    def self_sign(self):
        """As on the first day, with the same key."""
        self.machine.run(
            f"openssl req -x509 -key {self.stem}.key -days 3650 -subj /CN=mail -addext"
            f" subjectAltName=DNS:{self.host} -out {self.stem}.crt"
        )

    def check(self):
        return self.server.salt("mailcheck.run", "free=1", check=False)["certificate"]


@pytest.fixture(scope="module", params=["two"], ids=["trixie"])
def acme(request, pebble):
    """On Debian 13, and on 12 what differs there: lego, OpenSSL and nginx."""
    server = request.getfixturevalue(request.param)
    acme = Acme(server, pebble.brought(server.machine))
    acme.machine.put(CA, pebble.https)
    acme.at("1d")  # the tests look themselves
    acme.machine.run("rm -f /etc/mail/tls/*.copy.*")  # of another test: a run begins with that
    before = server.certificate(993)
    acme.pillar()
    changed = server.highstate()
    assert changed["mailsrv-tls-begun"]["changes"] == {
        "certificate": f"that of /etc/mail/tls/{acme.host}.crt"
    }
    # The run has waited for nobody: clients see what they saw.
    assert acme.served() == before
    assert server.highstate() == {}
    yield acme
    acme.machine.run("rm -r /run/systemd/system/mailsrv-acme.timer.d && systemctl daemon-reload")
    server.write_pillar(server.pillar)
    server.highstate()
    until(lambda: server.certificate(993) == before, 10, "the self-signed one is not back")
    assert server.highstate() == {}
    gone = "ls -d /etc/mail/acme.* /etc/systemd/system/*acme* /etc/systemd/system/*/*acme*"
    assert not acme.machine.run(gone, check=False).stdout
    acme.machine.run(f"rm -rf /var/lib/mailsrv/acme /etc/mail/tls/*.acme.* {CA}")


ON_BOTH = pytest.mark.parametrize("acme", ["one", "two"], ids=["bookworm", "trixie"], indirect=True)


@ON_BOTH
def test_it_is_had_and_renewed_with_the_same_key_and_every_run_has_nothing_to_do(acme):
    server = acme.server
    # The CA is down: that is said, and what is served stays.
    before = acme.served()
    assert acme.look()["said"].startswith("acme.ca.example:14000 does not answer: ")
    assert acme.check().startswith("WARNING: until ")
    assert "self-signed since " in acme.check()
    with acme.running(life=90 * DAY, PEBBLE_WFE_NONCEREJECT=15, PEBBLE_AUTHZREUSE=100):
        assert server.salt("certificate.renew") == "the certificate is as it shall be"
        first, key = acme.standing()
        assert acme.served() == first != before
        assert server.faults() == {}
        assert acme.check().startswith("ok: until 20")
        assert server.highstate() == {}
        # Nobody asks again while it will do.
        orders = acme.pebble.log().count("order")
        acme.look()
        assert acme.pebble.log().count("order") == orders
    # A month without the CA, by the clock of the certificate: it has two thirds of its life behind
    # it and is served on, and the sentence is there.
    aged(acme)
    memory = acme.look()
    assert memory["said"].startswith("acme.ca.example:14000 does not answer: ")
    assert acme.check().startswith("WARNING: until 20")
    assert f"not renewed since {memory['since']}: acme.ca.example:14000 does" in acme.check()
    assert acme.look()["again"] == memory["again"]
    # It is there again, and has forgotten every account.
    with acme.running(
        life=90 * DAY, PEBBLE_WFE_NONCEREJECT=15, PEBBLE_VA_NOSLEEP=0, PEBBLE_VA_SLEEPTIME=3
    ):
        assert server.salt("certificate.renew") == "the certificate is as it shall be"
        second, same = acme.standing()
        assert (acme.served(), same) == (second, key)
        assert second != first
        assert server.highstate() == {}
        assert server.faults() == {}


def aged(acme):
    """Have what is served be of the last third of its life, as a month after the CA went down."""
    authority = Authority()
    key = serialization.load_pem_private_key(acme.standing()[1].encode(), None)
    leaf, _ = authority.issue(acme.host, key=key, begins=-70, ends=20)
    acme.machine.put(f"{acme.stem}.crt", cert_pem(leaf, authority.intermediate))


@contextmanager
def zone(acme, lines):
    """While DNS says that of the server's zone."""
    domain = acme.host.partition(".")[2]
    acme.server.lab.dns.serve(domain, HEAD + lines)
    try:
        yield
    finally:
        acme.server.publish()


def test_why_there_is_none_is_said_in_one_sentence(acme):
    host, short = acme.host, acme.host.partition(".")[0]
    acme.self_sign()
    before = acme.standing()
    with zone(acme, f"{short} A 198.51.100.100\n"):
        assert acme.look()["said"].startswith(
            f"{host} leads to 198.51.100.100, which is not this machine; correct DNS"
        )
    with zone(acme, f"{short} A {acme.machine.address}\n{short} AAAA 2001:db8::1\n"):
        assert acme.look()["said"].startswith(f"{host} leads to 2001:db8::1, which is not")
    with zone(acme, "www A 198.51.100.100\n"):
        said = acme.look()["said"]
        assert said == f"{host} leads to no address in DNS yet; publish what mailsrv.dns says"
        assert said in acme.check()
    acme.machine.run("systemd-run --quiet --unit=web python3 -m http.server 80; sleep 1")
    assert acme.look()["said"].startswith("port 80 of this machine, where the CA asks, is taken")
    acme.machine.run("systemctl stop web")
    with acme.running():
        # A firewall, as the world sees it.
        firewall = "iptables -{} INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset"
        with inside(acme.machine.network):
            sh(firewall.format("I"))
        try:
            said = acme.server.salt("certificate.renew", check=False)
        finally:
            with inside(acme.machine.network):
                sh(firewall.format("D"))
        assert said.startswith(f"acme.ca.example:14000 does not reach port 80 of {host}; open it")
        # It is not asked again at once, unless somebody says so.
        tries = acme.look()["tries"]
        assert acme.look()["tries"] == tries
        assert acme.standing() == before
        assert acme.server.salt("certificate.renew") == "the certificate is as it shall be"


def test_killed_at_any_moment_it_goes_on(acme):
    with acme.running():
        for seconds in (0.2, 0.6, 1, 1.5, 2.5):
            acme.self_sign()
            # One that was stopped while it asked waits before it asks again.
            acme.machine.run(
                "rm -f /var/lib/mailsrv/acme/said; systemctl start --no-block mailsrv-acme.service;"
                f" sleep {seconds}; systemctl kill -s KILL mailsrv-acme.service",
                check=False,
            )
            assert acme.server.highstate().keys() <= {
                "mailsrv-dovecot-service",
                "mailsrv-opensmtpd-service",
            }
        assert acme.server.salt("certificate.renew") == "the certificate is as it shall be"
        assert acme.served() == acme.standing()[0]
        # If the last one was killed, that is known until it comes the next time.
        assert acme.server.faults().keys() <= {"timers"}
        assert acme.look()["said"] == ""
        assert acme.server.faults() == {}


def test_another_kind_of_key_another_challenge_and_an_account_of_its_own(acme):
    before = acme.standing()
    with acme.running(eab=True):
        acme.pillar(challenge="tls-alpn-01", key="ecdsa")
        acme.server.highstate()
        assert acme.look()["said"] == (
            "acme.ca.example:14000 wants an account of its own; set mailsrv:tls:acme:eab"
        )
        acme.pillar(challenge="tls-alpn-01", key="ecdsa", eab=EAB)
        with Spy(acme.machine, EAB["hmac"]) as spy:
            acme.server.highstate()
            assert acme.look()["said"] == ""
        assert spy.seen == []
        served, key = acme.standing()
        assert (served != before[0], key != before[1]) == (True, True)
        assert acme.served() == served
        assert acme.server.highstate() == {}
        text = f"openssl x509 -in {acme.stem}.crt -noout -text"
        assert "id-ecPublicKey" in acme.machine.run(text).stdout
    acme.pillar()
    acme.server.highstate()


SECRET = "c2VjcmV0IG9mIHRoZSBsYWIsIGJhc2U2NA=="
KNOT = """server:
    listen: {address}@53
key:
  - id: acme
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: acme
    key: acme
    action: update
zone:
  - domain: {zone}
    file: /var/lib/knot/zone
    acl: acme
"""


def test_where_no_port_is_open_a_name_server_is_told(acme):
    """A real one that takes updates: knot, with a zone of its own for the challenge."""
    machine, host = acme.machine, acme.host
    name = f"_acme-challenge.{host}"
    machine.run("apt-get install -y --no-install-recommends knot && systemctl stop knot")
    machine.put(
        "/var/lib/knot/zone",
        f"$TTL 60\n@ SOA {host}. root 1 60 60 600 60\n@ NS {host}.\n",
    )
    machine.put(
        "/etc/knot/knot.conf", KNOT.format(address=machine.address, secret=SECRET, zone=name)
    )
    machine.run("chown -R knot: /var/lib/knot /etc/knot && systemctl start knot")
    zones = acme.server.lab.gateway.zones
    others = dict(zones)
    zones.clear()
    zones.update({dns.name.from_text(name): machine.address, **others})
    acme.self_sign()
    try:
        with acme.running(), Spy(machine, SECRET) as spy:
            acme.pillar(
                challenge="dns-01",
                provider="rfc2136",
                settings={
                    "RFC2136_NAMESERVER": machine.address,
                    "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
                    "RFC2136_TSIG_KEY": "acme",
                    "RFC2136_TSIG_SECRET": SECRET,
                },
            )
            acme.server.highstate()
            said = acme.look()["said"]
            assert said == ""
        assert spy.seen == []
        assert acme.served() == acme.standing()[0]
    finally:
        zones.clear()
        zones.update(others)
        machine.run("systemctl disable --now knot")
        acme.pillar()
        acme.server.highstate()


def test_a_next_key_is_used_when_every_server_has_shown_it_for_a_while(acme, name_servers):
    """With DANE, a key whose record is not everywhere is a mail server that nobody writes to."""
    server, (first, second) = acme.server, name_servers
    domain = acme.host.partition(".")[2]
    record = f"_25._tcp.{acme.host}."

    def publish(*servers):
        text = server.salt("mailsrv.zone", domain)
        for name_server in servers:
            name_server.serve(domain, text)

    def records():
        found = server.salt("mailsrv.dns", domain)[domain]
        return [r["value"] for r in found if r["name"] == record]

    acme.pillar(dns={"dane": True, "nameservers": [f"{name}.provider.example" for name in NS]})
    server.highstate()
    publish(server.lab.dns, first, second)
    (old,) = records()
    with acme.running():
        said = server.salt("certificate.renew", "new_key=True")
        assert said.startswith("the certificate is as it shall be; the next key waits for its TLSA")
        served, key = acme.standing()
        assert records() == [old, (new := records()[1])]
        # One of two lags behind.
        publish(server.lab.dns, first)
        assert "mailsrv-acme-next-key" not in server.highstate()
        publish(second)
        assert server.highstate()["mailsrv-acme-next-key"]["changes"] == {"shown": True}
        assert server.highstate() == {}
        # Resolvers may still remember how it was.
        acme.look()
        assert acme.standing() == (served, key)
        hours = f"echo $(($(date +%s) - 7200)) > {acme.stem}.next.shown"
        acme.machine.run(hours)
        acme.look()
        assert records() == [new]
        assert acme.served() == acme.standing()[0] != served
        assert server.highstate() == {}
    # All is there, but the zone is not signed.
    (unsigned,) = server.salt("mailcheck.dns", domain, check=False)[domain]
    assert (unsigned["name"] + ".", unsigned["need"]) == (record, "recommended"), unsigned
    # One of two lets another CA issue for the whole domain, and ours for nothing.
    text = server.salt("mailsrv.zone", domain)
    barred, count = re.subn(r"(.*\tCAA\t)0 issue .*\n", '@ CAA 0 issue "other.example"\n', text)
    assert count == 1
    second.serve(domain, barred)
    found, other = server.salt("mailcheck.dns", domain, check=False)[domain]
    assert other == unsigned
    assert (found["fault"], found["need"], found["name"]) == ("wrong", "required", domain)
    assert found["says"] == (
        f"{domain} CAA is wrong at ns2.provider.example ({NS['ns2']}): it keeps the CA of "
        f"mailsrv:tls:acme from issuing for {acme.host}"
    )
    acme.pillar()
    server.highstate()
    server.publish()


class Web:
    """What the server serves, as the world sees it."""

    def __init__(self, acme):
        self.acme, self.host = acme, acme.host
        self.domains = acme.server.pillar["domains"]

    def context(self, latest=ssl.TLSVersion.TLSv1_3):
        """TLS of one who trusts the lab's CA."""
        context = ssl.create_default_context(cadata=self.acme.pebble.root)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if latest < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = latest
        context.maximum_version = latest
        return context

    def served(self):
        """The fingerprint of the certificate."""

        def shown():
            plain = socket.create_connection((self.host, 443), 20)
            name = f"mta-sts.{self.domains[0]}"
            with plain, self.context().wrap_socket(plain, server_hostname=name) as secured:
                return hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()

        return self.acme.server.lab.outside.call(shown)

    def ask(self, url, method="GET", name=None, **options):
        """Status, head and body; of the server's address for a name that DNS does not have."""
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")

        def asked():
            if scheme == "http":
                client = http.client.HTTPConnection(name or host, timeout=20)
            else:
                context = self.context(**options)
                client = http.client.HTTPSConnection(host, timeout=20, context=context)
            with contextlib.closing(client):
                client.request(method, f"/{path}", headers={"Host": host})
                answer = client.getresponse()
                return answer.status, answer.headers, answer.read().decode()

        return self.acme.server.lab.outside.call(asked)


@ON_BOTH
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_it_serves_policies_and_settings_with_it(acme):
    server, machine, lab, web = acme.server, acme.machine, acme.server.lab, Web(acme)
    acme.self_sign()
    acme.pillar(web=True, dns={"mta_sts": "testing"})
    changed = server.highstate()
    assert changed["mailsrv-web-service"]["changes"].keys() == {"reloaded"}
    server.publish()
    assert "mailsrv.web" in machine.get("/etc/nginx/sites-enabled/default")
    assert "WARNING: mta-sts." in server.salt("mailcheck.run", "free=1", check=False)["web"]
    with acme.running(life=90 * DAY):
        said = acme.look()["said"]
        assert said == ""
        assert acme.served() == acme.standing()[0] == web.served()
        assert server.faults() == {}
        assert server.highstate() == {}
        for domain in web.domains:
            policy, settings = server.salt("mailsrv.web", domain)[domain].items()
            # Another mail server: RFC 8461, section 3.
            (found,) = lab.lookup(f"_mta-sts.{domain}", "TXT")
            assert b"".join(found.strings).startswith(b"v=STSv1; id=")
            status, head, text = web.ask(policy[0])
            assert (status, head["Content-Type"], text) == (200, "text/plain", policy[1])
            # Thunderbird: its own address comes along.
            for url in (settings[0], settings[0].replace("https", "http")):
                status, head, text = web.ask(f"{url}?emailaddress=ann%40{domain}")
                assert (status, head["Content-Type"], text) == (200, "text/xml", settings[1])
                assert head["Server"] == "nginx"
    nothing_else(web)
    assert {*machine.run("ls /var/lib/mailsrv/web").stdout.split()} == {
        f"{name}.{domain}" for name in ("autoconfig", "mta-sts") for domain in web.domains
    }
    refuses_nonsense(server)
    with_a_certificate_of_ones_own(acme, web)
    acme.pillar()
    assert server.highstate()["mailsrv-web-retired"]["changes"]
    assert server.highstate() == {}
    until(lambda: not machine.run("ss -Hltn 'sport = :443'").stdout, 10, "nginx still listens")
    for place in ("/etc/nginx/sites-enabled", "/var/lib/mailsrv/web", "/run/mailsrv/web"):
        assert not machine.run(f"ls {place}", check=False).stdout
    beside_others(acme, web)
    machine.run("apt-get purge -y nginx nginx-common && rm -rf /etc/nginx")
    server.publish()


def nothing_else(web):
    """No other name, path, method or version."""
    policy = f"https://mta-sts.{web.domains[0]}/.well-known/mta-sts.txt"
    settings = f"http://autoconfig.{web.domains[0]}/mail/config-v1.1.xml"
    assert web.ask(policy, "HEAD")[::2] == (200, "")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        assert web.ask(policy, method)[0] in (403, 405)
        assert web.ask(settings, method)[0] in (403, 405)
    for path in ("", ".well-known/", "mail/", "../autoconfig/mail/", ".well-known/acme-challenge/"):
        for url in (policy, settings):
            top = "/".join(url.split("/")[:3])
            status, _, text = web.ask(f"{top}/{path}")
            assert status in (400, 403, 404)
            assert "nginx/" not in text
    here = web.host
    for name in ("mta-sts.elsewhere.example", here, f"mta-sts.{here}"):
        assert web.ask(f"http://{name}/mail/config-v1.1.xml", name=here)[0] == 404, name
    # The rest gets no answer at all, with and without TLS.
    for name in (
        "www.elsewhere.example",
        here.partition(".")[2],
        "autoconfig",
        "x.mta-sts.example",
    ):
        with pytest.raises(http.client.RemoteDisconnected):
            web.ask(f"http://{name}/mail/config-v1.1.xml", name=here)
    with pytest.raises(ssl.SSLError, match=r"UNRECOGNIZED_NAME"):
        web.ask(f"https://{here}/")
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL"):
        web.ask(policy, latest=ssl.TLSVersion.TLSv1_1)
    # By IPv6, too.
    ask = "import socket; print(socket.create_connection(('::1', {})))"
    for port in (80, 443):
        web.acme.machine.run(["python3", "-c", ask.format(port)])


def refuses_nonsense(server):
    """What nginx would not start with does not get there."""
    machine, site = server.machine, "/etc/nginx/sites-enabled/zz-mailsrv"
    (state,) = [
        state
        for state in server.salt("state.show_low_sls", "mailsrv.web")
        if state["__id__"] == "mailsrv-web-config"
    ]
    text = machine.get(site)
    for changed, fits in (
        (text, True),
        (text.replace("ssl_reject", "ssl_rejects"), False),
        (text.replace("listen 80;", "listen 80 default_server;"), False),
        ("", False),
    ):
        machine.put("/tmp/site", changed)
        ran = machine.run(f"{state['check_cmd']} /tmp/site", check=False)
        assert (ran.returncode == 0) == fits, ran
    assert "nginx.conf" not in machine.run("ls /tmp/tmp.*", check=False).stdout


def with_a_certificate_of_ones_own(acme, web):
    """Without a CA that is asked: what the administrator names is served, and the next one, too."""
    server, machine, authority = acme.server, acme.machine, Authority()
    acme.pebble.root = cert_pem(authority.root)
    paths = {"cert": "/etc/ssl/own.crt", "key": "/etc/ssl/own.key"}
    names = [f"{name}.{domain}" for name in ("autoconfig", "mta-sts") for domain in web.domains]
    settings = {"tls": paths, "web": True, "dns": {"mta_sts": "testing"}}
    with trusted(machine, authority):
        for alternatives in ([], names):
            cert, key = authority.pems(acme.host, *alternatives)
            machine.put(paths["key"], key)
            machine.run(f"chmod 600 {paths['key']}")
            machine.put(paths["cert"], cert)
            server.write_pillar({**server.pillar, "mailsrv": settings})
            assert server.highstate()["mailsrv-web-service"]["changes"].keys() == {"reloaded"}
            said = server.salt("mailcheck.run", "free=1", check=False)["web"]
            if not alternatives:  # mail goes on; what it lacks is said
                assert said.startswith(
                    f"WARNING: mta-sts.{web.domains[0]}: its certificate is of no"
                )
                assert "match" in said
        assert server.faults() == {}
        assert web.served() == fingerprint(cert)
        policy, text = next(
            iter(server.salt("mailsrv.web", web.domains[0])[web.domains[0]].items())
        )
        assert web.ask(policy)[::2] == (200, text)
        assert server.highstate() == {}


def beside_others(acme, web):
    """An administrator's nginx stays as it was."""
    server, machine = acme.server, acme.machine
    machine.run("ln -s ../sites-available/default /etc/nginx/sites-enabled/default")
    machine.put(
        "/etc/nginx/sites-enabled/www",
        "server { listen 80; server_name www.admin.example; return 200 theirs; }",
    )
    machine.run("systemctl restart nginx")
    acme.pillar(web=True)
    pid = machine.run("systemctl show -P MainPID nginx").stdout
    server.highstate()
    settings = f"http://autoconfig.{web.domains[0]}/mail/config-v1.1.xml"
    assert web.ask(settings)[0] == 200
    for key in (True, False):
        assert web.ask("http://www.admin.example/", name=web.host)[2] == "theirs"
        assert "Welcome" in web.ask("http://elsewhere.example/", name=web.host)[2]
        if key:
            acme.pillar()
            server.highstate()
    assert machine.run("systemctl show -P MainPID nginx").stdout == pid


def test_the_timer_does_all_this(acme):
    machine = acme.machine
    acme.self_sign()
    with acme.running():
        acme.at("1s")
        began = time.time()
        machine.run("systemctl restart mailsrv-acme.timer")
        until(lambda: json.loads(machine.get(SAID))["looked"] >= began - 1, 30, "it does not run")
        until(lambda: acme.check().startswith("ok: until"), 30, "there is no certificate")
    acme.at("1d")
    machine.run("systemctl restart mailsrv-acme.timer")
