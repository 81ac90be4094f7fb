"""_mailsrv.probe: the self-check knows its own messages by a mark that nobody else can make."""

import email

import pytest
from _mailsrv import probe

KEY = bytes(range(32))


def head(text):
    return email.message_from_string(text)


def test_a_message_of_ours_is_whole_and_is_known_again():
    text = probe.message("a@example.com", "b@test.com", "mailcheck 1", KEY)
    assert "\n" not in text.replace("\r\n", "")
    found = head(text)
    assert (found["From"], found["To"]) == ("<a@example.com>", "<b@test.com>")
    assert all(found[name] for name in ("Date", "Message-ID"))
    assert found["Message-ID"].endswith("@example.com>")
    assert probe.is_ours(found, KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Subject: mailcheck 1\n\n",
        f"Subject: mailcheck 1\n{probe.MARK}: {'0' * 64}\n\n",
        f"Subject: mailcheck 1\n{probe.MARK}: \u00e9\n\n",
        f"Subject: mailcheck 2\n{probe.MARK}: {probe.mark('mailcheck 1', KEY)}\n\n",
        f"Subject: mailcheck 1\n{probe.MARK}: {probe.mark('mailcheck 1', bytes(32))}\n\n",
    ],
)
def test_a_message_of_somebody_else_is_not_ours_whatever_it_says(text):
    assert not probe.is_ours(head(text), KEY)


def test_heads_are_read_from_what_imap_returns():
    lines = [
        (b"1 (UID 17 BODY[HEADER] {30}", b"Subject: one\r\n\r\n"),
        b")",
        b"4 (FLAGS (\\Seen))",
        (b"2 (UID 23 BODY[HEADER] {30}", b"Subject: two\r\n\r\n"),
        b")",
    ]
    assert [(uid, found["Subject"]) for uid, found in probe.heads(lines)] == [
        ("17", "one"),
        ("23", "two"),
    ]
