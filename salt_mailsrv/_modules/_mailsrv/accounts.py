"""
Domains, accounts and their secrets, aliases, and who may send as what.
"""

from _mailsrv import hashes, names, patterns
from _mailsrv.faults import kind_of, mapping, show, shown_key, unknown_keys
from _mailsrv.settings import SENDING, quota, sending

# RFC 5321, section 4.5.1 and RFC 2142: every domain that takes mail has these.
ROLES = ("postmaster", "abuse")
NAMED = 20  # accounts that a run names one by one

# What aliases(5) allows as a target, by its beginning.
NO_MAILBOXES = {
    "/dev/null": "would lose mail without a word to anybody: remove the alias, and its senders are "
    "told; or let it lead to an account whose own filter (Sieve) discards it",
    "/": "is a file, from which nobody reads mail: name an account",
    "|": "is a program, which strangers would start, with mail of theirs: let it fetch the mail of "
    "an account by IMAP",
    ":include:": "is a file of addresses: write them here, as a list",
    "error:": "is a refusal: remove the alias; an address that does not exist is refused",
}

# Of an account, by its address; and of one in a list.
OF_ONE = ("password", "hash", "quota", "send_as", "forward", "keep_copy", "vacation")
KEYS = {"accounts": (*OF_ONE, *SENDING)}
KEYS["account"] = ("address", *KEYS["accounts"])


def domains(settings, faults):
    """The domains, each once."""
    found = []
    listed = settings.get("domains")
    if not isinstance(listed, list) or not listed:
        faults.append("domains: list at least one domain, e.g. domains: [example.com]")
        return found
    for index, name in enumerate(listed):
        domain = names.domain(name)
        if domain is None:
            faults.append(
                f"domains[{index}]: {show(name)} is not a domain; "
                f"write it like {names.like(name, 'example.com')}"
            )
        elif domain in found:
            faults.append(f"domains[{index}]: {domain} is listed twice; remove one of them")
        else:
            found.append(domain)
    return found


def moved(settings, domains, faults):
    """By each domain that has another name now, that one."""
    given, result = settings.get("moved"), {}
    given = mapping(given, "mailsrv:moved", faults, "hold domains, old: new")
    for key, value in given.items():
        old, new = names.domain(key), names.domain(value)
        path = f"mailsrv:moved:{old or shown_key(key)}"
        if not old or not new:
            wrong = value if old else key
            faults.append(
                f"{path}: {show(wrong)} is not a domain; write old.example.com: new.example.com"
            )
        elif missing := [name for name in (old, new) if domains and name not in domains]:
            faults.append(f"{path}: {missing[0]} is not in domains; add it there")
        elif new in (old, *map(names.domain, given)):
            faults.append(f"{path}: {new} has moved, too; name the domain that is used now")
        else:
            result[old] = new
    return result


def read(settings, domains, facts, faults):
    """
    The accounts, with their secrets: ``address``, ``secret``, ``quota``, ``send_as``, of the limits
    of all, what they have others of, ``limits``; ``forward`` and ``vacation`` as they stand there;
    ``keeps``, whether mail that is forwarded stays, too; and ``path``, what a sentence calls them.
    """
    accounts, seen = [], set()
    listed = settings.get("accounts") or []
    if not isinstance(listed, list | dict):
        faults.append(f"accounts: must be a list, or keys and values, not {kind_of(listed)}")
        return accounts
    entries = _by_address(listed, faults) if isinstance(listed, dict) else _listed(listed, faults)
    for path, address, entry in entries:
        if domains and address.partition("@")[2] not in domains:
            faults.append(f"{path}: its domain is not in domains; add it there")
        if address in seen:
            faults.append(f"{path}: this account is listed twice; remove one of them")
        seen.add(address)
        accounts.append(
            {
                "address": address,
                "secret": _secret(entry, path, facts, faults),
                "quota": quota(entry, f"{path}: quota", faults),
                "send_as": _send_as(entry, path, domains, faults),
                "forward": entry.get("forward"),
                "keeps": _keeps(entry, path, faults),
                "vacation": entry.get("vacation"),
                "limits": sending(entry, f"{path}: ", faults),
                "path": path,
            }
        )
    return accounts


def _listed(listed, faults):
    """Of each account in a list: what a sentence calls it, its address, its keys and values."""
    for index, entry in enumerate(listed):
        path = f"accounts[{index}]"
        if isinstance(entry, list):
            if len(entry) != 2:
                faults.append(f"{path}: must be [address, password], two values")
                continue
            entry = {"address": entry[0], "password": entry[1]}
        if not isinstance(entry, dict):
            faults.append(f"{path}: must be [address, password] or keys and values")
            continue
        unknown_keys(entry, KEYS["account"], f"{path}:", faults, secrets=True)
        address = names.address(entry.get("address"))
        if address is None:
            # What stands there may be the password, in the wrong place.
            faults.append(
                f"{path}: has no address that can be an account's; write it like user@example.com, "
                "with letters, digits and . _ -"
            )
        else:
            yield f"{path} ({address})", address, entry


def _by_address(given, faults):
    """The same of each account in a mapping, which Salt merges from several files of a pillar."""
    for index, (key, entry) in enumerate(given.items()):
        address = names.address(key)
        if address is None:
            # It may be the password here, too.
            faults.append(
                f"accounts[{index}]: its key is no address that can be an account's; write it like "
                "user@example.com: password, with letters, digits and . _ -"
            )
            continue
        path = f"accounts:{address}"
        entry = entry if isinstance(entry, dict) else {"password": entry}
        unknown_keys(entry, KEYS["accounts"], f"{path}:", faults, secrets=True)
        yield path, address, entry


def removed(settings, standing, mailboxes, faults, notes):
    """The accounts that stand on the machine and that this run removes, if it may."""
    allowed = settings.get("removes")
    if allowed is not None and (type(allowed) is not int or allowed < 1):
        faults.append(
            f"mailsrv:removes: {show(allowed)} is no number of accounts; write the one that the "
            "refusal of a run names, or remove it"
        )
    if faults:
        return []  # an account that cannot be read would look like one that is gone
    kept = {*mailboxes}
    removed = [address for address in standing if address not in kept]
    shown, more = removed[:NAMED], len(removed) - NAMED
    # One account that goes, or gets another name, is every day's work, also on a server of one or
    # two.
    if 1 < len(removed) > len(standing) / 2 and len(removed) != allowed:
        faults.append(
            f"accounts: {len(removed)} of the {len(standing)} accounts on this machine are no "
            f"longer in the pillar and could not log in any more: {', '.join(shown[:3])}"
            f"{' and others' if len(removed) > 3 else ''}. If that is right, write "
            f"mailsrv:removes: {len(removed)}. If they stand in another file of the pillar, Salt "
            "keeps only the last list: write them as user@example.com: password, in each file"
        )
    notes += [
        f"{address} is no longer in the pillar: it can no longer log in; its mail stays until "
        "mailsrv.purge removes it"
        for address in shown
    ]
    if more > 0:
        notes.append(f"{more} more accounts are no longer in the pillar; so it is with them")
    if allowed not in (None, len(removed)):
        notes.append(
            f"mailsrv:removes: {allowed} is not needed; remove it, else a run that would remove "
            f"{allowed} accounts by mistake is not refused"
        )
    return removed


def _secret(entry, path, facts, faults):
    if ("password" in entry) == ("hash" in entry):
        faults.append(f"{path}: give either a password or a hash")
        return {}
    if "hash" in entry:
        kinds = facts["passwords"]["kinds"] if facts else None
        if fault := hashes.lint(entry["hash"], kinds):
            faults.append(f"{path}: hash: {fault}")
        return {"hash": entry["hash"]}
    password = entry["password"]
    if not isinstance(password, str):
        faults.append(f"{path}: password: YAML reads this one as {kind_of(password)}; quote it")
    elif not password.isprintable():
        faults.append(f"{path}: password: holds a control character; remove it")
    elif fault := hashes.fault(password):
        faults.append(f"{path}: password: {fault}")
    return {"password": password}


def _keeps(entry, path, faults):
    keeps = entry.get("keep_copy", True)
    if not isinstance(keeps, bool):
        faults.append(f"{path}: keep_copy: {show(keeps)} is neither true nor false")
    elif not keeps and entry.get("forward") is None:
        faults.append(f"{path}: keep_copy: its mail would go nowhere; name a forward")
    elif not keeps and entry.get("vacation") is not None:
        faults.append(f"{path}: keep_copy: without a copy vacation answers nothing; remove one")
    return keeps


def _send_as(entry, path, domains, faults):
    senders = entry.get("send_as", [])
    if not isinstance(senders, list):
        faults.append(f"{path}: send_as: must be a list, not {kind_of(senders)}")
        return []
    result = []
    for sender in senders:
        address = names.address(sender) or names.catch_all(sender)
        if address is None:
            faults.append(
                f"{path}: send_as: {show(sender)} is neither an address nor a domain; "
                "write info@example.com, or @example.com for all of a domain"
            )
        elif domains and address.partition("@")[2] not in domains:
            faults.append(f"{path}: send_as: {address} is not in domains; mail as it is not signed")
        else:
            result.append(address)
    return result


def aliases(settings, domains, moved, accounts, faults):
    """
    Every alias with the mailboxes and remote addresses it leads to, chains followed; and with those
    that domains bring along which have moved.
    """
    given = settings.get("aliases") or None
    given = mapping(given, "mailsrv:aliases", faults, "hold aliases and targets")
    mailboxes = dict.fromkeys(account["address"] for account in accounts)
    keeping = dict.fromkeys(account["address"] for account in accounts if account["keeps"])
    aliases, paths = {}, {}
    for key, targets in given.items():
        if isinstance(key, str) and "*" in key:
            if (alias := patterns.read(key, faults)) is None:
                continue
        else:
            alias = names.address(key) or names.catch_all(key)
        path = f"mailsrv:aliases:{alias}"
        if alias is None:
            faults.append(
                f"mailsrv:aliases: {show(key)} is not an alias; "
                f"write {names.like(key, 'sales@example.com')}, or @example.com for a catch-all"
            )
        elif domains and alias.partition("@")[2] not in domains:
            faults.append(f"{path}: its domain is not in domains; add it there")
        elif alias in aliases:
            faults.append(f"{path}: this alias is listed twice; remove one of them")
        else:
            aliases[alias] = _targets(targets, path, domains, faults)
            paths[alias] = path
    for account in accounts:
        own, path = account["address"], f"{account['path']}: forward"
        if account["forward"] is None:
            continue
        if own in aliases:
            faults.append(f"{path}: {own} is in mailsrv:aliases, too; write all targets there")
            continue
        targets = _targets(account["forward"], path, domains, faults)
        if own in map(names.base, targets):
            why = ", which keeps its mail anyway" if account["keeps"] else ", without keep_copy"
            faults.append(f"{path}: leads back to {own}{why}; remove that")
        aliases[own] = [own, *targets] if account["keeps"] else targets
        paths[own] = path
    for alias, targets in aliases.items():
        path = paths[alias]
        if alias in keeping and alias not in targets:
            faults.append(
                f"{path}: is an account, which would get nothing any more; add {alias} to the "
                "targets to keep a copy, or remove one of them"
            )
        for target in targets:
            name, domain = names.base(target), target.partition("@")[2]
            if domain in domains and name not in mailboxes and name not in aliases:
                faults.append(
                    f"{path}: its target {target} is neither an account nor an alias; add it"
                )
    for domain in domains if mailboxes else ():
        # To somebody of the domain itself, else to the first account of all.
        ours = (mailbox for mailbox in keeping if mailbox.endswith(f"@{domain}"))
        keeper = next(ours, next(iter(keeping or mailboxes)))
        for role in ROLES if domain not in moved else ():
            if f"{role}@{domain}" not in mailboxes:
                aliases.setdefault(f"{role}@{domain}", [keeper])
    for old, new in moved.items():
        for account in accounts:
            if account["address"].endswith(f"@{old}"):
                faults.append(
                    f"{account['path']}: its domain has moved (mailsrv:moved); write the account "
                    f"with {new}: mail for the old address comes, too"
                )
        for name in (*mailboxes, *aliases):
            local, _, domain = name.rpartition("@")
            if domain == new:
                aliases.setdefault(f"{local}@{old}", [name] if local else aliases[name])
    return {
        alias: _resolve(alias, aliases, keeping, faults)
        for alias in sorted(aliases, key=lambda alias: alias.startswith("@"))
    }


def _targets(targets, path, domains, faults):
    listed = targets if isinstance(targets, list) else [targets]
    if not listed:
        faults.append(f"{path}: leads nowhere; name a target, or remove it")
    result = []
    for target in listed:
        address = names.target(target, domains)
        if address:
            result.append(address)
        elif cure := _no_mailbox(target):
            faults.append(f"{path}: its target {show(target)} {cure}")
        else:
            faults.append(
                f"{path}: its target {show(target)} is not an address; "
                f"write it like {names.like(target, 'user@example.com')}"
            )
    return result


def _no_mailbox(target):
    """Why what aliases(5) allows is no target here, and what is done instead."""
    return next(
        (cure for start, cure in NO_MAILBOXES.items() if str(target).lower().startswith(start)), ""
    )


def _resolve(alias, aliases, mailboxes, faults):
    """The ends of all chains from an alias, each once; a fault where a chain bites its tail."""
    ends, seen, ahead = [], {alias}, list(aliases[alias])
    while ahead:
        target = ahead.pop(0)
        name = names.base(target)
        if name not in aliases or name in mailboxes:
            ends.append(target)
        elif name == alias:
            faults.append(f"mailsrv:aliases:{alias}: leads back to itself; break the loop")
        elif name not in seen:
            seen.add(name)
            ahead[:0] = aliases[name]
    # A mailbox with a forward of its own brings that along.
    brought = {
        end for name in ends if name in mailboxes and name != alias for end in aliases.get(name, ())
    }
    return [end for end in dict.fromkeys(ends) if end not in brought or end in mailboxes]


def aliases_of(aliases):
    """The aliases that lead to each address, without the catch-alls."""
    found = {}
    for alias, ends in aliases.items():
        for end in ends if not alias.startswith("@") else ():
            found.setdefault(end, []).append(alias)
    return found


def senders(account, aliases):
    """The addresses an account may send as: its own, those that lead to it, its send_as."""
    own = account["address"]
    return list(dict.fromkeys((own, *aliases.get(own, ()), *account["send_as"])))
