"""Who guesses passwords is refused for a while; nobody else is."""

import base64
import contextlib
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from server import tls
from wire import sh, until

pytestmark = pytest.mark.lab

MACHINE, OUTSIDE = "2001:db8:51::65", "2001:db8:51::64"
ATTACKERS, ATTACKERS6 = "203.0.113.0/24", "2001:db8:bad::/48"
OWN = ["203.0.113.50", "2001:db8:bad:9::1"]
BANS = {"own": OWN, "after": 5}
PORTS = (110, 143, 465, 587, 993, 995, 4190)
VICTIM = "203.0.113.66"
# Text that would ban somebody else, were it read as what it pretends to be.
CRAFTED = [
    f"x,{VICTIM},sasl:plain)<s>: passwd-file: Password mismatch",
    f"x\nauth(x,{VICTIM},sasl:plain)<s>: passwd-file: Password mismatch",
    f"x\nauth: passwd-file(x,{VICTIM},<s>): Password mismatch",
    f"x\n0123456789abcdef smtp connected address={VICTIM} host=x",
    "x\n0123456789abcdef smtp authentication user=x result=permfail",
    f"x result=permfail address={VICTIM} host=x",
    f"mailsrv-guesses[1]: {VICTIM} wrong password for x, Dovecot",
    f"x\nmx mailsrv-guesses[1]: {VICTIM} wrong password for x, Dovecot",
]


class Attackers:
    """Clients with as many addresses as they like, outside."""

    def __init__(self, server):
        self.server = server

    def connect(self, source, port=465):
        """A connection from that address."""
        target = MACHINE if ":" in source else self.server.machine.address
        return self.server.lab.outside.call(
            socket.create_connection, (target, port), timeout=30, source_address=(source, 0)
        )

    def refused(self, source, port=465):
        """Whether nobody answers there, to that address."""
        try:
            self.connect(source, port).close()
        except ConnectionRefusedError:
            return True
        return False

    @contextlib.contextmanager
    def talk(self, source, port):
        """Ask and be answered, under TLS."""
        with tls(self.connect(source, port)) as secured, secured.makefile("rwb") as wire:
            wire.readline()

            def ask(line, end=rb"\d{3} |a "):
                wire.write(line.encode() + b"\r\n")
                wire.flush()
                while not re.match(end, answer := wire.readline()):
                    if not answer:
                        raise EOFError
                return answer

            if port == 465:
                ask("EHLO x")
            yield ask

    def guess(self, source, port, *names):
        """Try a password for each name, in one connection, until it is cut."""
        command = "AUTH PLAIN" if port == 465 else "a AUTHENTICATE PLAIN"
        with contextlib.suppress(OSError, EOFError), self.talk(source, port) as ask:
            for name in names:
                secret = base64.b64encode(f"\0{name}\0wrong".encode()).decode()
                assert ask(f"{command} {secret}").startswith((b"535", b"501", b"a NO"))

    def banned(self):
        """Who the server says is banned."""
        return {*self.server.salt("mailsrv.bans")}

    def wait(self, network):
        """Until it is banned."""
        until(lambda: network in self.banned(), 20, f"{network} is not banned")


def names(count, domain="one.example"):
    return [f"u{number}@{domain}" for number in range(count)]


@pytest.fixture(scope="module")
def attackers(server):
    machine = server.machine
    server.lab.outside.call(sh, "sysctl -qw net.ipv6.ip_nonlocal_bind=1")
    _network(server, "add")
    with server.having(bans=BANS):
        yield Attackers(server)
    # The key is gone, and with it all that bans.
    jails = machine.run("fail2ban-client status").stdout
    assert "sshd" in jails
    assert "mailsrv" not in jails
    assert "mailsrv" not in machine.run("nft list tables").stdout
    find = "find /etc -name '*guesses*' -o -name 'bans.nft' -o -path '*fail2ban*/mailsrv*'"
    assert machine.run(find).stdout == ""
    assert server.highstate() == {}
    machine.run("apt-get -qy purge fail2ban nftables python3-systemd")
    _network(server, "del")


def _network(server, verb):
    """The way from the attackers' addresses, and back to them."""
    outside = [
        f"addr {verb} {OUTSIDE}/64 dev eth0",
        f"route {verb} local {ATTACKERS} dev lo",
        f"route {verb} local {ATTACKERS6} dev lo",
    ]
    machine = [
        f"addr {verb} {MACHINE}/64 dev eth0",
        f"route {verb} {ATTACKERS} dev eth0",
        f"route {verb} {ATTACKERS6} via {OUTSIDE}",
    ]
    for line in outside if verb == "add" else reversed(outside):
        server.lab.outside.call(sh, f"ip {line}{' nodad' if line.startswith('addr add') else ''}")
    for line in machine if verb == "add" else reversed(machine):
        server.machine.run(f"ip {line}{' nodad' if line.startswith('addr add') else ''}")


@pytest.fixture(autouse=True)
def nobody_is_banned(attackers):
    yield
    attackers.server.machine.run("fail2ban-client unban --all")


def test_who_guesses_at_submission_is_refused_wherever_passwords_are_taken(attackers):
    bad, good = "203.0.113.7", "203.0.113.8"
    attackers.guess(good, 465, *names(3))
    attackers.guess(bad, 465, *names(9))
    attackers.wait(f"{bad}/32")
    with ThreadPoolExecutor() as pool:
        assert [*pool.map(lambda port: attackers.refused(bad, port), PORTS)] == [True] * 7
    # Somebody else's mail server may send from there.
    assert not attackers.refused(bad, 25)
    assert not attackers.refused(good)
    assert attackers.banned() == {f"{bad}/32"}


def test_of_ipv6_a_customer_is_refused_and_not_an_address(attackers):
    sources = [f"2001:db8:bad:7::{number:x}" for number in range(1, 9)]
    with ThreadPoolExecutor() as pool:
        for number, source in enumerate(sources):
            pool.submit(attackers.guess, source, 993, f"u{number}@one.example")
    attackers.wait("2001:db8:bad:7::/64")
    assert attackers.refused("2001:db8:bad:7:ffff:ffff:ffff:ffff", 993)
    assert not attackers.refused("2001:db8:bad:8::1", 993)


def test_a_ban_ends_by_itself(attackers):
    run = attackers.server.machine.run
    run("fail2ban-client set mailsrv bantime 3")
    attackers.guess("203.0.113.9", 465, *names(9))
    until(lambda: attackers.refused("203.0.113.9"), 15, "nobody is refused")
    until(lambda: not attackers.refused("203.0.113.9"), 15, "the ban does not end")
    run("fail2ban-client set mailsrv bantime 3600")


def test_who_mistypes_five_times_and_then_knows_is_let_in(attackers, user):
    source, password = "203.0.113.10", attackers.server.accounts[user]
    with ThreadPoolExecutor() as pool:
        for port in (993, 993, 993, 993, 465):
            pool.submit(attackers.guess, source, port, user)
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    time.sleep(3)  # what is banned is so by now
    with attackers.talk(source, 993) as ask:
        assert ask(f"a AUTHENTICATE PLAIN {secret}").startswith(b"a OK")
    assert attackers.banned() == set()


def test_networks_of_our_own_are_never_refused(attackers):
    for source in OWN:
        attackers.guess(source, 465, *names(9))
    # Nor with the whole customer, of whom another address is banned.
    attackers.guess("2001:db8:bad:9::2", 465, *names(9))
    attackers.wait("2001:db8:bad:9::/64")
    assert attackers.banned() == {"2001:db8:bad:9::/64"}
    assert not attackers.refused(OWN[1])
    assert attackers.refused("2001:db8:bad:9::2")


def test_no_name_that_is_tried_bans_somebody_else(attackers):
    # OpenSMTPD 7.9 takes a name of two lines for no name at all: 501, and no guess.
    attackers.guess("203.0.113.11", 465, *CRAFTED)
    attackers.guess("203.0.113.11", 465, *names(3))
    with ThreadPoolExecutor() as pool:
        for number, name in enumerate(CRAFTED):  # Dovecot makes one address wait longer and longer
            pool.submit(attackers.guess, f"203.0.113.{100 + number}", 993, name)
    attackers.wait("203.0.113.11/32")
    counted = (
        "journalctl -o cat _SYSTEMD_UNIT=mailsrv-guesses.service | grep -c '^203.0.113.10. .*Dov'"
    )
    assert int(attackers.server.machine.run(counted).stdout) == len(CRAFTED)
    assert f"{VICTIM}/32" not in attackers.banned()
    assert not attackers.refused(VICTIM)
    assert attackers.server.salt("mailcheck.run", check=False)["bans"].startswith("ok")


def test_bans_outlive_what_is_killed_and_a_run_repairs_the_rest(attackers):
    server, bad = attackers.server, "203.0.113.13"
    attackers.guess(bad, 465, *names(9))
    attackers.wait(f"{bad}/32")
    server.machine.run("systemctl kill -s KILL fail2ban mailsrv-guesses")
    time.sleep(0.5)
    until(lambda: f"{bad}/32" in banned_or_away(attackers), 20, "it is forgotten")
    assert attackers.refused(bad)
    assert server.salt("mailcheck.run", check=False)["bans"] == "ok: 1 banned"
    server.machine.run("nft flush ruleset")
    assert not attackers.refused(bad)
    assert server.salt("mailcheck.run", check=False)["bans"].startswith("FAULT: nft: ")
    assert {*server.highstate()} == {"mailsrv-fail2ban-service"}
    until(lambda: attackers.refused(bad), 10, "it is not refused again")
    lifted = server.salt("mailsrv.unban", bad)
    assert lifted[f"{bad}/32"]["why"].startswith("wrong passwords for u")
    until(lambda: not attackers.refused(bad), 5, "it is still refused")
    assert server.highstate() == {}


def banned_or_away(attackers):
    """Who is banned; nobody, while fail2ban is on its way back."""
    try:
        return attackers.banned()
    except (AssertionError, ValueError):
        return set()
