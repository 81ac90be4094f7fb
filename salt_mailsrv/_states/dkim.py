"""
DKIM keys that are made on the minion and stay there.

A private key never passes through Jinja, an argument, a diff or a log: the state makes it, writes
it and reports that it did.
"""

import contextlib
import glob
import grp
import json
import os
import pwd
import time

from _mailsrv_files import content, delete, own, write
from _mailsrv_files import owner as owner_of
from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "dkim"

READABLE = (0, 0, 0o644)  # owner, group and mode of what is no secret


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
        private, key = _read(source, algorithm) if source else (None, None)
        if source != name:
            changes["key"] = f"adopted from {source}" if source else f"{label}, new"
        if private is None and __opts__["test"]:
            changes["record"] = public
            ret.update(result=None, comment="the key would be made")
            return ret
        if private is None:
            private, key = __salt__["dkim.generate"](bits, algorithm)
        record = __salt__["dkim.record"](selector, key) + "\n"
        octets = __salt__["dkim.bare"](private) + "\n" if bare else None
        owner = (*_ids(user, group, strict=not __opts__["test"]), int(mode, 8))
        if not changes and owner_of(name) != owner:
            changes["owner"] = f"{user}:{group or user} {mode}"
        if content(public) != record or owner_of(public) != READABLE:
            changes["record"] = public
        if bare and (content(bare) != octets or owner_of(bare) != owner):
            changes["bare"] = bare
        if not changes:
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment="the key would be changed")
            return ret
        if "key" in changes:
            _write(name, private, *owner)
        elif "owner" in changes:
            own(name, *owner)
        if "bare" in changes:
            _write(bare, octets, *owner)
        if "record" in changes:
            _write(public, record, *READABLE)
    except (CommandExecutionError, SaltInvocationError, OSError) as exc:
        ret.update(result=False, changes={}, comment=f"{name}: {exc}")
        return ret
    ret["comment"] = "the key was made" if "key" in changes else "the key was changed"
    return ret


def signing(
    name,
    selector,
    domains,
    keep,
    revoked=(),
    waits=False,
    user="root",
    group=None,
    mode="0440",
    adopt=(),
    bare=False,
):
    """
    Mail is signed under a selector, as soon as DNS shows its key.

    The life of a key: it is made (:func:`key_present`) and its record published; when **every**
    authoritative server of every domain shows the record, mail is signed under it; the record of
    the key before stays published while mail may be on its way; then that key is deleted.

    name
        The file that remembers which selector signs and which ones did, and since when. The keys
        stand beside it, ``SELECTOR.private``, and so do their records, ``SELECTOR.public``.

    selector
        The selector that shall sign. Its key is there.

    domains
        The domains whose mail it signs, all of which publish it.

    keep
        Seconds for which the record of a selector that no longer signs stays published.

    revoked
        Selectors whose keys are known to others. If the one that signs is among them, it is
        replaced at once, although DNS may not show the new record yet.

    waits
        Whether the first key waits for its record, too. Default: ``False``.

    user, group, mode
        Who owns the previous keys, and their permissions, as for :func:`key_present`.

    adopt
        Files like ``name`` of another signer: the first one that exists is how it stands, where
        ``name`` does not exist, and the keys beside it are taken over (copied).

    bare
        Whether each key also stands in a file ``SELECTOR.bare``, as for :func:`key_present`.

    .. code-block:: yaml

        /etc/mail/dkim/example.com/rsa.signing:
          dkim.signing:
            - selector: s2
            - domains: [example.com]
            - keep: 604800
            - require:
              - dkim: /etc/mail/dkim/example.com/s2.private
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    changes, directory = ret["changes"], os.path.dirname(name)
    try:
        source = next((path for path in (name, *adopt) if os.path.exists(path)), None)
        known = _known(source) if source else {}
        if source and not known:
            ret["warnings"] = [f"{source} was empty, as after a power cut: {selector} signs"]
            waits = False
        # Before there were new ones that wait, all domains were signed.
        before = known.get("domains", domains) if known.get("signing") else []
        if source and source != name:
            before = [*before, *_sharing(source, directory, known.get("signing", ""), domains)]
        before = [domain for domain in domains if domain in before]
        if source != name and known.get("signing") and not before and waits:
            known = {}  # it stands so for others, and these domains still wait for their record
        lacking = []
        if known.get("signing", "" if waits else selector) != selector:
            lacking = _lacking(directory, selector, before or domains)
        step = __salt__["dkim.next_stage"](
            known, selector, lacking, int(time.time()), keep, list(revoked), waits
        )
        # A key that stops signing in this very run is deleted by a later one: its signer still
        # reads it until it has restarted.
        over, ret["comment"] = step.pop("over"), step.pop("says")
        step["domains"], awaited = _signed(directory, step["signing"], domains, before)
        ret["comment"] += "".join(
            f"; mail of {domain} is signed as another domain until DNS shows its record: "
            + "; ".join(why)
            for domain, why in awaited.items()
        )
        over = [
            path for s in over if os.path.exists(path := os.path.join(directory, f"{s}.private"))
        ]
        owner = (*_ids(user, group, strict=not __opts__["test"]), int(mode, 8))
        others = [s for s in (step["signing"], *step["retired"]) if s not in ("", selector)]
        behind = _behind(directory, os.path.dirname(source or name), others, owner, bare)
        if step["signing"] != known.get("signing", ""):
            changes["signing"] = {"old": known.get("signing", ""), "new": step["signing"]}
        if before and step["domains"] != before:
            changes["domains"] = {"old": before, "new": step["domains"]}
        if over:
            changes["deleted"] = over
        if behind:
            changes["keys"] = list(behind)
        if source != name or step != known or owner_of(name) != READABLE:
            changes.setdefault("file", name)
        if not changes:
            return ret
        if __opts__["test"]:
            ret["result"] = None
            return ret
        for path, text in behind.items():
            _write(path, text, *owner)
        _write(name, json.dumps(step), *READABLE)
        for path in over:
            os.unlink(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path.removesuffix('private')}bare")
    except (CommandExecutionError, SaltInvocationError, OSError, ValueError) as exc:
        ret.update(result=False, changes={}, comment=f"{name}: {exc}")
    return ret


def remembered(name, used, domains=None):
    """
    What is remembered of keys that no mail is signed with now is forgotten.

    It will not be true when an algorithm that is off, or another signer, returns.

    domains
        A file for the domains whose mail is signed by RSA now. While there is one, a new domain
        waits for its record. Default: none.

    name
        The directory of the keys.

    used
        The files, as for :func:`signing`, of those that are in use.

    .. code-block:: yaml

        /etc/mail/dkim:
          dkim.remembered:
            - used: [/etc/mail/dkim/rsa.signing]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "nothing is left of others"}
    found = glob.glob(os.path.join(glob.escape(name), "**", "*.signing"), recursive=True)
    ret = delete(ret, {*found} - {*used}, __opts__["test"])
    try:
        known = [_known(path) for path in used if path.endswith("/rsa.signing") and content(path)]
        signed = {d: s["signing"] for s in known if s.get("signing") for d in s.get("domains", ())}
        text = json.dumps(signed, sort_keys=True)
        # Where nothing was made yet, in test mode, there is nothing to say.
        if not domains or not ret["result"] or not signed or content(domains) == f"{text}\n":
            return ret
        ret["changes"]["domains"] = [*signed]
        if __opts__["test"]:
            return ret | {"result": None}
        _write(domains, text, *READABLE)
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=f"{name}: {exc}")
    return ret


def _known(path):
    text = (content(path) or "").strip()
    try:
        return json.loads(text) if text else {}
    except ValueError:
        raise CommandExecutionError(
            "does not tell what signs; remove it, and what the pillar says does"
        ) from None


def _signed(directory, selector, domains, before):
    """
    The domains whose mail is signed under a selector; and by domain why another one is not yet. One
    that is new waits for its record, unless nothing else would be signed.
    """
    if not selector or not before:
        return [*domains] if selector else [], {}
    awaited = {
        domain: why
        for domain in domains
        if domain not in before and (why := _lacking(directory, selector, [domain]))
    }
    return [domain for domain in domains if domain not in awaited], awaited


def _sharing(source, directory, selector, domains):
    """
    Of domains that had a signer with a key for each, those whose key is this very one, and did not
    wait for its record there.
    """
    record = content(os.path.join(os.path.dirname(source), f"{selector}.public"))
    places = {domain: os.path.join(directory, domain) for domain in domains}
    return [
        domain
        for domain, place in places.items()
        if record
        and content(os.path.join(place, f"{selector}.public")) == record
        and _known(os.path.join(place, os.path.basename(source))).get("signing") != ""
    ]


def _lacking(directory, selector, domains):
    """Why the record of a key cannot be relied on yet, a sentence for each server that lacks it."""
    path = os.path.join(directory, f"{selector}.private")
    private = content(path)
    if private is None:
        return [f"{path} is not there yet"]  # in test mode it would be made by the state before
    value = __salt__["dkim.txt"](__salt__["dkim.public_key"](private))
    found = []
    for domain in domains:
        try:
            found += __salt__["mailcheck.lacking"](f"{selector}._domainkey.{domain}", "TXT", value)
        except CommandExecutionError as exc:
            found.append(str(exc))
    return list(dict.fromkeys(found))


def _behind(directory, source, selectors, owner, bare):
    """What is not as it should be of the keys of these selectors: the text to write by file."""
    files = {}
    for selector in selectors:
        path = os.path.join(directory, f"{selector}.private")
        private = content(path) or content(os.path.join(source, f"{selector}.private"))
        if private is None:
            continue
        wanted = {path: private}
        if bare:
            wanted[path.removesuffix("private") + "bare"] = __salt__["dkim.bare"](private) + "\n"
        for file, text in wanted.items():
            if content(file) != text or owner_of(file) != owner:
                files[file] = text
    return files


def _read(path, algorithm):
    """The private and the public key; to read a key is to look for its primes, so once."""
    with open(path, encoding="ascii", errors="replace") as file:
        private = file.read()
    with contextlib.suppress(SaltInvocationError):
        key = __salt__["dkim.public_key"](private)
        if f"; k={algorithm}; " in __salt__["dkim.txt"](key):
            return private, key
    kind = {"rsa": "RSA", "ed25519": "Ed25519"}[algorithm]
    raise CommandExecutionError(
        f"{path} holds no {kind} private key; move it away to have a new one made"
    )


def _ids(user, group, strict):
    try:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError as exc:
        if strict:
            raise CommandExecutionError(f"no such user or group: {exc.args[0]}") from None
        return None, None  # in test mode the package that brings the user may not be there yet


def _write(path, text, uid, gid, mode):
    write(path, text if text.endswith("\n") else text + "\n", uid, gid, mode)
