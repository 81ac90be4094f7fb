"""
Who is refused for a while, because of wrong passwords: what the pillar says of it, and what
fail2ban, nftables and guesses.py say of who is.
"""

import ipaddress
import json
import re

from _mailsrv.faults import listed, section, show
from _mailsrv.records import PORTS
from _mailsrv.settings import SECONDS, duration

KEYS = {"bans": ("own", "after", "within", "for")}
AFTER = (5, 1000)  # the least and the most of wrong passwords

# In fail2ban and in nftables.
JAIL = "mailsrv"

# 198.51.100.7 <tab>2027-02-28 09:30:00 + 3600 = 2027-02-28 10:30:00
BANNED = re.compile(r"(\S+)\s+\S+ \S+ \+ -?\d+ = (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
WRONG = re.compile(r"(\S+) wrong password for (\S+), (\S+)")
NAMED = 3  # names that are said of one network


def read(settings, facts, faults, notes):
    """When a network is refused for a while, and which ones never are; None: nobody is."""
    path, given = "mailsrv:bans", settings.get("bans")
    if isinstance(given, bool | None):
        given = {} if given else None
    else:
        given = section(settings, "bans", KEYS["bans"], path, faults)
    if given is None:
        return None
    given = {**facts["bans"], **given}
    after, (least, most) = given["after"], AFTER
    if type(after) is not int or not least <= after <= most:
        faults.append(
            f"{path}:after: {show(after)} is not usable; write a number from {least} to {most}"
        )
    lasts = _seconds(given["for"], f"{path}:for", faults)
    result = {
        "own": _networks(given.get("own"), f"{path}:own", faults),
        "after": after,
        "within": _seconds(given["within"], f"{path}:within", faults),
        "lasts": lasts,
        "longest": max(lasts, SECONDS["d"]),
        # Nobody logs in on 25, where the mail server of somebody else behind that address may send.
        "ports": sorted(port.number for port in PORTS if port.number != 25),
    }
    why = facts["cannot_ban"] if "fail2ban" in facts else "that needs fail2ban, as on Debian"
    if why:
        notes.append(f"{path}: nobody is banned: {why}")
        return None
    return result


def _seconds(value, path, faults):
    found = duration(value, "smhd")
    if found:
        return found
    faults.append(f"{path}: {show(value)} is not a time; write it like 10m, 2h or 1d")
    return 0


def _networks(values, path, faults):
    """IP networks, each once; an address is a network of one."""
    result = []
    for value in listed(values, path, faults):
        try:
            if not isinstance(value, str):
                raise ValueError
            network = ipaddress.ip_network(value)
        except ValueError:
            faults.append(
                f"{path}: {show(value)} is not a network; write it like 192.0.2.0/24, "
                "2001:db8:1::/48 or 192.0.2.1"
            )
            continue
        if network.prefixlen == 0:
            faults.append(f"{path}: {network} is everybody; write the networks that are yours")
        result.append(str(network))
    return list(dict.fromkeys(result))


def banned(text):
    """The networks that fail2ban has banned and until when, from its list with times."""
    found = {}
    for line in text.splitlines():
        match = BANNED.match(line.strip())
        network = match and network_of(match[1])
        if network:
            found[network] = match[2]
    return found


def refused(text):
    """The networks in a set of nftables, from its listing in JSON."""
    found = set()
    for part in json.loads(text)["nftables"]:
        for element in part.get("set", {}).get("elem", []):
            if isinstance(element, dict):
                prefix = element.get("prefix", {})
                element = f"{prefix.get('addr')}/{prefix.get('len')}"
            found.add(network_of(element))
    return found - {None}


def reasons(text):
    """Why each network is banned, a sentence by network, from what guesses.py has said of it."""
    names = {}
    for line in text.splitlines():
        if (match := WRONG.fullmatch(line)) and (network := network_of(match[1])):
            names.setdefault(network, []).append((match[2], match[3]))
    return {network: _reason(found) for network, found in names.items()}


def _reason(found):
    tried = list(dict.fromkeys(name for name, _ in found))
    more = f" and {len(tried) - NAMED} more" if len(tried) > NAMED else ""
    doors = " and ".join(dict.fromkeys(door for _, door in found))
    return f"wrong passwords for {', '.join(tried[-NAMED:])}{more} ({doors})"


def network_of(text):
    """A network or an address, as a network; None: it is neither."""
    try:
        return ipaddress.ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None


def touching(networks, network):
    """Those that hold a network, or that it holds."""
    return [one for one in networks if one.version == network.version and one.overlaps(network)]
