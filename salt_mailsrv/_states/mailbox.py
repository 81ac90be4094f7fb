"""
What the formula replaces and somebody else wrote is kept.
"""

import os

from _mailsrv_files import write

__virtualname__ = "mailbox"


def __virtual__():
    return __virtualname__


def kept(name):
    """
    What a file was before this formula's first run stands beside it, as ``NAME.before-mailsrv``.

    It is made once, with the owner and the mode of the file, and never written again. A file that
    is as its package brought it needs no copy.

    name
        The file. It need not be there.

    .. code-block:: yaml

        /etc/dovecot/dovecot.conf:
          mailbox.kept: []
    """
    copy = f"{name}.before-mailsrv"
    ret = {"name": name, "result": True, "changes": {}, "comment": "there is nothing to keep"}
    if os.path.lexists(copy):
        ret["comment"] = f"what it was is kept in {copy}"
        return ret
    if not __salt__["mailbox.replaced"](name):
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes={copy: "new"}, comment=f"it would be kept in {copy}")
        return ret
    try:
        _copy(name, copy)
    except OSError as exc:
        ret.update(result=False, comment=f"{copy}: {exc}")
        return ret
    ret.update(changes={copy: "new"}, comment=f"it is kept in {copy}")
    return ret


def _copy(name, copy):
    with open(name, "rb") as source:
        status = os.fstat(source.fileno())
        write(copy, source.read(), status.st_uid, status.st_gid, status.st_mode & 0o777)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
