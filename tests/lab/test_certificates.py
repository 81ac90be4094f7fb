"""Certificates that are renewed and refused, and what mailcheck.run finds, on both releases."""

import contextlib
import imaplib
import re
import time
from contextlib import contextmanager

import pytest
from _mailsrv import probe

from authority import Authority, cert_pem, fingerprint, key_pem, trusted
from lab import CHECKOUT, HEAD
from wire import until

pytestmark = pytest.mark.lab

PORTS = (25, 465, 587, 993, 995, 143, 110, 4190)


@pytest.fixture(scope="module")
def authority():
    return Authority()


class Lineage:
    """The files of certbot on a server."""

    def __init__(self, server, authority):
        self.server, self.authority = server, authority
        self.live = f"/etc/letsencrypt/live/{server.machine.fqdn}"
        self.archive = self.live.replace("live", "archive")
        self.number = 0
        self.key = None

    @property
    def tls(self):
        return {"cert": f"{self.live}/fullchain.pem", "key": f"{self.live}/privkey.pem"}

    def name(self):
        """Make it the certificate of the pillar, and of the server."""
        settings = {**self.server.pillar.get("mailsrv", {}), "tls": self.tls}
        self.server.write_pillar({**self.server.pillar, "mailsrv": settings})
        self.server.highstate()

    def renew(self, key="ecdsa", *names, **options):
        """New files, to which the links are turned; returns the fingerprint."""
        leaf, self.key = self.authority.issue(
            *(names or [self.server.machine.fqdn]), key=key, **options
        )
        chain = cert_pem(leaf, self.authority.intermediate)
        self.number += 1
        self.write(self.archive, self.number, chain, key_pem(self.key))
        for part in ("fullchain", "privkey"):
            target = f"../../archive/{self.server.machine.fqdn}/{part}{self.number}.pem"
            self.server.machine.run(
                f"mkdir -p {self.live} && ln -sfn {target} {self.live}/{part}.pem"
            )
        return fingerprint(chain)

    def overwrite(self, chain, key):
        """Other contents of the files that the links lead to."""
        self.write(self.archive, self.number, chain, key)
        return fingerprint(chain)

    def write(self, directory, number, chain, key):
        put = self.server.machine.put
        put(f"{directory}/fullchain{number}.pem", chain)
        put(f"{directory}/privkey{number}.pem", key)
        self.server.machine.run(f"chmod 600 {directory}/privkey{number}.pem")


@pytest.fixture(scope="module")
def lineage(server, authority):
    """A server with a certificate that its own CA certificates trust."""
    before = served(server)
    lineage = Lineage(server, authority)
    lineage.first = lineage.renew("rsa")
    with trusted(server.machine, authority), server.having(tls=lineage.tls):
        assert served(server) == dict.fromkeys(PORTS, lineage.first)
        assert server.highstate() == {}
        yield lineage
    # The pillar names none any more: the self-signed one is there again.
    assert served(server) == before
    server.machine.run("rm -r /etc/letsencrypt")


def served(server):
    return {port: server.certificate(port) for port in PORTS}


def comments(server, *arguments):
    """What the failed states of a run say."""
    states = server.salt("state.highstate", *arguments, check=False).values()
    return [state["comment"] for state in states if state["result"] is False]


def test_a_certificate_of_an_authority_passes_the_own_check(lineage):
    assert lineage.server.faults() == {}
    said = lineage.server.salt("mailcheck.run")["certificate"]
    assert re.fullmatch(r"ok: until 20\d\d-\d\d-\d\d", said)


@pytest.mark.parametrize("key", ["rsa", "ecdsa", "the same", "ecdsa again"])
def test_a_renewal_is_served_on_every_port_and_restarts_once(lineage, key):
    server = lineage.server
    with server.smtp() as waiting:
        new = lineage.renew(lineage.key if key == "the same" else key.split()[0])
        changed = server.highstate()
        assert {*changed} == {
            "mailsrv-tls-certificate",
            "mailsrv-dovecot-service",
            "mailsrv-opensmtpd-service",
        }
        until(lambda: served(server) == dict.fromkeys(PORTS, new), 10, "an old one is served")
        waiting.close()
    assert server.highstate() == {}
    assert server.faults() == {}


def test_a_renewal_that_writes_over_the_files_is_served(lineage):
    server = lineage.server
    new = lineage.overwrite(*lineage.authority.pems(server.machine.fqdn))
    assert "mailsrv-tls-certificate" in server.highstate("test=True")
    assert served(server) != dict.fromkeys(PORTS, new)
    server.highstate()
    until(lambda: served(server) == dict.fromkeys(PORTS, new), 10, "an old one is served")
    assert server.highstate() == {}


def test_the_deploy_hook_of_the_documentation_serves_it(lineage):
    text = (CHECKOUT / "docs/certificates.md").read_text()
    (hook,) = re.findall(r"certbot [^\n]*--deploy-hook '([^']+)'", text)
    assert text.count(hook) >= 3  # for acme.sh and dehydrated, too
    new = lineage.renew()
    # Another run goes on: the hook waits for its end.
    other = "salt-call --log-level=warning state.apply mailsrv >/dev/null & sleep 2; "
    lineage.server.machine.run(f"{other}{hook} >/dev/null; status=$?; wait; exit $status")
    until(lambda: served(lineage.server) == dict.fromkeys(PORTS, new), 10, "an old one is served")


def test_no_key_is_in_what_a_run_shows_and_logs(lineage):
    lineage.renew()
    machine = lineage.server.machine
    shown = machine.run("salt-call --log-level=debug state.highstate 2>&1").stdout
    shown += machine.run("cat /var/log/salt-mailsrv.log").stdout
    assert not [line for line in key_pem(lineage.key).splitlines()[1:-1] if line in shown]


def bad_order(lineage):
    leaf, key = lineage.authority.issue(lineage.server.machine.fqdn)
    return cert_pem(lineage.authority.intermediate, leaf), key_pem(key)


REFUSED = {
    "is not the certificate of the key": lambda lineage: (
        lineage.authority.pems(lineage.server.machine.fqdn)[0],
        lineage.authority.pems(lineage.server.machine.fqdn)[1],
    ),
    "holds no certificate in PEM form": lambda lineage: ("", key_pem(lineage.key)),
    "has its certificates in the wrong order": bad_order,
    "expired on ": lambda lineage: lineage.authority.pems(
        lineage.server.machine.fqdn, begins=-9, ends=-1
    ),
    "is not valid before ": lambda lineage: lineage.authority.pems(
        lineage.server.machine.fqdn, begins=1
    ),
    "is for www.example.com, not for ": lambda lineage: lineage.authority.pems("www.example.com"),
}


@pytest.fixture
def settled(lineage):
    """What is served, and nothing to do; afterwards the files are sound again."""
    lineage.renew()
    lineage.server.highstate()
    until(lambda: len({*served(lineage.server).values()}) == 1, 10, "an old one is served")
    yield served(lineage.server)
    lineage.renew()
    lineage.server.highstate()


def test_what_is_refused_leaves_the_old_one_served_and_everything_else_untouched(lineage, settled):
    server = lineage.server
    pids = "pgrep -xo smtpd; pgrep -xo dovecot"
    before = server.machine.run(pids).stdout
    for sentence, make in REFUSED.items():
        lineage.write(lineage.archive, lineage.number, *make(lineage))
        (comment,) = comments(server)
        assert comment.startswith(f"{lineage.live}/fullchain.pem {sentence}")
        assert served(server) == settled
    # A restart, as a reboot makes one, does not bring it in either.
    assert server.machine.run(pids).stdout == before
    server.machine.run("systemctl restart opensmtpd dovecot")

    def shown(port):
        with contextlib.suppress(ConnectionRefusedError):
            return server.certificate(port)

    assert until(lambda: shown(993), 10, "dovecot does not come up") == settled[993]
    assert until(lambda: shown(25), 10, "smtpd does not come up") == settled[25]
    found = server.faults()
    assert found["certificate"].startswith(f"FAULT: {lineage.live}/fullchain.pem is for www.")


def test_a_file_that_is_missing_is_named_and_the_old_one_served(lineage, settled):
    lineage.server.machine.run(f"rm {lineage.live}/privkey.pem")
    (comment,) = comments(lineage.server)
    assert comment.startswith(f"{lineage.live}/privkey.pem cannot be read: No such file")
    assert served(lineage.server) == settled


def test_a_certificate_from_the_file_server_is_served(lineage):
    server = lineage.server
    certs = "/srv/salt-mailsrv/salt_mailsrv/states/certs"
    pems = lineage.authority.pems(server.machine.fqdn)
    lineage.write(certs, 1, *pems)
    tls = {"cert": "salt://certs/fullchain1.pem", "key": "salt://certs/privkey1.pem"}
    with server.having(tls=tls):
        assert served(server) == dict.fromkeys(PORTS, fingerprint(pems[0]))
        assert server.faults() == {}
        lineage.write(certs, 1, lineage.authority.pems(server.machine.fqdn)[0], pems[1])
        (comment,) = comments(server)
        assert comment.startswith("salt://certs/fullchain1.pem is not the certificate of the key")
        assert served(server) == dict.fromkeys(PORTS, fingerprint(pems[0]))
        lineage.write(certs, 1, *pems)
    lineage.name()
    server.machine.run(["rm", "-r", certs])


# mailcheck.run finds what is wrong


@contextmanager
def broken(server, command, cure):
    server.machine.run(command)
    try:
        yield server.faults()
    finally:
        server.machine.run(cure)
        until(lambda: server.faults() == {}, 60, "the server does not recover")


def test_the_own_check_finds_a_stopped_service(server):
    with broken(server, "systemctl stop dovecot", "systemctl start dovecot") as faults:
        assert faults["service dovecot"].startswith("FAULT: is not running; start it")
        assert {name for name in faults if name.startswith("port")} == {
            "port 110, POP3 with STARTTLS",
            "port 143, IMAP with STARTTLS",
            "port 993, IMAP with TLS",
            "port 995, POP3 with TLS",
            "port 4190, ManageSieve with STARTTLS",
        }
    run = "systemctl stop opensmtpd; salt-call --out=json mailcheck.run >/dev/null 2>&1"
    assert server.machine.run(run, check=False).returncode == 1
    server.machine.run("systemctl start opensmtpd")


def test_the_own_check_finds_a_certificate_that_is_renewed_and_not_served(lineage):
    lineage.renew()
    found = lineage.server.faults()
    assert len(found) == len(PORTS)
    for name, said in found.items():
        assert name.startswith("port ")
        assert said.startswith("FAULT: serves another certificate (SHA-256 ")
    lineage.server.highstate()
    until(lambda: lineage.server.faults() == {}, 10, "an old one is served")


def test_the_own_check_finds_a_certificate_that_is_about_to_end(lineage):
    lineage.renew("ecdsa", begins=-70, ends=20)
    lineage.server.highstate()
    (said,) = until(lineage.server.faults, 10, "nothing is found").values()
    assert said.startswith(f"WARNING: {lineage.live}/fullchain.pem ends in 19 days")
    run = lineage.server.machine.run("salt-call mailcheck.run >/dev/null", check=False)
    assert run.returncode == 0
    lineage.renew()
    lineage.server.highstate()


CONF = "/etc/smtpd.conf"


def test_the_own_check_finds_an_open_relay(server):
    rule = 'match from any for any action "relay"'
    spoil = f"cp -a {CONF} /root/kept && sed -i '/^match from any for domain regex/i {rule}' {CONF}"
    cure = f"mv /root/kept {CONF} && systemctl restart opensmtpd"
    with broken(server, f"{spoil} && systemctl restart opensmtpd && sleep 1", cure) as faults:
        assert faults["no open relay"].startswith(
            "FAULT: port 25 takes mail from mailcheck@relay.invalid for anywhere, from anybody"
        )


def test_the_own_check_finds_passwords_in_the_open(server):
    conf = "/etc/dovecot/dovecot.conf"
    spoil = (
        f"cp -a {conf} /root/kept && sed -i 's/^ssl = required/ssl = yes/;"
        " s/^disable_plaintext_auth = yes/disable_plaintext_auth = no/;"
        f" s/^auth_allow_cleartext = no/auth_allow_cleartext = yes/' {conf}"
    )
    reload = "doveadm reload && sleep 1"
    cure = f"mv /root/kept {conf} && {reload}"
    with broken(server, f"{spoil} && {reload}", cure) as faults:
        assert {*faults} == {
            "port 110, POP3 with STARTTLS",
            "port 143, IMAP with STARTTLS",
            "port 4190, ManageSieve with STARTTLS",
        }
        assert all("takes passwords before STARTTLS" in said for said in faults.values())


def test_the_own_check_finds_a_signer_with_another_key(server):
    """The filter has read its key when it started."""
    keys = server.machine.run("ls /etc/mail/dkim/*.private").stdout.split()
    spoil = "; ".join(
        f"cp -a {key} {key}.kept && openssl genrsa 2048 2>/dev/null > {key}" for key in keys
    )
    cure = "; ".join(f"mv {key}.kept {key}" for key in keys)
    restart = "; systemctl restart opensmtpd; sleep 1"
    with broken(server, spoil + restart, cure + restart) as faults:
        (said,) = faults.values()
        assert "the signature does not fit the public key of mailsrv._domainkey." in said


def test_the_own_check_finds_a_queue_that_grows(lab, server):
    lab.dns.serve("silent.example", HEAD + "@ MX 10 mx\nmx A 198.51.100.69\n")
    server.submit(next(iter(server.accounts)), ["a@silent.example", "b@silent.example"])
    said = until(lambda: server.faults("queue=1"), 20, "nothing waits")["queue"]
    assert re.fullmatch(
        r"WARNING: \d+ waiting, the oldest for \d+ minutes(: .*)?; see why: smtpctl show queue",
        said,
    )
    assert server.faults() == {}
    # What is on its way, or being tried, cannot be removed.
    queue = "smtpctl show queue"
    until(lambda: server.machine.run(queue).stdout.count("Network error") == 2, 90, "still trying")
    server.machine.run(f"{queue} | cut -d '|' -f 1 | xargs -n 1 smtpctl remove")
    server.idle()


def test_the_own_check_finds_a_full_disk(server):
    spool = "/var/spool/smtpd"
    assert server.salt("mailcheck.run", "free=101")[f"disk of {spool}"].startswith("WARNING: ")
    vmail = "/var/vmail"
    mount = (
        f"systemctl stop dovecot opensmtpd && mount -t tmpfs -o size=1M,mode=700 none {vmail}"
        f" && head -c 1M /dev/zero > {vmail}/full; true"
    )
    cure = f"umount {vmail} && systemctl start dovecot opensmtpd"
    with broken(server, mount, cure) as faults:
        assert faults[f"disk of {vmail}"] == (
            "FAULT: 0 % of the space free; mail is refused when it is full: make room"
        )


def test_the_own_check_says_what_is_left_behind_and_that_is_no_fault(server):
    domain = server.pillar["domains"][0]
    server.machine.run(f"mkdir -p /var/vmail/{domain}/gone")
    left = len(server.salt("mailsrv.leftovers"))
    assert server.salt("mailcheck.run")["leftovers"] == (
        f"ok: mail of {left} accounts that are gone; salt-call mailsrv.leftovers lists it"
    )
    server.machine.run(f"rmdir /var/vmail/{domain}/gone")


def test_the_own_check_leaves_nothing_in_the_mailbox_and_takes_nothing_of_the_users(server):
    """Whoever wrote the field into a message had it deleted."""
    user = next(iter(server.accounts))
    subject = server.deliver([user])
    server.wait(user, subject)
    key = bytes.fromhex(server.machine.run("od -An -tx1 /etc/mail/password.key").stdout)
    late = probe.message(user, user, "mailcheck that came late", key)
    mark = re.search("X-Mailcheck: ([0-9a-f]{40})", late)[1]
    others = {
        "as it was": "yes",
        "of another message": mark,
        "of another machine": probe.mark("of another machine", bytes(32)),
        "=?utf-8?q?caf=E9?=": "ä\udcff",
        "empty": "",
    }
    with server.imap(user) as imap:
        for text in late, *(f"Subject: {s}\r\nX-Mailcheck: {m}\r\n\r\n" for s, m in others.items()):
            sent = imaplib.Time2Internaldate(time.time() - 400)
            imap.append("INBOX", None, sent, text.encode(errors="surrogateescape"))
        imap.select()
        imap.store("1:*", "+FLAGS", r"(\Deleted)")
        before = subjects(imap)
    assert server.faults() == {}
    with server.imap(user) as imap:
        imap.select()
        after = subjects(imap)
        imap.store("1:*", "-FLAGS", r"(\Deleted)")
    assert before[-6:] == ["mailcheck that came late", *others]
    assert after == [name for name in before if name != "mailcheck that came late"]


def subjects(imap):
    fetched = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
    return [item[1].decode()[9:].strip() for item in fetched if isinstance(item, tuple)]
