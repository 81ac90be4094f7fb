"""
What to think of another mail machine, by what a stranger sees of it.

All that it says itself is quoted: cut short, and in printable ASCII alone.
"""

import re
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from _mailsrv import acme, names, verifiers
from _mailsrv.names import bare

MOST = 20  # domains of a machine, and machines of a fleet at once, that are looked at
HOSTS = 4  # that one minion may be, or let others look at
ADDRESSES = 4
QUOTED = 80  # characters of what others say

# Where somebody misses something if they are closed; the others are for clients that are old.
NEEDED = {25: "other servers bring mail there", 465: "mail clients send there"}
NEEDED |= {587: "mail clients send there", 993: "mail clients read there"}
WANTED = {995: "POP3", 4190: "ManageSieve"}


class Machine(NamedTuple):
    """What the mine has of a mail machine."""

    minion: str
    domains: dict  # by domain its records; more than the mine knows: none
    certificate: str | None  # PEM where it made it itself; empty: of a CA; None: not known


class Seen(NamedTuple):
    """What a port showed to a stranger."""

    number: int
    closed: str = ""  # refused, silent or no way
    fault: str = ""  # what kept it from being looked at
    name: str = ""  # the host name of the greeting of SMTP
    early: bool = False  # it takes passwords before TLS
    passwords: bool = False  # and after
    leaf: str = ""  # its certificate, PEM
    distrust: str = ""  # why the systems CAs do not stand for it
    old: str = ""  # the version of TLS it should not have taken
    outward: bool | None = None  # whether this machine reaches port 25 of others, if that is known


def quoted(text, most=QUOTED):
    """What others say, to be shown: one line of printable ASCII with an end."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    text = re.sub(r"[^ -~]", "?", " ".join(str(text)[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most]}..."


def machines(certificates, zones):
    """
    The mail machines of the mine by host name, each a :class:`Machine`.

    certificates, zones
        What ``mailsrv.certificate`` and ``mailsrv.dns`` have put there, by minion id. Others wrote
        it: what is not of that form is left out. Of two minions that claim a name, it is that of
        the one whose id it is.
    """
    result = {}
    for minion in sorted({*certificates, *zones}, key=str):
        domains = _domains(zones.get(minion))
        certificate = certificates.get(minion)
        certificate = certificate if isinstance(certificate, str) else None
        # Without records the name is that of the minion.
        hosts = {
            names.domain(bare(record["value"].split()[-1]))
            for domain, records in domains.items()
            for record in records
            if (bare(record["name"]), record["type"]) == (domain, "MX")
        } or {names.domain(minion)}
        for host in sorted(hosts - {None})[:HOSTS]:
            if host not in result or host == minion:
                result[host] = Machine(str(minion), domains, certificate)
    return result


def _domains(given):
    """By domain its records, of what the mine has."""
    keys = ("name", "type", "value")
    return {
        domain: [
            record
            for record in listed
            if isinstance(record, dict)
            and all(isinstance(record.get(key), str) and record[key].strip() for key in keys)
        ]
        for domain, listed in (given.items() if isinstance(given, dict) else ())
        if names.domain(domain) == domain and isinstance(listed, list)
    }


def port(seen, protocol, host):
    """The sentence about a port."""
    if seen.closed:
        return _closed(seen)
    if seen.fault:
        return f"FAULT: {seen.fault}"
    if seen.early:
        return "FAULT: takes passwords before TLS, for all to read; run the highstate there"
    if seen.passwords and seen.number == 25:
        return "FAULT: offers AUTH, which belongs on 465 and 587 alone; run the highstate there"
    if not seen.passwords and seen.number != 25:
        return "FAULT: takes no password under TLS; run the highstate there"
    if seen.old:
        return (
            f"FAULT: takes {seen.old}, which is broken (RFC 8996); run the highstate there, and "
            "see what its openssl.cnf allows"
        )
    if protocol == "SMTP" and seen.name != host:
        return (
            f"WARNING: calls itself {quoted(seen.name) or 'nothing'}, not {host}; name the host in "
            "mailsrv:hostname there, or ask for it by the name that it has"
        )
    return "ok"


def _closed(seen):
    number, need, outward = seen.number, NEEDED.get(seen.number), seen.outward
    if seen.closed == "refused":
        why = "is refused: nothing listens there, or a firewall says so; see mailcheck.run there"
    elif number == 25 and outward is False:
        return (
            "skipped: this machine reaches port 25 of nobody, its own provider closes it; ask from "
            "another minion"
        )
    elif seen.closed == "no way":
        why = "cannot be reached: its network, or a firewall, says that there is no way"
    else:
        why = "does not answer: a firewall of it or of its provider throws away what comes"
        if number == 25 and outward is None:
            why += ", or the provider of this machine here lets no mail out"
    if need:
        return f"FAULT: {why}; {need}"
    if number in WANTED:
        return f"WARNING: {why}; if {WANTED[number]} is not meant to be there, all is well"
    return "ok: closed; mail clients use TLS from the first byte instead"


def certificate(ports, look, machine, host):
    """
    The sentence about the certificate of all ports.

    ports
        A :class:`Seen` of each.

    look
        What :func:`certificate.look` says of a PEM text.
    """
    served = {}
    for seen in ports:
        if seen.leaf:
            served.setdefault(seen.leaf, []).append(seen)
    if not served:
        return "skipped: no port shows one"
    if len(served) > 1:
        said = " and another on ".join(
            ", ".join(str(number) for number in sorted({seen.number for seen in group}))
            for group in served.values()
        )
        return f"FAULT: one on {said}: run the highstate there, or restart the service"
    ((leaf, group),) = served.items()
    found = look(leaf)
    if found["broken"]:
        return f"FAULT: {quoted(found['broken'][0][1])}"
    if found["doubtful"]:
        return f"FAULT: {quoted('; '.join(fault for _, fault in found['doubtful']), 3 * QUOTED)}"
    until, mined = f"until {found['until'][:10]}", machine and machine.certificate
    if mined:
        if look(mined).get("fingerprint") != found["fingerprint"]:
            return (
                f"FAULT: serves another certificate (SHA-256 {found['fingerprint'][:16]}...) than "
                f"{machine.minion} has put into the mine: run the highstate there; if that has "
                "nothing to change, somebody else answers in its place"
            )
        if found["days"] < acme.SELF_SIGNED:
            return f"WARNING: self-signed, ends in {found['days']} days; remove it for a new one"
        return f"ok: self-signed, that of the mine, {until}; mail clients ask whether to trust it"
    if found["self_signed"] and mined is None:
        return (
            f"WARNING: self-signed, {until}, and not in the mine, so that nobody can tell whose it "
            "is; let a CA sign it (mailsrv:tls:acme), or ask from a minion of its master"
        )
    if distrust := next((seen for seen in group if seen.distrust), None):
        return (
            f"FAULT: port {distrust.number}: this machine does not trust it: "
            f"{quoted(distrust.distrust)}; name the file with the whole chain in mailsrv:tls:cert "
            f"there, {until}"
        )
    if found["days"] < found["life"] * acme.LAST:
        return (
            f"WARNING: ends in {found['days']} days; mailcheck.run there says why it is not renewed"
        )
    return f"ok: trusted for {host}, {found['days']} days left, {until}"


def reverse(address, pointers, forward, host):
    """The sentence about the reverse records of an address: their names, and where these lead."""
    if not pointers:
        return (
            "FAULT: has no PTR record, so that other servers refuse its mail; its hosting provider "
            "sets it"
        )
    good = [name for name in pointers if address in forward.get(name, ())]
    if not good:
        return (
            f"FAULT: its PTR record says {quoted(pointers[0])}, which does not lead back to it; "
            f"let the hosting provider write {host}"
        )
    if host not in good:
        return f"WARNING: its PTR record says {quoted(good[0])}, not {host}"
    return f"ok: {host}, and back"


def recipients(domain, bounce, postmaster, unknown):
    """
    The sentence about a message to two recipients of a domain: code and words that its sender, who
    is nobody (a bounce), and each of them was answered with.
    """
    if bounce[0] != 250:
        return (
            f"FAULT: takes no bounces: {bounce[0]} {quoted(bounce[1])}; its own users do not hear "
            "of what does not arrive; see its log"
        )
    if postmaster[0] // 100 != 2:
        word = "WARNING: refuses for now" if postmaster[0] // 100 == 4 else "FAULT: refuses"
        return (
            f"{word} postmaster@{domain}, whom every domain must have: {postmaster[0]} "
            f"{quoted(postmaster[1])}; see mailsrv.explain postmaster@{domain} there"
        )
    if unknown[0] // 100 == 2:
        return (
            "WARNING: takes mail for anybody: right for a catch-all; else it sends bounces to "
            "strangers"
        )
    if unknown[0] // 100 == 4:
        return f"WARNING: whom it does not know, it refuses only for now: {quoted(unknown[1])}"
    return "ok: postmaster is there, whom it does not know is refused at once"


def relaying(answers):
    """The sentence about what was answered for foreign recipients, by sender: codes."""
    for sender, codes in answers.items():
        if any(code // 100 == 2 for code in codes):
            return (
                f"FAULT: port 25 takes mail from {sender} for anywhere, from anybody: an open "
                "relay; run the highstate there, then look for spam: smtpctl show queue"
            )
    return "ok"


def senders(domain, listed):
    """
    The SPF record of a domain that the mine has, and its DKIM keys: by name the value.
    """
    policy, keys = None, {}
    for record in listed:
        name = bare(record["name"])
        if record["type"] == "TXT" and name == domain and record["value"].startswith("v=spf1"):
            policy = record["value"]
        elif record["type"] == "TXT" and name.endswith(f"._domainkey.{domain}"):
            keys[name] = record["value"]
    return policy, keys


def signing(name, values, wanted):
    """
    Why signatures under a name do not verify, a part of a sentence; empty where they do.

    values, wanted
        What DNS shows there, and what the mine has.
    """
    if not values:
        return f"{name} is missing: what it signs does not verify"
    if len(values) > 1:
        return f"{name} has {len(values)} records: receivers may take the wrong one"
    try:
        found = verifiers.dkim(values[0])
    except verifiers.Refused as exc:
        return f"verifiers throw {name} away: {exc}"
    try:
        if found != verifiers.dkim(wanted):
            return f"{name} is another key than in the mine"
    except verifiers.Refused as exc:
        return f"in the mine, {name} is one that verifiers throw away: {exc}"
    return "" if found == verifiers.REVOKED or _takes(*found) else f"{name} holds no key of use"


def _takes(kind, octets):
    """Whether receivers verify with a key (RFC 8301, RFC 8463)."""
    try:
        if kind == "ed25519":
            return bool(ed25519.Ed25519PublicKey.from_public_bytes(octets))
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, rsa.RSAPublicKey) and key.key_size >= 1024


def sending(domain, spf, meant, faults):
    """
    The sentence about mail from a domain as receivers judge it.

    spf
        By address of the machine what SPF says, a word and why.

    meant
        By address the same of the record that the mine has; empty where it has none.

    faults
        What is wrong with MX records and keys, parts of sentences.
    """
    faults, passing = list(faults), False
    for address, (word, why) in spf.items():
        if word == "pass":
            passing = True
        elif meant.get(address, ("pass",))[0] == "pass":
            faults.append(
                f"mail from {address} as {domain} gets SPF {word}" + (f": {why}" if why else "")
            )
    if faults:
        return f"FAULT: {'; '.join(faults)}; see mailcheck.dns there"
    if not spf:
        return "ok"
    return "ok: SPF passes" if passing else "ok: it sends by others, says its SPF record"
