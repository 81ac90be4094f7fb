"""What the lab is made of: network namespaces, a control group, a way out, name servers.

Each host has a network namespace with one address, cabled to a bridge in the gateway's namespace.
There live also the resolver, the relay to the world and the name servers.
"""

import ctypes
import os
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from image import CACHE, within

# Labs of several names stand beside each other: each process of pytest-xdist has its own.
NAME = os.environ.get("MAILSRV_LAB", "mailsrv-lab") + os.environ.get("PYTEST_XDIST_WORKER", "")
DISKS = CACHE / "labs" / NAME

# Addresses reserved for documentation, since spam filters trust 10/8 and the like.
WIRE = "198.51.100.0/24"
REVERSE = "100.51.198.in-addr.arpa"
GATEWAY, NAME_SERVER = "198.51.100.1", "198.51.100.53"
RELAY_PORT = 3128
SO_ORIGINAL_DST = 80

CGROUPS = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]  # a hybrid host's
if not CGROUPS[0].exists():
    CGROUPS = [Path("/sys/fs/cgroup")]


def until(found, seconds, what):
    """The first true result of `found()`, or a TimeoutError saying `what` after `seconds`."""
    start, pause = time.monotonic(), 0.05
    while not (result := found()):
        if time.monotonic() > start + seconds:
            raise TimeoutError(f"{what} (waited {seconds} s)")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.5)  # to look costs something, too
    return result


def sh(command):
    """Run a command of plain words."""
    subprocess.run(command.split(), check=True)


@contextmanager
def inside(network):
    """The calling thread, and what it starts, in the network namespace of that path.

    A socket stays for good in the network it was made in.
    """
    with open("/proc/thread-self/ns/net") as here, open(network) as there:
        _setns(there)
        try:
            yield
        finally:
            _setns(here)


def _setns(namespace):
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    if libc.setns(namespace.fileno(), 0):
        raise OSError(ctypes.get_errno(), f"setns to {namespace.name}")


def _namespace(name):
    sh(f"ip netns add {name}")
    network = Path("/run/netns", name)
    with inside(network):
        sh("ip link set lo up")
    return network


def join(group, argv):
    """`argv` for subprocess, to run in that control group below the lab's; makes the group."""
    path = CGROUPS[0] / NAME / group
    return ("sh", "-c", 'mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec "$@"', path, *argv)


def start(group, argv, log):
    """Start `argv` in that control group, out of reach of the terminal's Ctrl-C."""
    with log.open("ab") as output:
        return subprocess.Popen(
            join(group, argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(group=""):
    """Kill all that runs in that control group and remove it."""
    top = CGROUPS[0] / NAME / group
    if top.exists():
        (top / "cgroup.kill").write_text("1")
        events = top / "cgroup.events"
        until(lambda: "populated 0" in events.read_text(), 30, f"{top} does not die")
    for hierarchy in CGROUPS:
        for directory, *_ in os.walk(hierarchy / NAME / group, topdown=False):
            os.rmdir(directory)


def cpu(group=""):
    """The seconds of CPU that all in that control group, living or dead, have used."""
    usage = (CGROUPS[0] / NAME / group / "cpu.stat").read_text().split()
    return int(usage[usage.index("usage_usec") + 1]) / 1e6


def memory(group=""):
    """The bytes of memory of all in that control group, what they share divided among them."""
    total = 0
    for directory, *_ in os.walk(CGROUPS[0] / NAME / group):
        for process in Path(directory, "cgroup.procs").read_text().split():
            with suppress(OSError):
                total += int(re.search(r"^Pss: +(\d+) kB", _rollup(process), re.MULTILINE)[1]) << 10
    return total


def _rollup(process):
    return Path("/proc", process, "smaps_rollup").read_text()


def watch(lock):
    """
    Start a process that sweeps when this one ends, however it ends, and holds the lab's lock until
    then. Who ends in order kills it.
    """
    command = (sys.executable, __file__)
    options = {"stdin": subprocess.PIPE, "pass_fds": [lock.fileno()], "start_new_session": True}
    return subprocess.Popen(command, **options)


def sweep():
    """Remove all that a lab leaves outside its caches: this one, or one that was killed."""
    end()
    for path in Path("/run/netns").glob("*"):
        if path.name == NAME or path.name.startswith(f"{NAME}-"):
            sh(f"ip netns del {path.name}")
    shutil.rmtree(DISKS, ignore_errors=True)


class NameServer:
    """nsd on the wire, at an address of its own."""

    def __init__(self, gateway, address):
        self.address = address
        self._gateway = gateway
        self._zones = set()
        self._turn = threading.Lock()
        self._directory = DISKS / f"nsd-{address}"
        self._directory.mkdir(parents=True)
        self._debian = within("trixie", self._directory)
        with inside(gateway.network):
            sh(f"ip addr add {address}/24 dev wire")

    def serve(self, zone, text):
        """Serve `text` as the whole of `zone` from the moment this returns.

        A zone that nsd refuses is a ValueError in nsd's words, and what was served stays. Calls
        from several threads take turns.
        """
        with self._turn:
            draft = self._directory / "draft"
            draft.write_text(text)
            command = (*self._debian, "nsd-checkzone", zone, draft)
            check = subprocess.run(command, capture_output=True, text=True)
            if check.returncode:
                raise ValueError(f"nsd refuses the zone {zone}: {check.stdout}{check.stderr}")
            draft.rename(self._directory / f"{zone}.zone")
            self._zones.add(zone)
            self._restart()
        self._gateway.zones.setdefault(dns.name.from_text(zone), self.address)

    def _restart(self):
        group = self._directory.name
        configuration = self._directory / "nsd.conf"
        log = self._directory / "log"
        unused = ("database", "pidfile", "username", "xfrdfile", "zonelistfile")
        configuration.write_text(
            f"server:\n ip-address: {self.address}\n zonesdir: {self._directory}\n"
            + "".join(f' {option}: ""\n' for option in unused)
            + "remote-control:\n control-enable: no\n"  # one port for all nsd of the wire
            + "".join(f"zone:\n name: {zone}\n zonefile: {zone}.zone\n" for zone in self._zones)
        )
        end(group)
        with inside(self._gateway.network):
            process = start(group, (*self._debian, "nsd", "-d", "-c", configuration), log)

            def answers():
                if process.poll() is not None:
                    raise RuntimeError(f"nsd does not start:\n{log.read_text()[-2000:]}")
                with suppress(OSError, EOFError):
                    return dns.query.tcp(dns.message.make_query(".", "SOA"), self.address)

            until(answers, 10, "nsd does not answer")


class Gateway:
    """The end of the wire: a resolver, and a relay to the world's HTTP and HTTPS.

    The resolver asks the name servers in `zones` for the lab's names and the host's resolvers for
    all others. A relay in this process, instead of NAT, needs no rule and no route on the host.
    """

    def __init__(self):
        self.zones = {}
        self._host = f"/proc/self/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
        self._upstream = dns.resolver.Resolver().nameservers
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [GATEWAY]
        self.network = _namespace(NAME)
        with inside(self.network):
            # Without an address of its own, the bridge changes it as machines come and go, and
            # those that remember the old one lose the gateway for a while.
            sh("ip link add wire address 02:00:00:00:00:01 type bridge")
            sh(f"ip addr add {GATEWAY}/24 dev wire")
            sh("ip link set wire up")
            # Forwarding to nowhere: what is not relayed is refused at once instead of dropped.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            web = f"! -d {WIRE} -p tcp -m multiport --dports 80,443"
            sh(f"iptables -t nat -A PREROUTING {web} -j REDIRECT --to-ports {RELAY_PORT}")
            self._servers = [
                _serve(socketserver.ThreadingUDPServer, 53, self._udp),
                _serve(socketserver.ThreadingTCPServer, 53, self._tcp),
                _serve(socketserver.ThreadingTCPServer, RELAY_PORT, self._relay),
            ]

    def close(self):
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def connect(self, fqdn, number):
        """A new namespace on the wire; returns its address, which ends in `number`, and path."""
        address = f"198.51.100.{number}"
        network = _namespace(f"{NAME}-{fqdn}")
        with inside(self.network):
            peer = f"peer eth0 netns {network.name}"
            sh(f"ip link add port{number} master wire up type veth {peer}")
        with inside(network):
            sh(f"ip addr add {address}/24 dev eth0")
            sh("ip link set eth0 up")
            sh(f"ip route add default via {GATEWAY}")
        return address, network

    def lookup(self, name, kind):
        """The records of that kind as the resolver tells them to the host that asks."""
        with suppress(dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return list(self._resolver.resolve(name, kind))
        return []

    @contextmanager
    def names(self):
        """Python's lookups by the lab's resolver: for the whole process, one at a time."""
        dns.resolver.override_system_resolver(self._resolver)
        try:
            yield
        finally:
            dns.resolver.restore_system_resolver()

    def _answer(self, wire, ask):
        query = dns.message.from_wire(wire)
        name, kind = query.question[0].name, query.question[0].rdtype
        # The innermost zone knows; but a DS record is the parent's.
        above = [
            zone
            for zone in self.zones
            if name.is_subdomain(zone) and (name, kind) != (zone, dns.rdatatype.DS)
        ]
        ours = [self.zones[zone] for zone in sorted(above, key=len, reverse=True)]
        for server in ours or self._upstream:
            with suppress(OSError, dns.exception.DNSException):
                with inside(self.network if ours else self._host):
                    reply = ask(query, server, timeout=5)
                break
        else:
            reply = dns.message.make_response(query)
            reply.set_rcode(dns.rcode.SERVFAIL)
        reply.flags |= dns.flags.RA
        return reply.to_wire()

    def _udp(self, request, client, server):
        wire, sock = request
        sock.sendto(self._answer(wire, dns.query.udp), client)

    def _tcp(self, request, client, server):
        with request.makefile("rwb") as stream:
            while head := stream.read(2):
                reply = self._answer(stream.read(int.from_bytes(head, "big")), dns.query.tcp)
                stream.write(len(reply).to_bytes(2, "big") + reply)
                stream.flush()

    def _relay(self, request, client, server):
        asked = request.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, address = struct.unpack("!2xH4s8x", asked)
        with suppress(OSError):
            with inside(self._host):
                world = socket.create_connection((socket.inet_ntoa(address), port))
            with world:
                back = threading.Thread(target=_copy, args=(world, request), daemon=True)
                back.start()
                _copy(request, world)
                back.join()


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _serve(kind, port, handle):
    server = kind((GATEWAY, port), handle)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return server


if __name__ == "__main__":
    sys.stdin.read()
    sweep()
