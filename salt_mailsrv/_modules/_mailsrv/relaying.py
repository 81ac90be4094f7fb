"""
The ways by which mail leaves: directly, to the MX of each recipient's domain, or through the server
of a provider, a relay; for all mail, and for senders' and recipients' domains of their own.
"""

from _mailsrv import names, spf
from _mailsrv.faults import choice, kind_of, listed, mapping, show, shown_key, unknown_keys
from _mailsrv.settings import PATH, SPF_DOMAIN

WAY = ("host", "port", "tls", "user", "password", "ca", "spf")
KEYS = {"relay": (*WAY, "senders", "recipients")}

TLS = {"starttls": 587, "smtps": 465}  # the port that each is usual on
DIRECT = "direct"

# What smtpd(8) takes of a line in a session, less a command and base64.
LONGEST = 500


def read(settings, domains, spf_terms, faults, notes):
    """
    The ways of the pillar's ``relay``, a :class:`_mailsrv.model.Relay`: without its secrets, which
    stand in the pillar under each way's ``at``.

    spf_terms
        What all domains publish as SPF, without what a relay adds.
    """
    result = {"ways": [], "default": "", "senders": {}, "recipients": {}}
    _read(settings.get("relay"), result, domains, spf_terms, faults, notes)
    result["tls_required"] = _tls_required(settings, result, domains, faults)
    return result


def _tls_required(settings, relay, domains, faults):
    """The domains that mail leaves to by verified TLS, or not at all."""
    path, result = "mailsrv:tls_required", []
    for given in listed(settings.get("tls_required"), path, faults, " of domains"):
        name = names.domain(given)
        labels = [relay["default"], *relay["senders"].values()]
        if name is None:
            faults.append(f"{path}: {show(given)} is no domain; write it like example.com")
        elif name in domains:
            faults.append(f"{path}: {name} is one of our domains, whose mail stays here; remove it")
        elif any([relay["recipients"][name]] if name in relay["recipients"] else labels):
            faults.append(
                f"{path}: mail to {name} may leave by a relay, and what happens behind it nobody "
                f"here can demand; write {name}: {DIRECT} in mailsrv:relay:recipients, or remove it"
            )
        else:
            result.append(name)
    return list(dict.fromkeys(result))


def _read(given, result, domains, spf_terms, faults, notes):
    path = "mailsrv:relay"
    if given is None:
        return
    if not isinstance(given, dict):
        faults.append(
            f"{path}: must hold keys and values, such as host, user and password, not "
            f"{kind_of(given)}"
        )
        return
    unknown_keys(given, KEYS["relay"], f"{path}:", faults, secrets=True)
    if {*WAY} & given.keys() or not (given.get("senders") or given.get("recipients")):
        result["ways"].append(_way(given, "all", path, faults))
        result["default"] = "all"
    for key, preposition in (("senders", "from"), ("recipients", "to")):
        for name, entry in _by_domain(given.get(key), f"{path}:{key}", domains, faults):
            place = f"{path}:{key}:{name}"
            label = "" if entry == DIRECT else f"{preposition}-{names.domain(name)}"
            result[key][names.domain(name)] = label
            if isinstance(entry, dict):
                unknown_keys(entry, WAY, f"{place}:", faults, secrets=True)
                result["ways"].append(_way(entry, label, place, faults))
            elif label:
                faults.append(
                    f"{place}: must be {DIRECT}, or hold keys and values, such as host, user and "
                    f"password, not {kind_of(entry)}"
                )
    for domain in domains:
        whole = terms(spf_terms, result, domain)
        count = sum(term.looks_up for term in map(spf.read, whole) if term)
        if count > spf.MAX_LOOKUPS and whole != spf_terms:
            faults.append(
                f"{path}:spf: with it, {count} terms of SPF look something up for {domain}, "
                f"receivers stop at {spf.MAX_LOOKUPS}; write addresses, ip4: and ip6:, in "
                "mailsrv:dns:spf instead"
            )
    elsewhere = any(term.startswith(("include:", "redirect=")) for term in spf_terms)
    for way in [] if elsewhere else result["ways"]:
        if not way["spf"]:
            notes.append(
                f"{way['at']}: receivers see the addresses of {way['host']}, which SPF does not "
                "name: add spf, the name that the provider tells you to include"
            )


def _by_domain(given, path, domains, faults):
    """The entries of a mapping by domain, as their keys are written."""
    given, result = mapping(given, path, faults, f"be a mapping, like example.com: {DIRECT}"), {}
    for key, entry in given.items():
        name = names.domain(key)
        ours = any(names.within(str(name), domain) for domain in domains)
        if name is None:
            faults.append(f"{path}: {shown_key(key)} is no domain; write it like example.com")
        elif path.endswith("senders") and not ours:
            faults.append(
                f"{path}: {name} is none of our domains; what we forward for others takes the way "
                "of all mail"
            )
        elif path.endswith("recipients") and name in domains:
            faults.append(f"{path}: {name} is one of our domains, whose mail stays here; remove it")
        elif name in map(names.domain, result):
            faults.append(f"{path}: {name} is there twice; remove one of them")
        else:
            result[key] = entry
    return result.items()


def _way(given, label, path, faults):
    """One relay; its secrets are looked at and left where they are."""
    host, port, tls = names.domain(given.get("host")), given.get("port"), given.get("tls")
    if host is None:
        found = given.get("host")
        # A URL may hold the password.
        said = f"{show(found)} is not a host name" if _harmless(found) else "is not a host name"
        faults.append(
            f"{path}:host: {'is missing' if found is None else said}; name the provider's server, "
            "like smtp.example.com"
        )
    if tls is None:
        tls = "smtps" if port == TLS["smtps"] else "starttls"
    choice(tls, tuple(TLS), f"{path}:tls", faults)
    if port is None:
        port = TLS.get(tls, 0) if isinstance(tls, str) else 0
    elif type(port) is not int or not 1 <= port <= 65535:
        faults.append(f"{path}:port: {show(port)} is no port; write a number, like 587")
    ca, include = given.get("ca"), given.get("spf")
    if ca is not None and not (isinstance(ca, str) and ca.startswith("/") and PATH.fullmatch(ca)):
        faults.append(
            f"{path}:ca: {show(ca)} is not a path; write it like /etc/ssl/relay.pem, without blanks"
        )
    if include is not None and not (isinstance(include, str) and SPF_DOMAIN.fullmatch(include)):
        faults.append(
            f"{path}:spf: {show(include)} is not a name; write what the provider tells you to "
            "include, like spf.example.com"
        )
        include = None
    return {
        "label": label,
        "at": path,
        "host": host or "",
        "port": port,
        "tls": tls,
        "login": _login(given, path, faults),
        "ca": ca or "",
        "spf": include or "",
    }


def _harmless(value):
    return not isinstance(value, str) or ("@" not in value and ":" not in value)


def _login(given, path, faults):
    """Whether there is a login. Of some providers both of its parts are secret."""
    found = {key: given[key] for key in ("user", "password") if given.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str):
            faults.append(f"{path}:{key}: must be text, not {kind_of(value)}; quote it")
        elif not 1 <= len(value.encode(errors="replace")) <= LONGEST or not value.isprintable():
            faults.append(
                f"{path}:{key}: must be one line of 1 to {LONGEST} characters; copy it from the "
                "provider again"
            )
        elif value != value.strip() or (key == "user" and ":" in value):
            what = "a colon" if value == value.strip() else "a blank at an end"
            faults.append(
                f"{path}:{key}: has {what}, which smtpd(8) cannot send; remove it, or choose "
                "another one at the provider"
            )
    if len(found) == 1:
        (other,) = {"user", "password"} - found.keys()
        faults.append(
            f"{path}:{other}: is missing; name both user and password, or, where the provider "
            "knows this machine by its address, neither"
        )
    return bool(found)


def login(pillar, way):
    """The user and the password of a way, as they stand in the pillar; none where it has none."""
    found = pillar
    for key in way["at"].split(":"):
        found = found[key]
    return (found["user"], found["password"]) if way["login"] else ()


def terms(given, relay, domain):
    """These terms of SPF, with those whose servers mail of a domain leaves by."""
    labels = [relay["senders"].get(domain, relay["default"]), *relay["recipients"].values()]
    used = [way["spf"] for way in relay["ways"] if way["label"] in labels]
    more = [f"include:{name}" for name in dict.fromkeys(used) if name]
    more = [term for term in more if term not in given]
    ends = [n for n, term in enumerate(given) if term.lstrip("+-~?") == "all"]
    end = ends[0] if ends else len(given)
    return [*given[:end], *more, *given[end:]]


def action(relay, domain):
    """The action in smtpd.conf for our users' mail to a domain, where it has one of its own."""
    if domain in relay["tls_required"]:
        return "relay-tls"
    label = relay["recipients"].get(domain)
    if label is None:
        return ""
    return "relay" if label == relay["default"] else f"relay-{label or DIRECT}"


def by_sender(relay, target):
    """By which ways mail to an address elsewhere leaves: a text, or one by the sender's domain."""
    domain = target.rpartition("@")[2]
    if domain in relay["tls_required"]:
        return f"{_said(relay, '')}, by TLS with a verified certificate alone"
    label = relay["recipients"].get(domain)
    if label is not None:
        return _said(relay, label)
    return _several(relay, "senders", "from")


def by_recipient(relay, sender):
    """By which ways mail of an address of ours leaves: a text, or one by the recipient's domain."""
    label = relay["senders"].get(sender.rpartition("@")[2], relay["default"])
    return _several({**relay, "default": label}, "recipients", "to")


def _several(relay, key, preposition):
    default = _said(relay, relay["default"])
    if not relay[key]:
        return default
    said = {f"{preposition} {name}": _said(relay, label) for name, label in relay[key].items()}
    return {**said, f"{preposition} any other": default}


def _said(relay, label):
    found = [way for way in relay["ways"] if way["label"] == label]
    if not found:
        return "the MX of the recipient's domain"
    return f"{found[0]['host']}, port {found[0]['port']} with {found[0]['tls'].upper()}"
