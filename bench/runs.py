"""What `./bootstrap` costs on a fresh machine, by step, and then each run that changes nothing.

    sudo bench/run --runs --suite bookworm --rounds 9

Everything is downloaded. A run is measured beside `test.ping`, which is Salt's own start and the
pillar, one after the other, so that what else the host does meets both.
"""

import argparse
import itertools
import statistics
import sys
import time

from compare import row, say
from image import missing
from lab import Lab
from server import CHECKOUT, PILLAR, Server

COMMANDS = ("state.highstate", "test.ping")
NUMBER = 10_000
DOMAIN = PILLAR["domains"][0]
LARGE = {
    **PILLAR,
    "accounts": [
        *PILLAR["accounts"],
        *([f"user{number}@{DOMAIN}", f"pass {number}"] for number in range(3, NUMBER)),
    ],
    "mailsrv": {
        "passwords": {"rounds": 1000},  # each is hashed once
        "aliases": {
            f"alias{number}@{DOMAIN}": [f"user{3 + number % (NUMBER - 3)}@{DOMAIN}"]
            for number in range(NUMBER)
        },
    },
}


def bootstrap(server):
    """Set the machine up; returns each step with its seconds of time and of CPU."""
    machine = server.machine
    machine.install_checkout(CHECKOUT)
    server.use("/srv/pillar", PILLAR)
    machine.run("apt-get clean")
    command = f"cd {CHECKOUT} && PIP_NO_CACHE_DIR=1 exec ./bootstrap --pillar /srv/pillar 2>&1"
    marks = []
    with machine.start(command) as process:
        for line in process.stdout:
            if line.startswith("==> "):
                marks.append((line[4:].strip(), time.monotonic(), machine.cpu()))
        marks.append(("", time.monotonic(), machine.cpu()))
    if process.returncode:
        raise RuntimeError(f"bootstrap ended with {process.returncode}")
    return [
        (step, end - start, after - before)
        for (step, start, before), (_, end, after) in itertools.pairwise(marks)
    ]


def pairs(server, rounds):
    """Seconds of time and of CPU of a run that changes nothing and of `test.ping`, in pairs."""
    found = []
    for _ in range(rounds):
        pair = []
        for command in COMMANDS:
            cpu, start = server.machine.cpu(), time.monotonic()
            returned = server.salt(command)
            pair.append((time.monotonic() - start, server.machine.cpu() - cpu))
            if command == COMMANDS[0] and any(state["changes"] for state in returned.values()):
                raise RuntimeError("a run that should change nothing changed something")
        found.append(pair)
    return found


def steps_table(steps):
    """The steps of bootstrap as a Markdown table of less than 80 columns."""
    time_of_all, cpu_of_all = (sum(step[column] for step in steps) for column in (1, 2))
    lines = [
        "| step of bootstrap | time | share | CPU | share |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step, spent, cpu in [*steps, ("all", time_of_all, cpu_of_all)]:
        shares = (
            f"{value:.0f} s | {value / whole:.0%}"
            for value, whole in ((spent, time_of_all), (cpu, cpu_of_all))
        )
        lines.append(row(step[:38], *shares))
    return "\n".join(lines)


def runs_table(measured):
    """The pairs by kind of pillar as a Markdown table of less than 80 columns."""
    lines = ["| a run that changes nothing | `highstate` | `test.ping` | ratio |"]
    lines.append("| --- | --- | --- | --- |")
    for kind, found in measured.items():
        for column, what in enumerate(("time", "CPU")):
            values = [[of[column] for of in pair] for pair in found]
            medians = (f"{statistics.median(side):.2f} s" for side in zip(*values, strict=True))
            ratio = statistics.median(run / ping for run, ping in values)
            lines.append(row(f"{kind}, {what}", *medians, f"{ratio:.2f}"))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="bench/run --runs", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="trixie", help="the Debian release, default: trixie")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of each kind")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    with Lab() as lab:
        server = Server(lab, lab.machine(options.suite, "mail.one.example"))
        say(f"{options.suite}: ./bootstrap")
        steps = bootstrap(server)
        measured = {}
        say("3 accounts")
        measured["3 accounts"] = pairs(server, options.rounds)
        say("10000 accounts and 10000 aliases")
        server.write_pillar(LARGE)
        server.highstate()
        measured["10000 and 10000 aliases"] = pairs(server, options.rounds)
    print(steps_table(steps), "", runs_table(measured), sep="\n")


if __name__ == "__main__":
    main()
