"""What there is to tell of this machine: versions, packages, variables; nothing of its users."""

import os
import platform
import re
import sys

from machine import FREEBSD, SALT_CALL

PACKAGES = re.compile(
    r"(opensmtpd|dovecot|dkimproxy|rspamd|redis|perl5?|python3\d*|lego|dma)(-|\d|\s)"
    r"|py3\d+-(salt|sqlite3|pip|passlib|pycryptodome|dnspython|setuptools|psutil)"
)
OURS = re.compile("smtpd|dovecot|dkimproxy|rspamd|mailsrv|redis|sendmail|syslogd|cron|newsyslog")
DAEMON = re.compile(
    r"\S+ +(\S*/(smtpd|dovecot|rspamd|redis-server|cron|syslogd|sendmail)( |$)|dovecot/|filter-"
    r"|(smtpd|rspamd|sendmail): |\S*(python3\S*|perl) .*(/guard|/dkimproxy|/dkimsign))"
)
# What is asked on each system: the heading, and a shell line.
ASKED = {
    "the system's parts": "freebsd-version -ku; sysctl kern.osreldate security.jail.jailed"
    " security.bsd.see_other_uids",
    "jobs of every night": "ls /etc/periodic/daily",
    "/etc/periodic.conf": "sysrc -f /etc/periodic.conf -a",
    "scripts of packages": "ls /usr/local/etc/rc.d",
    "/usr/local/etc/cron.d": "ls /usr/local/etc/cron.d",
    "mail in newsyslog.conf": "grep -h maillog /etc/newsyslog.conf /etc/newsyslog.conf.d/*",
    "mail in syslog.conf": "grep -h '^mail' /etc/syslog.conf",
    "mailer.conf of the base system": "cat /etc/mail/mailer.conf",
}
ON_DEBIAN = {
    "the system's parts": "systemctl --version | head -n 1",
    "drop-ins": "ls /etc/systemd/system/*.service.d",
    "timers": "systemctl list-timers --no-legend 'mailsrv-*' | awk '{ print $(NF-1) }'",
}
VERSIONS = {
    "OpenSMTPD": "{opensmtpd[program]} -h",
    "Dovecot": "dovecot --version",
    "rspamd": "rspamd --version",
    "Salt": f"{SALT_CALL} --version",
    "the checkout": "git -c safe.directory='*' -C '{checkout}' describe --always --dirty",
}


def system(machine):
    """The system, in a line."""
    name = f"{platform.system()} {platform.release()}"
    if not FREEBSD:
        name = machine.run(". /etc/os-release; echo $PRETTY_NAME").stdout.strip()
    return f"{name}, {platform.machine()}, Python {platform.python_version()}"


def addresses(machine):
    """The addresses of this machine, less those of loopback."""
    found = machine.salt("grains.item", "ipv4", "ipv6")
    return [a for kind in found.values() for a in kind if a not in ("::1", "127.0.0.1")]


def lines(machine):
    """All of it, as lines of text."""
    result = ["== versions =="]
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for name, command in VERSIONS.items():
        done = machine.run(command.format(**machine.facts, checkout=checkout), check=False)
        said = (done.stdout or done.stderr).strip().splitlines()
        if said and done.returncode != 127:
            result.append(f"{name}: {said[0]}")
    result += [f"Python: {sys.version.split()[0]} here", "", "== packages =="]
    if FREEBSD:
        listed = "pkg query -a '%n %v %o %R'"
    else:
        listed = "dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n'"
    result += [each for each in said_by(machine, listed) if PACKAGES.match(each)]
    model = machine.model
    result += ["", "== the pillar =="]
    result.append(f"signer {model['dkim']['signer']}, {len(model['accounts'])} accounts")
    named = [key for key in (machine.pillar.get("mailsrv") or {}) if re.fullmatch("[a-z_]+", key)]
    result.append(f"keys of mailsrv: {', '.join(sorted(named)) or 'none'}")
    if FREEBSD:
        result += ["", "== services that are enabled =="]
        result += [each for each in said_by(machine, "service -e") if OURS.search(each)]
        result += ["", "== variables of rc.conf =="]
        result += [each for each in said_by(machine, "sysrc -a") if OURS.match(each)]
    for heading, command in (ASKED if FREEBSD else ON_DEBIAN).items():
        result += ["", f"== {heading} ==", *said_by(machine, command)]
    result += ["", "== processes, by user =="]
    said = said_by(machine, "ps -axww -o user= -o command=")
    result += sorted({each for each in said if DAEMON.match(each)})
    return result


def said_by(machine, command):
    """The lines that a command prints; what it complains of, too."""
    done = machine.run(command, check=False)
    return (done.stdout + done.stderr).splitlines()
