"""A small network with real machines, real DNS and an outside world, for one test run.

    with Lab() as lab:
        mx = lab.machine("trixie", "mx1.example.org")
        lab.dns.serve("example.org", HEAD + f"@ MX 10 mx1\nmx1 A {mx.address}\n")
        mx.run("apt-get update")
        imap = lab.outside.call(imaplib.IMAP4_SSL, "mx1.example.org")

The lab lives in network namespaces, one control group and one directory, all of its own making
and gone when it ends: the host's interfaces, firewall and resolver stay untouched. Beyond the
lab's wire its hosts reach DNS, HTTP and HTTPS and nothing else, so no mail can leave.
"""

import ctypes
import fcntl
import hashlib
import itertools
import os
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.resolver
from aiosmtpd.controller import Controller

NAME = "mailsrv-lab"
CACHE = Path(os.environ.get("MAILSRV_LAB_CACHE", "/var/cache/salt-mailsrv-lab"))
LOCK = Path(f"/run/lock/{NAME}")
CHECKOUT = Path(__file__).resolve().parents[2]
CGROUPS = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]  # a hybrid host's
if not CGROUPS[0].exists():
    CGROUPS = [Path("/sys/fs/cgroup")]

# Addresses kept for documentation, since spam filters trust 10/8 and the like.
WIRE = "198.51.100.0/24"
REVERSE = "100.51.198.in-addr.arpa"
GATEWAY, NAME_SERVER = "198.51.100.1", "198.51.100.53"
HEAD = f"$TTL 60\n@ SOA ns hostmaster 1 60 60 600 60\n@ NS ns\nns A {NAME_SERVER}\n"
RELAY_PORT = 3128
SO_ORIGINAL_DST = 80

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INCLUDE = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,sudo,procps,cron"
DEBOOTSTRAP = ("debootstrap", "--variant=minbase", f"--include={INCLUDE}", f"--keyring={KEYRING}")
# The script of every Debian release is "sid"; named, it builds suites newer than the host.
SOURCE = ("http://deb.debian.org/debian", "/usr/share/debootstrap/scripts/sid")

NEEDS = {
    "debootstrap": "debootstrap",
    "git": "git",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsd": "nsd",
    "pgrep": "procps",
    "systemd-nspawn": "systemd-container",
    KEYRING: "debian-archive-keyring",
}


def missing():
    """What keeps the lab from running here, as one sentence; empty when nothing does."""
    if os.geteuid():
        return "the lab boots machines and needs root"
    packages = [package for need, package in NEEDS.items() if not shutil.which(need, os.F_OK)]
    return packages and f"the lab needs: apt-get install {' '.join(packages)}"


def until(found, seconds, what):
    """The first true result of `found()`, or a TimeoutError saying `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} (waited {seconds} s)")
        time.sleep(0.05)
    return result


@contextmanager
def inside(network):
    """The calling thread, and whatever it starts, in another network namespace.

    A socket stays for good in the network it was made in.
    """
    with open("/proc/thread-self/ns/net") as here, open(network) as there:
        _setns(there)
        try:
            yield
        finally:
            _setns(here)


class Lab:
    """The wire with its name server, an outside host and any number of machines.

    A context manager; one at a time on a host. Hosts may be added from several threads at once.
    """

    def __enter__(self):
        self._lock = LOCK.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another lab runs on this host (it holds {LOCK})") from None
        _sweep()
        with ExitStack() as stack:
            stack.callback(_sweep)
            stack.callback(os.umask, os.umask(0o022))
            (CACHE / "pip").mkdir(parents=True, exist_ok=True)
            self.gateway = Gateway()
            stack.callback(self.gateway.close)
            self.dns = NameServer(self.gateway, NAME_SERVER)
            self._numbers = itertools.count(10)
            self._wiring = threading.Lock()
            self._building = defaultdict(threading.Lock)
            self._names = {}
            self.outside = self.host("mx.elsewhere.example")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()
        self._lock.close()

    def host(self, fqdn):
        """One more host that is not a machine: an address to connect from and to."""
        return Host(self, fqdn)

    def machine(self, suite, fqdn):
        """A fresh machine of that Debian suite, booted."""
        return Machine(self, suite, fqdn)

    def image(self, suite):
        """The root filesystem machines of `suite` start from; kept between runs."""
        recipe = hashlib.sha256(" ".join((*DEBOOTSTRAP, *SOURCE)).encode()).hexdigest()[:12]
        image = CACHE / "images" / f"{suite}-{recipe}"
        with self._building[suite]:
            if not image.exists():
                image.parent.mkdir(exist_ok=True)
                unfinished = CACHE / "unfinished" / suite
                unfinished.mkdir(parents=True)
                log = unfinished.with_suffix(".log")
                # With mounts of its own, a killed debootstrap leaves no /proc behind.
                argv = ("unshare", "--mount", *DEBOOTSTRAP, suite, unfinished, *SOURCE)
                if _start(f"build-{suite}", argv, log).wait():
                    raise RuntimeError(f"debootstrap {suite} failed:\n{log.read_text()[-2000:]}")
                unfinished.rename(image)
        return image

    def attach(self, host):
        """Give `host` a namespace on the wire, an address, and a PTR record that names it."""
        with self._wiring:
            number = next(self._numbers)
            host.address = f"198.51.100.{number}"
            host.network = _namespace(host.fqdn)
            cable = f"ip link add port{number} master wire type veth peer eth0 netns"
            with inside(self.gateway.network):
                _run(f"{cable} {NAME}-{host.fqdn}")
                _run(f"ip link set port{number} up")
            with inside(host.network):
                _run(f"ip addr add {host.address}/24 dev eth0")
                _run("ip link set eth0 up")
                _run(f"ip route add default via {GATEWAY}")
            self._names[number] = host.fqdn
            records = (f"{number} PTR {fqdn}.\n" for number, fqdn in self._names.items())
            self.dns.serve(REVERSE, HEAD + "".join(records))


class Host:
    """An address on the wire, for the test itself to act from."""

    def __init__(self, lab, fqdn):
        self.lab = lab
        self.fqdn = fqdn
        lab.attach(self)

    def call(self, function, *args, **kwargs):
        """`function(…)` as if run on this host: its connections, names from the lab's DNS.

        Sockets and processes it leaves behind stay on this host: `call(smtplib.SMTP, "mx1.…")`
        gives a connection that is used from anywhere. Calls from several threads take turns.
        """
        return self.lab.gateway.call(self.network, function, *args, **kwargs)

    @contextmanager
    def sink(self, **options):
        """A `Sink` on port 25 of this host; `options` as for aiosmtpd's `SMTP`."""
        sink = Sink(self, **options)
        self.call(sink.start)
        try:
            yield sink
        finally:
            sink.stop()


class Sink(Controller):
    """A mail server that accepts everything and keeps it in `messages`, aiosmtpd `Envelope`s."""

    def __init__(self, host, **options):
        super().__init__(self, host.address, 25, server_hostname=host.fqdn, **options)
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(envelope)
        return "250 OK"

    def wait(self, count=1, seconds=60):
        """The messages, as soon as there are `count`."""
        until(lambda: len(self.messages) >= count, seconds, f"fewer than {count} messages came")
        return self.messages


class Machine(Host):
    """A Debian machine under systemd, on an overlay of its image."""

    def __init__(self, lab, suite, fqdn):
        image = lab.image(suite)
        super().__init__(lab, fqdn)
        self.disk = CACHE / "machines" / fqdn
        self.packages = CACHE / "apt" / f"{suite}-{fqdn}"  # apt locks it: no two machines share one
        for directory in (self.packages, *(self.disk / name for name in ("upper", "work", "root"))):
            directory.mkdir(parents=True, exist_ok=True)
        self.environment = {}
        self._configure()
        self._boot(image)

    def _configure(self):
        short = self.fqdn.partition(".")[0]
        files = {
            "hostname": f"{short}\n",
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.fqdn} {short}\n",
            "machine-id": "",
            "resolv.conf": f"nameserver {GATEWAY}\n",
        }
        if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
            system = "/etc/ssl/certs/ca-certificates.crt"
            files["ssl/certs/ca-certificates.crt"] = Path(bundle).read_text()
            self.environment = {"SSL_CERT_FILE": system, "PIP_CERT": system}
            # Where sudo and cron look, which drop the environment of `run`.
            files["environment"] = "".join(f"{k}={v}\n" for k, v in self.environment.items())
        for name, text in files.items():
            path = self.disk / "upper/etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _boot(self, image):
        overlay = f"lowerdir={image},upperdir={self.disk}/upper,workdir={self.disk}/work"
        mount = f'mount -t overlay lab -o {overlay} {self.disk}/root && exec "$@"'
        nspawn = (
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self.disk}/root",
            f"--machine={self.fqdn}",
            f"--network-namespace-path=/run/netns/{NAME}-{self.fqdn}",
            f"--bind={self.packages}:/var/cache/apt/archives",
            f"--bind={CACHE}/pip:/root/.cache/pip",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--register=no",
            "--keep-unit",
        )
        # systemd 258 and later boot with control groups of version 2 only.
        v2 = ("env", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
        # A group of its own: without one, nspawn gives all machines the same, and then
        # stopping a unit on one machine kills its namesake on the others.
        self._process = _start(
            self.fqdn, ("unshare", "--mount", *v2, "sh", "-c", mount, "sh", *nspawn), self._console
        )
        self._await_boot()

    @property
    def _console(self):
        return self.disk / "console"

    def _await_boot(self, previous=None):
        def booted():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.fqdn} does not boot:\n{self._console.read_text()[-2000:]}")
            find = ("pgrep", "-x", "systemd", "-P", str(self._process.pid))
            self.leader = subprocess.run(find, capture_output=True, text=True).stdout.strip()
            if self.leader in ("", previous):
                return False
            state = self.run("systemctl is-system-running", check=False).stdout.strip()
            return state in ("running", "degraded")

        until(booted, 90, f"{self.fqdn} does not come up, see {self._console}")

    def _enter(self, *argv):
        # Outside the machine's control group, its systemd could not move a process into a scope.
        group = CGROUPS[0] / NAME / self.fqdn / "payload/init.scope"
        return (*_join(group), "nsenter", "--all", "--target", self.leader, *argv)

    def run(self, command, check=True, env=None, timeout=600, input=""):
        """Run a shell line, or a list of arguments, as root; returns the `CompletedProcess`.

        Nothing of the host's environment is passed on. With `check`, a command that fails is
        an AssertionError that shows all it said. One that takes longer than `timeout` seconds
        is ended and fails with 124.
        """
        argv = ("sh", "-c", command) if isinstance(command, str) else command
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **self.environment}
        done = subprocess.run(
            self._enter("timeout", str(timeout), *argv),
            capture_output=True,
            env={**base, **(env or {})},
            errors="replace",
            input=input,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.fqdn}: {command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def put(self, path, text):
        """Write `text` to the file `path`; its directory is made."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path], input=text)

    def get(self, path):
        """The text of the file `path`."""
        return self.run(["cat", path]).stdout

    def journal(self, unit):
        """What the journal has of `unit`, since the machine was made."""
        return self.run(["journalctl", "--no-pager", "-u", unit]).stdout

    def install_checkout(self, path):
        """Copy this repository there as a commit of everything would hold it."""
        listing = ("git", "-C", CHECKOUT, "ls-files", "-coz", "--exclude-standard")
        names = subprocess.run(listing, check=True, capture_output=True).stdout.split(b"\0")
        names = [n for n in names if n and os.path.lexists(CHECKOUT / os.fsdecode(n))]
        pack = ("tar", "-C", CHECKOUT, "--null", "-T", "-", "--owner=0", "--group=0", "-c")
        archive = subprocess.run(pack, input=b"\0".join(names), check=True, capture_output=True)
        self.run(["mkdir", "-p", path])
        subprocess.run(self._enter("tar", "-C", path, "-x"), input=archive.stdout, check=True)

    def reboot(self):
        """Restart, as `reboot` typed on the machine; returns when it is up again."""
        self.run("systemctl reboot", check=False)
        self._await_boot(previous=self.leader)

    def stop(self):
        """Pull the plug and throw the machine away."""
        _end(self.fqdn)
        self._process.wait()
        _run(f"ip netns del {NAME}-{self.fqdn}")
        shutil.rmtree(self.disk)


class NameServer:
    """nsd on the wire, at an address of its own."""

    def __init__(self, gateway, address):
        self.gateway = gateway
        self.address = address
        self.zones = set()
        self._directory = CACHE / "machines" / f"nsd-{address}"
        self._directory.mkdir(parents=True)
        with inside(gateway.network):
            _run(f"ip addr add {address}/24 dev wire")

    def serve(self, zone, text):
        """Serve `text` as the whole of `zone` from now on, when this returns.

        A zone that nsd refuses is a ValueError in nsd's words, and what was served stays.
        """
        draft = self._directory / "draft"
        draft.write_text(text)
        check = subprocess.run(("nsd-checkzone", zone, draft), capture_output=True, text=True)
        if check.returncode:
            raise ValueError(f"nsd refuses the zone {zone}: {check.stdout}{check.stderr}")
        draft.rename(self._directory / f"{zone}.zone")
        self.zones.add(zone)
        self.gateway.zones.setdefault(dns.name.from_text(zone), self.address)
        self._restart()

    def _restart(self):
        state = ("database", "pidfile", "username", "xfrdfile", "zonelistfile")
        configuration = self._directory / "nsd.conf"
        configuration.write_text(
            f"server:\n ip-address: {self.address}\n zonesdir: {self._directory}\n"
            + "".join(f' {name}: ""\n' for name in state)
            + "".join(f"zone:\n name: {zone}\n zonefile: {zone}.zone\n" for zone in self.zones)
        )
        group = self._directory.name
        _end(group)
        log = self._directory / "log"
        with inside(self.gateway.network):
            process = _start(group, ("nsd", "-d", "-c", configuration), log)

            def answers():
                if process.poll() is not None:
                    raise RuntimeError(f"nsd does not start:\n{log.read_text()[-2000:]}")
                with suppress(OSError):
                    return dns.query.tcp(dns.message.make_query(".", "SOA"), self.address)

            until(answers, 10, "nsd does not answer")


class Gateway:
    """What machines meet at the end of the wire: a resolver, and a way out to HTTP and HTTPS.

    The resolver asks the lab's name servers about the lab's `zones` and the host's resolvers about
    everything else. The way out is a relay rather than NAT, so the host needs no rule and no route.
    """

    def __init__(self):
        self.zones = {}
        self.network = _namespace("")
        self._host = f"/proc/self/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
        self._upstream = dns.resolver.Resolver().nameservers
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [GATEWAY]
        self._turn = threading.RLock()
        with inside(self.network):
            _run("ip link add wire type bridge")
            _run(f"ip addr add {GATEWAY}/24 dev wire")
            _run("ip link set wire up")
            # Forwarding to nowhere: whatever is not relayed is refused at once, not dropped.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            web = f"! -d {WIRE} -p tcp -m multiport --dports 80,443"
            _run(f"iptables -t nat -A PREROUTING {web} -j REDIRECT --to-ports {RELAY_PORT}")
            self._servers = [
                _serve(socketserver.ThreadingUDPServer, (GATEWAY, 53), self._udp),
                _serve(socketserver.ThreadingTCPServer, (GATEWAY, 53), self._tcp),
                _serve(socketserver.ThreadingTCPServer, (GATEWAY, RELAY_PORT), self._relay),
            ]

    def close(self):
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def call(self, network, function, *args, **kwargs):
        """`function(…)` in that network with the lab's names; see `Host.call`."""
        with self._turn, inside(network):
            dns.resolver.override_system_resolver(self._resolver)
            try:
                return function(*args, **kwargs)
            finally:
                dns.resolver.restore_system_resolver()

    def _answer(self, wire, ask):
        query = dns.message.from_wire(wire)
        name = query.question[0].name
        ours = [self.zones[zone] for zone in self.zones if name.is_subdomain(zone)]
        for server in ours or self._upstream:
            with suppress(OSError, dns.exception.DNSException):
                with inside(self.network if ours else self._host):
                    reply = ask(query, server, timeout=5)
                reply.flags |= dns.flags.RA
                return reply.to_wire()
        failure = dns.message.make_response(query, recursion_available=True)
        failure.set_rcode(dns.rcode.SERVFAIL)
        return failure.to_wire()

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
                outer = socket.create_connection((socket.inet_ntoa(address), port))
            with outer:
                back = threading.Thread(target=_copy, args=(outer, request), daemon=True)
                back.start()
                _copy(request, outer)
                back.join()


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _serve(kind, address, handle):
    server = kind(address, handle)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return server


def _run(command):
    subprocess.run(command.split(), check=True)


def _setns(namespace):
    # os.setns comes with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace.fileno(), 0):
        raise OSError(ctypes.get_errno(), f"setns to {namespace.name}")


def _namespace(fqdn):
    name = f"{NAME}-{fqdn}"
    _run(f"ip netns add {name}")
    network = f"/run/netns/{name}"
    with inside(network):
        _run("ip link set lo up")
    return network


def _join(group):
    return ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group)


def _start(group, argv, log):
    """Start `argv` in a control group below the lab's, out of reach of the terminal's Ctrl-C."""
    path = CGROUPS[0] / NAME / group
    path.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            (*_join(path), *argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(group=""):
    """Kill what runs in that control group of the lab and remove the group."""
    top = CGROUPS[0] / NAME / group
    if top.exists():
        (top / "cgroup.kill").write_text("1")
        events = top / "cgroup.events"
        until(lambda: "populated 0" in events.read_text(), 30, f"{top} does not die")
    for hierarchy in CGROUPS:
        for directory, *_ in os.walk(hierarchy / NAME / group, topdown=False):
            os.rmdir(directory)


def _sweep():
    """Remove all that a lab leaves outside its caches: this one, or one that was killed."""
    _end()
    for path in Path("/run/netns").glob(f"{NAME}-*"):
        _run(f"ip netns del {path.name}")
    for directory in ("machines", "unfinished"):
        shutil.rmtree(CACHE / directory, ignore_errors=True)
