"""Our mail server beside Postfix and OpenDKIM with the same Dovecot, on two machines of the lab.

    sudo bench/run --suite bookworm --rounds 5 --json /tmp/figures.json

Both machines stand side by side, and each measurement is a pair: ours, then Postfix, again and
again, so that what else the host does meets both. The CPU of a machine is that of its control
group: everything on it, as the kernel counts it.
"""

import argparse
import json
import statistics
import sys
import time
from itertools import count, islice

from image import missing
from lab import HEAD, Lab
from peer import Peer
from server import Server, signed_by
from traffic import SINK_NETWORK, Mailboxes, Sink, connect, letter, reach_sink, send
from wire import NAME_SERVER

DOMAIN = "bench.example"
MAILBOXES = DOMAINS = 100
USERS = 10  # who send
PILLAR = {
    "salt": "of the comparison",
    "domains": [DOMAIN],
    "accounts": [[f"u{number}@{DOMAIN}", f"pass {number}"] for number in range(MAILBOXES)],
    # Counted, and never reached.
    "mailsrv": {"limits": {"recipients_per_hour": 10_000_000, "recipients_per_day": 10_000_000}},
}
PROGRAMS = """\
for start in 0 1 2 3; do
    number=$(($1 + start))
    while [ $number -lt $2 ]; do
        printf "$(cat /root/letter)" $number |
            sendmail -i -f u0@bench.example someone@d$((number % $3)).sink.example
        number=$((number + 4))
    done &
done
wait
"""
SETTLE = 3  # seconds until the last sessions are closed and the queue is put in order
IDLE = 120  # seconds: Postfix ends processes that were idle for 100
NUMBERS = count(1)


class Side:
    """One of the two servers: mail into it and out of it."""

    def __init__(self, name, lab, machine, accounts):
        self.name = name
        self.machine = machine
        self.mailboxes = Mailboxes(machine)
        self._outside = lab.outside
        self._accounts = accounts
        machine.put("/root/programs", PROGRAMS)
        text = letter("%s", f"u0@{DOMAIN}", "someone@sink.example")
        machine.put("/root/letter", text.replace("\r", ""))

    def incoming(self, sender):
        """A session from outside to port 25."""
        return connect(self._outside, self.machine.address, 25)

    def submission(self, sender):
        """A session of that user on port 465."""
        password = self._accounts[sender]
        return connect(self._outside, self.machine.address, 465, sender, password)

    def mail_in(self, numbers, mailboxes, sessions=USERS):
        """Letters from outside, to that many mailboxes in turn; see `send`."""
        letters = [
            (number, "someone@elsewhere.example", f"u{number % mailboxes}@{DOMAIN}")
            for number in numbers
        ]
        return send(self.incoming, letters, sessions)

    def mail_out(self, numbers, domains, sessions=USERS):
        """Letters of our users, to that many domains in turn; see `send`."""
        letters = [
            (number, f"u{number % USERS}@{DOMAIN}", f"someone@d{number % domains}.sink.example")
            for number in numbers
        ]
        return send(self.submission, letters, sessions)

    def programs_out(self, numbers, domains):
        """Four programs on the machine send letters, to that many domains in turn."""
        numbers = [str(number) for number in (numbers[0], numbers[-1] + 1, domains)]
        self.machine.run(["sh", "/root/programs", *numbers])


class Bench:
    """Both servers and the world around them, in a lab."""

    def __init__(self, lab, options):
        self.lab = lab
        self.options = options
        self.sink = Sink(lab.host("mx.sink.example"), DOMAINS)
        self.ours = Server(lab, lab.machine(options.suite, f"mail.{DOMAIN}"))
        say(f"{options.suite}: ours by ./bootstrap")
        self.ours.bootstrap(PILLAR)
        say("Postfix, OpenDKIM and the same Dovecot")
        peer = Peer(self.ours, lab.machine(options.suite, "mail.peer.example"))
        record = peer.install()
        lab.dns.serve(DOMAIN, self.ours.salt("mailsrv.zone", DOMAIN) + record)
        mx = "".join(
            f"d{number} MX 10 mx{number}\nmx{number} A {SINK_NETWORK}.{number + 1}\n"
            for number in range(DOMAINS)
        )
        lab.dns.serve("sink.example", HEAD + mx)
        lab.dns.serve("elsewhere.example", HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n")
        for machine in self.ours.machine, peer.machine:
            reach_sink(machine)
            # The lab's resolver is slow; a mail server has a fast one.
            machine.put("/etc/resolv.conf", f"nameserver {NAME_SERVER}\n")
        accounts = dict(PILLAR["accounts"])
        self.sides = [
            Side("ours", lab, self.ours.machine, accounts),
            Side("postfix", lab, peer.machine, accounts),
        ]

    def warm_up(self):
        """Every mailbox exists, every path works, and both sign for the world."""
        for side in self.sides:
            self._complete(side.mailboxes, side.mail_in, 2 * MAILBOXES, MAILBOXES)
            for way in side.mail_out, side.programs_out:
                self._complete(self.sink, way, DOMAINS, DOMAINS)
                if signed_by(self.lab, self.sink.latest) != {DOMAIN}:
                    raise RuntimeError(f"mail of {side.name} does not leave signed")

    def measure(self):
        """All figures."""
        inbound, outbound = self.options.inbound, self.options.outbound
        scenarios = {
            "in, 3 mailboxes": ("mailboxes", "mail_in", inbound, 3),
            "in, 100 mailboxes": ("mailboxes", "mail_in", inbound, MAILBOXES),
            "in, one mailbox": ("mailboxes", "mail_in", 500, 1),
            "out, sendmail, 100 domains": ("sink", "programs_out", outbound, DOMAINS),
            "out, 465, 100 domains": ("sink", "mail_out", outbound, DOMAINS),
            "out, sendmail, one domain": ("sink", "programs_out", outbound, 1),
            "out, 465, one domain": ("sink", "mail_out", outbound, 1),
        }
        latency = self._latency()
        flow = {}
        for name, (where, way, amount, targets) in scenarios.items():
            if self.options.only in name:
                flow[name] = self._pairs(name, where, way, amount, targets)
        return {
            "suite": self.options.suite,
            "rounds": self.options.rounds,
            "flow": flow,
            "latency": latency,
            "memory": self._memory(),
        }

    def _pairs(self, name, where, way, amount, targets):
        runs = {side.name: [] for side in self.sides}
        for _ in range(self.options.rounds):
            for side in self.sides:
                arrivals = self.sink if where == "sink" else side.mailboxes
                cpu = side.machine.cpu()
                start, times = self._complete(arrivals, getattr(side, way), amount, targets)
                rate = amount / (max(times) - start)
                time.sleep(SETTLE)
                cost = 1000 * (side.machine.cpu() - cpu) / amount
                say(f"{name}: {side.name} {rate:.0f}/s, {cost:.1f} ms of CPU each")
                runs[side.name].append({"rate": rate, "cpu": cost})
        return runs

    def _complete(self, arrivals, way, amount, targets):
        """Send and see all of it come, once; returns when that began and when each came."""
        numbers = list(islice(NUMBERS, amount))
        start = time.time()
        way(numbers, targets)
        times = arrivals.wait(numbers, self.options.seconds)
        if len(times) < amount:
            raise RuntimeError(f"{len(times)} of {amount} came in {self.options.seconds} s")
        doubled = [number for number in numbers if arrivals.copies[number] > 1]
        if doubled:
            raise RuntimeError(f"{len(doubled)} of {amount} came more than once")
        return start, times.values()

    def _latency(self):
        """Milliseconds from the end of DATA, one message at a time."""
        found = {side.name: {"in": [], "out": []} for side in self.sides}
        for _ in range(self.options.letters):
            for side in self.sides:
                for way, arrivals, send_one in (
                    ("in", side.mailboxes, side.mail_in),
                    ("out", self.sink, side.mail_out),
                ):
                    time.sleep(0.5)
                    (number,) = islice(NUMBERS, 1)
                    sent = send_one([number], DOMAINS, 1)
                    times = arrivals.wait([number], self.options.seconds)
                    found[side.name][way].append(1000 * (times[number] - sent[number]))
        return found

    def _memory(self):
        """Megabytes in use when nothing has happened for a while."""
        time.sleep(IDLE)
        return {side.name: side.machine.memory() >> 20 for side in self.sides}


def table(figures):
    """The figures as a Markdown table of less than 80 columns."""
    lines = [
        "| | ours | Postfix | ratio | CPU ours | CPU Postfix | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in figures["flow"].items():
        cells = []
        for key, form in ("rate", "{:.0f}/s"), ("cpu", "{:.1f} ms"):
            pairs = [(a[key], b[key]) for a, b in zip(runs["ours"], runs["postfix"], strict=True)]
            cells += [form.format(statistics.median(side)) for side in zip(*pairs, strict=True)]
            cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
        lines.append(row(name, *cells))
    lines += ["", "| | ours | Postfix |", "| --- | --- | --- |"]
    for way in "in", "out":
        cells = (
            f"{statistics.median(values):.0f}, {statistics.quantiles(values, n=20)[-1]:.0f} ms"
            for values in (figures["latency"][side][way] for side in ("ours", "postfix"))
        )
        lines.append(row(f"latency {way}, median and 95 %", *cells))
    lines.append(row("memory", *(f"{figures['memory'][s]} MB" for s in ("ours", "postfix"))))
    return "\n".join(lines)


def row(*cells):
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def say(text):
    """Tell how far it is."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="trixie", help="the Debian release, default: trixie")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of each kind")
    parser.add_argument("--inbound", type=int, default=500, help="messages of a run, inwards")
    parser.add_argument("--outbound", type=int, default=1000, help="messages of a run, outwards")
    parser.add_argument("--letters", type=int, default=40, help="messages on an idle server")
    parser.add_argument("--seconds", type=int, default=300, help="after which a run has failed")
    parser.add_argument("--only", default="", help="only the kinds that have this in their name")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    with Lab() as lab:
        bench = Bench(lab, options)
        bench.warm_up()
        figures = bench.measure()
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
    print(table(figures))


if __name__ == "__main__":
    main()
