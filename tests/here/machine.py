"""The machine whose mail server is looked at: what it says of itself, and its users' mailboxes."""

import email.message
import email.policy
import email.utils
import imaplib
import json
import os
import platform
import re
import shlex
import smtplib
import ssl
import subprocess
import time
import uuid
from contextlib import contextmanager

SALT_CALL = "/opt/salt-mailsrv/salt-call"
FREEBSD = platform.system() == "FreeBSD"
HOST = "127.0.0.1"
# To the mail server it is somebody from outside. Linux has it on every machine, FreeBSD does not.
STRANGER = "127.0.0.2"
NOWHERE = "salt-mailsrv-here.invalid"  # RFC 6761: such a domain never is
MARK = "X-Salt-Mailsrv-Here"
PATIENCE = 45  # seconds for a message to arrive
# As service(8) calls it, and cron; with the commands of packages.
PATH = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
PASSED_ON = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": PATH}

UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE


class Machine:
    """
    This machine. `account` is the address that mail goes to; `password` its password, None where
    nobody knows it.
    """

    def __init__(self, account=None, ask=None):
        self.run_id = uuid.uuid4().hex
        here = self.salt("mailsrv.here")
        if here["faults"]:
            raise RuntimeError("the pillar is not valid: salt-call mailsrv.lint")
        self.model, self.facts = here["model"], here["facts"]
        self.pillar = self.salt("pillar.raw")
        self.account = self._chosen(account)
        self.password = self._passwords().get(self.account)
        if account and self.password is None and ask:
            self.password = ask(f"Password of {account}, which the pillar has as a hash: ")

    # What it runs

    def run(self, command, check=True, timeout=120, **options):
        """Run a shell line, or a list of arguments, as root; returns the `CompletedProcess`."""
        argv = ["sh", "-c", command] if isinstance(command, str) else command
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**PASSED_ON, **options.pop("env", {})},
            **({"stdin": subprocess.DEVNULL} if "input" not in options else {}),
            **options,
        )
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}"[-1500:]
            raise AssertionError(f"{command} ended with {done.returncode}\n{said}")
        return done

    def salt(self, *arguments):
        """What `salt-call ARGUMENTS` returns, as data."""
        command = [SALT_CALL, "--out=json", "--log-level=error", *arguments]
        done = self.run(command, check=False, timeout=300)
        try:
            return json.loads(done.stdout)["local"]
        except (KeyError, ValueError):
            raise AssertionError(f"salt-call {arguments[0]}: {done.stderr[-1500:]}") from None

    def highstate(self, *arguments):
        """Run the highstate; what changed, or would, by ID, and failed is an AssertionError."""
        states = self.salt("state.highstate", *arguments)
        assert isinstance(states, dict), states
        failed = {s["__id__"]: s["comment"] for s in states.values() if s["result"] is False}
        assert not failed
        changed = [s for s in states.values() if s["changes"] or s["result"] is None]
        return {s["__id__"]: [*s["changes"]] for s in changed}

    @property
    def daemons(self):
        """The daemons that the pillar wants: by the formula's name what is known of them."""
        names = ["opensmtpd", "dovecot", self.model["dkim"]["signer"]]
        names += ["rspamd"] * self.model["rspamd"] + ["redis"] * self.model["redis"]
        return {name: self.facts[name] for name in names if "service" in self.facts[name]}

    def service(self, verb, name, check=True):
        """`start`, `stop` or `restart` a service, as its administrator does."""
        by_rc = ["service", name, verb]
        return self.run(by_rc if FREEBSD else ["systemctl", verb, name], check=check)

    def process(self, service):
        """The ID of a service's first process; 0 where it does not run."""
        if FREEBSD:
            said = self.service("onestatus", service, check=False).stdout
            found = re.search(r" is running as pid ([\d ]+)", said)
            numbers = found[1].split() if found else []
            parents = {n: self.run(["ps", "-o", "ppid=", "-p", n], check=False) for n in numbers}
            first = [n for n in numbers if parents[n].stdout.strip() not in numbers]
            return int((first or [0])[0])
        shown = self.run(["systemctl", "show", "--property=MainPID", "--value", service])
        return int(shown.stdout)

    # Its mail

    def message(self, to, sender=None, text="hello\n", **head):
        """A message that is marked as ours, with a subject of its own."""
        mail = email.message.EmailMessage(policy=email.policy.SMTP)
        mail["From"] = sender or self.account
        mail["To"] = to
        mail["Subject"] = f"a check of this server, {uuid.uuid4()}"
        mail["Date"] = email.utils.formatdate()
        mail["Message-ID"] = email.utils.make_msgid(domain=NOWHERE)
        mail[MARK] = self.run_id
        mail["Auto-Submitted"] = "auto-generated"  # who is away does not answer to it
        for name, value in head.items():
            mail[name.replace("_", "-")] = value
        mail.set_content(text)
        return mail

    def deliver(self, mail, to, source=None):
        """Hand it to port 25, with the sender of no one: so nothing bounces to anybody."""
        with smtplib.SMTP(HOST, 25, timeout=30, source_address=source and (source, 0)) as smtp:
            smtp.sendmail("", [to], mail.as_bytes())

    @contextmanager
    def submission(self, port=587):
        """A connection for submission, under TLS, not logged in."""
        options = {"context": UNVERIFIED} if port == 465 else {}
        client = smtplib.SMTP_SSL if port == 465 else smtplib.SMTP
        with client(HOST, port, timeout=30, **options) as smtp:
            if port == 587:
                smtp.starttls(context=UNVERIFIED)
            yield smtp

    def mailbox(self):
        """An IMAP session of the account, opened by root: no password is needed."""
        address = shlex.quote(self.account)
        doveadm = self.facts["dovecot"]["doveadm"]
        return imaplib.IMAP4_stream(f"{doveadm} exec imap -u {address} 2>/dev/null")

    def found(self, mail, folder="INBOX"):
        """All copies of that message in that folder of the account, as bytes."""
        with self.mailbox() as imap:
            if imap.select(folder, readonly=True)[0] != "OK":
                return []
            uids = imap.uid("SEARCH", "SUBJECT", f'"{mail["Subject"]}"')[1][0].split()
            return [_text(imap.uid("FETCH", uid, "(BODY.PEEK[])")[1]) for uid in uids]

    def wait(self, mail, folder="INBOX"):
        """The one copy of that message, as soon as it is there."""
        copies = until(lambda: self.found(mail, folder), PATIENCE, f"it did not come to {folder}")
        assert len(copies) == 1, "it came more than once"
        return copies[0]

    def bounce(self):
        """What smtpd(8) returned of ours, as bytes; None where nothing is there."""
        with self.mailbox() as imap:
            imap.select("INBOX", readonly=True)
            found = imap.uid("SEARCH", "FROM", "MAILER-DAEMON", "SINCE", _yesterday())
            for uid in found[1][0].split()[:-20:-1]:
                text = _text(imap.uid("FETCH", uid, "(BODY.PEEK[])")[1])
                if f"{MARK}: {self.run_id}".encode() in text:
                    return text
        return None

    def left(self):
        """What is left of all that this run has sent, as doveadm-search(1) lists it."""
        return self._doveadm("search")

    def tidy(self):
        """Remove it."""
        self._doveadm("expunge")

    def _doveadm(self, verb):
        ours = ("mailbox", "*", "header", MARK, self.run_id)
        bounces = ("mailbox", "*", "from", "MAILER-DAEMON", "since", "2days", "body", self.run_id)
        command = (self.facts["dovecot"]["doveadm"], verb, "-u", self.account)
        return [self.run([*command, *query]).stdout for query in (ours, bounces)]

    def _chosen(self, account):
        """Who gets mail: the account of that name, or one that keeps what it gets."""
        forwards = self.model["aliases"]
        there = [
            entry["address"]
            for entry in self.model["accounts"]
            if entry["address"] not in self.model["blocked"]
        ]
        if account and account not in there:
            raise RuntimeError(f"ACCOUNT: {account} is no account of the pillar, or is blocked")
        known = self._passwords()
        best = sorted(there, key=lambda name: (name in forwards, name not in known))
        if not best or best[0] in forwards:
            raise RuntimeError("no account of the pillar keeps its mail and is not blocked")
        return account or best[0]

    def _passwords(self):
        """The passwords that stand in the pillar, by address."""
        ours = self.pillar.get("mailsrv") or {}
        found = {}
        for entry in ours.get("accounts") or self.pillar.get("accounts") or []:
            if isinstance(entry, dict):
                address, password = entry.get("address"), entry.get("password")
            else:
                address, password = entry
            if password is not None and not str(password).startswith("$"):
                found[str(address).lower()] = str(password)
        return found


def until(found, seconds, otherwise):
    """What is found, as soon as it is something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{otherwise} within {seconds} seconds"
        time.sleep(0.5)
    return result


def cannot_read(path):
    """Whether a user without any rights is kept from reading that file, or listing a directory."""
    command = ["ls" if os.path.isdir(path) else "cat", path]
    nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    return bool(subprocess.run(command, capture_output=True, **nobody).returncode)


def _text(fetched):
    return next(item[1] for item in fetched if isinstance(item, tuple))


def _yesterday():
    return imaplib.Time2Internaldate(time.time() - 86400)[1:12].strip()
