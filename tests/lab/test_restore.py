"""A server is lost; a fresh machine, where other numbers are taken, becomes it from its backup."""

import pytest

from lab import HEAD
from server import CHECKOUT, Server, arrived

pytestmark = pytest.mark.lab

USER = "ann@one.example"
FILTER = 'require "fileinto"; if header :is "X-List" "news" { fileinto "Kept/Filtered"; }'
# As docs/operations.md has it.
BACKUP = (
    "salt-call mailsrv.backup_paths --out=json | python3 -c"
    """ 'import json, sys; print(*json.load(sys.stdin)["local"]["paths"], sep="\\n")'"""
    " | tar -czf /root/backup.tgz -T -"
)


def keys(server):
    """The DKIM records."""
    records = [record for found in server.salt("mailsrv.dns").values() for record in found]
    return [record for record in records if "._domainkey." in record["name"]]


def number(server, user):
    return int(server.machine.run(["id", "-u", user]).stdout)


@pytest.fixture
def lost(one, sink):
    """
    The server with mail, flags, folders, a filter and an address that it forwarded from; and as
    base64 its backup, whose pillar says its name.
    """
    with one.managesieve(USER) as sieve, one.imap(USER) as imap:
        for name in "Kept", "Kept/Filtered":
            imap.create(name)
        kept = [one.deliver([USER], text=f"{n}\n" * 2000) for n in range(3)]
        for subject in kept:
            one.wait(USER, subject)
        imap.select()
        imap.store("1:*", "+FLAGS", r"(\Seen $Label1)")
        imap.copy("1", "Kept")
        imap.store("2", "+FLAGS", r"(\Flagged \Deleted)")
        imap.expunge()
        sieve.put("mine", FILTER)
    with one.having(aliases={"away@one.example": "x@elsewhere.example"}):
        (forwarded,) = arrived(sink, one.deliver(["away@one.example"], "author@elsewhere.example"))
    one.idle()
    named = {**one.pillar, "mailsrv": {"hostname": one.machine.fqdn}}
    one.write_pillar(named)
    one.machine.run(BACKUP)
    one.write_pillar(one.pillar)
    one.srs = forwarded.mail_from
    yield one, one.machine.run("base64 /root/backup.tgz; rm /root/backup.tgz").stdout
    with one.managesieve(USER) as sieve:
        sieve.put("mine", "keep;")


@pytest.fixture
def fresh(lab, one):
    """A machine with Salt alone, where the number that vmail had is somebody else's."""
    new = Server(lab, lab.machine("bookworm", "mail.fresh.example"))
    lab.dns.serve("fresh.example", HEAD + f"mail A {new.machine.address}\n")
    new.machine.install_checkout(CHECKOUT)
    salt_alone = "sed 's/^install_salt$/&; exit/' bootstrap >salt-alone && sh ./salt-alone"
    new.machine.run(f"cd {CHECKOUT} && {salt_alone}", timeout=600)
    new.machine.run(f"useradd --system --uid {number(one, 'vmail')} somebody")
    yield new
    new.machine.stop()


def test_a_fresh_machine_becomes_the_server_that_was_lost(lost, fresh, sink):
    before, backup = lost
    fresh.machine.run("base64 -d | tar -xz -C / ; rm -rf /var/lib/apt/lists/*", input=backup)
    assert fresh.machine.run("stat -c %U /var/vmail/one.example").stdout == "somebody\n"
    bootstrap = f"cd {CHECKOUT} && ./bootstrap --pillar /srv/pillar"
    tried = fresh.machine.run(f"{bootstrap} --test").stdout
    assert "\nFailed:     0\n" in tried
    assert "they would be given to vmail" in tried
    said = fresh.machine.run(bootstrap, timeout=1200).stdout
    assert "Changed  mailsrv-vmail (vmail.owned)" in said

    fresh.accounts = before.accounts
    assert number(fresh, "vmail") != number(before, "vmail")
    assert fresh.machine.run("find /var/vmail ! -type l ! -user vmail").stdout == ""
    assert fresh.mailboxes(USER) == before.mailboxes(USER)
    for address in fresh.accounts:
        fresh.imap(address).logout()
    assert keys(fresh) == keys(before)
    assert fresh.certificate(993) == before.certificate(993)
    assert fresh.certificate(465) == before.certificate(465)
    fresh.wait(USER, fresh.deliver([USER], X_List="news"), "Kept/Filtered")
    with fresh.managesieve(USER) as sieve:
        sieve.put("mine", "keep;")
    (bounce,) = arrived(sink, fresh.deliver([before.srs], sender=""))
    assert bounce.rcpt_tos == ["author@elsewhere.example"]
    assert fresh.highstate() == {}
