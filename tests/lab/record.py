"""Thousands of messages through a server whose processes are killed, each accounted for.

    sudo .venv/bin/python tests/lab/record.py --suite bookworm --messages 10000

Clients send as clients do: what is refused for a time (4xx), or gets no answer, is sent again.
Then every mailbox and all that came to the world is read and compared with what was accepted.

Who hands a message on and is killed before noting that it did hands it on again (RFC 1047), as
does who hears no answer. Such copies are counted apart.
"""

import argparse
import hashlib
import imaplib
import itertools
import json
import os
import random
import re
import smtplib
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from image import missing
from lab import HEAD, Lab
from server import PILLAR, Server, parsed, signed_by
from shapes import REFUSED, SHAPES, shaped
from wire import until

WORLD = "somebody@elsewhere.example"
SMTPD = ("dispatcher", "queue", "scheduler", "lookup", "control", "crypto")
PATIENCE = 120  # seconds in which a client sends again
KINDS = [
    *(["in"] * 5 + ["out"] * 4 + ["in, several names"] * 2),
    *("in, team", "forward", "redirect", "out, program", "out, odd", "out, forged"),
]
NEVER = ("lost", "doubled", "bounced", "cut", "unsigned", "signed for a stranger", "forged")
LINES = [1] * 20 + [20] * 10 + [2000] * 3
FAULTS = {
    **{f"kill smtpd: {name}": (f"pkill -9 -of '^smtpd: {name}'",) for name in SMTPD},
    "kill smtpd": ("pkill -9 -of ^/usr/sbin/smtpd",),
    "end smtpd": ("pkill -of ^/usr/sbin/smtpd",),
    "restart smtpd": ("systemctl restart opensmtpd",),
    "stall smtpd": ("pkill -STOP -f '^smtpd: dispatcher'", "pkill -CONT -f '^smtpd: dispatcher'"),
    "kill guard": ("pkill -9 -f '^/usr/bin/python3 -I /etc/mail/guard.py'",),
    "kill signer": ("pkill -9 -f 'filter-dkimsign|^rspamd: '",),
    "kill dovecot": ("pkill -9 -xo dovecot",),
    "kill dovecot/lmtp": ("pkill -9 -f ^dovecot/lmtp",),
    "kill dovecot/auth": ("pkill -9 -f ^dovecot/auth",),
    "kill deliver": ("pkill -9 -u vmail -x perl",),
    "restart dovecot": ("systemctl restart dovecot",),
    "stop dovecot": ("systemctl stop dovecot", "systemctl start dovecot"),
    "stall dovecot/lmtp": ("pkill -STOP -f ^dovecot/lmtp", "pkill -CONT -f ^dovecot/lmtp"),
    "lock a home": ("chown root {home}", "chown vmail {home}"),
    "no room": ("mount -t tmpfs -o size=4k,mode=777 none {home}", "umount -l {home}"),
}


class Message:
    """One message: its text, by which it is known again, and where its copies belong."""

    numbers = itertools.count(1)

    def __init__(self, kind, sender, recipients, places, author, lines=1, signer=None):
        self.number = f"{next(self.numbers):06d}-record"
        self.kind = kind
        self.sender = sender
        self.recipients = recipients
        self.places = places  # each gets one copy
        self.signer = signer  # the one domain that signs it
        text = (hashlib.sha256(f"{self.number} {n}".encode()).hexdigest() for n in range(lines))
        self.body = "".join(f"{line}\r\n" for line in text)
        self.text = f"From: {author}\r\nSubject: {self.number}\r\n\r\n{self.body}"
        self.state, self.reply = "unsent", ""
        self.doubts = 0  # how often it was sent in full, and nobody answered

    def is_whole_in(self, content):
        """Whether nothing of the text is missing there, nor is there more."""
        return self.body in (None, content.partition(b"\r\n\r\n")[2].decode("latin-1"))


class Record:
    """A server, what was sent through it, and what came."""

    def __init__(self, server, sink, seed=1):
        self._server = server
        self._sink = sink
        self._random = random.Random(seed)
        self._domain = server.pillar["domains"][0]
        self._users = list(server.accounts)
        self._filtering = f"filtering@{self._domain}"
        self._faults, self._ends = Counter(), []

    def run(self, amount, clients=8):
        """Send that many messages while things break; returns the account, a dict."""
        server = self._server
        settings = {
            "aliases": {
                f"team@{self._domain}": self._users,
                f"first@{self._domain}": self._users[0],
                f"away@{self._domain}": "away@elsewhere.example",
            },
            "accounts": [[self._filtering, "filtering pass"]],
        }
        with server.having(**settings):
            server.accounts = {**server.accounts, self._filtering: "filtering pass"}
            with server.managesieve(self._filtering) as sieve:
                sieve.put("all", 'redirect "redirected@elsewhere.example";')
            messages = [self._message(number) for number in range(amount)]
            started, done = time.monotonic(), threading.Event()
            breaker = threading.Thread(target=self._break, args=(done,))
            breaker.start()
            try:
                with ThreadPoolExecutor(clients) as pool:
                    shares = (messages[start::clients] for start in range(clients))
                    list(pool.map(self._send_all, shares))
            finally:
                done.set()
                breaker.join()
            seconds = round(time.monotonic() - started)
            self._drain()
            account = self._reconcile({message.number: message for message in messages})
        server.accounts = dict(server.pillar["accounts"])
        return {**account, "seconds": seconds, "faults": dict(self._faults)}

    def _message(self, number):
        user, other = self._random.sample(self._users, 2)
        first, domain = self._users[0], user.partition("@")[2]
        lines = self._random.choice(LINES) if number % 100 else 40000
        kind = self._random.choice(KINDS)
        match kind:
            case "in":
                return Message(kind, WORLD, [user], [user], WORLD, lines)
            case "in, several names":
                names = [first, first.upper(), f"first@{self._domain}", f"First@{self._domain}"]
                return Message(kind, WORLD, names, [first], WORLD, lines)
            case "in, team":
                return Message(kind, WORLD, [f"team@{self._domain}"], self._users, WORLD)
            case "forward":
                return Message(kind, WORLD, [f"away@{self._domain}"], ["away"], WORLD, lines)
            case "redirect":
                return Message(kind, WORLD, [self._filtering], ["redirected"], WORLD, lines)
            case "out, forged":
                author = f"Somebody Else <{other}>"
                return Message(kind, user, [WORLD], ["somebody"], author, lines, domain)
            case "out, odd":
                message = Message(kind, user, [WORLD], ["somebody"], "", 0, domain)
                shape = self._random.choice(sorted(SHAPES.keys() - REFUSED))
                message.text, message.body = shaped(shape, user, message.number), None
                return message
            case _:
                return Message(kind, user, [WORLD], ["somebody"], user, lines, domain)

    def _send_all(self, messages):
        """Send them one after the other; the sessions are kept as long as they live."""
        sessions = {}
        for message in messages:
            end = time.monotonic() + PATIENCE
            while not self._sent(message, sessions) and time.monotonic() < end:
                time.sleep(0.5)
        for smtp in sessions.values():
            with suppress(OSError, smtplib.SMTPException):
                smtp.quit()

    def _sent(self, message, sessions):
        """Whether it was taken or refused for good, as it notes in the message."""
        if message.kind == "out, program":
            command = ["timeout", "60", "sendmail", "-f", message.sender, *message.recipients]
            text = message.text.replace("\r\n", "\n")
            status = self._server.machine.run(command, input=text, check=False).returncode
            # EX_TEMPFAIL: smtpd is away, and will find it when it is back.
            message.state = "taken" if status in (0, os.EX_TEMPFAIL) else "unsent"
            message.doubts += message.state == "unsent"
            return message.state == "taken"
        login = message.sender if message.signer else None
        smtp = sessions.pop(login, None)
        try:
            smtp = smtp or self._session(login)
            commands = [f"RCPT TO:<{recipient}>" for recipient in message.recipients]
            for command in f"MAIL FROM:<{message.sender}>", *commands, "DATA":
                _expect(smtp.docmd(command))
            text = re.sub(r"(?m)^\.", "..", message.text)
            smtp.send(text.encode() + (b"" if text.endswith("\r\n") else b"\r\n"))
            message.doubts += 1
            smtp.send(b".\r\n")
            answer = smtp.getreply()
            message.doubts -= 1
            _expect(answer)
        except smtplib.SMTPResponseException as refusal:
            smtp.close()
            message.reply = f"{refusal.smtp_code} {refusal.smtp_error.decode()}"
            message.state = "refused" if refusal.smtp_code >= 500 else "unsent"
        except (OSError, smtplib.SMTPException):
            if smtp:
                smtp.close()
        else:
            message.state = "taken"
            sessions[login] = smtp
        return message.state != "unsent"

    def _session(self, login):
        if not login:
            smtp = self._server.smtp()
            smtp.ehlo()
            return smtp
        smtp = self._server.submission(465)
        smtp.login(login, self._server.accounts[login])
        return smtp

    def _break(self, done):
        machine, faults = self._server.machine, list(FAULTS)
        self._random.shuffle(faults)
        for fault in itertools.cycle(faults):
            if done.wait(self._random.uniform(0.2, 2)):
                return
            local, _, domain = self._random.choice(self._users).partition("@")
            home = f"/var/vmail/{domain}/{local}"
            first, *rest = (command.format(home=home) for command in FAULTS[fault])
            began = time.time()
            machine.run(first, check=False)
            self._faults[fault] += 1
            if fault.startswith(("kill", "end", "restart", "stop")):
                # A restart takes seconds, on a busy machine many.
                self._ends.append((began, time.time(), fault))
            for command in rest:
                done.wait(self._random.uniform(0.5, 5))
                machine.run(command, check=False)
            # systemd starts nothing that ended 50 times in ten minutes.
            machine.run("systemctl reset-failed; systemctl start opensmtpd dovecot", check=False)

    def _drain(self):
        """Until the queue is empty; what waits for its next try does not wait for it."""

        def empty():
            self._server.machine.run("smtpctl schedule all", check=False)
            time.sleep(2)
            return not self._server.machine.run("smtpctl show queue", check=False).stdout

        with suppress(TimeoutError):
            until(empty, 900, "the queue")

    def _reconcile(self, known):
        """What was taken, compared with what is there."""
        copies, bounced = defaultdict(list), set()
        found = {"cut": [], "unsigned": [], "signed for a stranger": [], "forged": []}
        for place, moment, content in itertools.chain(self._stored(), self._received()):
            message = known.get(_number(content))
            if not message:
                mentioned = re.findall(rb"\d{6}-record", content)
                bounced |= known.keys() & {number.decode() for number in mentioned}
                continue
            copies[message.number, place].append(moment)
            wrong = {"cut": not message.is_whole_in(content)}
            if "@" not in place:
                signers = signed_by(self._server.lab, content)
                wrong["signed for a stranger"] = signers and not message.signer
                if message.signer:
                    fields = parsed(content).get_all("From")
                    authors = [a.addr_spec for field in fields for a in field.addresses]
                    wrong["unsigned"] = signers != {message.signer}
                    wrong["forged"] = authors != [message.sender]
            for fault, is_so in wrong.items():
                found[fault] += [message.number] * bool(is_so)
        taken = [message for message in known.values() if message.state == "taken"]
        several = [
            (known[number].kind, number, place, moments, self._ends_between(moments))
            for (number, place), moments in copies.items()
            if len(moments) > 1 + known[number].doubts or place not in known[number].places
        ]
        return {
            "messages": len(known),
            "by kind": Counter(message.kind for message in known.values()),
            "taken": len(taken),
            "not taken": [m.reply for m in known.values() if m.state != "taken"],
            "sent again without an answer": sum(message.doubts for message in known.values()),
            "copies": sum(map(len, copies.values())),
            "lost": [(m.number, p) for m in taken for p in m.places if not copies[m.number, p]],
            "doubled": [entry[:-1] for entry in several if not entry[-1]],
            "doubled by an end in between": [entry for entry in several if entry[-1]],
            "bounced": sorted(bounced),
            **found,
        }

    def _ends_between(self, moments):
        """What was ended after the first copy was made, and before the last.

        However long it takes: a stalled disk notes late what was handed on.
        """
        first, last = min(moments) - 1, max(moments) + 1  # INTERNALDATE has whole seconds
        return [fault for began, over, fault in self._ends if first < over and began < last]

    def _stored(self):
        """Everything in the INBOXes: where, when it came, and the message."""
        for address in self._server.accounts:
            with self._server.imap(address) as imap:
                count = int(imap.select("INBOX", readonly=True)[1][0])
                for first in range(1, count + 1, 200):
                    numbers = f"{first}:{min(first + 199, count)}"
                    for part in imap.fetch(numbers, "(INTERNALDATE BODY.PEEK[])")[1]:
                        if isinstance(part, tuple):
                            moment = time.mktime(imaplib.Internaldate2tuple(part[0]))
                            yield address, moment, part[1]

    def _received(self):
        """Everything that came to the world: the local part it was for, when, and the message."""
        for envelope in self._sink.messages:
            for recipient in envelope.rcpt_tos:
                yield recipient.partition("@")[0], envelope.time, envelope.content


def _expect(answer):
    if answer[0] >= 400:
        raise smtplib.SMTPResponseException(*answer)


def _number(content):
    """The number in the subject of a message; none in a bounce's."""
    head = content.partition(b"\r\n\r\n")[0]
    found = re.search(rb"^Subject: .*?(\d{6}-record)", head, re.MULTILINE)
    return found and found[1].decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="trixie", help="the Debian release, default: trixie")
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1, help="of what is sent and what breaks")
    parser.add_argument("--json", help="write the account to this file")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    with Lab() as lab:
        lab.dns.serve(
            "elsewhere.example", HEAD + f"@ MX 10 mx\nmx A {lab.outside.address}\n@ TXT nothing\n"
        )
        server = Server(lab, lab.machine(options.suite, "mail.one.example"))
        limits = dict.fromkeys(("recipients_per_hour", "recipients_per_day"), 10_000_000)
        server.bootstrap({**PILLAR, "mailsrv": {"limits": limits}})
        with lab.outside.sink() as sink:
            account = Record(server, sink, options.seed).run(options.messages)
    if options.json:
        Path(options.json).write_text(json.dumps(account, indent=1) + "\n")
    for name, what in account.items():
        print(f"{name}: {what if isinstance(what, int) else len(what)}")
    sys.exit(any(account[fault] for fault in NEVER))


if __name__ == "__main__":
    main()
