"""
The DNS records that are wanted against those that name servers show.

Two values are equal where they mean the same to those who read them: the strings that a TXT record
is cut into, the order of tags, and case where it does not matter make no difference. What they
throw away equals nothing.
"""

import ipaddress
import re

from _mailsrv import caa, spf, verifiers
from _mailsrv.names import bare

_SENTENCES = {
    "missing": "{name} {kind} is missing at {who}: {why}",
    "wrong": "{name} {kind} is wrong at {who}: {why}",
    "superfluous": "{name} {kind} is one too many at {who}: {why}; remove it",
}

# What is wrong with a record that nobody wants, by its kind, and how bad that is.
_SUPERFLUOUS = {
    "SPF": ("required", "with two SPF records receivers take neither"),
    "DMARC": ("recommended", "with two DMARC records receivers take neither"),
    "DKIM": ("recommended", "no key of this server signs under this selector"),
    "second DKIM": ("required", "of two keys under one selector receivers may take the other"),
    "MTA-STS": ("recommended", "there is no such policy in the pillar"),
    "TLS-RPT": ("recommended", "with two TLS-RPT records nobody reports"),
    "MX": ("required", "mail goes to that host, too"),
    "SRV": ("recommended", "mail clients go to that host, too"),
    "A": ("required", "mail goes to that address, too"),
    "AAAA": ("required", "mail goes to that address, too"),
    "TLSA": (
        "required",
        "other servers insist on its key, and mailsrv:dns:dane does not say that it is ours",
    ),
}


def findings(records, live):
    """
    The records that are wanted against those that name servers show.

    records
        A list of records as :func:`_mailsrv.records.records` makes them.

    live
        What was seen: by question (``example.com MX``) and server the list of values, or, as text,
        why the server could not be asked. A record that was not asked for is not missed; what is
        shown where none is wanted, may be superfluous.

    Returns a list of findings: ``fault`` is ``missing``, ``wrong``, ``superfluous`` or ``unknown``
    (could not be asked), ``need`` is ``required`` or ``recommended``; ``name`` and ``type`` of the
    record; ``desired``, the value to publish; ``live``, the values that are shown instead or too
    much; ``servers`` that show it so; ``says``, all of it in a sentence. Required ones come first.
    """
    wanted = {}
    for record in records:
        wanted.setdefault((bare(record["name"]), record["type"]), []).append(record)
    found, unknown = {}, {}
    for question, servers in live.items():
        name, kind = question.split()
        for server, values in servers.items():
            if isinstance(values, str):
                unknown.setdefault((server, values), []).append((name, kind))
                continue
            if kind == "CAA":  # what stands at one name depends on the others
                continue
            for finding in _differences(name, kind, server, values, wanted, live):
                found.setdefault(finding, []).append(server)
    for (_, kind), (record, *_) in wanted.items():
        if kind == "CAA" and (judged := caa.judged(record, live)):
            for finding, server in _of_caa(record, *judged):
                found.setdefault(finding, []).append(server)
    result = [
        _unknown(server, fault, questions, wanted) for (server, fault), questions in unknown.items()
    ]
    for (fault, name, kind, need, desired, shown, why), servers in found.items():
        asked = [s for s, values in live[f"{name} {kind}"].items() if not isinstance(values, str)]
        who = "every server" if len(servers) == len(asked) else " and ".join(servers)
        result.append(
            {
                "fault": fault,
                "need": need,
                "name": name,
                "type": kind,
                "desired": desired,
                "live": list(shown),
                "servers": servers,
                "says": _SENTENCES[fault].format(who=who, name=name, kind=kind, why=why),
            }
        )
    return sorted(result, key=lambda finding: finding["need"] != "required")


def questions(domain, records, model, selectors):
    """
    What to ask for a domain: its records, and where those may stand that are not wanted. Keys have
    been under all of these `selectors`, of those of today and of old ones.
    """
    hostname = model["hostname"]
    asked = [(bare(record["name"]), record["type"]) for record in records]
    asked.append((f"_mta-sts.{domain}", "TXT"))
    asked += [(f"{selector}._domainkey.{domain}", "TXT") for selector in selectors]
    if (hostname, "TXT") in asked:
        asked += [(hostname, "A"), (hostname, "AAAA"), (f"_25._tcp.{hostname}", "TLSA")]
    if (hostname, "CAA") in asked:
        asked += [(name, "CAA") for name in caa.names(hostname)]
    for record in records:
        if record["type"] == "CNAME":
            names = (bare(record["name"]), bare(record["value"]))
            asked += [(name, kind) for name in names for kind in ("A", "AAAA")]
    return list(dict.fromkeys(asked))


def _differences(name, kind, server, values, wanted, live):
    """What a server shows otherwise than wanted at one name, as the beginnings of findings."""
    desired, rest = wanted.get((name, kind), []), list(values)
    lost = []
    for record in desired:
        said = meaning(name, kind, record["value"])
        same = [value for value in rest if _means(name, kind, value, said)]
        if same:
            rest.remove(same[0])
        elif kind != "CNAME" or not _leads(name, server, record["value"], live):
            lost.append(record)
    rivals = _rivals(name, kind, desired, rest)
    refused = [why for why in (_refused(name, kind, value) for value in rivals) if why]
    for record in lost:
        fault, why = "wrong" if rivals else "missing", record["why"]
        if refused:
            why += f"; verifiers throw away what is there: {refused[0]}"
        yield fault, name, kind, record["need"], record["value"], tuple(rivals), why
    if lost:
        return
    for value in rest:
        purpose = _purpose(name, value) if kind == "TXT" else kind
        if purpose in _SUPERFLUOUS and _too_much(name, kind, purpose, value, desired, wanted):
            need, why = _SUPERFLUOUS["second DKIM" if purpose == "DKIM" and desired else purpose]
            yield "superfluous", name, kind, need, None, (value,), why


def _of_caa(record, fault, name, answers):
    """What servers show that keeps the CA from issuing, or that nothing keeps another from it."""
    need, why = record["need"], record["why"]
    if fault == "wrong":
        need = "required"
        why = "it keeps the CA of mailsrv:tls:acme from issuing for " + bare(record["name"])
    for server, values in answers.items():
        yield (fault, name, "CAA", need, record["value"], tuple(values), why), server


def _too_much(name, kind, purpose, value, desired, wanted):
    if kind in ("A", "AAAA"):
        # Of the mail host; the host of the web is asked only where an alias leads to it.
        return bool(wanted.keys() & {(name, "A"), (name, "AAAA")})
    if kind == "TLSA":
        return not desired  # one of several may be for the next key
    if purpose == "DKIM":
        if desired:
            return True  # RFC 6376, section 3.6.2.2: verifiers may take any of them
        return not _refused(name, kind, value) and verifiers.dkim(value) != verifiers.REVOKED
    return bool(desired) or purpose == "MTA-STS"


def _leads(name, server, target, live):
    """Whether a server has, in place of the alias, addresses of its target and no others."""
    target, here, there = bare(target), set(), set()
    for kind in ("A", "AAAA"):
        own = live.get(f"{name} {kind}", {}).get(server, [])
        here |= {*own} if isinstance(own, list) else set()
        for values in live.get(f"{target} {kind}", {}).values():
            there |= {*values} if isinstance(values, list) else set()
    return bool(here) and here <= there


def _unknown(server, fault, questions, wanted):
    """One finding for all that could not be asked of a server for one reason."""
    needs = {record["need"] for question in questions for record in wanted.get(question, [])}
    name, kind = questions[0]
    more = f" and {len(questions) - 1} more" if len(questions) > 1 else ""
    return {
        "fault": "unknown",
        "need": "required" if "required" in needs else "recommended",
        "name": name,
        "type": kind,
        "desired": None,
        "live": [],
        "servers": [server],
        "says": f"{server} {fault}; it was asked for {name} {kind}{more}",
    }


def lacks(name, kind, value, shown):
    """
    Why a record cannot be relied on at a server that shows these values, a part of a sentence;
    nothing where it can. ValueError where no verifier would take that record.
    """
    said = meaning(name, kind, value)
    rivals = _rivals(name, kind, [{"value": value}], shown)
    if kind == "TXT" and len(rivals) > 1:
        return f"shows {len(rivals)} such records, of which verifiers take none or any"
    if any(_means(name, kind, other, said) for other in shown):
        return ""
    refused = [why for why in (_refused(name, kind, other) for other in rivals) if why]
    return f"shows one that verifiers throw away: {refused[0]}" if refused else "still lacks it"


def meaning(name, kind, text):
    """
    What the value of a record says, in a form that is equal where the meaning is.
    :class:`_mailsrv.verifiers.Refused`, a ValueError, where verifiers throw it away.
    """
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(text))
    if kind == "MX":
        return bare(text.split()[1])  # of one host, the preference means nothing
    if kind == "SRV":
        return tuple(bare(word) for word in text.split()[2:])  # nor do priority and weight
    if kind == "TLSA":
        return verifiers.tlsa(text)
    if kind != "TXT":
        return bare(text)
    purpose = _purpose(name, text)
    if purpose == "SPF" and spf.parse(text) is None:
        raise verifiers.Refused("it is not v=spf1 and terms of SPF, with blanks between them")
    readers = {
        "SPF": lambda text: spf.meaning(name, text),
        "DKIM": verifiers.dkim,
        "DMARC": lambda text: verifiers.dmarc(text, "._report._dmarc." in name),
        "TLS-RPT": verifiers.tls_reports,
        "MTA-STS": verifiers.mta_sts,
    }
    return readers[purpose](text) if purpose else text


def _means(name, kind, text, said):
    try:
        return meaning(name, kind, text) == said
    except verifiers.Refused:
        return False


def _refused(name, kind, text):
    """Why verifiers throw a record away; nothing where they do not."""
    try:
        meaning(name, kind, text)
    except verifiers.Refused as exc:
        return str(exc)
    return ""


def _rivals(name, kind, desired, values):
    """The values that stand in the place of these records, not beside them."""
    purposes = {_purpose(name, record["value"]) for record in desired} - {""}
    return [v for v in values if kind != "TXT" or _purpose(name, v) in purposes]


def _purpose(name, text):
    """Which of mail's TXT records it is, or is meant to be; empty where it is somebody else's."""
    if "._domainkey." in name:  # RFC 6376, section 3.6.1: the version may be left out
        return "DKIM"
    version = re.match(r"\s*v\s*=\s*(\w+)(?![^\s;])", text.lower(), re.ASCII)
    purposes = {"spf1": "SPF", "dmarc1": "DMARC", "tlsrptv1": "TLS-RPT", "stsv1": "MTA-STS"}
    return purposes.get(version[1], "") if version else ""
