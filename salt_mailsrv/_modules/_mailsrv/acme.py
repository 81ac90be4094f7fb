"""
Certificates by themselves: ``mailsrv:tls:acme`` of the pillar, and what its program remembers.
"""

import json
import re

from _mailsrv import caa, names
from _mailsrv.faults import choice, section, show

KEYS = {
    "acme": ("email", "server", "challenge", "key", "ca", "caa", "eab", "provider", "settings"),
    "eab": ("kid", "hmac"),
}
SERVER = "https://acme-v02.api.letsencrypt.org/directory"
CHALLENGES = ("http-01", "tls-alpn-01", "dns-01")
KINDS = ("rsa", "ecdsa")
MOST_DOMAINS = 49  # with two names each, beside the host's: Let's Encrypt's limit is 100

URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[\w./~+-]*)?", re.ASCII)
PATH = re.compile(r"/[\w./@+-]+", re.ASCII)
PROVIDER = re.compile(r"[a-z][a-z0-9-]{1,30}")
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
KID = re.compile(r"[\x21-\x7e]{1,200}")
HMAC = re.compile(r"([\w+/-]{4}){4,75}([\w+/-]{2,3})?={0,2}", re.ASCII)  # base64, either alphabet

LATE = 24 * 3600  # seconds after which a program that runs every quarter of an hour does not
LAST = 0.25  # of a certificate's life: ACME clients renew when a third is left
SELF_SIGNED = 21  # days


def read(tls, hostname, directory, faults):
    """
    What ``mailsrv:tls:acme`` says, without its secrets; None where it is absent.

    tls
        What the pillar has under ``mailsrv:tls``.

    directory
        Where certificates stand.
    """
    if tls.get("acme") is None:
        return None
    path = "mailsrv:tls:acme"
    given = section(tls, "acme", KEYS["acme"], path, faults)
    for key in ("cert", "key"):
        if tls.get(key) is not None:
            faults.append(
                f"mailsrv:tls:{key}: stands beside acme, which brings a certificate of its own; "
                "remove one of them"
            )
    challenge = choice(given.get("challenge", "http-01"), CHALLENGES, f"{path}:challenge", faults)
    secrets(tls, faults)
    server = _like(
        given.get("server", SERVER), URL, f"{path}:server", "the URL of a directory", SERVER, faults
    )
    return {
        "email": _email(given.get("email"), f"{path}:email", faults),
        "server": server,
        "challenge": challenge,
        "key": choice(given.get("key", "rsa"), KINDS, f"{path}:key", faults),
        "ca": _like(
            given.get("ca", ""), PATH, f"{path}:ca", "a path", "/etc/ssl/ca.pem", faults, empty=True
        ),
        "caa": _caa(given.get("caa"), server, f"{path}:caa", faults),
        "provider": _provider(given, challenge, path, faults),
        "next": f"{directory}/{hostname}.acme.next",
    }


def secrets(tls, faults):
    """
    The secrets of ``mailsrv:tls:acme``: ``eab``, ``{"kid": …, "hmac": …}`` or nothing; and
    ``environment``, the variables of lego's DNS provider. No value is in a fault.
    """
    acme = tls.get("acme")
    acme = acme if isinstance(acme, dict) else {}
    path = "mailsrv:tls:acme"
    eab = section(acme, "eab", KEYS["eab"], f"{path}:eab", faults)
    if acme.get("eab") is not None:
        for key, form in (("kid", KID), ("hmac", HMAC)):
            if not isinstance(eab.get(key), str) or not form.fullmatch(eab[key]):
                faults.append(
                    f"{path}:eab:{key}: is missing or not as the CA gave it; write it quoted, on "
                    "one line"
                )
    settings = acme.get("settings")
    if settings is not None and not isinstance(settings, dict):
        faults.append(f"{path}:settings: must hold the variables of lego's provider and values")
        settings = None
    variables = {}
    for name, value in (settings or {}).items():
        known = isinstance(name, str) and VARIABLE.fullmatch(name)
        if not known:
            # One who wrote the value where the name belongs: it may be a secret.
            faults.append(
                f"{path}:settings: holds a key that is no variable of lego's provider; write it "
                "like RFC2136_NAMESERVER"
            )
        elif not isinstance(value, str) or not value or not value.isprintable():
            faults.append(f"{path}:settings:{name}: must be text on one line; quote it")
        else:
            variables[name] = value
    return {"eab": eab, "environment": variables}


def standing(path, found, tls, remembered, now):
    """
    What is worth a word about the certificate that is served; nothing where all is well.

    path, found
        Its file, and what it is, as :func:`certificate.look` has it.

    tls
        A :class:`_mailsrv.pillar.Tls`.

    remembered
        What the program that asks for certificates wrote when it last ran, text.

    now
        The time, in seconds since 1970.
    """
    note = f"until {found['until'][:10]}"
    if tls["acme"]:
        why = _not_had(found, remembered, now)
        return f"WARNING: {note}; {why}" if why else ""
    if found["self_signed"] and found["days"] >= SELF_SIGNED:
        return f"self-signed, {note}; mail clients ask whether to trust it"
    if found["self_signed"]:
        return f"WARNING: {path} ends in {found['days']} days; remove it for a new one"
    if found["days"] < found["life"] * LAST:
        return (
            f"WARNING: {path} ends in {found['days']} days; the log of the ACME client says why it "
            "is not renewed"
        )
    return ""


def _not_had(found, remembered, now):
    try:
        known = json.loads(remembered)
        looked, said, since = float(known["looked"]), str(known["said"]), str(known["since"])
    except (ValueError, TypeError, KeyError):
        if not found["self_signed"]:
            return ""
        return "self-signed: the CA has not been asked yet; it is within minutes"
    if looked + LATE < now:
        return "nothing has looked after it for a day; see: systemctl status mailsrv-acme.timer"
    if not said:
        return ""
    if found["self_signed"]:
        return f"self-signed since {since}: {said}"
    if known.get("short") is True:
        return f"lacks names since {since}: {said}"
    return f"not renewed since {since}: {said}"


def _email(value, path, faults):
    local, _, domain = value.rpartition("@") if isinstance(value, str) else ("", "", "")
    if names.domain(domain) and names.TARGET_LOCAL_PART.fullmatch(local):
        return value
    if value is None:
        faults.append(f"{path}: is missing; the CA writes there, name an address that you read")
    else:
        faults.append(f"{path}: {show(value)} is not an address; write it like admin@example.com")
    return ""


def _like(value, form, path, what, example, faults, empty=False):
    if isinstance(value, str) and (form.fullmatch(value) or (empty and not value)):
        return value
    faults.append(f"{path}: {show(value)} is not {what}; write it like {example}")
    return ""


def _caa(value, server, path, faults):
    """What the CA is called in CAA records; empty: it is not known."""
    if value is None:
        return caa.issuer(server) if server else ""
    found = names.domain(value)
    if found is None:
        faults.append(
            f"{path}: {show(value)} is not what a CA is called in CAA records; write it like "
            "letsencrypt.org"
        )
    return found or ""


def _provider(given, challenge, path, faults):
    """The name by which lego knows who serves the zone; empty: no dns-01."""
    provider = given.get("provider")
    if challenge != "dns-01":
        for key in ("provider", "settings"):
            if given.get(key) is not None:
                faults.append(
                    f"{path}:{key}: is for the challenge dns-01, not for {challenge}; remove it, "
                    "or write challenge: dns-01"
                )
        return ""
    if isinstance(provider, str) and PROVIDER.fullmatch(provider):
        return provider
    wrong = "is missing" if provider is None else f"{show(provider)} is no provider of lego"
    faults.append(
        f"{path}:provider: {wrong}; write one that lego dnshelp lists, rfc2136 for a server of "
        "your own"
    )
    return ""
