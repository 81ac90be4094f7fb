"""Masterless minions of both systems in Salt's real loaders: no daemon, nothing outside of tmp."""

import functools
import json
import logging
import re
import subprocess
from pathlib import Path

import pytest
import salt.config
import salt.loader
import salt.pillar

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
PACKAGE = ROOT / "salt_mailsrv"

# The grains that tell the systems apart, as salt/grains/core.py makes them: FreeBSD has no "init".
LINUX_ONLY = {"init", "systemd", "selinux", "oscodename", "lsb_distrib_codename"}
DEBIAN = {"os": "Debian", "os_family": "Debian", "kernel": "Linux", "init": "systemd"}
FREEBSD = {"os": "FreeBSD", "os_family": "FreeBSD", "kernel": "FreeBSD"}
SYSTEMS = {
    "Debian": {**DEBIAN, "oscodename": "trixie", "osrelease": "13", "osmajorrelease": 13},
    "FreeBSD": {**FREEBSD, "osfullname": "FreeBSD 14.3", "osrelease": "14.3", "osmajorrelease": 14},
}
NETWORK = {
    "fqdn": "mx.example.com",
    "ipv4": ["127.0.0.1", "192.0.2.1"],
    "ipv6": ["::1", "2001:db8::1"],
}
CANDIDATES = {
    "opensmtpd": "7.6.0p1-1",
    "dovecot-core": "1:2.4.1+dfsg1-6+deb13u1",
    "dovecot24": "2.4.5_2",
}
WRITTEN = {"name", "source", "contents", "template", "context", "mode", "show_changes", "makedirs"}


class Minion:
    """A minion with a machine that is data; all its files are below `root`."""

    loaded = None

    def __init__(self, opts):
        self.root = Path(opts["root_dir"])
        self._opts = opts
        self._known = {}
        pillar = salt.pillar.get_pillar(opts, opts["grains"], opts["id"], "base")
        opts["pillar"] = pillar.compile_pillar()

    def __call__(self, function, *args, **kwargs):
        if Minion.loaded is not self:
            # Salt's renderers keep the grains of the minion that was loaded last.
            self._utils = salt.loader.utils(self._opts)
            self._functions = salt.loader.minion_mods(self._opts, utils=self._utils)
            Minion.loaded = self
        return self._functions[function](*args, **kwargs)

    def state_function(self, name, test=False):
        """A function of a state module, for one call outside of a run."""
        self("test.ping")
        opts = self._opts | {"test": test}
        return salt.loader.states(opts, self._functions, self._utils, None)[name]

    def apply(self, name, test=False, **mailsrv):
        """Apply the one state with that ID, alone, for what it returns."""
        chunk = self.state(name, **mailsrv)
        known = ("state", "fun", "name", "order", "require", "require_in", "watch", "watch_in")
        arguments = {
            key: value
            for key, value in chunk.items()
            if key not in known and not key.startswith("__")
        }
        function = self.state_function(f"{chunk['state']}.{chunk['fun']}", test)
        return function(chunk["name"], **arguments)

    def configure(self):
        """Write the configuration of salt-call into `root`."""
        plain = {key: self._opts[key] for key in self._opts["configured"]}
        (self.root / "minion").write_text(json.dumps(plain))

    def bare(self, text):
        """A text with the paths that it has on a real machine."""
        return text.replace(str(self.root), "")

    def at(self, name):
        """Where a file of a real machine is here."""
        return self.root / self.bare(name).lstrip("/")

    def low(self, sls="mailsrv", **mailsrv):
        """The states of an SLS; `mailsrv` is added to the pillar."""
        known = ("low", str(sls), repr(mailsrv))
        if known not in self._known:
            pillar = {"mailsrv": mailsrv} if mailsrv else None
            self._known[known] = self("state.show_low_sls", sls, pillar=pillar)
        low = self._known[known]
        assert all(isinstance(chunk, dict) for chunk in low), "\n".join(map(str, low))
        return low

    def state(self, name, sls="mailsrv", **mailsrv):
        """The one state with an ID, or, written `file: ID`, the one of that kind."""
        kind, _, name = name.rpartition(": ")
        (found,) = [
            chunk
            for chunk in self.low(sls, **mailsrv)
            if chunk["__id__"] == name and kind in ("", chunk["state"])
        ]
        return found

    def sign(self, **mailsrv):
        """All its DKIM keys sign, as after a run that found their records in DNS."""
        for chunk in self.low(**mailsrv):
            if (chunk["state"], chunk["fun"]) == ("dkim", "signing"):
                file = self.at(chunk["name"])
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"signing": chunk["selector"], "retired": {}}))

    def files(self, sls="mailsrv", **mailsrv):
        """
        The files that the states of an SLS write, by name, both as on a real machine.

        They stand :meth:`at` a place below `root`. Owners, checks and requisites are left out:
        neither users nor daemons need to be here.
        """
        known = ("files", str(sls), repr(mailsrv))
        if known not in self._known:
            self._known[known] = {
                name: self.bare(self.at(name).read_text()) for name in self.write(sls, **mailsrv)
            }
        return self._known[known]

    def write(self, sls="mailsrv", pillar=None, **mailsrv):
        """Write the files; the changes of each, by its name on a real machine."""
        for key in ("/etc/mail/password.key", "/usr/local/etc/mail/password.key"):
            self.at(key).parent.mkdir(parents=True, exist_ok=True)
            self.at(key).write_bytes(bytes(32))
        states = {}
        for chunk in self.low(sls, **mailsrv):
            kind = (chunk["state"], chunk["fun"])
            if kind == ("file", "managed") and chunk.get("create", True):
                chunk = {**chunk, "name": str(self.at(chunk["name"])), "makedirs": True}
                arguments = [{key: chunk[key]} for key in WRITTEN & chunk.keys()]
                states[chunk["__id__"]] = {"file": ["managed", *arguments]}
        pillar = pillar or ({"mailsrv": mailsrv} if mailsrv else None)
        result = self("state.high", states, pillar=pillar)
        assert isinstance(result, dict), result
        assert not [f"{r['name']}: {r['comment']}" for r in result.values() if not r["result"]]
        return {self.bare(state["name"]): state["changes"] for state in result.values()}


@pytest.fixture(scope="session")
def host_grains(tmp_path_factory):
    """The grains of this machine, less those that tell what system it is."""
    root = str(tmp_path_factory.mktemp("grains"))
    found = salt.loader.grains(salt.config.apply_minion_config({"id": "minion", "root_dir": root}))
    return {key: value for key, value in found.items() if key not in LINUX_ONLY}


@pytest.fixture(scope="session")
def minion(host_grains, tmp_path_factory):
    """
    A minion: its system, grains of its own, the packages and services of its machine, options.

    The same one for the same arguments.
    """
    made = {}

    def make(system="Debian", pillar="pillar.example", grains=(), packages=(), services=(), **opts):
        arguments = repr((system, pillar, grains, packages, services, opts))
        if arguments not in made:
            root = tmp_path_factory.mktemp(system.lower())
            opts = {
                "id": "minion",
                "root_dir": str(root),
                "conf_file": str(root / "minion"),
                "file_client": "local",
                "file_roots": {"base": [str(overlay(root)), str(PACKAGE / "states")]},
                "pillar_roots": {"base": [str(ROOT / pillar)]},
                "module_dirs": [str(TESTS / "machine"), str(PACKAGE)],
                "fileserver_list_cache_time": 0,
                "lazy_loader_strict_matching": True,
                "grains": {**host_grains, **NETWORK, **SYSTEMS[system], **dict(grains)},
                "machine": {
                    "packages": dict(packages),
                    "candidates": CANDIDATES,
                    "services": list(services),
                },
            } | opts
            opts["configured"] = [*opts]
            made[arguments] = Minion(salt.config.apply_minion_config(opts))
        return made[arguments]

    return make


@pytest.fixture(scope="session")
def pillar(tmp_path_factory):
    """A directory with a pillar of its own, the same one for the same text."""

    @functools.cache
    def write(text):
        directory = tmp_path_factory.mktemp("pillar")
        (directory / "top.sls").write_text("base: {'*': [users]}\n")
        (directory / "users.sls").write_text(text)
        return str(directory)

    return write


@pytest.fixture(scope="session")
def relay_pem(tmp_path_factory):
    """The certificate of the relay, in a file."""
    path = tmp_path_factory.mktemp("relay") / "relay.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=mail -out"
    subprocess.run([*command.split(), path], check=True, capture_output=True)
    return path


def overlay(root):
    """A file root before the formula's own: the same osmap.yaml, its paths below `root`."""
    osmap = (PACKAGE / "states/mailsrv/osmap.yaml").read_text()
    moved = re.sub(r"(?<=: )/(?=(?:etc|usr/local|var|vmail|run)\b)", f"{root}/", osmap)
    (root / "overlay/mailsrv").mkdir(parents=True)
    (root / "overlay/mailsrv/osmap.yaml").write_text(moved)
    return root / "overlay"


def pytest_unconfigure():
    logging.raiseExceptions = False  # salt logs to streams that pytest has closed
