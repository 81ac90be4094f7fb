"""What strangers and users try against a server of ours: nothing of it is done for them."""

import base64
import itertools
import re
import socket
import ssl
import struct
import time
import uuid
from contextlib import suppress

import pytest

from server import arrived, parsed
from wire import until

pytestmark = pytest.mark.lab

VICTIM = "victim@elsewhere.example"
PORTS = (25, 465, 587, 143, 993, 110, 995, 4190)
WRAPPED = (465, 993, 995)
NAME = "trvrsl"  # in whatever a test of paths tries to make

TLS = ssl.create_default_context()
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


class Talk:
    """A connection on which a test says what it likes, byte by byte."""

    def __init__(self, server, port, secured=None):
        target = (server.machine.fqdn, port)
        self.socket = server.lab.outside.call(socket.create_connection, target, timeout=20)
        if port in WRAPPED if secured is None else secured:
            self.secure()
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def secure(self):
        self.socket = TLS.wrap_socket(self.socket)

    def say(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line; empty where the other side has closed."""
        while b"\n" not in self.unread:
            try:
                got = self.socket.recv(1 << 16)
            except (ConnectionError, ssl.SSLError):
                got = b""
            if not got:
                return b""
            self.unread += got
        line, _, self.unread = self.unread.partition(b"\n")
        return line + b"\n"

    def reply(self):
        """The code and the last line of the next SMTP reply; 0 where there is none any more."""
        while (line := self.line())[3:4] == b"-":
            pass
        return int(line[:3] or 0), line

    def ask(self, command):
        """The code of the reply to an SMTP command, bytes without the line's end."""
        try:
            self.say(command + b"\r\n")
        except OSError:
            return 0
        return self.reply()[0]

    def rest(self, seconds=1):
        """All that comes within that time after the last of it."""
        self.socket.settimeout(seconds)
        with suppress(OSError):
            while got := self.socket.recv(1 << 16):
                self.unread += got
        return self.unread


def smtp(server, port=25):
    """A `Talk` after EHLO, on 587 under TLS."""
    talk = Talk(server, port)
    talk.reply()
    if port == 587:
        talk.ask(b"EHLO client.example")
        talk.ask(b"STARTTLS")
        talk.secure()
    talk.ask(b"EHLO client.example")
    return talk


def login(talk, user, password):
    """The reply to AUTH PLAIN with these."""
    secret = base64.b64encode(f"\0{user}\0{password}".encode())
    talk.say(b"AUTH PLAIN " + secret + b"\r\n")
    return talk.reply()


@pytest.fixture(scope="module")
def exposed(server):
    """A server with all that takes more than it has: a catch-all, forwards, mailboxes by tag."""
    domain = server.pillar["domains"][0]
    first, second = [address for address in server.accounts if address.endswith(f"@{domain}")][:2]
    aliases = {
        f"away@{domain}": "away@elsewhere.example",
        f"both@{domain}": [first, "away@elsewhere.example"],
        f"@{domain}": second,
    }
    with server.having(aliases=aliases, subaddress="mailbox"):
        yield server


# Relaying


def recipients(server, user):
    """Addresses that some mail server or other has sent on to `VICTIM`, and what is like them."""
    local, _, domain = user.partition("@")
    host, address = server.machine.fqdn, server.machine.address
    name, far = VICTIM.split("@")
    here = (domain, host, "localhost", f"[{address}]", "[127.0.0.1]", address, "localhost.", "")
    shapes = (
        "{name}%{far}@{here}",
        "{far}!{name}@{here}",
        '"{name}@{far}"@{here}',
        '"{name}%{far}"@{here}',
        "{name}@{far}@{here}",
        "@{here}:{name}@{far}",
        "@{here},@{far}:{name}@{far}",
        "{name}%{far}%{here}@{here}",
        "{here}!{far}!{name}",
        "{name}@{far}%{here}",
        "{name}+tag%{far}@{here}",
    )
    yield from (s.format(name=name, far=far, here=h) for s, h in itertools.product(shapes, here))
    yield from (
        VICTIM,
        VICTIM.upper(),
        f"{VICTIM}.",
        f'"{name}"@{far}',
        f"{name}@[{server.lab.outside.address}]",
        f"{name}@{server.lab.outside.address}",
        f"{name}@[IPv6:::1]",
        f"{name}%{far}",
        f"{far}!{name}",
        f"@{far}:{user}@{far}",
        f"{user}@{far}",
        f"{user},{VICTIM}",
        f"{VICTIM},{user}",
        f"{user}> <{VICTIM}",
        f"{user}\0@{far}",
        f"{user}\t{VICTIM}",
        f"{local}+{VICTIM}@{far}",
        f"{name}ä@{far}",
        f"{name}@ä.{far}",
        f"{'x' * 300}@{far}",
        f"{name}@{'x' * 300}.{far}",
        f"{name}@x.{domain}",
        f"{name}@{domain}.{far}",
        f"{name}@.{domain}",
        f"SRS0=AAAA=BB={far}={name}@{far}",
        f"SRS1=AAAA={far}==AAAA=BB={far}={name}@{far}",
        "root",
        "vmail",
        "nobody@localhost",
        *(f"{user}@{host}" for user in ("root", "vmail", "postmaster", "opensmtpd", "_dkimsign")),
        f"|/bin/sh@{host}",
        f'"|touch /tmp/{NAME}"@{host}',
        f"/tmp/{NAME}@{host}",
        f":include:/etc/passwd@{host}",
    )


def tried(server, sender, addresses, port=25):
    """The addresses that are taken at RCPT; mail to each of them is sent."""
    taken, talk = [], smtp(server, port)
    for address in addresses:
        command = b"RCPT TO:<" + address.encode() + b">"
        code = talk.ask(b"MAIL FROM:<" + sender.encode() + b">") and talk.ask(command)
        if code == 250:
            taken.append(address)
            assert talk.ask(b"DATA") == 354
            code = talk.ask(f"Subject: relay\r\n\r\n{address!r}\r\n.".encode())
        if not code or talk.ask(b"RSET") != 250:
            talk.socket.close()
            talk = smtp(server, port)
    talk.socket.close()
    return taken


def nothing_leaves(server, sink, before):
    """Nothing came to the outside, and nothing waits to go there, but for bounces."""
    server.idle()
    strange = [e.rcpt_tos for e in sink.messages[before:] if e.mail_from not in ("", "<>")]
    assert strange == []


@pytest.mark.parametrize("sender", ["somebody@elsewhere.example", "", "root@mx.elsewhere.example"])
def test_no_stranger_is_relayed(server, sink, user, sender):
    addresses = list(recipients(server, user))
    assert len(addresses) > 120
    before = len(sink.messages)
    assert tried(server, sender, addresses) == []
    nothing_leaves(server, sink, before)


def test_nobody_is_relayed_as_one_of_us(server, user):
    """Neither as an account or a service of the machine, nor by a word about authentication."""
    domain, host = user.partition("@")[2], server.machine.fqdn
    with smtp(server) as talk:
        for sender in user, f"ceo@{domain}", f"root@{host}", f"@{host}:{user}", user.upper():
            for more in b"", b" AUTH=<" + user.encode() + b">":
                talk.ask(b"MAIL FROM:<" + sender.encode() + b">" + more)
                assert talk.ask(b"RCPT TO:<" + VICTIM.encode() + b">") != 250, sender
                talk.ask(b"RSET")


@pytest.mark.parametrize("port", [465, 587])
def test_nobody_sends_without_a_password(server, sink, user, port):
    before = len(sink.messages)
    addresses = [*itertools.islice(recipients(server, user), 20), VICTIM, user, "root"]
    for sender in user, "somebody@elsewhere.example", "":
        assert tried(server, sender, addresses, port) == []
    nothing_leaves(server, sink, before)


def test_the_doors_of_dovecot_and_the_signers_are_closed_to_the_world(server):
    for port in (10026, 10027, 10028, 11333, 11334):
        with pytest.raises(ConnectionRefusedError):
            Talk(server, port)


def test_forgeries_of_our_rewritten_senders_are_not_sent_on(exposed, sink, user):
    """Whoever knows an address of SRS's form, but not the key."""
    domain = user.partition("@")[2]
    before = len(sink.messages)
    forms = [
        f"SRS0=AAAA=BB=elsewhere.example=victim@{domain}",
        f"SRS0+AAAA=BB=elsewhere.example=victim@{domain}",
        f"srs0-aaaa=bb=elsewhere.example=victim@{domain}",
        f"SRS0====victim@{domain}",
        f"SRS0=@{domain}",
        f"SRS1=AAAA=elsewhere.example==AAAA=BB=elsewhere.example=victim@{domain}",
        f"SRS1=@{domain}",
    ]
    tried(exposed, "", forms)
    nothing_leaves(exposed, sink, before)


def test_a_catch_all_relays_nothing(exposed, sink, user):
    """It takes whatever has its domain, and that stays in a mailbox."""
    domain = user.partition("@")[2]
    before = len(sink.messages)
    taken = tried(exposed, "somebody@elsewhere.example", recipients(exposed, user))
    assert {address.rpartition("@")[2] for address in taken} <= {domain}
    nothing_leaves(exposed, sink, before)


# A second message inside of the first


ENDS = (
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r.\n"),
    *(b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\n", b"\n\n.\r\n", b"\0\n.\n"),
    *(b"\r\n.\r\n", b"\r\n..\n", b"\x0b.\x0b", b"\x85.\x85", b"\r\n.\r\0\n", b"\r\n. \r\n"),
)


def smuggled(user, unique, end):
    """The text of a message with that end, another envelope behind it, and the real end."""
    return (
        f"From: a@elsewhere.example\r\nSubject: first {unique}\r\n\r\nx".encode()
        + end
        + f"MAIL FROM:<boss@bank.example>\r\nRCPT TO:<{user}>\r\nDATA\r\n"
        f"From: boss@bank.example\r\nSubject: smuggled {unique}\r\n\r\nforged\r\n.\r\n".encode()
    )


# In packets of its own LF.LF ends a message: smtpd takes LF alone as the end of a line, and refuses
# only what waits behind the end. That is OpenSMTPD's, and no filter sees what ended a line.
@pytest.mark.parametrize("whose", ["a stranger's", "a user's"])
def test_no_end_of_a_message_lets_another_one_through(server, user, whose):
    unique = str(uuid.uuid4())
    for end in ENDS:
        with smtp(server, 25 if whose == "a stranger's" else 465) as talk:
            sender = "a@elsewhere.example"
            if whose == "a user's":
                assert login(talk, user, server.accounts[user])[0] == 235
                sender = user
            talk.ask(f"MAIL FROM:<{sender}>".encode())
            talk.ask(f"RCPT TO:<{user}>".encode())
            assert talk.ask(b"DATA") == 354
            talk.say(smuggled(user, unique, end))
            until(lambda talk=talk: re.search(rb"\n", talk.rest(0.2)), 10, "no answer")
            replies = [line[:3] for line in talk.unread.splitlines()]
            assert replies.count(b"250") <= 1, (end, replies)
            assert b"354" not in replies, (end, replies)
    server.idle()
    assert server.fetch(user, f"smuggled {unique}") == []


def test_what_leaves_has_the_one_end_of_a_line(exposed, sink, user):
    """Else the next server, which may know others, takes a part of it for a message."""
    unique = str(uuid.uuid4())
    text = "a\n..\nb\r\n..\r\nc\n...\r\nd"
    subject = exposed.submit(user, [VICTIM], text=text)
    with smtp(exposed) as talk:
        for number, end in enumerate(ENDS):
            talk.ask(b"MAIL FROM:<a@elsewhere.example>")
            talk.ask(f"RCPT TO:<away@{user.partition('@')[2]}>".encode())
            if talk.ask(b"DATA") != 354:
                break
            body = end.replace(b".", b"..")
            talk.ask(f"Subject: {unique}-{number}\r\n\r\n".encode() + body + b"x\r\n.")
    arrived(sink, subject, f"{unique}-0")
    exposed.idle()
    ours = [e.content for e in sink.messages if subject.encode() in e.content]
    theirs = [e.content for e in sink.messages if unique.encode() in e.content]
    assert [c for c in ours if re.search(rb"\r(?!\n)|(?<!\r)\n|\0", c)] == []
    assert [c for c in theirs if re.search(rb"(?<!\r)\n", c)] == []


# Commands that came in clear


@pytest.mark.parametrize(
    ("port", "begin", "start", "injected", "probe"),
    [
        (25, b"EHLO x\r\n", b"STARTTLS", b"HELP", b"NOOP"),
        (587, b"EHLO x\r\n", b"STARTTLS", b"HELP", b"NOOP"),
        (143, b"", b"a STARTTLS", b"injected CAPABILITY", b"probe NOOP"),
        (110, b"", b"STLS", b"CAPA", b"NOOP"),
        (4190, b"", b"STARTTLS", b'NOOP "injected"', b'NOOP "probe"'),
    ],
)
def test_what_was_said_before_tls_is_not_answered_under_tls(
    server, port, begin, start, injected, probe
):
    with Talk(server, port) as talk:
        talk.say(begin)
        talk.rest(0.5)
        talk.unread = b""
        talk.say(start + b"\r\n" + injected + b"\r\n")
        plain = talk.rest(0.5)
        assert b"injected" not in plain
        talk.unread = b""
        try:
            talk.secure()
        except (OSError, ssl.SSLError):
            return  # it has hung up
        greeting = talk.rest(1)
        with suppress(OSError):
            talk.say(probe + b"\r\n")
        answer = talk.rest(1)[len(greeting) :]
        assert b"injected" not in greeting + answer
        if port != 4190:  # which tells its capabilities again by itself
            assert greeting == b""
            assert answer.count(b"\n") <= 1, answer


# Paths


@pytest.fixture
def strays(exposed):
    """What is new on the machine outside of the users' own directories, when called."""

    def homes():
        return {*exposed.machine.run("find /var/vmail -maxdepth 2").stdout.splitlines()}

    users = [address.partition("@")[::2] for address in exposed.accounts]
    known = {"/var/vmail", *(f"/var/vmail/{domain}" for _, domain in users)}
    known |= {f"/var/vmail/{domain}/{local}" for local, domain in users} | homes()

    def look():
        exposed.idle()
        theirs = " ".join(f"! -path '/var/vmail/{domain}/{local}/*'" for local, domain in users)
        found = exposed.machine.run(f"find / -xdev -name '*{NAME}*' {theirs}").stdout
        return {*found.splitlines()} | homes() - known

    return look


PATHS = (
    *(f"../{NAME}", f"../../{NAME}", f"../../../../../tmp/{NAME}", f"/tmp/{NAME}", f"~/{NAME}"),
    *(f"a/../../{NAME}", f"~root/{NAME}", f"./{NAME}", f"x/./../{NAME}", f"..\\{NAME}"),
    *(f"..%2f{NAME}", f"{NAME}/../../..", f"..&AC8-{NAME}", f"mdbox/../../{NAME}", f".{NAME}/../x"),
)


def test_no_address_is_a_path(exposed, strays, user):
    """With a mailbox by tag, a stranger names mailboxes; with a catch-all, local parts, too."""
    local, _, domain = user.partition("@")
    for path in PATHS:
        for address in (
            f"{path}@{domain}",
            f"{local}+{path}@{domain}",
            f"{path}+{path}@{domain}",
            f"{local}/{path}@{domain}",
            f'"{path}"@{domain}',
            f"{local}@{path}",
        ):
            tried(exposed, "a@elsewhere.example", [address])
    assert strays() == set()
    exposed.wait(user, exposed.deliver([user]))


def test_no_login_is_a_path(exposed, strays, user):
    _, _, domain = user.partition("@")
    for name in (f"{user}/../{NAME}@{domain}", f"{NAME}@../{domain}"):
        exposed.imap(user).logout()  # else each failure is answered later than the one before
        with Talk(exposed, 993) as talk:
            talk.line()
            talk.say(f'a LOGIN "{name}" "{exposed.accounts[user]}"\r\n'.encode())
            assert b"a NO" in talk.line()
    assert strays() == set()


def test_no_mailbox_of_imap_is_a_path(exposed, strays, user):
    with exposed.imap(user) as imap:
        for path in PATHS:
            for command in imap.create, imap.subscribe:
                with suppress(imap.error):
                    command(f'"{path}"')
            with suppress(imap.error):
                imap.rename("Archive", f'"{path}/x"')
            imap.append(f'"{path}"', None, None, b"Subject: x\r\n\r\nx\r\n")
        for line in imap.list(pattern=f"*{NAME}*")[1]:
            imap.delete(line.partition(b' "/" ')[2].decode())
    assert strays() == set()


def test_no_script_is_a_path_and_none_reads_one(exposed, strays, user):
    with exposed.managesieve(user) as sieve:
        for path in PATHS:
            with suppress(AssertionError):
                sieve.put(path.replace("\\", "\\\\"), "keep;")
        sieve.put("test", "keep;")
        for path in PATHS:
            for script in (
                f'require ["fileinto","mailbox"]; fileinto :create "{path}"; keep;',
                f'require "include"; include :personal "{path}"; keep;',
                'require "include"; include :global "../dovecot-passwd"; keep;',
            ):
                with suppress(AssertionError):
                    sieve.put("test", script)
                    exposed.deliver([user])
        for path in PATHS:
            with suppress(AssertionError):
                sieve.remove(path.replace("\\", "\\\\"))
        sieve.put("test", "keep;")
    assert strays() == set()
    exposed.wait(user, exposed.deliver([user]))


# Lines inside of lines


def test_no_parameter_of_smtp_makes_a_line_of_its_own(server, user):
    """A CR, NUL or LF in a name becomes no header field, no command and no recipient."""
    unique = str(uuid.uuid4())
    for bad in b"\r", b"\0", b"\n", b"\r\0", b"\x85", b"\xe2\x80\xa8":
        for hello, sender, more in (
            (b"x" + bad + b"X-Injected: y", b"a@elsewhere.example", b""),
            (b"x", b"a" + bad + b"X-Injected: y@elsewhere.example", b""),
            (b"x", b"a@elsewhere.example", b" SIZE=1" + bad + b"X-Injected: y"),
            (b"x", b"a@elsewhere.example> BODY=8BITMIME" + bad + b"X-Injected: <y", b""),
        ):
            with Talk(server, 25) as talk:
                talk.reply()
                talk.ask(b"EHLO " + hello)
                talk.ask(b"MAIL FROM:<" + sender + b">" + more)
                talk.rest(0.02)
                with suppress(OSError):  # it may have hung up
                    talk.say(b"RCPT TO:<" + user.encode() + b">\r\nDATA\r\n")
                    talk.rest(0.1)
                    talk.say(f"Subject: {unique}\r\n\r\nx\r\n.\r\n".encode())
                    talk.rest(0.1)
    server.idle()
    for message in server.fetch(user, unique):
        head = parsed(message)
        assert "X-Injected" not in head
        assert {*head} <= {"Return-Path", "Delivered-To", "Received", "Subject"}


def test_a_login_does_not_talk_to_the_filter(server, user):
    """What smtpd tells its filters is lines; a name with a line's end in it becomes one."""
    guard = server.machine.run("pgrep -f '^/usr/bin/python3 -I .*guard\\.py'").stdout
    inner = "filter|0.7|0|smtp-in|commit|no number|no number|x"
    for name in f"x\n{inner}", f"{user}\n{inner}", f"x\r\n{inner}", f"{inner}", "x|pass|y", "x\ty":
        for port in 465, 587:
            with smtp(server, port) as talk:
                assert login(talk, name, "x")[0] in (501, 535)
            with smtp(server, port) as talk:
                assert talk.ask(b"AUTH LOGIN") == 334
                if talk.ask(base64.b64encode(name.encode())) == 334:
                    assert talk.ask(base64.b64encode(b"x")) in (501, 535)
    assert server.machine.run("pgrep -f '^/usr/bin/python3 -I .*guard\\.py'").stdout == guard


def test_a_name_makes_no_field(server, sink, user):
    """What guard decodes, it writes anew."""
    subjects = [
        server.submit(user, [VICTIM], From=f"=?utf-8?{encoded}?= <ceo@example.com>")
        for encoded in (
            "q?a=0D=0AX-Injected:_y",
            "q?a=0AX-Injected:_y",
            "q?=00=0D=0A=0D=0Ax",
            "b?YQ0KWC1JbmplY3RlZDogeQ==",
            "q?a=C2=85X-Injected:_y",
        )
    ]
    for envelope in arrived(sink, *subjects):
        head, _, body = envelope.content.partition(b"\r\n\r\n")
        assert not re.search(rb"^X-Injected", head, re.MULTILINE | re.IGNORECASE)
        assert body.strip() == b"hello"


# What a stranger learns


def test_nobody_is_told_who_is_here(server, user):
    """RCPT must tell; nothing else does, and logins are refused alike."""
    unknown = f"nobody{user}"
    with smtp(server) as talk:
        for command in b"VRFY", b"EXPN":
            assert talk.ask(command + b" " + user.encode()) in (252, 500, 502, 550)
            answers = [talk.ask(command + b" " + name.encode()) for name in (user, unknown, "root")]
            assert len({*answers}) == 1
        assert talk.ask(b"ETRN elsewhere.example") >= 500
    replies = {}
    for name in user, unknown:
        server.imap(user).logout()  # else each failure is answered later than the one before
        with smtp(server, 465) as talk, Talk(server, 995) as pop3:
            said = [login(talk, name, "wrong")]
            pop3.line()
            for line in f"USER {name}", "PASS wrong":
                pop3.say(line.encode() + b"\r\n")
                said.append(pop3.line())
        replies[name] = said
    assert replies[user] == replies[unknown]


def test_dovecot_answers_the_same_as_late_for_nobody_as_for_somebody(server, user):
    """It answers failures by the clock; smtpd does after a random part of a second."""
    times, answers = {user: [], f"nobody{user}": []}, set()
    for _ in range(3):
        for name, found in times.items():
            server.imap(user).logout()
            with Talk(server, 993) as talk:
                talk.line()
                began = time.monotonic()
                talk.say(f"a LOGIN {name} wrong\r\n".encode())
                answers.add(talk.line())
                found.append(time.monotonic() - began)
    assert len(answers) == 1
    known, unknown = (sorted(found)[1] for found in times.values())
    assert abs(known - unknown) < 1.5, times


# What is there for all


def lives(server):
    """The processes that may not end, and how often systemd started them again."""
    shown = server.machine.run("systemctl show -p MainPID,NRestarts opensmtpd dovecot").stdout
    return shown + server.machine.run("pgrep -f 'guard[.]py|filter-dkimsig[n]'").stdout


def test_the_number_of_a_users_mailboxes_has_a_limit(two):
    """Dovecot 2.4 alone has one. Here it is a small one for a moment."""
    limit = "sed -i 's/^quota_mailbox_count = {}$/quota_mailbox_count = {}/'"
    change = f"{limit} /etc/dovecot/dovecot.conf && doveadm reload"
    two.machine.run(change.format(2000, 1))
    with two.imap(next(iter(two.accounts))) as imap:
        two.machine.run(change.format(1, 2000))
        assert b"Maximum number of mailboxes reached" in imap.create("one too many")[1][0]
    assert two.machine.run("doveconf -h quota_mailbox_count").stdout == "2000\n"


def test_a_hundred_sessions_shut_nobody_out(server):
    first, second = list(server.accounts)[:2]
    before = server.machine.run("pgrep -xc imap-login", check=False).stdout
    sessions = []
    try:
        for address in (first, second):
            sessions += [server.imap(address) for _ in range(50)]
        assert int(server.machine.run("pgrep -xc imap-login").stdout) >= 100 + int(before)
        with Talk(server, 993) as talk:
            assert talk.line().startswith(b"* OK")
            talk.say(f'a LOGIN "{first}" "{server.accounts[first]}"\r\n'.encode())
            assert b"Maximum number of connections from user+IP" in talk.line()
    finally:
        for session in sessions:
            session.shutdown()


def test_smtpd_that_a_local_user_ends_comes_back(server, user):
    """Whoever sends a request and goes without its answer ends it (CVE-2025-62875)."""
    request = struct.pack("=IHHII", 1, 16, 0, 99, 1)
    program = f"""
import socket, time
talk = socket.socket(socket.AF_UNIX)
talk.connect("/run/smtpd.sock")
talk.sendall({request!r})
time.sleep(0.2)
"""
    server.machine.run(["runuser", "-u", "nobody", "--", "/usr/bin/python3", "-c", program])
    until(lambda: is_listening(server), 15, "smtpd stays away")
    # Its control process answers before port 25 does.
    until(server.takes_mail, 15, "port 25 stays closed")
    server.wait(user, server.deliver([user]))
    assert server.faults() == {}


def is_listening(server):
    """Whether smtpd of that machine can be asked by smtpctl(8) now."""
    return server.machine.run("sleep 0.5; smtpctl show status", check=False).returncode == 0


def test_garbage_harms_nobody(server, user):
    before = lives(server)
    since = server.machine.run("date +%s").stdout.strip()
    noise = bytes((n * n * 31 + n // 7) % 256 for n in range(65536))
    half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:100]
    open_ends = []
    for port in PORTS:
        for data in noise, half, b"x" * (1 << 20), b"\r\n" * 5000, b"\0" * 5000, b"{999999999}\r\n":
            for secured in {False, port in WRAPPED}:
                talk = Talk(server, port, secured)
                talk.socket.settimeout(2)
                with suppress(OSError):
                    talk.say(data)
                if data is half:
                    open_ends.append(talk)
                else:
                    talk.socket.close()
    server.wait(user, server.deliver([user]))
    server.wait(user, server.submit(user, [user]))
    server.pop3(user).quit()
    with server.managesieve(user):
        pass
    for talk in open_ends:
        talk.socket.close()
    assert lives(server) == before
    said = server.machine.run(["journalctl", "--no-pager", "-o", "cat", f"--since=@{since}"]).stdout
    assert not re.search(r"Start request repeated|Traceback|a fault of guard|panic|core dump", said)
