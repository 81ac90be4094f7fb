"""A machine of the lab that `./bootstrap` made a mail server of, and its users' mail clients."""

import email
import email.policy
import functools
import hashlib
import imaplib
import json
import poplib
import re
import smtplib
import socket
import ssl
import uuid
from contextlib import contextmanager, suppress

import dkim
import dns.message
import dns.query
import yaml

from managesieve import ManageSieve
from wire import until

CHECKOUT = "/srv/salt-mailsrv"

PILLAR = {
    "salt": "aoiuasdfhalsdfiuyh",
    "domains": ["one.example", "uno.example"],
    "accounts": [
        ["ann@one.example", "ann's pass #1"],
        ["bob@one.example", "bob pass"],
        ["eva@uno.example", "p:ss {w}rd %u"],
    ],
}


class Server:
    """The mail server on `machine`; clients act from the lab's outside host."""

    def __init__(self, lab, machine):
        self.lab = lab
        self.machine = machine
        self.accounts = {}
        self.pillar = None
        self._directory = f"{CHECKOUT}/pillar"

    def bootstrap(self, pillar=None):
        """Set the machine up as a stranger would; with `pillar`, or the one bootstrap makes."""
        self.machine.install_checkout(CHECKOUT)
        option = ""
        if pillar:
            self.use("/srv/pillar", pillar)
            option = " --pillar /srv/pillar"
        output = self.machine.run(f"cd {CHECKOUT} && ./bootstrap{option}", timeout=1200).stdout
        self.read()
        return output

    def read(self, directory=None):
        """Take over what the machine is; its pillar stands where bootstrap made it, or there."""
        self._directory = directory or self._directory
        self.pillar = yaml.safe_load(self.machine.get(self.pillar_file))
        self.accounts = dict(self.pillar["accounts"])
        self.publish()

    @functools.cached_property
    def facts(self):
        """What the formula knows of its system: paths, users, names of services."""
        return self.salt("mailsrv.here")["facts"]

    @property
    def pillar_file(self):
        """Where the pillar stands on the machine."""
        return f"{self._directory}/mail/users.sls"

    def use(self, directory, pillar):
        """Make that directory the pillar's, and `pillar` what is in it."""
        self._directory = directory
        self.write_pillar(pillar)

    def write_pillar(self, pillar):
        """Make `pillar` what the next run reads."""
        self.machine.put(f"{self._directory}/top.sls", json.dumps({"base": {"*": ["mail.users"]}}))
        # As YAML reads it, which knows no pairs of surrogates.
        self.machine.put(self.pillar_file, json.dumps(pillar, ensure_ascii=False))

    @contextmanager
    def having(self, **settings):
        """While the pillar's `mailsrv:` also holds these settings; or `accounts`, more of them."""
        accounts = [*self.pillar["accounts"], *settings.pop("accounts", [])]
        changed = self._run_with(accounts, settings)
        try:
            yield changed
        finally:
            self._run_with(self.pillar["accounts"], {})
            self.write_pillar(self.pillar)

    def _run_with(self, accounts, settings):
        """Run with these accounts and settings, and with the word for accounts that go."""
        settings = {**self.pillar.get("mailsrv", {}), **settings}
        standing = self.machine.get(
            f"{self.facts['dovecot']['directory']}/dovecot-passwd"
        ).splitlines()[1:]
        kept = {entry[0] if isinstance(entry, list) else entry["address"] for entry in accounts}
        if gone := {line.partition(":")[0] for line in standing} - kept:
            settings["removes"] = len(gone)
        self.write_pillar({**self.pillar, "accounts": accounts, "mailsrv": settings})
        return self.highstate()

    def publish(self):
        """Serve the zones that the server prints for its domains."""
        for domain in self.salt("mailsrv.dns"):
            self.lab.dns.serve(domain, self.salt("mailsrv.zone", domain))

    def salt(self, *arguments, check=True):
        """What `salt-call ARGUMENTS` returns, as data."""
        salt_call = self.machine.salt_call
        command = [salt_call, "--out=json", "--log-level=warning", *arguments]
        return json.loads(self.machine.run(command, check=check).stdout)["local"]

    def highstate(self, *arguments):
        """Run the highstate; returns the states that changed, or would, by ID."""
        states = self.salt("state.highstate", *arguments).values()
        failed = [state for state in states if state["result"] is False]
        assert not failed, failed
        return {s["__id__"]: s for s in states if s["changes"] or s["result"] is None}

    def kill_run(self, line, count=1):
        """Run the highstate and end it with -9 when its log has that many lines with that text."""
        script = (
            "setsid -f sh -c 'echo $$ >/tmp/run; exec \"$@\" >/tmp/run.log 2>&1' sh"
            f" {self.machine.salt_call} --log-level=info state.highstate;"
            " sleep 0.5; run=$(cat /tmp/run);"
            ' found=$(tail -n +1 -f "--pid=$run" /tmp/run.log | grep -cF -m "$1" "$0");'
            ' [ "$found" = "$1" ] && kill -9 "$run"'
        )
        command = ["sh", "-c", script, line, str(count)]
        return self.machine.run(command, check=False).returncode == 0

    def faults(self, *arguments):
        """What `mailcheck.run` says that is not well, by check; the host's disk may be full."""
        said = self.salt("mailcheck.run", "free=1", *arguments, check=False)
        return {
            name: text for name, text in said.items() if not re.match("(ok|skipped)(:|$)", text)
        }

    def certificate(self, port):
        """The SHA-256 of the certificate that is served on that port, as the world sees it."""
        if port in (25, 587):
            client = self._connect(smtplib.SMTP, port)
            client.starttls(context=_TLS)
            secured = client.sock
        elif port == 143:
            client = self._connect(imaplib.IMAP4, port)
            client.starttls(_TLS)
            secured = client.sock
        elif port == 110:
            client = self._connect(poplib.POP3, port)
            client.stls(_TLS)
            secured = client.sock
        elif port == 4190:
            secured = self.managesieve(next(iter(self.accounts))).secured
        else:
            secured = _TLS.wrap_socket(self._connect_plain(port))
        with secured:
            served = hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()
            with suppress(OSError):
                secured.unwrap()  # else it is an error in the server's log
            return served

    def submit(self, user, recipients, sender=None, port=587, text="hello\n", **headers):
        """Send as that user does from a mail client; returns the subject, which is unique."""
        head = {"From": user, "To": ", ".join(recipients), **headers}
        with self.submission(port) as smtp:
            smtp.login(user, self.accounts[user])
            return _send(smtp, sender or user, recipients, head, text)

    def submission(self, port=587):
        """A connection for submission, under TLS."""
        if port == 465:
            return self._connect(smtplib.SMTP_SSL, port, context=_TLS)
        smtp = self._connect(smtplib.SMTP, port)
        smtp.starttls(context=_TLS)
        return smtp

    def takes_mail(self):
        """Whether who connects to port 25 is greeted."""
        try:
            self.smtp().quit()
        except (OSError, EOFError, smtplib.SMTPException):
            return False
        return True

    def smtp(self):
        """A connection from the world, to port 25."""
        return self._connect(smtplib.SMTP, 25, local_hostname=self.lab.outside.fqdn)

    def deliver(self, recipients, sender="somebody@elsewhere.example", text="hello\n", **headers):
        """Send from the world to port 25; returns the subject, which is unique."""
        head = {"From": sender, "To": recipients[0], **headers}
        with self.smtp() as smtp:
            return _send(smtp, sender, recipients, head, text)

    def imap(self, address, password=None, port=993):
        """An IMAP session, logged in."""
        if port == 993:
            imap = self._connect(imaplib.IMAP4_SSL, port, ssl_context=_TLS)
        else:
            imap = self._connect(imaplib.IMAP4, port)
            imap.starttls(_TLS)
        imap.login(address, password or self.accounts[address])
        return imap

    def pop3(self, address, password=None, port=995):
        """A POP3 session, logged in."""
        if port == 995:
            pop3 = self._connect(poplib.POP3_SSL, port, context=_TLS)
        else:
            pop3 = self._connect(poplib.POP3, port)
            pop3.stls(_TLS)
        pop3.user(address)
        pop3.pass_(password or self.accounts[address])
        return pop3

    def managesieve(self, address):
        """A ManageSieve session, logged in."""
        sieve = ManageSieve(self._connect_plain(4190), _TLS, address, self.accounts[address])
        assert '"SASL" ""' in sieve.greeting, "a password is taken before TLS"
        return sieve

    def fetch(self, address, subject, folder="INBOX"):
        """All messages with that subject there, as bytes."""
        with self.imap(address) as imap:
            if imap.select(f'"{folder}"', readonly=True)[0] != "OK":
                return []  # it is made with the first message
            numbers = imap.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
            return [imap.fetch(number, "(RFC822)")[1][0][1] for number in numbers]

    def mailboxes(self, address, folders=None):
        """Of each folder what a client knows messages again by: UIDVALIDITY, UIDs, flags, text."""
        found = {}
        with self.imap(address) as imap:
            # What others have left of a folder in a folder cannot be opened.
            lines = [line for line in imap.list()[1] if rb"\Noselect" not in line]
            for name in folders or [line.decode().rpartition(' "/" ')[2] for line in lines]:
                assert imap.select(name, readonly=True)[0] == "OK"
                validity = imap.response("UIDVALIDITY")[1]
                parts = imap.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]
                pieces = [b"".join(p) if isinstance(p, tuple) else p or b"" for p in parts]
                # \Recent is of the session that sees a message first.
                found[name] = validity, re.sub(rb"\\Recent ?", b"", b"".join(pieces))
        return found

    def wait(self, address, subject, folder="INBOX"):
        """The one message with that subject there, as bytes, as soon as it has come."""
        what = f"{subject} does not come to {address}"
        (message,) = until(lambda: self.fetch(address, subject, folder), 60, what)
        return message

    def idle(self):
        """Wait until nothing is queued, so that no further copy can come."""
        until(lambda: not self.machine.run("smtpctl show queue").stdout, 60, "the queue stays full")

    def _connect_plain(self, port):
        target = (self.machine.fqdn, port)
        return self.lab.outside.call(socket.create_connection, target, timeout=30)

    def _connect(self, client, port, **options):
        return self.lab.outside.call(client, self.machine.fqdn, port, timeout=30, **options)


def _send(smtp, sender, recipients, headers, text):
    subject = str(uuid.uuid4())
    head = {**headers, "Subject": subject}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    smtp.sendmail(sender, recipients, f"{lines}\r\n{text}")
    return subject


def arrived(sink, *subjects):
    """What came into the sink under those subjects, one envelope each, in their order."""

    def found():
        mails = {parsed(envelope.content)["Subject"]: envelope for envelope in sink.messages}
        return [mails[subject] for subject in subjects] if mails.keys() >= {*subjects} else None

    return until(found, 60, f"not all of {subjects} came")


def parsed(message):
    """The message as an object, its headers decoded."""
    return email.message_from_bytes(message, policy=email.policy.default)


def tls(connection):
    """The connection under TLS, whoever is there."""
    return _TLS.wrap_socket(connection)


def signed_by(lab, message):
    """The domains whose DKIM signatures verify."""
    return {domain for domain, _ in signatures(lab, message)}


def signatures(lab, message, name_server=None):
    """
    The domain and the algorithm of each DKIM signature that verifies, sorted, by an independent
    verifier and the lab's DNS, or what the name server at that address alone says.
    """

    def txt(name, timeout=5):
        if name_server:
            asked = dns.message.make_query(name.decode(), "TXT")
            reply = lab.outside.call(dns.query.tcp, asked, name_server, timeout=10)
            answer = [record for found in reply.answer for record in found]
        else:
            answer = lab.lookup(name.decode(), "TXT")
        return b"".join(answer[0].strings) if answer else None

    verifier, found = dkim.DKIM(message), []
    for index in range(len(email.message_from_bytes(message).get_all("DKIM-Signature", []))):
        with suppress(dkim.ValidationError):
            if verifier.verify(index, dnsfunc=txt):
                algorithm = verifier.signature_fields[b"a"].decode()
                found.append((verifier.domain.decode(), algorithm))
    return sorted(found)


_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE
_TLS.minimum_version = ssl.TLSVersion.TLSv1_2
