"""What the tests of every level share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import salt  # noqa: F401
import yaml

# 'NaclImporter' object has no attribute 'find_spec': salt's import hook under pytest's importlib
# mode. It cures a clash of libsodium with pyzmq, which is not used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

TESTS = Path(__file__).parent
SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/bin"))
# bind's own look at MX and NS stays within the zone: the network is not asked.
ZONE_CHECKERS = {"named-checkzone": ["-i", "local", "-k", "fail"], "nsd-checkzone": []}


@pytest.fixture(scope="session")
def program():
    """The path of a program; the test is skipped where there is none."""

    def find(name):
        path = shutil.which(name, path=SBIN)
        return path or pytest.skip(f"{name} is not installed here")

    return find


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
