"""
What another machine has put into the mine: records of a zone that it owns, or nothing.
"""

import ipaddress
import re

from _mailsrv.faults import kind_of, show
from _mailsrv.names import within

LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
# RFC 1035, section 2.3.4: 255 octets, of which the last dot is two.
NAME = rf"(?=[^ ]{{2,254}}(?: |$))(?:{LABEL}\.)+"
NUMBER = r"(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"

# What the value of a record may be, as it stands in a zone file; that of TXT is put between quotes.
# Nothing there is read by a name server as another type, another owner or a directive.
VALUES = {
    "A": r"[0-9.]{7,15}",
    "AAAA": r"[0-9a-f:.]{2,45}",
    "CAA": r'0 issue "[a-z0-9.-]{1,253}"',
    "CNAME": NAME,
    "MX": rf"{NUMBER} {NAME}",
    "SRV": rf"{NUMBER} {NUMBER} {NUMBER} (?:{NAME}|\.)",
    "TLSA": r"[0-9] [0-9] [0-9] (?:[0-9a-f]{2}){1,512}",
    "TXT": r"[ !#-\[\]-~]{1,4000}",  # no quote, no backslash
}
MAX_RECORDS = 10_000
MAX_SIZE = 1_000_000  # characters of a zone: what 2000 satellites need is a quarter of that
FIELDS = ("name", "type", "value")


def entries(domain, listed, nameservers, addresses):
    """
    The records of a zone, and why there are none: a sentence, or empty.

    domain
        The zone, in lower case.

    listed
        What its owner has published under that name: anything.

    nameservers, addresses
        The names of NS, and the addresses of those of which the pillar says them: in the zone they
        are what the pillar says.
    """
    try:
        found = _read(domain, listed)
        own = {name: addresses[name] for name in nameservers if name in addresses}
        found = [
            entry
            for entry in found
            if entry["type"] not in ("A", "AAAA") or entry["name"][:-1] not in own
        ]
        found += [
            {"name": f"{name}.", "type": "AAAA" if ":" in address else "A", "value": address}
            for name, there in own.items()
            if within(name, domain)
            for address in there
        ]
        _alone(domain, found)
        _addressed(domain, found, nameservers)
    except ValueError as fault:
        return [], f"{domain}: {fault}"
    return found, ""


def _read(domain, listed):
    if not isinstance(listed, list):
        raise ValueError(f"what its machine publishes is {kind_of(listed)}, and no list of records")
    if len(listed) > MAX_RECORDS:
        raise ValueError(f"{len(listed)} records are more than a zone may have, {MAX_RECORDS}")
    result, size = {}, 0
    for record in listed:
        if not isinstance(record, dict) or not all(
            isinstance(record.get(field), str) for field in FIELDS
        ):
            raise ValueError("what its machine publishes is no list of records")
        name, kind, value = (record[field] for field in FIELDS)
        size += len(name) + len(value)
        if size > MAX_SIZE:
            raise ValueError(f"its records are more than {MAX_SIZE} characters")
        if len(name) > 254 or not re.fullmatch(NAME, name):
            raise ValueError(f"{show(name)} is not the name of a record")
        if not within(name, f"{domain}."):
            continue
        if not _usable(kind, value):
            raise ValueError(f"{show(value)} is not the value of a record {show(kind[:20])}")
        result[name, kind, value] = {"name": name, "type": kind, "value": value}
    return [*result.values()]


def _alone(domain, found):
    """A CNAME has no other record beside it (RFC 2181, section 10.1)."""
    kinds = {f"{domain}.": ["SOA"]}
    for entry in found:
        kinds.setdefault(entry["name"], []).append(entry["type"])
    for name, there in kinds.items():
        if "CNAME" in there and len(there) > 1:
            raise ValueError(f"{name} has a CNAME, which stands alone, and other records")


def _addressed(domain, found, nameservers):
    addressed = {entry["name"] for entry in found if entry["type"] in ("A", "AAAA")}
    for server in nameservers:
        if within(server, domain) and f"{server}." not in addressed:
            raise ValueError(
                f"its name server {server} has no address in it; say it in "
                f"mailsrv:nsd:nameservers, like {server}: 192.0.2.1, or name a host elsewhere"
            )


def _usable(kind, value):
    if len(value) > 4000 or not re.fullmatch(VALUES.get(kind, r"(?!)"), value):
        return False
    if kind in ("A", "AAAA"):
        try:
            return ipaddress.ip_address(value).version == (4 if kind == "A" else 6)
        except ValueError:
            return False
    return True
