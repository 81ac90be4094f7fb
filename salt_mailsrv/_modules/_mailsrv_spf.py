"""
What SPF records cost the receivers that read them, with all that they include.
"""

from _mailsrv import compare, resolve, spf
from _mailsrv.names import bare

ROUNDS = 10  # from one include to the next
SHOWN = 5  # names


def findings(domain, records, live):
    """
    What :func:`_mailsrv.compare.findings` makes of the records of a domain and what is live; and
    of the same form what its SPF record costs too much, where its TXT was asked for.
    """
    result = compare.findings(records, live)
    for record in records:
        name, text = bare(record["name"]), record["value"]
        if (name, record["type"]) != (domain, "TXT") or not text.startswith(spf.VERSION):
            continue
        if f"{domain} TXT" in live and any(map(_elsewhere, spf.parse(text) or ())):
            result += _judged(domain, text)
    return sorted(result, key=lambda finding: finding["need"] != "required")


def _elsewhere(term):
    """Whether it leads to where somebody else says what it costs; our own MX is no matter."""
    return term.looks_up and term.target.partition("/")[0] != ""


def _judged(domain, text):
    known = {}
    for _ in range(ROUNDS):
        found = spf.cost(domain, text, known)
        if not found["ask"]:
            break
        known |= resolve.told(found["ask"])
    if found["lookups"] > spf.MAX_LOOKUPS:
        yield _finding(
            domain,
            text,
            "required",
            f"{found['lookups']} terms, with those of what it includes, look something up; "
            f"receivers stop at {spf.MAX_LOOKUPS} and take none of it (RFC 7208, 4.6.4): take out "
            "what no longer sends for you, or write its networks, ip4: and ip6:",
        )
    if len(found["void"]) > spf.MAX_VOID:
        more = ", …" if len(found["void"]) > SHOWN else ""
        yield _finding(
            domain,
            text,
            "recommended",
            f"it leads to what is not there, {', '.join(found['void'][:SHOWN])}{more}; receivers "
            f"stop at more than {spf.MAX_VOID} of these (RFC 7208, 4.6.4): take them out",
        )


def _finding(domain, text, need, why):
    return {
        **{"fault": "wrong", "need": need, "name": domain, "type": "TXT", "desired": None},
        **{"live": [text], "servers": ["the resolver"], "says": f"{domain} TXT, SPF: {why}"},
    }
