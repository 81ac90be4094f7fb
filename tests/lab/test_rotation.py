"""A DKIM key's whole life, with mail on its way and a name server that lags behind the other."""

import smtplib
import threading
from contextlib import suppress

import pytest

from lab import NS
from server import CHECKOUT, arrived, parsed, signatures
from wire import until

pytestmark = pytest.mark.lab

USERS = ["ann@one.example", "eva@uno.example"]
SOMEBODY = "somebody@elsewhere.example"
LAGS = f"ns2.provider.example ({NS['ns2']}) still lacks it"


class Rotation:
    """A server whose zones stand on two name servers, and the mail that its users sent so far."""

    def __init__(self, server, name_servers, sink):
        self.server = server
        self.name_servers = [server.lab.dns, *name_servers]
        self.sink = sink
        self.sent = []

    def configure(self, **dkim):
        dns = {"nameservers": [f"{name}.provider.example" for name in NS]}
        settings = {"dns": dns, "dkim": {"ed25519": True, **dkim}}
        self.server.write_pillar({**self.server.pillar, "mailsrv": settings})

    def publish(self, *name_servers, domains=("one.example", "uno.example")):
        """Serve the zones that the server prints now."""
        for domain in domains:
            zone = self.server.salt("mailsrv.zone", domain)
            for name_server in name_servers or self.name_servers:
                name_server.serve(domain, zone)

    def run(self, *arguments, **dkim):
        """Run the highstate while users send mail; the selectors that began to sign, the rest."""
        self.configure(**dkim)
        done = threading.Event()

        def send():
            while not done.is_set():
                with suppress(OSError, smtplib.SMTPException):  # smtpd restarts; we try again
                    self.sent += [self.server.submit(user, [SOMEBODY]) for user in USERS]
                done.wait(0.5)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            states = self.server.highstate(*arguments).values()
        finally:
            done.set()
            sender.join()
        changes = [state["changes"] for state in states]
        began = {change["signing"]["new"] for change in changes if "signing" in change}
        return began, [change for change in changes if "signing" not in change]

    def signs(self, selectors, user=USERS[1]):
        """
        Whether a message of that user that leaves now has the signatures of those selectors.

        Guard and the signers take a moment to begin with a new key. All mail so far is verified by
        the records of each of the provider's servers, whatever signed it.
        """
        until(lambda: self.signatures(user) == selectors, 30, f"{selectors} do not sign")
        for envelope in arrived(self.sink, *self.sent):
            domain = envelope.mail_from.partition("@")[2]
            made = parsed(envelope.content).get_all("DKIM-Signature")
            for address in NS.values():
                found = signatures(self.server.lab, envelope.content, address)
                assert [name for name, _ in found] == [domain] * len(made)
        return True

    def signatures(self, user):
        """The selectors of the signatures of a message that the user sends now."""
        self.sent.append(self.server.submit(user, [SOMEBODY]))

        def came():
            # What met a signer that was restarting waits for minutes.
            self.server.machine.run("smtpctl schedule all; sleep 1")
            here = {parsed(envelope.content)["Subject"] for envelope in self.sink.messages}
            return here.issuperset(self.sent)

        until(came, 120, "not all mail comes")
        (envelope,) = arrived(self.sink, self.sent[-1])
        made = parsed(envelope.content).get_all("DKIM-Signature")
        tags = [tag.strip() for value in made for tag in value.split(";")]
        return {tag[2:] for tag in tags if tag.startswith("s=")}

    def private_keys(self):
        listed = self.server.machine.run("cd /etc/mail/dkim && ls *.private").stdout
        return {name.removesuffix(".private") for name in listed.split()}


@pytest.fixture
def rotation(one, name_servers, sink):
    rotation = Rotation(one, name_servers, sink)
    rotation.configure(ed25519=False)
    rotation.publish()
    yield rotation
    # As it was: keys that sign from the first run on.
    one.machine.run("rm -r /etc/mail/dkim")
    one.write_pillar(one.pillar)
    one.highstate()
    one.publish()


NEW = "joe@due.example"


def joins(rotation, **dkim):
    """A domain that comes later is signed as the first one until its record is there."""
    server, before = rotation.server, rotation.server.pillar
    server.pillar = {
        **before,
        "domains": [*before["domains"], "due.example"],
        "accounts": [*before["accounts"], [NEW, "joe's pass"]],
    }
    server.accounts[NEW] = "joe's pass"
    try:
        assert rotation.run(**dkim)[0] == set()
        assert signed_as(rotation) == {"one.example"}
        said = server.salt("mailcheck.run")["DKIM signatures"]
        assert said.startswith("WARNING: verified for one.example, uno.example; signed as another ")
        assert "due.example as one.example" in said
        stage = server.salt("mailsrv.rotation")["due.example"]["rsa"]
        assert (stage["signs"], stage["next"]) == ("nothing", dkim["selector"])
        rotation.publish(domains=["due.example"])
        rotation.run(**dkim)
        until(lambda: signed_as(rotation) == {"due.example"}, 30, "it is not signed")
        said = server.salt("mailcheck.run")["DKIM signatures"]
        assert said == "ok: verified for one.example, uno.example, due.example"
        assert rotation.run(**dkim) == (set(), [])
    finally:
        server.pillar = before
        del server.accounts[NEW]


def signed_as(rotation):
    """The domains of the signatures of a message that is sent now from the new domain."""
    rotation.signatures(NEW)
    (envelope,) = arrived(rotation.sink, rotation.sent.pop())
    found = signatures(rotation.server.lab, envelope.content, NS["ns1"])
    return {name for name, verified in found if verified}


def pair(selector):
    return {selector, f"{selector}-ed25519"}


def test_a_key_signs_when_every_server_shows_it_and_goes_when_no_mail_needs_it(rotation):
    resolver, first, second = rotation.name_servers
    server = rotation.server

    # A second algorithm begins when its record is there.
    assert rotation.run()[0] == set()
    assert rotation.signs({"mailsrv"})
    rotation.publish()
    assert rotation.run()[0] == {"mailsrv-ed25519"}
    assert rotation.signs(pair("mailsrv"))

    # The next key is made, and waits: first for both servers, then for the one that lags.
    assert rotation.run(selector="next")[0] == set()
    assert rotation.private_keys() == pair("mailsrv") | pair("next")
    rotation.publish(resolver, first)
    assert rotation.run(selector="next") == (set(), [])
    stage = server.salt("mailsrv.rotation")["uno.example"]
    assert stage["rsa"] == {"signs": "mailsrv", "next": "next", "waits for": [LAGS]}
    assert rotation.signs(pair("mailsrv"))

    # Every server shows it: the run in test mode says what the next one does.
    rotation.publish(second)
    assert rotation.run("test=True", selector="next")[0] == pair("next")
    assert rotation.signs(pair("mailsrv"))
    assert rotation.run(selector="next")[0] == pair("next")
    assert rotation.signs(pair("next"))
    assert rotation.run(selector="next") == (set(), [])

    # The old records stay in the zone, and verify, until a week has passed.
    rotation.publish()
    assert rotation.signs(pair("next"))
    assert server.salt("mailcheck.dns") == {"one.example": "ok", "uno.example": "ok"}
    server.machine.run("sed -i -E 's/: [0-9]+/: 0/' /etc/mail/dkim/*.signing")
    rotation.run(selector="next")
    assert rotation.private_keys() == pair("next")
    for domain, left in server.salt("mailcheck.dns").items():
        assert {(found["name"], found["fault"]) for found in left} == {
            (f"{selector}._domainkey.{domain}", "superfluous") for selector in pair("mailsrv")
        }
    rotation.sent.clear()  # a week old
    rotation.publish()
    assert rotation.signs(pair("next"))


def test_a_key_that_leaked_signs_no_more_and_its_record_says_so(rotation):
    server = rotation.server
    assert rotation.run(ed25519=False)[0] == set()
    leaked = {"ed25519": False, "selector": "fresh", "revoked": ["mailsrv"]}
    assert rotation.run(**leaked)[0] == {"fresh"}
    assert '"v=DKIM1; p="' in server.salt("mailsrv.zone", "one.example")
    rotation.publish()
    rotation.sent.clear()  # what was signed with it is worth nothing any more
    assert rotation.signs({"fresh"})
    rotation.run(**leaked)
    assert rotation.private_keys() == {"fresh"}
    assert rotation.run(**leaked) == (set(), [])
    joins(rotation, **leaked)


def test_where_each_domain_has_a_key_of_its_own_it_rotates_alone(rotation):
    server = rotation.server
    archive = server.machine.run(
        f"apt-get install -y python3-dkim >&2 && cd {CHECKOUT}/tests/dkimproxy"
        " && python3 archive.py /srv/dkimproxy.tar.gz"
    )
    archive = {"source": "/srv/dkimproxy.tar.gz", "source_hash": f"sha256={archive.stdout.strip()}"}
    dkim = {"ed25519": False, "signer": "dkimproxy", "archive": archive}
    ann, eva = USERS
    rotation.run(**dkim)
    assert rotation.signs({"mailsrv"}, ann)
    assert rotation.signs({"mailsrv"}, eva)
    rotation.run(**dkim, selector="next")
    rotation.publish(domains=["one.example"])
    assert rotation.run(**dkim, selector="next")[0] == {"next"}
    assert rotation.signs({"next"}, ann)
    assert rotation.signs({"mailsrv"}, eva)
    assert rotation.run(**dkim, selector="next") == (set(), [])
    rotation.publish()
    assert rotation.run(**dkim, selector="next")[0] == {"next"}
    assert rotation.signs({"next"}, eva)
    joins(rotation, **dkim, selector="next")
