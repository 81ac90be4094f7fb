"""_mailsrv.faults: how a fault of the pillar is said."""

import datetime

import pytest
from _mailsrv import faults
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "nothing"),
        (True, "true or false"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "text"),
        ([], "a list"),
        ({}, "keys and values"),
        (datetime.date(2027, 1, 1), "a date"),
        (datetime.datetime(2027, 1, 1), "a date"),
    ],
)
def test_a_value_is_called_what_a_person_calls_it(value, kind):
    assert faults.kind_of(value) == kind


def test_a_section_is_keys_and_values_or_empty():
    said = []
    assert faults.section({}, "tls", ("cert",), "mailsrv:tls", said) == {}
    assert faults.section({"tls": None}, "tls", ("cert",), "mailsrv:tls", said) == {}
    given = {"tls": {"cert": 1}}
    assert faults.section(given, "tls", ("cert",), "mailsrv:tls", said) == {"cert": 1}
    assert said == []
    assert faults.section({"tls": []}, "tls", ("cert",), "mailsrv:tls", said) == {}
    assert said == ["mailsrv:tls: must hold keys and values, not a list"]


def test_an_unknown_key_is_named_with_the_nearest_or_with_all():
    said = []
    faults.unknown_keys({"crt": 1, "cert": 1, "x\ny": 1}, ("cert", "key"), "tls:", said)
    assert said == [
        "tls:crt: no such key; did you mean cert?",
        "tls:x?y: no such key; known are cert, key",
    ]


def test_a_key_that_may_be_a_piece_of_a_secret_is_not_repeated():
    said = []
    found = {"pasword": 1, "password:hunter2": 1, "hunter2": 1}
    faults.unknown_keys(found, ("password", "hash"), "a:", said, secrets=True)
    assert [sentence.partition(": ")[0] for sentence in said] == ["a:pasword", "a:?", "a:?"]
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize(
    ("value", "read_as", "wrong"),
    [(True, True, False), (False, False, False), (None, False, False), ("yes", False, True)],
)
def test_a_switch_is_true_or_false(value, read_as, wrong):
    said = []
    assert faults.switch({"s": value}, "s", "mailsrv:s", said) is read_as
    assert bool(said) is wrong


def test_words_are_joined_as_in_a_sentence():
    assert faults.either(["a"]) == "a"
    assert faults.either(["a", "b"]) == "a or b"
    assert faults.joined(["a", "b", "c"], "and") == "a, b and c"


@given(st.text() | st.integers() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_whatever_is_shown_fits_into_a_line(value):
    for shown in (faults.show(value), faults.shown_key(value)):
        assert shown.isprintable()
        assert len(shown) < 900
        assert "\n" not in shown
