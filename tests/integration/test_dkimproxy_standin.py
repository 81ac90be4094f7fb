"""The stand-in for dkimproxy.out does what the real one was measured to do."""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dkim
import pytest
from aiosmtpd.controller import Controller
from Crypto.PublicKey import RSA

STANDIN = Path(__file__).parents[1] / "dkimproxy"
SIGN = "dkim(c=relaxed/simple, a=rsa-sha256,s=mailsrv,key={key})"
MESSAGE = b"From: a@example.com\r\nTo: b@there.example\r\nSubject: x\r\n\r\nhello\r\n"


class NextHop:
    def __init__(self):
        self.messages = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return f"550 5.1.1 {address}: nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(envelope.content)
        return "250 2.0.0 queued as 42"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@pytest.fixture(scope="module")
def keys():
    return [RSA.generate(2048) for _ in range(2)]


@pytest.fixture
def key_path(tmp_path, keys):
    path = tmp_path / "private"
    path.write_bytes(keys[0].export_key())
    return path


@pytest.fixture
def next_hop():
    handler = NextHop()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    handler.port = controller.port
    yield handler
    controller.stop()


class Proxy:
    """One stand-in: its files in a directory, its process, a client."""

    def __init__(self, directory, relay_port):
        self.conf = directory / "dkimproxy_out.conf"
        self.map = directory / "sender_map"
        self.port = free_port()
        self.relay_port = relay_port

    def configure(self, sender_map, *lines):
        self.map.write_text(sender_map)
        listen = f"listen    127.0.0.1:{self.port}"
        relay = f"relay     127.0.0.1:{self.relay_port}"
        self.conf.write_text("\n".join((listen, relay, f"sender_map {self.map}", *lines, "")))

    def start(self, *options):
        command = (sys.executable, STANDIN / "dkimproxy.out", f"--conf_file={self.conf}", *options)
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: listens(self.port) or self.process.poll())
        return self

    def run(self, sender_map, *lines, options=()):
        self.configure(sender_map, *lines)
        return self.start(*options)

    def send(self, message=MESSAGE, recipient="b@there.example"):
        with smtplib.SMTP("127.0.0.1", self.port, timeout=10) as client:
            client.sendmail("a@example.com", [recipient], message)

    def fault(self):
        """What the program said when it refused to start."""
        assert self.process.wait(10) != 0
        return self.process.stderr.read()


@pytest.fixture
def proxy(tmp_path, next_hop):
    proxy = Proxy(tmp_path, next_hop.port)
    yield proxy
    if getattr(proxy, "process", None):
        proxy.process.terminate()
        proxy.process.communicate(timeout=10)


def verifies(message, key):
    public = key.public_key().export_key(format="PEM").decode().split("-----")[2]
    record = f"v=DKIM1; k=rsa; p={''.join(public.split())}".encode()
    return dkim.verify(message, dnsfunc=lambda name, timeout: record)


def tags(message):
    """The tags of the topmost DKIM-Signature, None without one."""
    if not message.startswith(b"DKIM-Signature:"):
        return None
    field = message.replace(b"\r\n ", b" ").split(b"\r\n")[0].decode().partition(":")[2]
    return {name.strip(): value for name, _, value in (t.partition("=") for t in field.split(";"))}


def test_signs_for_the_domain_of_from(proxy, next_hop, key_path, keys):
    proxy.run(f"example.com {SIGN.format(key=key_path)}\n").send()
    (signed,) = next_hop.messages
    found = tags(signed)
    assert [found[tag] for tag in "ads"] == ["rsa-sha256", "example.com", "mailsrv"]
    assert found["c"] == "relaxed/simple"
    assert found["h"].split(" : ") == ["from", "to", "subject"]
    assert signed.endswith(MESSAGE)
    assert verifies(signed, keys[0])
    assert not verifies(signed, keys[1])
    assert not verifies(signed.replace(b"hello", b"jello"), keys[0])


@pytest.mark.parametrize(
    ("keys_in_map", "headers", "domain"),
    [
        pytest.param(
            "example.com test.com",
            "From: a@example.com\r\nSender: b@test.com",
            "test.com",
            id="Sender: beats From:",
        ),
        pytest.param(
            "example.com", "From: A <a@Mail.EXAMPLE.com>", "example.com", id="parent domain, case"
        ),
        pytest.param(
            "example.com mail.example.com",
            "From: a@mail.example.com",
            "mail.example.com",
            id="the longer domain first",
        ),
        pytest.param("a@example.com", "From: a@example.com", "example.com", id="full address"),
        pytest.param("example.com", "From: a@test.com", None, id="unknown domain"),
        pytest.param("Example.com", "From: a@Example.com", None, id="uppercase key never matches"),
        pytest.param("*.com", "From: a@example.com", None, id="* is not a wildcard"),
        pytest.param("example.com", "From: a+tag@example.com", None, id="plus loses the domain"),
        pytest.param(
            "a+tag@example.com", "From: a+tag@example.com", "example.com", id="plus written out"
        ),
        pytest.param("example.com", "Subject: from nobody", None, id="no sender"),
        pytest.param(
            "example.com",
            "From: a@test.com\r\nFrom: a@example.com",
            "example.com",
            id="the last From: counts",
        ),
    ],
)
def test_finds_the_signature_by_sender(proxy, next_hop, key_path, keys_in_map, headers, domain):
    entries = [f"{key} {SIGN.format(key=key_path)}" for key in keys_in_map.split()]
    message = f"{headers}\r\nTo: b@there.example\r\n\r\nhello\r\n".encode()
    proxy.run("\n".join(entries), options=["--reject-error"]).send(message)
    (received,) = next_hop.messages
    assert (tags(received) or {}).get("d") == domain
    assert received == message if domain is None else received.endswith(message)


def test_the_catch_all_signs_for_its_own_domain(proxy, next_hop, key_path):
    signature = f"dkim(a=rsa-sha256,d=test.com,s=mailsrv,key={key_path})"
    proxy.run(f"; a comment\n# another\nnovalue\n. {signature}\n").send()
    found = tags(next_hop.messages[0])
    assert found["d"] == "test.com"
    assert found["c"] == "relaxed/simple"


def test_two_signatures(proxy, next_hop, key_path, keys):
    sign = SIGN.format(key=key_path)
    proxy.run(f"example.com {sign}, {sign.replace('s=mailsrv', 's=other')}").send()
    first = next_hop.messages[0]
    second = first[first.index(b"DKIM-Signature:", 1) :]
    assert [tags(first)["s"], tags(second)["s"]] == ["mailsrv", "other"]
    assert verifies(first, keys[0])
    assert verifies(second, keys[0])


def test_missing_key_is_a_temporary_failure_with_reject_error(proxy, next_hop, key_path):
    key_path.unlink()
    proxy.run(f"example.com {SIGN.format(key=key_path)}", options=["--reject-error"])
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=10) as client:
        client.ehlo()
        client.mail("a@example.com")
        client.rcpt("b@there.example")
        code, reply = client.data(MESSAGE)
        assert code == 450
        assert reply.startswith(b"DKIM - temperror")
        assert client.sock.recv(1) == b""
    assert next_hop.messages == []


@pytest.mark.parametrize("line", ["", "reject_error 0", "reject_error 1"])
def test_missing_key_lets_mail_pass_whatever_the_file_says(proxy, next_hop, key_path, line):
    key_path.unlink()
    proxy.run(f"example.com {SIGN.format(key=key_path)}", line).send()
    assert next_hop.messages == [MESSAGE]


def test_a_new_key_needs_no_restart_a_new_map_does(proxy, next_hop, key_path, keys):
    proxy.run(f"example.com {SIGN.format(key=key_path)}")
    key_path.write_bytes(keys[1].export_key(pkcs=8))
    proxy.map.write_text("")
    proxy.send()
    assert verifies(next_hop.messages[0], keys[1])


def test_the_message_stays_as_it_is(proxy, next_hop, key_path, keys):
    message = MESSAGE + b".\r\n..\r\n.dot\r\n\t \r\n\xff\xfe" + b"x" * 900 + b"\r\n\r\n\r\n"
    proxy.run(f"example.com {SIGN.format(key=key_path)}").send(message)
    assert next_hop.messages[0].endswith(message)
    assert verifies(next_hop.messages[0], keys[0])


def test_replies_are_those_of_the_next_hop(proxy, next_hop, key_path):
    proxy.run(f"example.com {SIGN.format(key=key_path)}")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        proxy.send(recipient="nobody@There.example")
    (reply,) = refused.value.recipients.values()
    assert reply == (550, b"5.1.1 nobody@There.example: nobody of that name")
    with smtplib.SMTP("127.0.0.1", proxy.port, timeout=10) as client:
        client.ehlo("me.example")
        client.mail("a@example.com")
        client.rcpt("b@there.example")
        assert client.data(MESSAGE) == (250, b"2.0.0 queued as 42")
        with smtplib.SMTP("127.0.0.1", next_hop.port, timeout=10) as direct:
            assert client.ehlo("me.example") == direct.ehlo("me.example")
            assert client.docmd("HELP") == direct.docmd("HELP")


def test_says_421_when_the_next_hop_is_down(proxy, key_path):
    proxy.relay_port = free_port()
    proxy.run(f"example.com {SIGN.format(key=key_path)}")
    with pytest.raises(smtplib.SMTPConnectError, match="Next hop is down") as refused:
        proxy.send()
    assert refused.value.smtp_code == 421


def test_reads_every_form_of_the_configuration_file(proxy, next_hop, key_path):
    proxy.configure(f"example.com {SIGN.format(key=key_path)}")
    text = "# sample\n\n" + proxy.conf.read_text() + "no_such_option 1\nlisten_twice\n"
    proxy.conf.write_text(text.replace("relay ", "  relay = ").replace("map ", "map: "))
    proxy.start().send()
    assert tags(next_hop.messages[0])


@pytest.mark.parametrize(
    ("entry", "line", "fault"),
    [
        ("example.com dkim(s=mailsrv,key=/k)", "", "rsa-sha1"),
        ("example.com dkim(a=rsa-sha1,s=mailsrv,key=/k)", "", "rsa-sha1"),
        ("example.com dkim(a=rsa-sha256,key=/k)", "", "key= and s="),
        ("example.com dkim(a=rsa-sha256,s=mailsrv,key=/k", "", "not a list"),
        ("", "sender_map /no/such/map", "file not found"),
        ("", "listen 127.0.0.1:1 # blanks before a comment are part of the value", "listen"),
        ("", "sender_map /no/map%2e", "/no/map\x02e: file not found"),
        ("", "relay 127.0.0.1", "relay"),
        ("", "min_servers 20", "min_spare"),
        ("", "max_servers 3", "max_spare"),
        ("", "min_servers 1\nmax_servers 4", "max_spare"),
        ("", "max_servers 10\nmax_spare_servers 10", "max_spare"),
        ("", "min_servers 10\nmin_spare_servers 11\nmax_spare_servers 12", "min_spare"),
    ],
)
def test_refuses_to_start(proxy, entry, line, fault):
    assert fault in proxy.run(entry, line).fault()


@pytest.mark.parametrize(
    "numbers", ["", "max_servers 8", "min_servers 10\nmax_servers 40\nmin_spare_servers 5"]
)
def test_accepts_numbers_of_servers_that_fit(proxy, next_hop, key_path, numbers):
    proxy.run(f"example.com {SIGN.format(key=key_path)}", numbers).send()
    assert tags(next_hop.messages[0])


def test_daemonizes_and_leaves_with_its_pidfile(proxy, next_hop, tmp_path, key_path):
    pidfile = tmp_path / "pid"
    proxy.configure(f"example.com {SIGN.format(key=key_path)}", "pidfile /no/such/directory/pid")
    proxy.start("--daemonize", f"--pidfile={pidfile}")
    assert proxy.process.wait(10) == 0
    wait_for(lambda: listens(proxy.port))
    pid = int(pidfile.read_text())
    try:
        proxy.send()
        assert "already exists" in proxy.start(f"--pidfile={pidfile}").fault()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not listens(proxy.port))
    wait_for(lambda: not pidfile.exists())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_reads_keys_as_the_user_it_becomes(proxy, next_hop, keys):
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        key = Path(directory, "private")
        key.write_bytes(keys[0].export_key())
        key.chmod(0o440)
        os.chown(key, 0, nobody.pw_gid)
        proxy.configure(f"example.com {SIGN.format(key=key)}")
        proxy.conf.chmod(0o600)
        group = grp.getgrgid(nobody.pw_gid).gr_name
        proxy.start("--reject-error", "--user=nobody", f"--group={group}").send()
        assert verifies(next_hop.messages[0], keys[0])
        os.chown(key, 0, 0)
        with pytest.raises(smtplib.SMTPDataError, match="Permission denied"):
            proxy.send()


@pytest.mark.skipif(not shutil.which("perl"), reason="perl hands the program to its interpreter")
def test_runs_from_the_archive_as_the_real_one_would(proxy, next_hop, tmp_path, key_path):
    archive = tmp_path / "dkimproxy-1.4.1.tar.gz"
    pack = (sys.executable, STANDIN / "archive.py", archive)
    sums = {subprocess.run(pack, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(sums) == 1
    subprocess.run(("tar", "-xf", archive, "-C", tmp_path), check=True)
    top = tmp_path / "dkimproxy-1.4.1"
    proxy.configure(f"example.com {SIGN.format(key=key_path)}")
    proxy.process = subprocess.Popen(
        ("perl", top / "scripts/dkimproxy.out", f"--conf_file={proxy.conf}"),
        env={"PERL5LIB": str(top / "lib"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: listens(proxy.port) or proxy.process.poll())
    proxy.send()
    assert tags(next_hop.messages[0])
