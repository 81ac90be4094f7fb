"""
What the report shows, gathered from this machine, or by the master from its minions.
"""

import collections
import datetime
import os
import time

import _mailsrv_disk as disk
import _mailsrv_log as log
import salt.client
import salt.config
from _mailsrv import journal, report, waiting
from _mailsrv.faults import show
from salt.exceptions import CommandExecutionError

DAYS = 30  # of mail that is counted, as far as the log goes back
REASONS = 20  # why mail waits: the most frequent ones


def figures(model, facts, functions, context):
    """What :func:`mailsrv.figures` returns; `functions` and `context` are Salt's."""
    now = time.time()
    entries = log.entries(now - DAYS * 86400)
    today = datetime.date.fromtimestamp(now)
    days = [str(today - datetime.timedelta(days=ago)) for ago in reversed(range(DAYS))]
    found = report.history(journal.events(entries, model["domains"]), days, _day)
    result = {
        "name": model["hostname"],
        "made": moment(now),
        "checks": functions["mailcheck.run"](),
        "dns": _dns(model, functions),
        "rotation": functions["mailsrv.rotation"](),
        **found,
        "since": found["since"] and moment(found["since"]),
        "queue": _queue(now),
        "certificate": _certificate(model, functions),
        "mailboxes": [*_mailboxes(model, facts["vmail"]["home"])],
    }
    context["retcode"] = 0  # the checks have set it, which say for themselves what is wrong
    return result


def asked(machines, config):
    """
    The figures of minions, asked by the master on this machine. `config` is the file of its minion,
    beside which the master has its own.
    """
    config = os.path.join(os.path.dirname(config), "master")
    if not os.path.exists(config):
        raise CommandExecutionError(
            f"mailsrv.report: machines={show(machines)} is for the machine of the master, and "
            f"there is no {config} here; without machines= the page shows this machine"
        )
    answers = {}
    with salt.client.LocalClient(mopts=salt.config.master_config(config)) as client:
        for answer in client.cmd_iter(str(machines), "mailsrv.figures", expect_minions=True):
            answers |= answer
    if not answers:
        raise CommandExecutionError(f"mailsrv.report: no minion is called {show(machines)}")
    return told_apart({minion: _of(minion, answers[minion]) for minion in sorted(answers)})


def moment(seconds):
    """A time as people write it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def told_apart(found):
    """What each minion answered; those of one name are called as the master calls them."""
    names = collections.Counter(answer["name"] for answer in found.values())
    return [
        {**answer, "name": minion} if names[answer["name"]] > 1 else answer
        for minion, answer in found.items()
    ]


def _of(minion, answer):
    found = answer.get("ret", "does not answer")
    if not isinstance(found, dict):
        return {"name": minion, "fault": str(found).strip().rpartition("\n")[2]}
    try:
        report.page([found], "")
        report.verdicts([found])
    except Exception:  # of an older version, or of whoever has taken it over
        return {"name": minion, "fault": "does not answer as this version does"}
    return found


def _day(seconds):
    return str(datetime.date.fromtimestamp(seconds))


def _dns(model, functions):
    try:
        return functions["mailcheck.dns"]()
    except CommandExecutionError as exc:
        return dict.fromkeys(model["domains"], str(exc))


def _queue(now):
    entries = disk.queue(timeout=30)
    reasons = collections.Counter(entry["reason"] for entry in entries)
    return {
        "messages": waiting.count(entries),
        "oldest": waiting.oldest(entries, now),
        "reasons": dict(reasons.most_common(REASONS)),
    }


def _certificate(model, functions):
    path = model["tls"]["cert"]
    found = functions["certificate.look"](disk.text(path), model["hostname"])
    faults = [f"{path} {sentence}" for _, sentence in (*found["broken"], *found["doubtful"])]
    about = {name: found.get(name) for name in ("names", "until", "days", "self_signed")}
    return {**about, "faults": faults}


def _mailboxes(model, top):
    quotas = {a["address"]: a["quota"] or model["quota"] for a in model["accounts"]}
    for domain, user, directory in disk.mailboxes(top):
        address = f"{user}@{domain}"
        yield {
            "address": address,
            "bytes": disk.size(user, directory),
            "quota": quotas.get(address),
            "gone": address not in quotas,
        }
