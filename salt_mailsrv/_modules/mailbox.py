"""
A machine that already has mail: what the first run of the formula would strand or replace there,
and the way of that mail into the mailboxes of the pillar's accounts.

What another mail server left behind belongs to others: it is read, never followed out of its place,
and it stays as it is.
"""

import base64
import collections
import contextlib
import fcntl
import hashlib
import itertools
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time

from _mailsrv_here import valid
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "mailbox"

# How a master prints it, which has no outputter of ours and would log an error for it.
__outputter__ = {"found": "yaml"}

OURS = b"# Managed by Salt (mailsrv."
KEPT = ".before-mailsrv"

# Which content is the package's own: dpkg's and ucf's lists, of MD5 and name.
STOCK = ("/var/lib/dpkg/status", "/var/lib/ucf/hashfile")

SHOWN = 20  # files of one kind; the rest is a number
MOST = 10000  # messages that are counted
PATIENCE = 20  # seconds for a program that counts

# The aliases of Debian, FreeBSD and the packages of mail servers, for this machine's programs.
USUAL_ALIASES = """
    _dhcp _pflogd abuse adm auditdistd avahi backup bin bind bugs clamav cron daemon dumper ftp
    ftp-bugs games gnats hast hostmaster irc kmem list logcheck lp mail mailer-daemon man manager
    messagebus msgs named news nobody noc operator pop postfix postmaster proxy root security sshd
    sync sys system toor trouble tty unbound usenet uucp virusalert webmaster www www-data
"""

# mbox(5): the line before a message, with its date.
FROM = re.compile(
    rb"From .{0,320}?\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +([0-9]{1,2}) +"
    rb"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: +[A-Z]{2,5}| +[+-][0-9]{4})? +([0-9]{4})\b"
)
MONTHS = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun"]
MONTHS += [b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"]
# What mail servers note about a message among its own header fields.
NOTES = {
    *(b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase"),
    b"content-length",
}
MBOX_FLAGS = {b"R": "S", b"A": "R", b"F": "F", b"D": "T", b"T": "D"}
KEYWORD = re.compile(r"[!#$&'+-\[^-z|}~]{1,100}")  # an atom, without the wildcards

# gzip, bzip2, xz and zstd
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
DEPTH = 16  # folders in folders
CHUNK = 1 << 20

# A message under the name that Dovecot keeps as its GUID: by it a second run knows it again.
GUID = re.compile(r"\badopted-[0-9a-f]{40}\b")

# `where` it is: in a Maildir the file's directory and name, in an mbox where it begins and ends.
Message = collections.namedtuple("Message", "guid size flags keywords when where")


def __init__(opts):
    if opts.get("__cli") == "salt-call":
        __outputter__["found"] = "mailsrv"


def __virtual__():
    return __virtualname__


# What is here


def found():
    """
    What this machine has that the first run would strand or replace: cheap, and read only.

    Returns lists of sentences: ``queue`` (what waits in the queue of another mail server),
    ``services`` (what gives way), ``mail`` (mail that no mailbox will show), ``aliases`` and
    ``files`` (what is replaced). Empty where ``smtpd.conf`` is already the formula's, or a
    satellite's ``dma.conf``, and where there is nothing.

    CLI Example:

    .. code-block:: bash

        salt-call mailbox.found
    """
    facts = __salt__["mailsrv.here"]()["facts"]
    if _settled(facts):
        return {}
    all_found = {
        "queue": [_queued(*waiting) for waiting in _waiting(facts)],
        "services": _services(facts),
        "mail": [*_foreign_dovecot(facts), *_mboxes(facts), *_maildirs(facts)],
        "aliases": _aliases(facts),
        "files": _files(facts),
    }
    return {subject: sentences for subject, sentences in all_found.items() if sentences}


def stranded():
    """
    Why the first run has to wait: messages in the queue of a mail server that would be gone.

    Returns a list of sentences, each with the cure; empty where nothing waits, where the pillar
    accepts that they are left behind (``mailsrv:abandon_queue: true``), and where the formula has
    run before, as for :func:`found`.

    CLI Example:

    .. code-block:: bash

        salt-call mailbox.stranded
    """
    known = __salt__["mailsrv.here"]()
    # Each template of a run asks; the model is the same object all through it.
    asked, said = __context__.get("mailbox.stranded", (None, []))
    if asked is not known["model"]:
        said = _stranded(known)
        __context__["mailbox.stranded"] = (known["model"], said)
    return said


def stock(name):
    """
    Whether a file is as its package brought it.

    name
        The file.

    Returns ``True`` or ``False``.

    CLI Example:

    .. code-block:: bash

        salt-call mailbox.stock /etc/dovecot/dovecot.conf
    """
    content = _content(name)
    if content is None:
        return False
    if content == _content(f"{name}.sample"):  # FreeBSD's packages
        return True
    words = {name.encode(), hashlib.md5(content, usedforsecurity=False).hexdigest().encode()}
    return any(words <= set(line.split()) for path in STOCK for line in _lines(path))


def replaced(name):
    """
    Whether a file is somebody's work that the formula would overwrite.

    name
        The file.

    Returns ``False`` where it is not there, is the formula's own, or is as its package brought it.

    CLI Example:

    .. code-block:: bash

        salt-call mailbox.replaced /etc/dovecot/dovecot.conf
    """
    return os.path.isfile(name) and not _ours(name) and not stock(name)


def _stranded(known):
    if _settled(known["facts"]) or known["model"]["abandon_queue"]:
        return []
    return [
        f"mailsrv: nothing was touched: {_queued(*waiting)}; or accept that they stay behind: "
        "mailsrv:abandon_queue: true in the pillar"
        for waiting in _waiting(known["facts"])
    ]


def _settled(facts):
    return any(_ours(facts[agent]["config"]) for agent in ("opensmtpd", "dma"))


def _ours(path):
    return (_content(path, len(OURS)) or b"") == OURS


def _content(path, most=CHUNK):
    """The beginning of a regular file; None where it is none, or cannot be read."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb", opener=_regular) as file:
        return file.read(most)
    return None


def _regular(path, flags):
    # Of a FIFO, not even the opening ends.
    handle = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(f"{path} is no file")


def _lines(path):
    return (_content(path, 64 * CHUNK) or b"").split(b"\n")


def _waiting(facts):
    """The queues that are not empty: the mail server, its part of osmap.yaml, the messages."""
    for mta, queue in facts["before"]["queues"].items():
        if os.path.isdir(queue["spool"]) and (count := _count(queue)):
            yield mta, queue, count


def _count(queue):
    """The messages of a queue, by the mail server's own program; where that fails, by its files."""
    try:
        lines = _ask(queue["count"]) if "count" in queue else None
    except FileNotFoundError:  # a spool that a mail server of long ago has left
        return 0
    if lines is None:
        return _files_like(queue["files"], queue["spool"], f"{queue['spool']}-client")
    if queue.get("prints") == "number":
        return int(lines[0]) if lines and re.fullmatch(rb"[0-9]{1,9}\s*", lines[0]) else 0
    return len(lines)


def _ask(command):
    """The lines that a program prints, but no more than `MOST`; None where it fails."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which(command[0], path=path)
    if not program:
        raise FileNotFoundError(command[0])
    # One that hangs hangs no run.
    ran = subprocess.Popen(
        ["timeout", str(PATIENCE), program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with ran:
        lines = [line for line in itertools.islice(ran.stdout, MOST) if line.strip()]
        ran.stdout.close()
    return lines if lines or ran.returncode == 0 else None


def _files_like(pattern, *tops):
    files = (
        os.path.relpath(os.path.join(directory, name), top)
        for top in tops
        for directory, _, names in os.walk(top)
        for name in names
    )
    return sum(1 for _ in itertools.islice(filter(re.compile(pattern).match, files), MOST))


def _queued(mta, queue, count):
    number = f"{count} or more" if count >= MOST else str(count)
    return (
        f"{mta} holds {number} message{'s' * (count != 1)} in its queue, which nobody would send "
        f"any more: send what can be sent with `{queue['send']}`, see what is left with "
        f"`{queue['show']}`, delete that with `{queue['delete']}`"
    )


def _services(facts):
    there = __salt__["service.get_all"]()  # to ask for each is to run two commands, at each run
    return [
        f"{mta} gives way to OpenSMTPD: its service is stopped, and its package goes where the two "
        "exclude each other; its configuration stays, without effect"
        for mta in facts["stock_mtas"]
        if mta in there
    ]


def _foreign_dovecot(facts):
    directory = facts["dovecot"]["directory"]
    conf = f"{directory}/dovecot.conf"
    # All settings of Debian's own file are in conf.d.
    if not (replaced(conf) or (stock(conf) and _own_part(directory))):
        return []
    place = _setting("mail_location") or ":".join(
        part for part in (_setting("mail_driver"), _setting("mail_path")) if part
    )
    sentence = f"{directory}/conf.d is not read any more"
    if place:
        sentence += (
            f"; Dovecot has its mail in {_show(place)}, the formula's mailboxes are below "
            f"{facts['vmail']['home']}: what is to be seen there is brought by mailbox.adopt"
        )
    return [sentence]


def _own_part(directory):
    """Whether somebody changed a file of conf.d."""
    parts = os.path.join(directory, "conf.d")
    with contextlib.suppress(OSError):
        return any(
            replaced(os.path.join(parts, name))
            for name in sorted(os.listdir(parts))[:200]
            if name.endswith((".conf", ".ext"))
        )
    return False


def _setting(name):
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ran = subprocess.run(["doveconf", "-h", name], capture_output=True, timeout=PATIENCE)
        if ran.returncode == 0:
            return ran.stdout.decode(errors="replace").strip()
    return ""


def _mboxes(facts):
    spool, sizes = facts["before"]["mail"], {}
    with contextlib.suppress(OSError), os.scandir(spool) as entries:
        for entry in itertools.islice(entries, MOST):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_size:
                    sizes[entry.path] = status.st_size
    return _some(
        f"{_show(path)} ({size} bytes) is mail that no mailbox shows; {_adopt(path)}"
        for path, size in sorted(sizes.items())
    )


def _maildirs(facts):
    homes = sorted({path for path in map(_home, _lines(facts["before"]["passwd"])) if path})
    places = [os.path.join(home, "Maildir") for home in homes]
    return _some(
        f"{_show(place)} is a Maildir that no mailbox shows; {_adopt(place)}"
        for place in places
        if os.path.isdir(os.path.join(place, "cur")) and not os.path.islink(place)
    )


def _home(line):
    fields = line.split(b":")
    if len(fields) != 7 or not fields[5].startswith(b"/") or b"\0" in fields[5]:
        return ""
    return os.fsdecode(fields[5])


def _adopt(path):
    return f"salt-call mailbox.adopt {_show(path)} ADDRESS test=True says what it would bring"


def _aliases(facts):
    path, usual, names = facts["opensmtpd"]["aliases"], USUAL_ALIASES.split(), []
    for line in _lines(path):
        name, colon, _ = line.partition(b":")
        name = name.strip().strip(b'"').decode(errors="replace").lower()
        if colon and name and not line.startswith((b"#", b" ", b"\t")) and name not in usual:
            names.append(_show(name))
    if not names:
        return []
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
    return [
        f"{path} stays and goes on for the mail of this machine's own programs alone: {listed}; "
        "for mail from elsewhere put those that are to live on into mailsrv:aliases"
    ]


def _files(facts):
    files = {
        facts["opensmtpd"]["config"]: "",
        f"{facts['dovecot']['directory']}/dovecot.conf": "",
        facts["rspamd"]["config"]: ", if the pillar uses rspamd",
        facts["dkimproxy"]["config"]: ", if the pillar uses dkimproxy",
    }
    return [
        f"{name} is replaced{condition}; what it is now stays in {name}{KEPT}"
        for name, condition in files.items()
        if replaced(name)
    ]


def _some(sentences):
    sentences = list(sentences)
    more = len(sentences) - SHOWN
    return sentences[:SHOWN] + [f"… and {more} more like these"] * (more > 0)


def _show(value):
    text = str(value)
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if text.isascii() and text.isprintable() else ascii(text)


# Adoption


def adopt(source, address, test=False):
    """
    Bring a Maildir or an mbox into the mailbox of an account, with folders, flags, keywords and
    dates. The source stays as it is.

    It can be done again: what came once does not come a second time, nor does what its owner has
    deleted meanwhile; what is new comes. Folders are made where there is a message for them.

    source
        The real path, without links, of a Maildir (its folders beside it, ``.Archive.2019``, or
        within it, ``Archive/2019``), of an mbox file, which goes into the inbox, or of a directory
        of mbox files, which become folders.

    address
        The account's, as in the pillar.

    test
        Whether to say only what would come. Default: ``False``.

    Returns a dictionary: ``folders``, of those that get something, each with ``messages`` and
    ``bytes``; ``there``, the number of messages that came before; ``left_out``, sentences about
    files that are not taken. Raises ``SaltInvocationError`` for a source or an address that cannot
    be used, and ``CommandExecutionError`` where Dovecot does not run or did not take all: whatever
    came has come, and the cure is to run it again.

    CLI Example:

    .. code-block:: bash

        salt-call mailbox.adopt /home/ann/Maildir ann@example.com test=True
        salt-call mailbox.adopt /home/ann/Maildir ann@example.com
        salt-call mailbox.adopt /var/mail/ann ann@example.com
    """
    known = __salt__["mailsrv.here"]()
    account, facts = _account(address, known), known["facts"]
    with (
        _exclusive(facts["vmail"]["home"]) as lock,
        contextlib.closing(_source(source, facts)) as mail,
    ):
        dovecot = _Dovecot(account, facts, lock)
        folders = mail.folders()
        there, known = dovecot.guids(), dovecot.remembered()
        coming = {name: _new(messages, there | known) for name, messages in folders.items()}
        coming = {name: messages for name, messages in coming.items() if messages}
        before = sum(map(len, folders.values())) - sum(map(len, coming.values()))
        if not test and coming:
            _check_space(coming, facts)
            said = [dovecot.take(name, messages, mail) for name, messages in coming.items()]
            came = dovecot.guids()
            dovecot.remember((there | came) - known)
            _check_all_came(coming, came, said)
        return {
            "folders": {name: _sum(messages) for name, messages in coming.items()},
            "there": before,
            "left_out": [f"{why}: {count}" for why, count in sorted(mail.left_out.items())],
        }


def _account(address, known):
    model = valid(known["model"], known["faults"])
    accounts = [account["address"] for account in model["accounts"]]
    if str(address).lower() not in accounts:
        raise SaltInvocationError(
            f"mailbox.adopt: {_show(address)} is not an account of the pillar; add it there and "
            f"run the highstate, or choose one: {', '.join(accounts[:SHOWN])}"
        )
    return str(address).lower()


def _new(messages, known):
    """Those that are not known, each once."""
    return list({m.guid: m for m in messages if m.guid not in known}.values())


def _sum(messages):
    return {"messages": len(messages), "bytes": sum(message.size for message in messages)}


def _check_space(coming, facts):
    """Each folder has a copy beside the mailbox while it is brought in."""
    sizes = [_sum(messages)["bytes"] for messages in coming.values()]
    needed = sum(sizes) + max(sizes, default=0) + facts["opensmtpd"]["spool_free"]
    home = facts["vmail"]["home"]
    free = shutil.disk_usage(home).free
    if free < needed:
        raise CommandExecutionError(
            f"mailbox.adopt: {home} has {free >> 20} MB free, this needs {needed >> 20} MB; make "
            "room there first"
        )


def _check_all_came(coming, came, said):
    short = {
        name: missing
        for name, messages in coming.items()
        if (missing := sum(message.guid not in came for message in messages))
    }
    if short:
        total = sum(map(len, coming.values()))
        where = ", ".join(f"{count} of {name}" for name, count in list(short.items())[:SHOWN])
        words = "; ".join(dict.fromkeys(filter(None, said))) or "nothing"
        raise CommandExecutionError(
            f"mailbox.adopt: {sum(short.values())} of {total} messages did not come ({where}). "
            f"Dovecot said: {words}. Mend that and run it again: what came does not come twice"
        )


@contextlib.contextmanager
def _exclusive(home):
    """One adoption at a time; what a killed one left is cleared away."""
    try:
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise CommandExecutionError(
            f"mailbox.adopt: {home} is not there yet; run the highstate first"
        ) from None
    try:
        _lock(handle)
        for name in os.listdir(handle):
            if name.startswith(".adopting-"):
                shutil.rmtree(os.path.join(home, name), ignore_errors=True)
        yield handle
    finally:
        os.close(handle)


def _lock(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandExecutionError(
            "mailbox.adopt: another one runs on this machine; wait until it has ended"
        ) from None


class _Dovecot:
    """One account's mailbox, as Dovecot itself reads and writes it: as vmail, not as root."""

    def __init__(self, address, facts, lock):
        self._address, self._doveadm = address, facts["dovecot"]["doveadm"]
        self._lock = lock
        self._vmail = pwd.getpwnam("vmail") if _has_user("vmail") else None
        top, (user, _, domain) = facts["vmail"]["home"], address.partition("@")
        self._top, self._home = top, os.path.join(top, domain, user)
        ran = self._run("user", "-f", "home", address)
        if ran.returncode or not self._vmail:
            raise CommandExecutionError(
                f"mailbox.adopt: Dovecot does not know {address}: {_words(ran) or 'no such user'}. "
                "Does it run, and is the highstate through?"
            )
        if ran.stdout.decode(errors="replace").strip() != self._home:
            raise CommandExecutionError(
                f"mailbox.adopt: Dovecot has the mail of {address} elsewhere than in {self._home}; "
                "run the highstate first"
            )

    def _run(self, *arguments):
        command = [self._doveadm, *arguments]
        with contextlib.suppress(FileNotFoundError):
            # An import that outlives this process holds the lock until it is through.
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=[self._lock]
            )
        return subprocess.CompletedProcess(command, 127, b"", b"there is no doveadm here")

    def guids(self):
        """The adopted messages that the mailbox has."""
        ran = self._run("-f", "tab", "fetch", "-u", self._address, "guid", "all")
        if ran.returncode:
            raise CommandExecutionError(f"mailbox.adopt: {self._address}: {_words(ran)}")
        return set(GUID.findall(ran.stdout.decode(errors="replace")))

    def remembered(self):
        """All that were ever adopted, those that its owner has deleted, too."""
        return set(
            GUID.findall(self._as_vmail('[ ! -e "$0" ] || cat "$0"').decode(errors="replace"))
        )

    def remember(self, guids):
        if guids:
            text = "".join(f"{guid}\n" for guid in sorted(guids))
            self._as_vmail('umask 077; cat >>"$0"', text.encode())

    def _as_vmail(self, line, text=b""):
        # A link in there leads root nowhere: vmail follows it, with what vmail may.
        ran = subprocess.run(
            ["sh", "-c", line, os.path.join(self._home, ".adopted")],
            input=text,
            capture_output=True,
            user=self._vmail.pw_uid,
            group=self._vmail.pw_gid,
            extra_groups=[],
            cwd="/",
        )
        if ran.returncode:
            raise CommandExecutionError(f"mailbox.adopt: {self._home}/.adopted: {_words(ran)}")
        return ran.stdout

    def take(self, folder, messages, mail):
        """Bring messages into a folder; returns what Dovecot says about it, if anything."""
        copy = tempfile.mkdtemp(prefix=".adopting-", dir=self._top)
        try:
            top = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _stage(top, folder, messages, mail, self._vmail)
            finally:
                os.close(top)
            return _words(
                self._run("import", "-s", "-u", self._address, f"maildir:{copy}", "", "all")
            )
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def _has_user(name):
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def _words(ran):
    """The last that a program said, without what Dovecot puts before it."""
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return re.sub(r"^doveadm\(.*?\)(<.*?>)*: ", "", lines[-1])[:300] if lines else ""


# The copy that Dovecot reads: a Maildir of one folder


def _stage(top, folder, messages, mail, owner):
    """
    Write messages as a Maildir folder below the directory `top`, which is root's until all is
    there: nobody can put a link in the way.
    """
    handles = [top]
    try:
        for name in ("cur", "new", "tmp"):
            handles.append(_directory(top, name))
        place = top
        if folder != "INBOX":
            place = _directory(top, "." + ".".join(map(_to_utf7, folder.split("/"))))
            handles.append(place)
            for name in ("cur", "new", "tmp"):
                handles.append(_directory(place, name))
        letters = _letters(messages)
        cur = os.open("cur", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
        handles.append(cur)
        messages[:] = [m for m in messages if _stage_message(cur, m, letters, mail, owner)]
        _write(place, "dovecot-keywords", enumerate(letters), owner)
        # Their order: else it would be that of their names.
        numbers = ((n, f":{m.guid}") for n, m in enumerate(messages, start=1))
        head = (3, f"V1 N{len(messages) + 1}")
        _write(place, "dovecot-uidlist", itertools.chain([head], numbers), owner)
    finally:
        for handle in reversed(handles[1:]):
            os.fchown(handle, owner.pw_uid, owner.pw_gid)
            os.close(handle)
        os.fchown(top, owner.pw_uid, owner.pw_gid)


def _stage_message(cur, message, letters, mail, owner):
    """Whether it is still there to be copied: a mailbox that is in use changes meanwhile."""
    marks = sorted(letters[word] for word in message.keywords if word in letters)
    name = f"{message.guid}:2,{message.flags}{''.join(marks)}"
    with _create(cur, name, owner) as out:
        copied = mail.copy(message, out)
        out.flush()
        os.utime(out.fileno(), (message.when, message.when))
    if not copied:
        os.unlink(name, dir_fd=cur)
        mail.left_out["messages that were moved or changed meanwhile; run it again"] += 1
    return copied


def _letters(messages):
    """The letters of a Maildir's keywords; it has no more than 26 of them."""
    words = list(dict.fromkeys(word for message in messages for word in message.keywords))
    return {word: chr(ord("a") + index) for index, word in enumerate(words[:26])}


def _directory(parent, name):
    os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _write(parent, name, lines, owner):
    with _create(parent, name, owner) as file:
        file.writelines(f"{number} {text}\n".encode() for number, text in lines)


def _create(parent, name, owner):
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
    os.fchown(handle, owner.pw_uid, owner.pw_gid)
    return open(handle, "wb")


# What is brought in


def _source(path, facts):
    """The mail at a path: a :class:`_Maildir` or a :class:`_Mboxes`."""
    path = str(path)
    real = os.path.realpath(path)
    if not path.startswith("/") or "\0" in path or real != os.path.normpath(path):
        raise SaltInvocationError(
            f"mailbox.adopt: {_show(path)} is not a real path; name what it leads to: {_show(real)}"
        )
    home = os.path.realpath(facts["vmail"]["home"])
    if os.path.commonpath((home, real)) == home or os.path.commonpath((home, real)) == real:
        raise SaltInvocationError(
            f"mailbox.adopt: {_show(path)} is where the mailboxes of the pillar are; move what is "
            f"to be adopted out of {home} first: mv {_show(path)} /var/old-mail"
        )
    handle = _open_whole(real)
    try:
        kind = os.fstat(handle).st_mode
        for reader in (_Maildir, _Mboxes):
            mail = reader(handle)
            if (stat.S_ISDIR(kind) or stat.S_ISREG(kind)) and mail.is_one():
                return mail
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    raise SaltInvocationError(
        f"mailbox.adopt: {_show(path)} is neither a Maildir (a directory with cur in it) nor an "
        "mbox (a file that begins with 'From ') nor a directory of them"
    )


def _open_whole(path):
    """Open a path of which no part is a link, not even one that was put there a moment ago."""
    handle = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in filter(None, path.split("/")):
            below = _open(part, handle)
            os.close(handle)
            handle = below
    except OSError as exc:
        os.close(handle)
        raise SaltInvocationError(f"mailbox.adopt: {_show(path)}: {exc.strerror}") from None
    return handle


def _open(name, parent, flags=0):
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, dir_fd=parent)


class _Mail:
    """The mail below a directory, or in a file, that is open; all of it has one owner."""

    def __init__(self, handle):
        self._handle, self._owner = handle, os.fstat(handle).st_uid
        self.left_out = collections.Counter()

    def close(self):
        os.close(self._handle)

    def _refused(self, status):
        """Why a file is not taken: a hard link would make somebody else's file one of these."""
        if not stat.S_ISREG(status.st_mode):
            return "links, sockets or devices, not files"
        if status.st_uid != self._owner:
            return "files of another owner than the whole has"
        return ""

    @contextlib.contextmanager
    def _directory(self, parts):
        handle = os.dup(self._handle)
        try:
            for part in parts:
                below = _open(part, handle, os.O_DIRECTORY)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _file(self, parts):
        if parts:
            with self._directory(parts[:-1]) as parent:
                handle = _open(parts[-1], parent)
        else:
            handle = os.dup(self._handle)
        with open(handle, "rb") as file:
            if why := self._refused(os.fstat(handle)):
                raise PermissionError(why)
            file.seek(0)
            yield file

    def _entries(self, parts):
        """The names in a directory with their status; nothing where it cannot be read."""
        with (
            contextlib.suppress(OSError),
            self._directory(parts) as handle,
            os.scandir(handle) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)


class _Maildir(_Mail):
    """maildir(5), with Maildir++ folders (.A.B) or those of a file system (A/B)."""

    def is_one(self):
        return any(True for _ in self._places(()))

    def _places(self, parts):
        """The directories that hold messages, each as the parts of its path."""
        names = {name for name, status in self._entries(parts) if stat.S_ISDIR(status.st_mode)}
        if "cur" in names:
            yield parts
        for name in sorted(names - {"cur", "new", "tmp"}):
            if not name.startswith("."):
                if len(parts) < DEPTH:
                    yield from self._places((*parts, name))
            elif not parts and any(sub == "cur" for sub, _ in self._entries((name,))):
                yield (name,)

    def folders(self):
        """The messages by folder."""
        result = {}
        for parts in self._places(()):
            levels = parts[0].split(".") if parts and parts[0].startswith(".") else parts
            messages = result.setdefault(_folder(levels), [])
            words = self._keywords(parts)
            for sub in ("cur", "new"):
                messages += self._messages(parts, sub, words)
            messages.sort(key=lambda message: (message.when, message.where))
        return result

    def _keywords(self, parts):
        """What the letters of a folder's keywords mean, as Dovecot notes it."""
        lines = []
        with contextlib.suppress(OSError), self._file((*parts, "dovecot-keywords")) as file:
            lines = file.read(1 << 16).decode(errors="replace").splitlines()
        found = (line.partition(" ") for line in lines)
        return {
            chr(ord("a") + int(number)): word
            for number, _, word in found
            if re.fullmatch("1?[0-9]|2[0-5]", number) and KEYWORD.fullmatch(word)
        }

    def _messages(self, parts, sub, words):
        for name, status in self._entries((*parts, sub)):
            if name.startswith("."):
                continue
            where = (*parts, sub, name)
            if why := self._refused(status) or self._unreadable(where):
                self.left_out[why] += 1
                continue
            base, _, marks = name.partition(":2,")
            yield Message(
                _guid(f"{'/'.join(parts)}\0{base.partition(':')[0]}\0{status.st_size}"),
                status.st_size,
                "".join(mark for mark in "DFPRST" if mark in marks),
                [words[mark] for mark in sorted({*marks}) if mark in words],
                status.st_mtime,
                where,
            )

    def _unreadable(self, where):
        with contextlib.suppress(OSError), self._file(where) as file:
            if file.read(4).startswith(COMPRESSED):
                return "messages that Dovecot has compressed: unpack them first"
        return ""

    def copy(self, message, out):
        """Write a message; whether it was still there."""
        with contextlib.suppress(OSError), self._file(message.where) as file:
            shutil.copyfileobj(file, out, CHUNK)
            return out.tell() == message.size
        return False


class _Mboxes(_Mail):
    """An mbox, mbox(5), for the inbox, or a directory of them."""

    def is_one(self):
        return any(True for _ in self._places(()))

    def _places(self, parts):
        """The files that are mboxes, each as the parts of its path."""
        if not parts and stat.S_ISREG(os.fstat(self._handle).st_mode):
            yield from [()] * self._begins_as_one(())
            return
        for name, status in sorted(self._entries(parts)):
            where = (*parts, name)
            if name.startswith("."):
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._places(where) if len(parts) < DEPTH else ()
            elif why := self._refused(status):
                self.left_out[why] += 1
            elif self._begins_as_one(where):
                yield where

    def _begins_as_one(self, where):
        with contextlib.suppress(OSError), self._file(where) as file:
            return bool(FROM.match(file.readline(CHUNK)))
        return False

    def folders(self):
        """The messages by folder."""
        self.left_out.clear()
        result = {}
        for parts in self._places(()):
            with contextlib.suppress(FileNotFoundError), self._file(parts) as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    self.left_out["mboxes that are being written to; run it again"] += 1
                    continue
                result.setdefault(_folder(parts), []).extend(self._messages(parts, file))
        return result

    def _messages(self, parts, file):
        seen = collections.Counter()
        written = os.fstat(file.fileno()).st_mtime
        for start, end in [*_bounds(file)]:
            notes = {}
            digest, size = _digest(file, start, end, notes)
            if b"x-imap" in notes:  # no message: a mail server's own notes about the mbox
                continue
            seen[digest] += 1
            status = notes.get(b"status", b"") + notes.get(b"x-status", b"")
            words = notes.get(b"x-keywords", b"").decode(errors="replace").split()
            yield Message(
                _guid(f"{'/'.join(parts)}\0{digest}\0{seen[digest]}"),
                size,
                "".join(sorted(mark for note, mark in MBOX_FLAGS.items() if note in status)),
                [word for word in words if KEYWORD.fullmatch(word)],
                _date(file, start, written),
                (parts, start, end, digest),
            )

    def copy(self, message, out):
        """Write a message; whether it was still the same."""
        parts, start, end, digest = message.where
        with contextlib.suppress(OSError), self._file(parts) as file:
            return _digest(file, start, end, {}, out)[0] == digest
        return False


def _bounds(file):
    """Where the messages of an mbox begin and end, without the empty line behind each."""
    size = os.fstat(file.fileno()).st_size
    place, start, trusted, length = 0, None, 0, 0
    blank = whole = True
    head, last = False, 0
    file.seek(0)
    while line := file.readline(CHUNK):
        apart = place >= trusted and (blank or 0 < trusted <= place <= trusted + 2)
        if whole and apart and FROM.match(line):
            if start is not None:
                yield start, place - last
            start, head, length = place, True, 0
        elif (
            head
            and whole
            and (found := re.match(rb"content-length:\s*([0-9]{1,12})\s", line, re.I))
        ):
            length = int(found[1])
        blank = whole and not line.strip(b"\r\n")
        whole, place, last = line.endswith(b"\n"), place + len(line), len(line) * blank
        if head and blank:
            head, trusted = False, _trusted(file, place, length, size)
    if start is not None:
        yield start, place - last


def _trusted(file, place, length, size):
    """The end of a text by its Content-Length, if a message or nothing follows there."""
    if not length or place + length > size:
        return 0
    file.seek(place + length)
    follows = file.read(8)
    file.seek(place)
    return place + length if re.match(rb"(\r?\n)?(From |$)", follows) else 0


def _digest(file, start, end, notes, out=None):
    """
    The SHA-256 and the size of a message in an mbox, without its first line and without the notes
    of mail servers, which go into `notes`; it is written to `out`.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in _clean(file, start, end, notes):
        digest.update(chunk)
        size += len(chunk)
        if out:
            out.write(chunk)
    return digest.hexdigest(), size


def _clean(file, start, end, notes):
    head = whole = dropped = True
    file.seek(start)
    place = start
    while place < end:
        most = min(CHUNK, end - place)
        chunk = file.readline(most) if head else file.read(most)
        if not chunk:
            return
        if head and whole and place > start and not chunk.startswith((b" ", b"\t")):
            name, _, value = chunk.partition(b":")
            dropped = name.strip().lower() in NOTES
            if dropped:
                notes.setdefault(name.strip().lower(), value.strip())
            head = bool(chunk.strip(b"\r\n"))
        whole, place = chunk.endswith(b"\n"), place + len(chunk)
        if not (head and dropped):
            yield chunk


def _date(file, start, otherwise):
    """When a message of an mbox came, in seconds since 1970, by its first line and local time."""
    file.seek(start)
    found = FROM.match(file.readline(1000))
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        month, *rest = found.groups()
        day, hour, minute, second, year = (int(number or 0) for number in rest)
        moment = (year, MONTHS.index(month) + 1, day, hour, minute, second, 0, 0, -1)
        return max(0, time.mktime(moment))
    return otherwise


def _guid(identity):
    return f"adopted-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:40]}"


# Names of folders: modified UTF-7 (RFC 3501, section 5.1.3) on the disk, or UTF-8


def _folder(parts):
    """A folder's name, with slashes, that Dovecot takes, whatever the parts are."""
    names = [_level(part) for part in parts]
    names = [name for name in names if name]
    if names and names[0].upper() == "INBOX":
        names[0] = "INBOX"
    return "/".join(names[:DEPTH]) or "INBOX"


def _level(part):
    name = _from_utf7(os.fsencode(part).decode(errors="replace"))
    name = "".join(letter if letter.isprintable() else "_" for letter in name)
    # A dot would be a level of its own in the Maildir that Dovecot reads.
    return re.sub(r"[./*%\\]", "_", name).strip().lstrip("~-")[:60]


def _from_utf7(text):
    def decoded(match):
        padded = match[1].replace(",", "/") + "=" * (-len(match[1]) % 4)
        with contextlib.suppress(ValueError):
            return base64.b64decode(padded).decode("utf-16-be")
        return match[0]

    return re.sub("&([A-Za-z0-9+,]+)-", decoded, text).replace("&-", "&")


def _to_utf7(text):
    def encoded(match):
        if match[0] == "&":
            return "&-"
        text = base64.b64encode(match[0].encode("utf-16-be")).decode()
        return f"&{text.rstrip('=').replace('/', ',')}-"

    return re.sub(r"[^ -~]+|&", encoded, text)
