"""_mailsrv.resolve: without what it needs, and from alias to alias; the lab has real servers."""

import time

import pytest
from _mailsrv import resolve
from _mailsrv.resolve import Answer
from dns import message, resolver
from salt.exceptions import CommandExecutionError

A = "a.example", "A"
B = "b.example", "A"


def test_without_dnspython_the_module_loads_and_says_what_to_install(without):
    bare = without(resolve, "dns")
    with pytest.raises(CommandExecutionError) as raised:
        bare.ask([("example.com", "MX")])
    assert str(raised.value) == (
        "mailcheck: the Python library dnspython is missing where Salt runs; "
        "install it with: salt-pip install dnspython (or, in Salt's venv, pip install dnspython)"
    )


def test_without_a_resolver_nobody_can_be_asked_for_the_servers(monkeypatch, tmp_path):
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    with pytest.raises(CommandExecutionError, match=r"resolv\.conf names no resolver to ask for"):
        resolve.ask([("example.com", "MX")])


def test_a_resolver_that_does_not_answer_is_the_one_that_is_named(monkeypatch, tmp_path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1\n")
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(resolve, "RESOLVER_TIMEOUT", 0.3)
    answers = resolve.ask([("a.mailsrv.invalid", "MX")])
    ((server, answer),) = answers["a.mailsrv.invalid", "MX"].items()
    assert server == "the resolver"
    assert answer.fault.startswith(("does not tell its name servers: ", "knows no zone for it"))


def test_in_the_place_of_an_alias_stand_the_answers_of_its_target():
    answers = {A: {"ns1": Answer(alias="b.example")}, B: {"ns2": Answer(["192.0.2.1"])}}
    assert resolve._followed(A, answers, 8) == {"ns2": Answer(["192.0.2.1"])}


def test_one_server_with_an_alias_and_one_without_are_both_heard():
    answers = {
        A: {"ns1": Answer(alias="b.example"), "ns3": Answer(["192.0.2.3"])},
        B: {"ns2": Answer(fault="does not answer: time is up")},
    }
    assert resolve._followed(A, answers, 8) == {
        "ns2": Answer(fault="does not answer: time is up"),
        "ns3": Answer(["192.0.2.3"]),
    }


def test_aliases_in_a_circle_are_followed_to_an_end():
    answers = {A: {"ns1": Answer(alias="b.example")}, B: {"ns1": Answer(alias="a.example")}}
    (answer,) = resolve._followed(A, answers, 8).values()
    assert answer.fault.startswith("leads from alias to alias, at last ")


@pytest.mark.parametrize(
    ("authority", "told"),
    [
        ("example. 1 IN SOA a. b. 1 1 1 1 1", True),
        ("", True),
        ("A.example. 1 IN SOA a. b. 1 1 1 1 1", False),
    ],
)
def test_a_zone_itself_does_not_know_whether_its_parent_has_a_ds_record(
    monkeypatch, authority, told
):
    """As it says where resolv.conf names a name server of ours before the resolver."""
    reply = "id 1\nopcode QUERY\nrcode NOERROR\nflags QR AA\n;QUESTION\na.example. IN {}\n"
    reply += f";ANSWER\n;AUTHORITY\n{authority}\n"

    class Resolver:
        def __init__(self, path):
            pass

        def resolve(self, name, kind, **_):
            raise resolver.NoAnswer(response=message.from_text(reply.format(kind)))

    monkeypatch.setattr(resolver, "Resolver", Resolver)
    assert resolve.known("a.example", "CAA") == []
    if told:
        assert resolve.known("a.example", "DS") == []
    else:
        with pytest.raises(LookupError, match=r"names a server of a\.example itself"):
            resolve.known("a.example", "DS")


def test_no_answer_is_waited_for_behind_the_end_of_all():
    now = time.monotonic()
    assert resolve._left(now - 1) == 0
    assert resolve._left(now + 100) == resolve.DNS_TIMEOUT
    assert 0 < resolve._left(now + 1) <= 1
