"""
A domain moves from a mail machine on Debian 12 to one on Debian 13 while mail arrives and a user is
at work; the first run is killed at its worst moment. Other pairs: see docs/testing.md.
"""

import collections
import concurrent.futures
import imaplib
import json
import smtplib
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from fleet import SALT, Fleet
from server import parsed
from wire import until

pytestmark = [pytest.mark.lab, pytest.mark.again]

DOMAIN = "moves.example"
MIA, LEO = f"mia@{DOMAIN}", f"leo@{DOMAIN}"
LEADS = "leads@one.example"
SCRIPT = 'require "fileinto"; if header :contains "subject" "filed" { fileinto "Archive"; }\r\n'
UNDO = """
systemctl disable --now salt-minion salt-master 2>/dev/null
rm -rf /etc/salt /etc/systemd/system/salt-* /opt/salt /srv/top /var/cache/salt
rm -rf /var/vmail/moves.example
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def pair(one, two):
    """
    Two machines of one master: `old` has the domain, `new` is to have it; both have others. In the
    end they are as they were.
    """
    for server in one, two:
        server.machine.run("ln -sfn /opt/salt-mailsrv /opt/salt")
    fleet = Fleet(two.machine)
    more = {"domains": [DOMAIN], "accounts": [[MIA, "mia's pass #1"], [LEO, "leo pass"]]}
    leads = {LEADS: LEO}
    aliases = {f"sales@{DOMAIN}": MIA, f"team@{DOMAIN}": [MIA, LEO], f"list-*@{DOMAIN}": LEO}
    for server in one, two:
        has = _with(server.pillar, more, aliases | leads) if server is one else server.pillar
        fleet.join(server.machine, ["mailsrv"], has)
    fleet.highstate(one.machine.fqdn)
    known = {server: dict(server.accounts) for server in (one, two)}
    for server in one, two:
        server.accounts |= dict(more["accounts"])
    gone, come = (server.machine.fqdn for server in (one, two))
    moves = {one: {"moves_to": {DOMAIN: come}}, two: {"moves_from": {DOMAIN: gone}}}
    for server in one, two:
        pillar = _with(server.pillar, more, aliases | (leads if server is one else {}))
        pillar["mailsrv"] |= moves[server]
        fleet.assign(server.machine.fqdn, pillar)
    run = [f"{SALT}/salt-run", "--out=json", "--log-level=error"]
    two.machine.run([*run, "saltutil.sync_runners"])
    command = [*run, "mailsrv.move", DOMAIN, f"from={gone}", f"to={come}"]
    yield SimpleNamespace(old=one, new=two, fleet=fleet, command=command)
    for server in one, two:
        server.accounts = known[server]
        server._run_with(server.pillar["accounts"], {})
        server.write_pillar(server.pillar)
        server.machine.run(UNDO)


def _with(pillar, more, aliases):
    pillar = json.loads(json.dumps(pillar))
    for key, value in more.items():
        pillar[key] = [*pillar[key], *value]
    settings = pillar.setdefault("mailsrv", {})
    settings["aliases"] = {**settings.get("aliases", {}), **aliases}
    return pillar


def move(pair, *arguments):
    """What a run on the master says."""
    ran = pair.new.machine.run([*pair.command, *arguments], check=False)
    told = json.loads(ran.stdout)
    assert ran.returncode == told["retcode"], ran
    return told


class Load:
    """Others' mail servers, which try again until a message is taken; and when mia gets in."""

    def __init__(self, pair):
        self.sent, self.refused, self.access = {}, collections.Counter(), []
        self._pair, self._ended = pair, threading.Event()
        work = [self._send, self._send, self._log_in]
        self._threads = [threading.Thread(target=one, args=(n,)) for n, one in enumerate(work)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number):
        to = [MIA, LEO, f"sales+tag@{DOMAIN}", f"team@{DOMAIN}", f"list-{number}@{DOMAIN}"]
        for count in range(100_000):
            subject, recipient = f"load-{number}-{count}", to[count % len(to)]
            text = f"From: somebody@elsewhere.example\r\nSubject: {subject}\r\n\r\nhello\r\n"
            text += "x" * 70 + "\r\n" if count % 50 else ("x" * 70 + "\r\n") * 20_000
            while subject not in self.sent:
                try:
                    with self._pair.old.smtp() as smtp:
                        smtp.sendmail("somebody@elsewhere.example", [recipient], text)
                    self.sent[subject] = recipient
                except smtplib.SMTPResponseException as exc:
                    self.refused[exc.smtp_code] += 1
                    time.sleep(0.2)
                except (OSError, EOFError, smtplib.SMTPException):
                    self.refused["no answer"] += 1  # smtpd begins anew, with what it has to know
                    time.sleep(0.2)
            if self._ended.wait(0.3):
                return

    def _log_in(self, _):
        while not self._ended.wait(0.3):
            for name in "old", "new":
                with suppress(OSError, imaplib.IMAP4.error):
                    with getattr(self._pair, name).imap(MIA) as imap:
                        imap.select("INBOX")
                    self.access.append((name, time.monotonic()))

    def expected(self):
        """By user the subjects that shall be there once."""
        wanted = collections.defaultdict(collections.Counter)
        for subject, recipient in self.sent.items():
            for user in {"sales+tag": [MIA], "mia": [MIA], "team": [MIA, LEO]}.get(
                recipient.partition("@")[0], [LEO]
            ):
                wanted[user][subject] += 1
        return wanted


def subjects(server, user):
    """How often each message of the load is in the inbox."""
    with server.imap(user) as imap:
        count = int(imap.select("INBOX", readonly=True)[1][0])
        parts = imap.fetch(f"1:{count}", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1] if count else []
    heads = [part[1].decode().split() for part in parts if isinstance(part, tuple)]
    return collections.Counter(head[1] for head in heads if head[1].startswith("load-"))


def known_by(server, user):
    """UIDVALIDITY, UIDs, flags and texts of all folders but the inbox; and the filters."""
    found = server.mailboxes(user)
    del found["INBOX"]
    script = server.machine.run(["doveadm", "sieve", "get", "-u", user, "mine"]).stdout
    listed = server.machine.run(["doveadm", "sieve", "list", "-u", user]).stdout
    subscribed = sorted(server.machine.run(["doveadm", "mailbox", "list", "-s", "-u", user]).stdout)
    return found, script, listed, subscribed


def phase(server):
    noted = server.machine.run("cat /var/lib/mailsrv/moving.json || echo {}").stdout
    return json.loads(noted).get(DOMAIN, {}).get("phase")


def test_a_domain_moves_under_load_though_the_first_run_is_killed(pair):
    old, new = pair.old, pair.new
    with old.imap(MIA) as imap:
        imap.create('"Old/2019 &AOk-t"')
        imap.subscribe('"Old/2019 &AOk-t"')
        for folder in "Sent", '"Old/2019 &AOk-t"':
            for flags in "", "(\\Seen $Label1)", "(\\Flagged)":
                imap.append(folder, flags, None, b"Subject: kept\r\n\r\nhello\r\n")
            imap.select(folder)
            imap.store("1", "+FLAGS", "\\Deleted")
            imap.expunge()
            imap.close()
        imap.create("50%2F")
        said = move(pair, "test=True")["stopped"]
        assert said.startswith(f"{MIA}: 50%2F: no name with a % is copied; rename the folder")
        imap.rename("50%2F", "Half")
    with old.managesieve(MIA) as sieve:
        sieve.put("mine", SCRIPT)
    before = known_by(old, MIA)
    with Load(pair) as load:
        until(lambda: len(load.sent) > 20, 60, "nothing is taken")
        run = new.machine.start(" ".join(pair.command) + " & echo $!; wait")
        number = run.stdout.readline().strip()
        until(lambda: phase(old) == "frozen", 240, "it is not switched")
        new.machine.run(["kill", "-9", number])
        run.communicate()
        assert (phase(old), phase(new)) == ("frozen", "waiting")
        waits = old.submit(LEO, [MIA])
        told = move(pair)
        assert "stopped" not in told, told
        count = len(load.sent)
        until(lambda: len(load.sent) > count + 10, 60, "nothing is taken any more")
    assert told["phases"] == {old.machine.fqdn: "gone", new.machine.fqdn: "here"}
    last = max(at for name, at in load.access if name == "old")
    first = min(at for name, at in load.access if name == "new")
    print(
        f"{len(load.sent)} messages; put off: {dict(load.refused)}; with a killed run mia was out"
    )
    print(f"for {first - last:.0f} s; the run that went through says {told}")
    early = [round(at - last, 1) for name, at in load.access if name == "new" and at < last]
    assert early == [], "both let her in"
    assert load.refused.keys() <= {"no answer", 421, 451}

    def handed_on():
        old.machine.run("/usr/local/sbin/sendmail -q")
        return not old.machine.run("smtpctl show queue").stdout

    until(handed_on, 120, "the queue stays full")
    new.idle()
    for user, wanted in load.expected().items():
        came = subjects(new, user)
        assert wanted.keys() - came.keys() == set(), "lost"
        assert {subject for subject in came if came[subject] > wanted[subject]} == set(), "doubled"
    assert new.wait(MIA, waits), "from one of the domain to another"
    assert known_by(new, MIA) == before
    for server in old, new:
        assert not server.machine.run("find /run/mailsrv/moving -type f").stdout, "a key is left"


def test_late_mail_is_handed_on_unchanged_and_filters_do_their_work(pair):
    old, new = pair.old, pair.new
    subject = old.deliver([f"sales+Tag@{DOMAIN}"], text="x" * 70 + "\r\n")
    message = parsed(new.wait(MIA, subject))
    assert "TLSv1.3" in "".join(message.get_all("Received"))
    user = next(iter(old.accounts))
    filed = old.deliver([MIA], X_Filed="filed")
    assert new.wait(MIA, filed)
    subject = new.submit(next(iter(new.accounts)), [LEO])
    assert new.wait(LEO, subject)
    subject = old.submit(user, [MIA])
    assert new.wait(MIA, subject)
    subject = new.submit(next(iter(new.accounts)), [LEADS])
    assert new.wait(LEO, subject)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        old.deliver([f"nobody@{DOMAIN}"])
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        old.imap(MIA)


def test_what_was_cut_off_at_its_end_is_finished_and_nothing_is_ever_copied_back(pair):
    moving = "/etc/mail/moving"
    pair.old.machine.run(f"sed -i 's/ gone/ frozen/' {moving}")
    told = move(pair)
    assert told["moved"] == "before"
    assert pair.old.machine.run(f"cat {moving}").stdout == f"{DOMAIN} gone\n"
    about = pair.old.machine.run(f"stat -c '%U %G %a' {moving}").stdout
    assert about == "root vmail 640\n"
    names = [server.machine.fqdn for server in (pair.old, pair.new)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert [*pool.map(pair.fleet.highstate, names)] == [{}, {}]
    refused = pair.fleet.salt(pair.new.machine.fqdn, "moving.fetch", DOMAIN, "127.0.0.1", "x")
    assert "is here on this machine, and has to be waiting for that" in refused
    said = pair.fleet.salt(pair.old.machine.fqdn, "mailcheck.run", "free=1")
    assert said[f"move of {DOMAIN}"].startswith("ok: mail that still comes is handed to ")
