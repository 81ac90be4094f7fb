"""
What the pillar says of the spam filter: what it learns, from when on it acts, whom it lets through
and whom it refuses.
"""

import ipaddress
import json
import re

from _mailsrv import names
from _mailsrv.faults import joined, listed, section, show, switch

SWITCHES = ("learn", "greylist", "reputation")
# What rspamd does from how many points on, as its package has it, in the order of rising scores.
THRESHOLDS = {"greylist": 4, "add_header": 6, "reject": 15}
MOST_POINTS = 1000
LISTS = ("allow", "block")
# As teach names a message in learn.py's spool.
TAUGHT = re.compile(r"([0-9]{1,12}),[0-9]+,(?:spam|ham),.*", re.DOTALL)

KEYS = {
    "spam_filter": (*SWITCHES, "thresholds", *LISTS),
    "thresholds": tuple(THRESHOLDS),
}


def read(settings, facts, faults, notes):
    """The pillar's ``spam_filter``, a :class:`_mailsrv.model.SpamFilter`; None: there is none."""
    path, given = "mailsrv:spam_filter", settings.get("spam_filter")
    if not isinstance(given, dict):
        if not switch(settings, "spam_filter", path, faults):
            return None
        given = {}
    given = section({"spam_filter": given}, "spam_filter", KEYS["spam_filter"], path, faults)
    result = {name: switch(given, name, f"{path}:{name}", faults) for name in SWITCHES}
    if facts["cannot_remember"]:
        for name in filter(result.get, SWITCHES):
            faults.append(f"{path}:{name}: {facts['cannot_remember']}; take it out")
    result["thresholds"] = _thresholds(given, f"{path}:thresholds", faults)
    if "greylist" in result["thresholds"] and not result["greylist"]:
        notes.append(f"{path}:thresholds:greylist: does nothing without {path}:greylist: true")
    result |= {name: _senders(given.get(name), f"{path}:{name}", faults) for name in LISTS}
    for kind, found in result["allow"].items():
        for both in sorted({*found} & {*result["block"][kind]}):
            faults.append(f"{path}: {both} is in allow and in block; remove it from one of them")
    return result


def _thresholds(given, path, faults):
    """Those that the pillar sets; 0: never."""
    given = section(given, "thresholds", KEYS["thresholds"], path, faults)
    result = {}
    for name, points in given.items():
        if name == "reject" and points is False:
            result[name] = 0
        elif type(points) in (int, float) and 0 < points <= MOST_POINTS:
            result[name] = points
        elif name in THRESHOLDS:
            never = ", or false for never" if name == "reject" else ""
            faults.append(
                f"{path}:{name}: {show(points)} is not usable; write a number of points up to "
                f"{MOST_POINTS}{never}"
            )
    if len(result) == len(given):
        known = {name: points for name, points in (THRESHOLDS | result).items() if points}
        if [*known.values()] != sorted({*known.values()}):
            said = joined([f"{name} {points:g}" for name, points in known.items()], "and")
            faults.append(f"{path}: {said} must rise in this order; change one of them")
    return result


def _senders(values, path, faults):
    """Addresses, domains and networks, each kind apart, each once."""
    result = {"addresses": [], "domains": [], "networks": []}
    for value in listed(values, path, faults, " of addresses, domains and networks"):
        try:
            network = ipaddress.ip_network(value) if isinstance(value, str) else None
        except ValueError:
            network = None
        if network:
            if network.prefixlen == 0:
                faults.append(f"{path}: {network} is everybody; write the networks that you mean")
            result["networks"].append(str(network))
        elif name := names.target(value):
            result["addresses"].append(name.lower())
        elif name := names.domain(value):
            result["domains"].append(name)
        else:
            example = names.like(value, "")
            faults.append(
                f"{path}: {show(value)} is no address, domain or network; write it like "
                f"{example or 'ann@example.com, example.com or 192.0.2.0/24'}"
            )
    return {kind: list(dict.fromkeys(found)) for kind, found in result.items()}


def taught_at(name):
    """When a message was taught, in seconds since 1970, by the name of its file; 0: not by us."""
    found = TAUGHT.fullmatch(name)
    return int(found[1]) if found else 0


def learned(text):
    """How many messages rspamd has learned, of ``spam`` and of ``ham``, by what /stat says."""
    result = {"spam": 0, "ham": 0}
    try:
        for statfile in json.loads(text)["statfiles"]:
            kind = {"BAYES_SPAM": "spam", "BAYES_HAM": "ham"}.get(statfile["symbol"])
            if kind:
                result[kind] += int(statfile["revision"])
    except (KeyError, TypeError, ValueError):
        return {"spam": 0, "ham": 0}
    return result


def standing(found, least):
    """What has been learned, in words."""
    said = f"{found['spam']} spam and {found['ham']} other messages are learned"
    if min(found.values()) >= least:
        return said
    return f"{said}; they count from {least} of each on"
