"""
What this machine publishes in DNS: its addresses, its keys, and how far each is on its way.

`functions` and `grains` are Salt's.
"""

import ipaddress
import os
import time

import _mailsrv_disk as disk
from _mailsrv import keys, records
from salt.exceptions import CommandExecutionError


def of(model, domains, functions, grains):
    """By domain the records to publish, :func:`_mailsrv.records.records`."""
    addresses = sent_from(model, grains)
    tlsa = _key_digests(model["tls"], functions) if model["dns"]["dane"] else []
    found = records.records(model, _texts(model, functions), addresses, tlsa)
    return {domain: found[domain] for domain in domains}


def rotation(model, keep, functions):
    """What :func:`mailsrv.rotation` returns; `keep`: seconds for which a record is needed still."""
    result = {domain: {} for domain in model["domains"]}
    for key in model["dkim"]["keys"]:
        found = stage(key)
        until = {
            selector: time.strftime("%Y-%m-%d", time.gmtime(since + keep))
            for selector, since in found["retired"].items()
        }
        for domain in key["domains"]:
            signs = found["signing"] if domain in found["domains"] else ""
            said = result[domain][key["algorithm"]] = {"signs": signs or "nothing"}
            if signs != key["selector"]:
                name = f"{key['selector']}._domainkey.{domain}"
                said["next"] = key["selector"]
                said["waits for"] = _lacking(key, found, name, functions) or ["the next run"]
            if until:
                said["still published"] = until
    return result


def _lacking(key, found, name, functions):
    """What the key that shall sign waits for, a list of sentences."""
    if _to_come(key, found):
        return ["its key, which the next run makes"]
    value = _txt(key["private"], functions)
    try:
        return functions["mailcheck.lacking"](name, "TXT", value)
    except CommandExecutionError as exc:
        return [str(exc)]


def _texts(model, functions):
    """The values of the TXT records of the keys on this machine, by domain and selector."""
    result = {domain: {} for domain in model["domains"]}
    for key in model["dkim"]["keys"]:
        found = stage(key)
        values = {
            selector: _txt(keys.named(key, selector)["private"], functions)
            for selector in keys.shown(key, found)
            if selector != key["selector"] or not _to_come(key, found)
        }
        for domain in key["domains"]:
            result[domain] |= values | dict.fromkeys(key["revoked"], keys.REVOKED)
    return result


def _to_come(key, stage):
    """
    Whether the next run makes the key that shall sign: the day has come, as with `dkim:rotate`, and
    until that run all is as it should be, since another one signs.
    """
    signing = stage["signing"]
    other = signing not in ("", key["selector"], *key["revoked"])
    return other and not os.path.exists(key["private"])


def stage(key):
    """How far a key is on its way, as :func:`_mailsrv.keys.stage` reads it."""
    try:
        return keys.stage(key, disk.text(key["signing"]))
    except ValueError:
        raise CommandExecutionError(
            f"{key['signing']} does not tell what signs; remove it, and what the pillar says does"
        ) from None


def _txt(private, functions):
    try:
        with open(private, encoding="ascii") as file:
            return functions["dkim.txt"](functions["dkim.public_key"](file.read()))
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{private} is not there yet; salt-call state.apply mailsrv.genkeys makes it"
        ) from None


def _key_digests(tls, functions):
    """Of the key that is served and of the next one, as `3 1 1` wants it (RFC 6698)."""
    if not os.path.exists(tls["cert"]):
        raise CommandExecutionError(
            f"{tls['cert']} is not there yet; salt-call state.apply mailsrv.tls makes it"
        )
    coming = [f"{tls['acme']['next']}.key"] if tls["acme"] else []
    files = [tls["cert"], *filter(os.path.exists, coming)]
    return [*dict.fromkeys(map(functions["certificate.key_digest"], files))]


def sent_from(model, grains):
    """The machine's addresses as the world may see them: global ones, else private ones."""
    if model["dns"]["addresses"]:
        return model["dns"]["addresses"]
    found = [ipaddress.ip_address(address) for address in (*grains["ipv4"], *grains["ipv6"])]
    found = [address for address in found if not address.is_loopback and not address.is_link_local]
    chosen = [address for address in found if address.is_global] or found
    return [str(address) for address in chosen]
