"""
The machines that only send: on the mail machine who of them may send as what, and their own pillar.
"""

import re

from _mailsrv import names
from _mailsrv.faults import kind_of, section, show, shown_key, unknown_keys
from _mailsrv.settings import PATH, SENDING, sending

KEYS = {
    "satellites": ("hash", *SENDING),
    "satellite": ("relay", "root", "agent", "minion", "ca"),
}

# What `openssl passwd -6` prints. Without rounds: a satellite does not choose how long it takes.
CREDENTIAL = re.compile(r"\$6\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")
CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\n(?:[0-9A-Za-z+/=]+\n)+-----END CERTIFICATE-----\n"
)
MINION = re.compile(r"[\w.-]+", re.ASCII)
AGENTS = ("opensmtpd", "dma")
RENAME = "give the minion an id like web1.example.com"


def satellites(settings, mined, domains, hostname, faults, notes):
    """Who of the satellites may send as what, signed by whom."""
    given = settings.get("satellites")
    by_hand = isinstance(given, dict)
    result = []
    for name, credential in credentials(settings, mined, faults):
        path, entry = f"mailsrv:satellites:{shown_key(name)}", given[name] if by_hand else {}
        limits = sending(entry if isinstance(entry, dict) else {}, f"{path}:", faults)
        trouble = _trouble(name, credential, domains, hostname)
        if trouble and by_hand:
            faults.append(f"{path}: {trouble}")
        elif trouble:
            # One machine of the fleet does not stop the mail of all.
            notes.append(f"satellite {show(name)} cannot send: it {trouble}")
        else:
            parents = [domain for domain in domains if name.endswith(f".{domain}")]
            signer = max(parents, key=len, default=domains[0] if domains else "")
            result.append(
                {"name": name, "signed_by": signer, "aligned": bool(parents), "limits": limits}
            )
            if domains and not parents:
                notes.append(
                    f"satellite {name} is in none of our domains: its mail is signed by {signer}, "
                    "which does not count for its own name (DMARC)"
                )
    if not by_hand and settings.get("satellites") and not result:
        notes.append(
            "mailsrv:satellites: no minion of this target has published a credential for us yet; "
            "run the highstate on the satellites, then here"
        )
    return result


def credentials(settings, mined, faults):
    """Every satellite's name and hash, as they stand in the pillar or the mine."""
    path, given = "mailsrv:satellites", settings.get("satellites")
    if given is None:
        return []
    if isinstance(given, dict):
        listed = given
    elif isinstance(given, str) and given.strip():
        listed = mined or {}
    else:
        faults.append(
            f"{path}: must be a target of minions, like '*.example.com', or names with "
            f"their hash, not {kind_of(given) if given else 'nothing'}"
        )
        return []
    result = []
    for name, entry in listed.items():
        entry = entry if isinstance(entry, dict) else {}
        if listed is given:
            unknown_keys(entry, KEYS["satellites"], f"{path}:{shown_key(name)}:", faults)
        result.append((name, entry.get("hash")))
    return result


def _trouble(name, credential, domains, hostname):
    if not isinstance(name, str) or names.domain(name) != name:
        return f"is not a host name in lower case; {RENAME}"
    if name in domains or name == hostname:
        return f"has the name of {'a mail domain' if name in domains else 'this server'}; {RENAME}"
    if not isinstance(credential, str) or not CREDENTIAL.fullmatch(credential):
        printer = "salt-call mailsrv.satellite_credential"
        return f"has no hash that can be used; the satellite prints it: {printer}"
    return None


def read(settings, name, facts, certificate, faults):
    """What the pillar of a satellite means, a :class:`_mailsrv.model.Sender`."""
    path = "mailsrv:satellite"
    given = section(settings, "satellite", KEYS["satellite"], path, faults)
    if names.domain(name) != name:
        faults.append(f"id: {show(name)} is not a host name in lower case; {RENAME}")
    relay = names.domain(given.get("relay"))
    if relay is None:
        faults.append(
            f"{path}:relay: {show(given.get('relay', ''))} is not a host name; "
            "name the mail machine, like mail.example.com"
        )
    elif relay == name:
        faults.append(f"{path}:relay: is this machine itself; name the mail machine")
    minion = relay_minion(given)
    if relay and (not isinstance(minion, str) or not MINION.fullmatch(minion)):
        faults.append(
            f"{path}:minion: {show(minion)} is not the id of a minion; write it like "
            "mail.example.com"
        )
    root = names.target(given.get("root"))
    if root is None:
        faults.append(
            f"{path}:root: {show(given.get('root', ''))} is not an address; "
            "name who reads root's mail, like admin@example.com"
        )
    elif root.endswith(f"@{name}"):
        faults.append(f"{path}:root: {root} is on this machine; name a mailbox elsewhere")
    agent = given.get("agent", AGENTS[0])
    if agent not in AGENTS:
        faults.append(f"{path}:agent: {show(agent)} is no agent; choose {' or '.join(AGENTS)}")
    ca = given.get("ca")
    if ca is not None and (not isinstance(ca, str) or not PATH.fullmatch(ca)):
        faults.append(
            f"{path}:ca: {show(ca)} is not a path; write it like /etc/ssl/relay.pem "
            "or salt://relay.pem, without blanks"
        )
    elif agent == "dma" and not ca and not certificate:
        faults.append(
            f"{path}:agent: dma verifies no CA, it only knows one certificate again, and "
            f"{show(minion)} has published none; run the highstate there first, or name the "
            f"certificate in {path}:ca, or use opensmtpd"
        )
    here = f"{facts['directory']}/relay.pem"
    on_server = str(ca).startswith("salt://")
    return {
        "name": name,
        "relay": relay,
        "minion": minion,
        "root": root,
        "agent": agent,
        "ca": here if on_server or (certificate and not ca) else ca or "",
        "ca_source": ca if on_server else "",
    }


def relay_minion(given):
    """The id of the mail machine's minion, which by default is its name."""
    return given.get("minion", names.domain(given.get("relay")))
