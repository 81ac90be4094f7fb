"""
The TLS certificate that the daemons read: a copy, made of what has been looked at.

Daemons that read an ACME client's own files serve a broken renewal after their next restart, or do
not start. A private key passes through no template, diff or log.
"""

import contextlib
import os
import re
import stat
import subprocess
import time

from _mailsrv_files import octets, own, owner, write
from salt.exceptions import CommandExecutionError

__virtualname__ = "certificate"

PEM = re.compile(r"(-----BEGIN (PRIVATE KEY|CERTIFICATE)-----.*?-----END \2-----)", re.S)
NEW = {
    "rsa": ["-newkey", "rsa:2048"],
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
}
KINDS = ("PRIVATE KEY", "CERTIFICATE")


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
    new = [path for path, (text, _) in wanted.items() if octets(path) != text.encode()]
    if broken or (new and doubtful):
        return _refused(ret, broken + doubtful)
    if doubtful:
        ret["warnings"] = doubtful
    modes = [path for path in wanted if path not in new and owner(path) != (0, 0, wanted[path][1])]
    if not new and not modes:
        return ret
    if new:
        ret["changes"]["certificate"] = f"SHA-256 {found['fingerprint']}, until {found['until']}"
    if modes:
        ret["changes"]["owner"] = modes
    if __opts__["test"]:
        ret.update(result=None, comment="the certificate would be replaced")
        return ret
    for path in (key, name):
        text, mode = wanted[path]
        write(path, text, mode=mode)
    ret["comment"] = "the certificate was replaced"
    return ret


def self_signed(name, key, hostname):
    """
    There is a certificate that nobody but this machine has signed, and its key.

    It is made once and kept: a new one would be a new warning in every mail client. An empty file
    is what a power cut may leave, and then both are made anew, with a warning. Any other file that
    is not what it should be is an error and stays.

    name
        The file of the certificate, root's, mode 0600.

    key
        The file of the private key, root's, mode 0600.

    hostname
        The name that clients connect to.

    .. code-block:: yaml

        /etc/mail/tls/mail.example.com.crt:
          certificate.self_signed:
            - key: /etc/mail/tls/mail.example.com.key
            - hostname: mail.example.com
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the certificate is in place"}
    there = {path: octets(path) for path in (name, key)}
    if all(there.values()):
        texts = [there[path].decode("ascii", "replace") for path in (name, key)]
        broken = __salt__["certificate.look"](texts[0], hostname, texts[1])["broken"]
        if broken:
            faults = [f"{ {'cert': name, 'key': key}[part] } {fault}" for part, fault in broken]
            ret.update(result=False, comment="\n".join([*faults, f"Remove {name} for a new one."]))
            return ret
        modes = [path for path in there if owner(path) != (0, 0, 0o600)]
        ret["changes"] = {"owner": modes} if modes else {}
    else:
        ret["changes"] = {"certificate": "new"}
    if not ret["changes"]:
        return ret
    ret["warnings"] = [
        f"{path} was empty, as after a power cut: clients warn of the new certificate once"
        for path, found in there.items()
        if found == b""
    ]
    if __opts__["test"]:
        ret.update(result=None, comment="the certificate would be changed")
        return ret
    for path in ret["changes"].get("owner", ()):
        own(path)
    if "certificate" in ret["changes"]:
        try:
            for path, text in zip((key, name), _make(hostname), strict=True):
                write(path, text)
        except (OSError, subprocess.CalledProcessError) as exc:
            ret.update(result=False, changes={}, comment=f"{exc}\n{getattr(exc, 'stderr', '')}")
    return ret


def begun(name, key, hostname, next, kind="rsa", adopt=()):
    """
    There is a certificate to begin with, until a CA gives one to the program that asks for it.

    What stands is kept, whatever it is, if it is sound. So is a key whose certificate is gone or
    empty, as after a power cut: DNS may name it (TLSA). Where there is none, that which was served
    until now is taken over (copied), with its key, if clients would not refuse it; else one is made
    that nobody but this machine has signed. A next key that was taking the place of this one when
    the program was killed takes it.

    name
        The file of the certificate and its chain, mode 0644.

    key
        The file of the private key, root's, mode 0600.

    hostname
        The name that clients connect to.

    next
        The next key and its certificate, without their ``.key`` and ``.crt``.

    kind
        Of a new key: ``rsa`` (the default) or ``ecdsa``.

    adopt
        Pairs of files, certificate and key; the first sound one is taken over.

    .. code-block:: yaml

        /etc/mail/tls/mail.example.com.acme.crt:
          certificate.begun:
            - key: /etc/mail/tls/mail.example.com.acme.key
            - hostname: mail.example.com
            - next: /etc/mail/tls/mail.example.com.acme.next
            - adopt:
              - [/etc/mail/tls/mail.example.com.crt, /etc/mail/tls/mail.example.com.key]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the certificate is in place"}
    wanted = [(key, 0o600), (name, 0o644)]
    after = _pair(f"{next}.crt", f"{next}.key", hostname)
    texts = after or _pair(name, key, hostname, expired=True)
    if after:
        ret["changes"]["certificate"] = "that of the next key"
    elif not texts and octets(name) and octets(key):
        sentence = "is not the certificate of the key beside it, or one of them is none"
        comment = f"{name} {sentence}; remove both for a new one"
        ret.update(result=False, comment=comment)
        return ret
    elif not texts and not octets(name) and (texts := _of_key(key, hostname)):
        ret["changes"]["certificate"] = "new, self-signed, of the key that was there"
    elif not texts:
        found = ((source, _pair(*source, hostname)) for source in adopt)
        source, texts = _first(found)
        ret["changes"]["certificate"] = f"that of {source[0]}" if texts else "new, self-signed"
    else:
        modes = [path for path, mode in wanted if owner(path) != (0, 0, mode)]
        ret["changes"] = {"owner": modes} if modes else {}
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment="the certificate would be changed")
        return ret
    try:
        texts = texts or _make(hostname, kind)
        for (path, mode), text in zip(wanted, texts, strict=True):
            if octets(path) == text.encode():
                own(path, mode=mode)
            else:
                write(path, text, mode=mode)
        for path in [f"{next}.crt", f"{next}.shown", f"{next}.key"] if after else []:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    except (OSError, subprocess.CalledProcessError) as exc:
        ret.update(result=False, changes={}, comment=f"{exc}\n{getattr(exc, 'stderr', '')}")
    return ret


def next_shown(name, key, hostname):
    """
    It is remembered since when every authoritative name server shows the TLSA record of a next key.

    The program that asks for certificates takes that key a while after, and not before. Nothing is
    done where there is no next key.

    name
        The file that remembers it, a number of seconds since 1970.

    key
        The file of the next key.

    hostname
        The name of the mail server.

    .. code-block:: yaml

        /etc/mail/tls/mail.example.com.acme.next.shown:
          certificate.next_shown:
            - key: /etc/mail/tls/mail.example.com.acme.next.key
            - hostname: mail.example.com
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "there is no next key"}
    if not os.path.exists(key):
        return ret
    record = "TLSA"
    try:
        record = f"3 1 1 {__salt__['certificate.key_digest'](key)}"
        lacking = __salt__["mailcheck.lacking"](f"_25._tcp.{hostname}", "TLSA", record)
    except CommandExecutionError as exc:
        lacking = [str(exc)]
    # By a clock that was ahead, it is not seen yet.
    since = (octets(name) or b"").strip()
    shown = re.fullmatch(rb"[0-9]{1,12}", since) is not None and int(since) <= time.time()
    ret["comment"] = f"the next key waits for its record {record}: {'; '.join(lacking)}"
    if not lacking:
        ret["comment"] = "every name server shows the record of the next key"
    if shown == (not lacking):
        return ret
    ret["changes"]["shown"] = not lacking
    if __opts__["test"]:
        ret["result"] = None
    elif lacking:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    else:
        write(name, f"{int(time.time())}\n")
    return ret


def _first(found):
    """The first pair that there is, and where it stands; else nothing."""
    return next(((source, texts) for source, texts in found if texts), (None, None))


def _pair(cert, key, hostname, expired=False):
    """The key and the certificate in two files; nothing where they cannot be served."""
    there = [octets(path) for path in (key, cert)]
    if not all(there):
        return None
    texts = [text.decode("ascii", "replace") for text in there]
    look = __salt__["certificate.look"](texts[1], hostname, texts[0])
    return None if look["broken"] or (look["doubtful"] and not expired) else texts


def _of_key(key, hostname):
    """That key and a certificate that it has signed; nothing where none can be served with it."""
    text = (octets(key) or b"").decode("ascii", "replace")
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        cert = "".join(_signed(hostname, "-key", key, "-passin", "pass:")) if text else ""
        if cert and not __salt__["certificate.look"](cert, hostname, text)["broken"]:
            return [text, cert]
    return None


def _make(hostname, kind="rsa"):
    """A new private key, and a certificate of it, PEM."""
    # No file that a killed run would leave.
    return _signed(hostname, "-nodes", *NEW[kind], "-keyout", "/dev/stdout")


def _signed(hostname, *of):
    """A certificate for ten years, signed by its own key; before it that key, if printed."""
    ran = subprocess.run(
        [
            *("openssl", "req", "-x509", "-days", "3650", *of),
            *("-subj", f"/CN={hostname.partition('.')[0]}"),  # 64 characters at most
            *("-addext", f"subjectAltName=DNS:{hostname}"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    found = PEM.findall(ran.stdout)
    return [f"{text}\n" for kind in KINDS for text, k in found if k == kind]


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
