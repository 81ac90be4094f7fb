"""Mail for a comparison: who sends it, and who sees it come."""

import asyncio
import contextlib
import re
import smtplib
import ssl
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from wire import until

SINK_NETWORK = "203.0.113"
# What OpenSMTPD takes in one session by default.
SESSION = 100
SESSIONS = 10
BODY = "".join(
    f"Line {n} of a letter of two kilobytes, as people write them.\r\n" for n in range(32)
)

_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


def letter(number, sender, recipient):
    """A message of 2 kB whose Message-ID is `number`@bench."""
    return (
        f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: a letter\r\n"
        f"Date: Mon, 02 Feb 2026 10:00:00 +0000\r\nMessage-ID: <{number}@bench>\r\n\r\n{BODY}"
    )


class Arrivals:
    """When each message came, by the number in its Message-ID."""

    def __init__(self):
        self.times = {}
        self.copies = Counter()

    def note(self, number, when):
        """A message came."""
        self.times.setdefault(number, when)
        self.copies[number] += 1

    def wait(self, numbers, seconds):
        """Until all of `numbers` came, or `seconds` passed; returns the times of those that did."""
        missing = set(numbers)

        def complete():
            missing.difference_update(self.times)
            return not missing

        with contextlib.suppress(TimeoutError):
            until(complete, seconds, "not all came")
        return {number: self.times[number] for number in numbers if number in self.times}


class Sink(Arrivals):
    """Other people's mail servers: `host` with many addresses, which takes everything, fast."""

    def __init__(self, host, addresses):
        super().__init__()
        self.latest = b""
        self.unsigned = 0
        for number in range(1, addresses + 1):
            host.call(subprocess.run, _ip("addr", f"{SINK_NETWORK}.{number}/24"), check=True)
        self._loop = asyncio.new_event_loop()
        self._server = host.call(
            self._loop.run_until_complete,
            self._loop.create_server(lambda: _Session(self), "0.0.0.0", 25, backlog=200),
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def take(self, message):
        """A message came in full."""
        self.note(_number(message.partition(b"\r\n\r\n")[0]), time.time())
        self.unsigned += b"DKIM-Signature:" not in message
        self.latest = message

    def close(self):
        """Take no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class _Session(asyncio.Protocol):
    def __init__(self, sink):
        self._sink = sink
        self._input = b""
        self._in_message = False

    def connection_made(self, transport):
        self._transport = transport
        transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data):
        self._input += data
        while True:
            end = b"\r\n.\r\n" if self._in_message else b"\r\n"
            head, found, rest = self._input.partition(end)
            if not found:
                break
            self._input = rest
            self._transport.write(self._answer(head))

    def _answer(self, head):
        if self._in_message:
            self._in_message = False
            self._sink.take(head + b"\r\n")
            return b"250 2.0.0 Ok\r\n"
        verb = head[:4].upper()
        if verb == b"EHLO":
            return b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250 8BITMIME\r\n"
        if verb == b"DATA":
            self._in_message = True
            return b"354 Go on\r\n"
        if verb == b"QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"


class Mailboxes(Arrivals):
    """What Dovecot says it stored in an INBOX of `machine`."""

    def __init__(self, machine):
        super().__init__()
        self._journal = machine.watch("journalctl -f -n 0 -o short-unix -t dovecot")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        stored = re.compile(rb"(\d+\.\d+) .*msgid=<(\d+)@bench>: .*INBOX")
        for line in self._journal.stdout:
            if found := stored.match(line):
                self.note(int(found[2]), float(found[1]))

    def close(self):
        """Read no more."""
        self._journal.terminate()
        self._journal.wait()


def _number(head):
    found = re.search(rb"^Message-ID: <(\d+)@bench>", head, re.MULTILINE | re.IGNORECASE)
    return int(found[1]) if found else None


def _ip(what, address):
    return ("ip", what, "add", address, "dev", "eth0")


def reach_sink(machine):
    """Let the machine find the sink's addresses on the lab's wire."""
    machine.call(subprocess.run, _ip("route", f"{SINK_NETWORK}.0/24"), check=True)


def connect(host, address, port, user=None, password=None):
    """An SMTP session from `host` with that server; for port 465 with TLS and a login."""
    if port == 465:
        smtp = host.call(smtplib.SMTP_SSL, address, port, timeout=60, context=_TLS)
        smtp.login(user, password)
        return smtp
    smtp = host.call(smtplib.SMTP, address, port, timeout=60, local_hostname=host.fqdn)
    smtp.ehlo()
    return smtp


def send(session, letters, sessions=SESSIONS):
    """
    Send `letters` (number, sender, recipient) over that many sessions at once, which
    `session(sender)` makes; returns the time that each one's last byte was sent.
    """
    shares = [letters[start::sessions] for start in range(sessions)]
    parts = [
        share[start : start + SESSION]
        for share in shares
        for start in range(0, len(share), SESSION)
    ]
    sent = {}

    def work(part):
        smtp = session(part[0][1])
        for number, sender, recipient in part:
            _expect(250, smtp.docmd(f"MAIL FROM:<{sender}>"))
            _expect(250, smtp.docmd(f"RCPT TO:<{recipient}>"))
            _expect(354, smtp.docmd("DATA"))
            smtp.send(letter(number, sender, recipient) + ".\r\n")
            sent[number] = time.time()
            _expect(250, smtp.getreply())
        smtp.quit()

    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(work, parts))
    return sent


def _expect(code, reply):
    if reply[0] != code:
        raise smtplib.SMTPResponseException(*reply)
