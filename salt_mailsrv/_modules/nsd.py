"""
The zones of all mail machines, for the minion that serves them with NSD.

What the machines publish comes from the Salt Mine: it was written by other machines, and is taken
for nothing but records.
"""

import ipaddress
import os
import re
import time

__virtualname__ = "nsd"

TTL = 3600

LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
NAME = rf"(?:{LABEL}\.)+"

# What the value of a record may be, as it stands in a zone file; that of TXT is put between quotes.
VALUES = {
    "A": r"[0-9.]{7,15}",
    "AAAA": r"[0-9a-f:.]{2,45}",
    "CNAME": NAME,
    "MX": rf"[0-9]{{1,5}} {NAME}",
    "SRV": rf"[0-9]{{1,5}} [0-9]{{1,5}} [0-9]{{1,5}} (?:{NAME}|\.)",
    "TLSA": r"[0-9] [0-9] [0-9] [0-9a-f]{2,1024}",
    "TXT": r"[ !#-\[\]-~]{1,4000}",  # no quote, no backslash
}


def __virtual__():
    return __virtualname__


def zones(mine, nameservers, directory):
    """
    The zones that the machines of a mine publish.

    mine
        What ``mine.get`` returns for ``mailsrv.dns``: by minion, by domain, a list of records.

    nameservers
        Host names for NS; the first one is the primary of SOA.

    directory
        Where the zone files stand. A zone whose records are the same keeps its serial.

    Returns by domain ``{"text", "fault", "stands"}``: the zone file, or the empty text and a
    sentence that says why it cannot be made, and whether there is one of before. A domain that
    more than one machine publishes is nobody's.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.nsd test=True
    """
    published = {}
    for minion, domains in sorted(mine.items()):
        for domain, records in domains.items() if isinstance(domains, dict) else ():
            # Whatever else that is, it is not the name of a file here.
            if re.fullmatch(NAME, f"{domain}."):
                published.setdefault(domain, []).append((minion, records))
    result = {}
    for domain, found in sorted(published.items()):
        fault = _fault(domain, found[0][1], nameservers)
        if len(found) > 1:
            minions = " and ".join(minion for minion, _ in found)
            fault = f"{domain}: {minions} both publish it; remove it from the pillar of one of them"
        standing = _read(os.path.join(directory, f"{domain}.zone"))
        text = "" if fault else zone(domain, found[0][1], nameservers, standing)
        result[domain] = {"text": text, "fault": fault, "stands": bool(standing)}
    return result


def zone(domain, records, nameservers, standing=""):
    """
    A zone file.

    domain
        The name of the zone.

    records
        Its records, ``{"name", "type", "value"}``, as ``mailsrv.dns`` returns them. Those that
        belong to another zone, as a PTR does, are left out.

    nameservers
        Host names for NS; the first one is the primary of SOA.

    standing
        The zone file of before. Its serial stays where nothing else changes, and rises otherwise
        (RFC 1912, section 2.2).

    CLI Example:

    .. code-block:: bash

        salt-call nsd.zone example.com '[]' '[ns1.example.net]'
    """
    found = re.search(r"\( (\d+) ", standing)
    serial = int(found[1]) if found else 0
    if serial and _zone(domain, records, nameservers, serial) == standing:
        return standing
    today = int(time.strftime("%Y%m%d00", time.gmtime()))
    return _zone(domain, records, nameservers, max(today, serial + 1))


def _zone(domain, records, nameservers, serial):
    lines = [
        "; Managed by Salt (mailsrv.nsd): changes here are overwritten.",
        f"$ORIGIN {domain}.",
        f"$TTL {TTL}",
        f"@\tIN\tSOA\t{nameservers[0]}. hostmaster.{domain}. ( {serial} 3600 900 1209600 300 )",
        *(f"@\tIN\tNS\t{server}." for server in nameservers),
    ]
    for record in records:
        value = record["value"]
        if not _within(record["name"], domain):
            continue
        if record["type"] == "TXT":
            value = f"( {' '.join(__salt__['dkim.strings'](value))} )"
        lines.append(f"{record['name']}\tIN\t{record['type']}\t{value}")
    return "\n".join(lines) + "\n"


def _fault(domain, records, nameservers):
    fields = ("name", "type", "value")
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and all(isinstance(record.get(field), str) for field in fields)
        for record in records
    ):
        return f"{domain}: what its machine publishes is no list of records"
    for record in records:
        name, kind, value = (record[field] for field in fields)
        if not re.fullmatch(NAME, name):
            return f"{domain}: {name[:80]!a} is not the name of a record"
        if _within(name, domain) and not _usable(kind, value):
            return f"{domain}: {value[:80]!a} is not the value of a record {kind[:8]!a}"
    addressed = {record["name"] for record in records if record["type"] in ("A", "AAAA")}
    for server in nameservers:
        if _within(f"{server}.", domain) and f"{server}." not in addressed:
            return (
                f"{domain}: its name server {server} has no address in it; "
                "name a host elsewhere in mailsrv:nsd:nameservers"
            )
    return ""


def _usable(kind, value):
    if not re.fullmatch(VALUES.get(kind, r"(?!)"), value):
        return False
    if kind in ("A", "AAAA"):
        try:
            return ipaddress.ip_address(value).version == (4 if kind == "A" else 6)
        except ValueError:
            return False
    return True


def _within(name, domain):
    return name == f"{domain}." or name.endswith(f".{domain}.")


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
