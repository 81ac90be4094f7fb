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

import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiosmtpd.controller import Controller

import wire
from wire import CACHE, GATEWAY, NAME, inside, sh, until

HEAD = f"$TTL 60\n@ SOA ns root 1 60 60 600 60\n@ NS ns\nns A {wire.NAME_SERVER}\n"
# The name servers of a provider, in provider.example.
NS = {"ns1": "198.51.100.61", "ns2": "198.51.100.62"}
LOCK = Path(f"/run/lock/{NAME}")
CHECKOUT = Path(__file__).resolve().parents[2]
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INCLUDE = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,sudo,procps,cron"
# All Debian releases are built by the script "sid"; naming it builds those newer than the host.
SCRIPT = "/usr/share/debootstrap/scripts/sid"
DEBOOTSTRAP = (
    f"debootstrap --variant=minbase --include={INCLUDE} --keyring={KEYRING}"
    f" {{suite}} {{target}} http://deb.debian.org/debian {SCRIPT}"
)
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
    return f"the lab needs: apt-get install {' '.join(packages)}" if packages else ""


class Lab:
    """The wire with its name server, an outside host and any number of machines.

    A context manager; one at a time of a `NAME`. Machines may be made in several threads at once.
    """

    def __enter__(self):
        self._lock = LOCK.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another lab of this name runs on this host (it holds {LOCK})"
            ) from None
        wire.sweep()
        with ExitStack() as stack:
            stack.callback(wire.sweep)
            stack.callback(os.umask, os.umask(0o022))
            (CACHE / "pip").mkdir(parents=True, exist_ok=True)
            self.gateway = wire.Gateway()
            stack.callback(self.gateway.close)
            self.dns = self.name_server(wire.NAME_SERVER)
            self.hosts = {}
            self.turn = threading.RLock()
            self._building = defaultdict(threading.Lock)
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

    def name_server(self, address):
        """One more `wire.NameServer`. Where two serve a zone, the resolver asks the first."""
        return wire.NameServer(self.gateway, address)

    def serve_reverse(self, leave_out=None):
        """Serve the PTR records of all hosts, less one's."""
        hosts = {number: name for number, name in self.hosts.items() if name != leave_out}
        names = (f"{number} PTR {name}.\n" for number, name in hosts.items())
        self.dns.serve(wire.REVERSE, HEAD + "".join(names))

    def lookup(self, name, kind):
        """The records of that kind, as dnspython's; empty when there are none."""
        return self.outside.call(self.gateway.lookup, name, kind)

    def image(self, suite):
        """The root filesystem machines of `suite` start from; kept between runs."""
        recipe = hashlib.sha256(DEBOOTSTRAP.encode()).hexdigest()[:12]
        image = CACHE / "images" / f"{suite}-{recipe}"
        with self._building[suite]:
            if not image.exists():
                image.parent.mkdir(exist_ok=True)
                target = CACHE / "unfinished" / suite
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                log = target.with_suffix(".log")
                command = DEBOOTSTRAP.format(suite=suite, target=target).split()
                # With mounts of its own, a killed debootstrap leaves no /proc behind.
                if wire.start(f"build-{suite}", ("unshare", "--mount", *command), log).wait():
                    raise RuntimeError(f"debootstrap {suite} failed:\n{log.read_text()[-2000:]}")
                target.rename(image)
        return image


class Host:
    """An address on the wire with a PTR record for its name, for the test itself to act from."""

    def __init__(self, lab, fqdn):
        self.lab = lab
        self.fqdn = fqdn
        with lab.turn:
            number = 100 + len(lab.hosts)
            self.address, self.network = lab.gateway.connect(fqdn, number)
            lab.hosts[number] = fqdn
            lab.serve_reverse()

    def call(self, function, *args, **kwargs):
        """`function(…)` as if run on this host: its connections, names from the lab's DNS.

        Sockets and processes it leaves behind stay on this host: `call(smtplib.SMTP, "mx1.…")`
        gives a connection that is used from anywhere. Calls from several threads take turns.
        """
        with self.lab.turn, inside(self.network), self.lab.gateway.names():
            return function(*args, **kwargs)

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
    """
    A mail server that accepts everything and keeps it in `messages`: aiosmtpd `Envelope`s, with the
    time they came as `time`.
    """

    def __init__(self, host, **options):
        super().__init__(self, host.address, 25, server_hostname=host.fqdn, **options)
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        envelope.time = time.time()
        self.messages.append(envelope)
        return "250 OK"

    def wait(self, count=1, seconds=60):
        """The messages, as soon as there are `count`."""
        until(lambda: len(self.messages) >= count, seconds, f"fewer than {count} messages came")
        return self.messages


class Machine(Host):
    """A Debian machine under systemd, on an overlay of its image.

    Downloads are kept between runs: those of pip for all machines, those of apt for each name.
    """

    def __init__(self, lab, suite, fqdn):
        self._image = lab.image(suite)
        super().__init__(lab, fqdn)
        self._disk = CACHE / "machines" / fqdn
        self._debs = CACHE / "apt" / f"{suite}-{fqdn}"  # not shared: apt locks the directory
        for directory in (self._debs, *(self._disk / name for name in ("upper", "work", "root"))):
            directory.mkdir(parents=True, exist_ok=True)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
        self._configure()
        self._boot()

    def _configure(self):
        short = self.fqdn.partition(".")[0]
        files = {
            "hostname": f"{short}\n",
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.fqdn} {short}\n",
            "machine-id": "",
            "resolv.conf": f"nameserver {GATEWAY}\n",
        }
        if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
            names = ("PIP_CERT", "SSL_CERT_FILE")
            self._environment.update(dict.fromkeys(names, CA_BUNDLE))
            files[CA_BUNDLE.removeprefix("/etc/")] = Path(bundle).read_text()
            files["sudoers.d/lab"] = f'Defaults env_keep += "{" ".join(names)}"\n'
        for name, text in files.items():
            path = self._disk / "upper/etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _boot(self):
        # Mounted where only this machine sees it, so that all of it goes when its processes go.
        mount = (
            "mount -t tmpfs lab /run/systemd/nspawn && mount -t overlay lab -o"
            f" lowerdir={self._image},upperdir={self._disk}/upper,workdir={self._disk}/work"
            f" {self._disk}/root"
        )
        # The systemd of forky boots with version 2 of the control groups only.
        nspawn = (
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --boot --quiet"
            f" --directory={self._disk}/root --machine={self.fqdn}"
            f" --network-namespace-path={self.network} --resolv-conf=off --timezone=off"
            f" --bind={self._debs}:/var/cache/apt/archives --bind={CACHE}/pip:/root/.cache/pip"
            " --link-journal=no --register=no --keep-unit"
        )
        console = self._disk / "console"
        Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
        # Machines in one control group would share a unit's processes: stopped on one machine,
        # it is killed on all. nspawn does not make a group for each when no systemd runs it.
        command = ("unshare", "--mount", "sh", "-c", f"{mount} && {nspawn}")
        self._process = wire.start(self.fqdn, command, console)

        def booted():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.fqdn} does not boot:\n{console.read_text()[-2000:]}")
            find = ("pgrep", "-x", "systemd", "-P", str(self._process.pid))
            self._leader = subprocess.run(find, capture_output=True, text=True).stdout.strip()
            state = self._leader and self.run("systemctl is-system-running", check=False).stdout
            return state in ("running\n", "degraded\n")

        until(booted, 90, f"{self.fqdn} does not come up, see {console}")

    def _enter(self, *argv):
        # Outside the machine's control group its systemd could not move a process into a scope.
        inner = f"{self.fqdn}/payload/init.scope"
        return wire.join(inner, ("nsenter", "--all", "--target", self._leader, *argv))

    def run(self, command, check=True, env=None, timeout=600, input=""):
        """Run a shell line, or a list of arguments, as root; returns the `CompletedProcess`.

        Nothing of the host's environment is passed on. With `check`, a command that fails is
        an AssertionError that shows all it said. One that takes longer than `timeout` seconds
        is ended and fails with 124.
        """
        argv = ("sh", "-c", command) if isinstance(command, str) else command
        done = subprocess.run(
            self._enter("timeout", str(timeout), *argv),
            capture_output=True,
            env={**self._environment, **(env or {})},
            errors="replace",
            input=input,
        )
        if check and done.returncode:
            said = f"ended with {done.returncode}\n{done.stdout}{done.stderr}"
            raise AssertionError(f"{self.fqdn}: {command} {said}")
        return done

    def watch(self, command):
        """Start a shell line there whose CPU and memory are not the machine's; its `Popen`."""
        argv = ("nsenter", "--all", "--target", self._leader, "sh", "-c", f"exec {command}")
        return subprocess.Popen(argv, stdout=subprocess.PIPE, env=self._environment)

    def cpu(self):
        """The seconds of CPU that all processes of the machine have used since it booted."""
        return wire.cpu(self.fqdn)

    def memory(self):
        """The bytes of memory that the machine's processes have, see `wire.memory`."""
        return wire.memory(self.fqdn)

    def put(self, path, text):
        """Write `text` to the file `path`; its directory is made."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path], input=text)

    def get(self, path):
        """The text of the file `path`."""
        return self.run(["cat", path]).stdout

    def journal(self, unit):
        """All that the journal has of `unit`."""
        return self.run(["journalctl", "--no-pager", "-u", unit]).stdout

    def install_checkout(self, path):
        """Copy this repository there: what is tracked and what is new, without what is ignored."""
        listing = ("git", "-C", CHECKOUT, "ls-files", "-coz", "--exclude-standard")
        names = subprocess.run(listing, check=True, capture_output=True).stdout.split(b"\0")
        names = [n for n in names if n and os.path.lexists(CHECKOUT / os.fsdecode(n))]
        pack = ("tar", "-C", CHECKOUT, "--null", "-T", "-", "--owner=0", "--group=0", "-c")
        archive = subprocess.run(pack, input=b"\0".join(names), check=True, capture_output=True)
        self.run(["mkdir", "-p", path])
        subprocess.run(self._enter("tar", "-C", path, "-x"), input=archive.stdout, check=True)

    def reboot(self):
        """Restart as by `reboot` typed on the machine; returns when it is up again."""
        self.run("systemctl reboot", check=False)
        self._process.wait(60)
        self._boot()

    def stop(self):
        """Pull the plug and throw the machine away."""
        wire.end(self.fqdn)
        self._process.wait()
        sh(f"ip netns del {self.network.name}")
        shutil.rmtree(self._disk)
