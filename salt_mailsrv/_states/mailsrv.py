"""
What the machines of a fleet need of each other: a satellite's credential, made on the satellite,
and what a minion publishes in the master's mine.

A password never passes through Jinja, an argument, a diff or a log.
"""

import contextlib
import grp
import os
import secrets
import stat
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "mailsrv"


def __virtual__():
    return __virtualname__


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
        word, hashed = _content(password), _content(hash)
        if not word or not hashed:
            changes["credential"] = "its hash" if word else "new"
        if not word or _content(name) != _line(line, word):
            changes["file"] = name
        elif _owner(name) != (0, _gid(group), int(mode, 8)):
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
            _write(password, word, 0, 0o600)
        if "credential" in changes:
            _write(hash, _hash(word), 0, 0o600)
        _write(name, _line(line, word), _gid(group), int(mode, 8))
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
        ret["comment"] = "there is no master to publish it; see the README for how to do it by hand"
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
    ret.update(changes={name: "published"}, comment=f"{name} was published")
    return ret


def _line(line, word):
    return line.replace("PASSWORD", word.strip()) + "\n"


def _mined(minion, function):
    return __salt__["mine.get"](minion, function, tgt_type="list").get(minion)


def _hash(word):
    # Salt's own Python has no crypt(3) any more; where there is TLS, there is openssl(1).
    ran = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=word.encode(), stdout=-1)
    if ran.returncode:
        raise CommandExecutionError("openssl passwd -6 failed; is openssl 1.1.1 or later there?")
    return ran.stdout.decode("ascii")


def _content(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        return file.read()
    return None


def _owner(path):
    status = os.stat(path)
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def _gid(group):
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if __opts__["test"]:
            return None  # the package that brings the group may not be there yet
        raise CommandExecutionError(f"no such group: {group}") from None


def _write(path, text, gid, mode):
    # Complete, owned and closed to others before it has its name.
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            os.fchown(file.fileno(), 0, gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
