import concurrent.futures

import pytest

from lab import HEAD, NS, Lab, missing
from server import PILLAR, Server


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
def servers(lab):
    """Debian 12 with a pillar of two domains; Debian 13 as bootstrap makes it from the example."""
    lab.dns.serve(
        "elsewhere.example", HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
    )
    one = Server(lab, lab.machine("bookworm", "mail.one.example"))
    two = Server(lab, lab.machine("trixie", "mail.two.example"))
    two.machine.run(
        "apt-get update && apt-get install -y --no-install-recommends exim4-daemon-light"
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.submit(one.bootstrap, PILLAR), pool.submit(two.bootstrap)
        one.output, two.output = first.result(), second.result()
    yield one, two
    for server in one, two:
        server.machine.stop()


@pytest.fixture(scope="session")
def one(servers):
    return servers[0]


@pytest.fixture(scope="session")
def two(servers):
    return servers[1]


@pytest.fixture(scope="session", params=[0, 1], ids=["bookworm", "trixie"])
def server(servers, request):
    return servers[request.param]


@pytest.fixture
def user(server):
    return next(iter(server.accounts))


@pytest.fixture(scope="session")
def sink(lab):
    with lab.outside.sink() as sink:
        yield sink
