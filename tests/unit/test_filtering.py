"""_mailsrv.filtering: what the pillar says of the spam filter, and what rspamd says of itself."""

import json

import pytest
from _mailsrv import filtering
from hypothesis import given
from hypothesis import strategies as st

from reading import model, read, said

PILLAR = {"domains": ["example.com"]}
NOBODY = {"addresses": [], "domains": [], "networks": []}
OFF = {"learn": False, "greylist": False, "reputation": False}


def found(value):
    return model({**PILLAR, "mailsrv": {"spam_filter": value}})


def test_all_is_off_where_the_pillar_does_not_say_so():
    for value in (False, {}):
        assert (found(False)["spam_filter"], found(value)["redis"]) == (None, False)
    assert found(True) == found({})
    wanted = {**OFF, "thresholds": {}, "allow": NOBODY, "block": NOBODY}
    assert found(True)["spam_filter"] == wanted


@pytest.mark.parametrize("name", OFF)
def test_what_remembers_brings_redis(name):
    result = found({name: True})
    assert {key: result["spam_filter"][key] for key in OFF} == {**OFF, name: True}
    assert result["redis"]
    assert not found({name: False})["redis"]


@pytest.mark.parametrize("name", OFF)
def test_where_no_redis_can_be_started_what_needs_it_is_refused(monkeypatch, name):
    """It was a traceback of a template: 'dict object' has no attribute 'script'."""
    monkeypatch.setattr("reading.CANNOT_REMEMBER", "there is no systemd")
    assert read({**PILLAR, "mailsrv": {"spam_filter": {name: True}}})[1] == [
        f"mailsrv:spam_filter:{name}: there is no systemd; take it out"
    ]
    assert found({name: False})["spam_filter"] == found(True)["spam_filter"]


def test_senders_are_told_apart_and_stand_once():
    values = ["Ann@Friends.example", "friends.EXAMPLE", "192.0.2.7", "2001:DB8::/32", "192.0.2.7"]
    senders = found({"allow": values})["spam_filter"]["allow"]
    assert [*map(str.lower, senders["addresses"])] == ["ann@friends.example"]
    assert senders["domains"] == ["friends.example"]
    assert senders["networks"] == ["192.0.2.7/32", "2001:db8::/32"]


def test_thresholds_are_those_of_the_pillar_alone_and_false_is_never():
    thresholds = found({"thresholds": {"add_header": 5.5, "reject": False}})
    assert thresholds["spam_filter"]["thresholds"] == {"add_header": 5.5, "reject": 0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{lern: true}", "mailsrv:spam_filter:lern: no such key; did you mean learn?"),
        ("{learn: 1}", "mailsrv:spam_filter:learn: '1' is no switch; write true or false"),
        (
            "{thresholds: {reject: -1}}",
            "mailsrv:spam_filter:thresholds:reject: '-1' is not usable; write a number of points "
            "up to 1000, or false for never",
        ),
        (
            "{thresholds: {add_header: false}}",
            "mailsrv:spam_filter:thresholds:add_header: 'False' is not usable; write a number of "
            "points up to 1000",
        ),
        (
            "{thresholds: {add_header: .nan}}",
            "mailsrv:spam_filter:thresholds:add_header: 'nan' is not usable; write a number of "
            "points up to 1000",
        ),
        (
            "{thresholds: {add_header: 20}}",
            "mailsrv:spam_filter:thresholds: greylist 4, add_header 20 and reject 15 must rise in "
            "this order; change one of them",
        ),
        (
            "{allow: [0.0.0.0/0]}",
            "mailsrv:spam_filter:allow: 0.0.0.0/0 is everybody; write the networks that you mean",
        ),
        (
            "{block: ['a b']}",
            "mailsrv:spam_filter:block: 'a b' is no address, domain or network; write it like "
            "ann@example.com, example.com or 192.0.2.0/24",
        ),
        (
            "{allow: [a.example], block: [A.example]}",
            "mailsrv:spam_filter: a.example is in allow and in block; remove it from one of them",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text, sentence):
    assert said(f"mailsrv: {{spam_filter: {text}}}") == sentence


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.booleans() | ANYTHING for name in OFF},
        "thresholds": ANYTHING
        | st.dictionaries(st.sampled_from([*filtering.THRESHOLDS]), ANYTHING),
        **{name: ANYTHING for name in filtering.LISTS},
    },
)


@given(SETTINGS | ANYTHING)
def test_any_value_is_read_or_refused(value):
    result, faults = read({**PILLAR, "mailsrv": {"spam_filter": value}})
    spam = result["spam_filter"]
    if not faults and spam:
        json.dumps(spam, allow_nan=False)
        texts = [text for name in filtering.LISTS for kind in spam[name].values() for text in kind]
        assert not {*'"\\\n{}$'} & {*"".join(texts)}  # in rspamd.conf they stand as JSON


STATFILES = [{"symbol": "BAYES_SPAM", "revision": 7}, {"symbol": "BAYES_HAM", "revision": 3}]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (json.dumps({"statfiles": STATFILES}), (7, 3)),
        (json.dumps({"statfiles": [*STATFILES, {"symbol": "X", "revision": 9}]}), (7, 3)),
        (json.dumps({"statfiles": []}), (0, 0)),
        *((text, (0, 0)) for text in ("", "null", "[]", '{"statfiles": [7]}', "{", "Forbidden")),
    ],
)
def test_how_much_is_learned_is_what_rspamd_says(text, wanted):
    assert tuple(filtering.learned(text).values()) == wanted


def test_it_is_said_from_when_on_it_counts():
    said = "200 spam and {} other messages are learned"
    assert filtering.standing({"spam": 200, "ham": 200}, 200) == said.format(200)
    least = filtering.standing({"spam": 200, "ham": 1}, 200)
    assert least == f"{said.format(1)}; they count from 200 of each on"


@given(st.text(max_size=40))
def test_when_something_was_taught_is_read_from_its_name_alone(name):
    assert filtering.taught_at(name) >= 0
    assert filtering.taught_at(f"17,5,ham,{name}") == 17
