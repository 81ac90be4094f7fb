"""
Checks of the live machine and of live DNS: what the pillar promises against what is there.
"""

import collections
import concurrent.futures
import contextlib
import email.utils
import imaplib
import ipaddress
import os
import poplib
import re
import shlex
import smtplib
import socket
import ssl
import time
import uuid

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    from dns import exception, flags, message, query, rcode, rdatatype, resolver
except ImportError:
    resolver = None

__virtualname__ = "mailcheck"

HOST = "127.0.0.1"
TIMEOUT = 10  # seconds for one answer
PATIENCE = 30  # seconds for a message to arrive

RESOLV_CONF = "/etc/resolv.conf"
DNS_TIMEOUT = 2  # seconds for one answer of a name server
RESOLVER_TIMEOUT = 6  # seconds for one of the system's resolver
DNS_PATIENCE = 40  # seconds for all answers together
MAX_ALIASES = 8  # from one CNAME to the next


def __virtual__():
    return __virtualname__


def run():
    """
    Look at the whole machine: services, ports, a message sent and read back.

    The message goes in by SMTP on port 25 to the first account of the pillar, is read by IMAP and
    removed again.

    Returns ``ok`` or what is wrong, by check. The exit status is 1 where anything is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.run
    """
    facts = __salt__["mailsrv.facts"]()
    mined = __salt__["mailsrv.mined"](__pillar__)
    model = __salt__["mailsrv.model"](__pillar__, __grains__["fqdn"], facts, mined)
    daemons = ["opensmtpd", "dovecot"]
    if model["dkim"]["signer"] == "dkimproxy":
        daemons.append("dkimproxy")
    if model["rspamd"]:
        daemons.append("rspamd")
    checks = {f"service {facts[name]['service']}": (_service, facts[name]) for name in daemons}
    checks |= {
        "port 25, SMTP with STARTTLS": (_smtp, 25),
        "port 465, submission with TLS": (_submission, 465),
        "port 587, submission with STARTTLS": (_submission, 587),
        "port 110, POP3 with STARTTLS": (_pop3, poplib.POP3, 110),
        "port 143, IMAP with STARTTLS": (_imap, imaplib.IMAP4, 143),
        "port 993, IMAP with TLS": (_imap, imaplib.IMAP4_SSL, 993),
        "port 995, POP3 with TLS": (_pop3, poplib.POP3_SSL, 995),
        "port 4190, ManageSieve with STARTTLS": (_managesieve, 4190),
    }
    if model["accounts"]:
        address = model["accounts"][0]["address"]
        checks[f"a message to {address}, sent and read"] = (_round_trip, address)
    result = {}
    for name, (check, *arguments) in checks.items():
        try:
            check(*arguments)
            result[name] = "ok"
        except (OSError, EOFError, smtplib.SMTPException, *_PROTOCOL_ERRORS) as exc:
            result[name] = f"FAULT: {exc or type(exc).__name__}"
    # cmd.* left the status of the last command they ran, such as "not running", in there.
    __context__["retcode"] = 0 if set(result.values()) == {"ok"} else 1
    return result


def dns(domain=None, skip=None):
    """
    Look at DNS: the records that the pillar and the keys of this machine want against those that
    every authoritative server shows.

    domain
        One of the pillar's domains. Absent: all of them.

    skip
        What not to look at, beside ``mailsrv:dns:skip``: a list of types (``SRV``), names
        (``_dmarc.example.com``) or both (``example.com MX``).

    Returns by domain ``ok`` or a list of findings as :func:`compare` makes them. The exit status is
    1 where something ``required`` is missing, wrong, too much or could not be asked.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.dns
        salt-call mailcheck.dns example.com skip='[SRV, example.com MX]' --out=json
    """
    facts = __salt__["mailsrv.facts"]()
    model = _model(facts, skip)
    skipped = {tuple(entry) for entry in model["dns"]["skip"]}
    wanted, asked = __salt__["mailsrv.dns"](domain), {}
    for home, records in wanted.items():
        asked[home] = [
            (name, kind)
            for name, kind in _questions(home, records, model, facts["dkim"]["directory"])
            if not {(name, kind), (name, ""), ("", kind)} & skipped
        ]
    answers = _ask(dict.fromkeys(question for home in asked.values() for question in home))
    result = {}
    for home, questions in asked.items():
        live = {
            f"{name} {kind}": {
                server: answer.fault or list(answer.values)
                for server, answer in answers[name, kind].items()
            }
            for name, kind in questions
        }
        result[home] = compare(wanted[home], live) or "ok"
    findings = [finding for found in result.values() if found != "ok" for finding in found]
    needs = {finding["need"] for finding in findings}
    __context__["retcode"] = 1 if "required" in needs else 0
    return result


def compare(records, live):
    """
    The records that are wanted against those that name servers show.

    records
        A list of records as :func:`mailsrv.records` makes them.

    live
        What was seen: by question (``example.com MX``) and server the list of values, or, as text,
        why the server could not be asked. A record that was not asked for is not missed; what is
        shown where none is wanted, may be superfluous.

    Returns a list of findings: ``fault`` is ``missing``, ``wrong``, ``superfluous`` or ``unknown``
    (could not be asked), ``need`` is ``required`` or ``recommended``; ``name`` and ``type`` of the
    record; ``desired``, the value to publish; ``live``, the values that are shown instead or too
    much; ``servers`` that show it so; ``says``, all of it in a sentence. Required ones come first.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.dns
    """
    wanted = {}
    for record in records:
        wanted.setdefault((_absolute(record["name"]), record["type"]), []).append(record)
    found, unknown = {}, {}
    for question, servers in live.items():
        name, kind = question.split()
        for server, values in servers.items():
            if isinstance(values, str):
                unknown.setdefault((server, values), []).append((name, kind))
                continue
            for finding in _differences(name, kind, server, values, wanted, live):
                found.setdefault(finding, []).append(server)
    result = [
        _unknown(server, fault, questions, wanted) for (server, fault), questions in unknown.items()
    ]
    for (fault, name, kind, need, desired, shown, why), servers in found.items():
        asked = [s for s, values in live[f"{name} {kind}"].items() if not isinstance(values, str)]
        who = "every server" if len(servers) == len(asked) else " and ".join(servers)
        result.append(
            {
                "fault": fault,
                "need": need,
                "name": name,
                "type": kind,
                "desired": desired,
                "live": list(shown),
                "servers": servers,
                "says": _SENTENCES[fault].format(who=who, name=name, kind=kind, why=why),
            }
        )
    return sorted(result, key=lambda finding: finding["need"] != "required")


def lacking(name, type, value):
    """
    The authoritative name servers that do not show a record yet.

    Each server of the zone is asked itself, at each of its addresses, since what a resolver
    remembers says nothing about what the world will see. Where an alias (CNAME) stands at the name,
    the servers of its target are asked.

    name
        The record's name, absolute, with or without the last dot.

    type
        The record's type: A, AAAA, CNAME, MX, PTR, SRV, TLSA or TXT.

    value
        Its value as :func:`mailsrv.dns` gives it. Another spelling of the same is the same: the
        strings that a TXT record is cut into, the order of tags, case where it does not matter.

    Returns a list of sentences, one a server, e.g. ``ns2.example.net (192.0.2.2) still lacks it``
    or ``… does not answer``; empty where every one shows the record. Raises
    ``CommandExecutionError`` where no server can be found or none answers.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.lacking mailsrv._domainkey.example.com TXT 'v=DKIM1; k=rsa; p=MIIB…'
    """
    name, kind = _absolute(name), str(type).upper()
    try:
        wanted = _meaning(name, kind, value)
    except (IndexError, ValueError):
        raise SaltInvocationError(
            f"mailcheck.lacking: {value!r} is not the value of a record of the type {kind}"
        ) from None
    answers = _ask([(name, kind)])[name, kind]
    faults = [f"{server} {answer.fault}" for server, answer in answers.items() if answer.fault]
    if len(faults) == len(answers):
        raise CommandExecutionError(
            f"mailcheck: DNS cannot be asked for {name} {kind}: {'; '.join(faults)}"
        )
    return faults + [
        f"{server} still lacks it"
        for server, answer in answers.items()
        if not answer.fault and wanted not in [_meaning(name, kind, text) for text in answer.values]
    ]


_PROTOCOL_ERRORS = (imaplib.IMAP4.error, poplib.error_proto, CommandExecutionError)


def _service(daemon):
    if not __salt__["service.status"](daemon["service"]):
        raise CommandExecutionError(
            f"is not running; start it and see why: salt-call service.start {daemon['service']}"
        )
    if not __salt__["service.enabled"](daemon["service"]):
        raise CommandExecutionError("will not start at boot; run the highstate")


def _smtp(port):
    with smtplib.SMTP(HOST, port, timeout=TIMEOUT) as smtp:
        smtp.starttls(context=_tls())
        smtp.ehlo()
        if smtp.has_extn("auth"):
            raise CommandExecutionError("offers AUTH, which belongs on 465 and 587 alone")


def _submission(port):
    if port == 465:
        smtp = smtplib.SMTP_SSL(HOST, port, timeout=TIMEOUT, context=_tls())
    else:
        smtp = smtplib.SMTP(HOST, port, timeout=TIMEOUT)
    with smtp:
        smtp.ehlo()
        if port == 587:
            if smtp.has_extn("auth"):
                raise CommandExecutionError("offers AUTH before STARTTLS")
            smtp.starttls(context=_tls())
            smtp.ehlo()
        if not smtp.has_extn("auth"):
            raise CommandExecutionError("does not offer AUTH")


def _imap(client, port):
    options = {"ssl_context": _tls()} if client is imaplib.IMAP4_SSL else {}
    with client(HOST, port, timeout=TIMEOUT, **options) as imap:
        if client is imaplib.IMAP4:
            imap.starttls(_tls())


def _pop3(client, port):
    options = {"context": _tls()} if client is poplib.POP3_SSL else {}
    pop3 = client(HOST, port, timeout=TIMEOUT, **options)
    with contextlib.closing(pop3):
        if client is poplib.POP3:
            pop3.stls(_tls())
        pop3.quit()


def _managesieve(port):
    greeting = []
    with socket.create_connection((HOST, port), timeout=TIMEOUT) as connection:
        for line in connection.makefile("rb"):
            greeting.append(line.rstrip())
            if line.startswith((b"OK", b"NO", b"BYE")):
                break
    if b'"STARTTLS"' not in greeting:
        raise CommandExecutionError("does not offer STARTTLS")


def _round_trip(address):
    subject = f"mailcheck {uuid.uuid4()}"
    name = email.utils.make_msgid(domain=address.partition("@")[2])
    # Whole, or a spam filter would put it aside.
    message = (
        f"From: <{address}>\r\nTo: <{address}>\r\nSubject: {subject}\r\n"
        f"Date: {email.utils.formatdate()}\r\nMessage-ID: {name}\r\n\r\nhello\r\n"
    )
    with smtplib.SMTP(HOST, 25, timeout=TIMEOUT) as smtp:
        smtp.sendmail("", [address], message)
    # Dovecot's own IMAP process, logged in by root: no password is needed.
    with imaplib.IMAP4_stream(f"doveadm exec imap -u {shlex.quote(address)} 2>/dev/null") as imap:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            imap.select("INBOX")
            found = imap.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
            if found:
                imap.store(found[0], "+FLAGS.SILENT", r"(\Deleted)")
                imap.expunge()
                return
            time.sleep(0.2)
    raise CommandExecutionError(
        f"did not arrive within {PATIENCE} seconds; see: smtpctl show queue, and the mail log"
    )


def _tls():
    """TLS without a look at the certificate: it may be self-signed, and never names an address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# Asking DNS. A name is written in lower case and without its last dot.

_Answer = collections.namedtuple("_Answer", ("values", "alias", "fault"), defaults=((), "", ""))


def _ask(questions):
    """
    What every authoritative server answers: by question (name, type) an `_Answer` by server.

    The system's resolver is asked only who these servers are. Where it cannot tell, the one
    `_Answer` is its own, with the fault.
    """
    if resolver is None:
        raise CommandExecutionError(
            "mailcheck: the Python library dnspython is missing where Salt runs; install it with: "
            "salt-pip install dnspython (or, in Salt's venv, pip install dnspython)"
        )
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
            result[server] = _Answer(fault=f"leads from alias to alias, at last {answer.alias}")
    return result


def _ask_once(questions, local, deadline, pool):
    names = list(dict.fromkeys(name for name, _ in questions))
    found = pool.map(lambda name: _servers(name, local, deadline), names)
    found = dict(zip(names, found, strict=True))
    answers, turns, silent = {question: {} for question in questions}, {}, {}
    for name, kind in questions:
        zone, servers, fault = found[name]
        if fault:
            answers[name, kind]["the resolver"] = _Answer(fault=fault)
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
        for host in sorted(_absolute(server.target) for server in found):
            addresses = _addresses(host, local, deadline)
            # A server of both protocols is asked by the one that this machine has.
            usable = [address for address in addresses if _routed(address)] or addresses
            servers |= {f"{host} ({address})": address for address in usable}
            if not usable:
                servers[host] = None
    except exception.DNSException as exc:
        return "", {}, f"does not tell its name servers: {_words(exc)}"
    return _absolute(zone), servers, ""


def _addresses(host, local, deadline):
    found = []
    for kind in ("A", "AAAA"):
        with contextlib.suppress(resolver.NXDOMAIN, resolver.NoAnswer, resolver.NoNameservers):
            answer = local.resolve(f"{host}.", kind, lifetime=_left(deadline, RESOLVER_TIMEOUT))
            found += [record.address for record in answer]
    return found


def _routed(address):
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
        return _Answer(fault="has no address")
    if address in silent:
        return silent[address]
    try:
        reply = _exchange(name, kind, address, deadline)
    except (exception.DNSException, OSError, EOFError) as exc:
        silent[address] = _Answer(fault=f"does not answer: {_words(exc)}")
        return silent[address]
    if reply.rcode() not in (rcode.NOERROR, rcode.NXDOMAIN):
        return _Answer(fault=f"does not serve {zone}: {rcode.to_text(reply.rcode())}")
    if not reply.flags & flags.AA:
        # So does a network that answers in the place of every server.
        return _Answer(fault=f"answers for {zone} without authority")
    values, alias = [], ""
    for found in reply.answer:
        if _absolute(found.name) == name:
            if found.rdtype == rdatatype.from_text(kind):
                values = [_text(record) for record in found]
            elif found.rdtype == rdatatype.CNAME:
                alias = _absolute(found[0].target)
    return _Answer(values, alias)


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


# Comparing

_SENTENCES = {
    "missing": "{name} {kind} is missing at {who}: {why}",
    "wrong": "{name} {kind} is wrong at {who}: {why}",
    "superfluous": "{name} {kind} is one too many at {who}: {why}; remove it",
}

# What is wrong with a record that nobody wants, by its kind, and how bad that is.
_SUPERFLUOUS = {
    "SPF": ("required", "with two SPF records receivers take neither"),
    "DMARC": ("recommended", "with two DMARC records receivers take neither"),
    "DKIM": ("recommended", "no key of this server signs under this selector"),
    "second DKIM": ("required", "of two keys under one selector receivers may take the other"),
    "MTA-STS": ("recommended", "there is no such policy in the pillar"),
    "TLS-RPT": ("recommended", "with two TLS-RPT records nobody reports"),
    "MX": ("required", "mail goes to that host, too"),
    "SRV": ("recommended", "mail clients go to that host, too"),
    "A": ("required", "mail goes to that address, too"),
    "AAAA": ("required", "mail goes to that address, too"),
    "TLSA": (
        "required",
        "other servers insist on its key, and mailsrv:dns:dane does not say that it is ours",
    ),
}


def _model(facts, skip):
    """The model of the pillar, with more to skip as if it stood there."""
    mined = __salt__["mailsrv.mined"](__pillar__)
    model = __salt__["mailsrv.model"](__pillar__, __grains__["fqdn"], facts, mined)
    if not skip:
        return model
    settings = __pillar__.get("mailsrv") or {}
    given = settings.get("dns") or {}
    more = [*(given.get("skip") or []), *(skip if isinstance(skip, list) else [skip])]
    pillar = {**__pillar__, "mailsrv": {**settings, "dns": {**given, "skip": more}}}
    return __salt__["mailsrv.model"](pillar, __grains__["fqdn"], facts, mined)


def _questions(domain, records, model, key_directory):
    """What to ask for a domain: its records, and where those may stand that are not wanted."""
    hostname = model["hostname"]
    questions = [(_absolute(record["name"]), record["type"]) for record in records]
    questions.append((f"_mta-sts.{domain}", "TXT"))
    # The records of keys stay beside them: of those in use, and of those of before.
    for directory in filter(os.path.isdir, (key_directory, f"{key_directory}/{domain}")):
        questions += [
            (f"{name.removesuffix('.public')}._domainkey.{domain}", "TXT")
            for name in sorted(os.listdir(directory))
            if re.fullmatch(r"[a-z0-9.-]+\.public", name)
        ]
    if (hostname, "TXT") in questions:
        questions += [(hostname, "A"), (hostname, "AAAA"), (f"_25._tcp.{hostname}", "TLSA")]
    for record in records:
        if record["type"] == "CNAME":
            names = (_absolute(record["name"]), _absolute(record["value"]))
            questions += [(name, kind) for name in names for kind in ("A", "AAAA")]
    return list(dict.fromkeys(questions))


def _differences(name, kind, server, values, wanted, live):
    """What a server shows otherwise than wanted at one name, as the beginnings of findings."""
    desired, rest = wanted.get((name, kind), []), list(values)
    lost = []
    for record in desired:
        meaning = _meaning(name, kind, record["value"])
        same = [value for value in rest if _meaning(name, kind, value) == meaning]
        if same:
            rest.remove(same[0])
        elif kind != "CNAME" or not _leads(name, server, record["value"], live):
            lost.append(record)
    sorts = [_sort(name, record["value"]) for record in desired]
    rivals = [v for v in rest if kind != "TXT" or (_sort(name, v) in sorts and _sort(name, v))]
    for record in lost:
        fault = "wrong" if rivals else "missing"
        yield fault, name, kind, record["need"], record["value"], tuple(rivals), record["why"]
    if lost:
        return
    for value in rest:
        sort = _sort(name, value) if kind == "TXT" else kind
        if sort in _SUPERFLUOUS and _too_much(name, kind, sort, value, desired, wanted):
            need, why = _SUPERFLUOUS["second DKIM" if sort == "DKIM" and desired else sort]
            yield "superfluous", name, kind, need, None, (value,), why


def _too_much(name, kind, sort, value, desired, wanted):
    if kind in ("A", "AAAA"):
        # Of the mail host; the host of the web is asked only where an alias leads to it.
        return bool(wanted.keys() & {(name, "A"), (name, "AAAA")})
    if kind == "TLSA":
        return not desired  # one of several may be for the next key
    if sort == "DKIM":
        return bool(desired or _tags(value)["p"])  # a revoked key may stay
    return bool(desired) or sort == "MTA-STS"


def _leads(name, server, target, live):
    """Whether a server has, in place of the alias, addresses of its target and no others."""
    target, here, there = _absolute(target), set(), set()
    for kind in ("A", "AAAA"):
        own = live.get(f"{name} {kind}", {}).get(server, [])
        here |= {*own} if isinstance(own, list) else set()
        for values in live.get(f"{target} {kind}", {}).values():
            there |= {*values} if isinstance(values, list) else set()
    return bool(here) and here <= there


def _unknown(server, fault, questions, wanted):
    """One finding for all that could not be asked of a server for one reason."""
    needs = {record["need"] for question in questions for record in wanted.get(question, [])}
    name, kind = questions[0]
    more = f" and {len(questions) - 1} more" if len(questions) > 1 else ""
    return {
        "fault": "unknown",
        "need": "required" if "required" in needs else "recommended",
        "name": name,
        "type": kind,
        "desired": None,
        "live": [],
        "servers": [server],
        "says": f"{server} {fault}; it was asked for {name} {kind}{more}",
    }


# What a record says, in a form that is equal where the meaning is


def _absolute(name):
    return str(name).rstrip(".").lower()


def _meaning(name, kind, text):
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(text))
    if kind == "MX":
        return _absolute(text.split()[1])  # of one host, the preference means nothing
    if kind == "SRV":
        return tuple(_absolute(word) for word in text.split()[2:])  # nor do priority and weight
    if kind == "TLSA":
        usage, selector, matching, *digest = text.lower().split()
        return usage, selector, matching, "".join(digest)
    if kind != "TXT":
        return _absolute(text)
    sort = _sort(name, text)
    if sort == "SPF":
        return _spf(name, text)
    if sort == "DKIM":
        return _dkim(_tags(text))
    return _tagged(_tags(text)) if sort else text


def _sort(name, text):
    """Which of mail's TXT records it is; empty where it is somebody else's."""
    if "._domainkey." in name:  # RFC 6376, section 3.6.1: the version may be left out
        return "DKIM" if "p" in _tags(text) else ""
    version = re.split(r"[\s;]", text.strip().lower(), maxsplit=1)[0]
    sorts = {"v=spf1": "SPF", "v=dmarc1": "DMARC", "v=tlsrptv1": "TLS-RPT", "v=stsv1": "MTA-STS"}
    return sorts.get(version, "")


def _tags(text):
    """A list of `tag=value;` as a dictionary (RFC 6376, section 3.2)."""
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return {tag.strip().lower(): value.strip() for tag, _, value in pairs}


def _dkim(tags):
    """RFC 6376, section 3.6.1. For mail as ours is signed, `t=s` and notes make no difference."""
    listed = {
        tag: set(re.split(r"[\s:]+", tags.get(tag, default).lower()))
        for tag, default in (("h", "sha256"), ("s", "*"), ("t", ""))
    }
    return (
        tags.get("k", "rsa").lower(),
        re.sub(r"\s", "", tags["p"]),
        "sha256" in listed["h"],
        bool({"*", "email"} & listed["s"]),
        "y" in listed["t"],
    )


# RFC 7489, section 6.3: what a tag says that is not there.
_TAG_DEFAULTS = {"adkim": "r", "aspf": "r", "fo": "0", "pct": "100", "rf": "afrf", "ri": "86400"}


def _tagged(tags):
    """The tags of DMARC (RFC 7489), TLS-RPT (RFC 8460) or MTA-STS (RFC 8461)."""
    said = {}
    for tag, value in tags.items():
        if tag in ("rua", "ruf"):
            said[tag] = frozenset(uri.strip().lower() for uri in value.split(","))
        else:
            said[tag] = value if tag == "id" else value.lower()
    if said.get("sp") == said.get("p"):
        said.pop("sp", None)
    return frozenset(said.items() - _TAG_DEFAULTS.items())


def _spf(name, text):
    """
    The terms of an SPF record (RFC 7208).

    The first mechanism that matches decides: those that stand together with one qualifier may
    stand in any order, and what follows `all` is never looked at.
    """
    groups, modifiers, end = [], set(), "?"
    for term in text.split()[1:]:
        term = term if "%" in term else term.lower()
        if re.match(r"[a-z][a-z0-9._-]*=", term):
            modifiers.add(term)
            continue
        qualifier, mechanism = (term[0], term[1:]) if term[0] in "+-~?" else ("+", term)
        if mechanism == "all":
            end = qualifier
            modifiers = {other for other in modifiers if not other.startswith("redirect=")}
            break
        if not groups or groups[-1][0] != qualifier:
            groups.append((qualifier, set()))
        groups[-1][1].add(_mechanism(name, mechanism))
    return tuple((sign, frozenset(group)) for sign, group in groups), frozenset(modifiers), end


def _mechanism(name, mechanism):
    word, _, target = mechanism.partition(":")
    if word in ("ip4", "ip6"):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_network(target, strict=False))
    return word if word in ("a", "mx") and _absolute(target) == name else mechanism.rstrip(".")
