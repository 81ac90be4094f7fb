"""Daemons that are killed come back, and what was on its way arrives, whole and once."""

import time

import pytest

from record import NEVER, Record
from wire import until

pytestmark = pytest.mark.lab

SOMEBODY = "somebody@elsewhere.example"
NULL = "<>"  # the sender of a bounce, in aiosmtpd's words
SMTPD = [
    *(f"^smtpd: {name}" for name in ("dispatcher", "queue", "scheduler", "lookup", "control")),
    *("^smtpd: crypto", "^/usr/sbin/smtpd", "^/usr/bin/python3 -I /etc/mail/guard.py"),
]
LARGE = "0123456789abcdef" * 4 + "\r\n"


@pytest.fixture(scope="module", autouse=True)
def last_words(server):
    """What the killed left in the journal is for no other test."""
    yield
    server.machine.run("journalctl --rotate && journalctl --vacuum-time=1s")


@pytest.mark.parametrize("process", SMTPD)
def test_smtpd_is_back_within_seconds_whatever_of_it_is_killed(server, process):
    server.machine.run(["pkill", "-9", "-of", process])
    time.sleep(0.2)
    until(server.takes_mail, 6, f"after {process} was killed, port 25 is closed")
    assert server.machine.run("systemctl is-active opensmtpd").stdout == "active\n"


def test_dovecot_is_back_when_its_master_is_killed(server, user):
    server.machine.run("pkill -9 -xo dovecot")
    time.sleep(0.2)

    def logs_in():
        try:
            with server.imap(user):
                return True
        except OSError:
            return False

    until(logs_in, 6, "IMAP stays away")


@pytest.mark.parametrize(
    "end",
    [
        "systemctl restart opensmtpd",
        "kill $(cat /run/smtpd.pid 2>/dev/null || pgrep -ox smtpd)",
        *(f"pkill -9 -of '{process}'" for process in (SMTPD[0], SMTPD[1], SMTPD[6])),
    ],
)
def test_a_message_in_delivery_is_stored_whole_and_once(server, user, end):
    """Cut off by the end of smtpd(8), it was stored as it was; the whole one came, too, or not."""
    size = 20000
    server.machine.run("pkill -STOP -f ^dovecot/lmtp", check=False)
    try:
        subjects = [server.deliver([user], text=LARGE * size) for _ in range(3)]
        time.sleep(0.3)
        server.machine.run(end, check=False)
        time.sleep(1)
    finally:
        server.machine.run("pkill -CONT -f ^dovecot/lmtp", check=False)
    for subject in subjects:
        what = f"{subject} does not come"
        until(lambda subject=subject: server.fetch(user, subject), 90, what)
    server.idle()
    for subject in subjects:
        (message,) = server.fetch(user, subject)
        assert message.count(LARGE.encode()) == size
    server.machine.run(f"doveadm expunge -u {user} mailbox INBOX larger 1M")


def test_a_dovecot_that_is_away_is_waited_for(server, user, sink):
    """smtpd(8) tries again after 10 seconds; nothing is returned to its sender."""
    before = sum(envelope.mail_from == NULL for envelope in sink.messages)
    subjects = []
    for end in "systemctl stop dovecot", "systemctl start dovecot", "pkill -f ^dovecot/lmtp":
        server.machine.run(end, check=False)
        subjects += [server.deliver([user]) for _ in range(5)]
    for subject in subjects:
        server.wait(user, subject)
    server.idle()
    assert [len(server.fetch(user, subject)) for subject in subjects] == [1] * len(subjects)
    # After -9, Dovecot mends mdbox's index, and now and then has a message twice.
    server.machine.run("pkill -9 -f ^dovecot/lmtp")
    for subject in [server.deliver([user]) for _ in range(5)]:
        until(lambda subject=subject: server.fetch(user, subject), 60, f"{subject} does not come")
    server.idle()
    assert sum(envelope.mail_from == NULL for envelope in sink.messages) == before


def test_what_dovecot_stored_and_nobody_heard_of_comes_once(server, user):
    """Killed in between, deliver is started again by smtpd(8), and asks Dovecot (RFC 1047)."""
    local, _, domain = user.partition("@")
    server.wait(user, server.deliver([user]))
    log = f"/var/vmail/{domain}/{local}/mdbox/storage/dovecot.map.index.log"
    lock = f"import fcntl, time; f = open('{log}', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX)"
    hold = f"{lock}; print('held', flush=True); time.sleep(4)"
    server.machine.run(f'python3 -c "{hold}" >/tmp/held 2>&1 </dev/null & sleep 0.5')
    assert server.machine.get("/tmp/held") == "held\n"
    subject = server.deliver([user])
    time.sleep(1)
    killed = server.machine.run("pkill -9 -u vmail -x perl", check=False).returncode == 0
    assert (killed, server.fetch(user, subject)) == (True, [])
    server.wait(user, subject)
    assert server.machine.run("smtpctl show queue").stdout
    server.idle()
    assert len(server.fetch(user, subject)) == 1


def test_a_home_that_cannot_be_written_is_waited_for(server, user):
    local, _, domain = user.partition("@")
    home = f"/var/vmail/{domain}/{local}"
    server.machine.run(f"chown root {home}")
    subject = server.deliver([user])
    time.sleep(1)
    queued = server.machine.run("smtpctl show queue").stdout
    server.machine.run(f"chown vmail {home}; smtpctl schedule all")
    server.wait(user, subject)
    assert user in queued


def test_an_address_has_one_mailbox_however_it_is_spelled(server, user):
    local, _, domain = user.partition("@")
    spelled = [user, user.upper(), f"{local.title()}@{domain}", f"{local}@{domain.title()}"]
    subject = server.deliver(spelled)
    server.wait(user, subject)
    server.idle()
    assert len(server.fetch(user, subject)) == 1
    homes = server.machine.run("cd /var/vmail && ls -d */*").stdout.split()
    assert all(home == home.lower() for home in homes)


def test_nobody_waits_for_a_mailbox_that_is_stuck(server):
    stuck, other, *_ = server.accounts
    local, _, domain = stuck.partition("@")
    slots = f"/var/vmail/{domain}/{local}/.delivery"
    server.wait(stuck, server.deliver([stuck]))
    hold = f"for n in 0 1 2 3; do flock {slots}.$n sleep 25 & done; wait"
    server.machine.run(["sh", "-c", f"({hold}) >/dev/null 2>&1 </dev/null &"])
    time.sleep(4)  # until then they might be deliveries that are about to end
    held = [server.deliver([stuck]) for _ in range(60)]
    started = time.monotonic()
    server.wait(other, server.deliver([other]))
    assert time.monotonic() - started < 5
    for subject in held:
        server.wait(stuck, subject)


def test_a_message_that_no_mailbox_of_that_quota_can_hold_is_returned_at_once(server, sink):
    small = f"small@{server.pillar['domains'][0]}"
    accounts = [{"address": small, "password": "small", "quota": "1M"}]
    with server.having(accounts=accounts):
        subject = server.deliver([small], sender=SOMEBODY, text=LARGE * 20000)

        def bounce():
            return [e for e in sink.messages if subject.encode() in e.content]

        (returned,) = until(bounce, 30, "the sender is not told")
        assert b"larger than" in returned.content
        assert returned.mail_from == NULL
        server.idle()


def test_every_message_is_accounted_for_whatever_ends(server, sink):
    """The small form of `record.py`, which has a command line for the large one."""
    account = Record(server, sink).run(300)
    server.idle()
    assert account["taken"] == 300, account["not taken"]
    assert {fault: account[fault] for fault in NEVER} == {fault: [] for fault in NEVER}
    assert account["faults"]
