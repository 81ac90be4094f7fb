"""
SPF records as receivers read them (RFC 7208).
"""

import ipaddress
import re
from typing import NamedTuple

VERSION = "v=spf1"
MAX_LOOKUPS = 10  # section 4.6.4
MAX_VOID = 2  # likewise: lookups without an answer
MOST = 100  # that are counted: records may lead to each other
LOOKED_UP = {
    **{"include": ["TXT"], "redirect": ["TXT"], "mx": ["MX"], "a": ["A", "AAAA"]},
    **{"exists": ["A"], "ptr": []},
}

# The length of the largest network of one owner: what is larger, lets the world send. Nobody has
# more than a /8, and of IPv6 the largest that registries gave is a /19.
LARGEST = {4: 8, 6: 19}

# Sections 7.1 and 12. A domain ends in a top-level label, or in a macro; a modifier that nobody
# knows may say anything. The macros c, r and t are for explanations alone, which are no terms.
MACRO = r"%\{[slodiphv](?:0*[1-9][0-9]*)?r?[.+,/_=-]*\}"
TEXT = rf"(?:{MACRO}|%[%_-]|[!-$&-~])*"
TOP_LABEL = r"(?![0-9]+(?![a-z0-9-]))[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
DOMAIN = rf"{TEXT}(?:\.{TOP_LABEL}\.?|{MACRO})"
LENGTHS = r"(?:/(?P<length>0|[1-9][0-9]?))?(?://(?P<length6>0|[1-9][0-9]{0,2}))?"
TERM = re.compile(
    rf"(?P<known>redirect|exp)=(?P<value>{DOMAIN})"
    rf"|(?!redirect=|exp=)(?P<modifier>[a-z][a-z0-9_.-]*)=(?P<text>{TEXT})"
    rf"|(?P<qualifier>[+?~-]?)(?:(?P<all>all)|(?P<lookup>include|exists|ptr):(?P<there>{DOMAIN})"
    rf"|(?P<bare>ptr)|(?P<host>a|mx)(?::(?P<domain>{DOMAIN}))?{LENGTHS}"
    r"|(?P<ip>ip[46]):(?P<network>[0-9a-f.:]+(?:/(?:0|[1-9][0-9]{0,2}))?))",
    re.IGNORECASE | re.ASCII,
)


class Term(NamedTuple):
    """One word of a record: a mechanism with its qualifier, or a modifier."""

    name: str  # all, include, exists, ptr, a, mx, ip4, ip6; or redirect, exp, …
    qualifier: str  # of + - ~ ?; empty for a modifier
    target: str  # behind : or =, in lower case where it holds no macro; may be empty

    @property
    def looks_up(self):
        """Whether a receiver asks DNS for it, which it does ten times at most."""
        return self.name in ("include", "exists", "ptr", "a", "mx", "redirect")


def parse(text):
    """The terms of a record, its version before them; None where no receiver takes it."""
    version, *words = text.split(" ")
    found = [read(word) for word in words if word]
    single = [term.name for term in found if term and term.name in ("redirect", "exp")]
    if version.lower() != VERSION or None in found or len(single) != len({*single}):
        return None
    return found


def read(word):
    """One term; None where it is none."""
    match = TERM.fullmatch(word)
    if not match:
        return None
    target = word.lstrip("+-~?").replace("=", ":", 1).partition(":")[2]
    if "%" not in target:
        target = target.lower()
    modifier = match["known"] or match["modifier"]
    if modifier:
        return Term(modifier.lower(), "", target)
    if match["ip"]:
        try:
            network = ipaddress.ip_network(target, strict=False)
        except ValueError:
            return None
        if match["ip"].lower() != f"ip{network.version}":
            return None
        target = str(network)
    if int(match["length"] or 0) > 32 or int(match["length6"] or 0) > 128:
        return None
    if match["host"] and not match["domain"]:
        target = word.lstrip("+-~?")[len(match["host"]) :]  # its lengths alone
    name = match["all"] or match["lookup"] or match["bare"] or match["host"] or match["ip"]
    return Term(name.lower(), match["qualifier"] or "+", target)


def lets_the_world(terms):
    """
    Those of these terms, as they are written, that let far more hosts send than anybody has: a
    network, or the neighbours of a host, larger than `LARGEST`, or all that together are.
    """
    result = []
    for version, bits, kind in ((4, 32, "ip4"), (6, 128, "ip6")):
        sizes = {}
        for text, term in ((text, read(text)) for text in terms):
            if term.qualifier == "+" and term.name in (kind, "a", "mx"):
                length = TERM.fullmatch(text)["length" if version == 4 else "length6"]
                if term.name == kind:
                    length = term.target.partition("/")[2]
                sizes[text] = 2 ** (bits - int(length or bits))
        most = 2 ** (bits - LARGEST[version])
        alone = [text for text, size in sizes.items() if size > most]
        together = [text for text, size in sizes.items() if size > 1]
        result += alone or (together if sum(sizes.values()) > 2 * most else [])
    return list(dict.fromkeys(result))


def records(values):
    """The SPF records among the TXT records of a name (section 4.5)."""
    return [value for value in values if value.lower().split(" ")[0] == VERSION]


def cost(domain, text, known):
    """
    What a record costs a receiver that finds in it nobody who may send, which is the most.

    domain, text
        Whose record it is, and its text, valid.

    known
        What DNS says: by question (name, type) the values, text; None where it does not tell.

    Returns ``lookups``, how many terms look something up; ``void``, the questions to which there is
    no answer; ``ask``, what is to be known to say more. What depends on the sender is not asked.
    """
    found = {"lookups": 0, "void": [], "ask": []}
    _spend(domain, text, known, (domain,), found)
    return {**found, "void": list(dict.fromkeys(found["void"])), "ask": [*{*found["ask"]}]}


def _spend(domain, text, known, chain, found):
    terms = parse(text) or []
    names = [term.name for term in terms]
    if "all" in names:  # nothing behind it is looked at, and no redirect
        terms = [t for t in terms[: names.index("all")] if t.name != "redirect"]
    terms.sort(key=lambda term: term.name == "redirect")  # the last, wherever it stands
    for term in terms:
        if not term.looks_up or found["lookups"] > MOST:
            continue
        found["lookups"] += 1
        name = term.target.partition("/")[0].rstrip(".") or domain
        if "%" in name or term.name == "ptr":
            continue
        values = _answers(name, LOOKED_UP[term.name], known, found)
        if term.name not in ("include", "redirect") or name in chain:
            continue
        there = records(values)
        if len(there) == 1:
            _spend(name, there[0], known, (*chain, name), found)


def _answers(name, kinds, known, found):
    """The values under a name, of the first of these types that has some."""
    for kind in kinds:
        if (name, kind) not in known:
            found["ask"].append((name, kind))
            return []
        if known[name, kind] != []:
            return known[name, kind] or []
    found["void"].append(f"{name} {kinds[0]}")
    return []


def meaning(domain, text):
    """
    What a record says of a domain: equal where receivers do the same.

    The first mechanism that matches decides: those that stand together with one qualifier may
    stand in any order, and what follows ``all`` is never looked at. Nor is a modifier that nobody
    knows. A record that no receiver takes equals none but itself.
    """
    terms = parse(text)
    if terms is None:
        return text
    mechanisms = [term for term in terms if term.qualifier]
    modifiers = {(t.name, t.target.rstrip(".")) for t in terms if t.name in ("redirect", "exp")}
    end, groups = "?", []
    for name, qualifier, target in mechanisms:
        if name == "all":
            end = qualifier
            modifiers = {modifier for modifier in modifiers if modifier[0] != "redirect"}
            break
        if not groups or groups[-1][0] != qualifier:
            groups.append((qualifier, set()))
        there, slash, lengths = target.partition("/")
        there = there.rstrip(".")
        groups[-1][1].add((name, f"{'' if there == domain else there}{slash}{lengths}"))
    return tuple((sign, frozenset(group)) for sign, group in groups), frozenset(modifiers), end
