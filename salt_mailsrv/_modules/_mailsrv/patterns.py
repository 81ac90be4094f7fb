"""
Aliases by pattern, sales-*@example.com: a star stands for one or more letters, digits and . _ = -
"""

import re

from _mailsrv import names
from _mailsrv.faults import show

LOCAL = re.compile(r"[a-z0-9_*](?:[a-z0-9_*.-]{0,62}[a-z0-9_*-])?")


def read(key, faults):
    """A pattern as it is compared, or None."""
    local, _, home = key.lower().rpartition("@")
    home = names.domain(home)
    path = f"mailsrv:aliases: {show(key)}"
    if home and not local.strip("*."):
        faults.append(f"{path} would take every address; write @{home} for a catch-all")
    elif not home or not LOCAL.fullmatch(local) or "**" in local:
        faults.append(f"{path} is not a pattern; write it like sales-*@example.com")
    else:
        return f"{local}@{home}"
    return None


def taken(aliases, faults):
    """
    The patterns, out of the aliases, in their order: the ``pattern`` as it is written, its
    ``regex`` as smtpd.conf(5) has it (regex(7)), its ``domain`` and its ``targets``.
    """
    result = []
    for pattern in [alias for alias in aliases if "*" in alias]:
        local, _, domain = pattern.rpartition("@")
        targets = aliases.pop(pattern)
        if f"@{domain}" in aliases:
            faults.append(
                f"mailsrv:aliases:{pattern}: the catch-all @{domain} takes its mail; remove one of "
                "them"
            )
        found = {"pattern": pattern, "regex": regex(local, domain)}
        result.append({**found, "domain": domain, "targets": targets})
    return result


def regex(local, domain):
    """A pattern as smtpd.conf(5) has it (regex(7))."""
    wild = "[A-Za-z0-9._=-]+".join(part.replace(".", "[.]") for part in local.split("*"))
    return f"^{wild}([+][^@]*)?@{domain.replace('.', '[.]')}$"


def match(address, patterns):
    """The number, from 1, of the pattern that takes an address; 0: none does."""
    found = (
        number
        for number, pattern in enumerate(patterns, 1)
        if re.search(pattern["regex"], address, re.IGNORECASE)
    )
    return next(found, 0)
