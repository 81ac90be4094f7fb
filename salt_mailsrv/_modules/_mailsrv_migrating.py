"""
An old IMAP server and Dovecot here: what is new there comes here, folder by folder.

doveadm(1) has a command for it, ``doveadm sync -1 -R … imapc:``, which has no place for a folder of
another name, and where mail arrives on both sides between two runs brings messages twice.
"""

import collections
import contextlib
import fcntl
import getpass
import imaplib
import os
import shlex
import shutil
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading

from _mailsrv import migrating as core
from _mailsrv.faults import show
from salt.exceptions import CommandExecutionError, SaltInvocationError

PATIENCE = 30  # seconds without a byte
DEADLINE = 180  # for one command, and for each MB of an answer ten more
LARGEST = 150_000_000  # of one message: both copies of it are in memory
BATCH = 16_000_000
FOLDERS = 10_000
# What nonsense makes of imaplib.
NONSENSE = (imaplib.IMAP4.error, ValueError, TypeError, LookupError, AttributeError)
SHOWN = 5
STATE = "(FLAGS RFC822.SIZE INTERNALDATE)"
SCHEMA = """
CREATE TABLE IF NOT EXISTS came (
    home INTEGER, server TEXT, folder BLOB, validity INTEGER, uid INTEGER,
    place TEXT, place_validity INTEGER, place_uid INTEGER, flags TEXT,
    PRIMARY KEY (home, server, folder, validity, uid)
)
"""


def run(address, table, options, test, known):
    """What :func:`mailsrv.migrate` does; returns its result, and sentences of what failed."""
    source, entries = _asked(address, table, options, known["model"])
    if not table:
        return _move(*entries[0], source, known["facts"], test)
    results, failed = {}, []
    for account, user, password in entries:
        try:
            results[account], why = _move(account, user, password, source, known["facts"], test)
        except CommandExecutionError as exc:
            why = [str(exc)]
            _tell(f"{account}: {exc}")
        failed += [f"{account}: {sentence}" for sentence in why]
    broken = {sentence.partition(":")[0] for sentence in failed}
    whole = f"{len(entries) - len(broken)} of {len(entries)} accounts"
    return {"accounts": results, "whole": whole}, failed


def _asked(address, table, options, model):
    """The server, and who shall come from it: address, user, password."""
    options = {name: value for name, value in options.items() if not name.startswith("__")}
    wrong = options.keys() - {"from", "user", "password_file", "ca"}
    if wrong:
        raise _invalid(f"{show(min(wrong))} is nothing it knows")
    url, ca = options.get("from"), options.get("ca")
    server = core.server(url)
    if not server:
        raise _invalid(
            f"from={show(url)} is no server; write it like imaps://old.example.com, or imap:// "
            "where it has STARTTLS only, with :port where that is another one"
        )
    source = dict(zip(("scheme", "host", "port"), server, strict=True), tls=_context(ca))
    if table:
        if address or {"user", "password_file"} & options.keys():
            raise _invalid("the table has the addresses, users and passwords; name none beside it")
        entries, faults = core.table(_secret(table))
        faults = [f"{table}, {fault}" for fault in faults] or [
            f"{table}: {one[0]} is not an account of the pillar"
            for one in entries
            if one[0] not in _accounts(model)
        ]
        if faults or not entries:
            raise _invalid("; ".join(faults) or f"{table} has no line")
        return source, entries
    if str(address).lower() not in _accounts(model):
        raise _invalid(
            f"{show(address)} is not an account of the pillar; add it there and run the highstate, "
            f"or choose one: {', '.join(_accounts(model)[:SHOWN])}"
        )
    user = str(options.get("user") or address)
    if options.get("password_file"):
        password = _secret(options["password_file"]).splitlines()[:1]
    elif sys.stdin and sys.stdin.isatty():
        password = []
        with contextlib.suppress(EOFError):
            password = [getpass.getpass(f"Password of {user} at {server[1]}: ")]
    else:
        raise _invalid("name the file with the old password, password_file=/root/old.pw")
    if not password or not password[0]:
        raise _invalid("the old password is empty")
    return source, [(str(address).lower(), user, password[0])]


def _accounts(model):
    return [account["address"] for account in model["accounts"]]


def _invalid(sentence):
    return SaltInvocationError(f"mailsrv.migrate: {sentence}")


def _failed(sentence):
    return CommandExecutionError(f"mailsrv.migrate: {sentence}")


def _secret(path):
    """The text of a file that only root reads."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            status = os.fstat(file.fileno())
            text = file.read(1_000_000)
    except OSError as exc:
        raise _invalid(f"{show(path)} cannot be read: {exc.strerror}") from None
    except (TypeError, ValueError):
        raise _invalid(f"{show(path)} is no file of text in UTF-8") from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid or status.st_mode & 0o077:
        raise _invalid(f"{path} holds passwords: chown root {path}; chmod 600 {path}")
    return text


def _context(ca):
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(ca)
        except (OSError, TypeError):
            raise _invalid(f"ca={show(ca)} is no file of certificates, PEM") from None
    return context


def _tell(line):
    """Progress, for who looks at it."""
    if sys.stderr and sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def _move(address, user, password, source, facts, test):
    old = {**source, "user": user, "password": password}
    with contextlib.ExitStack() as stack:
        came = stack.enter_context(_remembered(facts["kept"], address, test))
        here = stack.enter_context(_Here(address))
        there = stack.enter_context(_There(old))
        came.begin(here.home, f"{old['user']}@{old['host']}")
        folders, left = core.plan(*there.folders())
        found = [folder for one in folders if (folder := _look(one, there, here, came, left))]
        _check_room(address, found, here, facts)
        failed, result, changed = collections.Counter(), {}, 0
        for folder in found:
            if folder.new:
                total = sum(size for _, size in folder.new)
                line = f"{folder.place}: {len(folder.new)} messages, {core.size(total)}"
                _tell(f"{address}: {line}" + (f" from {folder.text}" if folder.renamed else ""))
            before = sum(failed.values())
            if not test:
                _bring(folder, there, here, came, failed)
            changed += _follow(folder, here, came, test)
            brought = len(folder.new) - (sum(failed.values()) - before)
            if brought > 0:
                _add(result, folder, brought)
        result = {
            "folders": result,
            "there": sum(folder.known for folder in found),
            "flags": changed,
            "left_out": left,
        }
        return result, [f"{why}: {count}" for why, count in sorted(failed.items())]


def _add(result, folder, brought):
    entry = result.setdefault(folder.place, {"messages": 0, "bytes": 0})
    entry["messages"] += brought
    entry["bytes"] += sum(size for _, size in folder.new)
    if folder.renamed:
        entry["from"] = ", ".join(filter(None, (entry.get("from"), folder.text)))


class _Folder:
    """One folder there, with what is new in it."""

    def __init__(self, name, text, place, validity, messages):
        self.name, self.text, self.place, self.validity = name, text, place, validity
        self.messages = messages
        self.new, self.known, self.flags, self.first = [], 0, [], True

    @property
    def renamed(self):
        return self.text != self.place


def _look(one, there, here, came, left):
    """What is new in a folder; nothing where it cannot be opened."""
    said = there.open(one[0])
    if said:
        left.append(f"{one[1]}: {said}")
        return None
    folder = _Folder(*one, there.validity, there.state())
    before = came.of(folder.name, folder.validity)
    folder.first = 0 not in before
    candidates = None
    large = 0
    for uid, message in sorted(folder.messages.items()):
        if uid in before:
            folder.known += 1
            if before[uid][3] != (flags := _text(message.get("flags", set()))):
                folder.flags.append((uid, before[uid], flags))
            continue
        size = message.get("size", 0)
        if size > LARGEST:
            large += 1
            continue
        if candidates is None:
            candidates = here.candidates(folder.place, came.last(folder))
        same = [*candidates.get((size, _moment(message)), ())]
        if same and (text := there.texts([uid], size).get(uid)):
            match = next((found for found in same if here.text(found) == text["text"]), None)
            if match:
                candidates[size, _moment(message)].remove(match)
                came.add(folder, uid, here.validity, match, _text(message.get("flags", set())))
                folder.known += 1
                continue
        folder.new.append((uid, size))
    if large:
        left.append(f"{one[1]}: messages of more than {core.size(LARGEST)}: {large}")
    return folder


def _text(flags):
    return " ".join(sorted(flags))


def _moment(message):
    """When it came, in seconds, whatever zone the server writes it in."""
    return imaplib.Internaldate2tuple(f'INTERNALDATE "{message.get("date", "")}"'.encode())


def _check_room(address, found, here, facts):
    coming = sum(size for folder in found for _, size in folder.new)
    room = here.room()
    if room is not None and coming > room:
        raise _failed(
            f"{core.size(coming)} would come, and the quota of {address} leaves "
            f"{core.size(room)}: raise it in the pillar and run the highstate first; nothing came"
        )
    home = facts["vmail"]["home"]
    free = shutil.disk_usage(home).free - facts["opensmtpd"]["spool_free"]
    if coming > free:
        raise _failed(
            f"{core.size(coming)} would come, and {home} has room for {core.size(max(free, 0))}: "
            "make room there first; nothing came"
        )


def _bring(folder, there, here, came, failed):
    if not folder.first and not folder.new:
        return
    if said := here.make(folder.place):
        failed[f"{folder.text}: Dovecot does not make {folder.place}: {said}"] += max(
            len(folder.new), 1
        )
        return
    came.add(folder, 0, here.validity, None, "")
    if folder.new:
        there.open(folder.name)
        if there.validity != folder.validity:
            raise _failed(f"{folder.text} was made anew there meanwhile; run it again")
    for batch, total in core.batches(folder.new, BATCH, 100):
        texts = there.texts(batch, total)
        for uid in batch:
            message = {**folder.messages[uid], **texts.get(uid, {})}
            if "text" not in message:
                failed[f"{folder.text}: the old server did not hand it over"] += 1
                continue
            number, said = here.append(folder.place, message)
            if said:
                failed[f"{folder.text}: Dovecot refused it: {said}"] += 1
            else:
                came.add(
                    folder, uid, here.validity, number, _text(folder.messages[uid].get("flags", ()))
                )


def _follow(folder, here, came, test):
    """What was read, answered or marked there since it came is so here, too."""
    changed = 0
    for uid, (place, validity, number, was), flags in folder.flags:
        if number is None or here.open(place) or here.validity != validity:
            continue
        changed += 1
        if not test:
            now, before = set(flags.split()), set(was.split())
            here.mark(number, now - before, before - now)
            came.add(folder, uid, validity, number, flags, place)
    return changed


class _remembered:
    """
    What came, by its UID there, so that it comes once: whatever becomes of it here. A mailbox that
    was made anew here, after a purge, has another `home`.
    """

    def __init__(self, kept, address, test):
        directory = os.path.join(kept, "migrated")
        path = os.path.join(directory, f"{address}.sqlite")
        self._test = test
        if test and not os.path.exists(path):
            path = ":memory:"
        elif not test:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self._path = path

    def __enter__(self):
        self._lock = None
        if not self._test:
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise _failed("mail of this account moves in already; wait for it") from None
        self._base = sqlite3.connect(self._path, isolation_level=None)
        try:
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute(SCHEMA)
        except sqlite3.DatabaseError as exc:
            self.__exit__()
            raise _failed(f"{self._path} is broken, remove it: {exc}") from None
        return self

    def __exit__(self, *_):
        self._base.close()
        if self._lock is not None:
            os.close(self._lock)

    def begin(self, home, server):
        self._who = home, server

    def of(self, name, validity):
        rows = self._base.execute(
            "SELECT uid, place, place_validity, place_uid, flags FROM came"
            " WHERE home = ? AND server = ? AND folder = ? AND validity = ?",
            (*self._who, name, validity),
        )
        return {uid: rest for uid, *rest in rows}

    def last(self, folder):
        """After which message here one may lie that came and was not noted; by its UIDVALIDITY."""
        others = self._base.execute(
            "SELECT count(*) FROM came WHERE home = ? AND server = ? AND folder = ?"
            " AND validity = ?",
            (*self._who, folder.name, folder.validity),
        ).fetchone()[0]
        if not others:  # the first time, or a folder that was made anew there: all may be here
            return {}
        rows = self._base.execute(
            "SELECT place_validity, max(place_uid) FROM came WHERE home = ? AND place = ?"
            " GROUP BY place_validity",
            (self._who[0], folder.place),
        )
        return {validity: uid or 0 for validity, uid in rows}

    def add(self, folder, uid, validity, number, flags, place=None):
        if not self._test:
            self._base.execute(
                "INSERT OR REPLACE INTO came VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(*self._who, folder.name, folder.validity, uid),
                    *(place or folder.place, validity, number, flags),
                ),
            )


class _Careful:
    """imaplib, with an end: of time, and of what is read at once."""

    _read = 0

    def open(self, *args, **kwargs):
        super().open(*args, **kwargs)
        self.greeting = self._timer(DEADLINE)

    def read(self, size):
        self._count(size)
        return super().read(size)

    def readline(self):
        line = super().readline()
        self._count(len(line))
        return line

    def listed(self, *more):
        """All folders, with what RFC 5258 adds; list() of Python 3.14 would quote that."""
        return self._untagged_response(*self._simple_command("LIST", '""', '"*"', *more), "LIST")

    def _count(self, size):
        self._read += size
        if self._read > 2 * LARGEST:
            raise self.abort("an answer without an end")

    @contextlib.contextmanager
    def within(self, seconds):
        self._read = 0
        timer = self._timer(seconds)
        try:
            yield
        finally:
            timer.cancel()

    def _timer(self, seconds):
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        return timer

    def _end(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Secured(_Careful, imaplib.IMAP4_SSL):
    pass


class _Plain(_Careful, imaplib.IMAP4):
    pass


class _There:
    """The old server. Nothing is changed there: folders are opened to read, no mark is set."""

    def __init__(self, old):
        self._old, self._name = old, f"{old['host']} port {old['port']}"

    def __enter__(self):
        with self._errors():
            if self._old["scheme"] == "imaps":
                self._imap = _Secured(*self._at(), ssl_context=self._old["tls"], timeout=PATIENCE)
            else:
                self._imap = _Plain(*self._at(), timeout=PATIENCE)
            self._imap.greeting.cancel()
        try:
            with self._asking():
                if self._old["scheme"] == "imap":
                    if "STARTTLS" not in self._imap.capabilities:
                        raise _failed(f"{self._name} has no STARTTLS, and a password needs TLS")
                    self._imap.starttls(self._old["tls"])
                self._log_in()
                # What may be asked is said anew after the login.
                typ, said = self._imap.capability()
                self._can = b" ".join(filter(None, said)).upper().split() if typ == "OK" else []
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, *NONSENSE), self._imap.within(5):
            self._imap.logout()

    def _at(self):
        return self._old["host"], self._old["port"]

    def _log_in(self):
        user, password = self._old["user"], self._old["password"]
        try:
            if "AUTH=PLAIN" in self._imap.capabilities:
                self._imap.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
            else:
                # Only newer versions quote the user, and none what is quoted.
                self._imap.login(core.quoted(user.encode("ascii")).decode(), password)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as exc:
            quoted = password.replace("\\", "\\\\").replace('"', '\\"')
            said = core.words(" ".join(map(_plain, exc.args)), password, quoted)
            raise _failed(
                f"{self._old['host']} does not take user {user} with this password: {said}"
            ) from None
        except UnicodeEncodeError:
            raise _failed(f"{self._old['host']} takes user and password in ASCII only") from None

    @contextlib.contextmanager
    def _asking(self, size=0):
        with self._errors(), self._imap.within(DEADLINE + size / 1e5):
            yield

    @contextlib.contextmanager
    def _errors(self):
        """A sentence for all that can go wrong with others' servers."""
        try:
            yield
        except CommandExecutionError:
            raise
        except socket.gaierror:
            raise _failed(f"there is no host {self._old['host']} in DNS") from None
        except ssl.SSLCertVerificationError as exc:
            raise _failed(
                f"the certificate of {self._name} is not good: {exc.verify_message}; where it has "
                "a CA of its own, name that with ca=/path/of.pem"
            ) from None
        except ssl.SSLError as exc:
            raise _failed(
                f"{self._name} does not speak TLS ({exc.reason}); imap:// is for STARTTLS"
            ) from None
        except OSError as exc:
            raise _failed(
                f"{self._name} cannot be reached: {exc.strerror or exc}; what came has come, "
                "run it again"
            ) from None
        except NONSENSE as exc:
            said = core.words(" ".join(map(_plain, exc.args)), self._old["password"])
            raise _failed(
                f"{self._name} ended, or does not speak IMAP: {said}; what came has come, run it "
                "again"
            ) from None

    def folders(self):
        """The folders, as :func:`core.listed`, and the prefixes of those that are others'."""
        with self._asking():
            more = ["RETURN (SPECIAL-USE)"] if b"SPECIAL-USE" in self._can else []
            try:
                typ, lines = self._imap.listed(*more)
            except imaplib.IMAP4.abort:
                raise
            except imaplib.IMAP4.error:  # SPECIAL-USE without LIST-EXTENDED
                typ, lines = self._imap.listed()
            others = []
            if b"NAMESPACE" in self._can:
                others = core.foreign(self._imap.namespace()[1][-1])
        found = core.listed(lines) if typ == "OK" else []
        if not found or len(found) > FOLDERS:
            raise _failed(f"{self._name} lists {len(found)} folders: that is none of IMAP")
        return found, others

    def open(self, name):
        """Open a folder to read; returns what the server says against it."""
        with self._asking():
            typ, said = self._imap.select(core.quoted(name), readonly=True)
            if typ != "OK":
                return core.words(said[-1] or b"")
            self.validity = int((self._imap.response("UIDVALIDITY")[1] or [0])[-1] or 0)
            self._count = int(said[-1] or 0)
        return ""

    def state(self):
        """Of all messages in it flags, size and date, by UID."""
        if not self._count:
            return {}
        with self._asking(self._count * 100):
            return core.messages(self._imap.uid("FETCH", "1:*", STATE)[1])

    def texts(self, uids, size):
        with self._asking(size):
            uids = ",".join(map(str, uids))
            found = core.messages(self._imap.uid("FETCH", uids, "(BODY.PEEK[])")[1])
        return {uid: message for uid, message in found.items() if "text" in message}


def _plain(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Here:
    """The account's mailbox: an IMAP session of Dovecot's, which root needs no password for."""

    def __init__(self, address):
        self._address = address
        self._command = f"doveadm exec imap -u {shlex.quote(address)} 2>/dev/null"
        self._opened, self.validity = None, 0

    def __enter__(self):
        known = subprocess.run(
            ["doveadm", "user", "-f", "home", self._address], capture_output=True, check=False
        )
        if known.returncode:
            raise _failed(
                f"Dovecot does not know {self._address}: does it run, and is the highstate through?"
            )
        with self._asking():
            self._imap = imaplib.IMAP4_stream(self._command)
            self.open("INBOX")
            self.home = self.validity
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, *NONSENSE):
            self._imap.logout()

    @contextlib.contextmanager
    def _asking(self):
        try:
            yield
        except (OSError, imaplib.IMAP4.error) as exc:
            raise _failed(
                f"Dovecot's session of {self._address} ended: {core.words(str(exc))}; what came "
                "has come; see its log, and run it again"
            ) from None

    def _name(self, place):
        return core.quoted(core.coded(place))

    def open(self, place):
        """Open a folder; returns what Dovecot says against it."""
        if place != self._opened:
            self._opened = None
            with self._asking():
                typ, said = self._imap.select(self._name(place))
                if typ != "OK":
                    return core.words(said[-1] or b"")
                self.validity = int(self._imap.response("UIDVALIDITY")[1][-1])
                self._opened = place
        return ""

    def make(self, place):
        """Open a folder, and make it where it is not; returns what Dovecot says against it."""
        if not self.open(place):
            return ""
        with self._asking():
            typ, said = self._imap.create(self._name(place))
            if typ != "OK":
                return core.words(said[-1] or b"")
            self._imap.subscribe(self._name(place))
        return self.open(place)

    def room(self):
        """How many bytes the quota leaves; None where there is none."""
        with self._asking():
            _, answer = self._imap.getquotaroot("INBOX")
        said = b" ".join(part for part in answer[-1] if part)
        found = core.STORAGE.search(said)
        return max(int(found[2]) - int(found[1]), 0) * 1024 if found else None

    def candidates(self, place, last):
        """What may have come without a note of it: UIDs by size and date."""
        found = collections.defaultdict(list)
        if self.open(place):
            return found
        first = last.get(self.validity, 0) + 1
        with self._asking():
            lines = self._imap.uid("FETCH", f"{first}:*", "(RFC822.SIZE INTERNALDATE)")[1]
        for uid, message in core.messages(lines).items():
            if uid >= first:  # of first:* the last message is part, whatever its UID
                found[message.get("size", 0), _moment(message)].append(uid)
        return found

    def text(self, uid):
        with self._asking():
            lines = self._imap.uid("FETCH", str(uid), "(BODY.PEEK[])")[1]
        return core.messages(lines).get(uid, {}).get("text")

    def append(self, place, message):
        """Store a message, byte for byte; returns its UID, and what Dovecot says against it."""
        flags, date = " ".join(sorted(message.get("flags", ()))), message.get("date")
        with self._asking():
            self._imap.literal = message["text"]  # its append() would change line ends
            try:
                typ, said = self._imap._simple_command(
                    "APPEND", self._name(place), f"({flags})", f'"{date}"' if date else None
                )
            except imaplib.IMAP4.abort:
                raise
            except imaplib.IMAP4.error as exc:
                return None, core.words(str(exc))
        said = said[-1] or b""
        if b"[OVERQUOTA]" in said:
            raise _failed(
                f"{self._address} is full: raise its quota in the pillar, run the highstate and "
                "this again; what came has come"
            )
        if typ != "OK":
            return None, core.words(said)
        number = core.APPENDED.search(said)
        return (int(number[1]) if number else None), ""

    def mark(self, number, more, less):
        with self._asking():
            for sign, flags in (("+", more), ("-", less)):
                if flags:
                    self._imap.uid("STORE", str(number), f"{sign}FLAGS.SILENT", f"({_text(flags)})")
