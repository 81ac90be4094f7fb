"""
Asking DNS: what every authoritative name server of a record shows, each asked itself. What a
resolver remembers says nothing about what the world will see.

A name is written in lower case and without its last dot.
"""

import collections
import concurrent.futures
import contextlib
import socket
import time

from salt.exceptions import CommandExecutionError

from _mailsrv.names import bare

try:
    from dns import exception, flags, message, query, rcode, rdatatype, resolver
except ImportError:
    resolver = None

MISSING = (
    "the Python library dnspython is missing where Salt runs; install it with: salt-pip install "
    "dnspython (or, in Salt's venv, pip install dnspython)"
)
RESOLV_CONF = "/etc/resolv.conf"
DNS_TIMEOUT = 2  # seconds for one answer of a name server
RESOLVER_TIMEOUT = 6  # seconds for one of the system's resolver
DNS_PATIENCE = 40  # seconds for all answers together
MAX_ALIASES = 8  # from one CNAME to the next
Answer = collections.namedtuple("Answer", ("values", "alias", "fault"), defaults=((), "", ""))


def ask(questions):
    """
    What every authoritative server answers: by question (name, type) an `Answer` by server.

    The system's resolver is asked only who these servers are. Where it cannot tell, the one
    `Answer` is its own, with the fault.
    """
    if resolver is None:
        raise CommandExecutionError(f"mailcheck: {MISSING}")
    try:
        local = resolver.Resolver(RESOLV_CONF)
    except resolver.NoResolverConfiguration:
        raise CommandExecutionError(
            f"mailcheck: {RESOLV_CONF} names no resolver to ask for the name servers"
        ) from None
    local.cache = resolver.LRUCache()
    deadline = time.monotonic() + DNS_PATIENCE
    answers, ahead = {}, list(questions)
    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        for _ in range(MAX_ALIASES):
            answers |= _ask_once(ahead, local, deadline, pool)
            targets = [
                (answer.alias, kind)
                for name, kind in ahead
                for answer in answers[name, kind].values()
                if answer.alias
            ]
            ahead = [target for target in dict.fromkeys(targets) if target not in answers]
    return {question: _followed(question, answers, MAX_ALIASES) for question in questions}


def exchangers(domain):
    """
    The hosts that take mail for a domain, the preferred one first; none where there is none. Raises
    ``LookupError`` where the system's resolver does not tell.
    """
    found = [value.split() for value in known(domain, "MX")]
    hosts = sorted((int(preference), bare(host)) for preference, host in found)
    return [host for _, host in hosts if host]  # "." is nobody (RFC 7505)


def known(name, kind):
    """
    What the system's resolver says, values as in a zone file; none where there are none. Raises
    ``LookupError`` where it does not tell, which includes that it asked the wrong side for a DS
    record: that is the parent's, and the zone itself has none (RFC 4035, section 3.1.4.1).
    """
    if resolver is None:
        raise LookupError(MISSING)
    try:
        local = resolver.Resolver(RESOLV_CONF)
        found = local.resolve(f"{name}.", kind, lifetime=RESOLVER_TIMEOUT, search=False)
    except resolver.NXDOMAIN:
        return []
    except resolver.NoAnswer as exc:
        zones = [r.name for r in exc.kwargs["response"].authority if r.rdtype == rdatatype.SOA]
        if kind == "DS" and name in map(bare, zones):
            raise LookupError(
                f"DNS does not tell {name} DS: {RESOLV_CONF} names a server of {name} itself where "
                "a resolver belongs"
            ) from None
        return []
    except (exception.DNSException, ValueError) as exc:
        raise LookupError(f"DNS does not tell {name} {kind}: {_words(exc)}") from None
    return [_text(record) for record in found]


def told(questions):
    """The same of many: by question the values, text; None: it does not tell."""

    def asked(question):
        try:
            return known(*question)
        except LookupError:
            return None

    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(questions, pool.map(asked, questions), strict=True))


def servers(name):
    """
    The zone of a name, and the addresses of its authoritative servers by what these are called.
    Raises ``LookupError`` where the system's resolver does not tell.
    """
    if resolver is None:
        raise LookupError(MISSING)
    try:
        local = resolver.Resolver(RESOLV_CONF)
    except (exception.DNSException, ValueError) as exc:
        raise LookupError(_words(exc)) from None
    zone, found, fault = _servers(name, local, time.monotonic() + DNS_PATIENCE)
    if fault:
        raise LookupError(f"the resolver {fault}")
    return zone, {server: address for server, address in found.items() if address}


def exchange(name, kind, address):
    """The answer of a server, a message of dnspython, with the signatures of what is in it."""
    return query.tcp(message.make_query(name, kind, want_dnssec=True), address, RESOLVER_TIMEOUT)


def _followed(question, answers, steps):
    """The answers to a question by server: in place of an alias those of its target's servers."""
    result = {}
    for server, answer in answers[question].items():
        target = (answer.alias, question[1])
        if not answer.alias:
            result[server] = answer
        elif steps and target in answers:
            result |= _followed(target, answers, steps - 1)
        else:
            result[server] = Answer(fault=f"leads from alias to alias, at last {answer.alias}")
    return result


def _ask_once(questions, local, deadline, pool):
    names = list(dict.fromkeys(name for name, _ in questions))
    found = pool.map(lambda name: _servers(name, local, deadline), names)
    found = dict(zip(names, found, strict=True))
    answers, turns, silent = {question: {} for question in questions}, {}, {}
    for name, kind in questions:
        zone, servers, fault = found[name]
        if fault:
            answers[name, kind]["the resolver"] = Answer(fault=fault)
        for server, address in servers.items():
            # In turn to each server, so that one that is silent keeps one thread waiting.
            turns.setdefault((zone, server, address), []).append((name, kind))

    def ask(turn):
        zone, _, address = turn
        return [_answer(*asked, zone, address, silent, deadline) for asked in turns[turn]]

    for turn, given in zip(turns, pool.map(ask, turns), strict=True):
        for asked, answer in zip(turns[turn], given, strict=True):
            answers[asked][turn[1]] = answer
    return answers


def _servers(name, local, deadline):
    """The zone of a name, the addresses of its servers by what they are called, or a fault."""
    servers = {}
    try:
        zone = resolver.zone_for_name(
            f"{name}.", resolver=local, lifetime=_left(deadline, RESOLVER_TIMEOUT)
        )
        if len(zone) < 3:
            return "", {}, "knows no zone for it: is the domain registered and delegated?"
        found = local.resolve(zone, "NS", lifetime=_left(deadline, RESOLVER_TIMEOUT))
        for host in sorted(bare(server.target) for server in found):
            addresses = _addresses(host, local, deadline)
            # A server of both protocols is asked by the one that this machine has.
            usable = [address for address in addresses if routed(address)] or addresses
            servers |= {f"{host} ({address})": address for address in usable}
            if not usable:
                servers[host] = None
    except exception.DNSException as exc:
        return "", {}, f"does not tell its name servers: {_words(exc)}"
    return bare(zone), servers, ""


def _addresses(host, local, deadline):
    found = []
    for kind in ("A", "AAAA"):
        with contextlib.suppress(resolver.NXDOMAIN, resolver.NoAnswer, resolver.NoNameservers):
            answer = local.resolve(f"{host}.", kind, lifetime=_left(deadline, RESOLVER_TIMEOUT))
            found += [record.address for record in answer]
    return found


def routed(address):
    """Whether this machine has a way there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 53))  # sends nothing
        except OSError:
            return False
    return True


def _answer(name, kind, zone, address, silent, deadline):
    """The answer of the server at an address, which is noted as `silent` where it gives none."""
    if address is None:
        return Answer(fault="has no address")
    if address in silent:
        return silent[address]
    try:
        reply = _exchange(name, kind, address, deadline)
    except (exception.DNSException, OSError, EOFError) as exc:
        silent[address] = Answer(fault=f"does not answer: {_words(exc)}")
        return silent[address]
    if reply.rcode() not in (rcode.NOERROR, rcode.NXDOMAIN):
        return Answer(fault=f"does not serve {zone}: {rcode.to_text(reply.rcode())}")
    if not reply.flags & flags.AA:
        # So does a network that answers in the place of every server.
        return Answer(fault=f"answers for {zone} without authority")
    values, alias = [], ""
    for found in reply.answer:
        if bare(found.name) == name:
            if found.rdtype == rdatatype.from_text(kind):
                values = [_text(record) for record in found]
            elif found.rdtype == rdatatype.CNAME:
                alias = bare(found[0].target)
    return Answer(values, alias)


def _exchange(name, kind, address, deadline):
    """Ask by UDP, and by TCP where the answer is cut off or does not come."""
    asked = message.make_query(f"{name}.", kind, use_edns=0, payload=1232)
    asked.flags &= ~flags.RD
    for _ in range(2):
        with contextlib.suppress(exception.Timeout):
            return query.udp_with_fallback(asked, address, _left(deadline), ignore_unexpected=True)[
                0
            ]
    return query.tcp(asked, address, _left(deadline))


def _left(deadline, most=DNS_TIMEOUT):
    """The seconds that one answer may take."""
    return min(most, max(0, deadline - time.monotonic()))


def _words(exc):
    if isinstance(exc, exception.Timeout):
        return "time is up"
    # Without the name that was asked for: one thing to say, however many names there are.
    return getattr(exc, "strerror", None) or getattr(exc, "msg", None) or exc.__class__.__name__


def _text(record):
    """A record's value as `mailsrv.dns` writes it."""
    if record.rdtype == rdatatype.TXT:
        return b"".join(record.strings).decode("ascii", "backslashreplace")
    return record.to_text()
