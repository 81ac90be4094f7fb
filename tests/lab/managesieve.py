"""The little of ManageSieve (RFC 5804) that the tests need, with Python's library alone."""

import base64
import re


class ManageSieve:
    """
    A session, logged in under TLS, over a connection that it closes at its end. What the server
    refuses is an AssertionError with its answer, where the request is not shown.
    """

    def __init__(self, connection, tls, address, password):
        self._wire = connection.makefile("rwb")
        #: What it offers before TLS.
        self.greeting = self._answer()
        self._ask("STARTTLS")
        self.secured = tls.wrap_socket(connection)
        self._wire = self.secured.makefile("rwb")
        self._answer()
        secret = base64.b64encode(f"\0{address}\0{password}".encode()).decode()
        self._ask(f'AUTHENTICATE "PLAIN" "{secret}"')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._wire.close()

    def put(self, name, script):
        """Store the script and make it the active one."""
        self._ask(f'PUTSCRIPT "{name}" {{{len(script)}+}}\r\n{script}')
        self.use(name)

    def use(self, name):
        """Make that script the active one; with an empty name, none is."""
        self._ask(f'SETACTIVE "{name}"')

    def active(self):
        """The name of the active script; None where none is."""
        found = re.search(r'^"(.*)" ACTIVE\r$', self._ask("LISTSCRIPTS"), re.MULTILINE)
        return found and found[1]

    def remove(self, name):
        """Remove a script that is not the active one."""
        self._ask(f'DELETESCRIPT "{name}"')

    def _ask(self, command):
        self._wire.write(f"{command}\r\n".encode())
        self._wire.flush()
        return self._answer()

    def _answer(self):
        lines = []
        while not (lines and lines[-1].startswith(("OK", "NO", "BYE"))):
            lines.append(self._wire.readline().decode())
            assert lines[-1], "the connection was closed"
        if literal := re.search(r"\{(\d+)\}\r\n$", lines[-1]):
            lines[-1] += self._wire.read(int(literal[1]) + 2).decode()
        assert lines[-1].startswith("OK"), lines
        return "".join(lines)
