"""
What moves in from an old server, and where it goes: what an IMAP server lists (RFC 3501), which of
its folders is which of ours (RFC 6154), and the table of accounts.
"""

import base64
import binascii
import csv
import re

from _mailsrv import names
from _mailsrv.faults import show

PORTS = {"imaps": 993, "imap": 143}
URL = re.compile(r"(imaps?)://([a-z0-9.-]+)(?::(\d{1,5}))?/?", re.IGNORECASE)

# Who shows other folders' mail once more, or what is only a mark on it.
VIEWS = {"\\all", "\\flagged", "\\important"}
OURS = {f"\\{name.lower()}": name for name in ("Drafts", "Sent", "Trash", "Junk", "Archive")}
# What programs and providers call them where the server does not say it. In lower case.
CALLED = {
    "Drafts": "drafts draft entwürfe brouillons borradores bozze concepten rascunhos",
    "Sent": "sent sent_items sent_messages sent_mail sent-mail gesendet gesendete_objekte "
    "gesendete_elemente éléments_envoyés envoyés elementos_enviados enviados posta_inviata "
    "inviati verzonden_items verzonden itens_enviados",
    "Trash": "trash bin deleted_items deleted_messages papierkorb gelöschte_objekte "
    "gelöschte_elemente corbeille éléments_supprimés elementos_eliminados papelera cestino "
    "posta_eliminata prullenbak verwijderde_items lixeira",
    "Junk": "junk junk_email junk_e-mail junk-e-mail junk_mail spam bulk_mail spamverdacht "
    "courrier_indésirable correo_no_deseado posta_indesiderata ongewenste_e-mail",
    "Archive": "archive archives archiv archief archivio archivo",
}
WELL_KNOWN = {
    word.replace("_", " "): name for name, words in CALLED.items() for word in words.split()
}
ALL_MAIL = {"all mail", "alle nachrichten", "tous les messages", "todos"}
GMAIL = re.compile(r"\[(?:gmail|google mail)\]", re.IGNORECASE)

LISTED = re.compile(rb'\(([^()]*)\) (?:"(\\?[^\r\n])"|NIL) (.+)', re.DOTALL | re.IGNORECASE)
QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\.)*)"')
LITERAL = re.compile(rb"\{\d+\}$")
FLAG = re.compile(r"\\(?:Seen|Answered|Flagged|Deleted|Draft)|[A-Za-z0-9$_][A-Za-z0-9$_.+-]{0,63}")
# RFC 3501, section 9: date-time.
DATE = re.compile(r'INTERNALDATE "([ \d]\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d [+-]\d{4})"')

STORAGE = re.compile(rb"STORAGE (\d+) (\d+)")  # KB, RFC 9208
APPENDED = re.compile(rb"\[APPENDUID \d+ (\d+)\]")  # RFC 4315


def server(url):
    """Scheme, host and port of a server; or None."""
    match = URL.fullmatch(url) if isinstance(url, str) else None
    if not match or not names.domain(match[2]) or int(match[3] or 1) not in range(1, 65536):
        return None
    scheme = match[1].lower()
    return scheme, match[2].lower(), int(match[3] or PORTS[scheme])


def table(text):
    """
    The lines of a table, ADDRESS,old user,password, each as a tuple; and a sentence for each fault,
    which tells no password. Blank lines and those that begin with # are none.
    """
    entries, faults, seen = [], [], {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            fields = next(csv.reader([line], strict=True, skipinitialspace=True))
        except csv.Error:
            fields = []
        address = names.address(fields[0].strip()) if fields else None
        if len(fields) != 3 or not address or not fields[1] or not fields[2]:
            faults.append(
                f'line {number} is not ADDRESS,user there,password; put "…" around what holds a '
                'comma, and write " there as ""'
            )
        elif address in seen:
            faults.append(f"line {number} has {address} again, as line {seen[address]} does")
        else:
            seen[address] = number
            entries.append((address, fields[1], fields[2]))
    return entries, faults


def decoded(name):
    """A readable name, from modified UTF-7 (RFC 3501, section 5.1.3); or None."""

    def letters(match):
        coded = match[1].replace(",", "/")
        coded += "=" * (-len(coded) % 4)
        return base64.b64decode(coded, validate=True).decode("utf-16-be") if coded else "&"

    try:
        return re.sub("&([^-]*)-", letters, name.decode("ascii"))
    except (UnicodeError, binascii.Error):
        return None


def coded(text):
    """A name in modified UTF-7, ASCII."""

    def letters(match):
        code = base64.b64encode(match[0].encode("utf-16-be")).decode().rstrip("=")
        return f"&{code.replace('/', ',')}-"

    return re.sub("[^ -~]+", letters, text.replace("&", "&-")).encode()


def quoted(name):
    """A name as a string of IMAP."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", name) + b'"'


def listed(lines):
    """
    The folders in an answer to LIST, as imaplib has it: attributes, in lower case, delimiter, name.
    What is no answer is none.
    """
    found = []
    for line in lines:
        literal = None
        if isinstance(line, tuple):
            line, literal = line[0], line[1]
        match = LISTED.fullmatch(line) if isinstance(line, bytes) else None
        if not match:
            continue
        name = match[3].strip()
        if literal is not None:
            name = literal
        elif inner := QUOTED.fullmatch(name):
            name = re.sub(rb"\\(.)", rb"\1", inner[1])
        attributes = set(match[1].decode("ascii", "replace").lower().split())
        delimiter = (match[2] or b"")[-1:].decode("ascii", "replace")
        found.append((attributes, delimiter, name))
    return found


def foreign(answer):
    """
    The prefixes of other people's and shared folders in an answer to NAMESPACE (RFC 2342); an empty
    one of Cyrus's where the user's own folders have one.
    """
    personal = re.match(rb"NIL|\((?:\([^()]*\))*\)", answer or b"", re.IGNORECASE)
    if not personal:
        return []
    rest = re.findall(rb'\("((?:[^"\\]|\\.)*)"', answer[personal.end() :])
    return [prefix for prefix in rest if prefix or not personal[0].startswith(b'(("" ')]


def plan(folders, others=()):
    """
    Which folder goes where: a list of ``(name there, readable name, name here)``, and a sentence
    for each one that is left out. Here levels are separated by ``/``.

    others
        The prefixes of folders that are somebody else's.
    """
    left, mine = [], []
    prefixes = tuple(filter(None, others))
    for attributes, delimiter, name in folders:
        text = decoded(name)
        if text is None or not text.isprintable() or not text:
            left.append(f"{show(name.decode('latin-1'))}: its name is not one of IMAP; rename it")
        elif name.startswith(prefixes) or (b"" in others and not name.upper().startswith(b"INBOX")):
            left.append(f"{text}: it is not this user's own")
        else:
            parts = text.split(delimiter) if delimiter else [text]
            mine.append((attributes, [part.replace("/", "_") for part in parts], text, name))
    # Cyrus and Courier have all folders below the inbox.
    below = all(parts[0].upper() == "INBOX" for _, parts, _, _ in mine)
    said = {special for attributes, *_ in mine for special in attributes & OURS.keys()}
    places, found = {}, []
    for attributes, parts, text, name in sorted(mine, key=lambda entry: entry[1]):
        path = tuple(parts[1:] if below and len(parts) > 1 else parts)
        if attributes & VIEWS or (GMAIL.fullmatch(path[0]) and path[-1].lower() in ALL_MAIL):
            left.append(f"{text}: it shows what other folders hold")
            continue
        here = [*places.get(path[:-1], path[:-1]), path[-1]]
        place = _special(attributes, path, said)
        if len(path) == 1 and path[0].upper() == "INBOX":
            here = ["INBOX"]
        elif place:
            here = [place]
        places[path] = here
        if attributes & {"\\noselect", "\\nonexistent"}:
            continue
        found.append((name, text, "/".join(here)))
    return found, left


def _special(attributes, path, said):
    """Which of our folders it is: the server's word counts, then its name."""
    for attribute in sorted(attributes & OURS.keys()):
        return OURS[attribute]
    top = path[1:] if GMAIL.fullmatch(path[0]) else path
    place = WELL_KNOWN.get(top[0].lower()) if len(top) == 1 else None
    # A server that names its own has reasons for what it does not name, but for a name like ours.
    return place if place and (f"\\{place.lower()}" not in said or place == top[0]) else None


def messages(lines):
    """
    The messages in an answer to FETCH, as imaplib has it: by UID ``flags``, a set, ``size``,
    ``date`` and ``text``, as far as they are in it. What makes no sense is not.
    """
    found, pieces = {}, []
    for line in [*lines, (b"", b"")]:
        if isinstance(line, tuple) or not pieces or pieces[-1].endswith(b")"):
            _message(pieces, found)
            pieces = []
        pieces += line if isinstance(line, tuple) else [line or b""]
    return found


def _message(pieces, found):
    body = None
    if len(pieces) > 1 and LITERAL.search(pieces[0]):
        body = pieces.pop(1)
    head = b" ".join(pieces).decode("ascii", "replace")
    uid = re.search(r"\bUID (\d{1,10})\b", head)
    if not uid or not 0 < int(uid[1]) < 2**32:
        return
    message = found.setdefault(int(uid[1]), {})
    if flags := re.search(r"\bFLAGS \(([^()]*)\)", head):
        message["flags"] = {flag for flag in flags[1].split() if FLAG.fullmatch(flag)}
    if size := re.search(r"\bRFC822\.SIZE (\d{1,12})\b", head):
        message["size"] = int(size[1])
    if date := DATE.search(head):
        message["date"] = date[1]
    if body is not None:
        message["text"] = body


def batches(messages, most, count):
    """UIDs in their order, as many at once as have at most so many bytes, but one at least."""
    batch, total = [], 0
    for uid, size in messages:
        if batch and (total + size > most or len(batch) == count):
            yield batch, total
            batch, total = [], 0
        batch.append(uid)
        total += size
    if batch:
        yield batch, total


def words(answer, *secrets):
    """What a server says, to be shown: short, printable, without a secret it may have repeated."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    for secret in secrets:
        text = text.replace(secret, "***")
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return text[:200] or "nothing"


def size(count):
    """Bytes as people read them."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
