"""What an old server says of its mail, what becomes of it here, and what nonsense becomes."""

import contextlib
import random
import socket
import ssl
import subprocess
import threading
import time

import _mailsrv_migrating as migrating
import pytest
from _mailsrv import migrating as core
from salt.exceptions import CommandExecutionError, SaltInvocationError


def places(*lines, others=()):
    found, left = core.plan(core.listed(lines), others)
    return {text: here for _, text, here in found}, left


def test_the_folders_of_courier_and_cyrus_leave_the_inbox():
    found, left = places(
        b'(\\HasChildren) "." INBOX',
        b'(\\HasNoChildren) "." "INBOX.Sent Items"',
        b'(\\Noselect) "." "INBOX.Gr&APw-n"',
        b'() "." "INBOX.Gr&APw-n.Bl&AOQ-tter"',
        b'() "." "INBOX.a/b"',
    )
    assert left == []
    assert found == {
        "INBOX": "INBOX",
        "INBOX.Sent Items": "Sent",
        "INBOX.Grün.Blätter": "Grün/Blätter",
        "INBOX.a/b": "a_b",
    }


def test_gmail_shows_each_message_once():
    found, left = places(
        b'(\\HasNoChildren) "/" "INBOX"',
        b'(\\HasChildren \\Noselect) "/" "[Gmail]"',
        b'(\\All) "/" "[Gmail]/Alle Nachrichten"',
        b'(\\Flagged) "/" "[Gmail]/Markiert"',
        b'(\\Important) "/" "[Gmail]/Wichtig"',
        b'(\\Sent) "/" "[Gmail]/Gesendet"',
        b'() "/" "[Gmail]/Spam"',
        b'() "/" "Work/2019"',
    )
    assert [sentence.partition(":")[0] for sentence in left] == [
        *("[Gmail]/Alle Nachrichten", "[Gmail]/Markiert", "[Gmail]/Wichtig"),
    ]
    assert found == {
        **{"INBOX": "INBOX", "[Gmail]/Gesendet": "Sent", "[Gmail]/Spam": "Junk"},
        "Work/2019": "Work/2019",
    }


def test_outlook_is_known_by_its_names_and_what_the_server_says_comes_first():
    found, _ = places(
        *(b'() "/" INBOX', b'() "/" "Deleted Items"', b'() "/" "Junk Email"'),
        *(b'() "/" "Sent Items"', b'() "/" "Sent Items/2019"', b'(\\Drafts) "/" "Foo"'),
        *(b'() "/" "Drafts"', b'() "/" "Draft"', b'() "/" "Old/Spam"'),
    )
    assert found == {
        **{"INBOX": "INBOX", "Deleted Items": "Trash", "Junk Email": "Junk"},
        **{"Sent Items": "Sent", "Sent Items/2019": "Sent/2019", "Foo": "Drafts"},
        **{"Drafts": "Drafts", "Draft": "Draft", "Old/Spam": "Old/Spam"},
    }


def test_what_is_others_and_what_is_no_name_is_left_out():
    answer = b'(("INBOX." ".")) (("user." ".")) (("Public." "."))'
    assert core.foreign(answer) == [b"user.", b"Public."]
    assert core.foreign(b'(("" "/")) NIL NIL') == []
    cyrus = core.foreign(b'(("INBOX." ".")) (("user." ".")) (("" "."))')
    found, left = places(b'() "." INBOX', b'() "." INBOX.a', b'() "." board', others=cyrus)
    assert found == {"INBOX": "INBOX", "INBOX.a": "a"}
    found, left = places(
        *(b'() "." INBOX', b'() "." "user.bob"', b'() "." "INBOX.\xff"', b'() "." "INBOX.&AAA-"'),
        others=[b"user."],
    )
    assert found == {"INBOX": "INBOX"}
    assert len(left) == 3


@pytest.mark.parametrize("name", ["é & x", "Entwürfe", "日本/語", 'a\\b"c', "&&-", "😀"])
def test_names_come_and_go_in_modified_utf_7(name):
    assert core.decoded(core.coded(name)) == name
    assert core.coded(name).isascii()
    ((_, _, back),) = core.listed([b'() "/" ' + core.quoted(core.coded(name))])
    assert core.decoded(back) == name


def test_a_message_is_read_however_its_parts_are_ordered():
    date = "05-Mar-2020 10:00:00 +0200"
    lines = [
        b'1 (UID 4 FLAGS (\\Seen \\Recent $x) RFC822.SIZE 3 INTERNALDATE "%b")' % date.encode(),
        *((b"1 (UID 4 BODY[] {5}", b"UID 9"), b")"),
        *((b"2 (BODY[] {2}", b"xx"), b" UID 5 FLAGS ())"),
        *(None, b"junk", b"3 (UID 99999999999 FLAGS ())", b"4 (UID 0)"),
    ]
    assert core.messages(lines) == {
        4: {"flags": {"\\Seen", "$x"}, "size": 3, "date": date, "text": b"UID 9"},
        5: {"flags": set(), "text": b"xx"},
    }


def test_whatever_a_server_says_is_read_without_an_error():
    dice = random.Random(1)
    letters = b'()"\\ {}5&-,./\x00\xff\r\nUIDFLAGSBODY[]*'
    for _ in range(3000):
        text = bytes(dice.choices(letters, k=dice.randrange(40)))
        line = (text, text[::-1]) if dice.random() < 0.3 else text
        core.messages([line, text, None])
        core.plan(core.listed([b'() "/" "' + text + b'"', line]), core.foreign(text))
        assert core.words(text, "secret").isprintable()


def test_a_table_is_read_and_its_faults_tell_no_password():
    text = '# all\n\nAnn@One.example,ann,"a ""b"", c"\nbob@one.example, bob, pw é\n'
    assert core.table(text) == (
        [("ann@one.example", "ann", 'a "b", c'), ("bob@one.example", "bob", "pw é")],
        [],
    )
    _, faults = core.table(
        "a@b.example,a,secret,secret\nno,a,secret\nx@b.example,x,secret\nx@b.example,y,secret\n"
        'z@b.example,z,"secret\n'
    )
    assert len(faults) == 4
    assert "secret" not in " ".join(faults)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("imaps://Old.example", ("imaps", "old.example", 993)),
        ("imap://old.example:144/", ("imap", "old.example", 144)),
        *((url, None) for url in ("old.example", "imaps://u:p@old.example", "imaps://x", None)),
        *((url, None) for url in ("imaps://old.example:0", "imaps://old.example:99999", "pop3://")),
    ],
)
def test_a_server_is_named_by_a_url(url, server):
    assert core.server(url) == server


def test_batches_hold_so_many_bytes_and_no_message_is_too_large_for_one():
    sizes = [(1, 5), (2, 5), (3, 50), (4, 1)]
    assert [uids for uids, _ in core.batches(sizes, 10, 100)] == [[1, 2], [3], [4]]
    assert [uids for uids, _ in core.batches(sizes, 1000, 2)] == [[1, 2], [3, 4]]


def test_a_file_of_passwords_is_for_root_alone(tmp_path):
    path = tmp_path / "pw"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(SaltInvocationError, match="chmod 600"):
        migrating._secret(str(path))
    path.chmod(0o600)
    assert migrating._secret(str(path)) == "secret"
    path.write_bytes(b"\xff\xfe\xfd")
    for wrong in (str(path), str(tmp_path), str(tmp_path / "none"), None):
        with pytest.raises(SaltInvocationError) as caught:
            migrating._secret(wrong)
        assert "secret" not in str(caught.value)


# Old servers of bad will


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("old")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory


@contextlib.contextmanager
def speaking(certificate, talk):
    """A server that does `talk` with each connection; where it is, as _There wants it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def serve():
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with contextlib.suppress(OSError, ValueError):
                    wire = context.wrap_socket(plain, server_side=True)
                    wire.settimeout(20)
                    talk(wire, wire.makefile("rb"))
                plain.close()

    with socket.create_server(("localhost", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        trust = ssl.create_default_context(cafile=certificate / "cert.pem")
        old = {"scheme": "imaps", "host": "localhost", "port": listener.getsockname()[1]}
        yield {**old, "tls": trust, "user": "u", "password": "the secret"}


def saying(**answers):
    """Speak IMAP as far as it goes, and those answers to those commands."""

    def talk(wire, lines):
        wire.sendall(b"* OK [CAPABILITY IMAP4rev1] hello\r\n")
        for line in lines:
            tag, command, *rest = line.split()
            name = rest[0] if command == b"UID" else command
            answer = answers.get(name.decode(), b"")
            for piece in answer(line) if callable(answer) else [answer]:
                wire.sendall(piece)
            if not answer or not callable(answer):
                wire.sendall(tag + b" OK done\r\n")

    return talk


def silent(wire, lines):
    time.sleep(10)


def dripping(wire, lines):
    for _ in range(100):
        wire.sendall(b"x")
        time.sleep(0.1)


def garbage(wire, lines):
    wire.sendall(random.Random(2).randbytes(5000))


def flood(wire, lines):
    wire.sendall(b"* OK hello\r\n")
    while True:
        wire.sendall(b"* LIST () NIL x\r\n" * 1000)


def refusing(line):
    tag = line.split()[0]
    return [tag + b" NO no, the secret is not your password\r\n"]


LIST = b'* LIST () "/" INBOX\r\n'
SELECT = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n"
HOSTILE = {
    "silence": silent,
    "drops": dripping,
    "garbage": garbage,
    "flood": flood,
    "hangs up": lambda wire, lines: None,
    "an answer to nothing": lambda wire, lines: wire.sendall(b"A1 OK\r\n* BYE\r\n"),
    "a refusal that repeats the password": saying(LOGIN=refusing),
    "no folder": saying(LIST=b"* LIST nonsense\r\n* LIST (((\r\n"),
    "a name without an end": saying(LIST=lambda line: [b'* LIST () "/" {99999999999}\r\n']),
    "a message without an end": saying(
        LIST=LIST, EXAMINE=SELECT, FETCH=lambda line: [b"* 1 FETCH (BODY[] {999999999999}\r\n"]
    ),
    "no number": saying(LIST=LIST, EXAMINE=b"* x EXISTS\r\n* OK [UIDVALIDITY y] x\r\n"),
    "a literal that is none": saying(LIST=LIST, EXAMINE=SELECT, FETCH=lambda line: [b"* {x}\r\n"]),
}


def ask_all(old):
    with migrating._There(old) as there:
        for folder, *_ in core.plan(*there.folders())[0]:
            there.open(folder)
            there.state()
            there.texts([1], 10)


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_ends_with_a_sentence_and_in_time(certificate, monkeypatch, name):
    monkeypatch.setattr(migrating, "PATIENCE", 1)
    monkeypatch.setattr(migrating, "DEADLINE", 2)
    monkeypatch.setattr(migrating, "LARGEST", 5_000_000)
    start = time.monotonic()
    with speaking(certificate, HOSTILE[name]) as old:
        with pytest.raises(CommandExecutionError) as caught:
            ask_all(old)
        assert time.monotonic() - start < 10
        assert str(caught.value).startswith("mailsrv.migrate: ")
        assert "the secret" not in str(caught.value)
        assert str(caught.value).isprintable()


def test_what_is_asked_is_imap(certificate):
    said = []

    def answer(line):
        said.append(line.split(b" ", 1)[1].rstrip())
        return [line.split()[0] + b" OK done\r\n"]

    can = b"* CAPABILITY IMAP4rev1 SPECIAL-USE\r\n"
    talk = saying(LOGIN=answer, CAPABILITY=can, LIST=answer)
    with speaking(certificate, talk) as old:
        old = {**old, "user": 'the "user"', "password": 'a\\b "c"'}
        with pytest.raises(CommandExecutionError, match="lists 0 folders"):
            ask_all(old)
    assert said == [rb'LOGIN "the \"user\"" "a\\b \"c\""', b'LIST "" "*" RETURN (SPECIAL-USE)']


def test_a_certificate_that_is_not_good_gets_no_password(certificate):
    said = []

    def talk(wire, lines):
        wire.sendall(b"* OK hello\r\n")
        said.extend(lines)

    with speaking(certificate, talk) as old:
        strange = {**old, "tls": ssl.create_default_context()}
        with pytest.raises(CommandExecutionError, match="is not good"), migrating._There(strange):
            pass
    assert said == []
