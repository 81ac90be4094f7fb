"""
A backup MX: on the primary, the machines that take its mail while it is away; on the backup, the
domains that it takes mail for, and what their primary has published of them, which is a stranger's
data: it says who gets mail below the domains that the pillar gives to it, and nothing else.
"""

import ipaddress

from _mailsrv import moving, names, owning, patterns
from _mailsrv.faults import kind_of, mapping, show, shown_key
from _mailsrv.records import BEHIND_NAT
from _mailsrv.satellites import CERTIFICATE
from _mailsrv.settings import QUOTA

PATH = "mailsrv:backup_for"
FUNCTION = "backup_mx.recipients"
UNITS = {unit: 1024**power for power, unit in enumerate("kMGT", 1)}

# What a primary may have; smtpd(8) holds all of it in memory, in several processes.
MAX_RECIPIENTS = 100_000
MAX_NETWORKS = 1000
MAX_CERTIFICATE = 20_000
LIKE = {"backup": "{mx2.example.net: 192.0.2.2}", "backup_for": "{mx1.example.net: [example.com]}"}


def backups(settings, hostname, faults):
    """On the primary: the backup machines, ``name`` and ``addresses`` of each, in their order."""
    path, result = "mailsrv:backup", []
    given = mapping(
        settings.get("backup"), path, faults, f"be names with addresses, like {LIKE['backup']}"
    )
    for key, value in given.items():
        name = names.domain(key)
        if name is None or name == hostname:
            what = "is not a host name" if name is None else "is this machine itself"
            faults.append(f"{path}: {shown_key(key)} {what}; write it like {LIKE['backup']}")
            continue
        found = value if isinstance(value, list) else [value]
        result.append({"name": name, "addresses": []})
        for text in found:
            try:
                address = str(ipaddress.ip_address(text if isinstance(text, str) else ""))
                result[-1]["addresses"].append(address)
            except ValueError:
                faults.append(
                    f"{path}:{name}: {show(text)} is not an address; write the one that it sends "
                    "from, like 192.0.2.2, or several, in a list"
                )
    return result


def ownership(settings, faults):
    """On the backup: the domains of each primary, by the id of its minion."""
    given = mapping(
        settings.get("backup_for"), PATH, faults, f"be domains by minion, like {LIKE['backup_for']}"
    )
    for minion, domains in given.items():
        if not domains:
            faults.append(
                f"{PATH}:{shown_key(minion)}: names no domain; write it like {LIKE['backup_for']}"
            )
    return owning.owned(given, PATH, faults, " of domains", shown_key)


def read(settings, mined, standing, taken, limits, faults, notes):
    """
    On the backup: the primaries, :class:`_mailsrv.model.Primary`, as they are known now: from the
    mine, else as the last run left them.

    mined, standing
        What they have published, and what stands here, by minion: anything.

    taken
        The name of this machine, then the names that it takes mail for itself.
    """
    result = []
    for minion, owned in ownership(settings, faults).items():
        for domain in owned:
            if domain in taken:
                faults.append(
                    f"{PATH}:{minion}: {domain} is one of our own, whose mail stays here; remove "
                    "it there or from domains"
                )
        at = f"{PATH}:{minion}"
        found, why = _checked(mined.get(minion), owned, taken)
        before, _ = _checked(standing.get(minion), owned, taken)
        if why:
            notes.append(f"{at}: {why}")
        primary = {**_NOTHING, **(found or before or {})}
        known = {**(before or _NOTHING)["domains"], **(found or _NOTHING)["domains"]}
        primary |= {"minion": minion, "domains": known}
        primary["unknown"] = [domain for domain in owned if domain not in known]
        for domain in owned:
            if found and domain not in found["domains"]:
                kept = "; its recipients stay as they were" if domain in known else ""
                notes.append(f"{at}: it publishes no recipients of {domain}{kept}")
        if primary["unknown"]:
            notes.append(
                f"{at}: nothing is known of {', '.join(primary['unknown'])}, so that mail for it "
                f"is put off (451); put {FUNCTION} into mine_functions of {minion}, then: salt "
                f"{minion} mine.update"
            )
        if larger(limits["message_size"], primary["message_size"]):
            notes.append(f"{at}: {too_large(limits, primary)}")
        primary["patterns"] = [
            {"domain": domain, "regex": patterns.regex(local, domain)}
            for domain, locals_ in known.items()
            for local in locals_
            if "*" in local
        ]
        result.append(primary)
    return result


def larger(one, other):
    """Whether a size such as 50M is more than another one; what is unknown is not."""
    sizes = [int(size[:-1]) * UNITS[size[-1]] for size in (one, other) if QUOTA.fullmatch(size)]
    return len(sizes) == 2 and sizes[0] > sizes[1]


def too_large(limits, primary):
    """Why sizes should be the same, a sentence."""
    return (
        f"takes messages of {primary['message_size']}, this machine of {limits['message_size']}: "
        "what is between them would be returned to its sender, who may be forged; write the same "
        "mailsrv:limits:message_size on both"
    )


def published(model, addresses, certificate):
    """
    On the primary: what a backup has to know of it, for the mine.

    addresses
        Those that this machine sends from, text.

    certificate
        Its own, PEM, where it is self-signed; else empty.
    """
    closed, unseen = model["dns"]["closed"], map(ipaddress.ip_address, addresses)
    if any(address in network for address in unseen for network in BEHIND_NAT):
        closed = None  # how the backup sees us we do not know
    if closed is not None:
        closed = [*addresses, *closed]
    return {
        "hostname": model["hostname"],
        "message_size": model["limits"]["message_size"],
        "certificate": certificate,
        "closed": closed,
        "domains": moving.recipients(model),
    }


_NOTHING = {"hostname": "", "message_size": "", "certificate": "", "closed": None, "domains": {}}


def _checked(given, owned, taken):
    """What was published, of these domains alone; or None, and why: a sentence, or empty."""
    if given is None:
        return None, ""
    try:
        return _read(given, owned, taken), ""
    except ValueError as fault:
        return None, f"what it publishes is not used: {fault}"


def _read(given, owned, taken):
    if not isinstance(given, dict):
        raise ValueError(f"it is {kind_of(given)}")
    hostname = names.domain(given.get("hostname"))
    if hostname is None:
        raise ValueError(f"its hostname {show(given.get('hostname'))} is none")
    if hostname == taken[0]:
        raise ValueError(f"its hostname is that of this machine, {hostname}")
    size, certificate = given.get("message_size"), given.get("certificate")
    if not isinstance(size, str) or not QUOTA.fullmatch(size):
        raise ValueError(f"its message_size {show(size)} is none")
    if not isinstance(certificate, str) or len(certificate) > MAX_CERTIFICATE:
        raise ValueError("its certificate is none")
    if certificate and not CERTIFICATE.fullmatch(certificate):
        raise ValueError("its certificate is none")
    domains, result = given.get("domains"), {}
    if not isinstance(domains, dict):
        raise ValueError(f"its domains are {kind_of(domains)}")
    left = MAX_RECIPIENTS
    for domain in owned:
        found = domains.get(domain)
        if not found:
            continue
        if not isinstance(found, list):
            raise ValueError(f"its recipients of {domain} are {kind_of(found)}")
        left -= len(found)
        if left < 0:
            raise ValueError(f"it has more than {MAX_RECIPIENTS} recipients")
        for local in found:
            if not _is_recipient(local):
                raise ValueError(f"{show(local)} of {domain} is nobody's name")
        result[domain] = sorted({*found})
    return {
        "hostname": hostname,
        "message_size": size,
        "certificate": certificate,
        "closed": _networks(given.get("closed")),
        "domains": result,
    }


def _is_recipient(local):
    """Whether it is a local part, a pattern, or nothing: all of the domain."""
    if not isinstance(local, str) or len(local) > 64:
        return False
    if "*" in local:
        return bool(local.strip("*.")) and patterns.LOCAL.fullmatch(local) and "**" not in local
    return not local or bool(names.LOCAL_PART.fullmatch(local))


def _networks(given):
    if given is None:
        return None
    if not isinstance(given, list) or len(given) > MAX_NETWORKS:
        raise ValueError("its networks are no list, or too many")
    result = []
    for text in given:
        try:
            network = ipaddress.ip_network(text if isinstance(text, str) else "", strict=False)
        except ValueError:
            raise ValueError(f"{show(text)} is not a network") from None
        result.append(str(network))
    return result
