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
import os
import shutil
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aiosmtpd.controller import Controller

import image
import wire
from image import CACHE
from wire import DISKS, GATEWAY, NAME, inside, sh, until

HEAD = f"$TTL 60\n@ SOA ns root 1 60 60 600 60\n@ NS ns\nns A {wire.NAME_SERVER}\n"
# The name servers of a provider, in provider.example.
NS = {"ns1": "198.51.100.61", "ns2": "198.51.100.62"}
# What the addresses end in of hosts that have the same one in every lab.
NUMBERS = {"mx.elsewhere.example": 100, "mail.one.example": 101, "mail.two.example": 102}
NUMBERS["mail.bsd.example"] = 99
# Large receivers whom the self-check asks for: in the lab, nobody takes their mail (RFC 7505).
RECEIVERS = ("gmail.com", "outlook.com", "icloud.com", "gmx.net")
# What runs where a test names a release: by trixie=forky, all that is said of 13 is tried on 14.
STANDS_FOR = dict(
    pair.split("=") for pair in os.environ.get("MAILSRV_LAB_RELEASES", "").split(",") if pair
)
LOCK = Path(f"/run/lock/{NAME}")
CHECKOUT = Path(__file__).resolve().parents[2]
BUNDLE_NAMES = ("PIP_CERT", "SSL_CERT_FILE")
BUNDLE = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
_FREEBSD = Path(__file__).with_name("freebsd")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


class Lab:
    """The wire with its name server, an outside host and any number of machines.

    A context manager; one at a time of a `NAME`. Machines may be made in several threads at once.
    """

    def __enter__(self):
        self._lock = LOCK.open("w")
        # One that was killed a moment ago is swept away meanwhile.
        until(self._locked, 10, f"another lab of this name runs on this host (it holds {LOCK})")
        wire.sweep()
        with ExitStack() as stack:
            watch = wire.watch(self._lock)
            stack.callback(watch.wait)
            stack.callback(watch.kill)
            stack.callback(wire.sweep)
            stack.callback(os.umask, os.umask(0o022))
            (CACHE / "pip").mkdir(parents=True, exist_ok=True)
            self.gateway = wire.Gateway()
            stack.callback(self.gateway.close)
            self.dns = self.name_server(wire.NAME_SERVER)
            for domain in RECEIVERS:
                self.dns.serve(domain, HEAD + "@ MX 0 .\n")
            self.hosts = {}
            self.turn = threading.RLock()
            self.outside = self.host("mx.elsewhere.example")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()
        self._lock.close()

    def _locked(self):
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True

    def host(self, fqdn):
        """One more host that is not a machine: an address to connect from and to."""
        return Host(self, fqdn)

    def machine(self, suite, fqdn, disk=None):
        """A fresh machine of that Debian suite, booted; or a copy of one that was kept there."""
        kind = Shaped if suite == "freebsd" else Machine
        return kind(self, STANDS_FOR.get(suite, suite), fqdn, disk)

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


class Host:
    """An address on the wire with a PTR record for its name, for the test itself to act from."""

    def __init__(self, lab, fqdn):
        self.lab = lab
        self.fqdn = fqdn
        with lab.turn:
            free = (number for number in range(103, 255) if number not in lab.hosts)
            number = NUMBERS.get(fqdn) or next(free)
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
    time their last recipient was taken as `time`: whoever ends while it hands a message on ends
    later than that. It knows nobody whose address is in `unknown`.
    """

    def __init__(self, host, **options):
        super().__init__(self, host.address, 25, server_hostname=host.fqdn, **options)
        self.messages, self.unknown = [], set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.unknown:
            return "550 5.1.1 No such user"
        envelope.time = time.time()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(envelope)
        return "250 OK"

    def wait(self, count=1, seconds=60):
        """The messages, as soon as there are `count`."""
        until(lambda: len(self.messages) >= count, seconds, f"fewer than {count} messages came")
        return self.messages


class Machine(Host):
    """A Debian machine under systemd, on an overlay of its image, or of another machine's disk.

    Downloads are kept between runs for all machines: those of pip, and for each suite those of apt.
    """

    #: A shell line that runs before it boots, where only this machine sees what is mounted.
    before = "true"
    #: Its salt-call, as bootstrap leaves it.
    salt_call = "salt-call"
    image = staticmethod(image.image)
    # How nspawn starts its init, and how to know that one, and that it has come up.
    _init = "--boot"
    _leads = ("-x", "systemd")
    _ends, _restarts = "systemctl poweroff", "systemctl reboot"

    def __init__(self, lab, suite, fqdn, disk=None):
        self._below = ":".join(str(layer) for layer in (disk, self.image(suite)) if layer)
        super().__init__(lab, fqdn)
        self.suite = suite
        self._disk = DISKS / fqdn
        for name in ("upper", "work", "root", "debs"):
            (self._disk / name).mkdir(parents=True)
        self._debs = CACHE / "apt" / suite
        self._debs.mkdir(parents=True, exist_ok=True)
        _link(self._debs, self._disk / "debs")  # apt locks the directory
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
        if BUNDLE:
            self._environment.update(dict.fromkeys(BUNDLE_NAMES, CA_BUNDLE))
        if not disk:
            self._configure(suite)
        self._boot()

    def _configure(self, suite):
        short = self.fqdn.partition(".")[0]
        files = {
            "hostname": f"{short}\n",
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.fqdn} {short}\n",
            "machine-id": "",
            "resolv.conf": f"nameserver {GATEWAY}\n",
        }
        if suite == "forky":  # a mirror may be behind with what moves: "Release file … is expired"
            files["apt/apt.conf.d/lab"] = 'Acquire::Check-Valid-Until "false";\n'
        if BUNDLE:
            files[CA_BUNDLE.removeprefix("/etc/")] = Path(BUNDLE).read_text()
            files["sudoers.d/lab"] = f'Defaults env_keep += "{" ".join(BUNDLE_NAMES)}"\n'
        for name, text in files.items():
            path = self._disk / "upper/etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _boot(self):
        # Mounted where only this machine sees it, so that all of it goes when its processes go.
        mount = (
            f"{self.before} && mount -t tmpfs lab /run/systemd/nspawn && mount -t overlay lab -o"
            f" lowerdir={self._below},upperdir={self._disk}/upper,workdir={self._disk}/work"
            f" {self._disk}/root"
        )
        # The systemd of forky boots with version 2 of the control groups only.
        nspawn = (
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet"
            f" --directory={self._disk}/root --machine={self.fqdn}"
            f" --network-namespace-path={self.network} --capability=CAP_NET_ADMIN"
            " --resolv-conf=off --timezone=off"
            f" --bind={self._disk}/debs:/var/cache/apt/archives --bind={CACHE}/pip:/root/.cache/pip"
            f" --link-journal=no --register=no --keep-unit {self._init}"
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
            find = ("pgrep", *self._leads, "-P", str(self._process.pid))
            self._leader = subprocess.run(find, capture_output=True, text=True).stdout.strip()
            return self._leader and self._is_up()

        until(booted, 90, f"{self.fqdn} does not come up, see {console}")

    def _is_up(self):
        state = self.run("systemctl is-system-running", check=False).stdout
        return state in ("running\n", "degraded\n")

    @property
    def root(self):
        """Where this host sees the machine's files and, in proc/, its processes: a path."""
        return f"/proc/{self._leader}/root"

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

    def start(self, command):
        """Start a shell line, as `run` runs it; its `Popen`, whose `stdout` are lines of text."""
        argv = self._enter("sh", "-c", command)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, env=self._environment, text=True)

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

    def journal(self, unit, since=0):
        """What the journal has of `unit`, since that time in seconds."""
        return self.run(["journalctl", "--no-pager", "-u", unit, f"--since=@{since:.0f}"]).stdout

    def install_checkout(self, path):
        """Copy this repository there: what is tracked and what is new, without what is ignored."""
        listing = ("git", "-C", CHECKOUT, "ls-files", "-coz", "--exclude-standard")
        names = subprocess.run(listing, check=True, capture_output=True).stdout.split(b"\0")
        names = [n for n in names if n and os.path.lexists(CHECKOUT / os.fsdecode(n))]
        self._unpack(path, CHECKOUT, "--null", "-T", "-", input=b"\0".join(names))

    def copy_in(self, root, directory):
        """Copy that directory of the file system below `root` to the same place there."""
        self._unpack(directory, f"{root}{directory}", ".")

    def _unpack(self, path, source, *names, input=b""):
        pack = ("tar", "-C", source, "--owner=0", "--group=0", "-c", *names)
        archive = subprocess.run(pack, input=input, check=True, capture_output=True)
        self.run(["mkdir", "-p", path])
        subprocess.run(self._enter("tar", "-C", path, "-x"), input=archive.stdout, check=True)

    def reboot(self):
        """Restart as by `reboot` typed on the machine; returns when it is up again."""
        self.run(self._restarts, check=False)
        self._process.wait(60)
        self._boot()

    def stop(self):
        """Pull the plug and throw the machine away."""
        wire.end(self.fqdn)
        self._process.wait()
        sh(f"ip netns del {self.network.name}")
        _link(self._disk / "debs", self._debs)
        shutil.rmtree(self._disk)

    def keep(self, disk):
        """Shut it down and keep its disk there: machines of its name and suite start as copies."""
        self.run(self._ends, check=False)
        self._process.wait(90)
        (self._disk / "upper").rename(disk)
        self.stop()


class Shaped(Machine):
    """A machine that is shaped like FreeBSD: docs/testing.md says what is real of it and what not.

    No systemd: rc(8) starts what rc.conf(5) enables. What stands in freebsd/root is laid over its
    image; `_FREEBSD` has what a port brings beside Debian's programs.
    """

    salt_call = "/opt/salt-mailsrv/salt-call"
    image = staticmethod(lambda suite: image.freebsd())
    _init = "--as-pid2 /etc/rc"
    _leads = ()
    _ends = _restarts = "kill $(cat /var/run/rc.pid)"  # rc(8) stops what runs

    def _configure(self, suite):
        super()._configure(suite)
        upper = self._disk / "upper"
        shutil.copytree(_FREEBSD / "root", upper, dirs_exist_ok=True)
        waiting = upper / image.WAITING.removeprefix("/")
        shutil.copytree(_FREEBSD / "ports", waiting)
        standin = (CHECKOUT / "tests/dkimproxy/dkimproxy.out").read_text()
        program = waiting / "dkimproxy.out"
        program.write_text("#!/usr/local/bin/python3\n" + standin.partition("\n")[2])
        program.chmod(0o755)
        # Of all releases of Python, that of the image.
        python = next(Path(self._below.split(":")[0], "etc").glob("python3.*"))
        directory = upper / "etc" / python.name
        directory.mkdir()
        shutil.copy(_FREEBSD / "sitecustomize.py", directory)

    def _is_up(self):
        return not self.run("test -s /var/run/rc.pid", check=False).returncode


def _link(source, target):
    """Make the packages in one directory known in the other."""
    for deb in source.glob("*.deb"):
        with suppress(FileExistsError):
            os.link(deb, target / deb.name)
