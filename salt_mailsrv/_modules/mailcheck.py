"""
Checks of the live machine and of live DNS: what the pillar promises against what is there.
"""

import contextlib
import datetime
import os
import smtplib
import socket
import ssl
import sys
import time
import uuid

import _mailsrv_banned as banned
import _mailsrv_checking as checking
import _mailsrv_disk as disk
import _mailsrv_dnssec as signed
import _mailsrv_learning as learning
import _mailsrv_leaving as leaving
import _mailsrv_peer as peers
import _mailsrv_spf as costs
import _mailsrv_standing_in as standing_in
import _mailsrv_talking as talking
import _mailsrv_telling as telling
import _mailsrv_timers as timers
import _mailsrv_web as web
from _mailsrv import acme, compare, keys, probe, resolve, settings, signature, upgrading, waiting
from _mailsrv import changes as news
from _mailsrv.faults import joined
from _mailsrv.names import bare
from _mailsrv.records import PORTS
from _mailsrv.verifiers import Refused
from _mailsrv_here import valid
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "mailcheck"

# How a master prints it, which has no outputter of ours and would log an error for it.
__outputter__ = dict.fromkeys(("run", "peer", "dns", "lacking", "changes", "notify"), "yaml")

HOST = "127.0.0.1"
TIMEOUT = 10  # seconds for one answer
LIMIT = 45  # seconds for all checks together, which run side by side


def __init__(opts):
    if opts.get("__cli") == "salt-call":
        __outputter__.update(dict.fromkeys((*__outputter__, "upgrade"), "mailsrv"))


def __virtual__():
    return __virtualname__


def run(queue=100, free=10):
    """
    Look at the whole machine, as a client, a stranger and a user do.

    Services; every port, what it offers before and after TLS, and the certificate that it serves
    against the one on the disk; that nobody relays; a message sent and read back; the DKIM
    signature of every domain against the public key on the disk; queue and disks; that mail leaves,
    by a relay or port 25; backup MXs, from both sides; that bans work; what HTTPS serves; how the
    timers' work ended; that the spam filter remembers and learns. The messages go to an account of
    the pillar and are removed again. What has not ended after 45 seconds is a fault.

    queue
        Messages that wait, from which on it is a warning. Default: 100.

    free
        Percent of a disk that should be free. Default: 10; less than 3 is a fault.

    Returns a text by check: ``ok``, or ``ok:`` and a note, ``skipped:``, ``WARNING:`` or ``FAULT:``
    and what is wrong and what to do. The exit status is 1 where there is a fault.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.run
        salt-call mailcheck.run queue=1000 --out=json
    """
    result = checking.together(_checks(queue, free), LIMIT)
    # cmd.* left the status of the last command they ran, such as "not running", in there.
    __context__["retcode"] = checking.retcode(result)
    return result


def _checks(queue=100, free=10):
    """The checks of `run`: by name a function and its arguments."""
    facts, model = _known()
    names = ["opensmtpd", "dovecot", model["dkim"]["signer"], *["rspamd"] * model["rspamd"]]
    names += ["fail2ban", "guesses"] * bool(model["bans"]) + ["web"] * model["web"]
    names += ["redis"] * model["redis"]
    daemons = [facts[name] for name in dict.fromkeys(names)]
    checks = {f"service {d['service']}": (_service, d) for d in daemons if "service" in d}
    checks["certificate"] = (_certificate, model)
    for port in PORTS:
        what = "submission" if port.service.startswith("submission") else port.protocol
        checks[f"port {port.number}, {what} with {port.tls}"] = (_port, port, model)
    checks["no open relay"] = (talking.relay, model["domains"][0], HOST, TIMEOUT)
    for user in probe.users(model)[:1]:
        checks[f"a message to {user}, in by SMTP and out by IMAP"] = (_round_trip, user, facts)
        checks["DKIM signatures"] = (_signatures, user, model, facts)
    checks["queue"] = (_queue, queue)
    checks |= leaving.checks(model["relay"], __pillar__, TIMEOUT)
    checks |= standing_in.checks(model, facts, TIMEOUT)
    smtpd = facts["opensmtpd"]
    for path, reserve in ((facts["vmail"]["home"], 0), (smtpd["spool"], smtpd["spool_free"])):
        checks[f"disk of {path}"] = (disk.room, path, free, reserve)
    checks["leftovers"] = (_leftovers,)
    if __grains__.get("init") == "systemd":
        checks["timers"] = (timers.check,)
    checks |= {"bans": (banned.check,)} if model["bans"] else {}
    checks |= {"web": (web.check, model, HOST, TIMEOUT)} if model["web"] else {}
    checks |= learning.checks(model, facts, TIMEOUT)
    checks["blocked accounts"] = (_blocked,)
    return checks


def upgrade(free=2):
    """
    Look at whether this machine is ready for the next release of Debian, and say what will happen.
    Nothing is changed.

    free
        Gigabytes of the disk that the packages need. Default: 2.

    Returns a text by check, as :func:`run` does, what comes with the release, and as ``commands``
    a list of what to do. The exit status is 1 where there is a fault. Raises
    ``CommandExecutionError`` where no next release is known.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.upgrade
    """
    release = __grains__.get("oscodename")
    if release not in upgrading.RELEASES:
        raise CommandExecutionError(
            f"mailcheck.upgrade knows what follows {joined([*upgrading.RELEASES], 'and')}, "
            f"not {release}"
        )
    facts = _known()[0]
    installed = __salt__["mailsrv.version"](facts["dovecot"]["version_of"])
    result = {
        "release": f"{release} becomes {upgrading.RELEASES[release]}",
        "Dovecot": upgrading.dovecot(installed, __grains__.get("init") == "systemd"),
        "Salt": _next_salt(),
        "backup": "copy the mailboxes, the pillar and the keys away before you begin",
    }
    checks = {
        "packages": _packages,
        "held packages": _held,
        "highstate": _nothing_to_do,
        "server": _no_fault,
        "disk of /": lambda: disk.gigabytes("/", free),
    }
    # One after the other: a highstate, and all that `run` does at once.
    result |= {name: checking.said(check) for name, check in checks.items()}
    result["commands"] = upgrading.commands(release, facts)
    __context__["retcode"] = checking.retcode(result)
    return result


def peer(host=None, to=None):
    """
    Look at a mail machine from this one, as a stranger and a mail client see it.

    Its addresses and PTR records; every port, what it offers before and after TLS, old TLS, and its
    certificate, against that of the mine; that nobody relays; postmaster and unknown recipients;
    MX, SPF and DKIM of its domains as a receiver finds them. This minion need not be a mail
    machine. No message is sent unless `to` says so, and no password.

    host
        Its host name. Default: every mail machine that the mine knows, less this one.

    to
        An address there to which a message is sent, and stays: ``postmaster`` is that of its first
        domain. It asks for a receipt (RFC 3461), which comes to an account of this machine, is
        judged as a receiver does, SPF and DKIM, and removed. Needs a mail machine here.

    Returns a text by check, as :func:`run` does; without a host a dictionary of them by host. The
    exit status is 1 where there is a fault. It ends within a minute for 20 machines, whatever is
    there. Raises ``SaltInvocationError`` for what is no host name or address, and where the mine
    knows no mail machine.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.peer mail.example.com
        salt-call mailcheck.peer mail.example.com to=postmaster@example.com
        salt '*' mailcheck.peer --out=json --static
    """
    result = peers.look(host, to, __salt__, __grains__)
    found = [result] if host is not None else result.values()
    __context__["retcode"] = max(map(checking.retcode, found), default=0)
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

    Returns by domain ``ok`` or a list of findings as :func:`_mailsrv.compare.findings` makes them.
    The exit status is 1 where something ``required`` is missing, wrong, too much or could not be
    asked.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.dns
        salt-call mailcheck.dns example.com skip='[SRV, example.com MX]' --out=json
    """
    facts, model = _known()
    faults, given = [], skip if isinstance(skip, list | None) else [skip]
    more = settings.skip(given, "skip", faults)
    if faults:
        raise SaltInvocationError("mailcheck.dns: " + "\n".join(faults))
    skipped = {tuple(entry) for entry in [*model["dns"]["skip"], *more]}
    wanted, asked = __salt__["mailsrv.dns"](domain), {}
    for home, listed in wanted.items():
        asked[home] = [
            (name, kind)
            for name, kind in compare.questions(home, listed, model, _selectors(facts, home))
            if not {(name, kind), (name, ""), ("", kind)} & skipped
        ]
    answers = resolve.ask(dict.fromkeys(question for home in asked.values() for question in home))
    result = {}
    for home, questions in asked.items():
        live = {
            f"{name} {kind}": {
                server: answer.fault or list(answer.values)
                for server, answer in answers[name, kind].items()
            }
            for name, kind in questions
        }
        found = costs.findings(home, wanted[home], live)
        result[home] = [*found, *signed.findings(wanted[home], live)] or "ok"
    needs = {finding["need"] for found in result.values() if found != "ok" for finding in found}
    __context__["retcode"] = 1 if "required" in needs else 0
    return result


def changes():
    """
    What has changed since somebody was told by mail, as the next mail would say it if it stays so.

    Looks at all that :func:`notify` looks at, sends messages of its own as :func:`run` does, and
    notes nothing. Where the pillar has no ``notify``, it is all that is not well.

    Returns the mail: whom to, its subject and its text.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.changes
    """
    now, notes = time.time(), news.notes(disk.text(_notes()))
    told, new, gone = news.judge(notes, _look(lambda part: True), now, at_once=True)
    about = _about(notes)
    __context__["retcode"] = 0
    if not new and not gone:
        return news.NOTHING
    subject, text = news.mail(about["host"], new, gone, news.standing(told), now)
    return news.shown({"to": about["to"], "subject": subject, "text": text})


def notify():
    """
    Look, and mail what has changed to ``notify`` of the pillar. For a timer, which comes each
    quarter of an hour.

    Each time it looks at the machine, as :func:`run` does, but without a message to a mailbox; once
    a day at all of it, at DNS, and at what a run would change. A fault is told when it was seen
    twice in a row, and that it is gone after an hour. An address that is new in the pillar is told
    first how it stands. While smtpd(8) takes no mail it is told by a later look.

    Returns the mail that was sent, or what there is to tell and why it was not mailed: then the
    exit status is 1.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.notify
    """
    result, fault = telling.tell(_notes(), _look, _about, _figures)
    __context__["retcode"] = 1 if fault else 0
    return result


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

    Returns a list of sentences, one a server, e.g. ``ns2.example.net (192.0.2.2) still lacks it``,
    ``… does not answer`` or ``… shows one that verifiers throw away: v= is not first``; empty where
    every one shows the record. Raises
    ``CommandExecutionError`` where no server can be found or none answers.

    CLI Example:

    .. code-block:: bash

        salt-call mailcheck.lacking mailsrv._domainkey.example.com TXT 'v=DKIM1; k=rsa; p=MIIB…'
    """
    name, kind = bare(name), str(type).upper()
    try:
        compare.lacks(name, kind, value, [])
    except (IndexError, ValueError) as exc:
        why = f": {exc}" if isinstance(exc, Refused) else ""
        raise SaltInvocationError(
            f"mailcheck.lacking: {value!r} is not the value of a record of the type {kind}{why}"
        ) from None
    answers = resolve.ask([(name, kind)])[name, kind]
    faults = {server: answer.fault for server, answer in answers.items() if answer.fault}
    if len(faults) == len(answers):
        said = "; ".join(f"{server} {fault}" for server, fault in faults.items())
        raise CommandExecutionError(f"mailcheck: DNS cannot be asked for {name} {kind}: {said}")
    return [
        f"{server} {why}"
        for server, answer in answers.items()
        if (why := answer.fault or compare.lacks(name, kind, value, answer.values))
    ]


def _known():
    """The facts and the model, where the pillar is valid."""
    known = __salt__["mailsrv.here"]()
    return known["facts"], valid(known["model"], known["faults"])


def _selectors(facts, domain):
    """All selectors that keys of a domain have had here."""
    top = facts["dkim"]["directory"]
    places = filter(os.path.isdir, (top, f"{top}/{domain}"))
    return [selector for place in places for selector in keys.selectors(os.listdir(place))]


# Checks of the machine. Each returns what it has to say, or raises what is wrong.


def _service(daemon):
    if not __salt__["service.status"](daemon["service"]):
        raise CommandExecutionError(
            f"is not running; start it and see why: salt-call service.start {daemon['service']}"
        )
    if not __salt__["service.enabled"](daemon["service"]):
        raise CommandExecutionError("will not start at boot; run the highstate")


def _on_disk(model):
    """The file with the certificate to serve, and what it is."""
    tls = model["tls"]
    path = tls["sources"].get("cert", tls["cert"])
    if path.startswith("salt://"):
        path = tls["cert"]
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = __salt__["certificate.look"](file.read(), model["hostname"])
    except OSError as exc:
        raise CommandExecutionError(f"{path} cannot be read: {exc.strerror}") from None
    if found["broken"]:
        raise CommandExecutionError(f"{path} {found['broken'][0][1]}")
    return path, found


def _certificate(model):
    path, found = _on_disk(model)
    if found["doubtful"]:
        faults = "; ".join(sentence for _, sentence in found["doubtful"])
        raise CommandExecutionError(f"{path} {faults}")
    remembered = disk.text(f"{_known()[0]['acme']['directory']}/said")
    said = acme.standing(path, found, model["tls"], remembered, time.time())
    if said:
        return said
    for port in PORTS:
        if port.tls != "TLS":
            continue
        context = talking.verifying(model["tls"])
        try:
            with (
                socket.create_connection((HOST, port.number), TIMEOUT) as plain,
                context.wrap_socket(plain, server_hostname=model["hostname"]) as secured,
            ):
                talking.leave(secured, port.protocol)
        except ssl.SSLCertVerificationError as exc:
            return (
                f"WARNING: this machine itself does not trust what port {port.number} serves: "
                f"{exc.verify_message}; name the file with the whole chain in mailsrv:tls:cert"
            )
    return f"until {found['until'][:10]}"


def _port(port, model):
    talk = talking.look(port, HOST, TIMEOUT, talking.stranger())
    if talk.early:
        raise CommandExecutionError(
            "takes passwords before STARTTLS, for all to read; run the highstate"
        )
    if talk.passwords and port.number == 25:
        raise CommandExecutionError(
            "offers AUTH, which belongs on 465 and 587 alone; run the highstate"
        )
    if not talk.passwords and port.number != 25:
        raise CommandExecutionError("takes no password under TLS; run the highstate")
    path, found = _on_disk(model)
    if talk.served != found["fingerprint"]:
        raise CommandExecutionError(
            f"serves another certificate (SHA-256 {talk.served[:16]}…) than stands in {path} "
            f"({found['fingerprint'][:16]}…): run the highstate; if that has nothing to change, "
            "restart the service"
        )


def _round_trip(address, facts):
    subject, key = f"mailcheck {uuid.uuid4()}", talking.mark_key(facts)
    with smtplib.SMTP(HOST, 25, timeout=TIMEOUT) as smtp:
        smtp.sendmail("", [address], probe.message(address, address, subject, key))
    talking.received(address, [subject], key)


def _signatures(address, model, facts):
    """Hand a message from each domain to the signer, as smtpd(8) does with mail that leaves."""
    key, listed = talking.mark_key(facts), __salt__["mailsrv.signing"]()
    published = _public_keys(listed)
    port = 10027 if model["dkim"]["signer"] == "dkimproxy" else 25
    subjects = {domain: f"mailcheck {uuid.uuid4()}" for domain in model["domains"]}
    by = keys.signs_for(model["domains"], listed)
    with smtplib.SMTP(HOST, port, timeout=TIMEOUT) as smtp:
        for domain, subject in subjects.items():
            smtp.sendmail(
                "", [address], probe.message(f"mailcheck@{domain}", address, subject, key)
            )
    received = talking.received(address, list(subjects.values()), key)
    faults = [
        f"{domain}: {fault}"
        for domain, subject in subjects.items()
        if (fault := signature.fault(received[subject], by[domain], published))
    ]
    if faults:
        raise CommandExecutionError("; ".join(faults))
    return signature.said(by)


def _public_keys(listed):
    """The records on the disk that publish the keys, as tags, by their names in DNS."""
    result = {}
    for key in listed:
        with open(key["public"], encoding="ascii") as file:
            name, record = signature.published(file.read())
        result |= {f"{name}.{domain}": record for domain in key["domains"]}
    return result


def _queue(most):
    return waiting.said(disk.queue(TIMEOUT), most, time.time())


def _leftovers():
    found = __salt__["mailsrv.leftovers"]()
    if not found:
        return None
    return f"mail of {len(found)} accounts that are gone; salt-call mailsrv.leftovers lists it"


def _blocked():
    found = __salt__["mailsrv.blocked"]()
    if not found:
        return "none"
    said = ", ".join(f"{name} {why}" for name, why in found.items())
    return (
        f"WARNING: {said}; to let one in again: salt-call mailsrv.unblock ADDRESS, or "
        "mailsrv:blocked of the pillar"
    )


# What is told by mail


def _notes():
    return f"{__salt__['mailsrv.here']()['facts']['kept']}/watch.json"


def _about(notes):
    return news.about(__salt__["mailsrv.here"](), notes)


def _figures(notes):
    """The end of the certificate, in seconds since 1970, and how many keys do not sign yet."""
    known = __salt__["mailsrv.here"]()
    if known["faults"]:
        return notes["figures"]
    figures = {}
    with contextlib.suppress(CommandExecutionError):  # the checks say why
        signing = [(key["domains"], key["selector"]) for key in __salt__["mailsrv.signing"]()]
        wanted = [(key["domains"], key["selector"]) for key in known["model"]["dkim"]["keys"]]
        figures["keys_waiting"] = sum(key not in signing for key in wanted)
        until = datetime.datetime.fromisoformat(_on_disk(known["model"])[1]["until"])
        figures["certificate_end"] = int(until.timestamp())
    return figures


def _look(due):
    """What there is to see now, by part: what `due` says of it, and the machine always."""
    if __salt__["mailsrv.here"]()["faults"]:
        return news.INVALID
    checks, inside = _checks(), (_round_trip, _signatures, leaving.port_25)
    messages = {name: check for name, check in checks.items() if check[0] in inside}
    machine = {name: check for name, check in checks.items() if name not in messages}
    parts = {
        "machine": lambda: checking.together(machine, LIMIT),
        "messages": lambda: checking.together(messages, LIMIT),
        "DNS": lambda: news.of_dns(dns()),
        "run": lambda: telling.of_run(__salt__["state.highstate"](test=True)),
    }
    return telling.look({part: parts[part] for part in parts if part == "machine" or due(part)})


# Before an upgrade of the system


def _next_salt():
    python = ".".join(map(str, sys.version_info[:2]))
    if sys.prefix != sys.base_prefix or sys.prefix == "/usr":
        return f"the Python {python} of {sys.prefix} goes: it is of no use until it is made anew"
    return f"it has a Python of its own in {sys.prefix}, and stays"


def _dpkg(*command):
    return __salt__["cmd.run_stdout"](list(command), python_shell=False, ignore_retcode=True)


def _packages():
    said = _dpkg("dpkg", "--audit")
    if said:
        raise CommandExecutionError(
            f"an installation was cut off: dpkg --configure -a, then apt-get --fix-broken install;"
            f" dpkg says: {' '.join(said.split())}"
        )


def _held():
    held = _dpkg("apt-mark", "showhold").split()
    if held:
        raise CommandExecutionError(
            f"{' '.join(held)} would stay as they are: apt-mark unhold {' '.join(held)}"
        )


def _nothing_to_do():
    states = __salt__["state.highstate"](test=True)
    if not isinstance(states, dict):
        raise CommandExecutionError(f"cannot be run: {' '.join(map(str, states))}")
    todo = [state["__id__"] for state in states.values() if state["result"] is not True]
    if todo:
        raise CommandExecutionError(f"run it first, it would do: {', '.join(todo)}")
    return "nothing to do"


def _no_fault():
    faults = [f"{name}: {said}" for name, said in run().items() if said.startswith("FAULT")]
    if faults:
        raise CommandExecutionError(f"salt-call mailcheck.run says: {'; '.join(faults)}")
