"""
The TLS certificate that the daemons read: a copy, made of what has been looked at.

Daemons that read an ACME client's own files serve a broken renewal after their next restart, or do
not start. A private key passes through no template, diff or log.
"""

import contextlib
import os
import stat
import tempfile

__virtualname__ = "certificate"


def __virtual__():
    return __virtualname__


def installed(name, key, source, key_source, hostname):
    """
    The daemons have a certificate and its key, equal to what a source holds now.

    What no server should start with is refused: no PEM, a key of another certificate, a chain in
    the wrong order. So is a new certificate that is expired, not valid yet, or for another name, or
    whose key is open to everybody on the machine. Then what stands stays as it is. Where such a one
    stands already, that is a warning.

    name
        The file of the certificate and its chain, mode 0644.

    key
        The file of the private key, root's, mode 0600.

    source, key_source
        Where they come from: paths on the minion, links are followed; or ``salt://`` URLs.

    hostname
        The name that clients connect to.

    .. code-block:: yaml

        /etc/mail/tls/mail.example.com.copy.crt:
          certificate.installed:
            - key: /etc/mail/tls/mail.example.com.copy.key
            - source: /etc/letsencrypt/live/mail.example.com/fullchain.pem
            - key_source: /etc/letsencrypt/live/mail.example.com/privkey.pem
            - hostname: mail.example.com
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the certificate is in place"}
    sources = {"cert": source, "key": key_source}
    contents, faults = {}, []
    for part, path in sources.items():
        try:
            contents[part] = _read(path)
        except OSError as exc:
            faults.append(f"{path} cannot be read: {exc.strerror}; mailsrv:tls:{part} names it")
    if faults:
        return _refused(ret, faults)
    found = __salt__["certificate.look"](contents["cert"], hostname, contents["key"])
    broken = [f"{sources[part]} {sentence}" for part, sentence in found["broken"]]
    doubtful = [f"{sources[part]} {sentence}" for part, sentence in found["doubtful"]]
    if not key_source.startswith("salt://") and os.stat(key_source).st_mode & stat.S_IRWXO:
        doubtful.append(
            f"{key_source} is open to everybody on this machine; chmod 600 it, and better "
            "have a new key made"
        )
    wanted = {} if broken else {name: (found["chain"], 0o644), key: (contents["key"], 0o600)}
    new = [path for path, (text, _) in wanted.items() if _standing(path) != text.encode()]
    if broken or (new and doubtful):
        return _refused(ret, broken + doubtful)
    if doubtful:
        ret["warnings"] = doubtful
    modes = [path for path in wanted if path not in new and _mode(path) != (0, wanted[path][1])]
    if not new and not modes:
        return ret
    if new:
        ret["changes"]["certificate"] = f"SHA-256 {found['fingerprint']}, until {found['until']}"
    if modes:
        ret["changes"]["owner"] = modes
    if __opts__["test"]:
        ret.update(result=None, comment="the certificate would be replaced")
        return ret
    os.makedirs(os.path.dirname(name), mode=0o755, exist_ok=True)
    for path in (key, name):
        _write(path, *wanted[path])
    ret["comment"] = "the certificate was replaced"
    return ret


def _refused(ret, faults):
    ret.update(
        result=False,
        comment="\n".join([*faults, "Nothing was changed; what was served until now still is."]),
    )
    return ret


def _read(path):
    """The text of a file, by its path or URL."""
    if path.startswith("salt://"):
        path = __salt__["cp.cache_file"](path)
        if not path:
            raise FileNotFoundError(2, "the file server has no such file")
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def _standing(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


def _mode(path):
    status = os.stat(path)
    return status.st_uid, stat.S_IMODE(status.st_mode)


def _write(path, text, mode):
    # Complete and closed to others before it has its name.
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
