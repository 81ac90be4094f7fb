"""
What of the checks has changed since somebody was told, and how it is told: each fault once, and
once that it is gone.

A look is a text by check (``ok``, or ``WARNING:`` or ``FAULT:`` and what is wrong), by part of the
look: not every part is looked at each time. Notes are what is kept between two looks:

looked
    When each part was looked at last, in seconds since 1970.
seen
    What it said then.
told
    What is known to those who are told: by part and check ``says``, ``since`` when, and ``last``,
    when it was seen last.
about
    ``to``, who is told; ``host`` and ``sender``, as whom.
outbox
    The mails that smtpd(8) has not taken yet.
figures
    What the last look has measured, for whoever draws it.
"""

import contextlib
import email.utils
import hashlib
import json
import re
import textwrap

RANK = re.compile(r"(?P<word>FAULT|WARNING)\b")
RANKS = {"WARNING": 1, "FAULT": 2}

DAY = 24 * 3600  # seconds between two looks at what is not looked at each time
STEADY = 3600  # seconds for which a fault must be away until it is told that it is gone
EARLY = 600  # seconds that a look may come too early: the timer is not that exact

# What there is to see where no run would do anything.
INVALID = {
    "pillar": {
        "the pillar": "FAULT: is not valid, so a run would do nothing; this says why: "
        "salt-call mailsrv.lint"
    }
}

NOTHING = "nothing that was not told"

WIDTH = 72
LIST = 60  # entries of a mail
SUBJECT = 78  # RFC 5322, section 2.1.1
COLUMN = 9

LOOK = (
    ("salt-call mailcheck.run", "the machine"),
    ("salt-call mailcheck.dns", "DNS"),
    ("salt-call state.highstate test=True", "what a run would change"),
    ("salt-call mailcheck.changes", "what would be told now"),
)


def fresh():
    """The notes of a machine that nobody has looked at."""
    about = {"to": [], "host": "", "sender": ""}
    return {"looked": {}, "seen": {}, "told": {}, "about": about, "outbox": [], "figures": {}}


def notes(text):
    """The notes that stand in a file; fresh ones where they are damaged, as after a power cut."""
    with contextlib.suppress(AttributeError, ValueError):
        found = json.loads(text)
        if found.keys() == fresh().keys():
            return found
    return fresh()


def rank(text):
    """How bad it is what a check said: 0, or 1 for a warning, or 2 for a fault."""
    found = RANK.match(text)
    return RANKS[found["word"]] if found else 0


def of_dns(found):
    """What `mailcheck.dns` found, as checks."""
    result = {}
    for findings in found.values():
        for finding in findings if findings != "ok" else ():
            record = f"{finding['name']} {finding['type']}"
            if finding["fault"] == "unknown":
                record = finding["servers"][0]
            word = "FAULT" if finding["need"] == "required" else "WARNING"
            said = f"{word}: {finding['says'].removeprefix(f'{record} ')}"
            if rank(said) > rank(result.get(record, "")):
                result[record] = said
    return result


def of_run(states):
    """What a dry run says of our states, as checks: what it would change, and what would fail."""
    result = {}
    for state in states.values():
        if state["result"] is not True and str(state.get("__sls__")).startswith("mailsrv"):
            word = "WARNING" if state["result"] is None else "FAULT"
            comment = str(state["comment"]).partition("\n")[0]
            result[f"a run, {state['__id__']}"] = f"{word}: {comment}"
    return result


def due(notes, part, now):
    """Whether a part is to be looked at that is not looked at each time."""
    last = notes["looked"].get(part, 0)
    # A clock that was wrong, and in the future, must not mean silence until then.
    age = now - last if last <= now else DAY
    told, seen = notes["told"].get(part, {}), notes["seen"].get(part, {})
    open_ = any(
        rank(seen.get(what, "")) != rank(told[what]["says"] if what in told else "")
        for what in {*seen, *told}
    )
    return age >= (STEADY if open_ else DAY) - EARLY


def judge(notes, look, now, at_once=False):
    """
    What is to be told after a look.

    notes
        Those of the looks before.

    look
        By part what the checks said. A check of a part that is no longer there is well.

    now
        Seconds since 1970.

    at_once
        Whether to take it at its word. Otherwise it takes two looks in a row to tell that something
        is worse, and an hour to tell that it is better: what comes and goes is told once. The first
        look of all at a part is taken at its word.

    Returns the notes for when it was told, and ``new`` and ``gone``, each a list of ``(check, what
    it says now, what was told of it before, or None)``.
    """
    after = json.loads(json.dumps(notes))
    new, gone = [], []
    for part, seen in look.items():
        before = seen if at_once else notes["seen"].get(part, seen)
        told = after["told"].setdefault(part, {})
        after["looked"][part], after["seen"][part] = now, seen
        for what in dict.fromkeys([*seen, *before, *told]):
            says, known = seen.get(what, "ok"), told.get(what)
            is_now, was = rank(says), rank(known["says"]) if known else 0
            if known and is_now >= was:
                known["last"] = now
            worse = min(is_now, rank(before.get(what, ""))) > was
            better = is_now < was and (at_once or not 0 <= now - known["last"] < STEADY - EARLY)
            if worse or (better and is_now):
                since = known["since"] if known else now
                told[what] = {"says": says, "since": since, "last": now}
                new.append((what, says, known))
            elif better:
                gone.append((what, says, told.pop(what)))
    new.sort(key=lambda change: -rank(change[1]))
    return after, new, gone


def mails(notes, told, new, gone, now):
    """
    The mails after a look, from the notes before and after it and what :func:`judge` says changed:
    a list of ``to``, ``subject``, ``text`` and ``id``. Who is new among those who are told is told
    first how it stands. News for nobody are a mail to nobody.
    """
    to, host = told["about"]["to"], told["about"]["host"]
    strangers = [address for address in to if address not in notes["about"]["to"]]
    others = [address for address in to if address not in strangers]
    still, result = standing(told), []
    if strangers:
        count = sum(map(len, told["seen"].values()))
        result.append((strangers, *first(host, still, count, now)))
    if (new or gone) and (others or not to):
        result.append((others, *mail(host, new, gone, still, now)))
    return [
        {
            "to": addresses,
            "subject": subject,
            "text": text,
            "id": hashlib.sha256(f"{addresses}{subject}{text}".encode()).hexdigest()[:32],
        }
        for addresses, subject, text in result
    ]


def waiting(outbox, to):
    """Those of these mails that are for somebody who is told now, each to those alone."""
    found = [{**mail, "to": [one for one in mail["to"] if one in to]} for mail in outbox]
    return [mail for mail in found if mail["to"]]


def about(known, notes):
    """
    Who is told, and as whom, of what :func:`mailsrv.here` knows; where the pillar is not valid, who
    was told last.
    """
    if known["faults"]:
        return notes["about"]
    model = known["model"]
    sender = f"postmaster@{model['domains'][0]}"
    return {"to": model["notify"], "host": model["hostname"], "sender": sender}


def standing(notes):
    """All that is told and not gone: a list of ``(check, what it said)``, the worst first."""
    told = [
        (what, entry["says"]) for part in notes["told"].values() for what, entry in part.items()
    ]
    return sorted(told, key=lambda entry: -rank(entry[1]))


def mail(host, new, gone, still, now):
    """
    The mail that tells what changed, from that host: its subject and its text, in ASCII.

    new, gone
        As :func:`judge` returns them.

    still
        All that stands now, as :func:`standing` returns it.
    """
    lines = _listed("New", [(what, says) for what, says, _ in new])
    still = [entry for entry in still if entry not in [(what, says) for what, says, _ in new]]
    lines += _listed(
        "Well again",
        [
            (what, f"since {_clock(known['since'])} it was: {known['says']}")
            for what, _, known in gone
        ],
        "ok",
    )
    lines += _listed("Still so", still)
    return _subject(host, new, gone, still), _text(host, lines, now)


def shown(mail):
    """A mail as it is shown to people."""
    to = ", ".join(mail["to"]) or "nobody; mailsrv:notify of the pillar names who is told"
    return f"To: {to}\nSubject: {mail['subject']}\n\n{mail['text']}"


def first(host, still, checks, now):
    """The mail to who is told for the first time: how it stands, and that it will be told."""
    lines = [
        f"{host} tells you from now on what changes: faults and warnings that are new, and those"
        " that are gone. While nothing changes, it says nothing.",
        "",
    ]
    lines = [line for text in lines for line in _wrapped(text, 0) or [""]]
    lines += _listed("Now", still) or [f"Now all {checks} checks are well.", ""]
    state = f"for now {_count(still)}" if still else "all is well"
    return _clean(f"{host} tells you what changes; {state}"), _text(host, lines, now)


def _subject(host, new, gone, still):
    if not new:
        words = f"{'' if still else 'all '}well again: {', '.join(what for what, *_ in gone)}"
    elif len(new) == 1:
        what, says, _ = new[0]
        word = RANK.match(says)["word"]
        # Behind the semicolon is the cure.
        words = f"{word}: {what}: {says.removeprefix(f'{word}: ').partition(';')[0]}"
        words += f"; well again: {len(gone)}" if gone else ""
    else:
        count = _count([(what, says) for what, says, _ in new])
        count += f", {len(gone)} well again" if gone else ""
        words = f"{count}: {', '.join(what for what, *_ in new)}"
    words = " ".join(_clean(f"{host}: {words}").split())
    return words if len(words) <= SUBJECT else f"{words[: SUBJECT - 3].rstrip()}..."


def _count(entries):
    """2 faults, 1 warning"""
    count = [sum(rank(says) == number for _, says in entries) for number in (2, 1)]
    words = zip(count, ("fault", "warning"), strict=True)
    return ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in words if n)


def _text(host, lines, now):
    width = max(len(command) for command, _ in LOOK)
    look = [f"    {command:<{width}}  {what}" for command, what in LOOK]
    asked = f"{_clock(now)}. To look for yourself, as root of {host}:"
    return "\n".join([*lines, *_wrapped(asked, 0), "", *look, ""])


def _listed(title, entries, word=""):
    if not entries:
        return []
    lines = [f"{title}:", ""]
    for what, says in entries[:LIST]:
        marked = word or RANK.match(says)["word"]
        said = _wrapped(f"{what}: {says.removeprefix(f'{marked}: ')}", COLUMN)
        lines += [f"{marked:<{COLUMN}}{said[0].lstrip()}", *said[1:]]
    if len(entries) > LIST:
        lines.append(f"{' ' * COLUMN}and {len(entries) - LIST} more")
    return [*lines, ""]


def _wrapped(text, indent):
    return textwrap.wrap(
        _clean(text),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _clock(seconds):
    """Thu, 26 Nov 2026 20:27 +0000"""
    said = email.utils.formatdate(seconds, localtime=True)
    return said[:-9] + said[-6:]


def _clean(text):
    """In printable ASCII: some of it was written by strangers."""
    return re.sub(r"[^\n -~]", "?", str(text).replace("…", "..."))
