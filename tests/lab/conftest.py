import concurrent.futures
import functools
import os

import pytest

import stock
from ca import Pebble
from image import missing
from lab import HEAD, NS, Lab


@pytest.fixture(scope="session")
def lab():
    """The lab of this test run; its tests are skipped where it cannot be."""
    if why := missing():
        pytest.skip(why)
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="session")
def name_servers(lab):
    """Two name servers of a provider: ns1 and ns2.provider.example."""
    hosts = "".join(f"{name} A {address}\n" for name, address in NS.items())
    lab.dns.serve("provider.example", HEAD + hosts)
    return [lab.name_server(address) for address in NS.values()]


@pytest.fixture(scope="session")
def pebble(lab):
    """The lab's CA."""
    return Pebble(lab)


def needed(item):
    """The servers that a test asks for."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return {*stock.RECIPES} & {params.get("server"), params.get("acme"), *item.fixturenames}


@pytest.fixture(scope="session")
def late(lab):
    """A host that has no mail server yet, the one of late.example."""
    host = lab.host("mx.late.example")
    lab.dns.serve("late.example", HEAD + f"@ MX 10 mx\nmx A {host.address}\n")
    return host


@pytest.fixture(scope="session")
def copy(lab, request):
    """Start a copy of a server of `stock.py`."""
    lab.dns.serve(
        "elsewhere.example", HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
    )
    with stock.used():
        if "PYTEST_XDIST_WORKER" not in os.environ:  # who is alone makes all at once
            names = set().union(*map(needed, request.session.items))
            with concurrent.futures.ThreadPoolExecutor() as pool:
                [*pool.map(functools.partial(stock.make, lab), names)]
        yield functools.partial(stock.copy, lab)


@pytest.fixture(scope="session")
def one(copy):
    """Debian 12 with a pillar of two domains."""
    server = copy("one")
    yield server
    server.machine.stop()


@pytest.fixture(scope="session")
def two(copy):
    """Debian 13 as bootstrap makes it from the example."""
    server = copy("two")
    yield server
    server.machine.stop()


@pytest.fixture(scope="session")
def bsd(copy):
    """A machine that is shaped like FreeBSD, with a pillar of two domains."""
    server = copy("bsd")
    yield server
    server.machine.stop()


@pytest.fixture(scope="session", params=["one", "two"], ids=["bookworm", "trixie"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def user(server):
    return next(iter(server.accounts))


@pytest.fixture(scope="session")
def sink(lab):
    with lab.outside.sink() as sink:
        yield sink
