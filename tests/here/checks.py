"""
The mail server of this machine, as ./bootstrap made it: whether what is promised holds here.

A real server may stand here. Mail goes to one account, marked, and is removed; the account's active
filter stays what it is; a run that would change something is not made.
"""

import email
import email.policy
import imaplib
import json
import os
import poplib
import pwd
import re
import smtplib
import socket
import subprocess
import urllib.request

import dkim
import pytest

from machine import FREEBSD, HOST, NOWHERE, PATH, UNVERIFIED, cannot_read, until
from managesieve import ManageSieve

on_freebsd = pytest.mark.skipif(not FREEBSD, reason="of FreeBSD alone")
disturbs = pytest.mark.disturbs

PATIENCE_OF_DNS = 60  # seconds
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\n"
# What our programs, the lines of cron and bootstrap ask of the base system, and its answer.
DIALECT = {
    "find -mtime": ("touch a; find a -mtime -4 2>/dev/null", "a"),
    "find -type -perm": ("touch a; chmod 604 a; find . -type f -perm -o=r", "./a"),
    "date +%s": ("[ $(date -u +%s) -gt 1700000000 ] && echo later", "later"),
    "head -c": ("printf abcdef | head -c 3", "abc"),
    "tail -n": ("printf 'a\\nb\\nc\\n' | tail -n 1", "c"),
    "tr -dc": ("printf 'aO0b' | LC_ALL=C tr -dc 'a-hjkmnp-z2-9'", "ab"),
    "tr classes": ("printf ABC | tr '[:upper:]' '[:lower:]'", "abc"),
    "sed groups": (r"echo '  - [a, b]' | sed -n 's/^  - \[\(.*\), \(.*\)\]$/\1 \2/p'", "a b"),
    "sed blocks": (r"printf 'During\nx\n- b\n' | sed -e '/^During/,/^[[-]/{/^[[-]/!d;}'", "- b"),
    "sed 1d": ("printf 'a\\nb\\n' | sed 1d", "b"),
    "fold -s": ("echo 'aaa bbb' | fold -s -w 4 | sed 's/ $//'", "aaa\nbbb"),
    "grep -e -e": ("echo b | grep -q -e a -e b && echo yes", "yes"),
    "readlink -f": ("touch a; ln -s a b; basename $(readlink -f b)", "a"),
    "mktemp -d": ("d=$(mktemp -d) && rmdir $d && echo made", "made"),
    "mkfifo": ("mkfifo p && [ -p p ] && echo pipe", "pipe"),
    "cksum": ("printf a | cksum", "1220704766 1"),
    "timeout": ("timeout 5 /bin/sh -c 'echo in time'", "in time"),
    "touch and -nt": ("touch -t 202001010000 a; touch b; [ b -nt a ] && echo newer", "newer"),
    "uname": ('[ -n "$(uname -s)" ] && echo named', "named"),
    "sh: local patterns": ("x=a.b.c; echo ${x%%.*} ${x#*.} ${x##*.}", "a b.c c"),
    "sh: read": ("printf 'a.b.c\\n' | while IFS=. read -r x y; do echo $x $y; done", "a b.c"),
    "logger": ("logger -t mailsrv -p mail.info 'a check' && echo said", "said"),
}
# Jobs of every night that know sendmail alone, as the formula switches them off.
JOBS = ["daily_clean_hoststat_enable", "daily_queuerun_enable", "daily_status_mail_rejects_enable"]
JOBS += ["daily_status_include_submit_mailq", "daily_submit_queuerun"]


def test_a_run_would_change_nothing(machine):
    assert machine.highstate("test=True") == {}


def test_a_run_changes_nothing(settled):
    assert settled.highstate() == {}


def test_the_own_check_finds_no_fault(machine):
    said = machine.salt("mailcheck.run")
    assert {name: text for name, text in said.items() if text.startswith("FAULT")} == {}


def test_the_daemons_run_and_start_with_the_machine(machine):
    services = [daemon["service"] for daemon in machine.daemons.values()]
    assert all(machine.process(service) for service in services)
    if FREEBSD:
        enabled = {os.path.basename(p) for p in machine.run("service -e").stdout.split()}
        assert {*services} - enabled == set()
    else:
        said = [machine.service("is-enabled", service).stdout for service in services]
        assert {*said} == {"enabled\n"}


# Who may read and run what


def test_users_are_there_and_cannot_log_in(machine):
    signer = machine.facts[machine.model["dkim"]["signer"]].get("user")
    for name in {"vmail", signer, machine.facts["opensmtpd"]["user"]}:
        user = pwd.getpwnam(name)
        assert user.pw_uid
        assert os.path.basename(user.pw_shell) in ("nologin", "false")


def test_secrets_cannot_be_read_by_others(machine):
    facts = machine.facts
    tables = [f"{facts['directory']}/{name}" for name in ("credentials", "virtuals", "sendas")]
    keys = [key["private"] for key in machine.model["dkim"]["keys"]]
    secret = [*tables, *keys, machine.model["tls"]["key"], facts["vmail"]["home"]]
    secret += [f"{facts['directory']}/password.key", f"{facts['directory']}/srs.conf"]
    secret.append(f"{facts['dovecot']['directory']}/dovecot-passwd")
    missing = [path for path in secret if not os.path.exists(path)]
    assert missing == []
    assert [path for path in secret if not cannot_read(path)] == []


def test_what_handles_strangers_mail_is_not_root(machine):
    said = machine.run("ps -axww -o uid= -o command=").stdout.splitlines()
    ran = [line.split(None, 1) for line in said]
    guards = {int(uid) for uid, command in ran if "/guard.py" in command and "sh -c" not in command}
    dispatchers = {int(uid) for uid, command in ran if command.startswith("smtpd: dispatcher")}
    assert guards
    assert dispatchers
    assert 0 not in guards | dispatchers


# Mail


def test_mail_comes_in_whole_and_once(machine):
    text = "Grüße 👩‍💻\n.\n..two dots\nFrom here\n" + "long " * 150 + "\n"
    mail = machine.message(machine.account, text=text)
    machine.deliver(mail, machine.account)
    came = email.message_from_bytes(machine.wait(mail), policy=email.policy.default)
    assert came.get_content().replace("\r\n", "\n") == text


def test_mail_of_two_megabytes_comes_in_whole(machine):
    text = "0123456789abcdef\n" * (2 << 16)
    mail = machine.message(machine.account, text=text)
    machine.deliver(mail, machine.account)
    came = email.message_from_bytes(machine.wait(mail), policy=email.policy.default)
    assert (came.get_content().replace("\r\n", "\n") == text) is True


def test_an_alias_leads_to_its_account(machine):
    led = [name for name, to in machine.model["aliases"].items() if to == [machine.account]]
    led = [name for name in led if not name.startswith("@")]
    if not led:
        pytest.skip("no alias leads to the account alone")
    mail = machine.message(led[0])
    machine.deliver(mail, led[0])
    assert machine.wait(mail)


def test_a_tag_leads_to_its_account(machine):
    if machine.model["subaddress"] != "inbox":
        pytest.skip("subaddress: a tag would make a folder")
    local, _, domain = machine.account.partition("@")
    mail = machine.message(machine.account)
    machine.deliver(mail, f"{local}+tag@{domain}")
    assert machine.wait(mail)


def test_who_is_not_there_gets_no_mail(machine):
    domain = machine.model["domains"][0]
    if f"@{domain}" in machine.model["aliases"]:
        pytest.skip("the domain takes mail for everybody")
    with smtplib.SMTP(HOST, 25, timeout=30) as smtp:
        smtp.ehlo()
        smtp.mail("")
        assert smtp.rcpt(f"nobody-{machine.run_id}@{domain}")[0] == 550


def test_nobody_relays(machine, stranger):
    for sender in ("somebody@relay.invalid", machine.account):
        with smtplib.SMTP(HOST, 25, timeout=30, source_address=(stranger, 0)) as smtp:
            smtp.ehlo()
            codes = smtp.mail(sender)[0], smtp.rcpt(f"somebody@{NOWHERE}")[0]
        assert codes != (250, 250)
    for port in (465, 587):
        with machine.submission(port) as smtp:
            smtp.ehlo()
            assert smtp.mail("somebody@relay.invalid")[0] == 530


def test_mail_of_a_local_program_comes_in(machine):
    mail = machine.message(machine.account)
    machine.run(["sendmail", "-t"], input=mail.as_string().replace("\r\n", "\n"))
    assert machine.wait(mail)
    machine.run(["mailq"])


def test_what_is_marked_as_spam_goes_to_junk(machine):
    if machine.model["spam_filter"]:
        pytest.skip("the spam filter takes off the marks of others")
    mail = machine.message(machine.account, X_Spam="yes")
    machine.deliver(mail, machine.account)
    assert machine.wait(mail, "Junk")


def test_the_spam_filter_looks_at_mail(machine):
    if not machine.model["spam_filter"]:
        pytest.skip("the pillar has no spam_filter")
    mail = machine.message(machine.account)
    machine.deliver(mail, machine.account)
    assert b"Authentication-Results: " in (machine.found(mail, "Junk") or [machine.wait(mail)])[0]


def test_the_spam_filter_knows_spam(machine):
    """Asked itself: what comes from this machine, it lets through."""
    if not machine.model["spam_filter"]:
        pytest.skip("the pillar has no spam_filter")
    mail = machine.message(machine.account, text=GTUBE)
    asked = urllib.request.Request("http://127.0.0.1:11333/checkv2", mail.as_bytes())
    asked.add_header("IP", "192.0.2.1")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["action"] == "reject"


def test_the_log_tells_what_became_of_a_message(machine):
    mail = machine.message(machine.account)
    machine.deliver(mail, machine.account)
    machine.wait(mail)

    def told():
        said = str(machine.salt("mailsrv.trace", mail["Message-ID"], "since=90m"))
        return f"stored in INBOX of {machine.account}" in said

    assert until(told, 20, "mailsrv.trace does not know it")


# What a user does


@pytest.mark.parametrize("port", [993, 143])
def test_imap_takes_the_password_under_tls(machine, password, port):
    if port == 993:
        imap = imaplib.IMAP4_SSL(HOST, port, ssl_context=UNVERIFIED, timeout=30)
    else:
        imap = imaplib.IMAP4(HOST, port, timeout=30)
        imap.starttls(UNVERIFIED)
    with imap:
        imap.login(machine.account, password)
        assert imap.select("INBOX", readonly=True)[0] == "OK"


@pytest.mark.parametrize("port", [995, 110])
def test_pop3_takes_the_password_under_tls(machine, password, port):
    if port == 995:
        pop3 = poplib.POP3_SSL(HOST, port, context=UNVERIFIED, timeout=30)
    else:
        pop3 = poplib.POP3(HOST, port, timeout=30)
        pop3.stls(UNVERIFIED)
    pop3.user(machine.account)
    pop3.pass_(password)
    assert pop3.quit().startswith(b"+OK")


@pytest.mark.parametrize("port", [465, 587])
def test_submission_takes_the_password_and_the_mail(machine, password, port):
    mail = machine.message(machine.account)
    with machine.submission(port) as smtp:
        smtp.login(machine.account, password)
        smtp.send_message(mail)
    assert machine.wait(mail)


def test_nobody_sends_as_somebody_else(machine, password):
    with machine.submission() as smtp:
        smtp.login(machine.account, password)
        assert smtp.mail(f"somebody@{NOWHERE}")[0] >= 500


def test_mail_that_leaves_is_signed(machine, password):
    """To a domain that is not: it is signed, its MX looked for, and it comes back as a bounce."""
    relay, domain = machine.model["relay"], machine.account.partition("@")[2]
    if relay["default"] or relay["senders"] or relay["recipients"]:
        pytest.skip("mail leaves by a relay, which would be asked to send it")
    mail = machine.message(f"somebody@{NOWHERE}")
    with machine.submission() as smtp:
        smtp.login(machine.account, password)
        smtp.send_message(mail, mail_options=["RET=FULL"])  # or its header alone comes back
    try:
        bounce = until(machine.bounce, PATIENCE_OF_DNS, "it did not bounce: does DNS answer?")
    finally:
        for line in machine.run(["smtpctl", "show", "queue"]).stdout.splitlines():
            if NOWHERE in line:
                machine.run(["smtpctl", "remove", line.partition("|")[0]], check=False)
    boundary = re.search(rb'boundary="(.*?)"', bounce)[1]
    original = bounce.split(b"\r\n--" + boundary)[-2].partition(b"\r\n\r\n")[2]
    records = {
        record["name"].rstrip("."): record["value"].encode()
        for found in machine.salt("mailsrv.dns").values()
        for record in found
        if record["type"] == "TXT"
    }

    def published(name, timeout=5):
        return records.get(name.decode().rstrip("."))

    verifier = dkim.DKIM(original)
    assert verifier.verify(dnsfunc=published)
    assert verifier.domain.decode() == domain


def test_a_filter_of_the_users_own_works(machine, password):
    with socket.create_connection((HOST, 4190), 30) as connection:
        session = ManageSieve(connection, UNVERIFIED, machine.account, password)
        with session as sieve:
            if sieve.active() is not None:
                pytest.skip("the account has a filter, which stays the active one")
            mail, name = machine.message(machine.account), f"here-{machine.run_id}"
            rule = f'if header :is "Subject" "{mail["Subject"]}"'
            try:
                sieve.put(name, f'require "imap4flags"; {rule} {{ setflag "\\\\Flagged"; }}\r\n')
                machine.deliver(mail, machine.account)
                machine.wait(mail)
            finally:
                sieve.use("")
                sieve.remove(name)
    with machine.mailbox() as imap:
        imap.select("INBOX", readonly=True)
        asked = ("SEARCH", "FLAGGED", "SUBJECT", f'"{mail["Subject"]}"')
        assert imap.uid(*asked)[1][0].split()


# Of FreeBSD


@on_freebsd
def test_sendmail_of_the_base_system_is_off(machine):
    assert machine.run("sysrc -n sendmail_enable").stdout == "NONE\n"
    said = machine.run("ps -axww -o command=").stdout.splitlines()
    assert [line for line in said if line.startswith("sendmail: ")] == []


@on_freebsd
@pytest.mark.parametrize("job", JOBS)
def test_a_job_of_every_night_is_off(machine, job):
    assert machine.run(["sysrc", "-f", "/etc/periodic.conf", "-n", job]).stdout == "NO\n"


@on_freebsd
def test_the_log_does_not_grow_for_ever(machine):
    assert "/var/log/maillog" in machine.run(["newsyslog", "-n", "-v"]).stdout


@on_freebsd
def test_mailwrapper_leads_to_opensmtpd(machine):
    said = machine.run(["mailq"], check=False)
    assert said.returncode == 0
    text = machine.run(["cat", machine.facts["opensmtpd"]["mailer_conf"]]).stdout
    assert "sendmail\t/usr/local/sbin/smtpctl" in text


@on_freebsd
def test_cron_has_a_line_for_each_daemon(machine):
    there = os.listdir(machine.facts["cron"])
    assert {f"mailsrv-{name}" for name in machine.daemons} - {*there} == set()
    assert "mailsrv-purge" in there


@pytest.mark.parametrize("what", DIALECT)
def test_the_base_system_speaks_our_dialect(what, tmp_path):
    line, answer = DIALECT[what]
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": {"PATH": PATH}}
    done = subprocess.run(["/bin/sh", "-c", line], timeout=30, **options)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (answer, "", 0)


def test_deliver_sees_who_hands_it_a_message(machine):
    """As vmail, by ps(1): smtpd's process that hands a message on is a child of its first one."""
    first = machine.process(machine.facts["opensmtpd"]["service"])
    asked = "/bin/ps -ax -o pid= -o ppid= -o state= -o command="
    done = subprocess.run(asked.split(), capture_output=True, text=True, user="vmail", check=True)
    rows = [line.split(None, 3) for line in done.stdout.splitlines()]
    found = [row for row in rows if row[1] == str(first) and row[3].startswith("smtpd: dispatcher")]
    assert len(found) == 1


# What is restarted, and what died


@disturbs
@pytest.mark.parametrize("name", ["opensmtpd", "dovecot", "dkimproxy", "rspamd", "redis"])
def test_a_daemon_that_is_restarted_has_what_it_shall(settled, name):
    if name not in settled.daemons:
        pytest.skip(f"the pillar wants no {name}")
    service = settled.daemons[name]["service"]
    before = settled.process(service)
    settled.service("restart", service)
    until(lambda: settled.process(service) not in (0, before), 60, f"{service} does not come back")
    assert settled.highstate("test=True") == {}


@disturbs
def test_daemons_that_are_killed_come_back_by_themselves(settled):
    services = [daemon["service"] for daemon in settled.daemons.values()]
    before = {service: settled.process(service) for service in services}
    for number in before.values():
        os.kill(number, 9)
    for service in services:
        until(
            lambda service=service: settled.process(service) not in (0, before[service]),
            150,
            f"{service} does not come back",
        )
        if FREEBSD:
            with open("/var/log/maillog", errors="replace") as log:
                assert f"{service} had ended and is started again" in log.read()
    assert settled.highstate("test=True") == {}


@disturbs
def test_mail_comes_in_afterwards(machine, password):
    def taken():
        try:
            with smtplib.SMTP(HOST, 25, timeout=30):
                return True
        except OSError:
            return False

    until(taken, 60, "port 25 does not answer")
    mail = machine.message(machine.account)
    with machine.submission() as smtp:
        smtp.login(machine.account, password)
        smtp.send_message(mail)
    assert machine.wait(mail)


def test_nothing_is_left_behind(machine):
    machine.tidy()
    assert not any(machine.left())
    assert NOWHERE not in machine.run(["smtpctl", "show", "queue"]).stdout
