"""
What users put into Junk and out of it is learned: it moves the points of what nobody has seen yet,
and no message of theirs suffers from it, whatever breaks.
"""

import contextlib
import json
import random
import re
import smtplib
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import HEAD
from wire import until

pytestmark = pytest.mark.lab

OFFLINE = ("asn", "fuzzy_check", "phishing", "rbl")  # on the Internet
CONTROLLER, REDIS = "/run/rspamd/controller.sock", "/run/mailsrv-redis/redis.sock"
SPOOL, TEACH = "/var/spool/mailsrv-learning", "/etc/dovecot/imapsieve/teach"
ORDINARY = {"Date": "Tue, 24 Nov 2026 15:00:00 +0000", "Message-ID": "<1@elsewhere.example>"}
FILTER = {
    "learn": True,
    "greylist": True,
    "reputation": True,
    "thresholds": {"greylist": 2, "add_header": 3, "reject": 30},
    "allow": ["friends.example", "pal@mates.example", "fd00:2::/32", "192.0.2.0/24"],
    "block": ["foes.example", "foe@mates.example", "2001:db8:bad::/48", "203.0.113.7"],
}

# What sentences of both sorts are made of: rspamd looks at words in their order.
SPAM = (
    ("Claim your", "Order", "Buy now", "You have won a", "Do not miss this", "Click here for"),
    ("cheap", "exclusive", "guaranteed", "limited", "risk free", "secret", "luxury"),
    ("casino bonus", "mortgage offer", "miracle pills", "lottery prize", "replica watch", "loan"),
    ("and save money today", "before midnight", "without any credit check", "at no cost to you"),
)
HAM = (
    ("Please review", "Attached is", "I have read", "Let us discuss", "Thank you for", "We need"),
    ("the latest", "our quarterly", "your", "a short", "the revised", "another", "the missing"),
    ("meeting agenda", "project schedule", "draft report", "delivery note", "budget", "test plan"),
    ("before the call on Monday", "and tell me what you think", "when you are back", "for Ann"),
)


def sentences(seed, *sorts):
    dice = random.Random(seed)
    lines = [" ".join(map(dice.choice, dice.choice(sorts))) + "." for _ in range(9)]
    lines.append(f"x{dice.randrange(10**6)} y{dice.randrange(10**6)}.")
    return lines


def message(seed, *sorts):
    """Of those sorts; without, one that has nothing in common with any other."""
    new = [" ".join(f"w{seed}n{number}{word}" for word in "abcdefgh") for number in range(6)]
    subject, *lines = sentences(seed, *sorts) if sorts else new
    text = "\n".join(lines) + "\n"
    return (
        f"From: Somebody <someone{seed % 97}@elsewhere.example>\nTo: ann@one.example\n"
        f"Subject: {subject}\nDate: Tue, 24 Nov 2026 15:00:00 +0000\n"
        f"Message-ID: <{seed}@elsewhere.example>\nMIME-Version: 1.0\n"
        f"Content-Type: text/plain; charset=us-ascii\n\n{text}"
    )


def corpus(machine, directory, seeds, *sorts):
    machine.run(["mkdir", "-p", directory])
    for seed in seeds:
        Path(machine.root, directory.lstrip("/"), str(seed)).write_text(message(seed, *sorts))


@pytest.fixture(scope="module")
def learning(lab, server):
    """A server that learns; nothing of it is left when the tests are over."""
    began, machine = time.time(), server.machine
    lab.dns.serve("rspamd.com", HEAD)
    for domain in ("friends.example", "mates.example"):
        records = f'@ TXT "v=spf1 ip4:{lab.outside.address} -all"\n_dmarc TXT "v=DMARC1; p=none"\n'
        lab.dns.serve(domain, HEAD + records)
    for module in OFFLINE:
        machine.put(f"/etc/rspamd/local.d/{module}.conf", "enabled = false;\n")
    machine.put("/etc/rspamd/local.d/greylist.conf", "timeout = 1s;\n")
    with server.having(spam_filter=FILTER):
        assert server.highstate() == {}
        yield server
        said = machine.run(f"journalctl -u dovecot --since=@{int(began)} -o cat").stdout
        assert not re.findall(r"(?i).*(?:panic|fatal).*", said)
    machine.run("rm /etc/rspamd/local.d/greylist.conf")
    gone = f"{REDIS} {CONTROLLER} {SPOOL} {TEACH} /etc/mail/learn.py /etc/mail/redis.conf"
    gone += " /etc/systemd/system/mailsrv-{redis,learning}.*"
    assert machine.run(f"bash -c 'ls -d {gone}'", check=False).stdout == ""
    assert "redis-server" not in machine.run("ps -eo comm").stdout
    assert machine.run("systemctl is-enabled redis-server", check=False).stdout == "disabled\n"
    assert machine.run("doveconf -n").stdout.count("imapsieve") == 0


@pytest.fixture
def box(learning, user):
    """The user's mailboxes, open, with a folder of this test's own; and how to look at it all."""
    imap = learning.imap(user)
    imap.__enter__()
    folder = f"learning{time.time_ns()}"
    imap.create(folder)
    imap.select(folder)

    def put(*messages, name=folder):
        for content in messages:
            octets = content.replace("\n", "\r\n").encode()
            assert imap.append(name, None, None, octets)[0] == "OK"
        imap.select(folder)

    def move(target, which="1:*", source=folder, command="MOVE"):
        imap.select(source)
        uids = imap.uid("SEARCH", which)[1][0].decode().replace(" ", ",")
        began = time.monotonic()
        assert imap.uid(command, uids, target)[0] == "OK"
        return time.monotonic() - began

    yield SimpleNamespace(imap=imap, folder=folder, put=put, move=move)
    for name in (folder, "Junk", "Trash"):
        if imap.select(name)[1] == [b"0"]:
            continue
        imap.store("1:*", "+FLAGS", r"\Deleted")
        imap.expunge()
    imap.select("INBOX")
    imap.delete(folder)
    imap.logout()


def learned(server):
    """How many of each sort rspamd has learned, by what it has in Redis."""
    asked = f"redis-cli -s {REDIS} hmget RS learns_spam learns_ham"
    return [int(line or 0) for line in server.machine.run(asked).stdout.splitlines()]


def teaches(server, before, spam=0, ham=0):
    """All that was taught is learned, and nothing else."""
    wanted = [before[0] + spam, before[1] + ham]
    until(lambda: learned(server) == wanted, 30, f"{learned(server)} from {before}")
    until(lambda: not server.machine.run(f"ls {SPOOL}/new").stdout, 10, "something waits")
    time.sleep(0.5)
    assert learned(server) == wanted


def answers(server):
    stat = "rspamadm control stat"
    until(lambda: not server.machine.run(stat, check=False).returncode, 60, "rspamd is not back")


def seen(server, user, folder):
    """The Message-IDs there, sorted."""
    with server.imap(user) as imap:
        if imap.select(folder, readonly=True)[1] == [b"0"]:
            return []
        data = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]
        return sorted(re.findall(r"<(\d+)@", str(data)))


def judged(server, directory):
    """Of each message there the action of rspamd, its points and the symbols of Bayes."""
    ran = server.machine.run(f"rspamc -h 127.0.0.1:11333 -n 4 --json {directory}")
    found = []
    for part in re.split(r"(?m)^(?=\{)", ran.stdout):
        if part.strip():
            result = json.JSONDecoder().raw_decode(part)[0]
            bayes = [name for name in result["symbols"] if name.startswith("BAYES_")]
            found.append((result["action"], result["score"], bayes))
    return found


def insists(server, user, *, sender="somebody@elsewhere.example", **headers):
    """Deliver a message as a mail server does that is told to come again; its subject."""
    for _ in range(20):
        try:
            return server.deliver([user], sender=sender, **headers)
        except smtplib.SMTPDataError as exc:
            if exc.smtp_code >= 500:
                raise
            time.sleep(1)
    raise TimeoutError("it is told to come again and again")


@contextlib.contextmanager
def instead_of_teach(machine, script):
    """Another program in its place, or none."""
    machine.run(f"mv {TEACH} {TEACH}.away")
    if script:
        machine.put(TEACH, script)
        machine.run(f"chmod 755 {TEACH}")
    try:
        yield
    finally:
        machine.run(f"mv {TEACH}.away {TEACH}")


def test_what_was_taught_moves_the_points_of_what_nobody_has_seen_yet(learning, user, box):
    """Two hundred of each sort: spam as a user moves it, the rest in bulk."""
    machine, sorts = learning.machine, {"spam": SPAM, "ham": HAM}
    for number, (kind, sort) in enumerate(sorts.items()):
        corpus(machine, f"/srv/held/{kind}", range(10_000 * number, 10_000 * number + 50), sort)
    before = {kind: judged(learning, f"/srv/held/{kind}") for kind in sorts}
    assert not [bayes for found in before.values() for _, _, bayes in found if bayes]
    box.put(*[message(seed, SPAM) for seed in range(1000, 1205)])
    took = box.move("Junk")
    corpus(machine, "/srv/taught", range(2000, 2205), HAM)
    machine.run(f"rspamc -h {CONTROLLER} -n 4 learn_ham /srv/taught")
    until(lambda: min(learned(learning)) >= 200, 60, f"learned: {learned(learning)}")
    time.sleep(2)
    after = {kind: judged(learning, f"/srv/held/{kind}") for kind in sorts}
    points = {
        kind: [sum(score for _, score, _ in found[kind]) / 50 for found in (before, after)]
        for kind in sorts
    }
    print(points, took)
    assert {len(found) for found in after.values()} == {50}
    assert {name for _, _, bayes in after["spam"] for name in bayes} == {"BAYES_SPAM"}
    assert {name for _, _, bayes in after["ham"] for name in bayes} == {"BAYES_HAM"}
    assert points["spam"][1] - points["spam"][0] > 4
    assert points["ham"][1] - points["ham"][0] < -2
    machine.run("rm -r /srv/taught /srv/held")


def test_what_is_put_into_junk_and_out_of_it_is_learned_and_nothing_else(learning, user, box):
    fresh = learned(learning)
    box.put(*[message(seed) for seed in range(100, 106)])
    box.move("Junk", "1:2")
    box.move("Junk", "1", command="COPY")
    box.put(message(106), name="Junk")
    teaches(learning, fresh, spam=4)
    # Between other mailboxes, and away; and what the filter itself puts there.
    box.move("Archive", "2")
    box.move("Trash", "2")
    box.move("Trash", "1", source="Junk")
    subject = insists(learning, user, From="a@b.example")
    learning.wait(user, subject, folder="Junk")
    teaches(learning, fresh, spam=4)
    # Out again: it was none.
    before = learned(learning)
    box.move(box.folder, "1", source="Junk")
    until(lambda: learned(learning)[1] == before[1] + 1, 30, "nothing is learned")
    said = learning.machine.run("journalctl -u mailsrv-learning -o cat").stdout
    assert f"{user} taught 1 ham" in said


def test_a_move_holds_while_rspamd_is_away_and_what_teaches_is_killed(learning, user, box):
    """No message is lost and none is doubled; what is laid down is learned, killed or not."""
    machine, seeds = learning.machine, range(200, 240)
    box.put(*[message(seed) for seed in seeds])
    before = learned(learning)
    machine.run("systemctl kill -s STOP rspamd")  # it takes connections, and says nothing
    loop = 'i=0; while [ $i -lt 60 ]; do pkill -9 -x "$1"; sleep 0.05; i=$((i+1)); done'
    machine.run(["sh", "-c", f"setsid -f sh -c '{loop}' sh teach >/dev/null 2>&1"])
    took = box.move("Junk", "1:20")
    machine.run("systemctl kill -s CONT rspamd; systemctl stop rspamd")
    took += box.move("Junk")
    assert took < 20
    assert seen(learning, user, "Junk") == sorted(map(str, seeds))
    assert seen(learning, user, box.folder) == []
    time.sleep(3)
    names = machine.run(f"ls {SPOOL}/new").stdout.split()
    assert len(names) >= 1  # those whose teach was killed are not
    machine.run("systemctl start rspamd")
    answers(learning)
    kill = "systemctl kill -s KILL mailsrv-learning; sleep 0.3; "
    machine.run(f"{kill * 5} systemctl start mailsrv-learning", check=False)
    until(lambda: not machine.run(f"ls {SPOOL}/new").stdout, 60, "it is not learned")
    # One that is learned at that very moment is given again, and rspamd 3.4 counts it again.
    assert len(names) - 20 <= learned(learning)[0] - before[0] <= 45
    assert learned(learning)[1] == before[1]


def test_a_move_holds_whatever_becomes_of_teach_and_of_its_disk(learning, user, box):
    machine = learning.machine
    hangs = machine.get(TEACH).replace("opendir", "sleep 60; opendir", 1)
    seeds, names = range(300, 305), []
    for seed, script in zip(seeds, ("#!/bin/sh\nexit 1\n", hangs, None), strict=False):
        with instead_of_teach(machine, script):
            box.put(message(seed))
            assert box.move("Junk") < 6
    before = learned(learning)
    machine.run(
        f"mount -t tmpfs -o size=40k,mode=755 full {SPOOL} && cd {SPOOL} && mkdir new tmp && "
        "chown vmail:_rspamd new tmp; head -c 30000 /dev/zero >zero"
    )
    box.put(message(303) + 800 * "much too long for what is left there\n")
    assert box.move("Junk") < 6
    names = machine.run(f"ls {SPOOL}/new {SPOOL}/tmp").stdout
    machine.run(f"umount {SPOOL}")
    assert not re.search("spam", names)
    box.put(message(304))
    box.move("Junk")
    teaches(learning, before, spam=1)
    assert seen(learning, user, "Junk") == ["300", "301", "302", "303", "304"]
    assert seen(learning, user, box.folder) == []


def test_what_is_large_or_garbage_is_moved_as_ever_and_rspamd_lives(learning, user, box):
    """Above a megabyte nothing is learned."""
    machine, before = learning.machine, learned(learning)
    starts = machine.run("systemctl show -P MainPID rspamd").stdout
    line = "large " * 11 + "\n"
    box.put(message(400) + line * (100_000_000 // len(line)))
    assert box.move("Junk") < 20
    assert learned(learning) == before
    odd = [
        "\n",
        "Subject: =?utf-8?q?" + "=41" * 50_000 + "?=\n\n",
        "Content-Type: multipart/mixed; boundary=a\n\n" + "--a\n" * 50_000,
        message(401) + "\0\1\x7f" * 1000,
        "From: \n" * 5000 + "\nx\n",
    ]
    box.put(*odd)
    box.move("Junk")
    # And into the spool, whatever stands there.
    machine.run(
        f"cd {SPOOL}/new && runuser -u vmail -- sh -c '"
        "ln -s /etc/shadow 1790000000,1,spam,a; mkfifo 1790000000,3,spam,c; "
        "head -c 100000 /dev/urandom >$(date +%s),4,spam,x@y; "
        ': >1790000000,5,ham,d; echo x >"a b,;"; echo {{{ >../state.json\'',
        check=False,
    )
    until(lambda: not machine.run(f"ls -A {SPOOL}/new").stdout, 30, "something waits")
    assert learned(learning)[0] >= before[0]
    assert machine.run("systemctl show -P MainPID rspamd").stdout == starts
    assert machine.run("systemctl is-failed mailsrv-learning.*", check=False).returncode
    assert json.loads(machine.get(f"{SPOOL}/state.json"))["taught"]


def test_no_script_of_a_user_calls_a_program(learning, user):
    with learning.managesieve(user) as sieve:
        for extension in ("vnd.dovecot.pipe", "vnd.dovecot.execute", "vnd.dovecot.filter"):
            script = f'require ["{extension}"];\r\nkeep;\r\n'
            with pytest.raises(AssertionError, match="NO"):
                sieve.put("pipes", script)


def test_nobody_else_reaches_what_learns_and_nothing_listens(learning):
    """Neither who is on the machine nor Dovecot, which lays down and reads nothing."""
    machine = learning.machine
    machine.run("systemctl stop mailsrv-learning.path")
    for user in ("nobody", "vmail"):
        for command in (f"rspamc -h {CONTROLLER} stat", f"redis-cli -s {REDIS} ping"):
            ran = machine.run(f"runuser -u {user} -- {command} 2>&1", check=False)
            assert "Permission denied" in ran.stdout
        for place, may in (("new", user == "vmail"), ("tmp", user == "vmail"), (".", False)):
            touch = f"runuser -u {user} -- touch {SPOOL}/{place}/x"
            assert (machine.run(touch, check=False).returncode == 0) == may
    machine.run(f"rm {SPOOL}/*/x; systemctl start mailsrv-learning.path")
    ports = machine.run("ss -Hltnp").stdout
    assert "redis" not in ports
    assert {line.split()[3] for line in ports.splitlines() if "rspamd" in line} == {
        "127.0.0.1:11333"
    }


def test_mail_goes_on_without_redis_and_what_was_learned_comes_back(learning, user, box):
    """It is stopped, hangs, is full, and is killed."""
    machine, before = learning.machine, learned(learning)
    cli = f"redis-cli -s {REDIS}"

    def goes(seconds):
        began = time.monotonic()
        learning.wait(user, insists(learning, user, **ORDINARY))
        assert time.monotonic() - began < seconds

    machine.run("systemctl stop mailsrv-redis")
    goes(20)
    said = learning.salt("mailcheck.run", "free=1", check=False)
    assert said["memory of the spam filter"].startswith("FAULT: Redis does not answer")
    assert said["service mailsrv-redis"].startswith("FAULT: ")
    machine.run("systemctl start mailsrv-redis")
    assert learned(learning) == before
    machine.run("systemctl kill -s STOP mailsrv-redis")  # it takes connections, and says nothing
    goes(40)
    machine.run("systemctl kill -s CONT mailsrv-redis")
    flood = "for i = 1, 20000 do redis.call('setex', 'f' .. i, 9999, string.rep('x', 99)) end"
    machine.run(f'{cli} save; {cli} eval "{flood}" 0')
    used = re.search(r"used_memory:(\d+)", machine.run(f"{cli} info memory").stdout)
    machine.run(f"{cli} config set maxmemory {int(used[1]) - 500_000}")
    goes(20)
    box.put(message(500))
    assert box.move("Junk") < 6
    until(lambda: not machine.run(f"ls {SPOOL}/new").stdout, 60, "it waits")
    machine.run("systemctl kill -s KILL mailsrv-redis")
    until(lambda: "PONG" in machine.run(f"{cli} ping", check=False).stdout, 20, "Redis stays away")
    assert learned(learning) == before
    assert "maxmemory\n268435456\n" in machine.run(f"{cli} config get maxmemory").stdout
    said = learning.salt("mailcheck.run", "free=1", check=False)
    assert re.fullmatch(r"ok: \d+ spam and \d+ other messages are learned", said["learning"])
    assert said["memory of the spam filter"] == "ok"


def test_who_is_allowed_is_let_in_where_it_is_he_and_who_is_blocked_is_refused(learning, user):
    def comes(sender, author):
        subject = insists(learning, user, sender=sender, From=author)  # no Date: above 3
        folder = until(
            lambda: [f for f in ("INBOX", "Junk") if learning.fetch(user, subject, f)], 30, subject
        )
        return folder[0]

    assert comes("x@elsewhere.example", "x@elsewhere.example") == "Junk"
    assert comes("any@friends.example", "Any One <any@Friends.example>") == "INBOX"
    assert comes("pal@mates.example", "pal@mates.example") == "INBOX"
    assert comes("other@mates.example", "other@mates.example") == "Junk"
    # In their name: DMARC says no, or nothing.
    assert comes("x@elsewhere.example", "any@friends.example") == "Junk"
    assert comes("x@elsewhere.example", "pal@mates.example, x@elsewhere.example") == "Junk"
    assert comes("any@friends.example", "x@elsewhere.example") == "Junk"
    assert comes("any@friends.example", "other@mates.example") == "Junk"  # who passes DMARC
    for sender, author in (
        ("a@foes.example", "x@elsewhere.example"),
        ("x@elsewhere.example", "a@FOES.example"),
        ("x@elsewhere.example", "Foe <foe@Mates.example>"),
    ):
        with pytest.raises(smtplib.SMTPDataError, match="takes no mail from you") as refused:
            learning.deliver([user], sender=sender, From=author, **ORDINARY)
        assert refused.value.smtp_code == 550
    machine = learning.machine
    machine.put("/srv/plain", message(1))
    for address, action, points in (
        ("203.0.113.7", "reject", 0),
        ("203.0.113.8", "", 0),
        ("2001:db8:bad::1", "reject", 0),
        ("192.0.2.200", "no action", -80),
        ("fd00:2::5", "no action", -80),
    ):
        ran = machine.run(f"rspamc -h 127.0.0.1:11333 --json -i {address} /srv/plain").stdout
        found = json.JSONDecoder().raw_decode(ran[ran.index("{") :])[0]
        assert action in found["action"], address
        assert (found["score"] < points) == bool(points), address


def test_greylisting_lets_what_is_doubtful_come_again_and_holds_up_nothing_else(learning, user):
    """And what came before is remembered."""
    learning.wait(
        user, learning.deliver([user], sender="pal@mates.example", From="pal@mates.example")
    )
    doubtful = {"sender": f"{time.time_ns()}@elsewhere.example", "text": f"{time.time_ns()}\n"}
    with pytest.raises(smtplib.SMTPDataError) as refused:
        learning.deliver([user], From="x@elsewhere.example", **doubtful)
    assert 400 <= refused.value.smtp_code < 500
    learning.wait(user, insists(learning, user, From="x@elsewhere.example", **doubtful), "Junk")
    known = learning.machine.run(f"redis-cli -s {REDIS} --scan --pattern 'RR:*'").stdout
    assert known
