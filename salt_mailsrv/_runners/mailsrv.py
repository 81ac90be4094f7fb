"""
Rolling out over several machines: one at first, then the others, and no further than the first one
that is not well afterwards.

It runs on the master and asks the minions for all it knows; what they look at is what
``mailsrv.lint``, ``mailcheck.run`` and ``mailcheck.peer`` say there.
"""

import sys

import salt.client

__virtualname__ = "mailsrv"

TIMEOUT = 60  # seconds until a machine is asked whether it still works at what it was given
SILENT = {"ret": "no answer; look there: systemctl status salt-minion", "retcode": 1}


class _Red(Exception):
    """What ends the roll, in words for who started it."""


def __virtual__():
    return __virtualname__


def roll(target, tgt_type="compound", canary=None, batch=1, test=False):
    """
    Run the highstate on the machines that need it: on one, then on a few at a time.

    Every machine has to answer, to have a valid pillar (``mailsrv.lint``) and to come through a dry
    run before the first one is changed. The canary is changed alone. Behind each batch its machines
    look at themselves (``mailcheck.run``), and another machine of the target looks at each
    (``mailcheck.peer``). A fault that was not there before ends the roll, as does a state that
    failed and a machine that no longer answers; what comes behind it stays untouched. A fault that
    was there before is told and holds up nobody. Satellites are changed, too, and not looked at.

    target, tgt_type
        The machines, as for ``salt``; by default a compound target, so globs do, too.

    canary
        The minion id of the first one. Default: the first by its name that would change.

    batch
        How many at a time behind it. Default: 1.

    test
        ``True``: go no further than the dry run.

    Returns ``would change``, by state the machines that it would change; ``machines``, what became
    of each; where it ended early, ``stopped`` says why and what to do. The ``retcode``, and with it
    the exit status, is 1 then.

    CLI Example:

    .. code-block:: bash

        salt-run mailsrv.roll 'mx*' test=True
        salt-run mailsrv.roll 'mx* and not mx3*' canary=mx2.example.net batch=2 --out=json
    """
    told = {}
    try:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise _Red(f"batch: {batch!r} is no number of machines; write one from 1 on")
        machines = _answering(target, tgt_type)
        if canary and canary not in machines:
            raise _Red(f"canary: {canary!r} is none of them: {_listed(machines)}")
        told["machines"] = dict.fromkeys(machines, "untouched")
        _sound(_ask(machines, "saltutil.sync_all"), told, "its modules could not be synced")
        # Otherwise a minion judges the pillar that it has had in its memory for a while.
        refreshed = _ask(machines, "saltutil.refresh_pillar", kwarg={"wait": True})
        _sound(refreshed, told, "its pillar could not be read again")
        _sound(_ask(machines, "mailsrv.lint"), told, "its pillar has faults")
        planned = _planned(machines, told)
        told["would change"] = _by_state(planned)
        waiting = sorted(filter(planned.get, machines), key=lambda name: (name != canary, name))
        told["machines"] |= dict.fromkeys({*machines} - {*waiting}, "nothing to do")
        for group in () if test else _batches(waiting, batch):
            _roll(group, machines, told)
    except _Red as red:
        told["stopped"] = str(red)
    told["retcode"] = __context__["retcode"] = 1 if "stopped" in told else 0
    return told


def _roll(group, machines, told):
    """Change these, and see how they are then."""
    before = _looked(group, machines)
    _progress(f"highstate on {_listed(group)}")
    ill = []
    for name, answer in _ask(group, "state.highstate").items():
        changed = sum(bool(state.get("changes")) for state in _states(answer))
        failed = _failed(answer)
        told["machines"][name] = failed or f"{changed} states changed"
        ill += [name] if failed else []
    for name, faults in _looked([name for name in group if name not in ill], machines).items():
        new = [said for check, said in faults.items() if check not in before.get(name, ())]
        if new:
            told["machines"][name] = "; ".join(new)
            ill.append(name)
        else:
            old = "; ".join(["it was not well before, either", *faults.values()])
            told["machines"][name] += f"; {old if faults else 'well'}"
    if ill:
        raise _Red(f"{_listed(ill)}: not well after the highstate; mend that and roll again")


def _answering(target, tgt_type):
    """The ids of all machines of the target, where all answer."""
    _progress(f"who is there of {target!r}")
    answers = _ask(target, "test.ping", tgt_type=tgt_type, timeout=15)
    if not answers:
        raise _Red(f"no minion is meant by {target!r}; its key has to be accepted: salt-key -L")
    if silent := sorted(name for name, answer in answers.items() if answer["ret"] is not True):
        raise _Red(f"{_listed(silent)}: no answer; look there, or leave it out of the target")
    return sorted(answers)


def _sound(answers, told, fault):
    """Nobody's answer has a bad status."""
    ill = {name: _words(answer["ret"]) for name, answer in answers.items() if answer["retcode"]}
    _untouched(ill, told, fault)


def _untouched(ill, told, fault):
    """End the roll where there is something wrong with a machine, before the first one changed."""
    told["machines"] |= ill
    if ill:
        raise _Red(f"{_listed(ill)}: {fault}; nothing was changed anywhere")


def _planned(machines, told):
    """What a dry run would change, by machine the IDs of the states."""
    _progress("dry run everywhere")
    answers = _ask(machines, "state.highstate", kwarg={"test": True})
    failed = {name: said for name, answer in answers.items() if (said := _failed(answer))}
    _untouched(failed, told, "the dry run failed")
    return {
        name: [s["__id__"] for s in _states(answer) if s["result"] is None or s.get("changes")]
        for name, answer in answers.items()
    }


def _by_state(planned):
    """The same by state, in the order of a run."""
    found = {}
    for name, states in planned.items():
        for state in states:
            found.setdefault(state, []).append(name)
    everybody = len(planned) > 1 and len(planned)
    return {s: "all" if len(names) == everybody else _listed(names) for s, names in found.items()}


def _looked(group, machines):
    """By mail machine the faults that it, and another one, sees there: by check what it says."""
    _progress(f"looking at {_listed(group)}")
    functions = ["mailsrv.client", "pillar.get", "grains.get"]
    seen = {}
    for name, answer in _ask(group, functions, [[], ["mailsrv:hostname"], ["fqdn"]]).items():
        if not isinstance(answer["ret"], dict):
            seen[name] = {"": f"FAULT: {answer['ret']}"}
            continue
        clients, hostname, fqdn = map(answer["ret"].get, functions)
        if not isinstance(clients, dict):  # a satellite, which has none
            continue
        seen[name] = _faults(_ask([name], "mailcheck.run")[name])
        for peer in [other for other in machines if other != name][:1]:
            found = _faults(_ask([peer], "mailcheck.peer", [hostname or fqdn])[peer])
            seen[name] |= {f"{c} {peer}": f"{said}, seen from {peer}" for c, said in found.items()}
    return seen


def _faults(answer):
    """Those that a command of ``mailcheck`` returned, by check."""
    if not answer["retcode"]:
        return {}
    if not isinstance(answer["ret"], dict):
        return {"": f"FAULT: {_words(answer['ret'])}"}
    found = {check: str(said) for check, said in answer["ret"].items()}
    faults = {c: said.removeprefix("FAULT:") for c, said in found.items() if said[:5] == "FAULT"}
    return {check: f"FAULT: {check}:{said}" for check, said in faults.items()}


def _states(answer):
    """The states of a run in their order; none where it did not come to that."""
    states = answer["ret"].values() if isinstance(answer["ret"], dict) else []
    return sorted(states, key=lambda state: state.get("__run_num__", 0))


def _failed(answer):
    """What failed of a run; nothing where all is well."""
    if not isinstance(answer["ret"], dict):
        return f"FAULT: {_words(answer['ret'])}"
    failed = [f"{s['__id__']}: {s['comment']}" for s in _states(answer) if s["result"] is False]
    return f"FAULT: {_words(failed)}" if failed else ""


def _ask(target, function, arguments=(), tgt_type="list", timeout=TIMEOUT, kwarg=None):
    """By minion ``ret`` and ``retcode`` of its answer, also where there is none."""
    if not target:
        return {}
    with salt.client.get_local_client(mopts=__opts__) as client:
        answers = client.cmd(
            target, function, arguments, timeout, tgt_type, kwarg=kwarg, full_return=True
        )
    # A master that cannot give the job away returns nothing at all.
    silent = dict.fromkeys(target if tgt_type == "list" else (), SILENT)
    return silent | {
        name: answer if isinstance(answer, dict) and answer.get("out") != "no_return" else SILENT
        for name, answer in (answers or {}).items()
    }


def _batches(names, size):
    """The first one alone, then as many at a time."""
    return [names[:1], *(names[at : at + size] for at in range(1, len(names), size))][: len(names)]


def _listed(names):
    return ", ".join(sorted(names))


def _words(said):
    """In one line."""
    return " ".join("; ".join(map(str, said if isinstance(said, list) else [said])).split())


def _progress(text):
    if sys.stderr.isatty():
        print(f"==> {text}", file=sys.stderr)
