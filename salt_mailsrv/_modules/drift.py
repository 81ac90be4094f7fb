"""
Drift of this machine, told to the master: once, when what a run would change is not what it was.
"""

import json

import _mailsrv_disk as disk
import _mailsrv_telling as telling
from _mailsrv import drift
from salt.exceptions import SaltException

__virtualname__ = "drift"
__outputter__ = {"tell": "yaml"}

TAG = "mailsrv/drift"


def __virtual__():
    return __virtualname__


def tell():
    """
    Make a dry run, and tell the master by an event where what a run would change, or fail at, is
    not what was told last. For Salt's schedule.

    The event is ``mailsrv/drift``, with ``changes`` and ``failures``, lists of the IDs of states of
    this formula; ``impossible``, whether there was no dry run; ``well``, whether a run would change
    nothing; and ``says``, the same as a sentence. It has neither differences nor comments. What was
    told stands in ``/var/lib/mailsrv/drift.json``. It is noted when the master has it: who is
    killed between the two tells it again.

    Returns the same, with ``told``: ``now``, ``before`` or, without a master, ``there is no
    master``. While another run goes on, and where the master gives no answer, ``says`` alone; the
    next one looks again. The ``retcode``, and with it the exit status of ``salt-call``, is 1 where
    a run would change something and where it is not known.

    CLI Example:

    .. code-block:: bash

        salt-call drift.tell
        salt 'mx*' drift.tell --out=json
    """
    try:
        answer, status = _told()
    except (SaltException, OSError) as exc:
        answer, status = {"says": f"it is not known what a run would change: {_line(exc)}"}, 1
    __context__["retcode"] = status
    return answer


def _told():
    path = f"{__salt__['mailsrv.here']()['facts']['kept']}/drift.json"
    with telling.alone(path) as alone:
        # Never queued, whatever the minion's state_queue says: the next look will tell.
        states = __salt__["state.highstate"](test=True, queue=False) if alone else None
        finding = drift.of_run(states) if alone else None
        # One that began meanwhile may have been half through.
        if finding is None or __salt__["saltutil.is_running"]("state.*"):
            return {"says": "another run goes on; the next look will tell"}, 0
        before, well = drift.told(disk.text(path)), finding == drift.WELL
        news = {**finding, "well": well, "says": drift.says(finding)}
        told = "before"
        if finding != before:
            told = _send(path, before, finding, news)
    return {**news, "told": told}, int(not well)


def _send(path, before, finding, news):
    """Tell the master and note it; how it was told."""
    told = "there is no master"
    disk.write(path, json.dumps(before))  # what cannot be noted would be told each hour
    if __opts__["file_client"] != "local":
        # With "preload" it goes to the master itself, which answers, and not to the minion's
        # daemon, which would say yes in any case.
        if not __salt__["event.send"](TAG, news, preload={"id": __opts__["id"]}):
            raise OSError("the master took no event; the next look will tell it")
        told = "now"
    disk.write(path, json.dumps(finding))
    return told


def _line(exc):
    return " ".join(str(exc).split()) or type(exc).__name__
