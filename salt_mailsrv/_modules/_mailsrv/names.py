"""
What an address is, and a domain (RFC 1035, RFC 1123, RFC 5321).

Each function that reads one takes whatever a pillar may hold, and returns it as it is compared and
written, in lower case, or None where it is none.
"""

import contextlib
import re

try:
    import idna  # a library of requests, and so of Salt
except ImportError:
    idna = None

# RFC 1035, section 2.3.1 and RFC 1123, section 2.1: letters, digits and inner hyphens.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

# What Dovecot takes in a user name by default (auth_username_chars), within RFC 5321: nothing that
# a table of smtpd(8), a path or a command would read as its own (no "-" in front), and no "+",
# which separates a subaddress.
LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")

# Where an alias may lead: a subaddress, too, and whatever local part another server has, less what
# a table of smtpd(8) or its expansion would read as its own.
TARGET_LOCAL_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=&~-]{0,63}")

# RFC 2606, 6761, 6762 and 8375, ICANN's .internal, and what routers and offices name theirs, which
# is delegated to nobody. `bootstrap` has the same list.
INTERNAL = (
    *("internal", "local", "localdomain", "localhost", "lan", "home.arpa", "home", "corp"),
    *("intranet", "private", "invalid"),
)


def domain(name):
    """A domain, or a host name, of two labels or more."""
    if not isinstance(name, str) or len(name) > 253 or not name.isascii():
        return None
    labels = name.lower().split(".")
    if len(labels) < 2 or not all(map(LABEL.fullmatch, labels)) or labels[-1].isdigit():
        return None
    return ".".join(labels)


def address(text):
    """An address that can be an account's or an alias's."""
    if not isinstance(text, str) or not text.isascii():
        return None
    local, _, home = text.rpartition("@")
    local, home = local.lower(), domain(home)
    if home is None or len(local) > 64 or not LOCAL_PART.fullmatch(local):
        return None
    return f"{local}@{home}"


def target(text, domains=()):
    """
    Any address that mail can be sent on to.

    In lower case where the domain is one of `domains`, but for a tag: another server may tell A
    from a (RFC 5321, section 2.4).
    """
    text = text if isinstance(text, str) else ""
    local, _, home = text.rpartition("@")
    home = domain(home)
    if not home or not TARGET_LOCAL_PART.fullmatch(local) or local.endswith("."):
        return None
    if home in domains:
        user, plus, tag = local.partition("+")
        local = f"{user.lower()}{plus}{tag}"
    return f"{local}@{home}"


def catch_all(text):
    """`@domain`: all of a domain."""
    if not isinstance(text, str) or not text.startswith("@"):
        return None
    home = domain(text[1:])
    return f"@{home}" if home else None


def base(address):
    """The address without its subaddress: user@… of user+tag@…"""
    local, _, home = address.rpartition("@")
    return f"{local.partition('+')[0]}@{home}"


def like(text, example):
    """
    How a domain or address is to be written: an international one as DNS has it, in A-labels.

    So it is on the wire, since smtpd(8) has no SMTPUTF8 (RFC 6531), and in the name its user logs
    in with. Anything else is to be written like the example.
    """
    local, at, home = text.rpartition("@") if isinstance(text, str) else ("", "", "")
    with contextlib.suppress(AttributeError, UnicodeError):
        home = idna.encode(home, uts46=True).decode("ascii")
        if domain(home) and (not local or TARGET_LOCAL_PART.fullmatch(local)):
            return f"{local}{at}{home}"
    return example


def within(name, domain):
    """Whether a name is a domain, or in it."""
    return name == domain or name.endswith(f".{domain}")


def related(one, other):
    """Whether one of two names is in the other."""
    return within(one, other) or within(other, one)


def internal(name, domains):
    """Whether the world has no such name; who has a mail domain of that kind knows it."""
    ours = any(within(name, domain) for domain in domains)
    return not ours and any(within(name, suffix) for suffix in INTERNAL)


def bare(name):
    """A name of DNS in lower case and without its last dot."""
    return str(name).rstrip(".").lower()
