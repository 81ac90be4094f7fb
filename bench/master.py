"""What a fleet costs its Salt master: real minions, then as many simulated ones as it carries.

    sudo bench/run --master --suite bookworm 10 100 500
    sudo bench/run --master 300 --batch 10 --batch 50 --splay 600

The master, a mail machine and a satellite are machines of the lab. A run that changes nothing is
recorded on each, and played to the master by minions without a machine, see swarm.py. The master
and the swarm share this host's cores, so its CPU counts here, and the time only as a bound.
"""

import argparse
import json
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import stock
from compare import row, say
from fleet import SALT, Fleet, install_salt
from image import missing
from lab import HEAD, Lab
from server import CHECKOUT
from wire import until

MAIL, WEB, MASTER, SWARM = (f"{name}.fleet.example" for name in ("mail", "web", "salt", "swarm"))
# Lists of files are kept as by Salt's default, other than by Fleet: who finds none that is fresh
# makes one, and all others wait for it in whole seconds.
OPTIONS = {"auto_accept": True, "worker_threads": 5, "timeout": 60, "gather_job_timeout": 60}
OPTIONS["fileserver_list_cache_time"] = 20
FILES = "[Service]\nLimitNOFILE=100000\n"
SWARM_PY = f"{CHECKOUT}/bench/swarm.py"
RUN = "state.highstate"
PILLARS = {
    MAIL: {
        "domains": ["fleet.example"],
        "accounts": [["ann@fleet.example", "ann's pass #1"]],
        "mailsrv": {"satellites": "*"},
        "mine_functions": {"mailsrv.dns": []},
    },
    WEB: {"mailsrv": {"satellite": {"relay": MAIL, "root": "ann@fleet.example"}}},
}
STATES = {MAIL: ["mailsrv"], WEB: ["mailsrv.satellite"]}


class Bench:
    """The master, and what a command there costs it."""

    def __init__(self, lab, suite):
        self.machines = {name: lab.machine(suite, name) for name in (MASTER, MAIL, WEB, SWARM)}
        self.master = self.machines[MASTER]
        self.recorded = set()
        self.machines[SWARM].install_checkout(CHECKOUT)
        self.machines[SWARM].put("/etc/salt/minion", json.dumps({"id": SWARM, "master": MASTER}))
        addresses = "".join(
            f"{name.split('.')[0]} A {machine.address}\n" for name, machine in self.machines.items()
        )
        lab.dns.serve("fleet.example", HEAD + addresses)
        install_salt(lab, *self.machines.values())
        self.fleet = Fleet(self.master)
        for name, pillar in PILLARS.items():
            self.fleet.join(self.machines[name], STATES[name], pillar)
        # From here on it takes whoever comes.
        self.master.put("/etc/salt/master.d/bench.conf", json.dumps(OPTIONS))
        self.master.put("/etc/systemd/system/salt-master.service.d/files.conf", FILES)
        self.master.run("systemctl daemon-reload && systemctl restart salt-master")
        for name in PILLARS:
            ping = partial(self.fleet.salt, name, "test.ping", timeout=5)
            until(ping, 90, f"{name} does not answer")

    def spend(self, *command, awaited=None):
        """
        Run `salt COMMAND`: seconds of time, of the master's CPU, who answered, and the octets of
        memory that the master had at most. With `--async`, so many answers are `awaited` in so many
        seconds.
        """
        with ThreadPoolExecutor(1) as pool:
            cpu, start = self.master.cpu(), time.monotonic()
            ran = pool.submit(self._answered, command, awaited)
            most = self.master.memory()
            while wait([ran], 2).not_done:
                most = max(most, self.master.memory())
            spent = time.monotonic() - start, self.master.cpu() - cpu
        return *spent, ran.result(), most

    def _answered(self, command, awaited):
        command = [f"{SALT}/salt", "--out=json", *command]
        said = self.master.run(command, check=False, timeout=7200).stdout
        if not awaited:
            # Beside it, batches print retcode and jid; who did not answer has a sentence there.
            return set(re.findall(r'^    "(\S+)": (?:\{|true)', said, re.MULTILINE))
        number, seconds = awaited
        digest = sha256(said.split()[-1].encode()).hexdigest()
        job = Path(f"{self.master.root}/var/cache/salt/master/jobs", digest[:2], digest[2:])

        def returned():
            return {path.parent.name for path in job.glob("*/return.p")}

        with suppress(TimeoutError):
            until(lambda: len(returned()) == number, seconds, "not all of them have answered")
        return returned()

    def settled(self):
        """No one works at a job any more, and the master rests."""

        def rests():
            cpu = self.master.cpu()
            time.sleep(2)
            return self.master.cpu() - cpu < 0.2

        until(rests, 300, "the master does not come to rest")

    def cache(self, directory):
        """Octets on the master's disk."""
        path = f"/var/cache/salt/master/{directory}"
        return int(self.master.run(f"du -s -B1 --apparent-size {path} | cut -f1").stdout)


def real(bench, rounds):
    """What a run and `test.ping` of each real minion cost: medians of each, by name."""
    found = {}
    for name in (MAIL, WEB):
        bench.fleet.highstate(name)
        bench.fleet.highstate(name)
        costs = {RUN: [], "test.ping": []}
        jobs = bench.cache("jobs")
        for _ in range(rounds):
            for function, measured in costs.items():
                there = bench.machines[name].cpu()
                seconds, cpu, answered, _ = bench.spend(name, function)
                assert answered == {name}
                measured.append((seconds, cpu, bench.machines[name].cpu() - there))
        medians = {
            function: [statistics.median(column) for column in zip(*measured, strict=True)]
            for function, measured in costs.items()
        }
        found[name] = {**medians, "job": (bench.cache("jobs") - jobs) / rounds}
    return found


def real_table(found):
    """The same as a Markdown table of less than 80 columns."""
    lines = ["| a run that changes nothing | time | CPU there | CPU of the master | returned |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, costs in found.items():
        for function, (seconds, cpu, there) in ((f, costs[f]) for f in (RUN, "test.ping")):
            job = f"{costs['job'] / 1000:.0f} kB" if function == RUN else ""
            times = f"{seconds:.1f} s", f"{there:.2f} s", f"{cpu:.2f} s"
            lines.append(row(f"{name.split('.')[0]}, {function}", *times, job))
    return "\n".join(lines)


def ways(batches, splay):
    """By what it is called, how a run is begun: the arguments of `Bench.spend`."""
    found = {"": (["sim*", RUN], 0)}
    for batch in batches:
        found[f", {batch} at a time"] = ["--batch-size", str(batch), "sim*", RUN], 0
    if splay:
        found[f", within {splay} s"] = ["--async", "sim*", RUN, f"splay={splay}"], splay + 900
    return found


def simulated(bench, name, number, begun):
    """What a run of so many minions like this one costs, begun in each of these ways."""
    swarm = bench.machines[SWARM]
    record = f"/root/.cache/pip/run-of-{name}"  # the lab's machines share this directory
    if name not in bench.recorded:
        bench.recorded.add(name)
        machine = bench.machines[name]
        machine.install_checkout(CHECKOUT)
        machine.run(f"{SALT}/python {SWARM_PY} record {record} {RUN}")
    play = f"{SALT}/python {SWARM_PY} play {record} {number}"
    play = f"ulimit -n $(ulimit -H -n); exec {play}"  # each of them has 19 files open
    found = {}
    with swarm.start(play) as process:
        try:
            assert process.stdout.readline().strip() == "all there"
            for way, (command, seconds) in begun.items():
                bench.settled()
                say(what := f"{number} like {name.split('.')[0]}{way}")
                found[what] = bench.spend(*command, awaited=seconds and (number, seconds))
        finally:
            swarm.run("pkill -f '[s]warm.py' || true")
    bench.master.run(f"{SALT}/salt-key -yd 'sim*'")
    return found


def simulated_table(found):
    """The same as a Markdown table of less than 80 columns."""
    lines = ["| minions | answered | time | CPU of the master, each | its memory |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for what, (seconds, cpu, answered, memory) in found.items():
        each = f"{cpu / len(answered):.2f} s" if answered else ""
        cells = str(len(answered)), f"{seconds:.0f} s", each, f"{memory / 1e6:.0f} MB"
        lines.append(row(what, *cells))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="bench/run --master", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="trixie", help="the Debian release, default: trixie")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each real minion")
    parser.add_argument(
        "--batch", type=int, action="append", default=[], help="so many at a time, too"
    )
    parser.add_argument("--splay", type=int, default=0, help="spread over so many seconds, too")
    parser.add_argument("number", type=int, nargs="*", default=[10, 100, 300])
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    with Lab() as lab, stock.used():
        say("the master, a mail machine, a satellite")
        bench = Bench(lab, options.suite)
        found = real(bench, options.rounds)
        many = {}
        for name in (MAIL, WEB):
            for number in options.number:
                many |= simulated(bench, name, number, ways(options.batch, options.splay))
    print(real_table(found), "", simulated_table(many), sep="\n")


if __name__ == "__main__":
    main()
