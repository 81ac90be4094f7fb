"""What the checks of this machine share, and the report of them."""

import getpass
import os
import re
import time
from pathlib import Path

import pytest

import facts
from machine import FREEBSD, STRANGER, Machine
from redaction import Redactor

REPORT = Path(__file__).parents[2] / "here-report.txt"
SAYS = {"passed": "held", "failed": "DID NOT HOLD", "skipped": "skipped"}


def pytest_configure(config):
    if config.option.collectonly:
        return
    try:
        config.machine = machine = Machine(os.environ.get("ACCOUNT"), getpass.getpass)
    except (AssertionError, RuntimeError, OSError) as exc:
        pytest.exit(f"run-tests: {exc}", 69)
    names = {machine.model["hostname"]: "HOST", machine.account: "ACCOUNT"}
    names |= {a: "ADDRESS" for a in (a["address"] for a in machine.model["accounts"])} | names
    names |= {name: f"DOMAIN{n}" for n, name in enumerate(machine.model["domains"], 1)} | names
    names |= dict.fromkeys(facts.addresses(machine), "IP")
    config.redacted = Redactor(machine.pillar, names)
    config.began = time.time()
    config.results = []


def pytest_unconfigure(config):
    if hasattr(config, "machine"):
        config.machine.tidy()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    found = outcome.get_result()
    if found.when == "call" or not found.passed:
        item.config.results.append(found)


def pytest_terminal_summary(terminalreporter, config):
    if not getattr(config, "results", None):
        return
    text = config.redacted(report(config))
    fresh = REPORT.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.write_text(text)
    fresh.replace(REPORT)
    terminalreporter.write_line(f"\n{text}")
    terminalreporter.write_line(
        f"This report stands in {REPORT}, without names, addresses and secrets of the pillar."
        " Read it before you send it."
    )


def report(config):
    """What held, what did not, and what the machine is, as text."""
    results = config.results
    parts = {word: [r for r in results if r.outcome == outcome] for outcome, word in SAYS.items()}
    lines = ["salt-mailsrv: what holds on this machine", facts.system(config.machine)]
    counted = ", ".join(f"{len(found)} {word}" for word, found in parts.items())
    lines += [f"{counted}, in {time.time() - config.began:.0f} seconds", ""]
    for word in ("DID NOT HOLD", "skipped", "held"):
        lines += [f"== {word} =="] * bool(parts[word])
        lines += told(parts[word])
    lines += ["", *facts.lines(config.machine)]
    return "\n".join(lines) + "\n"


def told(results):
    """A line for each sentence that is a test's name, with what it was asked of, and why."""
    alike = {}
    for found in results:
        name, _, of = found.nodeid.partition("::test_")[2].replace("_", " ").partition("[")
        alike.setdefault((name, reason(found)), []).append((found.duration, of.strip("]")))
    for (name, why), times in alike.items():
        asked = ", ".join(of for _, of in times if of)
        seconds = sum(duration for duration, _ in times)
        yield f"{seconds:6.1f} s  {name}{asked and f' ({asked})'}{why}"


def reason(found):
    """Why it did not hold, or was skipped."""
    if found.passed:
        return ""
    if found.skipped:
        return f": {found.longrepr[2].removeprefix('Skipped: ')}"
    return "\n" + re.sub("^", "          ", found.longreprtext, flags=re.MULTILINE)


@pytest.fixture(scope="session")
def machine(request):
    """The machine, see `Machine`."""
    return request.config.machine


@pytest.fixture(scope="session")
def settled(machine):
    """A machine that a run would not change; or what follows from a run is skipped."""
    if would := machine.highstate("test=True"):
        pytest.skip(f"a run would change {', '.join(would)}: run the highstate first")
    return machine


@pytest.fixture(scope="session")
def password(machine):
    """The account's password."""
    return machine.password or pytest.skip(
        "no account has a plain password in the pillar; ACCOUNT=… names one, and it is asked for"
    )


@pytest.fixture
def stranger(machine):
    """An address of this machine that is none of its own to the daemons, for one test."""
    if not FREEBSD:
        yield STRANGER
        return
    added = machine.run(["ifconfig", "lo0", "alias", f"{STRANGER}/32"], check=False)
    if added.returncode:
        pytest.skip(f"ifconfig lo0 alias {STRANGER}/32: {added.stderr.strip()}")
    yield STRANGER
    machine.run(["ifconfig", "lo0", "-alias", STRANGER])
