"""mailcheck: what the checks of a machine say, and when nobody can be asked."""

import os
import time

import _mailsrv_checking as checking
import _mailsrv_disk as disk
import _mailsrv_talking as talking
import pytest
from _mailsrv import resolve, waiting
from salt.exceptions import CommandExecutionError, SaltInvocationError

from saltext.mailsrv.modules import mailcheck


def test_without_a_resolver_nobody_can_be_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    with pytest.raises(CommandExecutionError) as raised:
        mailcheck.lacking("example.com", "MX", "10 mx.example.com.")
    assert str(raised.value) == (
        f"mailcheck: {tmp_path}/resolv.conf names no resolver to ask for the name servers"
    )


@pytest.mark.parametrize(("kind", "value"), [("MX", "mx"), ("A", "mx.example.com"), ("TLSA", "3")])
def test_what_is_no_value_of_a_record_is_not_asked_for(kind, value):
    with pytest.raises(SaltInvocationError) as raised:
        mailcheck.lacking("example.com", kind, value)
    assert str(raised.value) == (
        f"mailcheck.lacking: {value!r} is not the value of a record of the type {kind}"
    )


# The checks of the machine


def test_a_check_that_hangs_or_breaks_does_not_keep_the_others_from_being_seen():
    begin = time.monotonic()
    found = checking.together(
        {
            "hangs": (time.sleep, 5),
            "breaks": (lambda: {}["missing"],),
            "is wrong": (disk.room, "/nonexistent", 10),
            "warns": (lambda: "WARNING: look",),
            "notes": (lambda: "seen",),
            "is fine": (lambda: None,),
        },
        0.3,
    )
    assert time.monotonic() - begin < 3
    assert found.pop("hangs").startswith("FAULT: did not come to an end within 0.3 seconds")
    assert found.pop("is wrong").startswith("FAULT: [Errno 2]")
    assert found == {
        "breaks": "FAULT: 'missing'",
        "warns": "WARNING: look",
        "notes": "ok: seen",
        "is fine": "ok",
    }


ENTRY = "|inet4|mta||{}@one.example|b@two.example|b@two.example|{}|1796141066|0|0|pending|1|why"


def listed(*ages, now, sender="a"):
    lines = [f"{number:016x}{ENTRY.format(sender, now - age)}" for number, age in ages]
    return waiting.entries("\n".join(lines))


def test_the_queue_is_counted_in_messages_and_its_oldest_is_timed():
    now = 1795536266
    entries = listed((0xE87D609E00000001, 60), (0xE87D609E00000002, 60), (1 << 32, 600), now=now)
    assert waiting.said([], 3, now) == "empty"
    assert waiting.said(entries, 3, now) == "2 waiting, the oldest for 10 minutes: why"
    assert waiting.said(entries, 2, now).startswith("WARNING: 2 waiting, the oldest for 10")
    assert waiting.said(entries, 9, now + 4 * 3600) == (
        "WARNING: 2 waiting, the oldest for 4 hours: why; see why: smtpctl show queue"
    )


def test_the_queue_tells_what_the_other_side_says_most_often():
    entries = listed((1 << 32, 60), (2 << 32, 60), (3 << 32, 60), now=1795536266)
    entries[1]["reason"], entries[2]["reason"] = "", "450 4.7.1 \x1b[2J\r\u2028" + 300 * "x"
    assert waiting.said(entries[:2], 9, 1795536266) == "2 waiting, the oldest for 1 minutes: why"
    said = waiting.said([entries[0], entries[2], entries[2]], 9, 1795536266)
    assert said.startswith("2 waiting, the oldest for 1 minutes; most often: 450 4.7.1 ?[2J xx")
    assert len(said) < 300


@pytest.mark.parametrize("sender", ["a|b", "|", "a|1|2|3|4|pending|5|x", ""])
def test_a_sender_cannot_make_the_queue_unreadable(sender):
    """`int(fields[7])`: ValueError, from anybody who may write MAIL FROM:<a|b@example.com>."""
    (entry,) = listed((1 << 32, 60), now=1795536266, sender=sender)
    assert (entry["sender"], entry["created"]) == (f"{sender}@one.example", 1795536206)
    assert (entry["recipient"], entry["reason"]) == ("b@two.example", "why")


def test_the_last_error_of_an_entry_is_another_servers_words():
    line = f"{1:016x}{ENTRY.format('a', 9)}: 421 c@d|1|2|3|4|pending|5|no | such"
    (entry,) = waiting.entries(f"{line}\nnonsense\n{line[:40]}\n")
    assert (entry["created"], entry["recipient"]) == (9, "b@two.example")
    assert entry["reason"] == "why: 421 c@d|1|2|3|4|pending|5|no | such"


@pytest.mark.parametrize(
    ("blocks", "inodes", "says"),
    [
        (50, 50, "50 % of the space free"),
        (10, 50, "10 % of the space free"),
        (9, 50, "WARNING: 9 % of the space free; make room"),
        (50, 4, "WARNING: 4 % of the inodes free; make room"),
        (2, 50, None),
    ],
)
def test_a_disk_that_fills_up_is_a_warning_and_a_full_one_a_fault(
    monkeypatch, blocks, inodes, says
):
    status = os.statvfs_result((4096, 4096, 100, blocks, blocks, 100, inodes, inodes, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    if says:
        assert disk.room("/var/vmail", 10) == says
    else:
        with pytest.raises(CommandExecutionError, match="mail is refused when it is full"):
            disk.room("/var/vmail", 10)
    with pytest.raises(CommandExecutionError, match="mail is refused with 452 below 16 MB"):
        disk.room("/var/spool/smtpd", 10, 1 << 24)


def test_the_public_keys_are_read_from_the_records_on_the_disk(keys, tmp_path, loader):
    file = tmp_path / "s1.public"
    file.write_text(loader["__salt__"]["dkim.record"]("s1", keys[4096][1]) + "\n")
    found = mailcheck._public_keys([{"public": str(file), "domains": ["a.example", "b.example"]}])
    assert {*found} == {"s1._domainkey.a.example", "s1._domainkey.b.example"}
    assert found["s1._domainkey.b.example"]["p"] == keys[4096][1]


def test_the_mark_of_our_messages_needs_the_key_of_this_machine(known, loader, tmp_path):
    facts = known()
    facts["directory"] = str(tmp_path)
    with pytest.raises(CommandExecutionError, match=r"password\.key is missing or empty; run the"):
        talking.mark_key(facts)
    (tmp_path / "password.key").write_bytes(bytes(32))
    assert talking.mark_key(facts) == bytes(32)


def test_the_self_check_writes_to_nobody_who_is_blocked(known, loader):
    """In its name nobody sends: `5.7.1 a@example.com is blocked on this server` was a fault."""
    known()
    loader["__pillar__"].update(
        {
            "domains": ["example.com"],
            "accounts": [["a@example.com", "pass a"], ["b@example.com", "pass b"]],
            "mailsrv": {"blocked": ["a@example.com"], "hostname": "mx.example.com"},
        }
    )
    messages = [name for name in mailcheck._checks() if name.startswith("a message to")]
    assert messages == ["a message to b@example.com, in by SMTP and out by IMAP"]
