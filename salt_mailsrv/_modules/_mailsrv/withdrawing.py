"""
How a policy of MTA-STS is taken back (RFC 8461, section 8.3): senders keep it for as long as it
says, so first there is one that says ``none``, and nothing only when no sender has the old one.
"""

import re

WEEK, DAY = 604800, 86400  # seconds for which senders keep a policy, and one that says none
KEY = "mailsrv:dns:mta_sts"
FIELD = re.compile(r"^(mode|max_age): *(\w+) *\r?$", re.MULTILINE | re.ASCII)


def policy(mode, *hosts):
    """The policy file (RFC 8461, section 3.2) of these MX hosts; its lines end in CRLF."""
    lines = ["version: STSv1", f"mode: {mode or 'none'}"]
    lines += [f"mx: {host}" for host in hosts]
    lines += [f"max_age: {DAY if mode == 'none' else WEEK}"]
    return "".join(f"{line}\r\n" for line in lines)


def standing(files):
    """
    What policies stand on this machine.

    files
        The text of each, and the day a week after it was written, as 2026-07-31.

    Returns ``mode``, the strictest of them, empty where there is none, and ``until``, the day on
    which the last sender forgets what was there before one that takes it back, or empty.
    """
    modes, until = set(), ""
    for text, forgotten in files:
        found = dict(FIELD.findall(text))
        modes.add(found.get("mode", ""))
        if (found.get("mode"), found.get("max_age")) == ("none", str(DAY)):
            until = max(until, forgotten)
    mode = next((mode for mode in ("enforce", "testing", "none") if mode in modes), "")
    return {"mode": mode, "until": until}


def dropped(mode, web, there, today, notes):
    """
    A sentence where this run takes away what senders still hold to; empty where it does not.

    mode
        What the pillar says: ``none``, ``testing``, ``enforce``, or None, where it says nothing.

    web
        Whether this machine serves the policies itself; of another one nothing is known.

    there, today
        What :func:`standing` says, and the date.

    notes
        Gets a sentence about how far a withdrawal is.
    """
    held = there["until"] and today <= there["until"]
    if mode == "none" and web:
        if there["mode"] in ("enforce", "testing"):
            notes.append(
                f"{KEY}: none takes the policy back with this run; publish the new record, and "
                "leave none there for a week"
            )
        elif held:
            notes.append(
                f"{KEY}: none is to stay until {there['until']}: so long senders may hold to the "
                "policy that was there before"
            )
        else:
            notes.append(f"{KEY}: no sender holds to a policy any more; remove it")
    if mode or not (there["mode"] == "enforce" or held):
        return ""
    told = (
        f"{KEY}: senders may hold to the policy that was here until {there['until']}"
        if held and there["mode"] != "enforce"
        else f"{KEY}: enforce is taken away, and senders hold to it for a week"
    )
    notes.append(
        f"{told}; until then they bring no mail where the certificate is not as they want it: "
        "write none, with web: true, publish its record, and remove both when mailsrv.lint says so"
    )
    return notes[-1]
