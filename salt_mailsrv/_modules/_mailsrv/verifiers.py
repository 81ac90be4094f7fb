"""
Records of mail as those read them who verify: what they throw away is nothing, whatever it means to
the eye.

Where verifiers differ, a record is taken only as all of them take it: a key that one of them does
not find is no key to sign with.
"""

import base64
import re

BLANK = " \t"

# RFC 6376, section 3.2.
VALUE = r"[!-:<-~]+(?:[ \t]+[!-:<-~]+)*"
TAG = re.compile(rf"[ \t]*(?P<tag>[A-Za-z]\w*)[ \t]*=[ \t]*(?P<value>(?:{VALUE})?)[ \t]*", re.ASCII)
WORD = re.compile(r"\*|[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?", re.ASCII)

# RFC 8460, section 3, and RFC 8461, section 3.1, have the same fields.
FIELD = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,31})=(?P<value>[!-:<-~]+)")
REPORTS = re.compile(r"(?:mailto:|https://)[!-+\x2d-:<-~]+", re.IGNORECASE)

# RFC 7489, section 6.3, and RFC 9989, which obsoletes it, section 4.7: what a tag says that is not
# there. Other tags say nothing.
DMARC = {
    **{"adkim": "r", "aspf": "r", "fo": "0", "pct": "100", "rf": "afrf", "ri": "86400"},
    **{"psd": "u", "t": "n"},
}
POLICIES = ("none", "quarantine", "reject")

# RFC 7672, section 3.1: PKIX-TA and PKIX-EE, 0 and 1, are of no use for mail. By matching type the
# length of what follows, in digits; of a whole certificate or key, any.
USAGES, SELECTORS, DIGESTS = ("2", "3"), ("0", "1"), {"0": None, "1": 64, "2": 128}

REVOKED = ("revoked", b"")


class Refused(ValueError):
    """Verifiers throw a record away; the text, a part of a sentence, says why."""


def tags(text):
    """A list of `tag=value;` as a dictionary, in its order (RFC 6376, section 3.2)."""
    found, parts = {}, text.strip(BLANK).split(";")
    for part in parts[:-1] if len(parts) > 1 and not parts[-1] else parts:
        match = TAG.fullmatch(part)
        if not match:
            raise Refused("it is no list of tag=value, with ; between them")
        if match["tag"] in found:
            raise Refused(f"{match['tag']}= is there twice")
        found[match["tag"]] = match["value"]
    return found


def dkim(text):
    """
    The key that signatures of mail are verified with (RFC 6376, section 3.6.1; RFC 8301; RFC 8463):
    its type and its octets; `REVOKED` where it says that there is none any more.

    A key that does not count for mail as ours is signed is thrown away, too: one that is for other
    services or other digests, and one of a domain that only tests, whose mail counts as unsigned.
    That it is for no subdomains (``t=s``) makes no difference.
    """
    found = tags(text)
    if "v" in found and (next(iter(found)) != "v" or found["v"] != "DKIM1"):
        raise Refused("v= is not first" if found["v"] == "DKIM1" else "its version is not DKIM1")
    if "p" not in found:
        raise Refused("p= is missing")
    if not found["p"]:
        return REVOKED
    kind = found.get("k", "rsa")
    if kind not in ("rsa", "ed25519"):
        raise Refused("k= is neither rsa nor ed25519")
    if "sha256" not in _words(found, "h", "sha256"):
        raise Refused("h= is without sha256")
    # RFC 6376 lets others stand beside it, and dkimpy then finds no key.
    if found.get("s", "*") not in ("*", "email"):
        raise Refused("s= is neither * nor email")
    if "y" in _words(found, "t", "s"):
        raise Refused("t=y says that the domain only tests: its mail counts as unsigned")
    try:
        return kind, base64.b64decode(re.sub(r"[ \t]", "", found["p"]), validate=True)
    except ValueError:
        raise Refused("p= is not base64") from None


def _words(found, tag, default):
    """The words of a tag, between colons; Mail::DKIM takes no blanks there, as RFC 6376 does."""
    words = found.get(tag, default).split(":")
    if not all(map(WORD.fullmatch, words)):
        raise Refused(f"{tag}= is no list of words, with : between them")
    return {*words}


def dmarc(text, consent=False):
    """
    What a DMARC record says, a set of tags with values, without those that say nothing else than
    would hold without them. RFC 9989 lets ``p`` stand anywhere or be absent; who reads by RFC 7489,
    and most do, wants it second.

    consent
        Whether it is a consent to reports (RFC 7489, section 7.1), where ``p`` means nothing.
    """
    found = tags(text)
    if next(iter(found)) != "v" or found["v"] != "DMARC1":
        raise Refused("v=DMARC1 is not first")
    said = {tag: found[tag].lower() for tag in ("p", "sp", "np", *DMARC) if tag in found}
    if consent:
        said.clear()
    elif [*found][1:2] != ["p"]:
        raise Refused("p= is not second")
    elif any(said[tag] not in POLICIES for tag in ("p", "sp", "np") if tag in said):
        raise Refused("p=, sp= or np= is none of none, quarantine and reject")
    for tag, otherwise in (("np", said.get("sp", said.get("p"))), ("sp", said.get("p"))):
        if said.get(tag) == otherwise:
            said.pop(tag, None)
    for tag in ("rua", "ruf"):
        if tag in found:
            said[tag] = frozenset(uri.strip(BLANK).lower() for uri in found[tag].split(","))
    return frozenset(said.items() - DMARC.items())


def tls_reports(text):
    """Where reports about TLS go, a set of URIs (RFC 8460, section 3)."""
    found = _fields(text, "v=TLSRPTv1", "rua")
    uris = [uri.strip(BLANK) for uri in found.split(",")]
    if not all(map(REPORTS.fullmatch, uris)):
        raise Refused("rua= is no list of mailto: and https:, with , between them")
    return frozenset(map(str.lower, uris))


def mta_sts(text):
    """The id of an MTA-STS policy (RFC 8461, section 3.1)."""
    found = _fields(text, "v=STSv1", "id")
    if not re.fullmatch(r"[A-Za-z0-9]{1,32}", found):
        raise Refused("id= is not 1 to 32 letters and digits")
    return found


def _fields(text, version, wanted):
    """The one value of the field that is wanted, beside others that say nothing."""
    first, *fields = re.split(r"[ \t]*;[ \t]*", text)
    if first != version:
        raise Refused(f"{version} is not first")
    values = []
    for field in fields[:-1] if fields and not fields[-1] else fields:
        name, _, value = field.partition("=")
        if not FIELD.fullmatch(re.sub(r"[ \t]*,[ \t]*", ",", field) if name == "rua" else field):
            raise Refused("it is no list of name=value, with ; between them")
        if name == wanted:
            values.append(value)
    if len(values) != 1:
        raise Refused(f"{wanted}= is {'there twice' if values else 'missing'}")
    return values[0]


def tlsa(text):
    """The parts of a TLSA record that a mail server can use (RFC 7672, section 3.1)."""
    usage, selector, matching, *digest = text.lower().split()
    digest = "".join(digest)
    if usage not in USAGES:
        raise Refused("its usage is neither 2 nor 3")
    if selector not in SELECTORS or matching not in DIGESTS:
        raise Refused("its selector or its matching type is not known")
    if not re.fullmatch("(?:[0-9a-f]{2})+", digest) or len(digest) != (
        DIGESTS[matching] or len(digest)
    ):
        raise Refused("its digest has not the length of its matching type")
    return usage, selector, matching, digest
