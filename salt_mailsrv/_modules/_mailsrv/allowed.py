"""
Whether an address may send as a domain, as a receiver finds it (SPF, RFC 7208).
"""

import ipaddress

from _mailsrv import spf

WORDS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


class _Invalid(Exception):
    """A record that receivers do not take (permerror)."""


def result(address, domain, lookup, record=None):
    """
    What comes of it: ``pass``, ``fail``, ``softfail``, ``neutral``, ``none``, ``permerror``; and
    why, where that is more than what the record says.

    address
        An IPv4 or IPv6 address, text.

    lookup
        A function of a name and a type (A, AAAA, MX, TXT), which returns values as they stand in a
        zone file, none where there are none, and raises ``LookupError`` where DNS does not tell.

    record
        The record of the domain; by default it is looked up.

    Raises ``LookupError`` where it cannot be found out: DNS does not tell, or the record has a
    macro or ``ptr``, which are not judged here.
    """
    left = [spf.MAX_LOOKUPS]
    try:
        return _judged(ipaddress.ip_address(address), domain, lookup, record, left), ""
    except _Invalid as exc:
        return "permerror", str(exc)


def _judged(address, domain, lookup, record, left):
    if record is None:
        found = spf.records(lookup(domain, "TXT"))
        if not found:
            return "none"
        if len(found) > 1:
            raise _Invalid(f"{domain} has {len(found)} SPF records, of which receivers take none")
        record = found[0]
    terms = spf.parse(record)
    if terms is None:
        raise _Invalid(f"the SPF record of {domain} has a term that receivers do not know")
    for term in terms:
        if term.looks_up and term.name != "redirect":
            _count(left)
        if term.qualifier and _matches(term, address, domain, lookup, left):
            return WORDS[term.qualifier]
    for term in terms:
        if term.name == "redirect":
            _count(left)
            there = _judged(address, _plain(term.target), lookup, None, left)
            if there == "none":
                raise _Invalid(f"{domain} redirects to {term.target}, which has no SPF record")
            return there
    return "neutral"


def _count(left):
    left[0] -= 1
    if left[0] < 0:
        raise _Invalid(f"it takes more than {spf.MAX_LOOKUPS} lookups, where receivers give up")


def _matches(term, address, domain, lookup, left):
    if term.name == "all":
        return True
    if term.name in ("ip4", "ip6"):
        return address in ipaddress.ip_network(term.target, strict=False)
    if term.name == "include":
        there = _judged(address, _plain(term.target), lookup, None, left)
        if there == "none":
            raise _Invalid(f"it includes {term.target}, which has no SPF record")
        return there == "pass"
    if term.name == "exists":
        return bool(lookup(_plain(term.target), "A"))
    if term.name == "ptr":
        raise LookupError("its SPF record has ptr, which is not judged here")
    host, length = _host(term.target, domain, address.version)
    hosts = [host]
    if term.name == "mx":
        hosts = [value.split()[-1].rstrip(".") for value in lookup(host, "MX")]
        if len(hosts) > spf.MAX_LOOKUPS:
            raise _Invalid(f"{host} has more than {spf.MAX_LOOKUPS} MX records")
    kind = "A" if address.version == 4 else "AAAA"
    return any(
        address in ipaddress.ip_network(f"{value}/{length}", strict=False)
        for name in hosts
        if name
        for value in lookup(name, kind)
    )


def _host(target, domain, version):
    """The host of `a` or `mx`, and how many bits of the address count."""
    short, double, long = target.partition("//")
    host, slash, length = short.partition("/")
    bits = (length if slash else 32) if version == 4 else (long if double else 128)
    return _plain(host) or domain, int(bits)


def _plain(target):
    if "%" in target:
        raise LookupError("its SPF record has macros, which are not judged here")
    return target.rstrip(".")
