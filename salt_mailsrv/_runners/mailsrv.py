"""
Rolling out over several machines: one at first, then the others, and no further than the first one
that is not well afterwards. And moving a domain from one of them to another.

It runs on the master and asks the minions for all it knows; what they look at is what
``mailsrv.lint``, ``mailcheck.run`` and ``mailcheck.peer`` say there.
"""

import contextlib
import fcntl
import os
import re
import sys
import time

import salt.client

__virtualname__ = "mailsrv"

TIMEOUT = 60  # seconds until a machine is asked whether it still works at what it was given
ROUNDS = 5  # of copying while both run, as long as each has half of the one before
SHORT = 10  # seconds, of a round behind which the rest is little
ENDING = 5  # seconds that the one who has handed out mailboxes may take to end by himself
OTHERS = 300  # seconds for which a run that somebody else began is waited for
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


def move(domain, port=24245, dns=None, test=False, **options):
    """
    Move a domain from one mail machine to another: mailboxes, with UIDs, flags, folders,
    subscriptions and filters, while mail arrives and users work.

    The pillar of the one has ``moves_to: {example.org: mx2}``, that of the other all that it shall
    have of the domain, and ``moves_from: {example.org: mx1}``. Both are brought up to date by the
    highstate. The mailboxes are copied until little is left; then nobody logs in and what comes
    waits in the queue, the rest is copied and compared, and the domain is on the other machine. The
    first one hands on what still comes there. A run that ends early leaves the domain where it was,
    or says which machine has it, and the next run goes on from there.

    domain
        The domain.

    from, to
        The ids of the two minions.

    port
        Where the first machine is asked by the other one, by TLS. Default: 24245.

    dns
        The minions that serve the zones with NSD, a compound target: they are brought up to date in
        the end. Default: none.

    test
        ``True``: go no further than to look at both machines.

    Returns ``copied``, what each round of copying said; ``seconds without access``, for which no
    user could log in; where it ended early, ``stopped`` says why and what to do. The ``retcode``,
    and with it the exit status, is 1 then.

    CLI Example:

    .. code-block:: bash

        salt-run mailsrv.move example.org from=mx1.example.net to=mx2.example.net test=True
        salt-run mailsrv.move example.org from=mx1.example.net to=mx2.example.net dns='ns*'
    """
    told = {}
    try:
        options = {name: value for name, value in options.items() if not name.startswith("__")}
        if options.keys() != {"from", "to"} or options["from"] == options["to"]:
            raise _Red("name the two minions, from=mx1.example.net to=mx2.example.net")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            raise _Red(f"port: {port!r} is none")
        if "@" in str(domain):
            raise _Red(
                f"{domain} is an address, and its domain has one MX: name the domain, which moves "
                "whole; one account goes into a domain of the other machine, see docs/fleet.md"
            )
        with _alone(str(domain)):
            _Move(domain, options["from"], options["to"], port, told).run(dns, test)
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


@contextlib.contextmanager
def _alone(domain):
    """No other run moves it."""
    name = re.sub("[^a-z0-9.-]", "", domain.lower())
    with open(os.path.join(__opts__["cachedir"], f"mailsrv.move.{name}"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Red(f"{domain} is being moved already; wait for that") from None
        yield


class _Move:
    """A domain between two machines; at no time do both have it."""

    def __init__(self, domain, here, there, port, told):
        self._domain, self._here, self._there = str(domain).lower(), here, there
        self._port, self._told, self._out = port, told, False

    def run(self, dns, test):
        try:
            self._run(dns, test)
        except _Red as red:
            if not self._out:
                raise
            raise _Red(
                f"{red}. The users of {self._domain} are out, and its mail waits: mend that, and "
                "run it again now"
            ) from None

    def _run(self, dns, test):
        both = [self._here, self._there]
        _answering(both, "list")
        for function in "saltutil.sync_all", "saltutil.refresh_pillar":
            kwarg = {"wait": True} if function.endswith("pillar") else None
            _sound(_ask(both, function, kwarg=kwarg), {"machines": {}}, f"{function} failed")
        self._look()
        if self._there_is("waiting"):
            self._can_be_copied()
        if test:
            return
        self._apply(both, "state.highstate")
        self._look()
        if self._phases() == ("gone", "here"):  # by a run that may have been cut off right then
            self._told["moved"] = "before"
            self._one(self._here, "moving.hand_on")
        else:
            if self._there_is("waiting"):
                self._copy_and_switch()
            self._leave()
            self._apply(both, "state.highstate")
        if dns:
            self._one(self._there, "mine.update")
            self._one(self._here, "mine.update")
            _progress(f"the zones on {dns}")
            answers = _ask(dns, "state.apply", ["mailsrv.nsd"], tgt_type="compound")
            failed = {name: said for name, answer in answers.items() if (said := _failed(answer))}
            if failed or not answers:
                raise _Red(f"it has moved, and DNS does not say so yet: {failed or dns}")
        self._told["phases"] = dict(zip(both, self._phases(), strict=True))

    def _look(self):
        """What both say of the domain; a reason not to begin is one for both."""
        found = {}
        for name in self._here, self._there:
            found[name] = self._one(name, "moving.state", self._domain)
        self._found = found
        here, there = found[self._here], found[self._there]
        self._out = here["phase"] == "frozen"
        if here["way"] != "to" or here["peer"] != self._there:
            raise _Red(
                f"{self._here}: its pillar needs moves_to: {{{self._domain}: {self._there}}}"
            )
        if there["way"] != "from" or there["peer"] != self._here:
            raise _Red(
                f"{self._there}: its pillar needs moves_from: {{{self._domain}: {self._here}}}"
            )
        if self._phases() == ("here", "here"):
            raise _Red(
                f"both have {self._domain}: {self._there} has taken it, and {self._here} does not "
                "remember that it has given it away; what came there since is not copied by this. "
                f"See docs/fleet.md"
            )
        if self._phases() == ("gone", "waiting"):
            raise _Red(
                f"{self._here} has given {self._domain} away, and {self._there} does not remember "
                "that it has taken it; its mail waits. See docs/fleet.md"
            )
        self._told["mailboxes"] = len(here["accounts"])
        for what, said in (("accounts", "no account"), ("recipients", "nobody")):
            missing = sorted({*here[what]} - {*there[what]})
            if missing:
                shown = ", ".join(name or "the catch-all" for name in missing[:10])
                raise _Red(f"{shown}: {said} in the pillar of {self._there}; add it there")
        more = sorted({*there["accounts"]} - {*here["accounts"]})
        if more and there["phase"] == "waiting":
            raise _Red(
                f"{_listed(more[:10])}: no account in the pillar of {self._here}, so that there is "
                f"nothing to copy; add it there, or to {self._there} when the domain has moved"
            )

    def _phases(self):
        return tuple(self._found[name]["phase"] for name in (self._here, self._there))

    def _there_is(self, phase):
        return self._found[self._there]["phase"] == phase

    def _copy_and_switch(self):
        if self._phases()[0] == "here":
            before = None
            for _ in range(ROUNDS):
                took = self._copy()
                if took < SHORT or (before and took > before / 2):
                    break
                before = took
        there = self._found[self._there]
        code = self._one(self._here, "moving.answer", self._domain, there["host"], there["shown"])
        if code != 451:
            raise _Red(
                f"{self._there} answers mail for {self._domain} with {code}, not with 451, as one "
                "to which it is to come; nothing was switched"
            )
        began = time.monotonic()
        try:
            self._one(self._here, "moving.freeze", self._domain)
            self._apply([self._here], "state.apply", "mailsrv.dovecot")
            self._one(self._here, "moving.frozen", self._domain)
            self._copy()
            figures = _ask([self._here, self._there], "moving.figures", [self._domain])
            here, there = (figures[name]["ret"] for name in (self._here, self._there))
            if not isinstance(here, dict) or not isinstance(there, dict):
                raise _Red(f"the copies could not be compared: {_words([here, there])[:300]}")
            if other := sorted(name for name in here if here[name] != there.get(name)):
                raise _Red(f"{_listed(other[:10])}: the copy is not the same")
            if late := self._one(self._here, "moving.frozen", self._domain):
                raise _Red(f"{_listed(late[:10])}: still logged in while it was copied")
        except BaseException as exc:  # Ctrl-C, too
            why = exc if isinstance(exc, _Red) else f"it was cut off: {exc!r}"
            raise _Red(f"{why}. {self._undone()}") from None
        try:
            sends_from = self._found[self._here]["sends_from"]
            self._one(self._there, "moving.take", self._domain, sends_from)
            self._apply([self._there], "state.apply", "mailsrv.opensmtpd")
        except BaseException as exc:
            self._out = True
            raise _Red(exc if isinstance(exc, _Red) else f"it was cut off: {exc!r}") from None
        self._told["seconds without access"] = round(time.monotonic() - began, 1)

    def _undone(self):
        """The domain stays where it was; whether that is so, a sentence."""
        _progress(f"{self._domain} stays on {self._here}")
        self._out = False
        try:
            self._one(self._here, "moving.thaw", self._domain)
            self._apply([self._here], "state.apply", "mailsrv.dovecot")
        except _Red as red:
            return (
                f"And {self._here} could not be opened again ({red}): its users do not get in, and "
                "mail waits there. Run it again"
            )
        return f"{self._domain} is on {self._here} as before; mend that and run it again"

    def _can_be_copied(self):
        """Each folder has a name that dsync carries."""
        found = self._one(self._here, "moving.unfit", self._domain)
        names = [f"{user}: {folder}" for user, folders in found.items() for folder in folders]
        if names:
            raise _Red(
                f"{'; '.join(sorted(names)[:5])}: no name with a % is copied; rename the folder, "
                "in a mail client or by doveadm mailbox rename"
            )

    def _copy(self):
        """Copy what is not there yet; returns the seconds."""
        self._can_be_copied()
        _progress(f"copying {self._domain}")
        host = self._found[self._here]["host"]
        both = [self._here, self._there]
        shown = {name: self._one(name, "moving.identity", self._domain) for name in both}
        serving = [self._domain, shown[self._there], self._port]
        fetching = [self._domain, host, shown[self._here], self._port]
        with salt.client.get_local_client(mopts=__opts__) as client:
            job = client.cmd_async([self._here], "moving.serve", serving, "list")
            try:
                fetched = _ask([self._there], "moving.fetch", fetching)[self._there]
            finally:
                said = self._ended(client, job)
            if fetched["retcode"]:
                why = fetched["ret"]
                if isinstance(why, dict):
                    why = [f"{name}: {text}" for name, text in sorted(why["failed"].items())][:5]
                said = (
                    f"; {self._here} says: {_words(said)}" if isinstance(said, str) and said else ""
                )
                raise _Red(f"{self._there}: {_words(why)}{said}")
        self._told.setdefault("copied", []).append(fetched["ret"])
        return fetched["ret"]["seconds"]

    def _ended(self, client, job):
        """What the one who has handed out says; he ends, whoever would hold on to him."""
        until = time.monotonic() + ENDING
        while not (said := client.get_cache_returns(job).get(self._here)):
            if time.monotonic() > until:
                _ask([self._here], "saltutil.term_job", [job])
                return ""
            time.sleep(0.2)
        return said.get("ret", "")

    def _leave(self):
        self._out = False  # they are in again, there
        there = self._found[self._there]
        code = self._one(self._here, "moving.answer", self._domain, there["host"], there["shown"])
        if code != 250:
            raise _Red(
                f"{self._there} has {self._domain}, and answers its mail with {code}, not with "
                f"250; what comes to {self._here} waits there. Mend that and run it again"
            )
        self._one(self._here, "moving.leave", self._domain, there["host"], there["shown"])
        self._apply([self._here], "state.apply", "mailsrv.opensmtpd")
        self._one(self._here, "moving.hand_on")
        self._look()

    def _apply(self, names, function, *arguments):
        _progress(f"{function} {' '.join(arguments)} on {_listed(names)}")
        until = time.monotonic() + OTHERS
        while names:
            answers = _ask(names, function, list(arguments))
            failed = {name: said for name, answer in answers.items() if (said := _failed(answer))}
            # Another run on a machine, as one by cron, is waited for.
            names = [name for name, said in failed.items() if "is running as PID" in said]
            if len(failed) > len(names) or (names and time.monotonic() > until):
                raise _Red("; ".join(f"{name}: {said}" for name, said in sorted(failed.items())))
            if names:
                time.sleep(2)

    def _one(self, name, function, *arguments):
        """What one machine returns."""
        answer = _ask([name], function, list(arguments))[name]
        if answer["retcode"]:
            raise _Red(f"{name}: {_words(answer['ret'])}")
        return answer["ret"]
