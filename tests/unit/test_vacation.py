"""_mailsrv.away: who is away, what is answered, and to whom mail goes, too."""

import datetime

import pytest

from reading import model, read

ANN, BOB, AWAY = "ann@example.com", "bob@example.com", "someone@elsewhere.example"


def having(aliases=None, **ann):
    return {
        "domains": ["example.com"],
        "accounts": {ANN: {"password": "hunter2", **ann}, BOB: "hunter2"},
        "mailsrv": {"aliases": aliases or {}},
    }


def vacation(aliases=None, **given):
    """Of the valid pillar with this vacation."""
    return model(having(aliases, vacation={"text": "Back soon", **given}))["accounts"][0][
        "vacation"
    ]


def test_a_vacation_needs_nothing_but_its_text():
    assert vacation() == {
        **{"text": "Back soon", "subject": "", "from": "", "until": "", "days": 7},
        "addresses": [ANN, "postmaster@example.com", "abuse@example.com"],
    }
    assert model(having())["accounts"][0]["vacation"] is None


def test_it_answers_for_aliases_that_lead_to_nobody_else():
    aliases = {
        **{"team@example.com": [ANN, BOB], "me@example.com": ANN, "@example.com": ANN},
        **{"both@example.com": [ANN, AWAY], "bob2@example.com": BOB, "far@example.com": AWAY},
        **{"postmaster@example.com": BOB, "abuse@example.com": BOB},
    }
    assert vacation(aliases)["addresses"] == [ANN, "me@example.com"]


@pytest.mark.parametrize("day", ["2027-12-31", datetime.date(2027, 12, 31)])
def test_a_day_is_read_quoted_and_bare(day):
    """YAML makes a date of the one that is not quoted."""
    found = vacation(**{"from": day, "until": day})
    assert (found["from"], found["until"]) == ("2027-12-31", "2027-12-31")


def test_a_leap_day_is_one():
    assert vacation(until="2028-02-29")["until"] == "2028-02-29"


def test_whatever_people_write_is_a_text():
    text = 'Grüße!\n\n.\n"x" \\ ${y} 👩\u200d💻\u00a0\tZoë'
    assert vacation(text=f"{text}\n")["text"] == text
    assert vacation(subject=" Übermorgen zurück ")["subject"] == "Übermorgen zurück"


def test_one_that_has_ended_is_noted():
    found = model(having(vacation={"text": "x", "until": "2027-02-27"}))
    assert (
        "accounts:ann@example.com: vacation has ended, with 2027-02-27; remove it"
        in (found["notes"])
    )
    assert "vacation" not in "".join(
        model(having(vacation={"text": "x", "until": "2027-02-28"}))["notes"]
    )


LONG = "x" * 901
FAULTS = [
    ({}, ":text: must be the text of the answer, not nothing"),
    ({"text": 5}, ":text: must be the text of the answer, not a number"),
    ({"text": " \n"}, ":text: is empty; write what is answered"),
    ({"text": "a\0b"}, ":text: holds a control character; remove it"),
    ({"text": "a\rb"}, ":text: holds a control character; remove it"),
    ({"text": "a\ud800b"}, ":text: holds a control character; remove it"),
    ({"text": "a\u2028b"}, ":text: holds a control character; remove it"),
    ({"text": LONG}, ":text: has a line of more than 900 bytes; break it"),
    ({"text": "ü" * 451}, ":text: has a line of more than 900 bytes; break it"),
    ({"text": "x\n" * 4001}, ":text: is longer than 8000 bytes; write less"),
    ({"text": "x", "subject": ""}, ":subject: '' is not usable; write a line of text"),
    ({"text": "x", "subject": 7}, ":subject: '7' is not usable; write a line of text"),
    ({"text": "x", "subject": "a\nb"}, ":subject: is no single line of text; write one"),
    ({"text": "x", "subject": LONG}, ":subject: is longer than 900 bytes; write less"),
    *[
        ({"text": "x", "until": day}, f":until: {day!a} is no day; write it like 2027-01-31")
        for day in ("2027-02-29", "2100-02-29", "0000-01-01", "2027-1-1", "31.12.2027", "soon")
    ],
    (
        {"text": "x", "from": "2027-05-02", "until": "2027-05-01"},
        ":until: is before from, 2027-05-02; nobody would be answered",
    ),
    *[
        (
            {"text": "x", "days": days},
            f":days: {str(days)!a} is not usable; write a number of days, 1 to 30, for which who "
            "was answered is not answered again",
        )
        for days in (0, 31, True, "7")
    ],
    ({"text": "x", "txt": "x"}, ":txt: no such key; did you mean text?"),
    ("gone", ": must hold keys and values, not text"),
]


@pytest.mark.parametrize(("given", "sentence"), FAULTS, ids=[ascii(row)[:60] for row in FAULTS])
def test_a_faulty_vacation_is_named_with_its_cure(given, sentence):
    assert read(having(vacation=given))[1] == [f"accounts:{ANN}: vacation{sentence}"]


@pytest.mark.parametrize("targets", [AWAY, [AWAY, BOB]])
def test_who_forwards_keeps_a_copy(targets):
    found = model(having({"me@example.com": ANN}, forward=targets))
    listed = targets if isinstance(targets, list) else [targets]
    assert found["aliases"][ANN] == [ANN, *listed]
    assert found["aliases"]["me@example.com"] == [ANN]  # whose own forward brings the others


@pytest.mark.parametrize(
    ("aliases", "forward", "sentence"),
    [
        ({}, [], "leads nowhere; name a target, or remove it"),
        ({}, "x", "its target 'x' is not an address; write it like user@example.com"),
        (
            {},
            "nobody@example.com",
            "its target nobody@example.com is neither an account nor an alias; add it",
        ),
        ({}, [AWAY, ANN], f"leads back to {ANN}, which keeps its mail anyway; remove that"),
        (
            {ANN: [ANN, BOB]},
            AWAY,
            f"{ANN} is in mailsrv:aliases, too; write all targets there",
        ),
    ],
)
def test_a_faulty_forward_is_named_with_its_cure(aliases, forward, sentence):
    assert read(having(aliases, forward=forward))[1] == [f"accounts:{ANN}: forward: {sentence}"]


def test_who_keeps_no_copy_has_an_account_and_no_mail_comes_there():
    found = model(having({"me@example.com": ANN}, forward=[AWAY, BOB], keep_copy=False))
    assert [account["address"] for account in found["accounts"]] == [ANN, BOB]
    assert found["aliases"][ANN] == found["aliases"]["me@example.com"] == [AWAY, BOB]
    assert found["aliases"]["postmaster@example.com"] == [BOB]
    assert found["accounts"][0]["senders"] == [ANN]


@pytest.mark.parametrize(
    ("ann", "sentence"),
    [
        ({"keep_copy": "no"}, "'no' is neither true nor false"),
        ({"keep_copy": False}, "its mail would go nowhere; name a forward"),
        (
            {"keep_copy": False, "forward": AWAY, "vacation": {"text": "Back soon"}},
            "without a copy vacation answers nothing; remove one",
        ),
    ],
)
def test_a_faulty_keep_copy_is_named_with_its_cure(ann, sentence):
    assert read(having(**ann))[1] == [f"accounts:{ANN}: keep_copy: {sentence}"]


def test_a_forward_back_to_who_keeps_no_copy_is_named():
    fault = f"accounts:{ANN}: forward: leads back to {ANN}, without keep_copy; remove that"
    assert read(having(forward=[AWAY, ANN], keep_copy=False))[1][0] == fault


def test_two_who_keep_nothing_for_each_other_are_a_loop():
    accounts = {
        one: {"password": "hunter2", "forward": other, "keep_copy": False}
        for one, other in ((ANN, BOB), (BOB, ANN))
    }
    found = read({"domains": ["example.com"], "accounts": accounts})[1]
    assert f"mailsrv:aliases:{ANN}: leads back to itself; break the loop" in found
