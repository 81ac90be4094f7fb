"""
The section of the pillar for the minions that serve the zones of all mail machines: who may publish
what, which name servers there are, and how they know each other.
"""

import base64
import binascii
import ipaddress

from _mailsrv import names, owning
from _mailsrv.faults import kind_of, listed, section, show, shown_key, switch

KEYS = {"nsd": ("machines", "nameservers", "tsig", "dnssec")}
PATH = "mailsrv:nsd"
SHAPE = "{mx1.example.net: [example.com]}"

SECRET = 32  # octets: as many as HMAC-SHA256 has (RFC 8945, section 8)


def read(settings, faults):
    """
    What the section says: ``machines``, the domains of each minion; ``nameservers``, their names,
    the primary first; ``addresses``, those of each name server that has some there; ``tsig``,
    whether there is a secret; ``dnssec``, whether the zones are to be signed.
    """
    given = section(settings, "nsd", KEYS["nsd"], PATH, faults)
    nameservers, addresses = _nameservers(given.get("nameservers"), faults)
    return {
        "machines": _machines(given["machines"], faults) if "machines" in given else {},
        "nameservers": nameservers,
        "addresses": addresses,
        "tsig": _tsig(given.get("tsig"), faults),
        "dnssec": switch(given, "dnssec", f"{PATH}:dnssec", faults),
    }


def serve(settings, fqdn, minion, faults):
    """
    What it means for the machine of that name and minion id: the same, and ``primary`` and
    ``secondaries``, the addresses of the other side: of whom the zones come, to whom they go. A
    secondary signs nothing.
    """
    found = read(settings, faults)
    if not faults and not found["machines"]:
        faults.append(f"{PATH}:machines: is missing; say who may publish what, like {SHAPE}")
    if not found["nameservers"]:
        found["nameservers"] = [name for name in [names.domain(fqdn)] if name]
    if not faults and not found["nameservers"]:
        faults.append(
            f"{PATH}:nameservers: is missing, and this machine's own name, {fqdn}, is none; "
            "list host names, e.g. [ns1.example.net]"
        )
    if found["dnssec"]:
        faults += _inner(found["machines"])
    addresses = found["addresses"]
    first, others = found["nameservers"][:1], found["nameservers"][1:]
    here = [name for name in map(names.domain, (minion, fqdn)) if name in found["nameservers"]]
    known = [name for name in here if name in addresses]
    found |= {"primary": [], "secondaries": []}
    if found["dnssec"] and {*here[:1]} & {*others} and not addresses.keys() & {*others}:
        faults.append(
            f"{PATH}:dnssec: {first[0]} alone signs, and {here[0]}, this machine, would sign with "
            f"keys of its own; say where each name server is, like {here[0]}: 192.0.2.1, so that "
            "the others get the zones from the first"
        )
    if faults or not addresses.keys() & {*others}:
        return found
    if first[0] not in addresses:
        faults.append(
            f"{PATH}:nameservers: {first[0]} comes first, so the others get the zones from it; "
            f"say where it is, like {first[0]}: 192.0.2.1"
        )
    elif not known:
        faults.append(
            f"{PATH}:nameservers: this machine, {minion}, is none of {', '.join(addresses)}; give "
            "it its place there, with its address"
        )
    elif not found["tsig"]:
        faults.append(
            f"{PATH}:tsig: is missing, the secret by which the name servers know each other; write "
            "there, for all of them, what this prints: openssl rand -base64 32"
        )
    elif known[0] == first[0]:
        found["secondaries"] = [a for name in others for a in addresses.get(name, ())]
    else:
        found |= {"primary": addresses[first[0]], "dnssec": False}
    return found


def _inner(machines):
    """Zones within another one, which would have to vouch for them with a DS record."""
    domains = {domain for owned in machines.values() for domain in owned}
    for domain in sorted(domains):
        above = next((other for other in domains if domain.endswith(f".{other}")), None)
        if above:
            yield (
                f"{PATH}:dnssec: {domain} lies in {above}, which has no DS record of it, so nobody "
                "who validates would find it; take one of them out of machines, or leave dnssec out"
            )


def ownership(mined, target):
    """
    Where `machines` is no mapping yet: one sentence with the mapping as the mine has it.

    What is there was written by the minions: who copies it gives them what they say is theirs.
    """
    owners = {}
    for minion, domains in sorted(mined.items()):
        if owning.MINION.fullmatch(str(minion)) and isinstance(domains, dict):
            kept = sorted(name for name in map(names.domain, [*domains][:1000]) if name)
            if kept:
                owners[minion] = kept
    shown = ", ".join(f"{minion}: [{', '.join(found)}]" for minion, found in owners.items())
    shown = f"{{{shown}}}" if shown and len(shown) < 100_000 else SHAPE
    told = "is missing" if target is None else f"{show(target)} lets any of these own any domain"
    as_mined = "as the mine has it, which is what they say themselves" if owners else "like this"
    return f"{PATH}:machines: {told}; say who may publish what, {as_mined}: machines: {shown}"


def _machines(given, faults):
    path = f"{PATH}:machines"
    if not isinstance(given, dict):
        faults.append(
            f"{path}: must be the domains of each minion, like {SHAPE}, not {kind_of(given)}"
        )
        return {}
    result = owning.owned(given, path, faults)
    owners = {domain: minion for minion, domains in result.items() for domain in domains}
    # The deeper of two zones takes its part away from the other.
    for domain, minion in owners.items():
        labels = domain.split(".")
        for above in (".".join(labels[i:]) for i in range(1, len(labels) - 1)):
            if owners.get(above, minion) != minion:
                faults.append(
                    f"{path}: {domain} of {minion} lies in {above} of {owners[above]}; give both "
                    "to one of them"
                )
    return {minion: domains for minion, domains in result.items() if domains}


def _nameservers(given, faults):
    """The names, in order, and the addresses of those that have some."""
    path, order, addresses = f"{PATH}:nameservers", [], {}
    for entry in listed(given or None, path, faults):
        if isinstance(entry, dict) and len(entry) == 1:
            ((name, there),) = entry.items()
        else:
            name, there = entry, None
        found = names.domain(name)
        if found is None:
            faults.append(
                f"{path}: {show(name)} is not a host name; write it like ns1.example.net, or "
                "like ns1.example.net: 192.0.2.1"
            )
            continue
        order.append(found)
        if isinstance(entry, dict):
            addresses[found] = [
                address
                for text in (there if isinstance(there, list) else [there])
                for address in _address(text, f"{path}:{shown_key(name)}", faults)
            ]
    return list(dict.fromkeys(order)), addresses


def _address(text, path, faults):
    try:
        return [str(ipaddress.ip_address(text if isinstance(text, str) else ""))]
    except ValueError:
        faults.append(f"{path}: {show(text)} is not an address; write it like 192.0.2.1")
        return []


def _tsig(given, faults):
    if given is None:
        return False
    try:
        octets = base64.b64decode(given if isinstance(given, str) else "", validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) < SECRET:
        faults.append(
            f"{PATH}:tsig: is no secret of {SECRET} octets in base64; write what this prints: "
            "openssl rand -base64 32"
        )
    return True
