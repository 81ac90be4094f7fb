"""
The mail server as the pillar describes it: what is wrong with the pillar, what becomes of mail,
what to publish in DNS, what belongs to a backup, and what is left of accounts that are gone.

:func:`here` is the one door: everything that templates, states and commands need to know of the
pillar, the system and the machine. What the pillar means is the work of the core, ``_mailsrv``.
:func:`satellite_credential` and :func:`certificate` are what the machines of a fleet tell each
other, through the master's mine.
"""

import difflib
import os
import re
import time

import _mailsrv_banned as banned
import _mailsrv_blocking as blocking
import _mailsrv_disk as disk
import _mailsrv_gathering as gathering
import _mailsrv_log as log
import _mailsrv_migrating as migrating
import _mailsrv_published as published
from _mailsrv import accounts, backup, journal, keys, names, records, satellites
from _mailsrv import bans as banning
from _mailsrv import hashes as crypt
from _mailsrv import report as reporting
from _mailsrv.explain import explain as explained
from _mailsrv.faults import show
from _mailsrv.trace import Trace, called, lines
from _mailsrv_here import Here, valid
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "mailsrv"

# How a master prints it, which has no outputter of ours and would log an error for it.
__outputter__ = dict.fromkeys(
    (
        *("lint", "explain", "leftovers", "purge", "backup_paths", "dns", "rotation", "client"),
        *("trace", "report"),
        *("bans", "unban", "block", "unblock", "blocked", "migrate"),
    ),
    "yaml",
)

# Of a package: newer than all. A dry run goes on; the state that installs it says what is wrong.
UNKNOWN = [9999]


def __init__(opts):
    if opts.get("__cli") == "salt-call":
        __outputter__.update(dict.fromkeys((*__outputter__, "zone"), "mailsrv"))


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'mailsrv.here'".
    return __virtualname__


def here():
    """
    What is known here: the pillar and what it means, the system, the machine, the fleet.

    Returns a dictionary without any secret:

    model
        All that the mail server is made of, a :class:`_mailsrv.model.Model`.

    faults
        A sentence for each fault of the pillar, with the key, the value (never a secret) and the
        cure. Where there are any, the model is not to be used.

    satellite
        The same for a machine that only sends: its ``model`` and its ``faults``.

    facts
        ``defaults.yaml`` with this system's part of ``osmap.yaml``; ``today``; and what stands on
        the machine from the last run, ``standing``: the ``hostname`` that the mail server has had,
        and the ``accounts`` that may log in, each empty before the first run.

    mine
        What other machines have published: ``satellites``, the names of those of this mail server,
        and of a satellite's mail machine the ``certificate``, PEM.

    Raises ``CommandExecutionError`` on a system that is not in the map. The question is the same
    all through a run, and so is the answer, but for what stands on the machine.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.here --out=json
    """
    known = _known()
    model, faults = known.read()
    satellite, wrong = known.satellite()
    return {
        "model": model,
        "faults": faults,
        "satellite": {"model": satellite, "faults": wrong},
        "facts": known.facts(),
        "mine": {**known.mine(), "satellites": [*known.mine()["satellites"]]},
    }


def hashes():
    """
    The crypt(3) hash of every account, made anew only where the password, the ``salt`` of the
    pillar or the rounds changed. For the templates of both daemons, and for nobody else.

    Returns a dictionary of hashes by address, in the order of the pillar, and by name of satellite.
    Only those in the model may log in.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.dovecot test=True
    """
    known = _known()
    facts, settings = known.facts(), known.settings()
    path = f"{facts['directory']}/password.key"
    key = disk.password_key(path, crypt.KEY_LENGTH)
    if not key and not __opts__["test"]:
        raise CommandExecutionError(f"{path} is missing; the state mailsrv.genkeys makes it")
    key = key or os.urandom(crypt.KEY_LENGTH)  # nothing is written in test mode
    key += str(settings.get("salt", "")).encode()

    def answer():
        stand = {}
        for path in (
            f"{facts['dovecot']['directory']}/dovecot-passwd",
            f"{facts['directory']}/credentials",
        ):
            # What a power cut left of a file is replaced like any other that is wrong.
            stand |= crypt.standing(disk.text(path).split("\n"))
        read = accounts.read(settings, [], {}, [])
        found = crypt.of_accounts(read, key, stand, _model()["passwords"]["rounds"])
        # An account's is never that of a minion which bears its name.
        return dict(satellites.credentials(settings, known.mine()["satellites"], [])) | found

    return known.hashes(key, answer)


def signing():
    """
    The DKIM keys that mail is signed with now.

    Returns a list of keys like those of the model, with the selector and files of the one that
    signs. The selectors in the model are those that shall sign; another one does while DNS does not
    show theirs (see the state :mod:`dkim.signing`).

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.rotation
    """
    listed = _model()["dkim"]["keys"]
    return keys.signing(listed, [published.stage(key) for key in listed])


def version(package):
    """
    The version of the software in a package, as numbers that compare.

    package
        Name of the package: the installed version counts, where there is none the one that would be
        installed, as on the first run. A machine that has no lists of packages yet fetches them.

    Returns a list of numbers, e.g. ``[2, 3, 19, 1]``; ``[9999]``, newer than all, where no version
    is known, since there is no such package, or no network to ask.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.version dovecot-core
    """
    text = __salt__["pkg.version"](package)
    text = text or _candidate(package, refresh=False) or _candidate(package, refresh=True)
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", text)
    return [int(number) for number in match[1].split(".")] if match else UNKNOWN


def satellite_credential():
    """
    What a satellite publishes, and the mail machine checks its password against.

    Returns ``{"hash": "$6$…", "reader": …}``: the crypt(3) hash of a random password of 256 bits,
    which stays on the satellite, and the id of the minion that may read it in the mine.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.satellite_credential
    """
    path = f"{_known().facts()['directory']}/satellite.hash"
    try:
        with open(path, encoding="ascii") as file:
            credential = file.read().strip()
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{path} is not there yet; salt-call state.apply mailsrv.satellite makes it"
        ) from None
    return {"hash": credential, "reader": valid(*_known().satellite())["minion"]}


def certificate():
    """
    What the mail machine publishes for its satellites.

    Returns its self-signed certificate, PEM text: whoever has it can be sure of this machine. Empty
    where the pillar names another certificate, which the systems of the satellites know the CA of.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.certificate
    """
    tls = _model()["tls"]
    if not tls["self_signed"]:
        return ""
    try:
        with open(tls["cert"], encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{tls['cert']} is not there yet; salt-call state.apply mailsrv.tls makes it"
        ) from None


def lint():
    """
    Every fault of the pillar at once.

    Returns a list of sentences, each with the key, the value (never a secret) and the cure, and
    behind the faults what is valid but worth knowing; empty where there is neither. The exit status
    is 1 where there are faults.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    if __pillar__.get("_errors"):  # what is left of it says nothing
        __context__["retcode"] = 1
        return [f"the pillar cannot be read: {error}" for error in __pillar__["_errors"]]
    known, found, notes = here(), [], []
    settings = _known().settings()
    if "satellite" in settings:
        found += known["satellite"]["faults"]
    if "domains" in settings or "satellite" not in settings:
        found, notes = found + known["faults"], known["model"]["notes"]
    if found:
        __context__["retcode"] = 1
    return found + notes


def explain(address):
    """
    What happens to mail for an address, who may send as it, and why; from the pillar alone.

    address
        Any address, of ours or not, with or without a subaddress (``+tag``).

    Returns a dictionary: ``accepted`` and ``because``; the ``rule`` of smtpd.conf and the ``table
    line`` that decide; ``delivered to`` mailboxes and ``forwarded to`` addresses elsewhere; the
    ``quota`` of each mailbox and the ``filters`` before it; ``senders``, who may send as it and
    why; and, where the pillar has a ``relay``, what mail to it ``leaves by``, or ``what it sends
    leaves by``.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.explain sales@example.com
    """
    target = str(address).lower()
    local, _, domain = target.rpartition("@")
    if not names.domain(domain) or not names.TARGET_LOCAL_PART.fullmatch(local):
        raise SaltInvocationError(f"mailsrv.explain: {show(address)} is not an address")
    return explained(target, _model())


def trace(sought, since="7d"):
    """
    What became of a message, or of all mail of an address: told from the log of all mail daemons.

    sought
        A Message-ID, with or without its angle brackets; or an address, as sender or recipient.

    since
        How far to look back: minutes, hours, days or weeks, as ``90m``, ``36h``, ``7d``, ``2w``; or
        from when on, as ``2026-11-26`` or ``"2026-11-26 08:00"``. Default: ``7d``.

    Returns a list, the oldest first, of a dictionary for each message: ``message``, its Message-ID
    or what else it can be called, and ``events``, what happened to it: ``time`` (seconds since
    1970), ``daemon``, ``says``. Where nothing is found, a text that says how far back the log goes,
    and the exit status 1. Raises ``SaltInvocationError`` for a `since` that is no time, and
    ``CommandExecutionError`` where the log cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.trace ann@example.com
        salt-call mailsrv.trace '<1234@example.org>' since=2d
    """
    start = log.begin(since, time.time())
    if start is None:
        raise SaltInvocationError(
            f"mailsrv.trace: since={show(since)} is no time; write it like 12h, 7d or 2026-11-26"
        )
    found, until, domains = Trace(str(sought)), time.time(), _known().read()[0]["domains"]
    found.learn(journal.events(log.entries(start, until), domains))
    told = found.tell(journal.events(log.entries(start, until), domains))
    if not told:
        __context__["retcode"] = 1
        first = log.oldest()
        known = f"the log goes back to {_moment(first)}" if first else "the log is empty"
        return f"nothing of {sought} since {_moment(start)}; {known}"
    return [{"message": called(group), "events": lines(group["events"])} for group in told]


def leftovers():
    """
    The mail of accounts that are no longer in the pillar. It stays until :func:`purge` removes it.

    Returns a dictionary by address: ``path`` and ``bytes`` on the disk.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.leftovers
    """
    top = _known().facts()["vmail"]["home"]
    model, result = _model(), {}
    accounts = {account["address"] for account in (*model["accounts"], *model["copied"])}
    for domain, user, directory in disk.mailboxes(top):
        address = f"{user}@{domain}"
        # A name that no account can have is nothing of ours.
        if address not in accounts and names.address(address) == address:
            path = os.path.join(top, domain, user)
            result[address] = {"path": path, "bytes": disk.size(user, directory)}
    return result


def purge(address, test=False):
    """
    Remove for good the mail of an account that is no longer in the pillar.

    The mail's own user, vmail, deletes it: what vmail may not delete stays.

    address
        One that :func:`leftovers` lists.

    test
        Whether to say only what would be removed. Default: ``False``.

    Returns what was removed, as :func:`leftovers` does. Raises ``SaltInvocationError`` for any
    other address, and nothing is removed; ``CommandExecutionError`` where vmail may not delete all
    of it.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.purge gone@example.com
        salt-call mailsrv.purge gone@example.com test=True
    """
    left = leftovers()
    if address not in left:
        raise SaltInvocationError(
            f"mailsrv.purge: {show(address)} left no mail behind; "
            f"{'those that did: ' + ', '.join(left) if left else 'nobody did'}"
        )
    if not test:
        disk.delete(left[address]["path"])
    return {address: left[address]}


def bans():
    """
    Who is banned now, because of wrong passwords: see ``mailsrv:bans``.

    Returns by network, e.g. ``198.51.100.7/32`` or ``2001:db8:1:2::/64``, ``until``, in the time of
    this machine, and ``why``, the names that were tried last. Raises ``CommandExecutionError``
    where fail2ban does not answer, or where the pillar bans nobody.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.bans
    """
    if not _model()["bans"]:
        raise CommandExecutionError("nobody is banned here: see mailsrv:bans of the pillar")
    return banned.listed()


def unban(address):
    """
    Let somebody in again who is banned, at once. More wrong passwords ban again; who shall never
    be, belongs into ``mailsrv:bans:own``.

    address
        An IP address, whose network is let in, or a network.

    Returns what was lifted, as :func:`bans` does. Raises ``SaltInvocationError`` where that is
    nobody who is banned.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.unban 198.51.100.7
        salt-call mailsrv.unban 2001:db8:1:2::3
    """
    known, network = bans(), banning.network_of(address)
    if network is None:
        raise SaltInvocationError(
            f"mailsrv.unban: {show(address)} is no address; write it like 198.51.100.7"
        )
    found = banning.touching(map(banning.network_of, known), network)
    if not found:
        raise SaltInvocationError(
            f"mailsrv.unban: {address} is not banned; those who are: {', '.join(known) or 'nobody'}"
        )
    banned.lift(found)
    return {str(one): known[str(one)] for one in found}


def block(address):
    """
    Stop one account, or satellite, at once: a password that was stolen is worth nothing any more.

    It neither logs in (SMTP, IMAP, POP3, ManageSieve) nor sends, nor do programs of this machine
    and its own filters in its name; its sessions are ended, and its messages in the queue are held
    until smtpd(8) starts again. Mail to it is taken and stored. It stays so, whatever a run does
    and whatever password the pillar gives it, until :func:`unblock`. The pillar is not read.

    address
        The account's address, or the satellite's name.

    Returns ``blocked``, who; ``sessions`` that were ended; ``held``, the number of messages, and
    ``to delete them`` the command; and ``failed``, what a daemon did not do, a list of sentences.
    The exit status is 1 where there are any. Raises ``SaltInvocationError`` for a name that is none
    of the accounts on this machine.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.block user1@example.com
    """
    facts, name = _blockable("mailsrv.block", address)
    sessions, held, failed = blocking.shut(facts, name)
    result = {"blocked": name, "sessions": sessions, "held": held}
    if held:
        result["to delete them"] = (
            "smtpctl show queue | awk -F'|' '$4 ~ /suspend/ { print $1 }' | xargs -n 1 smtpctl "
            "remove"
        )
    return _with_failures(result, failed)


def unblock(address):
    """
    Let an account in again that :func:`block` has stopped.

    address
        The account's address, or the satellite's name.

    Returns ``unblocked``, who; ``sent on``, the number of its messages that were held; ``failed``
    as :func:`block` does. Raises ``SaltInvocationError`` for who is not blocked, or by the pillar.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.unblock user1@example.com
    """
    facts, name = _blockable("mailsrv.unblock", address)
    found = blocking.listed(facts)
    if name not in found and name not in facts["standing"]["blocked"]:
        raise SaltInvocationError(
            f"mailsrv.unblock: {name} is not blocked; "
            f"{'those that are: ' + ', '.join(found) if found else 'nobody is'}"
        )
    if name in found and not found[name]:
        raise SaltInvocationError(
            f"mailsrv.unblock: the pillar blocks {name}: take it out of mailsrv:blocked and run "
            "the highstate"
        )
    resumed, failed = blocking.let_in(facts, name)
    return _with_failures({"unblocked": name, "sent on": resumed}, failed)


def blocked():
    """
    Who is blocked on this machine.

    Returns a dictionary by address: since when, or that the pillar says so.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.blocked
    """
    found = blocking.listed(_known().facts())
    return {name: f"since {when}" if when else "by the pillar" for name, when in found.items()}


def backup_paths():
    """
    What a backup of this machine holds, and what it does not: with it, one highstate makes a fresh
    machine the same server, whatever numbers its users have there.

    Returns ``paths``, of what is there: by path its ``bytes`` and ``why``; and ``left out``: by
    path why it does not belong into a backup. It follows no link.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.backup_paths
        salt-call mailsrv.backup_paths --out=json | python3 -c \\
            'import json, sys; print(*json.load(sys.stdin)["local"]["paths"], sep="\\n")'
    """
    known = _known()
    facts, settings = known.facts(), known.settings()
    paths, left = _pillar_paths(), {}
    if "satellite" in settings:
        backup.satellite(valid(*known.satellite()), facts, paths, left)
    if "nsd" in settings and "nsd" in facts:
        backup.nameserver(facts, paths)
    if "domains" in settings or not {"satellite", "nsd"} & settings.keys():
        model = _model()
        links = disk.links(model["tls"]["sources"].values())
        backup.server(model, facts, links, paths, left)
    there = {path: why for path, why in paths.items() if os.path.lexists(path)}
    return {
        "paths": {path: {"bytes": disk.bytes_in(path), "why": why} for path, why in there.items()},
        "left out": left,
    }


def dns(domain=None):
    """
    The DNS records to publish, as data.

    domain
        One of the pillar's domains. Absent: all of them.

    Returns a list of records by domain, as :func:`_mailsrv.records.records` does.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.dns
        salt-call mailsrv.dns example.com --out=json
    """
    model = _model()
    return published.of(model, _chosen(domain, model, "mailsrv.dns"), __salt__, __grains__)


def zone(domain=None):
    """
    The records of a domain as a zone file that BIND and NSD load.

    domain
        One of the pillar's domains. Absent: all of them, one zone file after the other.

    Returns the text. Without ``mailsrv:dns:nameservers``, SOA and NS name the mail host; put your
    own name servers there. What belongs into another zone, as the PTR, is a comment.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.zone example.com
        salt-call mailsrv.zone example.com > example.com.zone
    """
    model = _model()
    servers = model["dns"]["nameservers"]
    comment = "" if servers else "SOA and NS: put your own name servers here"
    serial = time.strftime("%Y%m%d%H", time.gmtime())
    found = published.of(model, _chosen(domain, model, "mailsrv.zone"), __salt__, __grains__)
    return "\n".join(
        records.zone(name, entries, servers or [model["hostname"]], serial, comment)
        for name, entries in found.items()
    )


def web(domain=None):
    """
    The files that the host of ``mailsrv:dns:web`` is to serve by HTTPS, or this machine, by
    ``mailsrv:web``.

    domain
        One of the pillar's domains. Absent: all of them.

    Returns the content of each file by its URL, by domain: the MTA-STS policy (RFC 8461), whose
    lines end in CRLF, and the settings that mail clients such as Thunderbird look for.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.web example.com
    """
    model = _model()
    if not model["dns"]["web"]:
        raise CommandExecutionError(
            "mailsrv.web: no host serves these files; name one in mailsrv:dns:web, or let this "
            "machine do it by mailsrv:web: true"
        )
    return {name: records.web_files(name, model) for name in _chosen(domain, model, "mailsrv.web")}


def rotation():
    """
    How far each DKIM key is on its way, asked of live DNS.

    Returns by domain and algorithm: ``signs``, the selector that signs; ``next`` and ``waits for``,
    the selector that shall sign and what keeps it from doing so, a sentence for each name server;
    ``still published``, selectors that no longer sign, and until when their records are needed.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.rotation
    """
    return published.rotation(_model(), _known().facts()["dkim"]["keep"], __salt__)


def client():
    """
    What a person types into a mail client.

    Returns a dictionary of sentences.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.client
    """
    return records.client(_model())


def figures():
    """
    What :func:`report` shows of this machine.

    Returns its ``name``; ``made``, when that is; ``checks`` of :func:`mailcheck.run`; ``dns`` of
    :func:`mailcheck.dns`; ``rotation`` of :func:`rotation`; from the log ``since``, ``days`` and
    ``refused``; ``queue``: ``messages``, the ``oldest`` in seconds and, by what was said at the
    last try, the ``reasons`` of recipients; the ``certificate`` that is served; and ``mailboxes``:
    ``address``, ``bytes``, ``quota``, and whether the account is ``gone``. There are addresses and
    names in it, and no secret.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.figures --out=json
    """
    return gathering.figures(_model(), _known().facts(), __salt__, __context__)


def report(path=None, machines=None):
    """
    Write a page of HTML that shows the mail server: checks, mail by day, what was refused, queue,
    certificate, DNS, DKIM keys, mailboxes. It needs nothing from outside, can be printed, and each
    number says where it comes from.

    path
        The file, absolute. Default: ``report.html`` in the directory that a run keeps its memory
        in, ``/var/lib/mailsrv`` on Debian. Root alone may read it: addresses stand in it.

    machines
        On a master: which minions the page shows, e.g. ``mx*``. Default: this machine alone.

    Returns the ``file``, and the state of each machine. Raises ``SaltInvocationError`` for a
    relative path, ``CommandExecutionError`` where there is no master or it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.report
        salt-call mailsrv.report /root/mail.html machines='mx*'
    """
    path = path or f"{_known().facts()['kept']}/report.html"
    if not os.path.isabs(path):
        raise SaltInvocationError(f"mailsrv.report: {show(path)} is relative; name it from / on")
    shown = gathering.asked(machines, __opts__["conf_file"]) if machines else [figures()]
    try:
        disk.write(path, reporting.page(shown, gathering.moment(time.time())))
    except OSError as exc:
        raise CommandExecutionError(
            f"mailsrv.report: {path} cannot be written: {exc.strerror}"
        ) from None
    return {"file": path, **reporting.verdicts(shown)}


def migrate(address=None, table=None, test=False, **options):
    """
    Bring mail in from an old server by IMAP; again, only what is new: docs/operations.md.

    address, table, test, options
        The account, or a CSV file of them; whether only to count; ``from``, ``user``, ``ca``,
        ``password_file``. Returns and raises what :func:`mailbox.adopt` does, with ``flags``.

    CLI Example: ``salt-call mailsrv.migrate ann@example.com from=imaps://old.example user=ann``
    """
    known = {**here(), "model": _model()}
    return _with_failures(*migrating.run(address, table, options, test, known))


def _known():
    return Here(__salt__, __context__, __opts__, __grains__, __pillar__)


def _model():
    return valid(*_known().read())


def _blockable(function, address):
    facts, name = _known().facts(), str(address).lower()
    known = blocking.logins(facts)
    if name not in {*known, *facts["standing"]["blocked"]}:
        near = difflib.get_close_matches(name, known, n=3)
        raise SaltInvocationError(
            f"{function}: {show(address)} is none of the accounts on this machine"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    return facts, name


def _with_failures(result, failed):
    if failed:
        __context__["retcode"] = 1
        result["failed"] = failed
    return result


def _moment(seconds):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _candidate(package, refresh):
    """The version that would be installed; empty where none is known."""
    found = __salt__["pkg.latest_version"](package, refresh=refresh)
    # On a Debian without lists, {"opensmtpd": ""}.
    return found if isinstance(found, str) else ""


def _chosen(domain, model, function):
    if domain is not None and domain not in model["domains"]:
        raise SaltInvocationError(
            f"{function}: {domain!r} is not one of the pillar's domains: "
            f"{', '.join(model['domains'])}"
        )
    return model["domains"] if domain is None else [domain]


def _pillar_paths():
    if __opts__.get("file_client") != "local":
        return {}  # the master's
    roots = [path for paths in __opts__["pillar_roots"].values() for path in paths]
    return dict.fromkeys(roots, "the pillar, with its passwords: it is yours, keep it safe")
