"""
The signer of the zones (DNSSEC): Knot, which gets them from us and hands them to NSD on this
machine alone. Its keys never leave it.
"""

import os
import re
import subprocess
import time

from _mailsrv import resolve

try:
    from dns import exception, message, query, rdatatype
except ImportError:
    query = None

HOST = "127.0.0.1"
TIMEOUT = 3  # seconds
# For as long as a resolver may remember a DS record of the parent: most say a day.
REMEMBERED = 2 * 86400
LEAST = 6 * 86400  # seconds that a signature is good for: the signer renews it when a week is left
SERVED = re.compile(r'served-serial: "(\d+)')
WHERE = "docs/fleet.md#dnssec"


def serial(domain):
    """The serial of what NSD serves of a domain; 0 where it serves nothing."""
    command = ["nsd-control", "zonestatus", domain]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = SERVED.search(ran.stdout)
    return int(found[1]) if found else 0


def address(whole):
    """Where NSD is to be told of a new zone: the first address that it listens on."""
    try:
        ran = subprocess.run(
            ["nsd-checkconf", "-o", "ip-address", whole],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return HOST
    # One may also name an interface, or all addresses.
    found = re.search(
        r"^\s*([0-9a-f.:]*[1-9a-f][0-9a-f.:]*(?:@\d+)?)\s*$", ran.stdout, re.MULTILINE
    )
    return found[1] if found and re.search("[.:]", found[1]) else HOST


def staying(facts, domains):
    """
    Whether zones that were signed stay so although the pillar does not say it any more, since who
    validates would find nothing: where the parent has a DS record, and for as long as it may be
    remembered.

    facts
        Those of the signer.

    domains
        The domains that it signs.

    Returns ``stays``, ``faults``, sentences about what the administrator has to do, and ``told``, a
    sentence, or empty.
    """
    found = {"stays": False, "faults": [], "told": ""}
    if not os.path.exists(facts["config"]):
        return found
    for domain in domains:
        why = _delegated(domain)
        if why:
            found["faults"].append(f"mailsrv:nsd:dnssec: {domain} stays signed: {why}; see {WHERE}")
    if found["faults"]:
        return found | {"stays": True}
    try:
        until = os.stat(facts["leaving"]).st_mtime + REMEMBERED
    except FileNotFoundError:
        until = time.time() + REMEMBERED
    if time.time() < until:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
        found |= {"stays": True, "told": f"what is signed stays so until {when}, see {WHERE}"}
    return found


def _delegated(domain):
    """Why a signed zone must not end, a part of a sentence; empty where it may."""
    try:
        there = resolve.known(domain, "DS")
    except LookupError as exc:
        return str(exc)
    return "its parent has a DS record, to be removed at the registrar first" if there else ""


def ds(domain, port):
    """
    The DS record of a domain, whom it shall be given to, and what is there of it.

    Returns ``ds``, values as in a zone file; ``parent``, those that the parent has; ``says``, a
    sentence; and ``fault``, whether nobody who validates finds the domain.
    """
    wanted, fault = _signed(domain, port)
    if fault:
        return {"ds": [], "parent": [], "says": f"FAULT: {fault}", "fault": True}
    lacking = {
        server: f"{server} {answer.fault or 'does not show the signed zone yet'}"
        for server, answer in resolve.ask([(domain, "CDS")])[domain, "CDS"].items()
        if answer.fault or {*map(_plain, answer.values)} != {*wanted}
    }
    lacking = [*lacking.values(), *_ageing(domain, lacking)]
    found = {"ds": wanted, "parent": [], "fault": False}
    try:
        there = found["parent"] = [*map(_plain, resolve.known(domain, "DS"))]
    except LookupError as exc:
        return found | {"says": f"FAULT: {exc}", "fault": True}
    # The same key by another digest is the same key.
    keys = {value.rsplit(None, 2)[0] for value in wanted}
    strange = [value for value in there if value.rsplit(None, 2)[0] not in keys]
    if lacking and not there:
        return found | {"says": "wait with the DS record: " + "; ".join(lacking)}
    if not there:
        return found | {"says": f"give it to the registrar of {domain}"}
    if len(strange) == len(there):
        says = (
            "FAULT: the parent has a DS record of another key, so nobody who validates finds "
            f"{domain}; have this one put in its place"
        )
        return found | {"says": says, "fault": True}
    if lacking:
        return found | {"says": "FAULT: " + "; ".join(lacking), "fault": True}
    if strange:
        return found | {"says": "ok; to be removed at the registrar: " + ", ".join(strange)}
    return found | {"says": "ok"}


def _signed(domain, port):
    """What the signer wants the parent to have (RFC 7344), or why there is none."""
    if query is None:
        return [], resolve.MISSING
    asked = message.make_query(f"{domain}.", "CDS")
    try:
        reply = query.tcp(asked, HOST, TIMEOUT, port)
    except (exception.DNSException, OSError, EOFError) as exc:
        return [], f"the signer does not answer: {exc.__class__.__name__}; run mailsrv.nsd"
    found = [r.to_text() for rs in reply.answer if rs.rdtype == rdatatype.CDS for r in rs]
    return sorted(map(_plain, found)), "" if found else "the signer has not signed it; see its log"


def _ageing(domain, silent):
    """
    Which servers show signatures that nobody renews, a sentence each: the signer does not, or what
    it has signed does not come there. Those that are `silent` are not asked.
    """
    try:
        _, servers = resolve.servers(domain)
    except LookupError as exc:
        return [] if silent else [str(exc)]
    found = []
    for server, address in servers.items():
        if server in silent:
            continue
        try:
            reply = resolve.exchange(f"{domain}.", "DNSKEY", address)
        except (exception.DNSException, OSError, EOFError) as exc:
            found.append(f"{server} does not answer by TCP: {type(exc).__name__}")
            continue
        ends = [r.expiration for rs in reply.answer if rs.rdtype == rdatatype.RRSIG for r in rs]
        if min(ends, default=0) < time.time() + LEAST:
            found.append(f"{server} has signatures that nobody renews; see {WHERE}")
    return found


def _plain(text):
    """A DS or CDS record in one way of writing."""
    words = text.lower().split()
    return " ".join([*words[:3], "".join(words[3:])])
