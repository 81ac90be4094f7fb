"""
A master with minions, as real processes on loopback, served from a git repository.

The minions run on this very host: their configuration says `test: True`, packages and services are
data, and the formula's paths lie below a directory of their own.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "tests/functional/machine"
GRAINS = {
    "os": "Debian",
    "os_family": "Debian",
    "oscodename": "trixie",
    "osrelease": "13",
    "osmajorrelease": 13,
    "kernel": "Linux",
    "init": "systemd",
    "ipv4": ["127.0.0.1", "192.0.2.1"],
    "ipv6": ["::1", "2001:db8::1"],
}
CANDIDATES = {"opensmtpd": "7.6.0p1-1", "dovecot-core": "1:2.4.1+dfsg1-6+deb13u1"}
MX1, MX2 = "mx1.example.com", "mx2.example.net"
PATIENCE = 120  # seconds for an answer, on a machine that is busy with other things
HASH = "$6$saltsalt$" + "Xa" * 43
PILLARS = {
    "common": "mailsrv: {quota: 5G}\nmine_functions: {mailsrv.dns: []}\n",
    "mx1": f"""
salt: s4ltOfThePillar
domains: [example.com]
accounts:
  - [user1@example.com, hunter2hunter2]
  - {{address: user2@example.com, hash: {HASH}}}
""",
    "mx2": """
domains: [example.net]
accounts: [[user1@example.net, correcthorse]]
""",
}


@pytest.fixture(scope="session")
def short_tmp():
    """A directory with a short name: the path of a Unix socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def repository(program, tmp_path_factory):
    """This checkout, as it is now, as a git repository: its URL. It has a branch and a tag."""
    git = program("git")
    listed = [git, "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    ran = subprocess.run(listed, capture_output=True, text=True)
    if ran.returncode:
        pytest.skip("this is no git checkout, so there is nothing to serve by gitfs")
    tree = tmp_path_factory.mktemp("repository")
    for name in filter(None, ran.stdout.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "-mall"],
        ["tag", "v0.1.0"],
        ["branch", "stable"],
    ):
        subprocess.run([git, "-C", tree, *arguments], check=True)
    return f"file://{tree}"


@pytest.fixture(scope="session")
def make_venv(short_tmp):
    """Make a venv with all of this one but our extension and what is named: python, libraries."""

    def make(*less):
        directory = Path(tempfile.mkdtemp(prefix="venv-", dir=short_tmp))
        venv.create(directory, symlinks=True)
        (site,) = directory.glob("lib/python*/site-packages")
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not re.search("|".join(("mailsrv", *less)), entry.name):
                (site / entry.name).symlink_to(entry)
        return directory / "bin/python", site

    return make


@pytest.fixture(scope="session")
def salt_call_of(short_tmp):
    """Make the salt-call of a masterless minion that a python runs, with the example's pillar."""

    def configure(python, **options):
        directory = Path(tempfile.mkdtemp(prefix="minion-", dir=short_tmp))
        minion = {
            "id": "mx1",
            "root_dir": str(directory),
            "file_client": "local",
            "pillar_roots": {"base": [str(ROOT / "pillar.example")]},
            "fileserver_list_cache_time": 0,
            "module_dirs": [str(MACHINE)],
            "machine": {"packages": {}, "candidates": CANDIDATES, "services": []},
            "grains": {**GRAINS, "fqdn": "mx.example.com"},
        }
        (directory / "minion").write_text(json.dumps(minion | options))
        command = [python, "-c", "import salt.scripts; salt.scripts.salt_call()"]
        command += ["--config-dir", directory, "--retcode-passthrough", "--log-level=warning"]

        def call(*arguments, out="json", status=0):
            form = [f"--out={out}"] if out else []
            ran = subprocess.run([*command, *form, *arguments], capture_output=True, text=True)
            assert ran.returncode == status, ran.stdout + ran.stderr
            assert "mailsrv" not in ran.stderr
            return json.loads(ran.stdout)["local"] if out == "json" else ran.stdout + ran.stderr

        return call

    return configure


@pytest.fixture(scope="session")
def salt_factories_config(short_tmp, make_venv):
    python, site = make_venv()
    return {
        "root_dir": short_tmp / "salt",
        "python_executable": python,
        "code_dir": site,
        "slow_stop": False,
    }


@pytest.fixture(scope="session")
def pillar_tree(short_tmp):
    """The master's pillar, as pillar.example/top.sls shows it for several machines."""
    tree = short_tmp / "pillar"
    (tree / "mail").mkdir(parents=True)
    example = (ROOT / "pillar.example/top.sls").read_text()
    several = example[example.index("# base:") :]
    (tree / "top.sls").write_text(re.sub("^# ?", "", several, flags=re.M))
    for name, text in PILLARS.items():
        (tree / f"mail/{name}.sls").write_text(text)
    return tree


@pytest.fixture(scope="session")
def master(salt_factories, short_tmp, pillar_tree, repository):
    """
    A master as docs/salt.md configures it for gitfs.

    The file root before it holds the same osmap.yaml, its paths below each minion's own directory.
    """
    osmap = (ROOT / "salt_mailsrv/states/mailsrv/osmap.yaml").read_text()
    paths = r"(?<=: )/(?=(?:etc|usr/local|var|vmail|run)\b)"
    (short_tmp / "roots/mailsrv").mkdir(parents=True)
    (short_tmp / "roots/mailsrv/osmap.yaml").write_text(
        "#!jinja|yaml\n" + re.sub(paths, '{{ grains["below"] }}/', osmap)
    )
    daemon = salt_factories.salt_master_daemon(
        "master",
        overrides={
            "open_mode": True,
            "fileserver_backend": ["roots", "gitfs"],
            "file_roots": {"base": [str(short_tmp / "roots")]},
            "gitfs_provider": "gitpython",
            "gitfs_remotes": [
                {
                    repository: [
                        {"root": "salt_mailsrv/states"},
                        {"base": "v0.1.0"},
                        {"disable_saltenv_mapping": True},
                    ]
                }
            ],
            "pillar_roots": {"base": [str(pillar_tree)]},
            # Every event of the bus, in a file.
            "event_return": ["rawfile_json"],
            "rawfile_json.filename": str(short_tmp / "salt/events"),
        },
    )
    with daemon.started():
        yield daemon


@pytest.fixture(scope="session")
def minions():
    """The minions that were started, by their name."""
    return {}


@pytest.fixture(scope="session")
def add_minion(master, minions, short_tmp):
    """Start a minion that finds these programs before those of this machine."""

    def start(name, programs=""):
        below = short_tmp / "machines" / name
        below.mkdir(parents=True, exist_ok=True)
        daemon = master.salt_minion_daemon(
            name,
            overrides={
                "test": True,
                "module_dirs": [str(MACHINE)],
                "machine": {"packages": {}, "candidates": CANDIDATES, "services": []},
                "grains": {**GRAINS, "fqdn": name, "below": str(below)},
            },
        )
        # Of its own: the dictionary is the one of all daemons.
        path = os.pathsep.join(filter(None, (programs, daemon.environ["PATH"])))
        daemon.environ = daemon.environ | {"PATH": path}
        daemon.start()
        minions[name] = daemon
        return daemon

    yield start
    for daemon in minions.values():
        daemon.terminate()


@pytest.fixture(scope="session")
def salt(master):
    """Run `salt TARGET FUNCTION …` on the master: what the minion returned, or each by its name."""

    def run(target, function, *arguments):
        typed = [a if isinstance(a, str) else json.dumps(a) for a in arguments]
        ran = master.salt_cli(timeout=PATIENCE).run(function, *typed, minion_tgt=target)
        assert ran.returncode == 0, ran
        return ran.data

    return run


@pytest.fixture(scope="session")
def salt_run(master):
    """Run `salt-run FUNCTION …` on the master."""

    def run(function, *arguments):
        ran = master.salt_run_cli(timeout=PATIENCE).run(function, *arguments)
        assert ran.returncode == 0, ran
        return ran

    return run


@pytest.fixture(scope="session")
def fleet(master, add_minion, salt):
    """
    The first runs of two new mail machines: what the terminal showed of `state.apply` for an SLS,
    and what the highstate of both returned.
    """
    add_minion(MX1)
    add_minion(MX2)
    shown = {
        sls: master.salt_cli(timeout=PATIENCE).run(
            "--out=highstate", "state.apply", sls, minion_tgt=MX1
        )
        for sls in ("mailsrv", "mailsrv.opensmtpd")
    }
    return {"shown": shown, "highstate": salt("mx*", "state.highstate")}


def pytest_unconfigure():
    logging.raiseExceptions = False  # salt logs to streams that pytest has closed
