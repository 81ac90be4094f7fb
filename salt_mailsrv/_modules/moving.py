"""
A domain that moves from this mail machine to another, or from another to this one: what each of
them does of it. ``salt-run mailsrv.move`` on the master asks for one after the other.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import time

import _mailsrv_carrying as carrying
import _mailsrv_disk as disk
import _mailsrv_published as published
import psutil
from _mailsrv import moving, waiting
from _mailsrv.faults import show
from _mailsrv_here import Here, valid
from salt.exceptions import CommandExecutionError

__virtualname__ = "moving"

AT_ONCE = 4  # mailboxes
TRIES = 3  # where a mailbox has changed meanwhile
STALLED = 60  # seconds without a byte from the other end
HAND_ON = 60  # seconds for what has waited
DELIVERIES = 90  # seconds that deliveries under way may take still
RUNS = 300  # seconds for which a run of Salt is waited for
WRITERS = ("mailsrv.migrate*", "mailbox.*")  # what puts mail into mailboxes without smtpd(8)
SMTP = 25


def __virtual__():
    return __virtualname__


def state(domain):
    """
    How far a domain is on its way.

    domain
        One of ``mailsrv:moves_to``, or of ``mailsrv:moves_from``.

    Returns it as :class:`_mailsrv.model.Move`, and what the other machine has to know of this one:
    ``host``, its name; ``shown``, its certificate, PEM, where that is self-signed; ``sends_from``,
    its addresses. Raises ``CommandExecutionError`` where the pillar is not valid, or the domain
    does not move.

    CLI Example:

    .. code-block:: bash

        salt-call moving.state example.org
    """
    model, _ = _known()
    move = _move(model, domain)
    known = {"host": model["hostname"], "shown": __salt__["mailsrv.certificate"]()}
    return {**move, **known, "sends_from": published.sent_from(model, __grains__)}


def noted(name, test=False):
    """
    Keep a note of which domains move, and how far they are: for the state of this name.

    name
        The file.

    test
        Whether to say only what would change. Default: ``False``.

    Returns by domain what changes in it, a sentence.

    CLI Example:

    .. code-block:: bash

        salt-call moving.noted /var/lib/mailsrv/moving.json test=True
    """
    model, _ = _known()
    if not model["moves"] and not os.path.exists(name):
        return {}
    with contextlib.nullcontext() if test else _alone(name):
        before = _records(name)
        after = moving.noted(before, model["moves"])
        if not test and after:
            _write(name, after)
        elif not test:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    return {
        domain: after.get(domain, {}).get("phase", "no longer noted")
        for domain in sorted({*before, *after})
        if before.get(domain) != after.get(domain)
    }


def identity(domain):
    """
    Make a key for one transfer, which stays here, and return its certificate, PEM: the other
    machine is told it by the master, and lets in nobody else.

    domain
        As for :func:`state`.

    CLI Example:

    .. code-block:: bash

        salt-call moving.identity example.org
    """
    model, facts = _known()
    directory = _directory(facts, _move(model, domain)["domain"])
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    os.mkdir(directory, 0o700)
    key, cert = f"{directory}/key.pem", f"{directory}/cert.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _run(["openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert, "-subj", "/CN=moving"])
    return disk.text(cert)


def serve(domain, certificate, port=moving.PORT):
    """
    Hand out the mailboxes of a domain that moves away to the one machine that shows this
    certificate, until that says that it has them, or is silent for two minutes.

    domain
        One of ``mailsrv:moves_to``.

    certificate
        What :func:`identity` has returned there.

    port
        Where to listen. Default: 24245.

    CLI Example:

    .. code-block:: bash

        salt-call -- moving.serve example.org "$(cat peer.pem)"
    """
    model, facts = _known()
    move = _move(model, domain, "to", "here", "frozen")
    with _key(facts, domain, certificate) as directory:
        disk.write(f"{directory}/users", "".join(f"{name}\n" for name in move["accounts"]))
        _run(_carry("serve", directory, str(port), facts["dovecot"]["doveadm"]))
    return {"served": len(move["accounts"])}


def fetch(domain, host, certificate, port=moving.PORT):
    """
    Make the mailboxes of a domain that is to come the same as they are on the machine that gives it
    away: messages with their UIDs, flags and dates, folders, subscriptions, and filters (Sieve).

    What is here and not there is removed; so it is refused where the domain is served here, and
    where the mailboxes held mail before the first copy.

    domain
        One of ``mailsrv:moves_from``.

    host, certificate, port
        The other machine, and what :func:`identity` has returned there.

    Returns ``mailboxes``, how many, and the ``seconds`` that it took; ``failed``, by address a
    sentence, where one did not come whole: whatever came has come, and the next time the rest does.

    CLI Example:

    .. code-block:: bash

        salt-call -- moving.fetch example.org mx1.example.net "$(cat peer.pem)"
    """
    model, facts = _known()
    move = _move(model, domain, "from", "waiting")
    began = time.monotonic()
    with _key(facts, domain, certificate) as directory:
        if new := [name for name in move["accounts"] if name not in move["copied"]]:
            _all_empty(new, move["peer"], facts)
            _note(facts, domain, {"copied": [*move["copied"], *new]})
        at = (directory, str(host), str(port))
        said = _of_each(move["accounts"], lambda name: _copy(name, at, facts))
        failed = {name: why for name, why in said.items() if why}
        subprocess.run(_carry("end", *at), stdin=subprocess.DEVNULL, capture_output=True)
    result = {"mailboxes": len(move["accounts"]), "seconds": round(time.monotonic() - began, 1)}
    if failed:
        __context__["retcode"] = 1
        result["failed"] = failed
    return result


def figures(domain):
    """
    What the mailboxes of a domain hold, to compare two machines: by address a digest of the folders
    with mail in them, the UIDVALIDITY of each and the UIDs and flags of its messages.

    domain
        As for :func:`state`.

    CLI Example:

    .. code-block:: bash

        salt-call moving.figures example.org
    """
    model, facts = _known()
    move = _move(model, domain)

    def digest(name):
        doveadm = [facts["dovecot"]["doveadm"], "-f", "tab"]
        fields = "mailbox uid flags size.virtual"
        messages = _run([*doveadm, "fetch", "-u", name, fields, "all"]).splitlines()
        status = [*doveadm, "mailbox", "status", "-u", name, "messages uidvalidity", "*"]
        folders = [line for line in _run(status).splitlines() if "\t0\t" not in line]
        # \Recent is of the session that sees a message first.
        lines = sorted(line.replace("\\Recent", "").replace(" ", "") for line in messages)
        return hashlib.sha256("\n".join([*sorted(folders), *lines]).encode()).hexdigest()[:16]

    return _of_each(move["accounts"], digest)


def unfit(domain):
    """
    The folders that dsync may not copy under their names, which are those with a ``%``: with two
    hexadecimal digits behind it, it comes out as another letter, or as one that Dovecot then does
    not open, whatever the releases; from Dovecot 2.4.5 to 2.3 any ``%`` fails at the second copy.

    domain
        As for :func:`state`.

    Returns them by address; who has none is left out.

    CLI Example:

    .. code-block:: bash

        salt-call moving.unfit example.org
    """
    model, facts = _known()
    move = _move(model, domain)

    def folders(name):
        # Of an account that is new here, Dovecot knows nothing before the next run.
        listed = _run([facts["dovecot"]["doveadm"], "mailbox", "list", "-u", name], check=False)
        return [waiting.shown(folder) for folder in listed.splitlines() if "%" in folder]

    return {name: listed for name, listed in _of_each(move["accounts"], folders).items() if listed}


def answer(domain, hostname, certificate=""):
    """
    What another machine says to mail for a domain, by TLS with a certificate that is verified, as
    this machine will hand late mail on.

    domain
        As for :func:`state`.

    hostname, certificate
        Its name, and its certificate where that is self-signed.

    Returns the code of its answer: 250, or 451 where the domain has not come there yet.

    CLI Example:

    .. code-block:: bash

        salt-call moving.answer example.org mx2.example.net
    """
    try:
        context = ssl.create_default_context(cadata=certificate or None)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # nor is smtpd(8) so strict
        with smtplib.SMTP(hostname, SMTP, timeout=30) as smtp:
            smtp.starttls(context=context)
            smtp.ehlo()
            smtp.mail("")
            return smtp.rcpt(f"postmaster@{domain}")[0]
    except ssl.SSLCertVerificationError as exc:
        raise CommandExecutionError(
            f"moving: {hostname} has a certificate that is not trusted: {exc.verify_message}"
        ) from None
    except (OSError, smtplib.SMTPException) as exc:
        said = waiting.shown(str(exc))
        raise CommandExecutionError(f"moving: {hostname}, port 25: {said}") from None


def freeze(domain):
    """
    From now on nothing is stored in the mailboxes of a domain that moves away: what is delivered
    waits in the queue. Nobody logs in after the next run of ``mailsrv.dovecot``.

    domain
        One of ``mailsrv:moves_to``.

    CLI Example:

    .. code-block:: bash

        salt-call moving.freeze example.org
    """
    model, facts = _known()
    _move(model, domain, "to", "here", "frozen")
    _no_run()
    _no_writer()
    path = f"{facts['directory']}/moving"
    if domain not in (line.partition(" ")[0] for line in disk.text(path).splitlines()):
        raise CommandExecutionError(f"moving: {path} has no {domain}: run the highstate first")
    _note(facts, domain, {"phase": "frozen"})
    with open(path, "rb") as before:
        _tell_deliver(facts, domain, "frozen")
        # Whoever stores holds the lock of the file that has let him, which may be one of before the
        # last run, or none: who delivers now is waited for, too.
        delivering = _deliveries(facts)
        until = time.monotonic() + DELIVERIES
        while _is_held(before) or delivering & _deliveries(facts):
            if time.monotonic() > until:
                thaw(domain)
                raise CommandExecutionError(
                    f"moving: a delivery has not ended within {DELIVERIES} seconds; run it again"
                )
            time.sleep(0.1)
    return {"phase": "frozen"}


def frozen(domain):
    """
    From now on nothing changes any more in the mailboxes of a domain: nobody may log in, and nobody
    has a session. Waits a while for those who are being logged out.

    domain
        One of ``mailsrv:moves_to``.

    Returns the addresses of those who had a session until now, sorted. Raises
    ``CommandExecutionError`` where it is not so.

    CLI Example:

    .. code-block:: bash

        salt-call moving.frozen example.org
    """
    model, facts = _known()
    move = _move(model, domain, "to", "frozen")
    lines = disk.text(f"{facts['dovecot']['directory']}/dovecot-passwd").splitlines()
    locked = {line.partition(":")[0] for line in lines if "}!" in line}
    if not {*move["accounts"]} <= locked:
        raise CommandExecutionError("moving: its accounts can log in: run the highstate")
    if f"{domain} frozen" not in disk.text(f"{facts['directory']}/moving").splitlines():
        raise CommandExecutionError("moving: mail for it is delivered: run this again")
    _no_writer()
    until, kicked = time.monotonic() + 30, set()
    while users := _sessions(move["accounts"], facts):
        kicked |= users
        for user in users:
            _run([facts["dovecot"]["doveadm"], "kick", user], check=False)
        if time.monotonic() > until:
            raise CommandExecutionError(f"moving: still logged in: {', '.join(sorted(users))}")
        time.sleep(0.3)
    return sorted(kicked)


def thaw(domain):
    """
    Undo :func:`freeze`: the domain stays here. Users log in again after the next run of
    ``mailsrv.dovecot``.

    domain
        One of ``mailsrv:moves_to``.

    CLI Example:

    .. code-block:: bash

        salt-call moving.thaw example.org
    """
    model, facts = _known()
    _move(model, domain, "to", "here", "frozen")
    _no_run()
    _note(facts, domain, {"phase": "here"})
    _tell_deliver(facts, domain, "here")
    return {"phase": "here"}


def take(domain, addresses=()):
    """
    The domain is here from the next run on, and its mailboxes are never again a copy.

    domain
        One of ``mailsrv:moves_from`` that :func:`fetch` has brought.

    addresses
        Those that the other machine sends from: it hands on late mail, which may have one of our
        users for its sender, so that it is believed as a backup MX is while ``moves_from`` stands.

    CLI Example:

    .. code-block:: bash

        salt-call moving.take example.org '[192.0.2.1]'
    """
    model, facts = _known()
    move = _move(model, domain, "from", "waiting", "here")
    if missing := {*move["accounts"]} - {*move["copied"]} if move["phase"] == "waiting" else ():
        raise CommandExecutionError(
            f"moving: {', '.join(sorted(missing)[:10])}: not copied yet; run mailsrv.move"
        )
    _no_run()
    _note(facts, domain, {"phase": "here", "addresses": [*addresses]})
    return {"phase": "here"}


def leave(domain, hostname, certificate=""):
    """
    The domain is gone from the next run on: what still comes for it is handed on.

    domain
        One of ``mailsrv:moves_to`` that is frozen.

    hostname, certificate
        The machine that has it, and its certificate, PEM, where that is self-signed.

    CLI Example:

    .. code-block:: bash

        salt-call moving.leave example.org mx2.example.net
    """
    model, facts = _known()
    _move(model, domain, "to", "frozen", "gone")
    _no_run()
    known = {"hostname": hostname, "certificate": certificate}
    _note(facts, domain, {"phase": "gone", **known})
    return {"phase": "gone"}


def hand_on():
    """
    What has waited in the queue for mailboxes that have moved is tried again at once, until it is
    gone, for a minute at most: smtpd(8) itself would take its time.

    CLI Example:

    .. code-block:: bash

        salt-call moving.hand_on
    """
    until = time.monotonic() + HAND_ON
    while time.monotonic() < until:
        # A way that failed, as while the other machine began anew, is closed for a while.
        for line in _run(["smtpctl", "show", "routes"], check=False).splitlines():
            _run(["smtpctl", "resume", "route", line.partition(".")[0]], check=False)
        _run(["smtpctl", "schedule", "all"], check=False)
        time.sleep(2)
        if "|mda|" not in _run(["smtpctl", "show", "queue"], check=False):
            return True
    return False


def _known():
    known = Here(__salt__, __context__, __opts__, __grains__, __pillar__)
    return valid(*known.read()), known.facts()


def _of_each(accounts, ask):
    """By account what it says, of some at a time."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(accounts, pool.map(ask, accounts), strict=True))


def _move(model, domain, way=None, *phases):
    found = [move for move in model["moves"] if move["domain"] == domain]
    if not found or (way and found[0]["way"] != way):
        keys = " or ".join(f"mailsrv:moves_{one}" for one in ([way] if way else ["to", "from"]))
        raise CommandExecutionError(f"moving: {show(domain)} is not in {keys} of the pillar here")
    if phases and found[0]["phase"] not in phases:
        raise CommandExecutionError(
            f"moving: {domain} is {found[0]['phase']} on this machine, and has to be "
            f"{' or '.join(phases)} for that"
        )
    return found[0]


def _directory(facts, domain):
    return f"{facts['run']}/moving/{domain}"


@contextlib.contextmanager
def _alone(path):
    """Nobody else changes this file meanwhile: two domains may move at once."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _records(path):
    """What is noted now: what a run knows of it, it has read when it began."""
    return moving.records(json.loads(disk.text(path) or "{}"))


def _write(path, records):
    disk.write(path, moving.text(records))


def _note(facts, domain, more):
    path = f"{facts['kept']}/moving.json"
    with _alone(path):
        records = _records(path)
        if domain not in records:
            raise CommandExecutionError(f"moving: {path} has no {domain}: run the highstate first")
        records[domain].update(more)
        try:
            _write(path, moving.records(records))
        except ValueError as exc:
            raise CommandExecutionError(f"moving: {more} is not noted: {exc}") from None


def _no_run():
    """A run that has begun would write what it has read before: it is waited for."""
    until = time.monotonic() + RUNS
    while running := __salt__["saltutil.is_running"]("state.*"):
        if time.monotonic() > until:
            what = running[0].get("fun", "a run")
            raise CommandExecutionError(f"moving: {what} is going on here; wait for it")
        time.sleep(0.5)


def _no_writer():
    for function in WRITERS:
        if running := __salt__["saltutil.is_running"](function):
            raise CommandExecutionError(
                f"moving: {running[0]['fun']} is going on here and may bring mail; wait for it"
            )


def _tell_deliver(facts, domain, phase):
    path = f"{facts['directory']}/moving"
    with _alone(f"{facts['kept']}/moving.json"):
        lines = disk.text(path).splitlines()
        lines = [line for line in lines if not line.startswith(f"{domain} ")]
        disk.write(path, "".join(f"{line}\n" for line in [*lines, f"{domain} {phase}"]), 0o640)


def _deliveries(facts):
    """The processes that deliver now, whether or not they hold a lock: see smtpd.conf."""
    found, command = set(), f"do q({facts['directory']}/deliver)"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if command in " ".join(process.cmdline()):
                found.add(process)  # equal to itself alone, whatever takes its number
    return found


def _locked(file):
    """Lock it, if nobody has."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_held(file):
    """
    Whether a delivery that has seen this file goes on. The lock is given back: one that is waited
    for, too, may wait for it.
    """
    if not _locked(file):
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def _key(facts, domain, certificate):
    """The directory with the key of one transfer, and with whom it is for; the key serves once."""
    directory = _directory(facts, domain)
    if not os.path.exists(f"{directory}/key.pem"):
        raise CommandExecutionError("moving: there is no key for it; run mailsrv.move")
    with open(f"{directory}/key.pem", "rb") as file:
        if not _locked(file):
            raise CommandExecutionError("moving: it is on its way already; wait for that")
        disk.write(f"{directory}/peer.pem", certificate)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _sessions(accounts, facts):
    who = _run([facts["dovecot"]["doveadm"], "who", "-1"])
    return {line.split()[0] for line in who.splitlines() if line.split()[:1]} & {*accounts}


def _all_empty(accounts, peer, facts):
    """Mailboxes that are made the same as others lose what they have."""
    for name in accounts:
        status = ["mailbox", "status", "-u", name, "-t", "messages", "*"]
        said = _run([facts["dovecot"]["doveadm"], "-f", "tab", *status]).split()
        if said[-1:] != ["0"]:
            raise CommandExecutionError(
                f"moving: {name} has mail here, {said[-1] if said else '?'} messages, which "
                f"the copy of {peer}'s would replace. Is this the right machine? If the "
                "mail is left over, remove the domain here, run the highstate and mailsrv.purge "
                f"{name}"
            )


def _carry(word, *arguments):
    return [sys.executable, "-I", carrying.__file__, word, *arguments]


def _copy(name, at, facts):
    """Make one mailbox the same as it is there; why it is not, a sentence."""
    directory, host, port = at
    backup = ["backup", "-R", "-T", str(STALLED), "-u", name]
    command = [facts["dovecot"]["doveadm"], *backup, *_carry("bring", directory, host, port, name)]
    for _ in range(TRIES):
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if ran.returncode == 0:
            return ""
        if ran.returncode != 2:  # 2: something has changed meanwhile
            break
    return _words(ran)


def _run(command, check=True):
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if check and ran.returncode:
        raise CommandExecutionError(f"moving: {os.path.basename(command[0])}: {_words(ran)}")
    return ran.stdout.decode(errors="replace")


def _words(ran):
    """The last that a program said."""
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return waiting.shown(" ".join(lines[-2:])) or f"it ended with status {ran.returncode}"
