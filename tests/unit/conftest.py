"""The modules as plain Python, with each other for siblings and nothing else of Salt."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from salt.modules import slsutil

from saltext.mailsrv.modules import certificate, dkim, mailcheck, mailsrv, password

STATES = Path(__file__).parents[2] / "salt_mailsrv/states"


def render(path, default_renderer):
    return yaml.safe_load((STATES / path.removeprefix("salt://")).read_text())


def run(command, python_shell, raise_err):
    """Salt's cmd.run, for a list of arguments."""
    assert not python_shell
    return subprocess.run(command, capture_output=True, text=True, check=raise_err).stdout.strip()


@pytest.fixture(autouse=True)
def loader(monkeypatch):
    """What Salt's loader gives a module."""
    functions = {"slsutil.renderer": render, "slsutil.merge": slsutil.merge, "cmd.run": run}
    for module in (certificate, dkim, mailcheck, mailsrv, password):
        functions |= {
            f"{module.__virtualname__}.{name}": function
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if not name.startswith("_")
        }
    dunders = {
        "__salt__": functions,
        "__context__": {},
        "__opts__": {"test": False},
        "__pillar__": {},
        "__grains__": {
            "os_family": "Debian",
            "fqdn": "mx.example.com",
            "ipv4": ["127.0.0.1", "192.0.2.1"],
            "ipv6": ["::1", "2001:db8::1", "fe80::1"],
        },
    }
    for module in (certificate, dkim, mailcheck, mailsrv, password):
        for name, value in dunders.items():
            monkeypatch.setattr(module, name, value, raising=False)
    return dunders


@pytest.fixture
def facts(loader):
    """The formula's facts about a system."""

    def of(family):
        loader["__grains__"]["os_family"] = family
        return mailsrv.facts()

    return of


@pytest.fixture
def read(facts):
    """The model of a pillar."""

    def model(pillar, fqdn="mx.example.com", family="Debian", mined=None):
        return mailsrv.model(pillar, fqdn, facts(family), mined)

    return model


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
