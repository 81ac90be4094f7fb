"""What a stolen password may do: so many recipients, whatever is restarted; blocked, nothing."""

import imaplib
import smtplib
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from lab import HEAD
from server import arrived
from wire import until

pytestmark = pytest.mark.lab

HOUR = 30  # recipients
THIEF = "thief's pass"
STATE = "/var/lib/mailsrv/guard/sent.sqlite"


@pytest.fixture(scope="module")
def limited(server):
    """A server with a thief's account, `server.thief`, and one that is not his, `server.owner`."""
    domain = server.pillar["domains"][0]
    server.thief, server.owner = f"thief@{domain}", next(iter(server.accounts))
    limits = {"recipients_per_hour": HOUR, "recipients_per_day": 100}
    server.more = [{"address": server.thief, "password": THIEF, **limits}]
    with server.having(accounts=server.more):
        server.accounts = {**server.accounts, server.thief: THIEF}
        assert server.highstate() == {}
        yield server
        forget(server)
    server.accounts = dict(server.pillar["accounts"])


def applied(server, **settings):
    """The thief's account and these settings; returns what a run changes."""
    accounts = [*server.pillar["accounts"], *server.more]
    settings = {**server.pillar.get("mailsrv", {}), **settings}
    server.write_pillar({**server.pillar, "accounts": accounts, "mailsrv": settings})
    return server.highstate()


def forget(server):
    """Everybody has sent nothing yet, and postmaster was told nothing."""
    server.machine.run(f"systemctl stop opensmtpd; rm -f {STATE}*; systemctl start opensmtpd")
    answers(server)


def answers(server):
    until(
        lambda: not server.machine.run("smtpctl show status", check=False).returncode, 30, "smtpd"
    )
    until(lambda: _greets(server), 30, "smtpd does not answer")


def _greets(server):
    try:
        return server.smtp().quit()
    except OSError:
        return None


def spread(server, user, messages, recipients=1, threads=16):
    """Send messages from a pool of threads: how many recipients were taken, and what was said."""
    said = set()

    def send(number):
        names = [f"v{number}.{index}@elsewhere.example" for index in range(recipients)]
        try:
            with server.submission(465) as smtp:
                smtp.login(user, server.accounts[user])
                refused = smtp.sendmail(user, names, f"From: {user}\r\nSubject: x\r\n\r\nx\r\n")
        except smtplib.SMTPRecipientsRefused as exc:
            refused = exc.recipients
        except smtplib.SMTPDataError as exc:
            refused = dict.fromkeys(names, (exc.smtp_code, exc.smtp_error))
        said.update(f"{code} {text.decode()}" for code, text in refused.values())
        return recipients - len(refused)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(send, range(messages))), said


def told(server, *, wait=True):
    """The mails to postmaster about the thief."""
    subject = f"{server.thief} sends more than its limit"
    if wait:
        until(lambda: server.fetch(server.owner, subject), 60, "postmaster is told nothing")
    server.idle()
    return server.fetch(server.owner, subject)


def test_a_thief_sends_as_much_as_the_limit_says_and_others_go_on(limited, sink):
    forget(limited)
    before = len(sink.messages)
    taken, said = spread(limited, limited.thief, 100, recipients=5)
    assert taken == HOUR
    sentence = f"451 4.7.1 {limited.thief} may write to {HOUR} recipients in an hour: "
    assert {text[: len(sentence)] for text in said} == {sentence}
    arrived(sink, limited.submit(limited.owner, ["friend@elsewhere.example"]))
    limited.idle()
    assert sum(len(envelope.rcpt_tos) for envelope in sink.messages[before:]) == HOUR + 1
    (mail,) = told(limited)
    for text in limited.thief, str(HOUR), limited.lab.outside.address, "mailsrv.block":
        assert text.encode() in mail


def test_the_rest_of_a_message_waits(limited):
    forget(limited)
    assert spread(limited, limited.thief, 1, recipients=HOUR + 5)[0] == HOUR
    assert spread(limited, limited.thief, 4)[0] == 0


@pytest.mark.parametrize("restart", ["smtpd", "guard", "reboot"])
def test_no_restart_gives_a_fresh_budget(limited, restart):
    forget(limited)
    assert spread(limited, limited.thief, HOUR - 3)[0] == HOUR - 3
    if restart == "reboot":
        limited.machine.reboot()
    else:
        by = "restart opensmtpd" if restart == "smtpd" else "kill -s KILL --kill-whom=all opensmtpd"
        limited.machine.run(f"systemctl {by}")
    time.sleep(2)
    answers(limited)
    assert spread(limited, limited.thief, 20)[0] == 3
    assert len(told(limited)) >= 1


def test_a_state_of_garbage_is_begun_anew_and_mail_goes_on(limited):
    forget(limited)
    user = limited.machine.run("ps -o user= -C python3 | head -1").stdout.strip()
    limited.machine.run(
        f"systemctl stop opensmtpd; rm {STATE}*; head -c 9000 /dev/urandom >{STATE};"
        f" chown {user} {STATE}; systemctl start opensmtpd",
        check=False,
    )
    answers(limited)
    assert spread(limited, limited.thief, 50)[0] == HOUR
    assert spread(limited, limited.owner, 1)[0] == 1


def test_a_filter_is_no_way_round_the_limit(limited, sink):
    """It takes its recipient from each message, which comes without a sender or with one."""
    forget(limited)
    with limited.managesieve(limited.thief) as sieve:
        script = 'redirect "${1}@elsewhere.example";'
        sieve.put("relay", f'require "variables"; if header :matches "X" "*" {{ {script} }}')
    limited.machine.run(
        "python3 -c 'import smtplib, sys\n"
        'with smtplib.SMTP("127.0.0.1") as smtp:\n'
        f"    for i in range({HOUR + 6}):\n"
        '        smtp.sendmail("" if i % 2 else "x@elsewhere.invalid", sys.argv[1],'
        ' f"From: x@elsewhere.invalid\\nX: relay{i}\\nSubject: x{i}\\n\\nx")\' ' + limited.thief
    )
    limited.idle()
    assert sum(b"X: relay" in envelope.content for envelope in sink.messages) == HOUR
    kept = limited.machine.run(
        ["doveadm", "search", "-u", limited.thief, "mailbox", "INBOX", "header", "X", "relay"]
    )
    assert len(kept.stdout.split("\n")) - 1 == 6
    assert spread(limited, limited.thief, 1)[0] == 1
    with limited.managesieve(limited.thief) as sieve:
        sieve.put("none", "keep;")


def sessions(server):
    """The thief is in everywhere: IMAP in IDLE, ManageSieve, and a message that is half sent."""
    imap = server.imap(server.thief)
    imap.select()
    imap.send(b"x IDLE\r\n")
    assert imap.readline().startswith(b"+")
    smtp, idle = server.submission(), server.submission(465)
    for each in smtp, idle:
        each.login(server.thief, THIEF)
    smtp.mail(server.thief)
    smtp.rcpt("v@elsewhere.example")
    smtp.putcmd("DATA")
    assert smtp.getreply()[0] == 354
    smtp.send(f"From: {server.thief}\r\n\r\nhalf of it\r\n")
    return SimpleNamespace(imap=imap, smtp=smtp, idle=idle, sieve=server.managesieve(server.thief))


def test_a_blocked_account_is_out_at_once_on_all_doors(limited, sink):
    forget(limited)
    thief, machine = limited.thief, limited.machine
    owner = limited.owner
    with limited.managesieve(thief) as sieve:
        sieve.put("away", 'require "copy"; redirect :copy "loot@elsewhere.example";')
    before = sessions(limited)
    limited.lab.dns.serve("late.example", f"{HEAD}@ MX 10 mx\nmx A 203.0.113.99\n")
    limited.submit(thief, ["v@late.example"])

    said = limited.salt("mailsrv.block", thief.upper())
    assert said["blocked"] == thief
    assert said["held"] == 1
    assert said["sessions"] >= 2
    assert "failed" not in said
    assert "suspend" in machine.run("smtpctl show queue").stdout

    # what was open
    until(lambda: _ended(before.imap), 10, "IDLE goes on")
    before.smtp.send(b".\r\n")
    assert before.smtp.getreply()[0] == 421
    assert before.idle.mail(thief)[0] == 421
    assert before.sieve._wire.read() is not None
    # what would begin
    with pytest.raises(imaplib.IMAP4.error):
        limited.imap(thief)
    with pytest.raises(AssertionError):
        limited.managesieve(thief)
    for port in 465, 587:
        with limited.submission(port) as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(thief, THIEF)
    for text in (f"From: {thief}\\n\\nx", "Subject: x\\n\\nx"):
        sent = machine.run(
            f"printf '{text}' | sendmail -f {thief} v@elsewhere.example", check=False
        )
        assert sent.returncode
    sent = machine.run(f"printf 'From: {thief}\\n\\nx' | sendmail v@elsewhere.example", check=False)
    assert sent.returncode
    # others go on, mail to the account is stored, and nothing of it leaves
    count = len(sink.messages)
    arrived(sink, limited.submit(owner, ["friend@elsewhere.example"]))
    subject = limited.deliver([thief])
    until(lambda: _stored(machine, thief, subject), 30, "mail to a blocked account is lost")
    assert len(sink.messages) == count + 1

    # a run leaves it so, and says so
    assert limited.highstate().keys() <= {"mailsrv-opensmtpd-service"}
    assert limited.highstate() == {}
    assert limited.salt("mailsrv.blocked").keys() == {thief}
    found = limited.faults()
    assert found.keys() == {"blocked accounts"}
    assert found["blocked accounts"].startswith(f"WARNING: {thief} since ")
    assert any(f"mailsrv.unblock {thief}" in note for note in limited.salt("mailsrv.lint"))

    assert limited.salt("mailsrv.unblock", thief)["sent on"] == 1
    assert limited.salt("mailsrv.blocked") == {}
    assert "suspend" not in machine.run("smtpctl show queue").stdout
    assert limited.fetch(thief, subject)
    assert spread(limited, thief, 1)[0] == 1
    with limited.managesieve(thief) as sieve:
        sieve.put("none", "keep;")
    machine.run("smtpctl remove all", check=False)


def _ended(imap):
    imap.sock.settimeout(5)
    try:
        line = imap.readline()
    except OSError:
        return True
    return not line or b"BYE" in line


def _stored(machine, address, subject):
    search = ["doveadm", "search", "-u", address, "mailbox", "INBOX", "subject", subject]
    return machine.run(search, check=False).stdout.strip()


def test_the_pillar_blocks_too_and_lets_go(limited):
    imap = limited.imap(limited.thief)
    changed = applied(limited, blocked=[limited.thief])
    assert {"mailsrv-blocked", "mailsrv-opensmtpd-credentials", "mailsrv-dovecot-kick"} <= {
        *changed
    }
    until(lambda: _ended(imap), 10, "the session goes on")
    with limited.submission() as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(limited.thief, THIEF)
    said = limited.machine.run(f"salt-call mailsrv.unblock {limited.thief}", check=False)
    assert said.returncode
    assert "take it out of mailsrv:blocked" in said.stdout + said.stderr
    applied(limited)
    limited.imap(limited.thief).logout()
    assert spread(limited, limited.thief, 1)[0] == 1
