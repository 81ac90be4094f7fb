"""A policy of MTA-STS is taken back by one that says none, and only then is there nothing."""

import pytest
from _mailsrv import records, withdrawing

import reading

PATH = "mailsrv:dns:mta_sts:"
WEEK_LATER = "2026-07-08"
HOST = "mx.example.com"


def there(mode, forgotten=WEEK_LATER):
    return [(withdrawing.policy(mode, HOST), forgotten)]


def given(mode, web=True):
    found = {"tls": {"cert": "/etc/ssl/a.pem", "key": "/etc/ssl/a.key"}, "web": web}
    return {"domains": ["example.com"], "mailsrv": found | {"dns": {"mta_sts": mode}}}


def told(mode, policies, today, web=True):
    """What the lint says of the policy, and what the run warns of."""
    found = reading.model(given(mode, web), today=today, policies=policies)
    return [n for n in found["notes"] if n.startswith(PATH)], found["dns"]["dropped"]


def test_none_is_a_policy_that_is_published_and_soon_forgotten():
    found = reading.model(given("none"))
    assert records.web_files("example.com", found)[
        "https://mta-sts.example.com/.well-known/mta-sts.txt"
    ] == ("version: STSv1\r\nmode: none\r\nmx: mx.example.com\r\nmax_age: 86400\r\n")
    ids = {}
    for mode in ("none", "testing", "enforce"):
        listed = records.records(reading.model(given(mode)), {"example.com": {}}, [])["example.com"]
        (ids[mode],) = [r["value"] for r in listed if r["name"] == "_mta-sts.example.com."]
    assert len({*ids.values()}) == 3


@pytest.mark.parametrize(("mode", "web"), [(None, True), (None, False), ("none", False)])
def test_without_the_key_or_who_serves_it_nothing_is_published(mode, web):
    found = reading.model(given(mode, web))
    listed = records.records(found, {"example.com": {}}, [])["example.com"]
    assert not [r for r in listed if r["name"] == "_mta-sts.example.com."]


def test_the_lint_says_how_far_the_withdrawal_is():
    (begins,), dropped = told("none", there("enforce"), "2026-07-01")
    assert (begins, dropped) == (
        f"{PATH} none takes the policy back with this run; publish the new record, and leave none "
        "there for a week",
        "",
    )
    for today in ("2026-07-01", "2026-07-08"):
        assert told("none", there("none"), today) == (
            [
                f"{PATH} none is to stay until 2026-07-08: so long senders may hold to the policy "
                "that was there before"
            ],
            "",
        )
    assert told("none", there("none"), "2026-07-09") == (
        [f"{PATH} no sender holds to a policy any more; remove it"],
        "",
    )
    assert told(None, there("none"), "2026-07-09") == ([], "")


@pytest.mark.parametrize("web", [True, False])
@pytest.mark.parametrize(
    ("mode", "today", "sentence"),
    [
        ("enforce", "2027-01-01", "enforce is taken away, and senders hold to it for a week; "),
        (
            "none",
            "2026-07-08",
            "senders may hold to the policy that was here until 2026-07-08; ",
        ),
    ],
)
def test_who_drops_a_policy_at_once_is_warned_with_the_cure(mode, today, sentence, web):
    (note,), dropped = told(None, there(mode), today, web)
    assert note == dropped
    assert note.startswith(f"{PATH} {sentence}")
    assert "write none, with web: true, publish its record" in note


@pytest.mark.parametrize("mode", ["testing", "enforce"])
def test_a_policy_that_stays_or_was_never_enforced_is_worth_no_word(mode):
    assert told(mode, there("enforce"), "2026-07-02") == ([], "")
    assert told(None, there(None), "2026-07-02") == ([], "")
    assert told(None, there("testing"), "2026-07-02") == ([], "")
    assert told(None, [], "2026-07-02") == ([], "")


def test_the_strictest_and_the_latest_of_several_counts():
    several = [*there("none"), *there("none", "2026-07-11")]
    assert withdrawing.standing(several) == {"mode": "none", "until": "2026-07-11"}
    several += there("enforce")
    assert withdrawing.standing(several)["mode"] == "enforce"


@pytest.mark.parametrize("text", ["", "mode: \x00", "mode:none", "\udcff", "max_age: 86400", "a:b"])
def test_a_file_that_is_no_policy_of_ours_is_none(text):
    assert withdrawing.standing([(text, WEEK_LATER)])["until"] == ""
    assert withdrawing.standing([(text, WEEK_LATER)])["mode"] != "enforce"
