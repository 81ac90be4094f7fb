"""
How states read and write: a file is complete, owned, closed to others and on the disk before it
has its name. A run that is killed, and a power cut, leave the previous one or the new one.
"""

import contextlib
import os
import stat


def octets(path):
    """The bytes of a file; None where there is none. Zeros alone are an empty file's, too."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        found = file.read()
        return found if found.strip(b"\0") else b""  # what a power cut may leave
    return None


def content(path):
    """The text of a file; None where there is none. Bytes that are no ASCII are replaced."""
    found = octets(path)
    return None if found is None else found.decode("ascii", "replace")


def owner(path):
    """The numbers of user and group, and the permissions of a file."""
    status = os.stat(path)
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def own(path, uid=0, gid=0, mode=0o600):
    """Give a file to a user and group, with these permissions."""
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def delete(ret, paths, test):
    """What a state returns that deletes files, or in a test would; `ret` where there are none."""
    if not paths:
        return ret
    ret["changes"]["deleted"] = sorted(paths)
    if test:
        ret.update(result=None, comment="they would be deleted")
        return ret
    for path in paths:
        os.unlink(path)
    return ret


def write(path, text, uid=0, gid=0, mode=0o600):
    """Write text or bytes; directories above that are missing are made, open to be entered."""
    directory, name = os.path.split(path)
    _make_directory(directory)
    # What a killed run has left of it has the same name, and goes.
    temporary = os.path.join(directory, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode("ascii"))
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
        sync(temporary)
        os.rename(temporary, path)
        sync(directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sync(path):
    """What stands in this file, or directory, outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_directory(path):
    # Open to whoever reads the file in it, whatever the umask of the run.
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103 - no secret, the files in it have modes of their own
