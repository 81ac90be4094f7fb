"""What is found again, and what is gone: the log, and old mail."""

import base64
import imaplib
import json
import re
import ssl
import time

import pytest

from server import CHECKOUT, arrived
from wire import until

pytestmark = pytest.mark.lab

PURGE = "systemctl start mailsrv-purge"
SAVE = "printf 'Subject: {2}\\n\\nx\\n' | {3} doveadm save -u {0} -m '{1}'"
LONG_AGO = "faketime '{} days ago'"


@pytest.fixture(scope="module")
def keeping(server):
    """A server that expires mail and the log; its first two accounts as `users`."""
    server.machine.run("apt-get install -y --no-install-recommends faketime", timeout=300)
    expire = {"Trash": "30d", "Junk": "2w", "Not/there yet": "1d"}
    with server.having(expire=expire, logs={"keep": "30d"}) as changed:
        server.users = list(server.accounts)[:2]
        server.changed = changed
        server.machine.run(PURGE)  # in the first night nothing goes
        yield server
    assert "purge -A" in server.machine.get("/etc/dovecot/purge")
    assert "doveadm expunge" not in server.machine.get("/etc/dovecot/purge")


def traced(server, sought, **options):
    """What `mailsrv.trace` tells: the sentences of each message, by what it is called."""
    options = [f"{name}={value}" for name, value in options.items()]
    told = server.salt("mailsrv.trace", sought, *options, check=False)
    if isinstance(told, str):
        return told
    return {m["message"]: [f"{e['daemon']}: {e['says']}" for e in m["events"]] for m in told}


def test_a_message_is_traced_through_all_daemons(keeping, sink):
    user, other = keeping.users
    name = "<20261126.1@one.example>"
    headers = {"Message_ID": name, "From": "Somebody Else <x@elsewhere.example>"}
    recipients = [other, "trace@elsewhere.example"]
    arrived(sink, keeping.submit(user, recipients, **headers))
    keeping.idle()
    told = until(
        lambda: (found := traced(keeping, name)) and len(found[name]) == 7 and found, 30, "no trace"
    )
    (said,) = told.values()
    outside = keeping.lab.outside
    expected = [
        rf"guard: {user}: From: .* is now {user}",
        rf"smtpd: taken from {outside.fqdn} \[{outside.address}\], logged in as {user}, as .*",
        f"smtpd: from {user} to {other}",
        f"smtpd: from {user} to trace@elsewhere.example",
        f"lmtp: stored in INBOX of {other}",
        f"smtpd: delivered to {other}",
        rf"smtpd: sent to trace@elsewhere.example by .*\[{outside.address}\]: 250 .*",
    ]
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in said), (pattern, said)
    # Guard knows it before smtpd, smtpd before Dovecot.
    assert [line.split(":")[0] for line in said][:2] == ["guard", "smtpd"]
    for sought in (name.strip("<>"), "trace@elsewhere.example", other.upper()):
        assert traced(keeping, sought, since="1h")[name] == said


def test_what_was_refused_is_traced_and_what_is_not_there_is_said(keeping):
    user = keeping.users[0]
    domain = user.partition("@")[2]
    with keeping.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("stranger@elsewhere.example")
        assert smtp.rcpt(f"nobody@{domain}")[0] == 550
        assert smtp.rcpt("somebody@else.example")[0] == 550
    where = f"(from {keeping.lab.outside.fqdn} [{keeping.lab.outside.address}])"
    for cause, address in (
        ("no such mailbox", f"nobody@{domain}"),
        ("relay denied", "somebody@else.example"),
    ):
        said = f"smtpd: refused, {cause}: 550 Invalid recipient: <{address}> {where}"
        assert until(lambda a=address: traced(keeping, a, since="5m"), 10, "no trace") == {
            "refused at the door": [said]
        }
    nothing = traced(keeping, "<not@here>", since="2d")
    moment = r"[\d-]{10} [\d:]{8}"
    expected = f"nothing of <not@here> since {moment}; the log goes back to {moment}"
    assert re.fullmatch(expected, nothing)
    shown = keeping.machine.run(f"salt-call mailsrv.trace {user} since=1h", check=False).stdout
    assert max(map(len, shown.splitlines())) <= 80


def test_user_names_of_strangers_forge_nothing(keeping):
    """As they come out of the real daemons, on their way through the journal."""
    names = [
        b"ann>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, session=<xx>",
        b"x\nimap-login: Login: user=<ann>, method=PLAIN, rip=192.0.2.1, lip=::1, session=<x>",
        b"x result=ok",
    ]
    began = int(time.time())  # other tests have given wrong passwords before
    for name in names:
        secret = base64.b64encode(b"\0" + name + b"\0wrong").decode()
        with keeping.submission() as smtp:
            smtp.ehlo()
            assert smtp.docmd("AUTH PLAIN", secret)[0] in (535, 501)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    client = keeping.lab.outside.call(
        imaplib.IMAP4_SSL, keeping.machine.fqdn, 993, ssl_context=tls, timeout=120
    )
    for name in names[:2]:  # Dovecot makes who guesses wait
        with pytest.raises(imaplib.IMAP4.error):
            client.authenticate("PLAIN", lambda _, name=name: b"\0" + name + b"\0wrong")
    client.shutdown()
    script = f"""
import json, subprocess, sys
sys.path.append("{CHECKOUT}/salt_mailsrv/_modules")
from _mailsrv import journal
log = ["journalctl", "--all", "-qo", "json", "--since=@{began}", "-u", "opensmtpd", "-u", "dovecot"]
lines = subprocess.run(log, capture_output=True).stdout.splitlines()
print(json.dumps([e for e in journal.events(map(json.loads, lines)) if "login" in e["kind"]]))
"""

    def failed():
        found = json.loads(keeping.machine.run(["python3", "-c", script]).stdout)
        failed = [e for e in found if e["kind"] == "login_failed"]
        return {"smtpd", "imap"} <= {e["daemon"] for e in failed} and found

    found = until(failed, 30, "failed logins are not in the log")
    assert [e for e in found if "rip=192.0.2.1" in e["user"] and e["daemon"] == "imap"]
    assert {e["address"] for e in found} <= {keeping.lab.outside.address, "127.0.0.1", "127.0.0.2"}
    assert not [e for e in found if e["kind"] == "login" and e["user"] not in keeping.accounts]


def saved(server, user, days=0, **folders):
    """Save a message into each of those mailboxes, as so many days ago: its subject by mailbox."""
    clock = LONG_AGO.format(days) if days else ""
    for folder, subject in folders.items():
        name = folder.replace("__", "/")
        script = SAVE.format(user, name, subject, clock)
        make = f"doveadm mailbox create -u {user} '{name}' 2>/dev/null;"
        server.machine.run(f"{make} {script}")


def there(server, user):
    """The subjects of all messages of a user, sorted."""
    show = f"doveadm -f flow fetch -u {user} hdr.subject all"
    return sorted(re.findall(r"hdr.subject=(t\d+)", server.machine.run(show).stdout))


def test_old_mail_goes_by_the_time_it_was_put_there(keeping):
    user, other = keeping.users
    saved(keeping, user, 40, Trash="t1", Trash__Deep__er="t2", INBOX="t3", Junk="t4", Other="t5")
    saved(keeping, user, 20, Trash="t6", Junk="t7", Junkyard="t8", Trash__new="t9")
    saved(keeping, user, 0, Trash="t10", Junk="t11")
    saved(keeping, other, 40, Trash="t12", Sent="t13")
    # What is moved begins anew.
    keeping.machine.run(f"doveadm move -u {user} Trash mailbox Other subject t5")
    keeping.machine.run(PURGE)
    assert there(keeping, user) == sorted(["t3", "t5", "t6", "t8", "t9", "t10", "t11"])
    assert there(keeping, other) == ["t13"]
    assert keeping.highstate() == {}


def test_a_mailbox_that_cannot_be_opened_holds_up_nobody(keeping):
    user, other = keeping.users
    local, _, domain = user.partition("@")
    saved(keeping, user, 40, Trash="t20")
    saved(keeping, other, 40, Trash="t21")
    home = f"/var/vmail/{domain}/{local}"
    keeping.machine.run(f"chown root:root {home} && chmod 700 {home}")
    try:
        assert keeping.machine.run(PURGE, check=False).returncode == 1
        said = keeping.salt("mailcheck.run", check=False)["timers"]
        assert said.startswith("WARNING: mailsrv-purge failed; see why: journalctl -u mailsrv-pu")
    finally:
        keeping.machine.run(f"chown vmail:vmail {home} && systemctl reset-failed mailsrv-purge")
    assert "t21" not in there(keeping, other)
    words = keeping.machine.run("journalctl -u mailsrv-purge -o cat -n 20").stdout
    assert re.search(rf"{user}.*Permission denied", words), words
    keeping.machine.run(PURGE)
    assert "t20" not in there(keeping, user)
    assert keeping.salt("mailcheck.run", check=False)["timers"] == "ok"


def test_killed_while_it_works_it_has_lost_nothing_that_is_young(keeping):
    user = keeping.users[0]
    make = f"doveadm mailbox create -u {user} Many 2>/dev/null; "
    keeping.machine.run(make + SAVE.format(user, "Many", "t30", ""))
    for _ in range(10):
        keeping.machine.run(f"doveadm copy -u {user} Many mailbox Many all")
    keeping.machine.run(
        f"{LONG_AGO.format(40)} doveadm copy -u {user} Trash mailbox Many all; "
        f"doveadm copy -u {user} Junk mailbox Many all"
    )
    before = there(keeping, user).count("t30")
    killed = [
        keeping.machine.run(
            f"systemctl start --no-block mailsrv-purge; sleep {wait}; "
            "systemctl kill -s KILL mailsrv-purge; sleep 0.1; "
            "systemctl show --property=Result --value mailsrv-purge; "
            "systemctl reset-failed mailsrv-purge",
            check=False,
        ).stdout
        for wait in (0.01, 0.02, 0.04, 0.08)
    ]
    assert "signal\n" in killed
    keeping.machine.run(f"{PURGE} || {{ journalctl -u mailsrv-purge -n 20 -o cat >&2; exit 1; }}")
    assert before == 3 * 1024
    assert there(keeping, user).count("t30") == 2 * 1024
    keeping.machine.run(f"doveadm expunge -u {user} mailbox Junk subject t30")
    keeping.machine.run(f"doveadm mailbox delete -u {user} Many; {PURGE}")


FLOOD = """
i=0; while [ $i -lt 12000 ]; do i=$((i + 1)); echo line $i; done
until journalctl -q -t "$0" -n 1 -o cat | grep -qx "line 12000"; do sleep 0.2; done
"""


@pytest.mark.parametrize("unit", ["opensmtpd", "dovecot"])
def test_no_flood_of_lines_hides_one(keeping, unit):
    """By default journald drops those of a unit beyond 10000 in 30 seconds."""
    # Who wrote a line is looked up when it is read: whoever is gone by then has no unit.
    enter = f"echo $$ >/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs"
    write = f"timeout 60 systemd-cat -t {unit}-flood sh -c '{FLOOD}' {unit}-flood"
    keeping.machine.run(f"{enter}; {write}")
    count = f"journalctl -q _SYSTEMD_UNIT={unit}.service -t {unit}-flood -o cat | wc -l"
    assert keeping.machine.run(count).stdout == "12000\n"


def test_the_log_is_kept_on_the_disk_for_its_time(keeping):
    """journald decides by the time in the name of a file that is closed."""
    # Where it cannot write there, it goes on in memory, as after --relinquish-var.
    on_disk = "journalctl -q -D /var/log/journal -t while-full -o cat"
    keeping.machine.run("journalctl --relinquish-var; logger -t while-full kept")
    assert keeping.machine.run(on_disk, check=False).stdout == ""
    keeping.machine.run("systemctl is-active mailsrv-logs.timer && systemctl start mailsrv-logs")
    assert keeping.machine.run(on_disk).stdout == "kept\n"
    directory = f"/var/log/journal/{keeping.machine.get('/etc/machine-id').strip()}"
    script = f"""
        journalctl --rotate; cd {directory}; set -- system@*.journal
        for days in 40 20; do
            at=$((($(date +%s) - days * 86400) * 1000000))
            name=$(printf system@%032x-%016x-%016x.journal $days 1 $at)
            cp "$1" $name; echo $name
        done
    """
    old, young = keeping.machine.run(script).stdout.split()
    keeping.machine.run("journalctl --rotate")
    names = keeping.machine.run(f"ls {directory}").stdout.split()
    keeping.machine.run(f"rm -f {directory}/{young}")
    assert (old in names, young in names) == (False, True)
    assert {"mailsrv-logs-config", "mailsrv-logs-service"} <= keeping.changed.keys()
    with keeping.having(logs=None) as changed:
        assert changed["mailsrv-logs-service"]["changes"]["restarted"]
        assert "mailsrv-logs-kept-retired" in changed
        assert keeping.highstate() == {}
