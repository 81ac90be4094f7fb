"""
What is known here, asked once: each template of a run wants to know, and to read a pillar of 10000
accounts 27 times was most of the time of a run.
"""

import contextlib
import json
import os
import time

import _mailsrv_disk as disk
from _mailsrv import backup_mx, moving, names, pillar, satellites, withdrawing
from salt.exceptions import CommandExecutionError

CAP_NET_ADMIN = 12  # see capabilities(7)


def valid(model, faults):
    """The model; every fault of the pillar, one sentence a line, where it is not valid."""
    if faults:
        raise CommandExecutionError("the pillar is not valid:\n" + "\n".join(faults))
    return model


def _moving(path):
    """What is noted of domains that move, by domain; a sentence where that cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return moving.records(json.load(file))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        return (
            f"{path}: {exc}; a domain that has moved would be served here, too: restore the file "
            "from a backup, or remove it where none has"
        )


class Same:
    """Things as a question: equal to another one of the very same things."""

    def __init__(self, *things):
        self._things = things

    def __eq__(self, other):
        return len(self._things) == len(other._things) and all(
            one is other for one, other in zip(self._things, other._things, strict=True)
        )

    __hash__ = None


class Here:
    """
    The pillar, the system, the machine and the fleet, by what Salt gives an execution module.

    Answers are kept in ``__context__``. A run has a pillar of its own: while it is the same object,
    the answers are those of the same run.
    """

    def __init__(self, salt, context, opts, grains, given):
        self._salt, self._context, self._opts, self._grains = salt, context, opts, grains
        # What Salt gives a module stands for the pillar of the call that goes on.
        self._pillar = given.value() if hasattr(given, "value") else given

    def settings(self):
        """All settings of the pillar, wherever they stand, as they are there."""
        return pillar.top(self._pillar, [])

    def facts(self):
        """``defaults.yaml``, this system's part of ``osmap.yaml``, today, what is here."""
        family = self._grains["os_family"]
        known = self._remember("facts", family, lambda: self._system(family))
        return {
            **known,
            "cannot_ban": self._cannot_ban(),
            "cannot_remember": self._cannot_remember(known),
            "cannot_search": self._remember(
                "search",
                Same(self._pillar),
                lambda: self._cannot_search(known["dovecot"]["version_of"]),
            ),
            "today": time.strftime("%Y-%m-%d"),
            "standing": {
                "hostname": names.domain(disk.text(f"{known['directory']}/hostname").strip()) or "",
                "accounts": self._accounts(f"{known['dovecot']['directory']}/dovecot-passwd"),
                "blocked": disk.blocked(f"{known['kept']}/blocked"),
                "policies": withdrawing.standing(
                    disk.policies(known["web"]["files"]) if "web" in known else ()
                ),
                "backup_for": self._standing(f"{known['directory']}/backup/known"),
                "signing": [*self._standing(f"{known['dkim']['directory']}/domains")],
                "moving": _moving(f"{known['kept']}/moving.json"),
            },
        }

    def mine(self):
        """
        What is in the master's mine for this machine: ``satellites``, the credential of each by its
        minion id, where the pillar names them by a target, and for a satellite ``certificate``,
        that of its mail machine, or empty. A minion whose key was deleted is not among them.
        """
        return self._remember("mine", Same(self._pillar), self._ask_mine)

    def read(self):
        """The model of the mail server, and every fault of the pillar."""
        facts, mine, fqdn = self.facts(), self.mine(), self._grains["fqdn"]
        primaries = self._remember("primaries", Same(self._pillar), self._ask_primaries)
        question = (Same(self._pillar, mine, primaries), fqdn, facts["today"], facts["standing"])
        return self._remember(
            "model",
            question,
            lambda: pillar.read(self._pillar, fqdn, facts, mine["satellites"], primaries),
        )

    def satellite(self):
        """The model of a machine that only sends, and every fault of its pillar."""
        return pillar.satellite(
            self._pillar, self._opts["id"], self.facts(), self.mine()["certificate"]
        )

    def nameserver(self):
        """Whose zones this machine serves, under which names, and every fault of its pillar."""
        return pillar.nameserver(self._pillar, self._grains["fqdn"], self._opts["id"])

    def hashes(self, key, answer):
        """The hashes of all accounts by that key: two templates ask in one run."""
        return self._remember("hashes", (Same(self._pillar, self.mine()), key), answer)

    def _remember(self, name, question, answer):
        known = self._context.get(f"mailsrv.{name}")
        if known is None or known[0] != question:
            known = self._context[f"mailsrv.{name}"] = (question, answer())
        return known[1]

    def _system(self, family):
        defaults, osmap = (
            self._salt["slsutil.renderer"](f"salt://mailsrv/{name}.yaml", default_renderer="yaml")
            for name in ("defaults", "osmap")
        )
        if family not in osmap:
            raise CommandExecutionError(
                f"mailsrv: this formula knows {' and '.join(sorted(osmap))}, not {family}"
            )
        return self._salt["slsutil.merge"](defaults, osmap[family])

    def _cannot_ban(self):
        """Why nobody can be refused by this machine, a sentence; empty where it can be done."""
        if self._grains.get("init") != "systemd":
            return "this machine has no systemd, whose journal tells who guesses"
        if not disk.may(CAP_NET_ADMIN):
            return (
                "this machine may not change its firewall; where it is a container, give it "
                "CAP_NET_ADMIN"
            )
        return ""

    def _cannot_remember(self, known):
        """Why no Redis of ours can be started here, a sentence; empty where it can be."""
        if self._grains.get("init") == "systemd" or "script" in known["redis"]:
            return ""
        return "this machine has no systemd, which starts the Redis for it"

    def _cannot_search(self, package):
        """Why nothing is indexed for a search, a sentence; empty where it can be, or need not."""
        if not self.settings().get("search") or self._salt["mailsrv.version"](package) >= [2, 4]:
            return ""
        return (
            "the index of Dovecot 2.3 does not find what is there; from 2.4 on (Debian 13) it does"
        )

    def _accounts(self, path):
        with contextlib.suppress(OSError):
            about = os.stat(path)
            version = (path, about.st_ino, about.st_mtime_ns, about.st_size)
            return self._remember("standing", version, lambda: disk.listed(path))
        return []

    def _standing(self, path):
        """What was noted for the next run, keys and values."""
        with contextlib.suppress(ValueError):
            found = json.loads(disk.text(path) or "{}")
            return found if isinstance(found, dict) else {}
        return {}

    def _ask_primaries(self):
        """What each machine has published that this one is a backup MX for, by its minion id."""
        owned = backup_mx.ownership(self.settings(), [])
        found = {
            minion: self._salt["mine.get"](minion, backup_mx.FUNCTION, tgt_type="list")
            for minion in owned
        }
        return {
            minion: answer[minion]
            for minion, answer in found.items()
            if isinstance(answer, dict) and minion in answer
        }

    def _ask_mine(self):
        settings, get = self.settings(), self._salt["mine.get"]
        target, credentials, certificate = settings.get("satellites"), {}, ""
        if target and isinstance(target, str):
            credentials = get(target, "mailsrv.satellite_credential", tgt_type="compound")
        given = settings.get("satellite")
        minion = satellites.relay_minion(given) if isinstance(given, dict) else None
        if isinstance(minion, str) and satellites.MINION.fullmatch(minion):
            found = get(minion, "mailsrv.certificate", tgt_type="list").get(minion)
            if isinstance(found, str) and satellites.CERTIFICATE.fullmatch(found):
                certificate = found
        return {"satellites": credentials, "certificate": certificate}
