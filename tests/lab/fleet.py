"""A Salt master in the lab and its minions, each with states and a pillar of its own."""

import json

import stock
from lab import STANDS_FOR
from server import CHECKOUT
from wire import until

SALT = "/opt/salt-mailsrv/bin"
# Which server of stock.py has a Salt for that release.
MADE_BY = {STANDS_FOR.get(suite, suite): name for name, (suite, *_) in stock.RECIPES.items()}

UNIT = f"""[Service]
ExecStart={SALT}/salt-{{daemon}}
[Install]
WantedBy=multi-user.target
"""


def install_salt(lab, *machines):
    """The Salt that bootstrap has made for a server of the same release, in the same place."""
    for machine in machines:
        disk, _ = stock.make(lab, MADE_BY[machine.suite])
        machine.run("apt-get update && apt-get install -y --no-install-recommends python3")
        machine.copy_in(disk, SALT.removesuffix("/bin"))


class Fleet:
    """The master on `machine`, serving this checkout, and the minions that have joined."""

    def __init__(self, machine):
        self.machine = machine
        self._minions = {}
        machine.install_checkout(CHECKOUT)
        _start(
            machine,
            "master",
            file_roots={"base": ["/srv/top", f"{CHECKOUT}/salt_mailsrv/states"]},
            pillar_roots={"base": ["/srv/pillar"]},
            fileserver_list_cache_time=0,
        )

    def join(self, machine, states, pillar):
        """Make a machine a minion with these states and this pillar. Its id is its name."""
        self.assign(machine.fqdn, pillar, states)
        wait = {"acceptance_wait_time": 1, "acceptance_wait_time_max": 1}
        _start(machine, "minion", id=machine.fqdn, master=self.machine.fqdn, **wait)
        self.accept(machine)

    def accept(self, machine):
        """Accept the minion's key as soon as it asks, and wait until it answers."""
        minion = machine.fqdn
        accept = [f"{SALT}/salt-key", "-y", "-a", minion]
        done = f"Key for minion {minion} accepted."
        until(lambda: done in self.machine.run(accept, check=False).stdout, 300, "no key came")
        ping = "test.ping"
        until(lambda: self.salt(minion, ping, timeout=5) is True, 300, f"{minion} does not answer")

    def assign(self, minion, pillar, states=None):
        """What the next run of that minion reads: its pillar, and its states where they change."""
        states = states or self._minions[minion][0]
        self._minions[minion] = states, pillar
        files = {name: name.replace(".", "-") for name in self._minions}
        top = {name: states for name, (states, _) in self._minions.items()}
        self.machine.put("/srv/top/top.sls", json.dumps({"base": top}))
        top = {name: [file] for name, file in files.items()}
        self.machine.put("/srv/pillar/top.sls", json.dumps({"base": top}))
        self.machine.put(f"/srv/pillar/{files[minion]}.sls", "#!json\n" + json.dumps(pillar))

    def pillar(self, minion):
        """The pillar of that minion."""
        return self._minions[minion][1]

    def salt(self, minion, *arguments, timeout=300):
        """What `salt MINION ARGUMENTS` returns, as data; None where the minion does not answer."""
        command = [f"{SALT}/salt", "--out=json", "--static", f"--timeout={timeout}"]
        answer = self.machine.run([*command, minion, *arguments], check=False).stdout
        return json.loads(answer).get(minion) if answer.startswith("{") else None

    def highstate(self, minion, *arguments):
        """Run the highstate from the master; the states that changed, or would, by ID."""
        states = self.salt(minion, "state.highstate", *arguments)
        assert isinstance(states, dict), states
        failed = [state for state in states.values() if state["result"] is False]
        assert not failed, failed
        return {s["__id__"]: s for s in states.values() if s["changes"] or s["result"] is None}


def call(machine, *arguments):
    """What `salt-call ARGUMENTS` returns on a minion, as data; the master does not hear of it."""
    command = [f"{SALT}/salt-call", "--no-return-event", "--out=json", "--log-level=error"]
    return json.loads(machine.run([*command, *arguments], check=False).stdout)["local"]


def _start(machine, daemon, **options):
    machine.put(f"/etc/salt/{daemon}", json.dumps(options))
    unit = f"salt-{daemon}.service"
    machine.put(f"/etc/systemd/system/{unit}", UNIT.format(daemon=daemon))
    machine.run(f"systemctl daemon-reload && systemctl enable --now {unit}")
