"""Mail clients, as people have them, do what docs/clients.md says, by its very files."""

import base64
import re
import shlex
import socket
import ssl
import time
import zlib
from pathlib import Path

import pytest

from commands import commands_of_sendmail
from server import parsed
from wire import until

pytestmark = pytest.mark.lab

PAGE = Path(__file__).parents[2] / "docs/clients.md"
FILES = dict(re.findall(r"^`~/(\S+)`[^\n]*\n\n```\w*\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)).splitlines()
PACKAGES = (
    "mutt msmtp isync getmail6 fetchmail offlineimap3 sieve-connect curl python3 libphp-phpmailer"
    " php-cli php-symfony-mailer nodejs node-nodemailer openssl"
)
INSTALL = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
    f" -o Dpkg::Options::=--force-unsafe-io {PACKAGES} && useradd -m -s /bin/bash pat"
)
# What has to be quoted somewhere, by one client or another.
PASSWORD = "it's #1: 50% & $HOME;"
# What the server sets by itself.
OF_DOVECOT = {"\\Recent", "$HasAttachment", "$HasNoAttachment"}


def command(beginning, number=0):
    """A command of the page by how it begins."""
    return [line for line in COMMANDS if line.startswith(beginning)][number]


class Desk:
    """Where somebody sits who has an account of `server`, and a home directory."""

    def __init__(self, server, machine, address, other):
        self.server, self.machine = server, machine
        self.address, self.other = address, other
        server.accounts[address] = PASSWORD
        machine.run(INSTALL)
        certificate = re.search(r'cert "(.*)"', server.machine.get("/etc/smtpd.conf"))[1]
        self.certificate = server.machine.get(certificate)
        make = "openssl req -x509 -nodes -newkey rsa:2048 -keyout /dev/null -subj /CN=mail"
        name = f"-addext subjectAltName=DNS:{server.machine.fqdn} 2>/dev/null"
        #: One for the same name, of somebody else.
        self.another = machine.run(f"{make} {name}").stdout
        self.put("mail.pem", self.certificate)
        self.put(".mail-password", f"{PASSWORD}\n")
        self.files()
        self.run("mkdir -p Mail Maildir/cur Maildir/new Maildir/tmp && chmod -R go= .")

    def files(self):
        for name, text in FILES.items():
            self.put(name, self.own(text))

    def own(self, text):
        """A text of the page with the names of here."""
        other = {
            "mail.example.com": self.server.machine.fqdn,
            "user1@example.com": self.address,
            "user1%40example.com": self.address.replace("@", "%40"),
            "users3@test.com": self.other,
            "/home/user1": "/home/pat",
            '"pass1"': f'"{PASSWORD}"',
        }
        if "\nisync 1.4" in f"\n{self.machine.run('mbsync --version').stdout}":
            other["TLSType"] = "SSLType"
        for theirs, ours in other.items():
            text = text.replace(theirs, ours)
        return text

    def put(self, name, text):
        self.machine.put(f"/home/pat/{name}", text)
        self.machine.run("chown -R pat: /home/pat")

    def run(self, line, check=True, **options):
        return self.machine.run(["su", "-", "pat", "-c", line], check=check, timeout=60, **options)

    def typed(self, beginning, number=0, **options):
        """A command of the page."""
        return self.run(self.own(command(beginning, number)), **options)

    def deliver(self, **message):
        """A message of the world that has come; its subject."""
        subject = self.server.deliver([self.address], **message)
        self.server.wait(self.address, subject)
        return subject

    def flags(self, folder, subject):
        """Of the one message with that subject in that folder, without the server's own."""
        with self.server.imap(self.address) as imap:
            imap.select(folder, readonly=True)
            (number,) = imap.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
            found = re.findall(r"[$\\]\w+", imap.fetch(number, "(FLAGS)")[1][0].decode())
        return {*found} - OF_DOVECOT

    def start(self, line):
        """Start a shell line of theirs; a `Popen`."""
        return self.machine.start(shlex.join(["su", "-", "pat", "-c", line]))

    def subjects(self, folder):
        """Of all messages of that folder, as the server has them."""
        with self.server.imap(self.address) as imap:
            imap.select(f'"{folder}"', readonly=True)
            found = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        return [parsed(part[1])["Subject"] for part in found if isinstance(part, tuple)]


@pytest.fixture(scope="module")
def desk(two, lab):
    machine = lab.machine("trixie", "desk.elsewhere.example")
    address, other = f"pat@{two.pillar['domains'][0]}", next(iter(two.accounts))
    with two.having(accounts=[[address, PASSWORD]]):
        yield Desk(two, machine, address, other)
    del two.accounts[address]
    machine.stop()


FIELDS = "From: user1@example.com\nTo: users3@test.com\nSubject: hello\n"
#: A line that sends, and the file that says what.
SENDERS = {
    "msmtp": ("msmtp users3@test.com <message.eml", "message.eml"),
    "mutt": ("mutt -s hello -- users3@test.com <message.eml", "message.eml"),
    "curl": (command("curl", 2), "message.eml"),
    "PHPMailer": ("php phpmailer.php", "phpmailer.php"),
    "Symfony Mailer": ("php symfony.php", "symfony.php"),
    "Nodemailer": ("NODE_PATH=/usr/share/nodejs node nodemailer.js", "nodemailer.js"),
    "Python": ("python3 smtp.py", "smtp.py"),
}


@pytest.mark.parametrize("client", SENDERS)
def test_it_sends_and_tells_its_password_to_none_but_the_server_it_trusts(desk, client):
    line, file = (desk.own(text) for text in SENDERS[client])
    subject = f"by {client}"
    desk.put(file, desk.own(FILES.get(file, f"{FIELDS}\ntext\n")).replace("hello", subject))
    line = line.replace("hello", shlex.quote(subject))
    desk.put("mail.pem", desk.another)
    failed = desk.run(line, check=False)
    desk.put("mail.pem", desk.certificate)
    assert failed.returncode, failed
    desk.run(line)
    desk.server.wait(desk.other, subject)
    assert len(desk.server.fetch(desk.other, subject)) == 1


FOLDERS = {"INBOX", "Drafts", "Sent", "Trash", "Junk", "Archive"}
ODD = "B&APw-cher &- Co"
#: What brings a mailbox and its copy together, and where that is.
SYNCS = {"mbsync": ("mbsync -a", "Mail"), "offlineimap": ("offlineimap", "Offline")}


@pytest.mark.parametrize("client", SYNCS)
def test_it_gets_what_came_and_what_is_done_to_its_copy_goes_back(desk, client):
    line, here = SYNCS[client]
    with desk.server.imap(desk.address) as imap:
        imap.create(f'"{ODD}"')
    subject, sent = desk.deliver(), f"filed by {client}"
    desk.run(line)
    copies = desk.run(f"cd {here} && find . -name cur -printf '%P\\n'").stdout.splitlines()
    copies = {name.removesuffix("/cur") for name in copies}
    assert copies in ({*FOLDERS, ODD}, {*FOLDERS, "Bücher & Co"})
    (file,) = desk.run(f"grep -rl {subject} {here}/INBOX").stdout.splitlines()

    seen = shlex.quote(f"{here}/INBOX/cur/{file.rpartition('/')[2].partition(':')[0]}:2,FS")
    desk.put(f"{here}/Sent/cur/1.filed:2,S", desk.own(FIELDS).replace("hello", sent) + "\ntext\n")
    desk.run(f"mv {shlex.quote(file)} {seen}")
    desk.run(line)
    assert desk.flags("INBOX", subject) == {"\\Flagged", "\\Seen"}
    assert desk.flags("Sent", sent) == {"\\Seen"}

    desk.run(f"rm {seen}")
    desk.run(line)
    assert desk.server.fetch(desk.address, subject) == []
    assert desk.server.fetch(desk.address, sent, "Sent")


def test_two_that_bring_the_same_mailbox_up_to_date_at_once_lose_nothing(desk):
    with desk.server.imap(desk.address) as imap:
        for number in range(40):
            imap.append("Archive", None, None, f"Subject: number {number}\r\n\r\n".encode())
    lines = [line for line, _ in SYNCS.values()]
    both = f"{{ {lines[0]}; echo $? >first; }} & {lines[1]} && wait && grep -x 0 first"

    def numbers():
        line = "grep -rh '^Subject: number' {}/Archive | sort -u"
        return [len(desk.run(line.format(here)).stdout.splitlines()) for _, here in SYNCS.values()]

    desk.run(both)
    assert numbers() == [40, 40]
    desk.run("rm $(grep -rl '^Subject: number 1' Mail/Archive)")
    desk.run(both)  # one looks while the other expunges
    desk.run(both)
    assert numbers() == [29, 29]


def test_two_sessions_expunge_beside_each_other(desk):
    """Each learns what the other has done, and what one has not been told of is still a number."""
    server, folder = desk.server, "Beside"
    with server.imap(desk.address) as one, server.imap(desk.address) as other:
        one.create(folder)
        for number in range(1, 101):
            one.append(folder, None, None, b"Subject: %d\r\n\r\ntext\r\n" % number)
        one.select(folder)
        assert other.select(folder) == ("OK", [b"100"])
        one.uid("STORE", "1:50", "+FLAGS.SILENT", r"(\Deleted)")
        other.uid("STORE", "51:60", "+FLAGS.SILENT", r"(\Deleted)")
        assert one.uid("EXPUNGE", "1:50")[0] == "OK"
        # Nothing is expunged between a number and its meaning (RFC 3501, 7.4.1).
        said, found = other.fetch("100", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        assert (said, parsed(found[0][1])["Subject"]) == ("OK", "100")
        assert other.expunge()[0] == "OK"
        assert one.noop()[0] == "OK"
        for session in one, other:
            status, found = session.uid("SEARCH", "ALL")
            assert (status, len(found[0].split())) == ("OK", 40)
        one.close()
        one.delete(folder)


#: What gets mail, where it puts it, and how it waits for more.
GETS = {
    "getmail": ("getmail", "Maildir", "getmail --idle INBOX"),
    "fetchmail": ("fetchmail --idle-off", "mail", "fetchmail"),
}


@pytest.mark.parametrize("client", GETS)
def test_it_gets_each_message_once_and_a_new_one_at_once(desk, client):
    _, place, waits = GETS[client]

    def got(subject):
        said = desk.run(f"grep -rh '^Subject: {subject}' {place}", check=False).stdout
        return len(said.splitlines())

    first = desk.deliver()
    waiting = desk.start(waits)
    try:
        until(lambda: got(first), 20, f"{client} gets nothing")
        time.sleep(1)  # until it waits
        second = desk.server.deliver([desk.address])
        began = time.monotonic()
        until(lambda: got(second), 20, f"{client} is told of nothing")
        assert time.monotonic() - began < 3
    finally:
        desk.run(f"pkill -u pat {client}", check=False)
        waiting.wait(20)
    assert (got(first), got(second)) == (1, 1)


MUTT = "stty rows 24 cols 80; exec mutt -e 'set {settings}; push {keys}'"


def test_mutt_finds_files_and_deletes_on_the_server_and_sees_what_comes(desk):
    assert "by mutt" in desk.subjects("Sent")
    kept, thrown = (
        desk.server.deliver([desk.address], text=f"{w} text\n") for w in ("keep", "throw")
    )
    desk.server.wait(desk.address, kept), desk.server.wait(desk.address, thrown)
    keys = (
        '"<tag-pattern>=b keep<enter><tag-prefix><save-message>=Archive<enter>'
        '<tag-pattern>=b throw<enter><tag-prefix><delete-message><sync-mailbox>"'
    )
    settings = 'confirmappend=no delete=yes timeout=1 new_mail_command="touch told"'
    desk.put("keys", MUTT.format(settings=settings, keys=keys))
    mutt = desk.start("TERM=linux script -qec 'sh keys' /dev/null </dev/null >/dev/null")
    try:
        desk.server.wait(desk.address, kept, "Archive")
        desk.server.wait(desk.address, thrown, "Trash")
        assert not {kept, thrown} & {*desk.subjects("INBOX")}
        time.sleep(1)
        began = time.monotonic()
        desk.server.deliver([desk.address])
        until(lambda: not desk.run("rm told", check=False).returncode, 20, "mutt is told nothing")
        assert time.monotonic() - began < 3
    finally:
        desk.run("pkill -u pat mutt", check=False)
        mutt.wait(20)


def test_curl_files_30_mb_finds_them_and_gets_the_same(desk):
    line = "0123456789" * 7 + "\n"
    large = desk.own(FIELDS).replace("hello", "large") + "\n" + line * (30_000_000 // 72)
    desk.put("message.eml", large.replace("\n", "\r\n"))
    desk.typed("curl", 0)
    numbers = desk.run(desk.own(command("curl", 1)).replace("hello", "large")).stdout
    (number,) = re.fullmatch(r"\* SEARCH ((?:\d+ ?)+)\s*", numbers)[1].split()
    get = f'{command("curl", 1).partition("?")[0]};MAILINDEX={number}" | sha256sum - message.eml'
    first, second = (said.split()[0] for said in desk.run(desk.own(get)).stdout.splitlines())
    assert first == second


def test_sieve_connect_brings_a_filter_that_files_and_no_wrong_one(desk):
    desk.put("mine.sieve", 'require "fileinto"; if exists "x-file" { fileinto "Archive"; }\n')
    desk.typed("sieve-connect", 0)
    desk.typed("sieve-connect", 1)
    desk.server.wait(desk.address, desk.server.deliver([desk.address], X_File="yes"), "Archive")
    desk.put("mine.sieve", 'require "nosuch";\n')
    wrong = desk.typed("sieve-connect", 0, check=False)
    assert wrong.returncode
    assert "line 1: error: require command: unknown Sieve capability" in wrong.stderr


class Imap:
    """A session word by word, as `desk` trusts the server."""

    def __init__(self, desk):
        server = desk.server
        trust = ssl.create_default_context(cadata=desk.certificate)
        plain = server.lab.outside.call(
            socket.create_connection, (server.machine.fqdn, 993), timeout=20
        )
        self._secured = trust.wrap_socket(plain, server_hostname=server.machine.fqdn)
        self._pack = self._unpack = None
        self._read, self._count = b"", 0
        self.line()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._secured.close()

    def line(self):
        """The next line, with what follows as a literal."""
        found = b""
        while not found.endswith(b"\r\n") or (literal := re.search(rb"\{(\d+)\}\r\n$", found)):
            wanted = int(literal[1]) if found else 0
            while b"\r\n" not in self._read[wanted:]:
                got = self._secured.recv(65536)
                assert got, f"closed after {found + self._read}"
                self._read += self._unpack.decompress(got) if self._unpack else got
            end = self._read.index(b"\r\n", wanted) + 2
            found, self._read = found + self._read[:end], self._read[end:]
        return found.decode()

    def write(self, text):
        data = text.encode()
        if self._pack:
            data = self._pack.compress(data) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        self._secured.sendall(data)

    def send(self, command):
        self._count += 1
        self.write(f"{self._count} {command}\r\n")

    def ask(self, command):
        """All that is said to that, to its end."""
        self.send(command)
        said = self.line()
        while not said.rpartition("\r\n")[0].rpartition("\r\n")[2].startswith(f"{self._count} "):
            said += self.line()
        return said

    def compress(self):
        assert "OK" in self.ask("COMPRESS DEFLATE")
        self._pack = zlib.compressobj(wbits=-15)
        self._unpack = zlib.decompressobj(wbits=-15)


HEADERS = (
    "BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID References Content-Type)]"
)
#: What Thunderbird says in a session, and what has to be in the answer.
THUNDERBIRD = (
    ("CAPABILITY", r" IDLE .* NAMESPACE UIDPLUS .* CONDSTORE.* MOVE .*SPECIAL-USE"),
    ('ID ("name" "Thunderbird" "version" "140.0")', r'\* ID \("name" "Dovecot"'),
    ("NAMESPACE", r'\* NAMESPACE \(\("" "/"\)\) NIL NIL'),
    ('LIST "" "INBOX"', "INBOX"),
    (
        'LIST (SUBSCRIBED) "" "*" RETURN (SPECIAL-USE)',
        r"(?s)(?=.*\\Drafts.* Drafts)(?=.*\\Sent.* Sent)(?=.*\\Junk.* Junk)(?=.*\\Trash.* Trash)"
        r"(?=.*\\Archive.* Archive)",
    ),
    ("ENABLE CONDSTORE", "OK"),
    ('SELECT "INBOX" (CONDSTORE)', r"(?s)PERMANENTFLAGS \(.*\\\*\).*HIGHESTMODSEQ"),
    ('GETQUOTAROOT "INBOX"', "OK"),
    ("UID FETCH 1:* (FLAGS)", "OK"),
    (f"UID FETCH 1:* (UID RFC822.SIZE FLAGS {HEADERS})", "OK"),
    ('CREATE "Archive/2026"', "OK"),
    ('SUBSCRIBE "Archive/2026"', "OK"),
    (
        'APPEND "Drafts" (\\Seen \\Draft) {24+}\r\nSubject: tb\r\n\r\nGrüße\r\n',
        r"APPENDUID",
    ),
    ('SELECT "Drafts" (CONDSTORE)', r"\* 1 EXISTS"),
    ("UID FETCH * (UID RFC822.SIZE BODY.PEEK[])", "Subject: tb\r\n\r\nGrüße"),
    ("UID SEARCH CHARSET UTF-8 BODY {7+}\r\nGrüße", r"\* SEARCH \d"),
    ("UID STORE 1:* +FLAGS (\\Flagged $label1)", r"\\Flagged .*\$label1|\$label1.*\\Flagged"),
    ("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1)", "MODSEQ"),
    ('UID COPY 1:* "Archive/2026"', "COPYUID"),
    ('UID MOVE 1:* "Trash"', r"(?s)COPYUID.*EXPUNGE"),
    ('STATUS "Archive/2026" (UIDNEXT MESSAGES UNSEEN RECENT)', "MESSAGES 1 "),
    ('SELECT "Archive/2026"', "1 EXISTS"),
    ("UID STORE 1:* +FLAGS (\\Deleted)", "Deleted"),
    ("UID EXPUNGE 1:*", "1 EXPUNGE"),
    ('RENAME "Archive/2026" "Archive/2025"', "OK"),
    ('UNSUBSCRIBE "Archive/2026"', "OK"),
    ('DELETE "Archive/2025"', "OK"),
    # Of Outlook, of phones.
    ('LSUB "" "*"', "Sent"),
    ('LIST "" "*" RETURN (SUBSCRIBED SPECIAL-USE STATUS (MESSAGES UNSEEN))', r"STATUS INBOX"),
    ('LIST (SPECIAL-USE) "" "*"', r"\\Sent"),
)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_commands_of_thunderbird_and_others_are_understood(desk, compressed):
    user = base64.b64encode(f"\0{desk.address}\0{PASSWORD}".encode()).decode()
    with Imap(desk) as imap:
        assert "OK" in imap.ask(f"AUTHENTICATE PLAIN {user}")
        if compressed:
            imap.compress()
        for asked, wanted in THUNDERBIRD:
            said = imap.ask(asked)
            assert re.search(wanted, said), (asked, said)
        imap.ask('SELECT "INBOX"')
        imap.send("IDLE")
        assert imap.line().startswith("+ ")
        began = time.monotonic()
        desk.server.deliver([desk.address])
        while not re.match(r"\* \d+ EXISTS", imap.line()):
            assert time.monotonic() - began < 3
        assert time.monotonic() - began < 3
        imap.write("DONE\r\n")
        assert "OK" in imap.line() + imap.line()


def test_who_looks_after_the_machine_has_the_commands_of_sendmail(server, late):
    commands_of_sendmail(server, late)
