"""What leaves a server of ours is of one author, signed and whole, or refused with a sentence."""

import base64
import contextlib
import re
import smtplib
import threading
import uuid

import pytest

import guard
from lab import HEAD
from server import arrived, parsed, signed_by
from shapes import REFUSED, SHAPES, shaped
from wire import until

pytestmark = pytest.mark.lab

SOMEBODY = "somebody@elsewhere.example"
GUARD = r"pgrep -f '^/usr/bin/python3 -I .*guard\.py'"


@pytest.fixture(scope="module")
def verifies(lab, two):
    """Whether dkimpy and Perl's Mail::DKIM verify the signature of that domain."""
    two.machine.run("apt-get install -y --no-install-recommends libmail-dkim-perl")
    program = r"""
use MIME::Base64;
use Mail::DKIM::Verifier;
my $verifier = Mail::DKIM::Verifier->new();
local $/;
$verifier->PRINT(decode_base64(<STDIN>));
$verifier->CLOSE;
print join(" ", map { $_->domain } grep { $_->result eq "pass" } $verifier->signatures);
"""

    def verify(message, domain):
        packed = base64.b64encode(message).decode()
        ran = two.machine.run(["perl", "-e", program], input=packed)
        return signed_by(lab, message) == {domain} == {*ran.stdout.split()}

    return verify


def plainly_from(message, address):
    """One From:, and a strict reader finds that address there."""
    found = parsed(message).get_all("From")
    return [a.addr_spec for field in found for a in field.addresses] == [address]


def came(sink, unique):
    """The one envelope that came, whatever became of the rest of its subject."""

    def found():
        return [e for e in sink.messages if unique.encode() in e.content and e.mail_from != "<>"]

    return until(found, 60, f"{unique} does not come")[0]


def test_any_shape_leaves_signed_by_its_account_or_is_refused(server, sink, user, verifies):
    """One session carries them all: none ends it, and none harms the next."""
    sent, refused = {}, {}
    pid = server.machine.run(GUARD).stdout
    with server.submission(465) as smtp:
        smtp.login(user, server.accounts[user])
        for shape in SHAPES:
            unique = str(uuid.uuid4())
            message = shaped(shape, user, unique)
            try:
                smtp.sendmail(user, [SOMEBODY], message.encode())
                sent[shape] = unique
            except smtplib.SMTPDataError as reply:
                refused[shape] = reply
    assert {*refused} == REFUSED
    for reply in refused.values():
        assert reply.smtp_code == 550
        assert re.fullmatch(rb"5\.6\.0 [ -~]{20,}", reply.smtp_error)
    domain = user.partition("@")[2]
    for shape, unique in sent.items():
        envelope = came(sink, unique)
        message = envelope.content
        assert plainly_from(message, user), (shape, message[:2000])
        assert verifies(message, domain), (shape, message[:2000])
        assert b"secret@" not in message
        assert parsed(message)["Date"]
        assert parsed(message)["Message-ID"]
    assert server.machine.run(GUARD).stdout == pid


def test_programs_send_any_shape_too(server, sink, user, verifies):
    """By sendmail(8), as root: what is somebody else's leaves unsigned, all else is ours."""
    domain = user.partition("@")[2]
    sent = {}
    shapes = ["plain", "route", "no address", "comma in the name", "dots", "Bcc", "odd To"]
    for shape in [*shapes, "route of a stranger"]:
        sent[shape] = str(uuid.uuid4())
        message = shaped(shape, user, sent[shape])
        server.machine.run(["sendmail", SOMEBODY], input=message.replace("\r\n", "\n"))
    for shape, unique in sent.items():
        envelope = came(sink, unique)
        if shape == "route of a stranger":
            assert signed_by(server.lab, envelope.content) == set()
        else:
            assert verifies(envelope.content, domain), (shape, envelope.content[:1000])
            (author,) = parsed(envelope.content).get_all("From")
            assert author.addresses[0].domain in (domain, server.machine.fqdn)
    # smtpctl(8) makes a sender of the first address and leaves no From: at all.
    group = "From: G: CEO <ceo@example.com>;\nSubject: x\n\nx\n"
    ran = server.machine.run(["sendmail", SOMEBODY], input=group, check=False)
    assert ran.returncode
    assert guard.NO_AUTHOR in ran.stdout + ran.stderr


def test_smtpd_leaves_every_byte_that_guard_let_out(server, sink, user):
    """What smtpd(8) does to To: and Cc: is foreseen; asked of the real one of this release."""
    odd = ['a\\"b', '"x, y"', "(c", ")", "<d>", "e@f.example", "g", "\\", ",", ":", ";", "h i", '"']
    bodies = [
        f" {a} {b},{c}" for n, a in enumerate(odd) for b in odd[n % 3 :: 3] for c in odd[n % 4 :: 4]
    ]
    whole = {}
    for body in bodies:
        with contextlib.suppress(guard.Refused):
            whole[str(uuid.uuid4())] = guard.completed(body.encode(), server.machine.fqdn)
    assert len(whole) > 150
    received = "Received: by x (x) with x id 1; x\r\n"
    code = f"""
import smtplib, sys
smtp = smtplib.SMTP("127.0.0.1", 10026)
for line in sys.stdin:
    unique, _, body = line.rstrip("\\n").partition(" ")
    smtp.sendmail("{user}", ["{SOMEBODY}"], "{received!r}"[1:-1].encode().decode("unicode_escape")
        + f"From: x@y.example\\r\\nTo:{{body}}\\r\\nSubject: {{unique}}\\r\\n\\r\\nx\\r\\n")
"""
    lines = "".join(f"{unique} {body.decode()}\n" for unique, body in whole.items())
    for part in range(0, len(whole), 90):  # messages a session
        some = "".join(lines.splitlines(keepends=True)[part : part + 90])
        server.machine.run(["/usr/bin/python3", "-c", code], input=some)
    until(lambda: {*whole} <= {parsed(e.content)["Subject"] for e in sink.messages}, 120, "missing")
    for envelope in sink.messages:
        unique = re.search(rb"\nSubject: ([\w-]{36})\r", envelope.content)
        if unique and unique[1].decode() in whole:
            body = whole[unique[1].decode()]
            assert b"\r\nTo:" + body + b"\r\n" in envelope.content


def test_a_signer_that_is_killed_costs_nothing_but_a_moment(server, sink, user):
    def send(results):
        for _ in range(40):
            try:
                results.append(server.submit(user, [SOMEBODY], port=465))
            except smtplib.SMTPDataError as reply:
                replies.append((reply.smtp_code, reply.smtp_error))

    sent, replies = [], []
    sender = threading.Thread(target=send, args=(sent,))
    sender.start()
    while sender.is_alive():
        server.machine.run("pkill -9 -f filter-dkimsign", check=False)
        sender.join(0.4)
    assert len(sent) > 15
    assert {*replies} <= {(451, guard.UNSIGNED[4:].encode())}
    domain = user.partition("@")[2]
    for envelope in arrived(sink, *sent):
        assert signed_by(server.lab, envelope.content) == {domain}
    assert server.faults() == {}


def test_strangers_do_not_send_as_us(server, user):
    with server.smtp() as smtp:
        for sender in user, f"nobody@{user.partition('@')[2]}", f"root@{server.machine.fqdn}":
            smtp.ehlo()
            code, text = smtp.mail(sender)
            assert (code, text[:5]) == (550, b"5.7.1")
            assert b"log in to send as it" in text


def test_a_forward_is_not_signed_and_keeps_its_authors_signature(lab, one, two, sink):
    """The author's server signs; ours forwards: SRS, no signature of ours, the author's whole."""
    away = {"away@one.example": SOMEBODY}
    with one.having(aliases=away):
        author = next(iter(two.accounts))
        subject = two.submit(author, ["away@one.example"])
        forged = one.deliver(["away@one.example"], From="CEO <ann@one.example>")
        ours, bad = arrived(sink, subject, forged)
    assert ours.mail_from.startswith("SRS0=")
    assert signed_by(lab, ours.content) == {author.partition("@")[2]}
    assert signed_by(lab, bad.content) == set()
    assert b"DKIM-Signature" not in bad.content


def test_a_script_does_not_send_as_somebody_else(server, sink, user):
    """Sieve: what it passes on is unsigned, what it writes is its account's, whatever it says."""
    other, domain, unique = list(server.accounts)[1], user.partition("@")[2], str(uuid.uuid4())
    script = f"""require ["vacation"];
redirect "{SOMEBODY}";
vacation :handle "{unique}" :from "Bob <{other}>" :subject "vacation {unique}" "x";
"""
    with server.managesieve(user) as sieve:
        sieve.put("test", script)
        forged = server.deliver([user], From=f"CEO <{other}>")
        found = arrived(sink, forged, f"vacation {unique}")
        sieve.put("test", "keep;")
    assert {envelope.mail_from for envelope in found} == {user}
    assert [signed_by(server.lab, envelope.content) for envelope in found] == [*(set(), {domain})]
    assert plainly_from(found[0].content, other)
    assert plainly_from(found[1].content, user)
    with server.managesieve(user) as sieve, pytest.raises(AssertionError, match="NO"):
        sieve.put("test", 'require ["enotify"];\n')


def test_mail_that_nobody_could_deliver_does_not_go_round(lab, server, user):
    """A domain whose MX is this machine, but which its pillar does not know (any more)."""
    host, domain = server.machine.fqdn, "round.example"
    lab.dns.serve(domain, HEAD + f"@ MX 10 {host}.\n")
    subject = server.submit(user, [f"somebody@{domain}"])

    def bounces():
        found = server.fetch(user, "Delivery status notification: failed")
        return [bounce for bounce in found if subject.encode() in bounce]

    (bounce,) = until(bounces, 60, "no bounce comes")
    assert b"550 Invalid recipient" in bounce
    assert bounce.count(b"Received:") < 6


def test_no_connection_is_made_to_an_address_literal(server, user):
    with server.submission() as smtp:
        smtp.login(user, server.accounts[user])
        smtp.mail(user)
        assert smtp.rcpt("x@[10.0.0.5]")[0] == 550


def test_a_read_receipt_is_sent(server, sink, user):
    """It has no sender (RFC 8098), and `senders` takes none but the account's: "530 …"."""
    with server.submission(465) as smtp:
        smtp.login(user, server.accounts[user])
        unique = str(uuid.uuid4())
        smtp.sendmail("", [SOMEBODY], f"From: {user}\r\nSubject: {unique}\r\n\r\nread\r\n")
    (envelope,) = arrived(sink, unique)
    assert envelope.mail_from == user
    assert signed_by(server.lab, envelope.content) == {user.partition("@")[2]}


def test_thirty_megabytes_pass_while_others_send(server, sink, user):
    """It streams: memory is bounded, and nobody waits for the large one."""
    line = b"0123456789abcdef" * 4 + b"\r\n"
    unique = str(uuid.uuid4())
    big = f"From: {user}\r\nSubject: {unique}\r\n\r\n".encode() + line * (30 * 2**20 // len(line))
    with server.submission(465) as smtp:
        smtp.login(user, server.accounts[user])
        thread = threading.Thread(target=smtp.sendmail, args=(user, [SOMEBODY], big))
        thread.start()
        small = server.submit(user, [SOMEBODY], port=465)
        thread.join()
    large, _ = arrived(sink, unique, small)
    assert large.content.endswith(line * 1000)
    assert signed_by(server.lab, large.content) == {user.partition("@")[2]}
    peak = server.machine.run(f"grep VmHWM /proc/$({GUARD})/status").stdout.split()[1]
    assert int(peak) < 120_000, "kB"
