"""
Who guesses passwords: a line for each wrong password that counts, for fail2ban to read.

    guesses.py [NETWORK | NAME]...

It follows what smtpd(8) and Dovecot write into the journal and says on its standard output, which
is the journal again, `198.51.100.7 wrong password for ann@one.example, submission`.

What fail2ban by itself cannot know of a line is done here. smtpd(8) tells the address once in a
session, and the wrong password later. A customer has a /64 of IPv6, of which each guess may come
from another address, so the /64 is what counts. And a forgotten phone in an office tries the same
old password for ever, where who guesses tries many: up to five wrong ones for the same name in five
minutes count as one.

The arguments are the networks that are never counted, and the names of satellites, whose addresses
are looked up. Neither are the addresses of this machine counted.

It can be killed at any time: when it starts, it reads the last minutes again, and says nothing of
what it had said.
"""

import collections
import ipaddress
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import threading
import time

# Who writes in which unit. What a user of the machine names in ~/.forward runs in that of smtpd(8),
# too, as that user.
SMTPD, DOVECOT = "opensmtpd.service", "dovecot.service"
WRITERS = {SMTPD: ("root", "opensmtpd", "opensmtpq"), DOVECOT: ("root",)}

# smtpd(8) writes a name by vis(3): without blanks and line ends.
CONNECTED = re.compile(r"([0-9a-f]{16}) smtp connected address=(\S+) host=")
REFUSED = re.compile(r"([0-9a-f]{16}) smtp authentication user=(\S*) result=permfail")
GONE = re.compile(r"([0-9a-f]{16}) smtp disconnected ")
# 2.3: auth: passwd-file(NAME,ADDRESS,<SESSION>): Password mismatch
# 2.4: auth(NAME,ADDRESS,sasl:plain)<SESSION>: passwd-file: Password mismatch
# A name with other characters than auth_username_chars has is written as "?".
MISMATCH = re.compile(
    r"auth(?:: [a-z-]+)?\(([^(),]*),([0-9A-Fa-f:.]+)(?:,[^(),]*)?\)(?:<[^<>]*>)?: "
    r"(?:[a-z-]+: )?(?:Password mismatch|unknown user|Username )"
)

BURST = 5  # wrong passwords for one name from one network
WHILE = 300  # seconds
PREFIX = 64  # bits of IPv6 that one customer has
BEFORE = 900  # seconds of the journal that are read again at the start
REMEMBERED = 20000  # sessions, and names by network
LOOKUP = 600  # seconds between two lookups of the satellites' names

TOLD = f"{os.environ.get('RUNTIME_DIRECTORY', '/run/mailsrv-guesses')}/told"


class Guesses:
    """What is known of sessions and names, and who is never counted."""

    def __init__(self, networks=(), satellites=()):
        self._own = [ipaddress.ip_network(network) for network in networks]
        self._satellites = {name: frozenset() for name in satellites}
        self._sessions = collections.OrderedDict()
        self._bursts = collections.OrderedDict()

    def look_up(self):
        """Find the satellites' addresses; one that cannot be found keeps what it had."""
        for name in self._satellites:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                continue
            self._satellites[name] = frozenset(plain(entry[4][0]) for entry in found)

    def read(self, unit, message, now):
        """
        What is to be said of a message of that unit in the journal, a line; None: nothing.

        now
            When it was written, in seconds since 1970.
        """
        if unit == SMTPD:
            return self._smtpd(message, now)
        if unit == DOVECOT and (found := MISMATCH.match(message)):
            return self._wrong(plain(found[2]), found[1], "Dovecot", now)
        return None

    def _smtpd(self, message, now):
        if found := CONNECTED.match(message):
            # [2001:db8::1]; a program of this machine has "local".
            _keep(self._sessions, found[1], plain(found[2].strip("[]")))
        elif found := GONE.match(message):
            self._sessions.pop(found[1], None)
        elif found := REFUSED.fullmatch(message):
            return self._wrong(self._sessions.get(found[1]), found[2], "submission", now)
        return None

    def _wrong(self, address, name, door, now):
        if address is None or self._ours(address):
            return None
        network, name = self._network(address), re.sub(r"[^!-~]", "?", name)[:80]
        since, count = self._bursts.get((network, name.lower()), (now, BURST))
        counts = count >= BURST or not 0 <= now - since < WHILE
        _keep(self._bursts, (network, name.lower()), (now, 1) if counts else (since, count + 1))
        return f"{network} wrong password for {name or '?'}, {door}" if counts else None

    def _ours(self, address):
        if address.is_loopback or any(address in network for network in self._own):
            return True
        return any(address in found for found in self._satellites.values()) or _is_here(address)

    def _network(self, address):
        """The address, or the network that it stands for."""
        if address.version == 4:
            return str(address)
        network = ipaddress.ip_network((int(address), PREFIX), strict=False)
        # The neighbour of a satellite is one by itself.
        shared = any(one in network for found in self._satellites.values() for one in found)
        return str(address) if shared else str(network)


def plain(text):
    """An address without its interface, an IPv4 one as such; None: it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(address):
    """Whether it is one of this machine."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as here:
            here.bind((str(address), 0))
    except OSError:
        return False
    return True


def _keep(known, key, value):
    """Remember it as the newest, and forget the oldest."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def entry(line):
    """Unit, message and time, in microseconds, of a line of journalctl(1) in JSON, or None."""
    try:
        found = json.loads(line)
        message = found["MESSAGE"]
        if isinstance(message, list):  # one that is not UTF-8
            message = bytes(message).decode(errors="replace")
        if isinstance(message, str):  # null: it is very long
            return found["_SYSTEMD_UNIT"], message, int(found["__REALTIME_TIMESTAMP"])
    except (ValueError, TypeError, KeyError):
        pass
    return None


def _told(now):
    """The time, in microseconds, of the last entry of which something was said."""
    try:
        with open(TOLD, encoding="ascii") as file:
            return min(int(file.read()), now)
    except (OSError, ValueError):
        return now


def _note(stamp):
    with open(f"{TOLD}.new", "w", encoding="ascii") as file:
        file.write(str(stamp))
    os.replace(f"{TOLD}.new", TOLD)


def _written(unit):
    """Which entries of the journal are of that unit, for journalctl."""
    known = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
    ids = [known[name] for name in WRITERS[unit] if name in known]
    return [f"_SYSTEMD_UNIT={unit}", *(f"_UID={number}" for number in ids)]


def follow(guesses):
    """Say what there is to say, until the journal ends."""
    now = time.time_ns() // 1000
    told, again = _told(now), True
    command = ["journalctl", "--follow", "--no-tail", "--quiet", "--output=json"]
    command += ["--output-fields=MESSAGE,_SYSTEMD_UNIT", f"--since=@{now // 10**6 - BEFORE}"]
    # Not --unit: that has what systemd says of a unit, too, and what a program says for it.
    command += [*_written(SMTPD), "+", *_written(DOVECOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as journal:
        for line in journal.stdout:
            if not (known := entry(line)):
                continue
            unit, message, stamp = known
            again = again and stamp <= told
            said = guesses.read(unit, message, stamp / 10**6)
            if said and not again:
                print(said, flush=True)
                _note(stamp)


def main(arguments):
    networks = [argument for argument in arguments if "/" in argument]
    satellites = [argument for argument in arguments if "/" not in argument]
    guesses = Guesses(networks, satellites)

    def look_up():
        while True:
            guesses.look_up()
            time.sleep(LOOKUP)

    if satellites:
        threading.Thread(target=look_up, daemon=True).start()
    follow(guesses)
    return 1  # systemd starts it again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
