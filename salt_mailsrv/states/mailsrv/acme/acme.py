"""
acme: looks at the certificate of the mail server and has it renewed.

    python3 -I /etc/mail/acme.py [now | new-key | check] /etc/mail/acme.json

A timer starts it every quarter of an hour. Where the certificate is self-signed, lacks a name or
has less than a third of its life left, it asks the CA (RFC 8555), by lego(1), with a request for a
key that is ours: the key stays, and with it what DNS says of it (TLSA). What comes is looked at
before it takes the place of the one that is served, in one step, and the daemons are told.

Before the CA is asked it sees for itself whether the name leads here and the port is free: that
costs nothing and is tried every time. What the CA refuses is asked again after half an hour, then
an hour, two, … a day, or when the CA says: its limits are strict. Why there is none stands in one
sentence in DIRECTORY/said, where mailcheck.run reads it.

A next key, in NEXT.key, has the next certificate: at once, or with DANE when the highstate has seen
its record at every name server, and resolvers have forgotten how it was. `new-key` makes one, `now`
asks at once, `check` looks at the configuration.

It may be killed at any moment: the next start goes on. Python's standard library alone.
"""

import base64
import calendar
import contextlib
import errno
import fcntl
import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

FIRST, LONGEST = 1800, 24 * 3600  # seconds to wait after the CA has refused
APART = 3600  # seconds between two certificates that were asked for a further name
FORGOTTEN = 7200  # seconds: twice the TTL of the records, see RFC 7671, section 8.4
PATIENCE = 900  # seconds for lego; DNS may take its time
URL_SAFE = {ord("+"): "-", ord("/"): "_"}
MOST = 300  # characters of what a CA says
LONG = 1 << 16  # characters of a chain; one of three certificates has 6000
PORTS = {"http-01": 80, "tls-alpn-01": 443}
LACKS = "it lacks a name"
KINDS = {
    "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ecdsa": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
}
KEYS = {
    **dict.fromkeys(("hostname", "email", "server", "challenge", "kind", "ca", "provider"), str),
    **dict.fromkeys(("cert", "key", "next", "directory", "lego", "webroot"), str),
    **dict.fromkeys(("names", "addresses", "daemons"), list),
    **dict.fromkeys(("eab", "environment"), dict),
    "dane": bool,
}
PROBLEM = re.compile(r"urn:ietf:params:acme:error:(\w+)(?: :: |, |: )?([^\n]*)")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.S)
UNREACHED = re.compile(r"(dial tcp|read tcp|no such host|.*(i/o timeout|deadline exceeded|EOF)).*")
STAMP = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
FETCHED = re.compile(r'^(Fetching \S+|Get "[^"]*"): ')
AFTER = re.compile(r"retry after (\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")


class Trouble(Exception):
    """
    Why there is no certificate, in a sentence. The CA does not want to be asked again `until` a
    time; `what` is the problem's type, `names` those that it is about.
    """

    def __init__(self, sentence, until=0, what="", names=()):
        super().__init__(sentence)
        self.until, self.what, self.names = until, what, names


# Files


def read(path):
    """The text of a file; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


def write(path, text, mode=0o600):
    """Write a file in one step, synced."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove(*paths):
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


# Certificates and keys, by openssl(1)


def openssl(*arguments, given=""):
    """What it prints; Trouble where it fails."""
    return binary(*arguments, given=given.encode()).decode("utf-8", "replace")


def binary(*arguments, given=b""):
    ran = subprocess.run(["openssl", *arguments], input=given, capture_output=True)
    if ran.returncode:
        said = plain(ran.stderr.decode("utf-8", "replace"))
        raise Trouble(f"openssl {arguments[0]} failed: {said}")
    return ran.stdout


def public(key):
    """The public key of a private one, which stands in that file."""
    return openssl("pkey", "-in", key, "-pubout")


def kind(key):
    """rsa or ecdsa."""
    return "ecdsa" if "ASN1 OID" in openssl("pkey", "-in", key, "-noout", "-text_pub") else "rsa"


class Certificate:
    """What a chain in PEM form says of itself; Trouble where it is none."""

    def __init__(self, text):
        self.pems = CERTIFICATE.findall(text[:LONG])
        if not self.pems:
            raise Trouble("what came is no certificate")
        said = self.says("-subject", "-issuer", "-startdate", "-enddate")
        told = dict(line.partition("=")[::2] for line in said.splitlines())
        self.begins, self.ends = (
            ssl.cert_time_to_seconds(told[which]) for which in ("notBefore", "notAfter")
        )
        self.self_signed = told["subject"] == told["issuer"]
        # By itself: unlike the lines above, a name may hold the end of one.
        said = self.says("-ext", "subjectAltName")
        self.names = {name.lower() for name in re.findall(r"DNS:([^\s,]+)", said)}

    def says(self, *options):
        return openssl("x509", "-noout", *options, given=self.pems[0])

    def fits(self, key):
        return public(key) == self.says("-pubkey")

    def fault(self, names, key, now):
        """Why it must not be served for these names; empty where it may."""
        if not self.fits(key):
            return "it is of another key"
        if why := refused("".join(self.pems), key):
            return f"no daemon can be started with it ({why})"
        if missing := {*names} - self.names:
            return f"it is not for {' and '.join(sorted(missing))}"
        if not self.begins - 3600 <= now < self.ends:
            return "it is not valid now; is this machine's clock right?"
        if self.self_signed:
            return "it is self-signed"
        for one, signer in zip(self.pems, self.pems[1:], strict=False):
            if not signed(one, signer):
                return "its chain is in the wrong order"
        return ""


def refused(chain, key):
    """Why OpenSSL does not take this chain and its key, as in a daemon that starts."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(chain)
        file.flush()
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file.name, key)
        except ssl.SSLError as exc:
            return plain(str(exc.reason or exc)).lower().replace("_", " ")
    return ""


def signed(one, signer):
    """Whether a certificate was signed by the other one."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(signer)
        file.flush()
        command = ["openssl", "verify", "-partial_chain", "-no_check_time", "-trusted", file.name]
        return not subprocess.run(command, input=one.encode(), capture_output=True).returncode


# What can be seen without the CA


def leads(name, addresses):
    """Where a name leads that does not lead here alone, a sentence; nothing where it does."""
    try:
        # The dot: /etc/hosts, where this machine has its own name, is not asked.
        found = {info[4][0] for info in socket.getaddrinfo(f"{name}.", 80, type=socket.SOCK_STREAM)}
    except socket.gaierror as exc:
        if exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            return f"{name} leads to no address in DNS yet; publish what mailsrv.dns says"
        return f"DNS does not say where {name} leads: {exc.strerror}"
    except UnicodeError:
        return f"{name} is no name for DNS"
    others = {address for address in found if not ours(address, addresses)}
    # Behind NAT nobody knows his address; the CA will see.
    if not others or (not addresses and all(map(behind_nat, others))):
        return ""
    return (
        f"{name} leads to {' and '.join(sorted(others))}, which is not this machine; correct DNS, "
        "or name the address that the world sees in mailsrv:dns:addresses"
    )


def ours(address, addresses):
    """Whether an address is one of this machine."""
    if address in addresses:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def behind_nat(address):
    """Whether this machine leaves for there from an address that the world does not see."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError:
            return False
        here = ipaddress.ip_address(probe.getsockname()[0])
    return here.is_private and not ipaddress.ip_address(address).is_private


def taken(port):
    """Who has the port that the CA asks at; nothing where it is free."""
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return ""  # a machine without IPv6; lego will see
        else:
            return ""
    return (
        f"port {port} of this machine, where the CA asks, is taken by another program; see which: "
        f"ss -ltnp 'sport = :{port}'; free it, or set another mailsrv:tls:acme:challenge"
    )


# Asking


def plain(text):
    """What somebody else said, as a part of a sentence."""
    text = re.sub(r"[^\x20-\x7e]+", " ", text).strip()
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


def meaning(said, rules, now):
    """What lego(1) said, as Trouble that names the cause."""
    ca, found = rules["server"].split("/")[2], PROBLEM.findall(said)
    about = named(said, [rules["hostname"], *rules.get("names", [])])
    name = about[0] if about else rules["hostname"]
    what, detail = (found[-1][0], plain(FETCHED.sub("", found[-1][1]))) if found else ("", "")
    port = PORTS.get(rules["challenge"])
    sentences = {
        "connection": f"{ca} does not reach port {port} of {name}; open it in the firewalls of "
        "this machine and of its provider, or set another mailsrv:tls:acme:challenge",
        "dns": f"{ca} finds no answer in DNS for {name}",
        "caa": f"a CAA record forbids {ca} to issue for {name}; allow it there, or remove it",
        "unauthorized": f"{ca} asked for {name} and got another answer than this machine's",
        "incorrectResponse": f"{ca} asked for {name} and got another answer than this machine's",
        "rateLimited": f"{ca} has enough of our questions for now",
        "userActionRequired": f"{ca} wants its new terms to be agreed to",
        "externalAccountRequired": f"{ca} wants an account of its own; set mailsrv:tls:acme:eab",
        "accountDoesNotExist": f"{ca} does not know the account any more",
        "unsupportedContact": f"{ca} refuses the address of mailsrv:tls:acme:email",
        "invalidContact": f"{ca} refuses the address of mailsrv:tls:acme:email",
        "rejectedIdentifier": f"{ca} issues nothing for {name}",
        "badNonce": f"{ca} refuses every request as an old one; it has a trouble of its own",
        "serverInternal": f"{ca} has a trouble of its own",
    }
    if what in sentences:
        until = retry(said, now) if what == "rateLimited" else 0
        sentence = f"{sentences[what]}: {detail}" if detail else sentences[what]
        return Trouble(sentence, until, what, about)
    if what:
        return Trouble(f"{ca} refuses ({what}): {detail}", names=about)
    if "requires External Account Binding" in said:
        return Trouble(sentences["externalAccountRequired"])
    last = said.strip().rpartition("\n")[2][: 4 * MOST]
    if found := re.search(r"x509: .*", last):
        return Trouble(
            f"{ca} is not who it says, or its certificates are unknown here; of a CA of your own "
            f"name them in mailsrv:tls:acme:ca: {plain(found[0])}"
        )
    if found := UNREACHED.search(last):
        return Trouble(f"{ca} does not answer: {plain(found[0].removeprefix('dial tcp: '))}")
    if "get directory at" in last:
        return Trouble(f"{rules['server']} is no directory of a CA; mailsrv:tls:acme:server")
    return Trouble(f"lego has no certificate: {plain(STAMP.sub('', last)) or 'it said nothing'}")


def named(said, names):
    """Those of the names that the problems in what lego(1) said are about."""
    lines = " ".join(line for line in said.lower().splitlines() if "acme: error" in line)
    words = {word.strip(".") for word in re.findall(r"[a-z0-9.-]+", lines)}
    return [name for name in names if name in words]


def retry(said, now):
    """When the CA wants to be asked again, in seconds since 1970; within a week."""
    found = AFTER.search(said)
    with contextlib.suppress(ValueError):
        if found:
            then = time.strptime(" ".join(found.groups()), "%Y-%m-%d %H:%M:%S")
            return min(calendar.timegm(then), now + 7 * LONGEST)
    return now + LONGEST


def asked(rules, names, key):
    """The chain that the CA gives for a key and names; Trouble where it does not."""
    top = rules["directory"]
    request, came = f"{top}/request.pem", f"{top}/certificates/{names[0]}.crt"
    alternatives = ",".join(f"DNS:{name}" for name in names)
    write(
        request,
        openssl(
            "req", "-new", "-key", key, "-subj", "/", "-addext", f"subjectAltName={alternatives}"
        ),
    )
    remove(came)
    command = [
        rules["lego"],
        "--accept-tos",
        "--email",
        rules["email"],
        "--server",
        rules["server"],
    ]
    command += ["--path", top, "--csr", request, *challenge(rules)]
    command += [*["--eab"] * bool(rules["eab"]), "run"]  # of an account that is there already
    environment = {**os.environ, **rules["environment"]}
    if rules["ca"]:
        environment["LEGO_CA_CERTIFICATES"] = rules["ca"]
    account(rules)
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            # A web server that is not root's reads what it writes there; all else is in a
            # directory that nobody enters.
            umask=0o022 if rules["webroot"] else -1,
        )
    except subprocess.TimeoutExpired:
        raise Trouble(f"{rules['server']} has not answered within {PATIENCE} seconds") from None
    print(re.sub(r"[^\n\x20-\x7e]", "?", ran.stdout), end="", flush=True)
    if ran.returncode:
        raise meaning(ran.stdout, rules, time.time())
    return read(came)


def chain_of(rules, names, key):
    """The same; with a new account where the CA does not know the one of before any more."""
    try:
        return asked(rules, names, key)
    except Trouble as trouble:
        if "accountDoesNotExist" not in trouble.what:
            raise
    shutil.rmtree(home(rules), ignore_errors=True)
    return asked(rules, names, key)


def home(rules):
    """Where lego(1) has the account, which it makes where there is none."""
    host = rules["server"].split("/")[2].replace(":", "_")
    return f"{rules['directory']}/accounts/{host}/{rules['email']}"


def account(rules):
    """
    The account that belongs to one at the CA (RFC 8555, section 7.3.4), where it is not there yet.

    lego(1) makes it, too, but takes the secret as an argument, which everybody on the machine sees.
    """
    where = home(rules)
    key = f"{where}/keys/{rules['email']}.key"
    if not rules["eab"] or os.path.exists(f"{where}/account.json"):
        return
    os.makedirs(os.path.dirname(key), mode=0o700, exist_ok=True)
    if not read(key):
        write(key, openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
    context = ssl.create_default_context(cafile=rules["ca"] or None)
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # as lego is
    try:
        urls = json.loads(fetched(rules["server"], context)[1])
        nonce = fetched(urls["newNonce"], context)[0]["Replay-Nonce"]
        for _ in range(5):
            letter = registration(rules, key, urls["newAccount"], nonce)
            head, body = fetched(urls["newAccount"], context, letter)
            if "error:badNonce" not in body:
                break
            nonce = head["Replay-Nonce"]
        problem = {**json.loads(body)}
    except (OSError, http.client.HTTPException) as exc:
        words = f"dial tcp: {getattr(exc, 'reason', exc)}"
        if isinstance(getattr(exc, "reason", exc), ssl.SSLError):
            words = f"x509: {getattr(exc.reason, 'verify_message', exc.reason)}"
        raise meaning(words, rules, time.time()) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise meaning(f"get directory at {rules['server']}", rules, time.time()) from None
    if not head["Location"]:
        if "unauthorized" in str(problem.get("type")):
            detail = plain(str(problem.get("detail")))
            raise Trouble(f"the CA refuses what mailsrv:tls:acme:eab says: {detail}")
        raise meaning(f"{problem.get('type')} :: {problem.get('detail')}", rules, time.time())
    known = {"body": {"status": "valid", "contact": [f"mailto:{rules['email']}"]}}
    known["uri"] = head["Location"]
    write(f"{where}/account.json", json.dumps({"email": rules["email"], "registration": known}))


def fetched(url, context, letter=None):
    """The head and the body of an answer, be it an error or not."""
    if not url.startswith("https://"):
        raise ValueError
    data = json.dumps(letter).encode() if letter else None
    kind = {"Content-Type": "application/jose+json"}
    request = urllib.request.Request(url, data, kind)  # noqa: S310 - see above
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310
            return answer.headers, answer.read(1 << 20).decode("utf-8", "replace")
    except urllib.error.HTTPError as answer:
        return answer.headers, answer.read(1 << 20).decode("utf-8", "replace")


def registration(rules, key, url, nonce):
    """What asks for the account, signed with its key and bound by the CA's secret."""
    point = binary("pkey", "-in", key, "-pubout", "-outform", "DER")[-64:]
    jwk = {"crv": "P-256", "kty": "EC", "x": base64url(point[:32]), "y": base64url(point[32:])}
    secret = base64.urlsafe_b64decode(rules["eab"]["hmac"].translate(URL_SAFE).rstrip("=") + "==")

    def bound(signing):
        return base64url(hmac.digest(secret, signing, "sha256"))

    def signed(signing):
        return base64url(raw(binary("dgst", "-sha256", "-sign", key, given=signing)))

    binding = {"alg": "HS256", "kid": rules["eab"]["kid"], "url": url}
    asks = {
        "termsOfServiceAgreed": True,
        "contact": [f"mailto:{rules['email']}"],
        "externalAccountBinding": jws(binding, jwk, bound),
    }
    return jws({"alg": "ES256", "jwk": jwk, "nonce": nonce, "url": url}, asks, signed)


def jws(protected, payload, sign):
    """RFC 7515, in its flattened form."""
    parts = [base64url(json.dumps(part).encode()) for part in (protected, payload)]
    signature = sign(".".join(parts).encode())
    return {"protected": parts[0], "payload": parts[1], "signature": signature}


def raw(der):
    """A signature of P-256 as its two numbers, 32 octets each (RFC 7518, section 3.4)."""
    one = 4 + der[3]
    numbers = der[4:one], der[one + 2 :]
    return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in numbers)


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def challenge(rules):
    by_web = ["--http.webroot", rules["webroot"]] if rules["webroot"] else []
    return {
        "http-01": ["--http", *by_web],
        "tls-alpn-01": ["--tls"],
        "dns-01": ["--dns", rules["provider"]],
    }[rules["challenge"]]


# Serving


def digest(rules):
    """Of what the daemons are to have."""
    return hashlib.sha256((read(rules["cert"]) + read(rules["key"])).encode()).hexdigest()


def tell(daemon, rules):
    """Have a daemon take the certificate, and note that it did, as the highstate would."""
    ran = subprocess.run(
        daemon["tell"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if ran.returncode:
        raise Trouble(f"{' '.join(daemon['tell'])} failed: {plain(ran.stderr or ran.stdout)}")
    with contextlib.suppress(ValueError, TypeError, KeyError, FileNotFoundError):
        noted = json.loads(read(daemon["record"]))
        for path in (rules["cert"], rules["key"]):
            said = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            noted["taken"][path] = [said, os.stat(path).st_mtime_ns]
        write(daemon["record"], json.dumps(noted))


def told(rules, served):
    """Tell each daemon that has another one; why one does not take it, a sentence."""
    there, sentence = digest(rules), ""
    for daemon in rules["daemons"]:
        if served.get(daemon["record"]) != there:
            try:
                tell(daemon, rules)
                served[daemon["record"]] = there
            except (Trouble, OSError) as exc:
                sentence = str(exc)
    return sentence


def go_on(rules):
    """What a run has left that was killed while a next key took its place."""
    key, crt = f"{rules['next']}.key", f"{rules['next']}.crt"
    if os.path.exists(crt):
        # Read first: a highstate may do the same just now.
        private, chain = read(key), read(crt)
        with contextlib.suppress(Trouble):
            if private and Certificate(chain).fits(key):
                write(rules["key"], private)
                write(rules["cert"], chain, 0o644)
        remove(crt)
    if os.path.exists(key):
        try:
            of_use = public(key) != public(rules["key"])
        except Trouble:
            of_use = False  # what somebody's hand has left
        if not of_use:
            remove(f"{rules['next']}.shown", key)


def next_key(rules, made=False):
    """The key that the next certificate is for."""
    path = f"{rules['next']}.key"
    if not os.path.exists(path):
        if not made and kind(rules["key"]) == rules["kind"]:
            return rules["key"]
        remove(f"{rules['next']}.shown")  # of one that somebody has removed
        write(path, openssl("genpkey", *KINDS[rules["kind"]]))
    shown = re.fullmatch(r"[0-9]{1,12}", read(f"{rules['next']}.shown").strip())
    seen = shown and int(shown[0]) + FORGOTTEN <= time.time()
    return path if seen or not rules["dane"] else rules["key"]


def due(rules, names, key, now):
    """Why a certificate is to be had now; nothing where the one that is served will do."""
    try:
        there = Certificate(read(rules["cert"]))
    except Trouble:
        return "it is none"
    if there.self_signed:
        return "it is self-signed"
    if key != rules["key"]:
        return "there is a next key"
    if {*names} - there.names:
        return LACKS
    if there.ends - now < (there.ends - there.begins) / 3:
        return "less than a third of its life is left"
    return ""


def wanted(rules):
    """The names that lead here, and why the others do not; Trouble where the host's does not."""
    if rules["challenge"] == "dns-01":
        return [rules["hostname"], *rules["names"]], []
    sentence = leads(rules["hostname"], rules["addresses"])
    if sentence:
        raise Trouble(sentence)
    others = {name: leads(name, rules["addresses"]) for name in rules["names"]}
    return [rules["hostname"], *(n for n in others if not others[n])], [
        *filter(None, others.values())
    ]


def renewed(rules, memory, now, at_once):
    """Look, ask if it must be, serve; what is worth knowing, else Trouble."""
    go_on(rules)
    key = next_key(rules)
    if not due(rules, rules["names"], key, now):
        return ""
    names, left_out = wanted(rules)
    note = "; ".join(left_out)
    why = due(rules, names, key, now)
    if not why:
        return note
    # No wait is longer: a clock that was wrong made that one.
    if not at_once and now < memory.get("again", 0) <= now + 8 * LONGEST:
        raise Trouble(memory["refused"])
    # Of many domains that come to lead here one by one, each would be a request.
    if why == LACKS and not at_once and now < memory.get("had", 0) + APART <= now + APART:
        raise Trouble("; ".join(["further names are asked for an hour after the last", *left_out]))
    ready(rules)
    put_off(rules, memory, now)
    refused = None
    try:
        text = chain_of(rules, names, key)
    except Trouble as trouble:
        # One domain is no reason for the host, or another domain, to have none.
        rest = [name for name in names if name not in trouble.names]
        if len(rest) in (0, len(names)) or rest[0] != names[0] or not due(rules, rest, key, now):
            raise
        names, refused = rest, trouble
        text = chain_of(rules, names, key)
    found = Certificate(text)
    if fault := found.fault(names, key, now):
        raise Trouble(f"{rules['server']} gave a certificate that is not served, since {fault}")
    chain = "".join(found.pems)
    if key == rules["key"]:
        write(rules["cert"], chain, 0o644)
    else:
        write(f"{rules['next']}.crt", chain)
        go_on(rules)
    if why := due(rules, names, rules["key"], now):
        raise Trouble(
            f"{rules['server']} gave a certificate that is to be renewed at once, since {why}; is "
            "this machine's clock right?"
        )
    memory["had"] = now
    if refused:
        raise refused
    return note


def ready(rules):
    """Trouble where this machine is not ready to ask."""
    port = PORTS.get(rules["challenge"])
    if port and not rules["webroot"] and (sentence := taken(port)):
        raise Trouble(sentence)
    if rules["ca"] and not os.access(rules["ca"], os.R_OK):
        raise Trouble(f"{rules['ca']} cannot be read; mailsrv:tls:acme:ca names it")
    if not os.access(rules["lego"], os.X_OK):
        raise Trouble(f"{rules['lego']} cannot be started; run the highstate")


def put_off(rules, memory, now):
    """
    Note that the CA is asked now and not soon again, each time later. It is noted before: whoever
    is killed, or has no room for what comes, would ask every time.
    """
    tries = memory["tries"] = memory.get("tries", 0) + 1
    memory["again"] = now + min(LONGEST, FIRST * 2 ** min(tries - 1, 20))
    ca = rules["server"].split("/")[2]
    memory["refused"] = f"it was stopped while it asked {ca}; it asks again soon"
    write(f"{rules['directory']}/said", json.dumps(memory))


def remembered(text):
    """What the last run wrote down; nothing where a power cut has left something else."""
    try:
        memory = json.loads(text)
        if not isinstance(memory.get("served", {}), dict):
            return {}
        memory["had"] = float(memory.get("had", 0))
        if memory.get("again"):
            return {**memory, "again": float(memory["again"]), "refused": str(memory["refused"])}
        return {**memory}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def run(rules, at_once):
    """One look; returns the sentence."""
    said, now = f"{rules['directory']}/said", time.time()
    memory = remembered(read(said))
    asks = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
    if memory.get("rules") != asks:  # another pillar, another chance
        memory |= {"rules": asks, "tries": 0, "again": 0}
    there = digest(rules)
    memory.setdefault("served", {daemon["record"]: there for daemon in rules["daemons"]})
    write(said, json.dumps(memory))
    sentence, sound, tries = "", False, memory.get("tries")
    try:
        sentence = renewed(rules, memory, now, at_once)
        memory |= {"tries": 0, "again": 0}
    except Trouble as trouble:
        sentence = str(trouble)
        memory["again"] = max(memory.get("again", 0), trouble.until)
    except (OSError, ValueError, LookupError) as exc:
        sentence = (
            f"{rules['cert']} or its key cannot be used: {plain(str(exc))}; run the highstate"
        )
    if memory.get("tries") != tries:
        memory["refused"] = sentence
    with contextlib.suppress(Trouble, OSError, ValueError, LookupError):
        sound = not due(rules, [], next_key(rules), now)
    untold = told(rules, memory["served"])
    memory["short"] = sound and bool(sentence) and not untold
    sentence = untold or sentence
    since = memory.get("since") if memory.get("said") and sentence else ""
    since = since or time.strftime("%Y-%m-%d", time.gmtime(now))
    memory |= {"looked": int(now), "said": sentence, "since": since}
    write(said, json.dumps(memory))
    return sentence


def settings(path):
    """The configuration; ValueError, which names the key, where it is none."""
    with open(path, encoding="utf-8") as file:
        rules = json.load(file)
    if not isinstance(rules, dict):
        raise ValueError("is no mapping")
    for key, form in KEYS.items():
        if not isinstance(rules.get(key), form):
            raise ValueError(f"{key} is missing or of another kind")
    if rules["challenge"] not in (*PORTS, "dns-01") or rules["kind"] not in KINDS:
        raise ValueError("challenge or kind is not known")
    return rules


def main(*words):
    *what, path = words
    try:
        rules = settings(path)
    except (OSError, ValueError) as exc:
        # What is in there is secret; what is wrong with it is not.
        return f"{path}: {exc.msg if isinstance(exc, json.JSONDecodeError) else exc}"
    if what == ["check"]:
        return None
    os.makedirs(rules["directory"], mode=0o700, exist_ok=True)
    with open(f"{rules['directory']}/lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if what == ["new-key"]:
            try:
                go_on(rules)
                next_key(rules, made=True)
            except (Trouble, OSError) as exc:
                return str(exc)
            return None
        try:
            sentence = run(rules, at_once=what == ["now"])
        except OSError as exc:  # as on a full disk; the next one goes on
            return str(exc)
    print(sentence or "the certificate is as it shall be", flush=True)
    return 1 if what and sentence else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
