"""
What carries a mailbox from one machine to another: a program for both ends, of the standard library
alone. Each end has a key that it made for this hour, and knows the certificate of the other's; who
shows another one learns nothing, and gets nothing.

    serve DIRECTORY PORT DOVEADM     hand out the mailboxes whose names stand in DIRECTORY/users
    bring DIRECTORY HOST PORT NAME   be what doveadm(1) here speaks to by stdin and stdout
    end DIRECTORY HOST PORT          the one who serves need not any longer

In DIRECTORY, root's alone, are ``key.pem`` and ``cert.pem``, this end's, and ``peer.pem``.
"""

import asyncio
import contextlib
import os
import ssl
import sys

PATIENCE = 120  # seconds for which nobody has to come
HANDSHAKE = 10
MOST = 20  # connections at a time
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: clocks differ, and the certificate is pinned


def context(directory, protocol):
    """TLS where each end has to show the certificate that the other one was told."""
    made = ssl.SSLContext(protocol)
    made.check_hostname = False  # it is that one certificate, whatever name it is under
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= NO_CHECK_TIME
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
    made.load_verify_locations(f"{directory}/peer.pem")
    return made


async def copy(reader, writer):
    """All that comes, to the other side, and no faster than that takes it."""
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class Serving:
    """The end that has the mailboxes."""

    def __init__(self, directory, doveadm):
        self._doveadm, self._busy, self._last = doveadm, 0, 0.0
        self._ended = asyncio.Event()
        with open(f"{directory}/users", encoding="ascii") as file:
            self._users = frozenset(file.read().split())

    async def run(self, directory, port):
        tls = context(directory, ssl.PROTOCOL_TLS_SERVER)
        clock, parent = asyncio.get_running_loop().time, os.getppid()
        self._last = clock()
        server = await asyncio.start_server(
            self._one, None, port, ssl=tls, ssl_handshake_timeout=HANDSHAKE, backlog=MOST
        )
        async with server:
            while not self._ended.is_set() and os.getppid() == parent:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), 1)
                if self._busy:
                    self._last = clock()
                elif clock() - self._last > PATIENCE:
                    sys.exit(f"nobody came for {PATIENCE} seconds")

    async def _one(self, reader, writer):
        self._busy += 1
        try:
            with contextlib.suppress(OSError, ssl.SSLError, ValueError, asyncio.TimeoutError):
                asked = await asyncio.wait_for(reader.readline(), HANDSHAKE)
                word, _, name = asked.decode("ascii", "replace").rstrip("\n").partition(" ")
                if word == "end":
                    self._ended.set()
                elif word == "mailbox" and name in self._users and self._busy <= MOST:
                    await self._hand_out(name, reader, writer)
        finally:
            self._busy -= 1
            writer.close()

    async def _hand_out(self, name, reader, writer):
        pipe = asyncio.subprocess.PIPE
        program = await asyncio.create_subprocess_exec(
            self._doveadm, "dsync-server", "-u", name, stdin=pipe, stdout=pipe
        )
        ways = [
            asyncio.create_task(copy(reader, program.stdin)),
            asyncio.create_task(copy(program.stdout, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            program.stdin.close()
            await asyncio.wait([ways[1]], timeout=HANDSHAKE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.wait()
            for way in ways:
                way.cancel()


async def bring(directory, host, port, name):
    """Be between doveadm(1) here and the one there."""
    reader, writer = await _connected(directory, host, port)
    loop = asyncio.get_running_loop()
    here = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(here), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, sys.stdout.buffer
    )
    out = asyncio.StreamWriter(transport, protocol, None, loop)
    writer.write(f"mailbox {name}\n".encode())
    ways = [asyncio.create_task(copy(here, writer)), asyncio.create_task(copy(reader, out))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    writer.close()


async def end(directory, host, port):
    """Say that it is over."""
    _, writer = await _connected(directory, host, port)
    writer.write(b"end\n")
    await writer.drain()
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def _connected(directory, host, port):
    tls = context(directory, ssl.PROTOCOL_TLS_CLIENT)
    clock = asyncio.get_running_loop().time
    until = clock() + HANDSHAKE
    while True:
        try:
            opened = asyncio.open_connection(
                host, port, ssl=tls, server_hostname="", ssl_handshake_timeout=HANDSHAKE
            )
            return await asyncio.wait_for(opened, HANDSHAKE)
        except ConnectionRefusedError:  # it is about to begin
            if clock() > until:
                raise
            await asyncio.sleep(0.2)


async def _main(word, directory, *more):
    if word == "serve":
        await Serving(directory, more[1]).run(directory, int(more[0]))
    elif word == "bring":
        await bring(directory, more[0], int(more[1]), more[2])
    else:
        await end(directory, more[0], int(more[1]))


if __name__ == "__main__":
    try:
        asyncio.run(_main(*sys.argv[1:]))
    except (OSError, ssl.SSLError, asyncio.TimeoutError) as exc:
        sys.exit(f"{type(exc).__name__}: {exc}"[:500])
