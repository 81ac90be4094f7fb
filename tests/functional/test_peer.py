"""mailcheck.peer against what is hostile or dead: it ends, and says so in one line of ASCII."""

import contextlib
import datetime
import socket
import ssl
import threading
import time

import _mailsrv_peer as peers
import certificate
import pytest
from _mailsrv import peer, records
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from salt.exceptions import SaltInvocationError

from authority import Authority, key_pem, new_key

# Old versions of TLS are what is looked for.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")


def self_signed(host, key):
    """As mailsrv.tls makes it: PEM text."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def serve():
    """Serve a port by a function of the connection."""
    stop = threading.Event()

    def start(handle, tls="STARTTLS", protocol="SMTP"):
        listener = socket.create_server(("127.0.0.1", 0))

        def work():
            while not stop.is_set():
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection):
            with connection, contextlib.suppress(OSError):
                handle(connection, stop)

        threading.Thread(target=work, daemon=True).start()
        opened.append(listener)
        return records.Port(listener.getsockname()[1], protocol, tls, "x", None)

    opened = []
    yield start
    stop.set()
    for listener in opened:
        listener.close()


def drip(connection, stop):
    while not stop.wait(0.2):
        connection.sendall(b"2")


def flood(connection, stop):
    connection.sendall(b"220 mx ESMTP\r\n")
    while not stop.is_set():
        connection.sendall(b"250-" + b"x" * 4000 + b"\r\n")


def binary(connection, stop):
    connection.sendall(b"\x1b[2J\x00\xff\r\n" * 10)
    stop.wait(5)


def no_tls(connection, stop):
    connection.sendall(b"220 mx ESMTP\r\n")
    for _ in range(2):
        connection.recv(99)
        connection.sendall(b"250 mx\r\n" if not _ else b"220 go\r\n")
    connection.recv(999)
    connection.sendall(b"garbage" * 99)


def mute(connection, stop):
    stop.wait(9)


def gone(connection, stop):
    pass


@pytest.mark.parametrize("handle", [drip, flood, binary, no_tls, mute, gone])
@pytest.mark.parametrize("tls", ["STARTTLS", "TLS"])
def test_whatever_answers_there_it_ends_and_is_one_line(serve, monkeypatch, handle, tls):
    monkeypatch.setattr(peers, "TALK", 3)
    begin = time.monotonic()
    shown = peers.seen(serve(handle, tls), "127.0.0.1", "mx.example.com")
    assert time.monotonic() - begin < 5
    said = peer.port(shown, "SMTP", "mx.example.com")
    assert said.startswith("FAULT: ")
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 250


@pytest.mark.parametrize("host", ["", "x", "$(id).example", "a.example\r\nQUIT", "-x.example", 7])
def test_what_is_no_host_name_is_not_asked(host):
    with pytest.raises(SaltInvocationError):
        peers.look(host, None, {}, {})


def test_a_closed_port_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    port = records.Port(number, "SMTP", "STARTTLS", "smtp", None)
    assert peers.seen(port, "127.0.0.1", "mx.example.com").closed == "refused"
    closed = peer.Seen(25, closed="silent")
    assert "provider" in peer.port(closed, "SMTP", "mx")
    closed = closed._replace(outward=False)
    assert peer.port(closed, "SMTP", "mx").startswith("skipped: this machine reaches")


def test_old_tls_is_told(serve, tmp_path):
    """As a server shows it whose openssl.cnf allows it."""
    pem, key = Authority().pems("mx.example.com")
    (tmp_path / "pem").write_text(pem + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1

    def greet(connection, stop):
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.sendall(b"220 mx.example.com ESMTP\r\n")
            while secured.recv(99):
                secured.sendall(b"250-mx.example.com\r\n250 AUTH PLAIN\r\n")

    shown = peers.seen(serve(greet, "TLS"), "127.0.0.1", "mx.example.com")
    said = peer.port(shown, "SMTP", "mx.example.com")
    assert said.startswith("FAULT: takes TLSv1.1, which is broken (RFC 8996); run the highstate")
    assert shown.distrust == "unable to get local issuer certificate"


def test_another_certificate_than_in_the_mine_is_told(serve, tmp_path, monkeypatch):
    """A real TLS server, and what a minion of that name has published."""
    host, pems = "mx.example.com", {}
    for which in ("mined", "other"):
        key = new_key()
        pems[which] = self_signed(host, key)
        (tmp_path / which).write_text(pems[which] + key_pem(key))

    def greets(which):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / which)

        def greet(connection, stop):
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(b"220 mx.example.com ESMTP\r\n")
                while secured.recv(99) != b"QUIT\r\n":
                    secured.sendall(b"250-mx.example.com\r\n250 AUTH PLAIN\r\n")

        return greet

    def look(which):
        monkeypatch.setattr(peers.records, "PORTS", (serve(greets(which), "TLS"),))
        return peers.look(host, None, functions, {})["certificate"]

    zone = {(host, "A"): ["127.0.0.1"]}
    monkeypatch.setattr(peers.resolve, "known", lambda *asked: zone.get(asked, []))
    mine = {"mailsrv.certificate": {host: pems["mined"], "web1": 7}, "mailsrv.dns": {}}
    functions = {"mine.get": lambda _, name: mine[name], "certificate.look": certificate.look}
    assert look("mined").startswith("ok: self-signed, that of the mine, until ")
    assert look("other").startswith("FAULT: serves another certificate (SHA-256 ")
    assert f"than {host} has put into the mine: run the highstate there" in look("other")


def test_all_of_it_has_one_end(monkeypatch):
    """A host whose DNS servers never answer, and whose mine does not, either."""
    monkeypatch.setattr(peers, "LIMIT", 3)
    monkeypatch.setattr(
        peers.resolve,
        "known",
        lambda name, kind: (
            {"A": ["127.0.0.9"]}.get(kind, []) if name == "mx.example.com" else time.sleep(60)
        ),
    )
    monkeypatch.setattr(peers, "seen", lambda *asked: time.sleep(60))
    begin = time.monotonic()
    found = peers.look("mx.example.com", None, {"mine.get": dict, "certificate.look": dict}, {})
    assert time.monotonic() - begin < 5
    assert found["port 25 of 127.0.0.9"] == "FAULT: comes to no end; see the load there"
    assert found["reverse of 127.0.0.9"].startswith("FAULT: did not come to an end; see the load")


@pytest.mark.parametrize("to", ["a b@a.example", "a@a.example\r\nRCPT", "", "a@", "<x>"])
def test_what_is_no_address_gets_no_message(to):
    with pytest.raises(SaltInvocationError, match="is not an address"):
        peers.look("mx.example.com", to, {}, {})


def test_an_address_is_of_one_machine():
    with pytest.raises(SaltInvocationError, match="name its host, or write to=postmaster"):
        peers.look(None, "postmaster@example.com", {}, {})
