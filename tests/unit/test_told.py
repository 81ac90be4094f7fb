"""What a master says of what machines tell it, whoever sent that."""

import email
import importlib.util
import socket
import string
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st

RUNNER = Path(__file__).parents[2] / "salt_mailsrv/_runners/told.py"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FINDING = st.dictionaries(
    st.sampled_from(["changes", "failures", "well", "service_name", "dovecot"]), ANYTHING
)


class Inbox:
    def __init__(self):
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture(scope="module")
def inbox():
    handler = Inbox()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    controller = Controller(handler, "127.0.0.1", port)
    controller.start()
    handler.server = f"127.0.0.1:{port}"
    yield handler
    controller.stop()


def loaded():
    """The runner, as a master has it that mails nobody."""
    spec = importlib.util.spec_from_file_location("told", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__, module.__context__ = {}, {}
    module.log.propagate = False  # Salt's handlers write where pytest has closed
    return module


@pytest.fixture
def told(inbox):
    """The runner, as a master has it that mails."""
    module = loaded()
    to = ["admin@example.com", "b@example.net"]
    about = {"to": to, "sender": "root@master.example", "server": inbox.server}
    module.__opts__ = {"mailsrv.told": about}
    inbox.messages.clear()
    return module


def test_drift_is_mailed_by_the_names_of_the_states(told, inbox):
    finding = {"changes": ["mailsrv-a", "mailsrv-b"], "failures": ["mailsrv-c"], "well": False}
    said = "mx1.example.net: 1 states would fail and 2 states would change"
    assert told.drift("mx1.example.net", finding) == said
    (mail,) = inbox.messages
    assert (mail["Subject"], mail["From"]) == (said, "root@master.example")
    assert mail["To"] == "admin@example.com, b@example.net"
    text = mail.get_payload().replace("\r\n", "\n")
    assert "would fail:    mailsrv-c\nwould change:  mailsrv-a\n" in text
    assert "    salt 'mx1.example.net' state.highstate test=True\n" in text
    assert told.__context__ == {}
    assert told.drift("mx1", {"well": True}) == "mx1: well again, a run would change nothing"
    assert told.drift("mx1", {"impossible": True}) == "mx1: a run is not possible"


def test_a_daemon_is_mailed_by_its_name(told, inbox):
    ended = {"service_name": "dovecot", "dovecot": {"running": False}}
    assert told.service("mx1", ended) == "mx1: dovecot does not run"
    runs = {"service_name": "dovecot", "dovecot": {"running": True}}
    assert told.service("mx1", runs) == "mx1: dovecot runs again"
    assert [mail["Subject"][:12] for mail in inbox.messages] == ["mx1: dovecot"] * 2


def test_who_is_not_mailed_is_told_by_the_log_alone(told, inbox):
    told.__opts__ = {}
    assert told.drift("mx1", {"well": True}).startswith("mx1: well again")
    assert inbox.messages == []


def test_a_mail_server_that_is_away_is_no_traceback(told):
    told.__opts__["mailsrv.told"]["server"] = "127.0.0.1:1"
    assert told.drift("mx1", {"well": True}).startswith("mx1: well again")
    assert told.__context__ == {"retcode": 1}


@pytest.mark.parametrize("function", ["drift", "service"])
@given(minion=ANYTHING, finding=FINDING | ANYTHING)
def test_whatever_is_sent_makes_one_line_of_plain_text(function, minion, finding):
    said = getattr(loaded(), function)(minion, finding)
    assert set(said) <= {*string.printable} - {"\n", "\r", "\t", "\x0b", "\x0c", "'", '"', "$"}


def test_a_header_that_is_sent_is_none_in_the_mail(told, inbox):
    evil = "mx1\nBcc: victim@example.net"
    told.drift(evil, {"changes": [evil, {"a": 1}, "'; rm -rf /; '"] + ["x"] * 1000})
    (mail,) = inbox.messages
    assert mail["Bcc"] is None
    assert mail["Subject"] == "(no name): 200 states would change"
    assert "victim" not in mail.as_string()
    assert "rm -rf" not in mail.as_string()
    # Nothing that salt would take for an option, in the command of the mail.
    assert told.drift("-b1", {}) == "(no name): a run is not possible"
    assert told.drift("mx1", {"changes": ["/etc/-x"]}) == "mx1: 1 states would change"
    assert "would change:  /etc/-x" in inbox.messages[-1].get_payload()
