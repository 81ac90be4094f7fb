"""
The report: one page of HTML for people who look at a mail server, or at several.

It needs nothing from outside and runs no script; what strangers wrote into the log is text in it.
"""

import collections
import re
import unicodedata

import jinja2

LARGEST = 20  # mailboxes that are listed
COUNTED = ("received", "sent", "refused", "spam", "failed logins")

_VERDICT = re.compile(r"(ok|skipped|WARNING|FAULT)(?:: (.*))?", re.DOTALL)
_WORST = ("FAULT", "WARNING", "skipped", "ok")


def history(events, days, day):
    """
    What went through the server, by day and by cause.

    events
        Of :func:`_mailsrv.journal.events`.

    days
        The days that are counted, in their order, e.g. ``2026-11-26``.

    day
        A function that says of a time, in seconds since 1970, on which day it is here.

    Returns ``since``, the time of the first event, or None; ``days``, a list of dicts: ``day`` and
    the numbers of :data:`COUNTED`, in which each recipient counts; and ``refused``, a dict of
    numbers by cause, the greatest first. What the self-check sends and tries from 127.0.0.1 and
    127.0.0.2 does not count.
    """
    counts = {name: collections.Counter() for name in days}
    causes, ours, since = collections.Counter(), set(), None
    for event in events:
        since = since or event["time"]
        here = event["address"].startswith("127.")
        if here and event["kind"] == "queued" and not event["sender"]:
            ours.add(event["message"])
        what = _counted(event)
        checked = event["message"] in ours or (
            here and event["kind"] in ("refused", "login_failed")
        )
        if what and not checked and (name := day(event["time"])) in counts:
            counts[name].update({name: event["count"] for name in what})
            causes[event["cause"]] += "refused" in what
    return {
        "since": since,
        "days": [
            {"day": name, **{what: counted[what] for what in COUNTED}}
            for name, counted in counts.items()
        ],
        "refused": dict((+causes).most_common()),
    }


def _counted(event):
    kind = event["kind"]
    if kind == "stored" and event["reason"] == "Junk":
        return ["spam"]
    if kind == "refused" and event["cause"] == "spam":
        return ["refused", "spam"]
    names = {"delivered": "received", "relayed": "sent", "refused": "refused"}
    names["login_failed"] = "failed logins"
    return [names[kind]] if kind in names else []


def page(machines, made):
    """
    The page.

    machines
        A list of what :func:`mailsrv.figures` returns; of a machine that did not answer ``name``
        and ``fault`` alone.

    made
        When that is, as people write it.

    Returns HTML.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": _size, "age": _age}
    return environment.from_string(_PAGE).render(
        machines=[_shown(machine) for machine in machines],
        made=made,
        largest=LARGEST,
        charts=COUNTED[:4],
    )


def verdicts(machines):
    """By name of the machine its state, as a check of the machine says it."""
    shown = {machine["name"]: _shown(machine) for machine in machines}
    return {name: f"{found['verdict']}: {found['summary']}" for name, found in shown.items()}


def _shown(machine):
    """What the page says of a machine, ready to be written."""
    if "fault" in machine:
        return {**machine, "verdict": "FAULT", "summary": machine["fault"]}
    checks = []
    for name, said in machine["checks"].items():
        found = _VERDICT.fullmatch(said)
        checks.append({"name": name, "verdict": found[1], "note": found[2] or ""})
    checks.sort(key=lambda check: _WORST.index(check["verdict"]))
    findings = {
        domain: [] if found == "ok" else [{"need": "unknown", "says": found}]
        for domain, found in machine["dns"].items()
        if isinstance(found, str)
    } | {domain: found for domain, found in machine["dns"].items() if not isinstance(found, str)}
    verdicts = {check["verdict"] for check in checks}
    needs = {finding["need"] for found in findings.values() for finding in found}
    verdicts |= {"FAULT"} if needs & {"required", "unknown"} else set()
    verdicts |= {"WARNING"} if needs else set()
    totals = {name: sum(day[name] for day in machine["days"]) for name in COUNTED}
    boxes = sorted(machine["mailboxes"], key=lambda box: (-box["bytes"], box["address"]))
    bad = [check["name"] for check in checks if check["verdict"] in _WORST[:2]]
    bad += [f"DNS of {domain}" for domain, found in findings.items() if found]
    return {
        **machine,
        "verdict": next(verdict for verdict in _WORST if verdict in verdicts | {"ok"}),
        "summary": f"to look at: {', '.join(bad)}" if bad else "every check is ok",
        "checks": checks,
        "dns": findings,
        "totals": totals,
        "most": {name: max(day[name] for day in machine["days"]) for name in COUNTED},
        "boxes": boxes[:LARGEST],
        "others": boxes[LARGEST:],
    }


def _clean(value):
    """Without control characters, and those that turn the direction of what follows."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in value)


def _size(count):
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            break
        count, unit = count / 1000, "TB"
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"


def _age(seconds):
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Mail report of {{ machines | map(attribute="name") | join(", ") }}</title>
<style>
:root {
    color-scheme: light dark;
    --page: #fff; --text: #1c2024; --faint: #5c6670; --line: #d8dde2; --bar: #2f6db5;
    --ok: #176b3a; --warning: #875600; --fault: #b3261e; --chip: #f1f3f5;
}
@media (prefers-color-scheme: dark) {
    :root {
        --page: #15181b; --text: #e4e7ea; --faint: #9aa4ae; --line: #343a40; --bar: #6ea8e8;
        --ok: #6fcf97; --warning: #f0b95a; --fault: #ff8a80; --chip: #22272b;
    }
}
* { box-sizing: border-box; }
body {
    margin: 0 auto; max-width: 68rem; padding: 1rem; background: var(--page); color: var(--text);
    font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 0; }
p { margin: .25rem 0; }
.faint, .from { color: var(--faint); font-size: .875rem; }
.from { margin-bottom: .5rem; }
code { font: .875em/1.4 ui-monospace, monospace; }
.verdict { font-weight: 600; white-space: nowrap; }
.ok { color: var(--ok); } .skipped { color: var(--faint); }
.WARNING, .recommended { color: var(--warning); }
.FAULT, .required, .unknown { color: var(--fault); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td {
    text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
    border-bottom: 1px solid var(--line);
}
th { font-weight: 600; font-size: .8125rem; color: var(--faint); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.name { white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; }
.chart { background: var(--chip); border-radius: .5rem; padding: .75rem; }
.chart b { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.chart svg { display: block; width: 100%; height: 4.5rem; margin-top: .5rem; }
.chart rect { fill: var(--bar); }
.ends { display: flex; justify-content: space-between; }
.tenths {
    display: block; height: .4rem; min-width: 2px; margin-top: .2rem; border-radius: .2rem;
    background: var(--bar);
}
summary { cursor: pointer; color: var(--faint); font-size: .875rem; margin-top: .5rem; }
@media print {
    :root {
        --page: #fff; --text: #000; --faint: #444; --line: #bbb; --bar: #456; --chip: #fff;
        --ok: #000; --warning: #000; --fault: #000;
    }
    body { max-width: none; padding: 0; font-size: 10pt; }
    h2 { break-before: page; } h2:first-of-type { break-before: auto; }
    tr, .chart { break-inside: avoid; } h3 { break-after: avoid; }
    .chart { border: 1px solid var(--line); }
    rect, .tenths { print-color-adjust: exact; }
}
</style>
</head>
<body>
{% macro verdict(word) %}<span class="verdict {{ word }}">{{ word }}</span>{% endmacro %}
<h1>Mail report</h1>
<p class="faint">Made {{ made }}. Below each heading stands where its numbers come
from.</p>
{% if machines | length > 1 %}
<div class="scroll"><table>
<thead><tr><th>machine</th><th>state</th><th></th><th class="number">received</th>
<th class="number">sent</th><th class="number">waiting</th></tr></thead>
<tbody>
{% for machine in machines %}
<tr><td class="name"><a href="#{{ machine.name }}">{{ machine.name }}</a></td>
<td>{{ verdict(machine.verdict) }}</td><td>{{ machine.summary }}</td>
{% if "fault" in machine %}
<td class="number">?</td><td class="number">?</td><td class="number">?</td></tr>
{% else %}
<td class="number">{{ machine.totals.received }}</td>
<td class="number">{{ machine.totals.sent }}</td>
<td class="number">{{ machine.queue.messages }}</td></tr>
{% endif %}
{% endfor %}
</tbody></table></div>
{% endif %}
{% for machine in machines %}
<h2 id="{{ machine.name }}">{{ machine.name }}</h2>
<p>{{ verdict(machine.verdict) }}: {{ machine.summary }}</p>
{% if "fault" not in machine %}

<h3>Checks</h3>
<p class="from">from <code>salt-call mailcheck.run</code>, {{ machine.made }}</p>
<table><tbody>
{% for check in machine.checks %}
<tr><td>{{ verdict(check.verdict) }}</td><td>{{ check.name }}
{% if check.note %}<br><span class="faint">{{ check.note }}</span>{% endif %}</td></tr>
{% endfor %}
</tbody></table>

<h3>Mail by day</h3>
<p class="from">from the log of the daemons,
{% if machine.since %}since {{ machine.since }}{% else %}which is empty{% endif %}; each
recipient counts, the self-check does not. One message: <code>salt-call mailsrv.trace
ADDRESS</code></p>
<div class="charts">
{% for name in charts %}
<div class="chart"><b>{{ machine.totals[name] }}</b> {{ name }}
<p class="faint">most in a day: {{ machine.most[name] }}</p>
<svg viewBox="0 0 {{ machine.days | length * 10 }} 100" preserveAspectRatio="none" role="img"
aria-label="{{ name }} by day, the numbers are in the table below">
{% for day in machine.days %}
{% set height = 100 * day[name] / ([machine.most[name], 1] | max) %}
<rect x="{{ loop.index0 * 10 + 1 }}" y="{{ 100 - height }}" width="8" height="{{ height }}">
<title>{{ day.day }}: {{ day[name] }}</title></rect>
{% endfor %}
</svg>
<div class="ends faint"><span>{{ machine.days[0].day }}</span>
<span>{{ machine.days[-1].day }}</span></div>
</div>
{% endfor %}
</div>
<details><summary>the numbers</summary>
<div class="scroll"><table>
<thead><tr><th>day</th>
{% for name in machine.totals %}<th class="number">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for day in machine.days %}
<tr><td>{{ day.day }}</td>
{% for name in machine.totals %}<td class="number">{{ day[name] }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>

<h3>Refused, by cause</h3>
<p class="from">from the same log, in the same days; logins that failed:
{{ machine.totals["failed logins"] }}</p>
{% if machine.refused %}
<table><tbody>
{% for cause, count in machine.refused.items() %}
<tr><td>{{ cause }}<span class="tenths" style="width: {{
100 * count / machine.refused.values() | max }}%"></span></td>
<td class="number">{{ count }}</td></tr>
{% endfor %}
</tbody></table>
{% else %}
<p>nothing</p>
{% endif %}

<h3>Queue</h3>
<p class="from">from <code>smtpctl show queue</code></p>
{% if machine.queue.messages %}
<p>{{ machine.queue.messages }} waiting, the oldest for
{{ machine.queue.oldest | age }}</p>
<table>
<thead><tr><th>the last server said</th><th class="number">recipients</th></tr></thead><tbody>
{% for reason, count in machine.queue.reasons.items() %}
<tr><td>{{ reason or "not tried yet" }}</td><td class="number">{{ count }}</td></tr>
{% endfor %}
</tbody></table>
{% else %}
<p>empty</p>
{% endif %}

<h3>Certificate</h3>
<p class="from">from the file that is served; how it is served:
<code>salt-call mailcheck.run</code></p>
{% if machine.certificate.until %}
<p>{{ machine.certificate.names | join(", ") }}: until {{ machine.certificate.until[:10] }},
{{ machine.certificate.days }} days{{ ", self-signed" if machine.certificate.self_signed }}</p>
{% endif %}
{% for fault in machine.certificate.faults %}
<p class="FAULT">{{ fault }}</p>
{% endfor %}

<h3>DNS</h3>
<p class="from">from every authoritative server: <code>salt-call mailcheck.dns</code></p>
<table><tbody>
{% for domain, findings in machine.dns.items() %}
<tr><td class="name">{{ domain }}</td><td>
{% for finding in findings %}
<p>{{ verdict(finding.need) }}: {{ finding.says }}</p>
{% else %}
{{ verdict("ok") }}
{% endfor %}
</td></tr>
{% endfor %}
</tbody></table>

<h3>DKIM keys</h3>
<p class="from">from <code>salt-call mailsrv.rotation</code></p>
<div class="scroll"><table>
<thead><tr><th>domain</th><th></th><th>signs</th><th>next</th><th>still published</th></tr></thead>
<tbody>
{% for domain, found in machine.rotation.items() %}
{% for algorithm, key in found.items() %}
<tr><td>{{ domain }}</td><td>{{ algorithm }}</td><td>{{ key.signs }}</td>
<td>{% if key.next is defined %}{{ key.next }}, waits for: {{ key["waits for"] | join("; ")
}}{% endif %}</td>
<td>{% if key["still published"] is defined %}
{% for selector, until in key["still published"].items() %}{{ selector }} until {{ until }}
{% endfor %}{% endif %}</td></tr>
{% endfor %}
{% endfor %}
</tbody></table></div>

<h3>Mailboxes</h3>
<p class="from">from the disk, <code>salt-call mailsrv.backup_paths</code> names the directory</p>
<table>
<thead><tr><th>the {{ largest }} largest</th><th class="number">quota</th>
<th class="number">size</th></tr></thead><tbody>
{% for box in machine.boxes %}
<tr><td>{{ box.address }}{{ ", gone from the pillar" if box.gone }}<span class="tenths"
style="width: {{ 100 * box.bytes / ([machine.boxes[0].bytes, 1] | max) }}%"></span></td>
<td class="number">{{ box.quota or "" }}</td><td class="number">{{ box.bytes | size }}</td></tr>
{% endfor %}
{% if machine.others %}
<tr><td>{{ machine.others | length }} more</td><td></td>
<td class="number">{{ machine.others | sum(attribute="bytes") | size }}</td></tr>
{% endif %}
</tbody></table>
{% endif %}
{% endfor %}
</body>
</html>
"""
