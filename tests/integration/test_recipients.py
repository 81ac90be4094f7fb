"""Recipients of a backup MX over a real master: who may read them, and what it believes of them."""

import json
import os

import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="keys are made for root: run as root")

MX1, MX2, BACKUP = "mx1.example.com", "mx2.example.net", "backup.example.edu"
FUNCTION = "backup_mx.recipients"


@pytest.fixture
def publish(ask_master, primary, salt):
    """A primary that was taken over: publish what the mine takes; in the end it is its own."""

    def send(given, name=MX1, keys=MX1):
        return ask_master(keys, cmd="_mine", id=name, data={FUNCTION: given})

    yield send
    assert salt(MX1, "mine.update") is True


@pytest.fixture
def written(backup, salt):
    """Write what the next run of the backup would, and keep it as that does; by file its text."""
    directory = backup.machine / "etc/mail/backup"
    directory.mkdir(parents=True, exist_ok=True)

    def render():
        result = {}
        for source, name in ("known", "known"), ("backups", "recipients"):
            target = str(directory / name)
            assert salt(
                BACKUP, "cp.get_template", f"salt://mailsrv/opensmtpd/{source}", f"{target}.new"
            )
            with open(f"{target}.new") as file:
                result[name] = file.read()
        os.replace(directory / "known.new", directory / "known")
        return result

    return render


def test_the_backup_alone_reads_the_recipients(primary, salt, ask_master):
    assert primary.published
    assert [*salt(BACKUP, "mine.get", MX1, FUNCTION)] == [MX1]
    assert salt(MX2, "mine.get", MX1, FUNCTION) == {}
    asked = {"tgt": MX1, "fun": FUNCTION, "tgt_type": "glob"}
    assert not ask_master(MX2, cmd="_mine_get", id=MX2, **asked)
    said = ask_master(MX2, cmd="_mine_get", id=BACKUP, **asked)
    assert "user1" not in str(said)
    assert "user1" in str(ask_master(BACKUP, cmd="_mine_get", id=BACKUP, **asked))


def test_a_hostile_primary_gets_no_name_but_of_its_own_domain(publish, written, salt):
    before = written()
    assert "user1@example.com\n" in before["recipients"]
    good = json.loads(before["known"])[MX1]
    names = ["example.net", "example.edu", "mail.example.com", "gmail.com", "com", "*", "", "."]
    names += ["EXAMPLE.NET", "\u0435xample.com", "a\nb", "x" * 5000]
    domains = {name: ["victim", ""] for name in names} | {"example.com": ["ann"]}
    assert publish({**good, "domains": domains}) is True
    assert written()["recipients"].splitlines()[2:] == ["ann@example.com"]

    standing = written()
    deep = []
    for _ in range(200):
        deep = [deep]
    for given in (
        *(
            {**good, "domains": {"example.com": [odd]}}
            for odd in ("*", "**", "a b", "a\n@gmail.com")
        ),
        *({**good, "domains": {"example.com": [odd]}} for odd in ("x@gmail.com", 5, None, deep)),
        {**good, "domains": {"example.com": [str(number) for number in range(100_001)]}},
        {**good, "domains": {"example.com": "a" * 5_000_000}},
        {**good, "domains": deep},
        {**good, "domains": {"example.com": ["eve"]}, "hostname": BACKUP},
        {**good, "domains": {"example.com": ["eve"]}, "hostname": "mx\n[x]"},
        {**good, "domains": {"example.com": ["eve"]}, "certificate": "x" * 30_000},
        {**good, "domains": {"example.com": ["eve"]}, "closed": ["0.0.0.0/0"] * 2000},
        *(deep, "a" * 5_000_000, b"\xff\x00", [], 5),
    ):
        assert publish(given) is True
        assert written() == standing
    said = "\n".join(salt(BACKUP, "mailsrv.lint"))
    assert "mailsrv:backup_for:mx1.example.com: what it publishes is not used: " in said


def test_nobody_else_says_who_gets_mail(publish, written, primary, salt):
    assert primary.published
    assert salt(MX1, "mine.update") is True
    before = written()
    evil = {**json.loads(before["known"])[MX1], "domains": {"example.com": ["eve"]}}
    assert publish(evil, MX2, MX2) is True  # in its own name it may, and nobody asks for it
    assert written() == before
    assert publish(evil, MX1, MX2) is not True
    assert written() == before
