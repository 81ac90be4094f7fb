"""
The pillar: what may stand in it, and what it means.

:func:`read` makes a pillar and what is known of the machine into one :class:`_mailsrv.model.Model`,
complete and without any secret, and every fault of the pillar into a sentence.
"""

from _mailsrv import (
    accounts,
    away,
    backup_mx,
    bans,
    filtering,
    keys,
    moving,
    nameserving,
    patterns,
    relaying,
    satellites,
    serving,
    settings,
    upkeep,
    withdrawing,
)
from _mailsrv.faults import choice, joined, section, switch

SEED_KEYS = ("salt", "domains", "accounts")

# Every key of the pillar, by the section that it stands in.
KEYS = {
    "mailsrv": (
        "hostname",
        *SEED_KEYS,
        "removes",
        "aliases",
        "moved",
        "subaddress",
        "quota",
        "quota_warning",
        "expire",
        "sieve",
        "srs",
        "tls",
        "dkim",
        "dns",
        "nsd",
        "spam_filter",
        "limits",
        "bans",
        "blocked",
        "passwords",
        "logs",
        "satellites",
        "satellite",
        "abandon_queue",
        "notify",
        "metrics",
        "web",
        "relay",
        "tls_required",
        "backup",
        "backup_for",
        "moves_to",
        "moves_from",
        "search",
    ),
    **accounts.KEYS,
    **away.KEYS,
    **keys.KEYS,
    **nameserving.KEYS,
    **settings.KEYS,
    **bans.KEYS,
    **filtering.KEYS,
    **relaying.KEYS,
    **satellites.KEYS,
    **upkeep.KEYS,
}


def read(pillar, fqdn, facts, mined, primaries=None):
    """
    What a pillar means.

    pillar
        The whole of it, a dictionary.

    fqdn
        The machine's own name.

    facts
        What is known of the system and stands on the machine: see :func:`mailsrv.here`.

    mined
        What satellites have published, ``{"hash": …}`` by name; None: nothing.

    primaries
        What those have published that this machine is a backup MX for, by minion. Default: nothing.

    Returns a :class:`_mailsrv.model.Model` and a list of faults. Where there are faults, the model
    has what could be read.
    """
    faults, notes = [], []
    given = top(pillar, faults)
    _misplaced(pillar, faults)
    if "salt" in given and not isinstance(given["salt"], str):
        faults.append("salt: must be text; quote it")
    domains = accounts.domains(given, faults)
    listed = accounts.read(given, domains, facts, faults)
    mailboxes = [account["address"] for account in listed]
    removed = accounts.removed(given, facts["standing"]["accounts"], mailboxes, faults, notes)
    moved = accounts.moved(given, domains, faults)
    aliases = accounts.aliases(given, domains, moved, listed, faults)
    wild = patterns.taken(aliases, faults)
    leading = accounts.aliases_of(aliases)
    remembered = facts["standing"]["hostname"]
    hostname = settings.hostname(given, fqdn, remembered, domains, faults, notes)
    limits = settings.limits(given, facts, faults)
    usual = {key: limits[key] for key in settings.SENDING}
    usual_of_satellites = {key: limits[f"satellite_{key}"] for key in settings.SENDING}
    sending = satellites.satellites(given, mined, domains, hostname, faults, notes)
    known = [*mailboxes, *(satellite["name"] for satellite in sending)]
    moves = moving.read(given, domains, hostname, facts["standing"], faults)
    nameserving.read(given, faults)  # for mailsrv.nsd, should this machine serve the zones, too
    model = {
        "hostname": hostname,
        "domains": domains,
        "accounts": [
            {
                "address": account["address"],
                "quota": account["quota"],
                "senders": accounts.senders(account, leading),
                "limits": usual | account["limits"],
                "vacation": away.vacation(account, aliases, facts, faults, notes),
            }
            for account in listed
        ],
        "removed": removed,
        "aliases": aliases,
        "patterns": wild,
        "moved": moved,
        "subaddress": choice(
            given.get("subaddress", facts["subaddress"]),
            settings.SUBADDRESS,
            "mailsrv:subaddress",
            faults,
        ),
        "quota": settings.quota(given, "mailsrv:quota", faults),
        "quota_warning": settings.quota_warning(given, facts, faults),
        "expire": upkeep.expire(given, faults),
        "sieve": settings.sieve(given, faults),
        "srs": settings.srs(given, faults),
        "tls": (tls := settings.tls(given, hostname, facts, faults)),
        "dkim": keys.read(given, domains, facts, faults),
        "web": (serves := serving.web(given, domains, tls, facts, faults)),
        "dns": settings.dns(given, domains, hostname, tls, serves, {*mailboxes, *aliases}, faults),
        "spam_filter": filtering.read(given, facts, faults, notes),
        "abandon_queue": switch(given, "abandon_queue", "mailsrv:abandon_queue", faults),
        "bans": bans.read(given, facts, faults, notes),
        "logs": upkeep.logs(given, facts, faults, notes),
        "notify": upkeep.notify(given, domains, hostname, {*mailboxes, *aliases}, faults),
        "metrics": upkeep.metrics(given, facts, faults, notes),
        "search": upkeep.search(given, facts, faults, notes),
        "limits": limits,
        "blocked": settings.blocked(given, known, facts["standing"]["blocked"], faults, notes),
        "passwords": settings.passwords(given, facts, faults),
        "satellites": [
            {**satellite, "limits": usual_of_satellites | satellite["limits"]}
            for satellite in sending
        ],
        "has_fleet": isinstance(given.get("satellites"), str),
        "backup": backup_mx.backups(given, hostname, faults),
        "backup_for": backup_mx.read(
            given,
            primaries or {},
            facts["standing"]["backup_for"],
            [hostname, *domains, *(satellite["name"] for satellite in sending)],
            limits,
            faults,
            notes,
        ),
        "notes": notes,
    }
    model["dns"]["dropped"] = withdrawing.dropped(
        model["dns"]["mta_sts"], serves, facts["standing"]["policies"], facts["today"], notes
    )
    model["relay"] = relaying.read(given, domains, model["dns"]["spf"], faults, notes)
    if any(way["spf"] for way in model["relay"]["ways"]):
        model["dns"]["closed"] = None  # only DNS knows who else may use our senders
    if model["dns"]["closed"] is not None:  # what a backup passes on, it has looked at
        for backup in model["backup"]:
            model["dns"]["closed"] += backup["addresses"]
    spam = model["spam_filter"]
    model["learns"] = bool(spam and spam["learn"])
    model["redis"] = any((spam or {}).get(name) for name in filtering.SWITCHES)
    model["rspamd"] = spam is not None or model["dkim"]["signer"] == "rspamd"
    moving.apply(model, moves)
    return model, faults


def satellite(pillar, name, facts, certificate):
    """
    What the pillar of a machine that only sends means; domains and accounts need not be in it.

    name
        The id of the minion, which is the machine's name towards the mail machine.

    certificate
        What the mail machine has published, PEM; may be empty.

    Returns a :class:`_mailsrv.model.Sender` and a list of faults, as :func:`read` does.
    """
    faults = []
    given = section(pillar, "mailsrv", KEYS["mailsrv"], "mailsrv", faults)
    return satellites.read(given, name, facts, certificate, faults), faults


def nameserver(pillar, fqdn, minion):
    """
    What the pillar says to a minion that serves the zones of the others, as
    :func:`_mailsrv.nameserving.serve` returns it, and a list of faults.
    """
    faults = []
    return nameserving.serve(top(pillar, faults), fqdn, minion, faults), faults


def top(pillar, faults):
    """All settings of a pillar, wherever they stand."""
    found = dict(section(pillar, "mailsrv", KEYS["mailsrv"], "mailsrv", faults))
    for key in SEED_KEYS:
        if key in pillar and key in found:
            faults.append(f"{key}: stands at the top and under mailsrv:; remove one of them")
        if key in pillar:
            found[key] = pillar[key]
    return found


def _misplaced(pillar, faults):
    """Keys of `mailsrv:` beside those of the seed: nobody would read them there."""
    beside = [key for key in ("domains", "accounts", "salt") if key in pillar]
    under = pillar.get("mailsrv")
    for key in KEYS["mailsrv"]:
        if key in SEED_KEYS or key not in pillar or (isinstance(under, dict) and key in under):
            continue
        if beside:
            faults.append(
                f"{key}: means nothing at the top, beside {joined(beside, 'and')}; move it under "
                f"mailsrv:, or, where it belongs to another formula, move {joined(beside, 'and')} "
                "there"
            )
