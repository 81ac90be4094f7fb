"""
How a fault of the pillar is said: a sentence with the key, the value (never a secret) and the cure.

Each function that reads appends such a sentence to `faults` for what cannot be used, under the
`path` of its key, e.g. ``mailsrv:dns:spf``, and returns what can.
"""

import difflib
import re


def section(parent, name, known, path, faults):
    """The mapping ``parent[name]``, its keys checked; empty where it is absent or unusable."""
    found = mapping(parent.get(name), path, faults)
    unknown_keys(found, known, f"{path}:", faults)
    return found


def mapping(value, path, faults, what="hold keys and values"):
    """A mapping, empty where it is absent or none; `what` says what it must do."""
    if value is None or isinstance(value, dict):
        return value or {}
    faults.append(f"{path}: must {what}, not {kind_of(value)}")
    return {}


def unknown_keys(found, known, path, faults, secrets=False):
    """Say which keys nobody would read; with `secrets`, a key may be a piece of one."""
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            name = shown_key(key)
            if secrets and not (name.isalpha() and (near or name == "address")):
                # {address: …, hash: $argon2id$m=65536,t=3,p=1$…} or {address: …, password:secret}:
                # YAML makes keys of a secret.
                name = "?"
            faults.append(f"{path}{name}: no such key; {cure}")


def listed(value, path, faults, of=""):
    """A list, empty where it is absent or none; `of` says of what."""
    if value is None or isinstance(value, list):
        return value or []
    faults.append(f"{path}: must be a list{of}, not {kind_of(value)}")
    return []


def choice(value, choices, path, faults):
    """One of several words."""
    if not isinstance(value, str) or value not in choices:
        faults.append(f"{path}: {show(value)} is not usable; choose {either(choices)}")
    return value


def switch(found, name, path, faults):
    """``found[name]``: true or false, and false where it is absent."""
    value = found.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    faults.append(f"{path}: {show(value)} is no switch; write true or false")
    return False


def either(choices):
    """a, b or c"""
    return joined(choices, "or")


def joined(words, conjunction):
    """Words with commas, and a conjunction before the last one."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def shown_key(key):
    """A key of the pillar as it can be shown, whatever it is."""
    return re.sub(r"[^\w.@-]", "?", str(key))[:40]


def show(value):
    """A value that is no secret as it can be shown, whatever it is."""
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def kind_of(value):
    """What YAML made of a value."""
    if value is None:
        return "nothing"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return kinds.get(type(value), "keys and values" if isinstance(value, dict) else "a date")
