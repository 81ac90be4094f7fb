"""
Whether senders may rely on TLSA records: only in a zone that is signed (DNSSEC), up to the DS
record that its parent has (RFC 7672, section 2.1.1). What is above that is the parent's.
"""

from _mailsrv import resolve
from _mailsrv.names import bare

try:
    from dns import dnssec, exception, name, rdataclass, rdatatype, rrset
except ImportError:
    dnssec = None


def findings(records, live):
    """
    Where the TLSA records of `records` count for nobody, or nobody who validates finds them, as
    findings of :func:`_mailsrv.compare.findings`. What was not asked, by `live`, is not looked at.
    """
    names = {bare(record["name"]) for record in records if record["type"] == "TLSA"}
    return [
        {
            **{"fault": "wrong", "need": need, "name": owner, "type": "TLSA", "desired": None},
            **{"live": [], "servers": servers, "says": f"{owner} TLSA, DNSSEC: {why}"},
        }
        for owner in sorted(names)
        if f"{owner} TLSA" in live
        for need, why, servers in _faults(owner)
    ]


def _faults(owner):
    """What is wrong with the signatures of a record: how much it matters, a sentence, where."""
    try:
        zone, servers = resolve.servers(owner)
        parent = resolve.known(zone, "DS")
    except LookupError as exc:
        return [("recommended", f"cannot be looked at: {exc}", ["the resolver"])]
    if not parent:
        why = (
            f"the parent of {zone} has no DS record of it, so nobody relies on these records; sign "
            "the zone, and give its DS record to the registrar, or leave mailsrv:dns:dane out"
        )
        return [("recommended", why, ["the resolver"])]
    found = {}
    for server, address in servers.items():
        try:
            why = _judged(owner, zone, parent, address)
        except (exception.DNSException, OSError, EOFError) as exc:
            why = "" if isinstance(exc, exception.Timeout) else str(exc) or type(exc).__name__
        if why:
            found.setdefault(why, []).append(server)
    return [
        ("required", f"{why}; whoever validates does not find {zone}, and mail to it waits", where)
        for why, where in found.items()
    ]


def _judged(owner, zone, parent, address):
    """Why a validator takes nothing of that server, a part of a sentence; empty where it does."""
    apex = name.from_text(f"{zone}.")
    signed, signature = _asked(apex, "DNSKEY", address)
    if signed is None:
        return "the parent has a DS record, but there is no DNSKEY record"
    trusted = rrset.RRset(apex, rdataclass.IN, rdatatype.DNSKEY)
    for key in signed:
        if any(_same(apex, key, text) for text in parent):
            trusted.add(key)
    if not trusted:
        return "no DNSKEY record has the DS record that the parent has"
    if why := _unverified(signed, signature, {apex: trusted}):
        return why
    shown, signature = _asked(name.from_text(f"{owner}."), "TLSA", address)
    # Where the record is missing, that is a finding of its own.
    return _unverified(shown, signature, {apex: signed}) if shown is not None else ""


def _same(apex, key, text):
    """Whether a DS record, a value as in a zone file, is of this key."""
    tag, algorithm, digest, *hexadecimal = text.split()
    try:
        made = dnssec.make_ds(apex, key, int(digest), validating=True).to_text()
    except (exception.DNSException, ValueError):
        return False  # a digest that this library does not know
    made = made.split()
    return [*made[:3], "".join(made[3:]).lower()] == [
        *(tag, algorithm, digest),
        "".join(hexadecimal).lower(),
    ]


def _asked(owner, kind, address):
    """The records of a name at a server and their signatures; None where there are none."""
    reply = resolve.exchange(owner, kind, address)
    wanted = rdatatype.from_text(kind)
    found = {(r.rdtype, r.covers): r for r in reply.answer if r.name == owner}
    return found.get((wanted, rdatatype.NONE)), found.get((rdatatype.RRSIG, wanted))


def _unverified(records, signatures, keys):
    kind = rdatatype.to_text(records.rdtype)
    if signatures is None:
        return f"its {kind} record has no signature"
    try:
        dnssec.validate(records, signatures, keys)
    except dnssec.ValidationFailure as exc:
        return f"no signature of its {kind} record is valid now: {exc}"
    return ""
