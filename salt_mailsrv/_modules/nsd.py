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
import _mailsrv_signer as signer
from _mailsrv import nameserving, published, records
from _mailsrv.faults import show
from _mailsrv.names import related
from _mailsrv_here import Here
from salt.exceptions import CommandExecutionError, SaltException

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
    ours; ``signed``, whether what is made here goes through the signer, and so does ``kept``;
    ``notify``, where that one tells NSD of a new zone; ``told``, what to know of zones that are to
    be signed no more, and ``staying``, why they are.

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
    found |= {"faults": faults, "primary": settings["primary"], "signed": settings["dnssec"]}
    found |= {"secondaries": settings["secondaries"], "notify": "", "told": "", "staying": []}
    if not faults and not settings["dnssec"]:
        found |= _staying(facts["nsd"]["signer"], settings)
    if not found["faults"]:
        signed = found["signed"]
        found["notify"] = signer.address(facts["nsd"]["whole"]) if signed else ""
        check = [sys.executable, "-I", whole.__file__, facts["nsd"]["whole"]]
        found["check"] = shlex.join([*check, facts["nsd"]["config"]])
        own, knot = facts["nsd"]["directory"], facts["nsd"]["signer"]
        signing = signed or os.path.exists(knot["config"])  # or it was, until now
        place = knot["zones"] if signed else own
        found |= _zones(settings, others, place, own, signing)
        found["faults"] = _lost(found, others, own) if signed else []
    return found


def ds(domain=None):
    """
    The DS records of the zones that are signed here (``mailsrv:nsd:dnssec``), to be given to the
    registrar of each domain, and what the parent has of them.

    domain
        One of the domains. Absent: all of them.

    Returns by domain ``ds``, the records, values as in a zone file; ``parent``, those that the
    parent zone has; ``says``, a sentence, and ``ok`` where nothing is to be done. The exit status
    is 1 where nobody who validates finds a domain. Raises ``CommandExecutionError`` where nothing
    is signed here, and for a domain that is not served.

    CLI Example:

    .. code-block:: bash

        salt-call nsd.ds
        salt-call nsd.ds example.com --out=json
    """
    found = plan()
    if found["faults"]:
        raise CommandExecutionError("\n".join(found["faults"]))
    if not found["signed"]:
        raise CommandExecutionError(
            "nsd.ds: nothing is signed here; mailsrv:nsd:dnssec is for the first name server"
        )
    if domain is not None and domain not in found["served"]:
        raise CommandExecutionError(f"nsd.ds: {show(domain)} is not served here")
    facts = Here(__salt__, __context__, __opts__, __grains__, __pillar__).facts()
    port = facts["nsd"]["signer"]["port"]
    names = found["served"] if domain is None else [domain]
    result = {name: signer.ds(name, port) for name in names}
    __context__["retcode"] = int(any(answer.pop("fault") for answer in result.values()))
    return result


def _staying(facts, settings):
    """What was signed and is to be so no more stays signed until nobody relies on it."""
    domains = [domain for owned in settings["machines"].values() for domain in owned]
    known = signer.staying(facts, domains)
    if settings["primary"]:  # what it gets as a secondary is in the place of what it signed
        first = settings["nameservers"][0]
        fault = (
            f"mailsrv:nsd:dnssec: this machine still signs, and {first} is the first name server "
            "now; nothing is changed here until that one signs with the keys of this one, see "
            f"{signer.WHERE}"
        )
        return {"faults": [fault] * known["stays"]}
    return {"signed": known["stays"], "staying": known["faults"], "told": known["told"]}


def _lost(found, others, own):
    """
    The domains that NSD serves as they came from elsewhere, while nothing is here to be signed:
    their zones would go. Of one of the administrator's own nothing is lost.
    """
    return [
        f"{fault}; it is served as NSD has it, and until then nothing is changed"
        for domain, fault in found["refused"].items()
        if domain not in {*found["served"], *others}
        and os.path.exists(os.path.join(own, f"{domain}.zone"))
    ]


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


def _zones(settings, others, directory, before, signing):
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
            standing = here = disk.text(os.path.join(directory, f"{domain}.zone"))
            if not here and directory != before:  # it is to be signed from now on
                standing = disk.text(os.path.join(before, f"{domain}.zone"))
                standing = standing if standing.startswith(f"; {COMMENT}") else ""
            if near:
                fault = f"{domain}: NSD has a zone {near} of your own here; remove one of them"
            elif not isinstance(found, dict) or domain not in found:
                fault = (
                    f"{domain}: {minion} has published no records of it; see "
                    "docs/fleet.md#dns-of-all-machines, or remove it from mailsrv:nsd:machines"
                )
            else:
                zone, fault = _zone(domain, found[domain], settings, standing, signing)
            if not fault:
                made[domain] = zone
                continue
            refused[domain] = fault
            # Where the administrator has this very zone, NSD would not start with two of them.
            if (standing or settings["primary"]) and near != domain:
                kept.append(domain)
                if standing != here:
                    made[domain] = standing
        beside = found.keys() - {*owned} if isinstance(found, dict) else ()
        if beside:
            names = sorted(beside, key=str)[:SHOWN]
            more = f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else ""
            foreign[minion] = (
                f"{minion} publishes {', '.join(map(show, names))}{more}, which "
                "mailsrv:nsd:machines does not give it: nothing of that is served"
            )
    served = sorted({*made, *kept})
    return {"made": made, "refused": refused, "kept": kept, "served": served, "foreign": foreign}


def _zone(domain, listed, settings, standing, signing):
    """The zone file, or why there is none; its serial stays where nothing else changes."""
    servers = settings["nameservers"]
    entries, fault = published.entries(domain, listed, servers, settings["addresses"])

    def numbered(serial):
        return records.zone(domain, entries, servers, serial, COMMENT, others=False)

    if fault:
        return "", fault
    found = re.search(r"\bSOA\s+\S+\s+\S+\s+\(?\s*(\d{1,10})\b", standing)
    serial = int(found[1]) if found else 0
    if serial and numbered(serial) == standing:
        return standing, ""
    if signing and not standing.startswith(f"; {COMMENT}"):
        # NSD may serve what is newer: what was signed, or what it has had as a secondary.
        serial = max(serial, signer.serial(domain))
    # The quarter of an hour counts: a name server that was made anew is not behind the others.
    now = time.gmtime()
    today = int(time.strftime("%Y%m%d", now)) * 100 + now.tm_hour * 4 + now.tm_min // 15
    return numbered(max(today, serial + 1)), ""
