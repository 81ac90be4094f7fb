"""Let's Encrypt's own test CA, pebble, on a host of the lab."""

import json
import ssl
import urllib.request
from contextlib import contextmanager

import wire
from authority import Authority, cert_pem, key_pem
from image import within
from lab import HEAD
from wire import DISKS, GATEWAY, inside, sh, until

NAME = "acme.ca.example"
DIRECTORY = f"https://{NAME}:14000/dir"
EAB = {"kid": "kid-1", "hmac": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}


class Pebble:
    """The CA. It forgets accounts and its root when it ends; it asks the lab's resolver."""

    def __init__(self, lab):
        self._host, self._lab = lab.host(NAME), lab
        lab.dns.serve("ca.example", HEAD + f"acme A {self._host.address}\n")
        self._directory = DISKS / "pebble"
        self._directory.mkdir()
        authority = Authority()
        leaf, key = authority.issue(NAME)
        self._write("cert.pem", cert_pem(leaf, authority.intermediate))
        self._write("key.pem", key_pem(key))
        #: What it is known by on its HTTPS.
        self.https = cert_pem(authority.root)
        self._log = self._directory / "log"

    def brought(self, machine):
        """That machine brings the program, from its Debian."""
        if not (self._directory / "pebble").exists():
            install = "apt-get update && apt-get install -y --no-install-recommends pebble"
            machine.run(f"which pebble || {{ {install}; }}")
            sh(f"cp {machine.root}/usr/bin/pebble {self._directory}/pebble")
        return self

    def _write(self, name, text):
        (self._directory / name).write_text(text)

    @contextmanager
    def running(self, eab=False, life=None, **environment):
        """While it answers; `life` is a certificate's in seconds, the rest pebble's settings."""
        here = self._directory
        settings = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": f"{here}/cert.pem",
            "privateKey": f"{here}/key.pem",
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab,
            "externalAccountMACKeys": {EAB["kid"]: EAB["hmac"]},
        }
        if life:
            settings["certificateValidityPeriod"] = life
        self._write("config.json", json.dumps({"pebble": settings}))
        names = {"PEBBLE_VA_NOSLEEP": 1, "PEBBLE_WFE_NONCEREJECT": 0} | environment
        variables = [f"{name}={value}" for name, value in names.items()]
        command = (
            f"{here}/pebble",
            "-config",
            f"{here}/config.json",
            "-dnsserver",
            f"{GATEWAY}:53",
        )
        argv = ("env", *variables, *within("trixie", here), *command)
        with inside(self._host.network):
            process = wire.start("pebble", argv, self._log)
        try:

            def answers():
                if process.poll() is not None:
                    raise RuntimeError(f"pebble does not start:\n{self.log()[-2000:]}")
                try:
                    return self._ask("roots/0")
                except OSError:
                    return None

            #: The root of what it issues.
            self.root = until(answers, 20, "pebble does not answer")
            yield self
        finally:
            wire.end("pebble")

    def log(self):
        """What it said so far."""
        return self._log.read_text(errors="replace")

    def _ask(self, path):
        context = ssl.create_default_context(cadata=self.https)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        url = f"https://{NAME}:15000/{path}"
        return self._lab.outside.call(
            lambda: urllib.request.urlopen(url, timeout=5, context=context).read().decode()
        )
