"""A first run that is killed with -9 after each of its states, beside one that nobody disturbs.

    sudo .venv/bin/python tests/lab/kills.py --suite trixie

Each run begins where the one before was killed, one state later. Then one more run, and both
machines are compared: every file of theirs with owner and mode, the content of what is no secret,
the services, what a dry run would change and what the self-check says.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from image import missing
from lab import Lab
from server import PILLAR, Server

PLACES = "/etc /opt /usr/local /var/lib/mailsrv /var/vmail /var/spool/smtpd /run/mailsrv"
# What differs for reasons of its own: times, names, what apt and the kernel keep.
VOLATILE = (
    "__pycache__|/ssl/|/alternatives|ld.so.cache|/apt/|machine-id|hostname|/hosts|mdbox"
    "|/spool/smtpd/[a-z]*/|[.]delivery"
)
SECRETS = ("credentials", "dovecot-passwd", "srs.conf", "password.key", "guard.json")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--suite", default="trixie", help="release of Debian, as bookworm")
    suite = options.parse_args().suite
    if why := missing():
        sys.exit(why)
    with Lab() as lab:
        pair = [Server(lab, lab.machine(suite, f"mail.{name}.example")) for name in ("one", "two")]
        with ThreadPoolExecutor() as pool:
            killed, calm = pool.map(run, (disturbed, undisturbed), pair)
    difference = [
        f"{key}:\n  undisturbed {calm.get(key)}\n  killed      {killed.get(key)}"
        for key in sorted({*calm, *killed})
        if calm.get(key) != killed.get(key)
    ]
    print(*difference, sep="\n")
    print("no difference" if not difference else "DIFFERENT")
    return bool(difference)


def run(way, server):
    way(server)
    return state(server)


def undisturbed(server):
    server.bootstrap(PILLAR)


def disturbed(server):
    """Salt alone, by a pillar that is refused; then one kill after each state."""
    with suppress(AssertionError):
        server.bootstrap({"domains": []})
    server.write_pillar(PILLAR)
    count = 0
    while server.kill_run("Completed state", count := count + 1):
        print(f"killed after state {count}", flush=True)
    server.bootstrap(PILLAR)


def state(server):
    """What the machine is, by file and by question, without its name."""
    listing = f"find {PLACES} -printf '%p %u %g %m %y\\n' | grep -Ev '{VOLATILE}' | sort"
    found = {}
    for line in server.machine.run(listing).stdout.splitlines():
        path, *rest = line.rsplit(" ", 4)
        found[path] = " ".join(rest)
    files = [path for path in found if path.startswith("/etc/") and found[path].endswith(" f")]
    for path in files:
        if not path.endswith(SECRETS) and "/dkim/" not in path and "/tls/" not in path:
            found[f"{path}, content"] = server.machine.get(path)
    units = "systemctl show -p ActiveState,UnitFileState,NeedDaemonReload opensmtpd dovecot"
    found["services"] = server.machine.run(units).stdout
    found["dry run"] = [*server.highstate("test=True")]
    found["faults"] = server.faults()
    return json.loads(json.dumps(found).replace(server.machine.fqdn, "THIS MACHINE"))


if __name__ == "__main__":
    sys.exit(main())
