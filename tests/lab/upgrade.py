"""Debian 12 becomes 13 and then 14 under a mail server in use; each outage and loss is counted.

    sudo .venv/bin/python tests/lab/upgrade.py
    sudo .venv/bin/python tests/lab/upgrade.py --from COMMIT --at-once

Mailboxes, flags, scripts, keys and hashes are compared before and after each step, while the world
sends and a client looks each second. `--from` sets the machine up by an older commit; without
`--at-once`, this one runs before the upgrade, too, and that one again and this one after it.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import lab
import server as machines
from image import missing
from lab import HEAD, Lab
from server import PILLAR, Server
from wire import DISKS, until

USER = "ann@one.example"
FORWARDED = "away@one.example"
WORLD = "somebody@elsewhere.example"
SCRIPT = 'require "fileinto";\nif header :contains "subject" "traffic" { fileinto "Traffic"; }\n'
FOLDERS = ("Projects", "Projects/2026", "Entw&APw-rfe")
FLAGS = ("", r"\Seen", r"\Seen \Answered", r"\Flagged $Label1")
RELEASES = ("bookworm", "trixie", "forky")
KEPT = (
    "find /etc/mail/dkim /etc/mail/tls /etc/mail/srs.conf /etc/mail/password.key"
    " /etc/mail/credentials /etc/dovecot/dovecot-passwd /var/vmail/*/*/sieve -type f"
    " ! -name '*.svbin' -exec sha256sum {} + | sort -k 2"
)
NONINTERACTIVE = {"DEBIAN_FRONTEND": "noninteractive"}
MAIL = "opensmtpd dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-sieve dovecot-managesieved"


class Traffic:
    """A message and a look into the mailbox each second, each with its time and its success."""

    def __init__(self, server):
        self._server = server
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._each, args=("SMTP", self._send)),
            threading.Thread(target=self._each, args=("IMAP", self._look)),
        ]
        self.log = {"SMTP": [], "IMAP": []}  # (moment, subject or what was said, success)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def outages(self, since):
        """By protocol, the seconds of each time without a success, and what was said then."""
        found = {}
        for protocol, log in self.log.items():
            seconds, words, last, failed = [], Counter(), since, False
            for moment, said, success in [*log, (time.time(), "", True)]:
                if moment < since:
                    continue
                if success:
                    seconds += [round(moment - last)] * failed
                    last = moment
                else:
                    words[said] += 1
                failed = not success
            found[protocol] = {"seconds": seconds, **words} if seconds else "none"
        return found

    def reconcile(self):
        """What was accepted, compared with what is in the mailbox."""
        sent = [subject for _, subject, success in self.log["SMTP"] if success]

        def stored():
            self._server.machine.run("smtpctl schedule all", check=False)
            found = Counter()
            for folder in "INBOX", "Traffic":
                found.update(subjects(self._server, folder))
            waiting = [subject for subject in sent if not found[subject]]
            return found if not waiting or time.monotonic() > patience else None

        patience = time.monotonic() + 120
        copies = until(stored, 200, "the mailbox cannot be read")
        return {
            "accepted": len(sent),
            "lost": [subject for subject in sent if not copies[subject]],
            "doubled": [subject for subject in sent if copies[subject] > 1],
        }

    def _each(self, protocol, act):
        while not self._done.wait(1):
            subject = f"traffic-{time.time_ns()}"
            try:
                act(subject)
                self.log[protocol].append((time.time(), subject, True))
            except Exception as exc:  # whatever a client may meet
                self.log[protocol].append((time.time(), f"{type(exc).__name__}: {exc}"[:90], False))

    def _send(self, subject):
        with self._server.smtp() as smtp:
            head = f"From: {WORLD}\r\nTo: {USER}\r\nSubject: {subject}\r\n"
            smtp.sendmail(WORLD, [USER], f"{head}\r\nhello\r\n")

    def _look(self, _):
        with self._server.imap(USER) as imap:
            assert imap.select("INBOX", readonly=True)[0] == "OK"


def subjects(server, folder):
    """The subjects of a folder."""
    with server.imap(USER) as imap:
        if imap.select(folder, readonly=True)[1] == [b"0"]:
            return []
        parts = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
    return [part[1].decode().partition(":")[2].strip() for part in parts if part != b")"]


def fill(server):
    """Folders, flags, UIDs with holes, a script."""
    with server.managesieve(USER) as sieve:
        sieve.put("mine", SCRIPT)
    with server.imap(USER) as imap:
        imap.create("Traffic")
        for folder in FOLDERS:
            imap.create(folder)
            imap.subscribe(folder)
            for number in range(20):
                text = f"Subject: kept {number}\r\n\r\n{'text of it ' * number * 50}\r\n"
                imap.append(folder, FLAGS[number % 4], None, text.encode())
        imap.select("Projects")
        imap.store("3,7", "+FLAGS", r"\Deleted")
        imap.expunge()


def mailboxes(server):
    """Those that get no traffic; which messages are recent depends on who has looked."""
    found = server.mailboxes(USER, FOLDERS)
    return {
        name: (validity, text.replace(rb"\Recent", b"")) for name, (validity, text) in found.items()
    }


def subscribed(server):
    with server.imap(USER) as imap:
        return sorted(imap.lsub()[1])


def holdings(server):
    """What no upgrade may change."""
    return {
        "mailboxes": mailboxes(server),
        "subscribed": subscribed(server),
        "files": server.machine.run(KEPT).stdout,
        "records": server.salt("mailsrv.dns"),
    }


def forwarded(server, sink):
    """The sender, by SRS, under which a stranger's message leaves."""
    subject = server.deliver([FORWARDED])
    (envelope,) = machines.arrived(sink, subject)
    return envelope.mail_from


@contextmanager
def checkout(commit):
    """While the older commit is what `Server.bootstrap` takes."""
    here, there = lab.CHECKOUT, Path(DISKS, "older")
    git = ("git", "-C", here, "worktree")
    subprocess.run((*git, "add", "--quiet", "--force", "--detach", there, commit), check=True)
    lab.CHECKOUT = there
    try:
        yield
    finally:
        lab.CHECKOUT = here
        subprocess.run((*git, "remove", "--force", there), check=True)


class Upgrade:
    """One machine, from its first release to its last."""

    def __init__(self, server, sink, older=None):
        self._server, self._sink, self._older = server, sink, older
        self._machine = server.machine

    def set_up(self, both):
        """The server by the older commit, if there is one, and by this one; with mail in it."""
        if self._older:
            with checkout(self._older):
                self._server.bootstrap(pillar())
        if both or not self._older:
            self._server.bootstrap(pillar())
        fill(self._server)

    def release(self, old, new, at_once):
        """To the next release, as `mailcheck.upgrade` says; returns what there is to say of it."""
        server, said = self._server, {}
        if not (self._older and at_once):
            # The disk is the host's.
            advice = server.salt("mailcheck.upgrade", "free=0", check=False)
            said["faults before"] = {k: v for k, v in advice.items() if "FAULT" in v}
        before, sender = holdings(server), forwarded(server, self._sink)
        with Traffic(server) as traffic:
            for name, step in self._steps(old, new, at_once).items():
                began = time.time()
                said[name] = {"ended with": step()}
                time.sleep(3)
                said[name] |= {"seconds": round(time.time() - began - 3)}
                said[name] |= traffic.outages(began)
        said["traffic"] = traffic.reconcile()
        after = holdings(server)
        said["changed"] = [kind for kind in before if before[kind] != after[kind]]
        server.deliver([sender], sender="", text="a bounce of before\n")
        back = f"no bounce came back by {sender}"
        until(lambda: self._sink.messages[-1].rcpt_tos == [WORLD], 60, back)
        said |= self._verdict()
        self._machine.reboot()
        until(lambda: not server.faults(), 60, "after the reboot mailcheck.run has faults")
        return said

    def again(self):
        """The older commit on the machine as it is now, and this one: what each changes."""
        with checkout(self._older):
            self._machine.run(["rm", "-r", machines.CHECKOUT])
            self._server.bootstrap(pillar())
            said = {f"with {self._older}": self._verdict()}
        self._server.bootstrap(pillar())
        return {**said, "with this one": self._verdict()}

    def reinstall(self):
        """The packages once more, and what a run finds to do then."""
        self._apt(f"install --reinstall {MAIL} dovecot-core opensmtpd-filter-dkimsign python3")
        return self._verdict()

    def _steps(self, old, new, at_once):
        sources = f"sed -i 's/{old}/{new}/g' /etc/apt/sources.list"
        self._machine.run(f"{sources} && apt-get -o Acquire::Check-Valid-Until=false update")
        self._apt("full-upgrade --download-only")
        first = {"mail packages": lambda: self._apt(f"install --only-upgrade {MAIL}")}
        return {
            **({} if at_once else first),
            "full-upgrade": lambda: self._apt("full-upgrade"),
            "bootstrap": self._bootstrap,
        }

    def _apt(self, command):
        apt = f"apt-get -y -o Dpkg::Options::=--force-confold {command}"
        done = self._machine.run(apt, check=False, env=NONINTERACTIVE, timeout=1800)
        if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
            # The package of the certificates throws out what the lab put there.
            self._machine.put(lab.CA_BUNDLE, Path(bundle).read_text())
        return done.returncode

    def _bootstrap(self):
        self._machine.install_checkout(machines.CHECKOUT)
        self._server.bootstrap(pillar())
        return 0

    def _verdict(self):
        return {
            "a second run changes": sorted(self._server.highstate()),
            "mailcheck.run": self._server.faults(),
            "dpkg --audit": self._machine.run("dpkg --audit").stdout,
            "sources": self._machine.run("ls /etc/apt/sources.list.d").stdout.split(),
        }


def pillar():
    """The lab's pillar, with an alias that forwards."""
    return {**PILLAR, "mailsrv": {"aliases": {FORWARDED: WORLD}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="older", help="a commit that sets the machine up")
    parser.add_argument("--at-once", action="store_true", help="apt-get full-upgrade and no more")
    parser.add_argument("--to", choices=RELEASES[1:], default=RELEASES[-1])
    arguments = parser.parse_args()
    if why := missing():
        sys.exit(why)
    with Lab() as network:
        zone = HEAD + f"@ MX 10 mx\nmx A {network.outside.address}\n"
        network.dns.serve("elsewhere.example", zone)
        server = Server(network, network.machine(RELEASES[0], "mail.one.example"))
        with network.outside.sink() as sink:
            upgrade = Upgrade(server, sink, arguments.older)
            upgrade.set_up(both=not arguments.at_once)
            for old, new in itertools.pairwise(RELEASES[: RELEASES.index(arguments.to) + 1]):
                said = upgrade.release(old, new, arguments.at_once)
                print(json.dumps({f"{old} to {new}": said}, indent=1), flush=True)
            print(json.dumps({"packages reinstalled": upgrade.reinstall()}, indent=1), flush=True)
            if arguments.older and not arguments.at_once:
                print(json.dumps({"back and forth": upgrade.again()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
