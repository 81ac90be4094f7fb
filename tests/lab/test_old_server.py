"""Mail moves in from an old IMAP server, again and again until the switch: a Dovecot, a Courier."""

import json
import re
import shlex
import time

import pytest

from lab import HEAD

pytestmark = pytest.mark.lab

PASSWORD = 'old, "pass" é'
SETUP = r"""
set -e
mkdir -p /srv/old/olga && cd /srv/old
echo '127.0.0.1 old.provider.example' >>/etc/hosts
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \
    -subj /CN=old.provider.example -addext subjectAltName=DNS:old.provider.example 2>/dev/null
chown vmail: olga
chown dovecot users
chmod 600 key.pem users
dovecot -c /srv/old/dovecot.conf >/dev/null 2>&1 </dev/null
"""
CONF = {
    "bookworm": """
ssl_cert = </srv/old/cert.pem
ssl_key = </srv/old/key.pem
mail_location = maildir:~/Maildir
passdb {
  driver = passwd-file
  args = /srv/old/users
}
userdb {
  driver = passwd-file
  args = /srv/old/users
}
""",
    "trixie": """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = /srv/old/cert.pem
ssl_server_key_file = /srv/old/key.pem
mail_driver = maildir
mail_path = ~/Maildir
passdb passwd-file {
  passwd_file_path = /srv/old/users
}
userdb passwd-file {
  passwd_file_path = /srv/old/users
}
""",
}
COMMON = r"""
base_dir = /run/old
log_path = /srv/old/log
protocols = imap
ssl = required
first_valid_uid = 1
service imap-login {
  inet_listener imap {
    port = 10143
  }
  inet_listener imaps {
    port = 10993
    ssl = yes
  }
}
namespace inbox {
  inbox = yes
  separator = /
  mailbox "Sent Items" {
    special_use = \Sent
  }
}
"""
# Messages from the standard input into a mailbox there; what else is asked of it.
CLIENT = r"""
import imaplib, json, ssl, sys
host, port, ca, user, password, messages, commands = json.load(sys.stdin)
imap = imaplib.IMAP4_SSL(host, port, ssl_context=ssl.create_default_context(cafile=ca))
imap.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
for folder, flags, date, text, size in messages:
    imap.create(f'"{folder}"')
    text = (text + ("x" * 70 + "\r\n") * (size // 72)).encode()
    typ, said = imap.append(f'"{folder}"', f"({flags})", f'"{date}"', text)
    assert typ == "OK", said
for command in commands:
    typ, said = getattr(imap, command[0])(*command[1:])
    assert typ == "OK", said
"""
# What it sets by itself, the latter from 2.4.5 on.
OF_DOVECOT = {"\\Recent", "$HasAttachment", "$HasNoAttachment"}
DATE = "05-Mar-2020 10:00:00 +0200"


def mail(subject, folder="INBOX", flags="", date=DATE, size=0):
    text = f"From: a@b.example\r\nMessage-ID: <{subject}@x>\r\nSubject: {subject}\r\n\r\ntext\r\n"
    return folder, flags, date, text, size


MAIL = [
    mail("one", flags=r"\Seen \Answered $Forwarded"),
    mail("two", date=" 6-Apr-2019 23:59:58 -0500"),
    mail("two", date=" 6-Apr-2019 23:59:58 -0500"),
    mail("large", size=30_000_000),
    mail("sent", "Sent Items", r"\Seen"),
    mail("rubbish", "Gel&APY-schte Elemente"),
    mail("nested", "Old/2019/&AOk-t&AOk-"),
    mail("draft", "Entw&APw-rfe", r"\Draft"),
]


class Old:
    """An old server, as the machine sees it."""

    def __init__(self, server, host, port, ca, user):
        self.server, self.user = server, user
        self._at = host, port, ca, user, PASSWORD
        self.url = f"from=imaps://{host}:{port}"
        self.ca = f"ca={ca}"
        server.machine.put("/root/old.pw", f"{PASSWORD}\n")
        server.machine.run("chmod 600 /root/old.pw")

    def fill(self, *messages, then=()):
        data = json.dumps([*self._at, messages, then])
        self.server.machine.run(["python3", "-c", CLIENT], input=data)

    def options(self):
        return [self.url, self.ca, f"user={self.user}", "password_file=/root/old.pw"]

    def migrate(self, address, *more, **options):
        return self.server.salt("mailsrv.migrate", address, *self.options(), *more, **options)


@pytest.fixture(scope="module")
def old(server):
    machine = server.machine
    version = machine.run("dovecot --version").stdout
    conf = CONF["bookworm" if version.startswith("2.3") else "trixie"] + COMMON
    lines = conf.strip().splitlines()
    machine.put("/srv/old/dovecot.conf", "\n".join(lines) + "\n")
    machine.put("/srv/old/users", f"olga:{{PLAIN}}{PASSWORD}:vmail:vmail::/srv/old/olga\n")
    machine.run(SETUP)
    time.sleep(1)
    yield Old(server, "old.provider.example", 10993, "/srv/old/cert.pem", "olga")
    machine.run("kill $(cat /run/old/master.pid); rm -r /srv/old /root/old.pw")
    machine.run("sed '/old.provider.example/d' /etc/hosts >/tmp/hosts; cat /tmp/hosts >/etc/hosts")


@pytest.fixture
def mailbox(server, user, old):
    """An empty old mailbox, and one here."""

    def clear():
        machine = server.machine
        machine.run("rm -rf /var/lib/mailsrv/migrated /srv/old/olga/Maildir")
        machine.run(["doveadm", "expunge", "-u", user, "mailbox", "*", "all"])
        with server.imap(user) as imap:
            names = [line.decode().rpartition(' "/" ')[2] for line in imap.list()[1]]
            ours = {"INBOX", "Drafts", "Sent", "Trash", "Junk", "Archive"}
            for name in sorted({*names} - ours, key=len, reverse=True):
                imap.unsubscribe(name)
                imap.delete(name)

    clear()
    yield
    clear()


def listed(server, user, folder="INBOX"):
    """Subject, flags and date of each message there, sorted."""
    found = []
    with server.imap(user) as imap:
        assert imap.select(f'"{folder}"', readonly=True)[0] == "OK"
        items = "(FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (SUBJECT)])"
        for part in imap.uid("FETCH", "1:*", items)[1]:
            if isinstance(part, tuple):
                head = part[0].decode()
                flags = {*re.search(r"FLAGS \((.*?)\)", head)[1].split()} - OF_DOVECOT
                date = re.search('INTERNALDATE "(.*?)"', head)[1]
                found.append((part[1].decode().split()[1], " ".join(sorted(flags)), date))
    return sorted(found)


def subjects(server, user, folder="INBOX"):
    return [subject for subject, *_ in listed(server, user, folder)]


@pytest.mark.usefixtures("mailbox")
def test_mail_comes_with_folders_flags_and_dates_and_comes_once(server, user, old):
    old.fill(*MAIL)
    would = old.migrate(user, "test=True")
    assert subjects(server, user) == []
    came = old.migrate(user)
    assert would == came
    counts = {name: entry["messages"] for name, entry in came["folders"].items()}
    assert counts == {"INBOX": 4, "Sent": 1, "Trash": 1, "Drafts": 1, "Old/2019/été": 1}
    assert listed(server, user) == [
        ("large", "", "05-Mar-2020 08:00:00 +0000"),
        ("one", "$Forwarded \\Answered \\Seen", "05-Mar-2020 08:00:00 +0000"),
        *[("two", "", "07-Apr-2019 04:59:58 +0000")] * 2,
    ]
    (large,) = server.fetch(user, "large")
    assert len(large) > 29_900_000
    assert large.endswith(b"x\r\n")
    assert subjects(server, user, "Trash") == ["rubbish"]
    assert subjects(server, user, "Old/2019/&AOk-t&AOk-") == ["nested"]
    assert listed(server, user, "Drafts")[0][1] == "\\Draft"
    again = old.migrate(user)
    assert (again["folders"], again["there"], again["flags"]) == ({}, len(MAIL), 0)


@pytest.mark.usefixtures("mailbox")
def test_until_the_switch_both_sides_are_used(server, user, old):
    old.fill(mail("one"), mail("two"), mail("three"))
    old.migrate(user)
    for number in range(3):
        server.wait(user, server.deliver([user]))
        with server.imap(user) as imap:
            imap.select()
            if number == 0:
                imap.store("1", "+FLAGS", "\\Flagged")
                imap.store("2", "+FLAGS", "\\Deleted")
                imap.expunge()
        then = [("select",), ("store", "1", "+FLAGS", "\\Seen")] if number == 1 else []
        old.fill(mail(f"new{number}"), then=then)
        came = old.migrate(user)
        assert came["folders"]["INBOX"]["messages"] == 1
        assert came["flags"] == (number == 1)
        assert old.migrate(user)["folders"] == {}
    found = listed(server, user)
    assert [name for name, *_ in found if len(name) < 9] == ["new0", "new1", "new2", "one", "three"]
    assert len(found) == 8
    (one,) = [flags for name, flags, _ in found if name == "one"]
    assert one == "\\Flagged \\Seen"


@pytest.mark.usefixtures("mailbox")
def test_a_run_that_is_killed_is_finished_by_the_next(server, user, old):
    names = [f"m{number:04}" for number in range(300)]
    old.fill(*(mail(name) for name in names))
    command = " ".join(f"'{option}'" for option in old.options())
    kill = (
        f"salt-call mailsrv.migrate {user} {command} >/dev/null 2>&1 & run=$!;"
        f" until [ $(doveadm search -u {user} mailbox INBOX all | wc -l) -gt {{count}} ]"
        " || ! kill -0 $run; do sleep 0.1; done; kill -9 $run; wait"
    )
    for count in (20, 120):
        server.machine.run(kill.format(count=count), check=False)
        assert len(subjects(server, user)) < 300
    old.migrate(user)
    assert subjects(server, user) == names
    # What a power cut takes of the notes is found again by what the messages are.
    server.machine.run("rm -r /var/lib/mailsrv/migrated")
    assert old.migrate(user)["folders"] == {}
    assert subjects(server, user) == names


@pytest.mark.usefixtures("mailbox")
def test_a_secret_is_nowhere_and_each_mistake_is_one_sentence(server, user, old):
    old.fill(*(mail(f"m{number}") for number in range(200)))
    since = time.time()
    server.machine.run("touch /root/watched")
    watch = server.machine.start(
        "while [ -e /root/watched ];"
        " do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
        """ | grep -aE 'ol[d], "p|no-secre[t]'; sleep 0.1; done"""
    )
    old.migrate(user)
    server.machine.run(["sh", "-c", "sleep 1; rm /root/watched", "no-secret"])
    seen = watch.communicate()[0]
    assert "no-secret" in seen
    assert "old, " not in seen
    assert PASSWORD not in server.machine.run(f"journalctl --since=@{since:.0f}").stdout
    server.machine.put("/root/wrong.pw", "wrong-secret\n")
    server.machine.run("chmod 600 /root/wrong.pw")

    def refused(*options, address=user):
        command = ["salt-call", "mailsrv.migrate", address, *old.options(), *options]
        ran = server.machine.run(command, check=False, timeout=100)
        assert ran.returncode
        assert "Traceback" not in ran.stdout + ran.stderr
        assert "wrong-secret" not in ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    host = "old.provider.example"
    assert f"{host} does not take user olga" in refused("password_file=/root/wrong.pw")
    assert "self-signed certificate" in refused("ca=")
    server.machine.run("chmod 644 /root/wrong.pw")
    assert "chmod 600 /root/wrong.pw" in refused("password_file=/root/wrong.pw")
    assert "there is no host nowhere.example" in refused("from=imaps://nowhere.example")
    assert "Connection refused" in refused(f"from=imaps://{host}:9")
    assert "is not an account of the pillar" in refused(address="nobody@one.example")
    server.machine.run("rm /root/wrong.pw")


@pytest.mark.usefixtures("mailbox")
def test_a_table_goes_on_after_one_that_fails(server, user, old):
    old.fill(mail("one"))
    quoted = PASSWORD.replace('"', '""')
    first, second = list(server.accounts)[:2]
    assert first == user
    server.machine.put("/root/table.csv", f'{second},olga,no\n{user},olga,"{quoted}"\n')
    server.machine.run("chmod 600 /root/table.csv")
    ran = server.machine.run(
        ["salt-call", "--out=json", "mailsrv.migrate", "table=/root/table.csv", old.url, old.ca],
        check=False,
    )
    server.machine.run("rm /root/table.csv")
    assert ran.returncode == 1
    result = json.loads(ran.stdout)["local"]
    assert result["whole"] == "1 of 2 accounts"
    assert result["failed"][0].startswith(f"{second}: mailsrv.migrate: old.provider.example")
    assert subjects(server, user) == ["one"]


@pytest.mark.usefixtures("mailbox")
def test_a_terminal_shows_each_folder(server, user, old):
    old.fill(mail("one"), mail("two"), mail("sent", "Sent Items"))
    command = shlex.join(["salt-call", "mailsrv.migrate", user, *old.options()])
    shown = server.machine.run(["script", "-qec", command, "/dev/null"]).stdout
    assert f"{user}: INBOX: 2 messages, 0.0 MB\n" in shown
    assert f"{user}: Sent: 1 messages, 0.0 MB from Sent Items\n" in shown


@pytest.mark.usefixtures("mailbox")
def test_what_no_quota_holds_is_said_beforehand(server, old):
    address = "tim@" + server.pillar["domains"][0]
    account = {"address": address, "password": "tim's pass", "quota": "1M"}
    old.fill(mail("one"), mail("large", size=3_000_000))
    with server.having(accounts=[account]):
        command = ["salt-call", "mailsrv.migrate", address, *old.options()]
        ran = server.machine.run(command, check=False)
        assert ran.returncode
        assert "the quota of" in ran.stderr
        found = server.machine.run(["doveadm", "search", "-u", address, "all"]).stdout
        assert found == ""
    server.salt("mailsrv.purge", address)


COURIER = r"""
set -e
apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends courier-imap openssl >/dev/null
useradd --create-home olga
echo "olga:$1" | chpasswd
runuser -u olga -- maildirmake /home/olga/Maildir
cd /etc/courier
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \
    -subj /CN=old.courier.example -addext subjectAltName=DNS:old.courier.example 2>/dev/null
cat key.pem cert.pem >imapd.pem
systemctl restart courier-imap-ssl
"""


@pytest.fixture
def courier(lab, server, user, mailbox):
    machine = lab.machine("trixie", "old.courier.example")
    try:
        lab.dns.serve("courier.example", HEAD + f"old A {machine.address}\n")
        machine.run(["sh", "-c", COURIER, "sh", PASSWORD])
        server.machine.put("/root/courier.pem", machine.get("/etc/courier/cert.pem"))
        yield Old(server, machine.fqdn, 993, "/root/courier.pem", "olga")
    finally:
        machine.stop()


@pytest.mark.parametrize("server", ["two"], ids=["trixie"], indirect=True)
def test_courier_has_all_its_folders_in_the_inbox(server, user, courier):
    courier.fill(
        mail("one", flags=r"\Seen"),
        *(mail("sent", "INBOX.Sent"), mail("rubbish", "INBOX.Deleted Items")),
        mail("nested", "INBOX.Gr&APw-n.Bl&AOQ-tter"),
    )
    came = courier.migrate(user)
    counts = {name: entry["messages"] for name, entry in came["folders"].items()}
    assert counts == {"INBOX": 1, "Sent": 1, "Trash": 1, "Grün/Blätter": 1}
    assert listed(server, user) == [("one", "\\Seen", "05-Mar-2020 08:00:00 +0000")]
    assert subjects(server, user, "Gr&APw-n/Bl&AOQ-tter") == ["nested"]
    courier.fill(mail("two"))
    assert courier.migrate(user)["folders"]["INBOX"]["messages"] == 1
    assert courier.migrate(user)["folders"] == {}
    assert subjects(server, user) == ["one", "two"]
