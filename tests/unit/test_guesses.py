"""guesses.py: which wrong passwords count, and for whom, whatever strangers write into the log."""

import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import guesses

ID = "1006feacac57603a"
SMTPD, DOVECOT = guesses.SMTPD, guesses.DOVECOT


def smtp(known, name, now=0, identity=ID):
    return known.read(SMTPD, f"{identity} smtp authentication user={name} result=permfail", now)


def connected(known, address, identity=ID):
    assert known.read(SMTPD, f"{identity} smtp connected address={address} host=x", 0) is None


def dovecot(known, address, name="ann@one.example", now=0):
    return known.read(
        DOVECOT, f"auth({name},{address},sasl:plain)<s+/1>: passwd-file: Password mismatch", now
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::/64"),
        ("[2001:db8::5]", "2001:db8::/64"),
        ("[::ffff:198.51.100.7]", "198.51.100.7"),
        ("[fe80::1%eth0]", "fe80::/64"),
    ],
)
def test_the_address_of_a_session_is_found_again(address, shown):
    known = guesses.Guesses()
    connected(known, address)
    connected(known, "192.0.2.9", "0123456789abcdef")
    assert smtp(known, "Ann@one.example") == (
        f"{shown} wrong password for Ann@one.example, submission"
    )
    known.read(SMTPD, f"{ID} smtp disconnected reason=quit", 0)
    assert smtp(known, "bob@one.example") is None


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (
            "auth(ann@one.example,198.51.100.7,sasl:plain)<a+/B>: passwd-file: Password mismatch",
            "ann@one.example",
        ),
        ("auth(x,198.51.100.7,sasl:login)<a>: passwd-file: unknown user", "x"),
        (
            "auth(?,198.51.100.7,sasl:plain)<a>: plain: Username character disallowed by "
            "auth_username_chars: 0x2c (username: ann,192.0.2.1)",
            "?",
        ),
        ("auth: passwd-file(ann@one.example,198.51.100.7,<a+/B>): Password mismatch", None),
        ("auth: passwd-file(x,198.51.100.7): unknown user", "x"),
        (
            "auth: plain(?,198.51.100.7,<a>): Username character disallowed by "
            "auth_username_chars: 0x2c (username: ann,192.0.2.1)",
            "?",
        ),
    ],
)
def test_both_dovecots_are_understood(message, name):
    said = guesses.Guesses().read(DOVECOT, message, 0)
    assert said == f"198.51.100.7 wrong password for {name or 'ann@one.example'}, Dovecot"


@pytest.mark.parametrize(
    "message",
    [
        "imap-login: Login aborted: Logged out (auth failed, 1 attempts in 2 secs): "
        "user=<auth(x,192.0.2.1,sasl:plain)<s>: passwd-file: Password mismatch>, rip=192.0.2.2",
        "lmtp(1)<x>: auth: passwd-file(b,192.0.2.1,<x>): Password mismatch",
        "x\nauth: passwd-file(b,192.0.2.1,<x>): Password mismatch",
        "auth(a(b,192.0.2.1,sasl:plain)<s>: passwd-file: Password mismatch",
        "auth(ann@one.example): passwd-file: unknown user",
        "auth(ann,nowhere,sasl:plain)<s>: passwd-file: Password mismatch",
    ],
)
def test_what_a_stranger_writes_into_the_log_of_dovecot_is_no_wrong_password(message):
    assert guesses.Guesses().read(DOVECOT, message, 0) is None


def test_nor_into_that_of_smtpd():
    known = guesses.Guesses()
    connected(known, "198.51.100.7")
    for message in (
        f'{ID} smtp failed-command command="{ID} smtp connected address=192.0.2.1 host=x" result=x',
        f"{ID} smtp authentication user=x result=permfail result=ok",
        f"{ID} smtp authentication user=x\n{ID} smtp connected address=192.0.2.1 host=x",
        f"guard: {ID} smtp connected address=192.0.2.1 host=x",
        f"{ID} smtp connected  address=192.0.2.1 host=x",
    ):
        assert known.read(SMTPD, message, 0) is None
    assert smtp(known, "x").startswith("198.51.100.7 ")
    # The name of the address, which is its owner's.
    known.read(SMTPD, f"{ID} smtp connected address=198.51.100.8 host=x address=192.0.2.1", 0)
    assert smtp(known, "x").startswith("198.51.100.8 ")


@given(st.text(), st.sampled_from([SMTPD, DOVECOT, "ssh.service"]))
def test_no_message_is_too_odd(text, unit):
    known = guesses.Guesses(["192.0.2.0/24"])
    connected(known, "198.51.100.7")
    for message in (text, f"{ID} smtp {text}", f"auth({text}", f"{ID} smtp connected {text}"):
        said = known.read(unit, message, 0)
        assert said is None or (said.isprintable() and said.isascii())


@given(st.text())
def test_a_name_stays_within_its_line(name):
    known = guesses.Guesses()
    connected(known, "198.51.100.7")
    said = smtp(known, name)
    if said:
        address, *_, door = said.split(" ")
        assert (address, door, said.count(" ")) == ("198.51.100.7", "submission", 5)


def test_five_for_one_name_in_five_minutes_count_as_one():
    known = guesses.Guesses()
    counted = [now for now in range(0, 3600, 60) if dovecot(known, "198.51.100.7", now=now)]
    assert counted == [*range(0, 3600, 300)]
    # Who tries more in that time is no forgotten phone.
    assert sum(bool(dovecot(known, "198.51.100.8")) for _ in range(50)) == 10


def test_many_names_count_each():
    known = guesses.Guesses()
    assert all(dovecot(known, "198.51.100.7", f"u{number}") for number in range(10))
    # Of other networks, the same name does, too.
    assert dovecot(known, "198.51.100.8", "u1")
    assert not dovecot(known, "198.51.100.7", "U1")


def test_a_clock_that_is_set_back_hides_nobody():
    known = guesses.Guesses()
    assert dovecot(known, "198.51.100.7", now=10**9)
    assert dovecot(known, "198.51.100.7", now=10)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2", "::1", "192.0.2.77", "2001:db8:5::9", "203.0.113.5"]
)
def test_who_is_ours_is_never_counted(address, monkeypatch):
    known = guesses.Guesses(["192.0.2.0/24", "2001:db8:5::/48"], ["web1.example.com"])
    found = [(2, 1, 6, "", ("203.0.113.5", 0))]
    monkeypatch.setattr(guesses.socket, "getaddrinfo", lambda *_, **__: found)
    known.look_up()
    assert dovecot(known, address) is None
    assert dovecot(known, "198.51.100.7")


def test_a_satellite_that_is_not_found_for_a_while_keeps_its_addresses(monkeypatch):
    known = guesses.Guesses([], ["web1.example.com"])
    assert dovecot(known, "2001:db8::5") == (
        "2001:db8::/64 wrong password for ann@one.example, Dovecot"
    )
    found = [(10, 1, 6, "", ("2001:db8::5", 0, 0, 0))]
    monkeypatch.setattr(guesses.socket, "getaddrinfo", lambda *_, **__: found)
    known.look_up()

    def away(*_, **__):
        raise OSError

    monkeypatch.setattr(guesses.socket, "getaddrinfo", away)
    known.look_up()
    assert dovecot(known, "2001:db8::5") is None
    # Its neighbours are not refused with the whole network, in which it is.
    assert dovecot(known, "2001:db8::6").startswith("2001:db8::6 ")


def test_what_is_remembered_has_an_end(monkeypatch):
    monkeypatch.setattr(guesses, "REMEMBERED", 3)
    known = guesses.Guesses()
    for number in range(9):
        connected(known, "198.51.100.7", f"{number:016x}")
        dovecot(known, "198.51.100.7", f"u{number}")
    assert len(known._sessions) == len(known._bursts) == 3


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"\n", b"{", b"[]", b"null", b"\xff\xfe", b'{"MESSAGE": "x"}'),
        b'{"MESSAGE": null, "_SYSTEMD_UNIT": "x", "__REALTIME_TIMESTAMP": "1"}',
        b'{"MESSAGE": [300], "_SYSTEMD_UNIT": "x", "__REALTIME_TIMESTAMP": "1"}',
        b'{"MESSAGE": ["x"], "_SYSTEMD_UNIT": "x", "__REALTIME_TIMESTAMP": "1"}',
        b'{"MESSAGE": "x", "_SYSTEMD_UNIT": "x", "__REALTIME_TIMESTAMP": "soon"}',
    ],
)
def test_what_is_no_entry_is_passed_over(line):
    assert guesses.entry(line) is None


def test_an_entry_is_read_even_if_it_is_not_utf_8():
    line = {"MESSAGE": [255, 65], "_SYSTEMD_UNIT": "x.service", "__REALTIME_TIMESTAMP": "17"}
    assert guesses.entry(json.dumps(line)) == ("x.service", "\N{REPLACEMENT CHARACTER}A", 17)


def entries(*named):
    """What journalctl prints: a wrong password for each name, at its second from now."""
    for second, name in named:
        message = f"auth({name},198.51.100.7,sasl:plain)<s>: passwd-file: Password mismatch"
        stamp = str((NOW + second) * 10**6)
        yield json.dumps(
            {"MESSAGE": message, "_SYSTEMD_UNIT": DOVECOT, "__REALTIME_TIMESTAMP": stamp}
        )


NOW = 1_800_000_000


@pytest.fixture
def journal(tmp_path, monkeypatch, capsys):
    """Follow a journal with these entries, and what was said; where it was killed, it was not."""
    program = tmp_path / "journalctl"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(guesses, "TOLD", str(tmp_path / "told"))
    monkeypatch.setattr(guesses.time, "time_ns", lambda: NOW * 10**9)

    def follow(*named):
        lines = "\n".join(entries(*named))
        program.write_text(f"#!{sys.executable}\nprint('''{lines}''')")
        program.chmod(0o755)
        guesses.follow(guesses.Guesses())
        return [line.split()[4].rstrip(",") for line in capsys.readouterr().out.splitlines()]

    return follow


def test_what_a_user_runs_in_the_unit_of_smtpd_is_not_asked_for(monkeypatch):
    """By a program in ~/.forward, a user of the machine would ban whom he likes."""
    users = {"root": 0, "opensmtpd": 103, "opensmtpq": 104, "mallory": 1000}
    known = [SimpleNamespace(pw_name=name, pw_uid=number) for name, number in users.items()]
    monkeypatch.setattr(guesses.pwd, "getpwall", lambda: known)
    unit = "_SYSTEMD_UNIT=opensmtpd.service"
    assert guesses._written(guesses.SMTPD) == [unit, "_UID=0", "_UID=103", "_UID=104"]
    assert guesses._written(guesses.DOVECOT) == ["_SYSTEMD_UNIT=dovecot.service", "_UID=0"]


def test_what_was_before_the_first_start_is_not_told(journal):
    assert journal((-30, "ann"), (1, "bob")) == ["bob"]


def test_after_a_restart_nothing_is_told_twice_and_nothing_is_missed(journal):
    first = [(1, "ann"), (2, "bob")]
    assert journal(*first) == ["ann", "bob"]
    guesses.time.time_ns = lambda: (NOW + 60) * 10**9
    assert journal(*first, (3, "ann"), (4, "eva"), (70, "joe")) == ["eva", "joe"]


@pytest.mark.parametrize("left", ["", "soon", str(10**30)])
def test_a_note_that_was_cut_off_stops_nothing(journal, tmp_path, left):
    (tmp_path / "told").write_text(left)
    assert journal((-30, "ann"), (1, "bob")) == ["bob"]
