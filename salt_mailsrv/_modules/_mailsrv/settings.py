"""
The smaller sections of the pillar: each reads one, completes it by the facts of the system, and
returns what the model has under the same name.
"""

import ipaddress
import re

from _mailsrv import acme, names, serving, spf
from _mailsrv.faults import choice, kind_of, listed, section, show

QUOTA = re.compile(r"[1-9][0-9]{0,6}[kMGT]")
DURATION = re.compile(r"([1-9][0-9]{0,4})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SUBADDRESS = ("inbox", "mailbox")
SRS_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

# A file on the minion, or on the file server.
PATH = re.compile(r"(salt:/)?/[\w./@+-]+", re.ASCII)

# The least and the most of a limit; OpenSMTPD 7.9 refuses less than 100 recipients.
LIMITS = {"messages": (1, 100000), "recipients": (100, 100000), "connections": (1, 1000)}
# To how many recipients an account or a satellite may write; 0: to any.
SENDING = dict.fromkeys(("recipients_per_hour", "recipients_per_day"), (0, 10_000_000))
OF_ALL = SENDING | {f"satellite_{key}": bounds for key, bounds in SENDING.items()}
DMARC_POLICIES = ("none", "quarantine", "reject")
MTA_STS_MODES = ("none", "testing", "enforce")
RECORD_TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "PTR", "SRV", "TLSA", "TXT")
RECORD_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")

# What a term of SPF may name: no macros, and the terms that are still to be published.
SPF_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
SPF_TERMS = ("all", "include", "a", "mx", "ip4", "ip6", "exists", "redirect", "exp")

KEYS = {
    "srs": ("key",),
    "tls": ("cert", "key", "acme"),
    **acme.KEYS,
    "dns": (
        *("spf", "dmarc", "tls_reports", "web", "mta_sts", "dane"),
        *("addresses", "nameservers", "skip"),
    ),
    "dmarc": ("policy", "reports"),
    "limits": ("message_size", *LIMITS, *OF_ALL),
    "passwords": ("rounds",),
}


def duration(value, units):
    """A time such as 10m or 30d, in seconds; None where it is none, or in none of these units."""
    found = DURATION.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) * SECONDS[found[2]] if found and found[2] in units else None


def hostname(settings, fqdn, remembered, domains, faults, notes):
    """The name of the mail server; `remembered` is the one that it has had."""
    name = settings.get("hostname")
    if name is None:
        return _own_name(fqdn, remembered, domains, notes)
    found = names.domain(name)
    if found is None:
        faults.append(
            f"mailsrv:hostname: {show(name)} is not a host name; "
            f"write it like {names.like(name, 'mail.example.com')}"
        )
    elif found in domains:
        # Mail to root@hostname is for a user of this machine, mail to root@domain for an account.
        faults.append(f"mailsrv:hostname: {found} is a mail domain too; name the host mail.{found}")
    elif names.internal(found, domains):
        notes.append(
            f"mailsrv:hostname: {found} is a name of internal networks: servers elsewhere "
            "neither find it nor take mail from it"
        )
    return found or ""


def _own_name(fqdn, remembered, domains, notes):
    """The name that the mail server has had, else the machine's own, else one of our making."""
    own = names.domain(fqdn)
    # While DNS was away for a moment, another name made another certificate and another MX.
    if remembered and remembered not in domains:
        if own != remembered:
            notes.append(
                f"this machine's own name is {fqdn}; the mail server keeps the name that it has "
                f"had, {remembered}. Set mailsrv:hostname to this name, or to another one."
            )
        return remembered
    if own and own not in domains and not names.internal(own, domains):
        return own
    made = f"mail.{domains[0]}" if domains else ""
    while made in domains:
        made = f"mail.{made}"
    notes.append(
        f"this machine's own name, {fqdn}, cannot be the mail server's: it is called "
        f"{made}. Set mailsrv:hostname for another name."
    )
    return made


def quota(given, path, faults):
    """The size of a mailbox, as Dovecot reads it; None: no limit."""
    size = given.get("quota")
    if size is None or (isinstance(size, str) and QUOTA.fullmatch(size)):
        return size
    faults.append(f"{path}: {show(size)} is not a size; write it like 500M or 2G")
    return None


def quota_warning(settings, facts, faults):
    """The percentage of a quota at which its owner is told; 0: never."""
    percent = settings.get("quota_warning", facts["quota_warning"])
    if type(percent) is not int or not 0 <= percent <= 99:
        faults.append(
            f"mailsrv:quota_warning: {show(percent)} is not a percentage; "
            "write a number from 1 to 99, or 0 for no warning"
        )
    return percent


def sieve(settings, faults):
    """The script that all mail passes; empty: none."""
    script = settings.get("sieve")
    if script is None:
        return ""
    if not isinstance(script, str):
        faults.append(f"mailsrv:sieve: must be the text of a script, not {kind_of(script)}")
    elif not script.strip():
        faults.append("mailsrv:sieve: is empty; write a script, or remove it")
    elif not script.replace("\n", "").replace("\t", "").isprintable():
        faults.append("mailsrv:sieve: holds a control character; remove it")
    else:
        return script.strip("\n")
    return ""


def srs(settings, faults):
    """The name of the key, which is not the key."""
    key = section(settings, "srs", KEYS["srs"], "mailsrv:srs", faults).get("key")
    if key is None:
        return {"key": ""}
    if not isinstance(key, str) or not SRS_KEY.fullmatch(key):
        faults.append(
            f"mailsrv:srs:key: {show(key)} is no name for a key; "
            "write letters, digits and . _ -, quoted"
        )
    return {"key": key}


def limits(settings, facts, faults):
    """What one session, message or user may have."""
    path, own = "mailsrv:limits", facts["limits"]
    given = section(settings, "limits", KEYS["limits"], path, faults)
    result = {"message_size": given.get("message_size", own["message_size"])}
    size = result["message_size"]
    if not isinstance(size, str) or not QUOTA.fullmatch(size):
        faults.append(f"{path}:message_size: {show(size)} is not a size; write it like 50M")
    return result | _numbers(given, own, LIMITS | OF_ALL, f"{path}:", faults)


def sending(given, path, faults):
    """What an account or a satellite has of its own of how many recipients it may write to."""
    return _numbers(given, {}, SENDING, path, faults)


def _numbers(given, default, known, path, faults):
    result = {key: given.get(key, default.get(key)) for key in known if key in default | given}
    for key, value in result.items():
        least, most = known[key]
        if type(value) is not int or not least <= value <= most:
            faults.append(
                f"{path}{key}: {show(value)} is not usable; write a number from {least} to {most}"
            )
    return result


def blocked(settings, known, standing, faults, notes):
    """
    Who may neither log in nor send: those of the pillar, and those whom a command has blocked on
    the machine, with the time. `known` are the accounts and satellites.
    """
    path, result = "mailsrv:blocked", []
    for given in listed(settings.get("blocked"), path, faults):
        name = names.address(given) or names.domain(given)
        if name in known:
            result.append(name)
            notes.append(f"{name} is blocked by {path}: it neither logs in nor sends")
        # What a fleet has published may be out of sight for a moment.
        elif not name or "@" in name or not isinstance(settings.get("satellites"), str):
            faults.append(
                f"{path}: {show(given)} is neither an account nor a satellite; write it like "
                "user@example.com"
            )
    for name, since in standing.items():
        if name in known and name not in result:
            result.append(name)
            notes.append(
                f"{name} is blocked since {since}: it neither logs in nor sends, until "
                f"salt-call mailsrv.unblock {name}"
            )
    return list(dict.fromkeys(result))


def passwords(settings, facts, faults):
    """The cost of a hash."""
    given = section(settings, "passwords", KEYS["passwords"], "mailsrv:passwords", faults)
    rounds = given.get("rounds", facts["passwords"]["rounds"])
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1000 <= rounds <= 1_000_000:
        faults.append(
            f"mailsrv:passwords:rounds: {show(rounds)} is not usable; "
            "write a number from 1000 to 1000000"
        )
    return {"rounds": rounds}


def tls(settings, hostname, facts, faults):
    """
    The files that the daemons read, and where they come from.

    A certificate of the pillar is copied under another name than the self-signed one, and one that
    comes by itself has a third: each is there again where the pillar goes back to it.
    """
    given = section(settings, "tls", KEYS["tls"], "mailsrv:tls", faults)
    directory = facts["tls"]["directory"]
    itself = acme.read(given, hostname, directory, faults)
    kind = ".acme" if itself else ".copy" if given else ""
    result = {
        "sources": {},
        "self_signed": not given,
        "cert": f"{directory}/{hostname}{kind}.crt",
        "key": f"{directory}/{hostname}{kind}.key",
        "acme": itself,
    }
    for key in () if itself else ("cert", "key"):
        path = given.get(key)
        if path is None:
            if given:
                faults.append(f"mailsrv:tls:{key}: is missing; name both cert and key")
        elif not isinstance(path, str) or not PATH.fullmatch(path):
            faults.append(
                f"mailsrv:tls:{key}: {show(path)} is not a path; write it like /etc/ssl/mail.pem "
                "or salt://mail.pem, without blanks"
            )
        else:
            result["sources"][key] = path
    return result


def dns(settings, domains, hostname, tls, serves, known, faults):
    """
    What the records say; `serves`: whether this machine is its own web host; `known` are the
    addresses that take mail.
    """
    path = "mailsrv:dns"
    given = section(settings, "dns", KEYS["dns"], path, faults)
    dmarc = section(given, "dmarc", KEYS["dmarc"], f"{path}:dmarc", faults)
    policy, tls_reports = dmarc.get("policy", "quarantine"), given.get("tls_reports")
    host = given.get("web")
    if serves and host is None:
        host = hostname or None
    result = {
        "spf": _spf(given.get("spf", "mx -all"), f"{path}:spf", faults),
        "dmarc": {
            "policy": choice(policy, DMARC_POLICIES, f"{path}:dmarc:policy", faults),
            "reports": reports(
                dmarc.get("reports"), f"{path}:dmarc:reports", domains, known, faults
            ),
        },
        "tls_reports": reports(tls_reports, f"{path}:tls_reports", domains, known, faults),
        "web": serving.host(host, serves, domains, hostname, faults),
        "mta_sts": _mta_sts(given.get("mta_sts"), host, f"{path}:mta_sts", faults),
        "dane": given.get("dane", False),
        "addresses": _host_addresses(given.get("addresses"), f"{path}:addresses", faults),
        "nameservers": _nameservers(given.get("nameservers"), domains, hostname, faults),
        "skip": skip(given.get("skip"), f"{path}:skip", faults),
    }
    result["closed"] = _closed(result["spf"])
    if result["mta_sts"] in ("testing", "enforce") and host is None:
        faults.append(
            f"{path}:mta_sts: senders fetch the policy by HTTPS; name the host that serves it in "
            "mailsrv:dns:web, or let this machine do it by mailsrv:web: true"
        )
    if result["mta_sts"] == "enforce" and tls["self_signed"]:
        faults.append(
            f"{path}:mta_sts: nobody who enforces it takes a self-signed certificate; name one "
            "that the world trusts in mailsrv:tls, or write testing"
        )
    if not isinstance(result["dane"], bool):
        faults.append(f"{path}:dane: {show(result['dane'])} is not usable; write true or false")
    return result


def _mta_sts(mode, host, path, faults):
    """The mode of the policy; None where there is none, and nobody to serve that it is none."""
    if mode is None or (mode == "none" and host is None):
        return None
    return choice(mode, MTA_STS_MODES, path, faults)


def _spf(text, path, faults):
    """The terms of an SPF record (RFC 7208), without the version before them."""
    terms = text.lower().split() if isinstance(text, str) and text.isascii() else []
    if not terms:
        faults.append(f"{path}: {show(text)} is no list of terms; write it like mx -all")
        return []
    if terms[:1] == ["v=spf1"]:
        faults.append(f"{path}: v=spf1 is put before it; leave it out")
        return terms[1:]
    found = [spf.read(term) for term in terms]
    for index, (text_of, term) in enumerate(zip(terms, found, strict=True)):
        if not term or not _ours(term):
            found[index] = None
            faults.append(
                f"{path}: {show(text_of)} is not a term of SPF; known are all, include:, a, mx, "
                "ip4:, ip6:, exists:, redirect= and exp="
            )
    if None in found:
        return terms
    ends = [term for term in found if term.name in ("all", "redirect")]
    mechanisms = [term for term in found if term.qualifier]
    if len(ends) != 1 or (ends[0].name == "all" and ends != mechanisms[-1:]):
        faults.append(f"{path}: {show(text)} does not end in one all or redirect=; add -all")
    elif ends[0].name == "all" and ends[0].qualifier == "+":
        said = terms[found.index(ends[0])]
        faults.append(f"{path}: {said} lets everybody send as these domains; write -all")
    if world := spf.lets_the_world(terms):
        faults.append(
            f"{path}: {' and '.join(world)} would let the world send as these domains; write the "
            f"networks of your servers, a /{spf.LARGEST[4]} of IPv4 or a /{spf.LARGEST[6]} of IPv6 "
            "at most"
        )
    lookups = sum(term.looks_up for term in found)
    if lookups > spf.MAX_LOOKUPS:
        faults.append(
            f"{path}: {lookups} terms look something up, receivers stop at {spf.MAX_LOOKUPS}; "
            "write addresses, ip4: and ip6:, instead"
        )
    return terms


def _ours(term):
    """Whether we publish such a term: one that is read the same everywhere."""
    domain = term.target.partition("/")[0]
    if term.name in ("ip4", "ip6", "all"):
        return True
    if term.name in ("a", "mx") and not domain:
        return True
    return term.name in SPF_TERMS and bool(SPF_DOMAIN.fullmatch(domain))


def _closed(terms):
    """
    The networks beside this machine that may use our envelope senders, where SPF says so of all
    others (`-all`); None where it does not, or where only DNS knows who they are.
    """
    if not terms or terms[-1] != "-all":
        return None
    plain = [term.lstrip("+") for term in terms[:-1]]
    networks = [term.partition(":")[2] for term in plain if term.startswith(("ip4:", "ip6:"))]
    known = {"mx", "a"}
    return networks if len(networks) == sum(term not in known for term in plain) else None


def reports(value, path, domains, known, faults):
    """The address that reports go to, or None; one of ours must exist."""
    if value is None:
        return None
    local, _, given = value.rpartition("@") if isinstance(value, str) else ("", "", "")
    domain = names.domain(given)
    if not domain or not names.TARGET_LOCAL_PART.fullmatch(local):
        faults.append(f"{path}: {show(value)} is not an address; write it like dmarc@example.com")
        return None
    if domain not in domains:
        return f"{local}@{domain}"
    address = f"{local.lower()}@{domain}"
    if not {address, names.base(address), f"@{domain}"} & known:
        faults.append(f"{path}: {address} is neither an account nor an alias; add it")
    return address


def _host_addresses(values, path, faults):
    """The IP addresses that the world sees, each once."""
    result = []
    for value in listed(values, path, faults):
        try:
            if not isinstance(value, str) or "%" in value:
                raise ValueError
            result.append(str(ipaddress.ip_address(value)))
        except ValueError:
            faults.append(f"{path}: {show(value)} is not an IP address; write it like 192.0.2.1")
    return list(dict.fromkeys(result))


def _nameservers(values, domains, hostname, faults):
    """The name servers of our zones, each once; none that would need an address in them."""
    path = "mailsrv:dns:nameservers"
    result = []
    for value in listed(values, path, faults):
        name = names.domain(value)
        if name is None:
            faults.append(
                f"{path}: {show(value)} is not a host name; write it like ns1.example.net"
            )
        elif name != hostname and any(names.within(name, domain) for domain in domains):
            faults.append(
                f"{path}: {name} is in a zone that would need its address, too; name a host "
                "elsewhere, or leave nameservers out and complete the zone yourself"
            )
        else:
            result.append(name)
    return list(dict.fromkeys(result))


def skip(entries, path, faults):
    """What `mailcheck.dns` shall not look at: [name, type], either of them may be empty."""
    result = []
    for entry in listed(entries, path, faults):
        words = entry.split() if isinstance(entry, str) else []
        kind = words.pop().upper() if words and words[-1].upper() in RECORD_TYPES else ""
        name = words.pop().lower().rstrip(".") if words else ""
        if words or not (kind or name) or (name and not RECORD_NAME.fullmatch(name)):
            faults.append(
                f"{path}: {show(entry)} is not a record; write a type, a name, or both: SRV, "
                "_dmarc.example.com, example.com MX"
            )
        else:
            result.append([name, kind])
    return result
