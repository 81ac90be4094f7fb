"""
DKIM keys that are made on the minion and stay there.

A private key never passes through Jinja, an argument, a diff or a log: the state makes it, writes
it and reports that it did.
"""

import contextlib
import grp
import os
import pwd
import stat
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "dkim"


def __virtual__():
    return __virtualname__


def key_present(
    name,
    selector,
    public,
    bits=2048,
    algorithm="rsa",
    user="root",
    group=None,
    mode="0440",
    adopt=(),
    bare=None,
):
    """
    There is a DKIM key, and beside it the DNS record that publishes it.

    name
        The file of the private key, PEM. A key that is there is kept, whatever its size; a file
        that holds no key of the algorithm is an error and stays as it is.

    selector
        The selector in the DNS record.

    public
        The file of the DNS record, a line for a zone file. It always follows the private key.

    bits
        Length of a new RSA key. Default: 2048.

    algorithm
        ``rsa`` (the default) or ``ed25519``.

    user, group, mode
        Who owns the private key, and its permissions. Default: ``root``, the user's own group,
        ``0440``. The record is world-readable.

    adopt
        Files of private keys, the first that exists is taken over (copied) instead of making a new
        key, so that what DNS shows of it stays true.

    bare
        A further file of an Ed25519 private key, one line of base64, for rspamd. It always follows
        the private key and has its owner and permissions. Default: none.

    .. code-block:: yaml

        /etc/mail/dkim/example.com/mailsrv.private:
          dkim.key_present:
            - selector: mailsrv
            - public: /etc/mail/dkim/example.com/mailsrv.public
            - user: dkimproxy
            - adopt: [/usr/local/etc/dkimproxy/example.com/private]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the key is present"}
    changes = ret["changes"]
    label = f"RSA, {bits} bits" if algorithm == "rsa" else "Ed25519"
    try:
        source = next((path for path in (name, *adopt) if os.path.exists(path)), None)
        private = _read(source, algorithm) if source else None
        if source != name:
            changes["key"] = f"adopted from {source}" if source else f"{label}, new"
        if private is None and __opts__["test"]:
            changes["record"] = public
            ret.update(result=None, comment="the key would be made")
            return ret
        if private is None:
            private = __salt__["dkim.generate"](bits, algorithm)[0]
        record = __salt__["dkim.record"](selector, __salt__["dkim.public_key"](private)) + "\n"
        octets = __salt__["dkim.bare"](private) + "\n" if bare else None
        owner = (*_ids(user, group, strict=not __opts__["test"]), int(mode, 8))
        if not changes and _owner(name) != owner:
            changes["owner"] = f"{user}:{group or user} {mode}"
        if _content(public) != record:
            changes["record"] = public
        if bare and (_content(bare) != octets or _owner(bare) != owner):
            changes["bare"] = bare
        if not changes:
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment="the key would be changed")
            return ret
        if "key" in changes:
            _write(name, private, *owner)
        elif "owner" in changes:
            os.chown(name, *owner[:2])
            os.chmod(name, owner[2])
        if "bare" in changes:
            _write(bare, octets, *owner)
        if "record" in changes:
            _write(public, record, 0, 0, 0o644)
    except (CommandExecutionError, SaltInvocationError, OSError) as exc:
        ret.update(result=False, changes={}, comment=f"{name}: {exc}")
        return ret
    ret["comment"] = "the key was made" if "key" in changes else "the key was changed"
    return ret


def _read(path, algorithm):
    with open(path, encoding="ascii", errors="replace") as file:
        private = file.read()
    try:
        if __salt__["dkim.algorithm"](private) == algorithm:
            return private
    except SaltInvocationError:
        pass
    kind = {"rsa": "RSA", "ed25519": "Ed25519"}[algorithm]
    raise CommandExecutionError(
        f"{path} holds no {kind} private key; move it away to have a new one made"
    )


def _content(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read().decode("ascii", "replace")
    return None


def _owner(path):
    status = os.stat(path)
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def _ids(user, group, strict):
    try:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as exc:
        if strict:
            raise CommandExecutionError(f"no such user or group: {exc.args[0]}") from None
        return None, None  # in test mode the package that brings the user may not be there yet


def _write(path, text, uid, gid, mode):
    directory = os.path.dirname(path)
    _make_directory(directory)
    # Complete, owned and closed to others before it has its name: a run that is interrupted
    # leaves no half key behind.
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text if text.endswith("\n") else text + "\n")
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _make_directory(path):
    """Make the directory and those above it, open to the signer whatever the umask of the run."""
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103 - no secret, the key in it has a mode of its own
