"""
DKIM keys: what the pillar says of them, their files, and which of them signs (RFC 6376, RFC 8463).
"""

import json
import os
import re

from _mailsrv.faults import either, listed, section, show, switch
from _mailsrv.names import LABEL

SIGNERS = ("dkimproxy", "dkimsign", "rspamd")

# How often a new key is made, and what is put behind the selector by year, quarter and month.
ROTATIONS = {"yearly": "-{0}", "quarterly": "-{0}q{1}", "monthly": "-{0}{2:02}"}
REVOKED = "v=DKIM1; p="  # RFC 6376, section 3.6.1
ARCHIVE = {
    "source": re.compile(r"[\w.:/@+=~%-]+", re.ASCII),
    "source_hash": re.compile(r"(sha256=)?[0-9a-f]{64}|(sha512=)?[0-9a-f]{128}"),
}

KEYS = {
    "dkim": ("signer", "selector", "rotate", "revoked", "bits", "ed25519", "archive"),
    "archive": tuple(ARCHIVE),
}


def read(settings, domains, facts, faults):
    """The section ``dkim``, with each key that signs or shall sign, its files and domains."""
    given = section(settings, "dkim", KEYS["dkim"], "mailsrv:dkim", faults)
    dkim = {key: given.get(key, facts["dkim"][key]) for key in ("signer", "selector", "bits")}
    if dkim["signer"] not in SIGNERS:
        faults.append(
            f"mailsrv:dkim:signer: {show(dkim['signer'])} is not a signer; "
            f"choose {', '.join(SIGNERS[:-1])} or {SIGNERS[-1]}"
        )
    dkim["selector"] = selector = _selector(dkim["selector"], given.get("rotate"), facts, faults)
    dkim["revoked"] = _revoked(given.get("revoked"), selector, faults)
    if type(dkim["bits"]) is not int or dkim["bits"] not in (1024, 2048, 3072, 4096):
        faults.append(
            f"mailsrv:dkim:bits: {show(dkim['bits'])} is no key length; "
            "write the number 1024, 2048, 3072 or 4096"
        )
    path = "mailsrv:dkim:ed25519"
    dkim["ed25519"] = switch(given, "ed25519", path, faults)
    if dkim["ed25519"] and dkim["signer"] == "dkimproxy":
        faults.append(
            f"{path}: dkimproxy cannot sign with Ed25519; choose dkimsign or rspamd as the "
            "signer, or leave it out"
        )
    if dkim["ed25519"] and len(str(selector).rpartition(".")[2]) > 63 - len("-ed25519"):
        faults.append(
            f"{path}: {show(selector)} is too long a selector to have -ed25519 put behind it; "
            "choose a shorter one"
        )
    path = "mailsrv:dkim:archive"
    archive = section(given, "archive", KEYS["archive"], path, faults) or facts["dkim"]["archive"]
    for key, usable in ARCHIVE.items():
        value = archive.get(key)
        if value is None:
            faults.append(f"{path}:{key}: is missing; name both source and source_hash, a SHA-256")
        elif not isinstance(value, str) or not usable.fullmatch(value):
            faults.append(f"{path}:{key}: {show(value)} is not usable; write plain text, quoted")
    # Another archive is another directory: what runs is never a mixture of two.
    directory = f"{facts['dkimproxy']['install']}/{str(archive.get('source_hash'))[-12:]}"
    archive = {**archive, "directory": directory}
    return {**dkim, "archive": archive, "keys": _keys(dkim, domains, facts)}


def _selector(selector, rotate, facts, faults):
    """The selector that shall sign: with `rotate`, another one for each year, quarter or month."""
    if not isinstance(selector, str) or not all(map(LABEL.fullmatch, selector.split("."))):
        faults.append(
            f"mailsrv:dkim:selector: {show(selector)} is not a selector; "
            "use a-z, 0-9 and inner hyphens"
        )
    if rotate is None:
        return selector
    if not isinstance(rotate, str) or rotate not in ROTATIONS:
        faults.append(
            f"mailsrv:dkim:rotate: {show(rotate)} is not usable; choose {either([*ROTATIONS])}"
        )
        return selector
    year, month = map(int, facts["today"].split("-")[:2])
    selector = f"{selector}{ROTATIONS[rotate].format(year, (month + 2) // 3, month)}"
    if not all(map(LABEL.fullmatch, selector.split("."))):
        faults.append(
            f"mailsrv:dkim:rotate: {show(selector)} would be too long a selector; "
            "choose a shorter one in mailsrv:dkim:selector"
        )
    return selector


def _revoked(given, selector, faults):
    path = "mailsrv:dkim:revoked"
    given = listed(given, path, faults, " of selectors")
    for name in given:
        if not isinstance(name, str) or not all(map(LABEL.fullmatch, name.split("."))):
            faults.append(f"{path}: {show(name)} is not a selector; use a-z, 0-9 and inner hyphens")
        elif name == selector:
            faults.append(
                f"{path}: {name} is the selector that shall sign; "
                "name another one in mailsrv:dkim:selector"
            )
    return [name for name in given if isinstance(name, str)]


def _keys(dkim, domains, facts):
    """
    One key per domain and algorithm; one for all domains with dkimsign, which holds a single key
    per process.

    Whoever changes the signer keeps the keys, and with them the DNS records: the shared key is
    adopted by each domain, the key of the first domain that is signed by all of them.
    """
    keys = _keys_of("rsa", "", dkim, domains, facts)
    if dkim["ed25519"]:
        keys += _keys_of("ed25519", "-ed25519", dkim, domains, facts)
    return keys


def _keys_of(algorithm, suffix, dkim, domains, facts):
    top, signer = facts["dkim"]["directory"], dkim["signer"]
    selector = f"{dkim['selector']}{suffix}"
    signs = {*facts["standing"]["signing"]} & {*domains}
    own = [([domain], f"{top}/{domain}", [top]) for domain in domains]
    if signer == "dkimsign":
        # Of one that waits for its record the key would be in vain for all.
        first = [domain for domain in domains if domain in signs or not signs][:1]
        own = [(domains, top, [f"{top}/{domain}" for domain in first])]
    # The 2015 formula's keys, adopted where they are published under the selector that is wanted.
    seed = facts["dkim"]["seed_key"] if selector == facts["dkim"]["seed_selector"] else ""
    bare = (algorithm, signer) == ("ed25519", "rspamd")
    return [
        {
            "domains": signed,
            "selector": selector,
            "algorithm": algorithm,
            **files(directory, selector, bare),
            "adopt": [
                *([seed.format(domain=signed[0])] if seed and signed else []),
                *(files(other, selector, bare)["private"] for other in elsewhere),
            ],
            "signing": f"{directory}/{algorithm}.signing",
            "adopt_signing": [f"{other}/{algorithm}.signing" for other in elsewhere],
            # RSA signs from the first message on where there is nothing else, and goes on.
            "waits": algorithm != "rsa" or (bool(signs) and signs.isdisjoint(signed)),
            "revoked": [f"{name}{suffix}" for name in dkim["revoked"]],
        }
        for signed, directory, elsewhere in own
    ]


def files(directory, selector, bare):
    """
    The files of a key: ``private``, PEM; ``public``, its record in DNS; ``bare``, what rspamd reads
    instead of an Ed25519 PEM, or empty.
    """
    return {
        "private": f"{directory}/{selector}.private",
        "public": f"{directory}/{selector}.public",
        "bare": f"{directory}/{selector}.bare" if bare else "",
    }


def selectors(listing):
    """The selectors whose keys are in a directory of that listing, those of old ones, too."""
    found = (re.fullmatch(r"([a-z0-9.-]+)\.public", name) for name in listing)
    return sorted(match[1] for match in found if match)


def named(key, selector):
    """A key of the model under another selector."""
    directory = os.path.dirname(key["private"])
    return {**key, "selector": selector, **files(directory, selector, bool(key["bare"]))}


def stage(key, remembered):
    """
    How far a key is: ``signing``, the selector that signs (empty: none does), and ``retired``, when
    others stopped, in seconds since 1970; ``domains``, those whose mail it signs, of which one that
    is new is none until DNS shows its record.

    `remembered` is what the state ``dkim.signing`` wrote, text; ValueError where it is none of it.
    """
    text = remembered.strip("\0\n ")  # what a power cut may leave
    if not text:
        signs = not key["waits"]
        found = {"signing": key["selector"] if signs else "", "retired": {}}
        return found | {"domains": key["domains"] if signs else []}
    return {"domains": key["domains"], **json.loads(text)}


def signing(keys, stages):
    """
    The keys that mail is signed with now, of those of a model, each with the domains that it signs
    for; `stages` as :func:`stage`.
    """
    return [
        named(key, stage["signing"]) | {"domains": domains}
        for key, stage in zip(keys, stages, strict=True)
        if stage["signing"]
        and (domains := [domain for domain in key["domains"] if domain in stage["domains"]])
    ]


def signs_for(domains, listed):
    """
    By domain the one whose signature its mail has: its own; while its record is awaited, that of
    the nearest domain above it, or else of the first one. `listed` as :func:`signing` returns it.

    Many verifiers know RSA alone: where RSA signs, whom it does not sign for still waits.
    """
    known = [key for key in listed if key["algorithm"] == "rsa"] or listed
    signed = [domain for domain in domains if any(domain in key["domains"] for key in known)]

    def nearest(domain):
        above = [other for other in signed if f".{domain}".endswith(f".{other}")]
        return max(above, key=len, default=(signed or domains)[0])

    return {domain: nearest(domain) for domain in domains}


def shown(key, stage):
    """The selectors of a key that DNS has to show, each with its key, but for revoked ones."""
    found = dict.fromkeys((key["selector"], stage["signing"], *stage["retired"]))
    return [selector for selector in found if selector and selector not in key["revoked"]]


def next_stage(known, wanted, lacking, now, keep, revoked=(), waits=False):
    """The next step in the life of a key, as :func:`dkim.next_stage` has and returns it."""
    signing, retired = known.get("signing", ""), dict(known.get("retired", {}))
    over = [s for s, since in retired.items() if s in revoked or now >= since + keep]
    over = [selector for selector in over if selector != wanted]
    retired = {s: since for s, since in retired.items() if s not in (*over, wanted)}
    if signing == wanted:
        says = f"{wanted} signs"
    elif lacking and (waits if not signing else signing not in revoked):
        says = f"{signing or 'nothing'} signs, {wanted} waits: {'; '.join(lacking)}"
    else:
        says = f"{wanted} signs now" + (f", after {signing}" if signing else "")
        if signing:
            retired[signing] = now
        signing = wanted
    return {"signing": signing, "retired": retired, "over": over, "says": says}
