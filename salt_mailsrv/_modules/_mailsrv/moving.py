"""
A domain that moves from one mail machine to another: who has it when, and what becomes of the model
of the machine that does not have it.

On the machine that gives it away it is ``here``, then ``frozen`` while the last of it is fetched,
then ``gone``; on the other one it is ``waiting``, then ``here``. At no time do two have it.
"""

import ipaddress
import json

from _mailsrv import names, owning, patterns
from _mailsrv.faults import kind_of, mapping, show, shown_key
from _mailsrv.satellites import CERTIFICATE

LIKE = {"to": "{example.org: mx2.example.net}", "from": "{example.org: mx1.example.net}"}
FIRST = {"to": "here", "from": "waiting"}
PHASES = {"to": ("here", "frozen", "gone"), "from": ("waiting", "here")}
AWAY = ("gone", "waiting")
SHUT = (*AWAY, "frozen")
PORT = 24245
NOTED = ("way", "peer", "phase", "hostname", "certificate", "copied", "addresses")


def read(settings, domains, hostname, standing, faults):
    """
    The domains that move, each as a :class:`_mailsrv.model.Move`.

    standing
        What stands on the machine: ``moving``, by domain its record, or a sentence where there is
        none that can be read; and the ``accounts``.
    """
    result, records = [], standing["moving"]
    if isinstance(records, str):
        faults.append(records)
        records = {}
    for way in ("to", "from"):
        path = f"mailsrv:moves_{way}"
        given = mapping(
            settings.get(f"moves_{way}"), path, faults, f"hold domains, like {LIKE[way]}"
        )
        for key, peer in given.items():
            domain = names.domain(key)
            at = f"{path}:{domain or shown_key(key)}"
            if not isinstance(peer, str) or not owning.MINION.fullmatch(peer):
                faults.append(f"{at}: {show(peer)} is not the id of a minion; write it in full")
            elif domain is None or domain not in domains:
                faults.append(
                    f"{at}: is not in domains; while it moves, both machines have all of it in "
                    "their pillars"
                )
            elif domain == hostname:
                faults.append(f"{at}: is the name of this machine, which cannot move")
            elif any(move["domain"] == domain for move in result):
                faults.append(f"{at}: moves to and from this machine; remove one of them")
            else:
                record = records.get(domain)
                if fault := _misplaced(way, domain, peer, record, standing["accounts"]):
                    faults.append(f"{at}: {fault}")
                result.append(_move(way, domain, peer, record))
    known = [move["domain"] for move in result]
    for domain, record in records.items():
        if domain in domains and domain not in known and record["phase"] in SHUT:
            faults.append(f"mailsrv: {_forgotten(domain, record)}")
    return result


def _move(way, domain, peer, record):
    move = {"domain": domain, "way": way, "peer": peer, "phase": FIRST[way]}
    move |= {**_more(), "accounts": [], "recipients": []}
    if record and (record["way"], record["peer"]) == (way, peer):
        move |= {key: record[key] for key in NOTED}
    return move


def _misplaced(way, domain, peer, record, accounts):
    """
    Why a domain may not move so, a sentence: it would be put aside where it is served, or served
    where it is not.
    """
    if way == "to":
        elsewhere = record and (record["way"], record["peer"]) != (way, peer)
        return _forgotten(domain, record) if elsewhere and record["phase"] in SHUT else ""
    if record and record["phase"] in AWAY:
        return ""
    if record and record["way"] == "from" and record["phase"] == "here":
        if record["peer"] == peer:
            return ""
        return f"is here since it came from {record['peer']}; remove it there"
    if record or any(account.endswith(f"@{domain}") for account in accounts):
        return (
            "this machine serves it already, and would stop to. The machine that gives it away has "
            "moves_to, the other one moves_from; where its accounts here are left over, remove "
            "them first"
        )
    return ""


def _forgotten(domain, record):
    peer = record["peer"]
    if record["phase"] == "frozen":
        return (
            f"{domain} may be on {peer} already: put moves_to: {{{domain}: {peer}}} back, and run "
            "mailsrv.move; where it shall stay, and is not there yet, moving.thaw here"
        )
    if record["phase"] == "gone":
        return (
            f"{domain} has moved to {peer}, which serves it: remove it from domains, with its "
            f"accounts and aliases; or put moves_to: {{{domain}: {peer}}} back"
        )
    return (
        f"{domain} has not come from {peer} yet, and is served there: put moves_from: "
        f"{{{domain}: {peer}}} back, and run mailsrv.move; or remove it from domains, with its "
        "accounts and aliases"
    )


def _more():
    return {"copied": [], "addresses": [], "hostname": "", "certificate": ""}


def records(given):
    """
    What a machine has noted, by domain. Raises ``ValueError``, a sentence, where that is no such
    note: to overlook one would be to serve a domain that has gone.
    """
    if not isinstance(given, dict):
        raise ValueError(f"it is {kind_of(given)}")
    result = {}
    for domain, found in given.items():
        record = {**_more(), **(found if isinstance(found, dict) else {})}
        if names.domain(domain) != domain or not _is_record(record):
            raise ValueError(f"what it says of {show(domain)} is no record of a move")
        result[domain] = {key: record[key] for key in NOTED}
    return result


def _is_record(record):
    way, phase, peer = map(record.get, ("way", "phase", "peer"))
    if not isinstance(way, str) or phase not in PHASES.get(way, ()):
        return False
    if not isinstance(peer, str) or not owning.MINION.fullmatch(peer):
        return False
    hostname, certificate = record["hostname"], record["certificate"]
    if hostname != "" and (not isinstance(hostname, str) or names.domain(hostname) != hostname):
        return False  # it is written into smtpd.conf
    if not isinstance(certificate, str) or (certificate and not CERTIFICATE.fullmatch(certificate)):
        return False
    lists = record["copied"], record["addresses"]
    if not all(isinstance(one, list) and all(isinstance(t, str) for t in one) for one in lists):
        return False
    try:
        return all(map(ipaddress.ip_address, record["addresses"]))
    except ValueError:
        return False


def noted(given, moves):
    """
    The records that shall stand: of each domain that moves one, in the phase that it has reached,
    whatever the machine had noted of it before.
    """
    return {move["domain"]: {key: move[key] for key in NOTED} for move in moves} | {
        domain: record
        for domain, record in given.items()
        if any(
            (move["domain"], move["way"], move["peer"]) == (domain, record["way"], record["peer"])
            for move in moves
        )
    }


def apply(model, moves):
    """The model of a machine of which some domains have gone, or have not come yet."""
    model["moves"], model["copied"] = moves, []
    known = recipients(model) if moves else {}
    for move in moves:
        if model["dns"]["closed"] is not None:  # what the other machine hands on, it has looked at
            model["dns"]["closed"] += move["addresses"]
        accounts = of(model["accounts"], move["domain"])
        move["accounts"] = [account["address"] for account in accounts]
        move["recipients"] = known[move["domain"]]
        if move["phase"] == "waiting":
            model["copied"] += accounts
        if move["phase"] == "gone":
            _hand_on(model, move)
        if move["phase"] in AWAY:
            _remove(model, move["domain"])


def of(accounts, domain):
    """Those accounts of a model that are in the domain."""
    return [account for account in accounts if account["address"].endswith(f"@{domain}")]


def recipients(model):
    """By domain the local parts that get mail there: an empty one is all, one with a star many."""
    found = {domain: [] for domain in model["domains"]}
    for name in sorted(
        {
            *(account["address"] for account in model["accounts"]),
            *model["aliases"],
            *(pattern["pattern"] for pattern in model["patterns"]),
        }
    ):
        local, _, domain = name.rpartition("@")
        found[domain].append(local)
    return found


def _hand_on(model, move):
    """Mail that still comes goes to where the domain is now, as a backup MX passes it on."""
    known = move["recipients"]
    same = [one for one in model["backup_for"] if one["minion"] == move["peer"]]
    if not same:
        same = [dict.fromkeys(("message_size", "hostname", "certificate"), "")]
        same[0] |= {"minion": move["peer"], "closed": None, "domains": {}}
        same[0] |= {"patterns": [], "unknown": []}
        model["backup_for"].append(same[0])
    (primary,) = same
    primary["hostname"] = primary["hostname"] or move["hostname"]
    primary["certificate"] = primary["certificate"] or move["certificate"]
    primary["domains"] = {**primary["domains"], move["domain"]: known}
    primary["patterns"] += [
        {"domain": move["domain"], "regex": patterns.regex(local, move["domain"])}
        for local in known
        if "*" in local
    ]


def _remove(model, domain):
    """This machine has nothing to do with that domain."""
    model["domains"] = [one for one in model["domains"] if one != domain]
    if not model["domains"]:  # its last, or its first: what it says itself, it says in its own name
        model["domains"] = [model["hostname"]]
    model["accounts"] = [one for one in model["accounts"] if one not in of([one], domain)]
    model["aliases"] = {
        alias: targets
        for alias, targets in model["aliases"].items()
        if alias.rpartition("@")[2] != domain
    }
    model["patterns"] = [one for one in model["patterns"] if one["domain"] != domain]
    model["moved"] = {old: new for old, new in model["moved"].items() if domain not in (old, new)}
    for key in model["dkim"]["keys"]:
        key["domains"] = [one for one in key["domains"] if one != domain]
    kept = [key for key in model["dkim"]["keys"] if key["domains"]]
    if not kept:
        kept = model["dkim"]["keys"][:1]
        for key in kept:
            key["domains"] = [*model["domains"]]
    model["dkim"]["keys"] = kept


def text(records):
    """The note of a machine, as :func:`records` reads it."""
    return json.dumps(records, indent=1, sort_keys=True) + "\n"
