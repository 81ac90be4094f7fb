"""Servers that `./bootstrap` made, once in a test run: all labs of that run start copies of them.

A copy is the very disk of the server, shut down as by its administrator and started again under
the same name and address. It is made when first somebody needs it, and gone when the run ends.
"""

import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress

import pytest

from image import CACHE, turn
from server import PILLAR, Server
from spy import Spy
from wire import NAME

STOCK = CACHE / "stock"
RUN = STOCK / os.environ.get("PYTEST_XDIST_TESTRUNUID", NAME)
ACCOUNTS = [
    ["kim@bsd.example", "kim's pass #1"],
    ["lea@bsd.example", "lea pass"],
    ["mia@tre.example", "p:ss {w}rd %u"],
]
# Debian 12 with a pillar of two domains; Debian 13 as bootstrap makes it from the example, where
# another mail server gives way; and what is shaped like FreeBSD.
RECIPES = {
    "one": ("bookworm", "mail.one.example", PILLAR, ""),
    "two": ("trixie", "mail.two.example", None, "exim4-daemon-light"),
    "bsd": (
        "freebsd",
        "mail.bsd.example",
        {**PILLAR, "domains": ["bsd.example", "tre.example"], "accounts": ACCOUNTS},
        "",
    ),
}

#: For a test, or for all of a file, that is run with a server of each system.
everywhere = pytest.mark.parametrize(
    "server",
    ["one", "two", "bsd"],
    ids=["bookworm", "trixie", "freebsd"],
    indirect=True,
    scope="session",
)


@contextmanager
def used():
    """While it is entered, this process uses what the run has made."""
    with turn(STOCK / "lock"):
        for lock in STOCK.glob("*.run"):
            _clear(lock)
        holds = open(RUN.with_suffix(".run"), "w")  # noqa: SIM115
        fcntl.flock(holds, fcntl.LOCK_SH)
    try:
        yield
    finally:
        with turn(STOCK / "lock"):
            holds.close()
            _clear(RUN.with_suffix(".run"))


def _clear(lock):
    """Remove what a run has made if nobody uses it any more."""
    with lock.open() as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink()


def make(lab, name):
    """The disk of that server, and what there is to tell of how it was made."""
    suite, fqdn, pillar, packages = RECIPES[name]
    disk, told = RUN / name, RUN / f"{name}.json"
    with turn(RUN / f"{name}.lock"):
        if not disk.exists():
            server = Server(lab, lab.machine(suite, fqdn))
            if packages:
                install = f"apt-get install -y --no-install-recommends {packages}"
                server.machine.run(f"apt-get update && {install}")
            with Spy(server.machine, *dict((pillar or {}).get("accounts", ())).values()) as spy:
                output = server.bootstrap(pillar)
            again = [*server.highstate()]
            kept = server.machine.run("find /etc -name '*.before-mailsrv'").stdout
            known = {"output": output, "seen": spy.seen, "again": again, "kept": kept}
            told.write_text(json.dumps(known))
            server.machine.keep(disk)
    return disk, json.loads(told.read_text())


def copy(lab, name):
    """
    A copy of that server, running: `output` is what bootstrap said, `seen` what others could see
    of it meanwhile, `again` what a second run changed and `kept` what a first run had put aside
    before the machine was shut down.
    """
    suite, fqdn, pillar, _ = RECIPES[name]
    disk, told = make(lab, name)
    server = Server(lab, lab.machine(suite, fqdn, disk))
    server.read("/srv/pillar" if pillar else None)
    vars(server).update(told)
    return server
