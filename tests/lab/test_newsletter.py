"""One program hands over a newsletter: each copy arrives, and each bounce comes to its sender."""

import re

import pytest

from server import signed_by
from wire import until

pytestmark = pytest.mark.lab

COPIES, GONE = 100, "gone@elsewhere.example"
LETTER = """From: News <{news}>
To: <{reader}>
Message-ID: <{number}.news@{domain}>
List-Id: <news.{domain}>
List-Unsubscribe: <https://{domain}/leave?id={number}>, <mailto:{news}?subject=leave>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
Subject: news {number}

The news.
"""


@pytest.fixture(scope="module")
def newsletter(server, sink):
    """A newsletter handed over in one session, each copy with a sender of its own (VERP)."""
    server.domain = domain = server.pillar["domains"][0]
    server.news = news = f"news@{domain}"
    readers = [f"reader{n}@elsewhere.example" for n in range(COPIES)] + [GONE]
    sink.unknown.add(GONE)
    limits = {"recipients_per_hour": 0, "recipients_per_day": 3000}
    with server.having(accounts=[{"address": news, "password": "n pass", **limits}]):
        server.accounts = {**server.accounts, news: "n pass"}
        server.sent = {}
        with server.submission() as smtp:
            smtp.login(news, "n pass")
            for number, reader in enumerate(readers):
                about = {"news": news, "domain": domain, "reader": reader, "number": number}
                letter = LETTER.format(**about).replace("\n", "\r\n")
                sender = f"news+7-{number}={reader.replace('@', '=')}@{domain}"
                smtp.sendmail(sender, [reader], letter)
                server.sent[sender] = reader, letter
        yield server
    sink.unknown.clear()
    server.accounts = dict(server.pillar["accounts"])
    server.salt("mailsrv.purge", news)


def test_each_copy_arrives_once_with_its_own_sender_and_signed(lab, newsletter, sink):
    def arrived():
        found = [e for e in sink.messages if e.mail_from in newsletter.sent]
        return found if len(found) >= COPIES else None

    envelopes = until(arrived, 60, "not all came")
    assert len(envelopes) == COPIES
    for envelope in envelopes:
        reader, letter = newsletter.sent[envelope.mail_from]
        assert envelope.rcpt_tos == [reader]
        lists = re.compile(r"(?m)^List-.*$")
        assert lists.findall(envelope.content.decode()) == lists.findall(letter)
    for envelope in envelopes[::20]:
        assert signed_by(lab, envelope.content) == {newsletter.domain}


def test_each_bounce_comes_to_the_sender_of_its_copy(newsletter):
    gone = f"news+7-{COPIES}=gone=elsewhere.example@{newsletter.domain}"
    bounce = newsletter.wait(newsletter.news, "Delivery status notification: failed")
    assert f"Delivered-To: {gone}\r\n".encode() in bounce
    late = f"news+7-5=reader5=elsewhere.example@{newsletter.domain}"
    with newsletter.smtp() as smtp:
        smtp.sendmail("", [late], "Subject: returned 5\r\n\r\nno such user\r\n")
    bounce = newsletter.wait(newsletter.news, "returned 5")
    assert f"Delivered-To: {late}\r\n".encode() in bounce


def test_what_became_of_one_copy_is_told(newsletter):
    (told,) = newsletter.salt("mailsrv.trace", f"9.news@{newsletter.domain}")
    assert told["events"][-1]["says"].startswith("sent to reader9@elsewhere.example by mx.")
    (told,) = newsletter.salt("mailsrv.trace", GONE)
    assert "550 5.1.1 No such user" in str(told["events"])
