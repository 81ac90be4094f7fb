"""The commands as plain Python, with each other for siblings and nothing else of Salt."""

import importlib.util
import inspect
import subprocess
import sys

import pytest
import yaml
from salt.modules import slsutil

import reading
from saltext.mailsrv.modules import (
    backup_mx,
    certificate,
    dkim,
    mailbox,
    mailcheck,
    mailsrv,
    nsd,
    password,
)

COMMANDS = (backup_mx, certificate, dkim, mailbox, mailcheck, mailsrv, nsd, password)


def render(path, default_renderer):
    return yaml.safe_load((reading.STATES.parent / path.removeprefix("salt://")).read_text())


def run(command, python_shell, raise_err):
    """Salt's cmd.run, for a list of arguments."""
    assert not python_shell
    return subprocess.run(command, capture_output=True, text=True, check=raise_err).stdout.strip()


def nothing_published(*arguments, **keywords):
    """Salt's mine.get, where nobody has published anything."""
    return {}


class Loader(dict):
    """What Salt's loader gives a module, by its name there."""

    def next_run(self, **keys):
        """Begin a run with these keys of the pillar, beside those that it has."""
        self["__context__"].clear()
        self["__pillar__"].update(keys)


@pytest.fixture
def loader(monkeypatch):
    """The dunders of every module of commands."""
    functions = {"slsutil.renderer": render, "slsutil.merge": slsutil.merge, "cmd.run": run}
    functions["mine.get"] = nothing_published
    for module in COMMANDS:
        functions |= {
            f"{module.__virtualname__}.{name}": function
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_")
        }
    dunders = Loader(
        __salt__=functions,
        __context__={},
        __opts__={"test": False, "id": reading.HOST},
        __pillar__={},
        __grains__={
            "os_family": "Debian",
            "fqdn": reading.HOST,
            "ipv4": ["127.0.0.1", "192.0.2.1"],
            "ipv6": ["::1", "2001:db8::1", "fe80::1"],
        },
    )
    for module in COMMANDS:
        for name, value in dunders.items():
            monkeypatch.setattr(module, name, value, raising=False)
    return dunders


@pytest.fixture
def known(loader):
    """What the formula knows of a system, to be changed before a command asks for it."""

    def of(family="Debian"):
        found = reading.system(family)
        files = {"salt://mailsrv/defaults.yaml": {}, "salt://mailsrv/osmap.yaml": {family: found}}
        loader["__grains__"]["os_family"] = family
        loader["__salt__"]["slsutil.renderer"] = lambda path, default_renderer: files[path]
        return found

    return of


@pytest.fixture
def without(monkeypatch):
    """A fresh copy of a module, imported where some libraries are not installed."""

    def load(module, *libraries):
        for library in libraries:
            monkeypatch.setitem(sys.modules, library, None)
        spec = importlib.util.spec_from_file_location("without", module.__file__)
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        return copy

    return load


@pytest.fixture(scope="session")
def keys():
    """A key pair of every length, as dkim.generate makes them."""
    return {bits: dkim.generate(bits) for bits in (1024, 2048, 3072, 4096)}
