"""
The zones of all mail machines, for the minions that serve them with NSD.

What the machines publish comes from the Salt Mine: it was written by other machines, and is taken
for nothing but records of the domains that the pillar gives to each.
"""

import os
import re
import shlex
import sys
import time

import _mailsrv_disk as disk
import _mailsrv_nsd as whole
from _mailsrv import nameserving, published, records
from _mailsrv.faults import show
from _mailsrv.names import related
from _mailsrv_here import Here
from salt.exceptions import SaltException

__virtualname__ = "nsd"

COMMENT = "Managed by Salt (mailsrv.nsd): changes here are overwritten."
FUNCTION = "mailsrv.dns"
SHOWN = 3  # names of what a machine publishes beside what it owns


def __virtual__():
    return __virtualname__


def plan():
    """
    What is to be served here, and of whom it comes.

    Returns a dictionary: ``faults``, sentences about the pillar or NSD's own configuration, and
    nothing is to be done where there are any; ``made``, the zone file by domain, with its previous
    serial where its records are the same; ``refused``, by domain why it has none, and a previous
    zone stays; ``kept``, the domains of these; ``served``, all domains; ``foreign``, by minion,
    what it publishes without owning it, of which nothing is served; ``primary`` and
    ``secondaries``, the addresses of the other name servers, of whom zones come or to whom they go;
    ``check``, the command that looks at NSD's whole configuration with another file in the place of
    ours.

    A secondary makes no zones: it serves every domain of ``mailsrv:nsd:machines``.

    CLI Example:

    .. code-block:: bash

        salt-call nsd.plan
    """
    known = Here(__salt__, __context__, __opts__, __grains__, __pillar__)
    facts, others = known.facts(), []
    settings, faults = known.nameserver()
    if "nsd" not in facts:
        faults = [f"mailsrv.nsd: this formula does not know NSD on {__grains__['os_family']}"]
    else:
        faults = _owners(known) or faults
    if not faults:
        try:
            others = whole.others(facts["nsd"]["whole"], facts["nsd"]["config"])
        except whole.Unusable as exc:
            faults = [str(exc)]
    found = {"made": {}, "refused": {}, "kept": [], "served": [], "foreign": {}, "check": ""}
    found |= {"faults": faults, "primary": settings["primary"]}
    found["secondaries"] = settings["secondaries"]
    if not faults:
        check = [sys.executable, "-I", whole.__file__, facts["nsd"]["whole"]]
        found["check"] = shlex.join([*check, facts["nsd"]["config"]])
        found |= _zones(settings, others, facts["nsd"]["directory"])
    return found


def _owners(known):
    """What is to stand in the pillar where it does not say yet who owns what."""
    section = known.settings().get("nsd")
    target = section.get("machines") if isinstance(section, dict) else None
    if not isinstance(section, dict | None) or not isinstance(target, str | None):
        return []
    return [nameserving.ownership(_mine(target or "*", "glob"), target)]


def _mine(target, kind):
    """What minions have published. One that publishes too much for Salt has published nothing."""
    try:
        found = __salt__["mine.get"](target, FUNCTION, tgt_type=kind)
    except (SaltException, ValueError, RecursionError, MemoryError):
        found = None
    return found if isinstance(found, dict) else {}


def _zones(settings, others, directory):
    made, refused, kept, foreign = {}, {}, [], {}
    for minion, owned in settings["machines"].items():
        # Each is asked for apart: no machine keeps another's records from being read.
        found = {} if settings["primary"] else _mine(minion, "list").get(minion)
        for domain in owned:
            near = next((zone for zone in others if related(zone, domain)), "")
            if settings["primary"] and not near:
                kept.append(domain)
                continue
            zone, fault = "", ""
            standing = disk.text(os.path.join(directory, f"{domain}.zone"))
            if near:
                fault = f"{domain}: NSD has a zone {near} of your own here; remove one of them"
            elif not isinstance(found, dict) or domain not in found:
                fault = (
                    f"{domain}: {minion} has published no records of it; see "
                    "docs/fleet.md#dns-of-all-machines, or remove it from mailsrv:nsd:machines"
                )
            else:
                zone, fault = _zone(domain, found[domain], settings, standing)
            if not fault:
                made[domain] = zone
                continue
            refused[domain] = fault
            # Where the administrator has this very zone, NSD would not start with two of them.
            if (standing or settings["primary"]) and near != domain:
                kept.append(domain)
        beside = found.keys() - {*owned} if isinstance(found, dict) else ()
        if beside:
            names = sorted(beside, key=str)[:SHOWN]
            more = f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else ""
            foreign[minion] = (
                f"{minion} publishes {', '.join(map(show, names))}{more}, which "
                "mailsrv:nsd:machines does not give it: nothing of that is served"
            )
    served = sorted([*made, *kept])
    return {"made": made, "refused": refused, "kept": kept, "served": served, "foreign": foreign}


def _zone(domain, listed, settings, standing):
    """The zone file, or why there is none; its serial stays where nothing else changes."""
    servers = settings["nameservers"]
    entries, fault = published.entries(domain, listed, servers, settings["addresses"])

    def numbered(serial):
        return records.zone(domain, entries, servers, serial, COMMENT, others=False)

    if fault:
        return "", fault
    found = re.search(r"\bSOA\b[^(]*\(\s*(\d+)", standing)
    serial = int(found[1]) if found else 0
    if serial and numbered(serial) == standing:
        return standing, ""
    # The quarter of an hour counts: a name server that was made anew is not behind the others.
    now = time.gmtime()
    today = int(time.strftime("%Y%m%d", now)) * 100 + now.tm_hour * 4 + now.tm_min // 15
    return numbered(max(today, serial + 1)), ""
