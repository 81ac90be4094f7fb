"""
Which minion owns which domains: the pillar of another machine says so, and what that minion
publishes counts for these alone.
"""

import re

from _mailsrv import names
from _mailsrv.faults import listed, show

MINION = re.compile(r"[\w.-]{1,255}", re.ASCII)


def owned(given, path, faults, of="", shown=show):
    """
    The domains of each minion, each once, in their order; none has two owners.

    given
        The mapping of the pillar, by minion id.

    of, shown
        Of what its lists are, as :func:`_mailsrv.faults.listed` has it, and how a key is shown.
    """
    result, owners = {}, {}
    for minion, domains in given.items():
        if not isinstance(minion, str) or not MINION.fullmatch(minion):
            faults.append(f"{path}: {shown(minion)} is not the id of a minion; write it in full")
            continue
        result[minion] = []
        for name in listed(domains, f"{path}:{minion}", faults, of):
            domain = names.domain(name)
            if domain is None:
                faults.append(
                    f"{path}:{minion}: {show(name)} is not a domain; write it like "
                    f"{names.like(name, 'example.com')}"
                )
            elif owners.setdefault(domain, minion) != minion:
                faults.append(
                    f"{path}: {domain} is of {owners[domain]} and of {minion}; choose one"
                )
            elif domain not in result[minion]:
                result[minion].append(domain)
    return result
