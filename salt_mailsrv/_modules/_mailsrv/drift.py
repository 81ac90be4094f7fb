"""
Drift: what a run would change or fail at on a machine, by the IDs of its states, and when that is
news. A finding is a dictionary of

changes, failures
    The IDs of our states that a dry run would change, and of those that would fail, each once and
    in the order of the run. No comment and no difference of theirs, which may hold a secret.

impossible
    Whether there was no dry run: the pillar or an SLS cannot be rendered, or top.sls has none of
    our states for this machine.
"""

import contextlib
import json

WELL = {"changes": [], "failures": [], "impossible": False}
BUSY = "is running as PID"  # what Salt says instead of running states twice at a time


def of_run(states):
    """The finding of what ``state.highstate`` returned; None while another run goes on."""
    # A dictionary of something else comes of who has switched highstates off (state.disable).
    if not isinstance(states, dict) or not all(isinstance(s, dict) for s in states.values()):
        return None if BUSY in str(states) else {**WELL, "impossible": True}
    ours = [
        state
        for state in sorted(states.values(), key=lambda state: state.get("__run_num__", 0))
        if str(state.get("__sls__")).partition(".")[0] == "mailsrv"
    ]
    changes = [s["__id__"] for s in ours if s["result"] is None or (s["result"] and s["changes"])]
    failures = [s["__id__"] for s in ours if s["result"] is False]
    return {
        "changes": [*dict.fromkeys(changes)],
        "failures": [*dict.fromkeys(failures)],
        "impossible": not ours,
    }


def told(text):
    """The finding that a file has, which was told last; that all is well where it has none."""
    with contextlib.suppress(AttributeError, ValueError):
        found = json.loads(text)
        if found.keys() == WELL.keys():
            return found
    return WELL


def says(finding):
    """A finding as a sentence for people."""
    if finding["impossible"]:
        return "a run is not possible; see why: salt-call state.highstate test=True"
    said = [
        f"a run would {verb} {', '.join(finding[ids])}"
        for verb, ids in (("fail at", "failures"), ("change", "changes"))
        if finding[ids]
    ]
    return "; ".join(said) or "a run would change nothing"
