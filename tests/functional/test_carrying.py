"""What carries mailboxes between two machines, both ends, and strangers at its door."""

import os
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "salt_mailsrv/_modules/_mailsrv_carrying.py"
ANN = "ann@example.org"
# For doveadm(1): what it is asked, and then all that it is told.
DOVEADM = """#!/bin/sh
echo "$@"
exec cat
"""


def make(directory):
    """The key of one end."""
    directory.mkdir()
    key, cert = directory / "key.pem", directory / "cert.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    command = ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Ends:
    def __init__(self, tmp_path):
        self.there, self.here, self.stranger = (make(tmp_path / n) for n in ("a", "b", "c"))
        for one, other in (self.there, self.here), (self.here, self.there):
            (one / "peer.pem").write_bytes((other / "cert.pem").read_bytes())
        (self.stranger / "peer.pem").write_bytes((self.there / "cert.pem").read_bytes())
        (self.there / "users").write_text(f"{ANN}\n")
        doveadm = tmp_path / "doveadm"
        doveadm.write_text(DOVEADM)
        doveadm.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.serving = self.run("serve", self.there, str(self.port), str(doveadm))
        until(self.listens)

    def run(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-I", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def listens(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True

    def bring(self, name, directory=None):
        """The first line that comes of it; nothing where the other end has hung up."""
        client = self.run("bring", directory or self.here, "127.0.0.1", str(self.port), name)
        line = client.stdout.readline()
        client.communicate(timeout=60)
        return line


@pytest.fixture
def ends(tmp_path):
    ends = Ends(tmp_path)
    yield ends
    ends.serving.kill()
    ends.serving.communicate()


def test_a_mailbox_is_handed_out_byte_for_byte_to_who_was_named(ends):
    data = os.urandom(3 << 20)
    client = ends.run("bring", ends.here, "127.0.0.1", str(ends.port), ANN)
    said = client.stdout.readline()
    assert said == f"dsync-server -u {ANN}\n".encode()
    # As doveadm(1) does: both ways at a time.
    writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=client.stdin)
    client.stdin.close()
    writer.stdin.write(data[:1000])
    writer.stdin.flush()
    assert client.stdout.read(1000) == data[:1000]
    writer.kill()
    writer.communicate()
    client.wait(60)


def test_nobody_else_gets_anything(ends):
    assert ends.bring(ANN) == f"dsync-server -u {ANN}\n".encode()
    for name in "bob@example.org", f"{ANN} -v", "*", "":
        assert ends.bring(name) == b""
    assert ends.bring(ANN, directory=ends.stranger) == b""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for asked in f"mailbox {ANN}\n".encode(), b"end\n":
        heard = b""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", ends.port), 30) as plain,
            context.wrap_socket(plain) as stranger,
        ):
            stranger.sendall(asked)
            heard = stranger.recv(100)
        assert heard == b""
    assert ends.serving.poll() is None


def test_garbage_is_nothing_to_it(ends):
    for garbage in b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(70000), b"\x16\x03\x01\xff\xff":
        with socket.create_connection(("127.0.0.1", ends.port), 30) as stranger:
            with suppress(OSError):
                stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while stranger.recv(1000):
                    pass
    silent = [socket.create_connection(("127.0.0.1", ends.port), 30) for _ in range(50)]
    assert ends.bring(ANN).startswith(b"dsync-server")
    for stranger in silent:
        stranger.close()


def test_it_ends_when_it_is_told_and_with_who_started_it(ends, tmp_path):
    ran = ends.run("end", ends.here, "127.0.0.1", str(ends.port))
    assert ran.communicate(timeout=60)[1] == b""
    assert ends.serving.wait(60) == 0
    doveadm = str(tmp_path / "doveadm")
    line = '"$@" & echo $!; sleep 1; kill -9 $$'
    command = [sys.executable, "-I", PROGRAM, "serve", ends.there, str(ends.port), doveadm]
    parent = subprocess.Popen(["sh", "-c", line, "sh", *command], stdout=subprocess.PIPE)
    number = int(parent.stdout.readline())
    parent.wait()

    def gone():
        with suppress(OSError):
            return "carrying" not in Path(f"/proc/{number}/cmdline").read_text()
        return True

    until(gone)
    parent.stdout.close()
