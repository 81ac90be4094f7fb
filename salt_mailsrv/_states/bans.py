"""
Nobody is banned any more: the end of a jail of fail2ban.
"""

import os
import subprocess

from _mailsrv_files import delete

__virtualname__ = "bans"


def __virtual__():
    return __virtualname__


def absent(name, files):
    """
    fail2ban has no such jail, nftables has no such table, and these files are gone.

    What runs decides: a jail whose files an earlier run has deleted is ended, and so is a table
    that a killed fail2ban has left behind. fail2ban itself is left as it is.

    name
        Of the jail, and of the table, which is of the family inet.

    files
        What they are made of.

    .. code-block:: yaml

        mailsrv:
          bans.absent:
            - files: [/etc/fail2ban/jail.d/mailsrv.conf]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"there is no jail {name}"}
    there = [path for path in files if os.path.lexists(path)]
    delete(ret, there, __opts__["test"])
    jail, table = ["fail2ban-client", "status", name], ["nft", "list", "table", "inet", name]
    ends = {
        "jail": (jail, ["fail2ban-client", "stop", name]),
        "table": (table, ["nft", "delete", "table", "inet", name]),
    }
    for what, (known, end) in ends.items():
        # With its jail, the table goes by itself.
        if _run(known)[0] or (__opts__["test"] and "jail" in ret["changes"]):
            continue
        if not __opts__["test"]:
            failed, said = _run(end)
            if failed and not _run(known)[0]:
                ret.update(result=False, comment=f"{' '.join(end)}: {said}")
                return ret
        ret["changes"][what] = "removed"
    if there and not __opts__["test"]:
        _run(["systemctl", "daemon-reload"])  # some of them are units
    if ret["changes"]:
        done = "would be" if __opts__["test"] else "is"
        ret["comment"] = f"the jail {name} {done} removed"
        ret["result"] = None if __opts__["test"] else True
    return ret


def _run(command):
    """Whether it failed, and what it said."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, "no answer"
    return ran.returncode, (ran.stderr or ran.stdout).strip()
