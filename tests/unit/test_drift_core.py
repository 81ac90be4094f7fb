"""What of a dry run is drift, and what of it may be told."""

import json

import pytest
from _mailsrv import drift
from hypothesis import given
from hypothesis import strategies as st

SECRET = "hunter2"
BUSY = ['The function "state.highstate" is running as PID 7 and was started at x with jid 1']


def state(name, result, number=0, sls="mailsrv.dovecot", changes=()):
    return {
        "__id__": name,
        "__sls__": sls,
        "__run_num__": number,
        "result": result,
        "changes": dict(changes),
        "comment": f"password {SECRET} would be written",
    }


def found(*states):
    return drift.of_run({str(number): one for number, one in enumerate(states)})


def test_our_states_that_would_change_or_fail_are_named_once_and_in_their_order():
    finding = found(
        state("mailsrv-b", None, 2, changes={"diff": SECRET}),
        state("mailsrv-b", None, 3),
        state("mailsrv-a", None, 1),
        state("mailsrv-at-once", True, 4, changes={"x": SECRET}),
        state("mailsrv-bad", False, 5),
        state("mailsrv-well", True, 6),
        state("of-somebody-else", None, 7, "web"),
        state("alike", None, 8, "mailsrv2"),
    )
    assert finding == {
        "changes": ["mailsrv-a", "mailsrv-b", "mailsrv-at-once"],
        "failures": ["mailsrv-bad"],
        "impossible": False,
    }
    said = drift.says(finding)
    assert said == (
        "a run would fail at mailsrv-bad; a run would change mailsrv-a, mailsrv-b, mailsrv-at-once"
    )
    assert SECRET not in json.dumps(finding) + said


def test_a_machine_where_nothing_would_change_is_well():
    assert found(state("mailsrv-well", True)) == drift.WELL
    assert drift.says(drift.WELL) == "a run would change nothing"


@pytest.mark.parametrize(
    "returned",
    [
        [f"Rendering SLS 'base:mailsrv.web' failed: Jinja variable '{SECRET}' is undefined"],
        ["Pillar failed to render with the following messages:", SECRET],
        {"no_|-states_|-states_|-None": {"result": False, "comment": "No Top file", "changes": {}}},
        {"x": state("of-somebody-else", True, sls="web")},
        {"name": f"Salt highstate run is disabled. {SECRET}", "result": "False", "comment": SECRET},
        None,
    ],
)
def test_where_there_is_no_dry_run_that_is_said_and_nothing_that_was_in_it(returned):
    finding = drift.of_run(returned)
    assert finding == {"changes": [], "failures": [], "impossible": True}
    assert SECRET not in drift.says(finding)


def test_another_run_that_goes_on_is_no_drift():
    assert drift.of_run(BUSY) is None


@given(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_whatever_stands_in_the_notes_a_look_goes_on(text):
    assert drift.told(text) == drift.WELL


def test_what_was_told_is_known_again():
    finding = found(state("mailsrv-a", None))
    assert drift.told(json.dumps(finding)) == finding
