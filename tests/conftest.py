"""What the tests of every level share."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import salt  # noqa: F401
import yaml
from xdist.scheduler import LoadScopeScheduling

from image import DAEMONS, missing, within

# 'NaclImporter' object has no attribute 'find_spec': salt's import hook under pytest's importlib
# mode. It cures a clash of libsodium with pyzmq, which is not used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

TESTS = Path(__file__).parent
# It looks at the server of this very machine, by ./run-tests tests/here alone.
collect_ignore = ["here"]

# Where the core is. Behind all others: our dkim.py must not stand for dkimpy's.
sys.path.append(str(TESTS.parent / "salt_mailsrv/_modules"))

# bind's own look at MX and NS stays within the zone: the network is not asked.
ZONE_CHECKERS = {"named-checkzone": ["-i", "local", "-k", "fail"], "nsd-checkzone": []}
# What runs among the daemons of a Debian, whatever is installed here.
OF_DEBIAN = {
    *("smtpd", "dovecot", "doveconf", "sievec", "rspamadm", "named-checkzone"),
    *("nsd", "nsd-control", "nsd-checkconf", "nsd-checkzone"),
}
# How long what `share` names takes, in seconds where several processes share the work: the longest
# come first. The first two make the servers that the others wait for, and pip's cache with them.
LONG = {
    **{"certificates bookworm": 400, "certificates trixie": 400, "files": 390},
    **{"lab bookworm": 380, "lab trixie": 380},
    **{"fleet": 500, "forky": 480, "runs bookworm": 350, "runs trixie": 350},
    **{"dying bookworm": 250, "dying trixie": 250, "signers bookworm": 200, "signers trixie": 200},
    **{"odd_mail bookworm": 180, "odd_mail trixie": 180, "restore": 180, "rotation": 180},
    **{"mail": 150, "attacks bookworm": 100, "attacks trixie": 100, "accounts bookworm": 100},
    "freebsd": 400,
    **{"learning bookworm": 150, "learning trixie": 150},
    **{"bans bookworm": 120, "bans trixie": 120},
    **{"acme trixie": 450, "acme bookworm": 150, "watch bookworm": 100, "watch trixie": 100},
    **{"secondaries": 200, "domain_moves": 250},
    **{"accounts trixie": 100, "master": 400, "mail trixie": 80, "dns": 80, "pip": 60},
    **{"limits bookworm": 90, "limits trixie": 90},
    **{"metrics bookworm": 150, "metrics trixie": 150},
    **{"relay bookworm": 150, "relay trixie": 150, "relay": 60},
    **{"search": 90, "clients": 90, "backup_mx": 180},
    **{"looking_back bookworm": 60, "looking_back trixie": 60},
    **{
        f"{name} {suite}": 60
        for name in ("away", "addresses", "newsletter", "run_here")
        for suite in DAEMONS
    },
    **{"peers bookworm": 90, "peers trixie": 90},
    **{"old_server bookworm": 120, "old_server trixie": 170},
}
# What a run leaves out unless it is asked for: what these show on Debian 13, on Debian 12, too.
AGAIN = {
    f"{name} bookworm"
    for name in ("acme", "bans", "learning", "limits", "looking_back", "metrics", "newsletter")
} | {f"{name} bookworm" for name in ("peers", "relay", "run_here", "watch")}


def share(nodeid):
    """What one process runs: the tests of a file, in the lab those of each system apart."""
    file, _, test = nodeid.partition("::")
    name = Path(file).stem.removeprefix("test_")
    if name in ("master", "nsd", "roll", "by_itself", "recipients"):
        return "master"
    release = re.search(r"[\[-](bookworm|trixie|freebsd)\b", test)
    if not release or "/lab/" not in file:
        return name
    # There is one machine that is shaped like FreeBSD.
    return "freebsd" if release[1] == "freebsd" else f"{name} {release[1]}"


@pytest.hookimpl(tryfirst=True)  # before pytest looks for what is marked
def pytest_collection_modifyitems(items):
    for item in items:
        if share(item.nodeid) in AGAIN:
            item.add_marker("again")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: -LONG.get(share(item.nodeid), 0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = share
    return scheduler


@pytest.fixture(scope="session")
def debian(tmp_path_factory):
    """Make the directory of the programs of a Debian, which see the temporary files of here."""

    @functools.cache
    def programs(suite):
        if why := missing():
            pytest.skip(why)
        shared = {tempfile.gettempdir(), str(tmp_path_factory.getbasetemp())}
        command = shlex.join(map(str, within(suite, *shared)))
        directory = tmp_path_factory.mktemp(suite)
        for name in OF_DEBIAN:
            (directory / name).write_text(f'#!/bin/sh\nexec {command} {name} "$@"\n')
            (directory / name).chmod(0o755)
        return directory

    return programs


@pytest.fixture(scope="session")
def program(debian):
    """The path of a program, of that Debian or of this machine; skipped where there is none."""

    def find(name, suite="trixie"):
        if name in OF_DEBIAN:
            return str(debian(suite) / name)
        return shutil.which(name) or pytest.skip(f"{name} is not installed here")

    return find


@pytest.fixture(params=DAEMONS)
def suite(request):
    """Each Debian whose daemons can be asked."""
    return request.param


@pytest.fixture
def seed():
    """The pillar of the formula of 2015."""
    return yaml.safe_load((TESTS / "functional/seed/mail/users.sls").read_text())


@pytest.fixture(params=ZONE_CHECKERS)
def load_zone(request, program, tmp_path):
    """Load a zone as a name server does; the test fails with what that says."""
    command = [program(request.param), *ZONE_CHECKERS[request.param]]

    def load(domain, text):
        file = tmp_path / f"{domain}.zone"
        file.write_text(text)
        ran = subprocess.run([*command, domain, file], capture_output=True, text=True)
        assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}\n{text}"

    return load
