"""
Whose the mailboxes are. Their files know a number, and after a restore it may be another user's.
"""

import contextlib
import os
import pwd
import re
import stat

__virtualname__ = "vmail"

# What an account is called, and nothing like .snap or lost+found.
USER = re.compile(r"[a-z0-9_][a-z0-9_.-]*")


def __virtual__():
    return __virtualname__


def owned(name, domains, user="vmail"):
    """
    The mailboxes belong to their user, whatever its number was where they come from.

    Looked at are the directories of domains and of mailboxes. Where one is somebody else's, it and
    the files and directories below it that are the same one's are given to the user. No link is
    followed, and a file with a second name (a hard link) stays whose it is: it may be one of
    elsewhere. Whose a link itself is means nothing.

    name
        The directory of all mailboxes, which stand in it as ``domain/user``.

    domains
        The domains whose mailboxes are looked at.

    user
        Whose they are to be, with the user's own group. Default: ``vmail``. In test mode it may not
        be there yet: then all of them would be given to it.

    .. code-block:: yaml

        /var/vmail:
          vmail.owned:
            - domains: [example.com]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "all mailboxes are the user's"}
    to = _ids(user)
    if not to and not __opts__["test"]:
        ret.update(result=False, comment=f"{name}: no such user: {user}")
        return ret
    try:
        ret["changes"], warnings = _given(name, domains, to)
    except (OSError, RecursionError) as exc:
        ret.update(
            result=False,
            comment=f"{name}: {exc}; not every mailbox is {user}'s, and Dovecot opens only those",
        )
        return ret
    if warnings:
        ret["warnings"] = warnings
    if ret["changes"] and __opts__["test"]:
        ret.update(result=None, comment=f"they would be given to {user}")
    elif ret["changes"]:
        ret["comment"] = f"they were given to {user}"
    return ret


def _ids(user):
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def _given(name, domains, to):
    """Give away what is somebody else's: by mailbox or domain how much, and what had to stay."""
    changes, warnings = {}, []
    if os.path.isdir(name):
        with _opened(name) as home:
            for path, within, whose in _foreign(home, domains, to and to[0]):
                linked = []
                give = None if __opts__["test"] else to
                count = _give(os.path.basename(path), within, whose, give, linked)
                changes[path] = f"{count} files and directories that belonged to {whose}"
                if linked:
                    warnings.append(
                        f"{name}/{path}: {len(linked)} files stay {whose}'s and closed to Dovecot, "
                        f"such as {linked[0]!a}: they have a second name (hard link); copy them"
                    )
    return changes, warnings


def _foreign(home, domains, right):
    """What stands where mailboxes do and is somebody else's: its path, what it is in, and whose."""
    for domain in domains:
        with contextlib.suppress(OSError), _opened(domain, home) as directory:
            whose = os.fstat(directory).st_uid
            if whose != right:
                yield domain, home, whose
            for user, uid in _mailboxes(directory):
                if uid not in (right, whose):
                    yield f"{domain}/{user}", directory, uid


def _mailboxes(directory):
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and USER.fullmatch(entry.name):
                yield entry.name, entry.stat(follow_symlinks=False).st_uid


@contextlib.contextmanager
def _opened(path, within=None):
    """A directory or a file, open. In `within`, no link is followed, whenever it came there."""
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if within is None else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give(name, within, whose, to, linked):
    """
    Give a file, or all below a directory, away, if it is that one's; how many were given.

    The names of those that stay, for their hard links, are added to `linked`.
    """
    with _opened(name, within) as found:
        status, count = os.fstat(found), 0
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(found) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                        count += _give(entry.name, found, whose, to, linked)
        elif status.st_nlink > 1 and status.st_uid == whose:
            linked.append(name)
            return 0
        # A directory after all that is in it: a run that is killed leaves it to the next one.
        if status.st_uid == whose:
            count += 1
            if to:
                os.fchown(found, *to)
        return count
