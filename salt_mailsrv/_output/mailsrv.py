"""
Prints for people what the commands of this formula return: a line for each thing, verdicts in a
column, sentences over lines of 76 columns, and in one piece what is there to be copied.

The commands choose it where ``salt-call`` prints; their data is what ``--out=json`` shows.
"""

import re
import textwrap
import time

import salt.utils.color

__virtualname__ = "mailsrv"

WIDTH = 76  # of 80: bootstrap moves it to the right
COLUMN = 9  # of verdicts
VERDICT = re.compile(r"(ok|skipped|WARNING|FAULT)(?:: (.*))?", re.DOTALL)
COLORS = {
    "ok": "GREEN",
    "skipped": "YELLOW",
    "WARNING": "YELLOW",
    "recommended": "YELLOW",
    "FAULT": "LIGHT_RED",
    "required": "LIGHT_RED",
}


def __virtual__():
    return __virtualname__


def output(data, **_):
    """
    The text for what commands return.

    data
        By minion what it returned. ``local``, salt-call's own, is not named.
    """
    lines = []
    for minion, returned in data.items():
        indent = "" if minion == "local" else "    "
        lines += [f"{minion}:"] if indent else []
        lines += _said(returned, indent) or [f"{indent}nothing"]
    return "\n".join(lines)


def _said(value, indent):
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _entry(_clean(key), item, indent)]
    if isinstance(value, (list, tuple)):
        return [line for item in value for line in _item(item, indent)]
    return [f"{indent}{line}" for line in _clean(value).split("\n")]


def _entry(key, item, indent):
    verdict = VERDICT.fullmatch(item) if isinstance(item, str) else None
    if verdict:
        return _verdict(verdict[1], f"{key}: {verdict[2]}" if verdict[2] else key, indent)
    if key == "commands":
        return [f"{indent}{key}:", *(f"{indent}    {_clean(command)}" for command in item)]
    if isinstance(item, (dict, list, tuple)):
        below = _said(item, f"{indent}    ")
        return [f"{indent}{key}:", *below] if below else [f"{indent}{key}: none"]
    return _wrapped(f"{key}: {item}", indent, f"{indent}    ")


def _item(item, indent):
    if not isinstance(item, dict):
        return _wrapped(str(item), f"{indent}- ", f"{indent}  ")
    if "says" in item:  # a finding of mailcheck.dns
        lines, column = _verdict(item["need"], item["says"], indent, 13), 13
        lines += _whole("publish", [item["desired"]] if item["desired"] else [], indent, column)
        return lines + _whole("shown", item["live"], indent, column)
    if "events" in item:  # a message of mailsrv.trace
        return _wrapped(item["message"], indent, indent) + _happened(item["events"], indent)
    if {"name", "type", "value", "why"} <= item.keys():  # a record of mailsrv.dns
        hanging = f"{indent}{' ' * COLUMN}"
        why = _wrapped(f"{item['need']}: {item['why']}", hanging, hanging)
        return [
            *_verdict(item["type"], item["name"], indent),
            hanging + _clean(item["value"]),
            *why,
        ]
    return [f"{indent}-", *_said(item, f"{indent}  ")]


def _happened(events, indent):
    """A line for each event: when, of which daemon, what; and one for each day."""
    lines, day, hanging = [], "", f"{indent}{' ' * 19}"
    for event in events:
        date, at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"])).split()
        lines += [f"{indent}  {date}"] * (date != day)
        day = date
        first, *rest = _wrapped(event["says"], hanging, hanging) or [hanging]
        daemon = _clean(event["daemon"])[:7]
        lines += [f"{indent}  {at} {daemon:8}{first[len(hanging) :]}".rstrip(), *rest]
    return lines


def _whole(label, values, indent, column):
    return [f"{indent}{' ' * column}{label}: {_clean(value)}" for value in values]


def _verdict(word, text, indent, column=COLUMN):
    """A word in a column of its own, and the text beside it."""
    lines = _wrapped(text, indent + " " * column, indent + " " * column)
    colors = salt.utils.color.get_colors(__opts__.get("color"), __opts__.get("color_theme"))
    color, end = colors[COLORS.get(word, "ENDC")], colors["ENDC"]
    return [f"{indent}{color}{word}{end}{lines[0][len(indent + word) :]}", *lines[1:]]


def _wrapped(text, first, rest):
    return textwrap.wrap(
        _clean(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _clean(text):
    """Without what a terminal would obey: some of it was written by strangers."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", str(text))
