"""
The receipt for a message that another machine has delivered (RFC 3461, RFC 3464): mail of its own
making, which shows what a receiver makes of its mail. Whatever it holds, somebody else wrote it.
"""

import email
import re
from typing import NamedTuple

from _mailsrv import names, signature, verifiers
from _mailsrv.peer import quoted

MOST = 65536  # bytes of a receipt that are looked at
SIGNATURES = 4

# smtpd(8) writes who brought it, and by whom it was taken; above it stands what is ours alone.
BROUGHT = r"from \S+ \(\S+ \[(?:IPv6:)?([0-9a-fA-F.:]+)\]\)\s+by {host} \(OpenSMTPD\)"


class Receipt(NamedTuple):
    """What a receipt says."""

    action: str  # delivered, failed, delayed, relayed; empty where it is no receipt
    why: str  # what the other server said, where it did not take the message
    address: str  # who brought it here; empty where it was made here
    names: list  # where the keys of its signatures stand in DNS
    domain: str  # the domain that signed as its sender; empty where none did


def read(message, hostname):
    """
    A :class:`Receipt` from the octets of a message.

    hostname
        What our own smtpd(8) calls itself where it writes who brought it.
    """
    parsed = email.message_from_bytes(message[:MOST])
    brought = re.compile(BROUGHT.format(host=re.escape(hostname)))
    found = filter(None, (brought.match(str(f)) for f in parsed.get_all("Received", [])))
    said = {}
    for part in parsed.walk():
        if part.get_content_type() == "message/delivery-status":
            text = "\n".join(str(block) for block in part.get_payload())
            fields = re.findall(r"^(Action|Diagnostic-Code):[ \t]*([^\n]*)", text, re.M | re.I)
            said |= {name.lower(): value.strip() for name, value in fields}
    sender = re.search(r"@([A-Za-z0-9.-]+)>?\s*$", str(parsed["From"]))
    home = names.domain(sender[1]) if sender else None
    signed = [_signed(str(field)) for field in parsed.get_all("DKIM-Signature", [])[:SIGNATURES]]
    signed = [tags for tags in signed if tags]
    return Receipt(
        said.get("action", "").lower(),
        said.get("diagnostic-code", ""),
        next((match[1] for match in found), ""),
        [f"{tags['s']}._domainkey.{tags['d']}" for tags in signed],
        next((tags["d"] for tags in signed if home and names.within(home, tags["d"])), ""),
    )


def _signed(field):
    """The tags of a signature that names where its key stands; None where it does not."""
    try:
        tags = verifiers.tags(re.sub(r"\s", "", field))
    except verifiers.Refused:
        return None
    named = names.domain(tags.get("d")), names.domain(f"{tags.get('s')}.example")
    return tags if None not in named else None


def unsigned(message, receipt, keys):
    """
    Why the signature of a receipt does not verify; empty where it does.

    keys
        By the name in DNS what stands there, as text; those that verifiers take.
    """
    if not receipt.domain:
        return "is not signed by its domain: run the highstate there, see mailcheck.run there"
    known = {name: verifiers.tags(text) for name, text in keys.items()}
    try:
        fault = signature.fault(message, receipt.domain, known, "in DNS")
        return f"{fault}; see mailcheck.dns there" if "in DNS" in fault else fault
    except Exception:  # of what a stranger wrote, anything may be missing or no number
        return "has a signature that cannot be read"


def missing(to, host, waits):
    """
    The sentence where no receipt came; `waits` is why the message waits here, None where it left.
    """
    if waits is not None:
        return f"FAULT: the message waits here: {quoted(waits) or 'it was not tried yet'}"
    return (
        f"FAULT: {host} has taken the message, and no receipt came: it does not send to this "
        "machine, its provider closes port 25 outward, or it writes no receipts (RFC 3461); see "
        "mailcheck.run and smtpctl show queue there"
    )


def judged(receipt, unsigned, spf, host, seconds):
    """
    The sentence about a receipt.

    unsigned
        What :func:`unsigned` says.

    spf
        What SPF says of the address that brought it, a word and why.
    """
    if receipt.action == "failed":
        why = quoted(receipt.why) or "without a word"
        return f"FAULT: the message came back: {why}; see mailsrv.explain there"
    if receipt.action not in ("delivered", "relayed", "expanded"):
        return "FAULT: what came back is no receipt; see the log there"
    if not receipt.address:
        return f"WARNING: sent; {host}, or a relay before it, writes no receipts (RFC 3461)"
    if unsigned:
        return f"FAULT: the receipt came, and {unsigned}"
    word, why = spf
    if word != "pass":
        return (
            f"FAULT: the receipt came from {receipt.address}, which gets SPF {word} as "
            f"{receipt.domain}{': ' if why else ''}{why}; see mailcheck.dns there"
        )
    return (
        f"ok: after {seconds:.0f} s from {receipt.address}, signed by {receipt.domain}, SPF passes"
    )
