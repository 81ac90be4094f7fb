"""
Secrets that are made on the minion, once, and stay: the key of the hashes, the key of SRS, a
satellite's credential. What a minion publishes for others in the master's mine. What a run is to
say of itself.

A secret never passes through Jinja, an argument, a diff or a log.
"""

import contextlib
import glob
import grp
import hashlib
import json
import os
import secrets
import subprocess
import time

from _mailsrv_files import content, delete, octets, own, owner, write
from salt.exceptions import CommandExecutionError

__virtualname__ = "mailsrv"

KEY_LENGTH = 32
REMOVE_KEY = "remove it and run again: every password is hashed anew"
SRS = "srs key "
ROOT_ALONE = (0, 0, 0o600)
FOR_ALL = (0, 0, 0o644)
NAMED = 20  # accounts that a run names one by one

# What other machines know of a mail machine by mine_functions of its pillar.
MINED = ("mailsrv.dns", "backup_mx.recipients")
PUBLISHED = "mailsrv/published"


def __virtual__():
    return __virtualname__


def password_key(name):
    """
    There is the key that the salts of all hashes are derived from: 32 random bytes, for root alone.

    It is made once. Where it is missing, every password is hashed anew; an empty one is what a
    power cut may leave of it, and made anew with a warning. Any other file is an error and stays.

    name
        The file.

    .. code-block:: yaml

        /etc/mail/password.key:
          mailsrv.password_key: []
    """
    key = octets(name)
    if key and len(key) != KEY_LENGTH:
        return _refused(name, f"holds {len(key)} bytes, not {KEY_LENGTH}; {REMOVE_KEY}")
    return _made_once(name, key, secrets.token_bytes(KEY_LENGTH), "every password is hashed anew")


def srs_key(name, key=""):
    """
    There is a key for the senders of forwarded mail (SRS), as a line of smtpd.conf(5), root's.

    It is made once. With another name of it in the pillar there is a new one, and bounces to
    addresses made with the previous one still come back.

    name
        The file, which smtpd.conf includes.

    key
        The name of the key, which is not the key. Default: it has none.

    .. code-block:: yaml

        /etc/mail/srs.conf:
          mailsrv.srs_key:
            - key: "2026"
    """
    lines = (octets(name) or b"").decode("ascii", "replace").splitlines()
    before = [line for line in lines if line.startswith(f'{SRS}"')]
    if lines and not before:
        return _refused(name, f"has no line '{SRS}…'; remove it to have a new key made")
    title = [f"# {key}"] if key else []
    if before and [line for line in lines if line.startswith("#")] == title:
        return _made_once(name, lines, "", "")
    backup = [line.replace(SRS, f"{SRS}backup ") for line in before]
    new = [*title, f'{SRS}"{secrets.token_hex(24)}"', *backup]
    text = "".join(f"{line}\n" for line in new).encode()
    return _made_once(name, None if before else octets(name), text, "older SRS addresses end")


def tidied(name, files):
    """
    What a run that was killed has left beside the files that it wrote is gone: Salt's copies, under
    the name of the file and eight letters more, which may hold secrets.

    name
        A directory in which any file may have been written.

    files
        Further files, elsewhere.

    .. code-block:: yaml

        /etc/mail:
          mailsrv.tidied:
            - files: [/etc/smtpd.conf]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "nothing was left"}
    inside = glob.glob(os.path.join(glob.escape(name), "*"))
    left = [
        copy
        for path in (*inside, *files)
        for copy in glob.glob(f"{glob.escape(path)}{'[a-z0-9_]' * 8}")
        if os.path.isfile(copy) and owner(copy) == ROOT_ALONE
    ]
    return delete(ret, left, __opts__["test"])


def credential_present(name, password, hash, line, group, mode="0640"):
    """
    There is a password of 256 random bits, its hash, and the file in which the mail agent reads it.

    name
        The agent's file: one line.

    password
        The file of the password, for root alone. It is made once; whoever removes it has a new one
        made.

    hash
        The file of its hash, in crypt(3) form. It is made with the password.

    line
        What the agent's file says; ``PASSWORD`` in it stands for the password.

    group, mode
        Who reads the agent's file, which is root's. Default mode: ``0640``.

    .. code-block:: yaml

        /etc/mail/satellite.secrets:
          mailsrv.credential_present:
            - password: /etc/mail/satellite.password
            - hash: /etc/mail/satellite.hash
            - line: relay web1.example.com:PASSWORD
            - group: opensmtpd
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the credential is present"}
    changes = ret["changes"]
    try:
        word, hashed = content(password), content(hash)
        if not word or not hashed:
            changes["credential"] = "its hash" if word else "new"
        if not word or content(name) != _line(line, word):
            changes["file"] = name
        elif owner(name) != (0, _gid(group), int(mode, 8)):
            changes["owner"] = f"root:{group} {mode}"
        if not changes:
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment="the credential would be changed")
            return ret
        if not word:
            word = secrets.token_hex(32) + "\n"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hash)
            write(password, word)
        if "credential" in changes:
            write(hash, _hash(word))
        write(name, _line(line, word), 0, _gid(group), int(mode, 8))
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, changes={}, comment=f"{name}: {exc}")
        return ret
    ret["comment"] = (
        "the credential was made" if "credential" in changes else "the credential was changed"
    )
    return ret


def published(name, reader=None):
    """
    The master's mine holds what a function returns on this minion now.

    name
        The function.

    reader
        The id of the minion that may read it, beside this one. Default: every minion may.

    .. code-block:: yaml

        mailsrv.satellite_credential:
          mailsrv.published:
            - reader: mail.example.com
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "what is published is right"}
    if __opts__["file_client"] == "local":
        ret["comment"] = "there is no master to publish it; see docs/satellites.md#without-a-master"
        return ret
    here = __opts__["id"]
    readers = {"allow_tgt": f"{reader},{here}", "allow_tgt_type": "list"} if reader else {}
    try:
        value = __salt__[name]()
    except CommandExecutionError as exc:
        # In test mode what is to be published may not be there yet.
        result, comment = (None, f"{name} would be published") if __opts__["test"] else (False, exc)
        ret.update(result=result, comment=str(comment))
        return ret
    if _mined(here, name) == value:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be published")
        return ret
    __salt__["mine.send"](name, **readers)
    if _mined(here, name) != value:
        ret.update(
            result=False,
            comment=f"the master does not keep {name}; is minion_data_cache off there?",
        )
        return ret
    _tell(name)
    ret.update(changes={name: "published"}, comment=f"{name} was published")
    return ret


def mined(name):
    """
    What the pillar's ``mine_functions`` have of this formula is in the master's mine as it is now,
    and not as it was up to an hour ago; the master hears by an event which of it is new.

    A machine may be forbidden to read its own (``allow_tgt``), so what was sent is noted. What a
    master has lost it gets when Salt sends all of it again, as it does every hour.

    name
        The file with the notes: of each function the digest of what was sent.

    .. code-block:: yaml

        /var/lib/mailsrv/mined.json:
          mailsrv.mined:
            - order: last
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "what is published is right"}
    wanted, sent = __salt__["config.merge"]("mine_functions", {}), {}
    with contextlib.suppress(ValueError, TypeError):
        sent = {**json.loads(content(name) or "{}")}
    new, failed = {}, []
    for function in MINED if isinstance(wanted, dict) else ():
        if function not in wanted:
            continue
        try:
            value = json.dumps(__salt__[function](), sort_keys=True)
        except CommandExecutionError as exc:
            failed.append(str(exc))
            continue
        digest = hashlib.sha256(value.encode()).hexdigest()
        if sent.get(function) != digest:
            new[function] = digest
    if __opts__["test"]:
        if new or failed:  # what is to be published may not be there yet
            ret.update(result=None, comment="it would be published")
        return ret
    for function, digest in new.items():
        if not __salt__["mine.update"](mine_functions={function: wanted[function]}):
            failed.append(f"the master did not take {function}")
            continue
        sent[function], ret["changes"][function] = digest, "published"
        write(name, json.dumps(sent))
        _tell(function)
    if failed:
        ret.update(result=False, comment="; ".join(failed))
    elif new:
        ret["comment"] = f"{', '.join(new)} published"
    return ret


def served(name):
    """
    Below a directory stands each file of :func:`mailsrv.web` where its URL says, and nothing else.

    name
        The directory, which is made; everybody may read in it.

    .. code-block:: yaml

        /var/lib/mailsrv/web:
          mailsrv.served: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "what is served is right"}
    wanted = {
        os.path.join(name, url.removeprefix("https://")): text.encode()
        for files in __salt__["mailsrv.web"]().values()
        for url, text in files.items()
    }
    changed = [p for p, text in wanted.items() if octets(p) != text or owner(p) != FOR_ALL]
    left = [
        os.path.join(top, file)
        for top, _, files in os.walk(name)
        for file in files
        if os.path.join(top, file) not in wanted
    ]
    if changed:
        ret["changes"]["written"] = changed
    if left:
        ret["changes"]["deleted"] = sorted(left)
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment="what is served would be changed")
        return ret
    for path in left:
        os.unlink(path)
    for path in changed:
        write(path, wanted[path], *FOR_ALL)
    for top, _, _ in os.walk(name, topdown=False) if left else ():
        with contextlib.suppress(OSError):  # it holds something
            os.rmdir(top)
    ret["comment"] = "what is served was changed"
    return ret


def accounts_removed(name, accounts):
    """
    Say which accounts this run removes; the file of the accounts is another state's.

    name
        Any text.

    accounts
        Their addresses, e.g. ``removed`` of a :class:`_mailsrv.model.Model`.

    Each of the first 20 is a change, the others are one together: a state without changes is not
    shown where ``state_verbose`` is off.

    .. code-block:: yaml

        mailsrv-dovecot-removed:
          mailsrv.accounts_removed:
            - accounts: [gone@example.com]
    """
    result, comment = True, "they can no longer log in"
    if accounts and __opts__["test"]:
        result, comment = None, "they could no longer log in"
    changes, more = dict.fromkeys(accounts[:NAMED], "removed"), len(accounts) - NAMED
    if more > 0:
        changes["others"] = f"{more} removed"
    return {
        "name": name,
        "result": result,
        "changes": changes,
        "comment": f"{comment}; their mail stays until mailsrv.purge removes it",
    }


def _made_once(name, there, new, consequence):
    """The state of a secret of root's: what is `there` stays, else there is the `new` one."""
    ret = {"name": name, "result": True, "changes": {}, "comment": "the key is present"}
    if not there:
        ret["changes"]["key"] = "new"
    elif owner(name) != ROOT_ALONE:
        ret["changes"]["owner"] = "root, 0600"
    if not ret["changes"]:
        return ret
    if there is not None and not there:
        ret["warnings"] = [f"{name} was empty, as after a power cut: {consequence}"]
    if __opts__["test"]:
        ret.update(result=None, comment="the key would be changed")
    elif there:
        own(name, *ROOT_ALONE)
    else:
        write(name, new)
    return ret


def _refused(name, fault):
    return {"name": name, "result": False, "changes": {}, "comment": f"{name}: {fault}"}


def _line(line, word):
    return line.replace("PASSWORD", word.strip()) + "\n"


def _tell(function):
    """Let the master know that what others read is new; who misses it finds it when it looks."""
    __salt__["event.send"](PUBLISHED, {"name": function})


def _mined(minion, function):
    return __salt__["mine.get"](minion, function, tgt_type="list").get(minion)


def _hash(word):
    # Salt's own Python has no crypt(3) any more; where there is TLS, there is openssl(1).
    ran = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=word.encode(), stdout=-1)
    if ran.returncode:
        raise CommandExecutionError("openssl passwd -6 failed; is openssl 1.1.1 or later there?")
    return ran.stdout.decode("ascii")


def _gid(group):
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if __opts__["test"]:
            return None  # the package that brings the group may not be there yet
        raise CommandExecutionError(f"no such group: {group}") from None


def ran(name):
    """
    It is noted what this run did, for whoever watches the machine. The note is no change.

    name
        The file: ``time``, when it ended, and ``states``, how many are ``ok``, ``changed`` and
        ``failed``; of this formula, and of those that ran before this one.

    .. code-block:: yaml

        /var/lib/mailsrv/run.json:
          mailsrv.ran:
            - order: last
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "what this run did is noted"}
    if __opts__["test"]:
        return ret
    states = {"ok": 0, "changed": 0, "failed": 0}
    for state in __running__.values():
        if str(state.get("__sls__")).startswith("mailsrv"):
            changed = "changed" if state.get("changes") else "ok"
            states["failed" if state.get("result") is False else changed] += 1
    write(name, json.dumps({"time": int(time.time()), "states": states}))
    return ret
