"""
The model of the pillar: everything the formula's templates need, validated and complete.

:func:`model`, :func:`satellite`, :func:`hashes` and :func:`records` are functions of their
arguments. The functions for the command line (:func:`lint`, :func:`explain`, :func:`dns`,
:func:`zone`, :func:`web`, :func:`client`) read the pillar and the machine and call them.
:func:`satellite_credential` and :func:`certificate` are what the machines of a fleet tell each
other, through the master's mine.
"""

import base64
import contextlib
import difflib
import hashlib
import hmac
import ipaddress
import json
import os
import re
import shutil
import ssl
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

try:
    import idna  # a library of requests, and so of Salt
except ImportError:
    idna = None

__virtualname__ = "mailsrv"

KEY_LENGTH = 32
TTL = 3600

# RFC 1035, section 2.3.1 and RFC 1123, section 2.1: letters, digits and inner hyphens.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

# What Dovecot takes in a user name by default (auth_username_chars), within RFC 5321: nothing that
# a table of smtpd(8), a path or a command would read as its own (no "-" in front), and no "+",
# which separates a subaddress.
LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")

# A line of either daemon's file: the address and the whole hash.
STANDING = re.compile(
    r"([^\s:]+)(?: |:\{SHA512-CRYPT\})(\$6\$[./0-9A-Za-z=$]+\$[./0-9A-Za-z]{86})(?:$|:)"
)

# Where an alias may lead: a subaddress, too, and whatever local part another server has, less what
# a table of smtpd(8) or its expansion would read as its own.
TARGET_LOCAL_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=&~-]{0,63}")

# RFC 5321, section 4.5.1 and RFC 2142: every domain that takes mail has these.
ROLES = ("postmaster", "abuse")

QUOTA = re.compile(r"[1-9][0-9]{0,6}[kMGT]")
SUBADDRESS = ("inbox", "mailbox")
SRS_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

# libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE, less the NUL that ends it.
MAX_PASSWORD = 511

# What `openssl passwd -6` prints. Without rounds: a satellite does not choose how long it takes.
CREDENTIAL = re.compile(r"\$6\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")

CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\n(?:[0-9A-Za-z+/=]+\n)+-----END CERTIFICATE-----\n"
)
MINION = re.compile(r"[\w.-]+", re.ASCII)

# A file on the minion, or on the file server.
PATH = re.compile(r"(salt:/)?/[\w./@+-]+", re.ASCII)

SEED_KEYS = ("salt", "domains", "accounts")
ARCHIVE = {
    "source": re.compile(r"[\w.:/@+=~%-]+", re.ASCII),
    "source_hash": re.compile(r"(sha256=)?[0-9a-f]{64}|(sha512=)?[0-9a-f]{128}"),
}
# The least and the most of a limit; OpenSMTPD 7.9 refuses less than 100 recipients.
LIMITS = {"messages": (1, 100000), "recipients": (100, 100000), "connections": (1, 1000)}
KEYS = {
    "mailsrv": (
        "hostname",
        *SEED_KEYS,
        "aliases",
        "subaddress",
        "quota",
        "quota_warning",
        "sieve",
        "srs",
        "tls",
        "dkim",
        "dns",
        "nsd",
        "spam_filter",
        "limits",
        "passwords",
        "satellites",
        "satellite",
    ),
    "srs": ("key",),
    "tls": ("cert", "key"),
    "dkim": ("signer", "selector", "rotate", "revoked", "bits", "ed25519", "archive"),
    "archive": tuple(ARCHIVE),
    "dns": (
        *("spf", "dmarc", "tls_reports", "web", "mta_sts", "dane"),
        *("addresses", "nameservers", "skip"),
    ),
    "dmarc": ("policy", "reports"),
    "nsd": ("machines", "nameservers"),
    "limits": ("message_size", *LIMITS),
    "passwords": ("rounds",),
    "account": ("address", "password", "hash", "quota", "send_as"),
    "satellites": ("hash",),
    "satellite": ("relay", "root", "agent", "minion", "ca"),
}
SIGNERS = ("dkimproxy", "dkimsign", "rspamd")

# How often a new key is made, and what is put behind the selector by year, quarter and month.
ROTATIONS = {"yearly": "-{0}", "quarterly": "-{0}q{1}", "monthly": "-{0}{2:02}"}
REVOKED = "v=DKIM1; p="  # RFC 6376, section 3.6.1

DMARC_POLICIES = ("none", "quarantine", "reject")
MTA_STS_MODES = ("none", "testing", "enforce")
RECORD_TYPES = ("A", "AAAA", "CNAME", "MX", "PTR", "SRV", "TLSA", "TXT")
RECORD_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")

# RFC 7208, section 12, less macros, and less "ptr", which is not to be published any more.
SPF_DOMAIN = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+"
SPF_TERM = re.compile(
    rf"(?P<modifier>redirect|exp)=(?:{SPF_DOMAIN})"
    rf"|[+?~-]?(?:(?P<all>all)|(?P<lookup>include|exists):{SPF_DOMAIN}"
    rf"|(?P<host>a|mx)(?::{SPF_DOMAIN})?(?:/[0-9]{{1,2}})?(?://[0-9]{{1,3}})?"
    r"|(?P<ip>ip[46]):(?P<network>[0-9a-f.:/]+))"
)
MAX_SPF_LOOKUPS = 10  # RFC 7208, section 4.6.4

# RFC 6186, RFC 8314 and RFC 5804: service, priority, port. A client uses TLS from the first byte,
# so IMAP and POP3 that begin without it are said not to be offered, though they are there.
SERVICES = (
    ("imaps", 0, 993),
    ("pop3s", 10, 995),  # IMAP first
    ("submissions", 0, 465),
    ("submission", 0, 587),
    ("sieve", 0, 4190),
)
NOT_OFFERED = ("imap", "pop3")

MTA_STS_MAX_AGE = 604800  # seconds: a week

# RFC 1918, RFC 6598, RFC 4193: addresses that the world does not see.
BEHIND_NAT = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]

AGENTS = ("opensmtpd", "dma")
RENAME = "give the minion an id like web1.example.com"


def __virtual__():
    # Always there: a template that misses it could only say "no attribute 'mailsrv.model'".
    return __virtualname__


def facts():
    """
    What the formula knows by itself: ``defaults.yaml`` with this system's part of ``osmap.yaml``,
    and today's date.

    Returns a dictionary. Raises ``CommandExecutionError`` on a system that is not in the map.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.facts
    """
    defaults, osmap = (
        __salt__["slsutil.renderer"](f"salt://mailsrv/{name}.yaml", default_renderer="yaml")
        for name in ("defaults", "osmap")
    )
    family = __grains__["os_family"]
    if family not in osmap:
        raise CommandExecutionError(
            f"mailsrv: this formula knows {' and '.join(sorted(osmap))}, not {family}"
        )
    return {
        **__salt__["slsutil.merge"](defaults, osmap[family]),
        "today": time.strftime("%Y-%m-%d"),
    }


def model(pillar, fqdn, facts, mined=None):
    """
    Validate and complete the pillar.

    pillar
        The whole pillar, a dictionary.

    fqdn
        The machine's own name, as the grain of this name gives it.

    facts
        What :func:`facts` returns.

    mined
        What :func:`mined` returns. Default: nothing.

    Returns a dictionary without any secret. Raises ``SaltInvocationError`` with every fault of the
    pillar, one sentence a line.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    result, found = _read(pillar, fqdn, facts, mined)
    if found:
        raise SaltInvocationError("the pillar is not valid:\n" + "\n".join(found))
    return result


def faults(pillar, fqdn, facts, mined=None):
    """
    What :func:`model` would refuse.

    pillar, fqdn, facts, mined
        As for :func:`model`.

    Returns a list of sentences, each with the key, the value (never a secret) and the cure; empty
    where the pillar is valid.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    return _read(pillar, fqdn, facts, mined)[1]


def satellite(pillar, name, facts, certificate=""):
    """
    Validate and complete the pillar of a machine that only sends, through a mail machine.

    pillar
        The whole pillar, a dictionary; ``mailsrv:satellite`` counts.

    name
        The id of the minion, which is the machine's name towards the mail machine.

    facts
        What :func:`facts` returns.

    certificate
        What :func:`mined_certificate` returns. Default: none.

    Returns a dictionary without any secret. Raises ``SaltInvocationError`` with every fault of the
    pillar, one sentence a line.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    result, found = _read_satellite(pillar, name, facts, certificate)
    if found:
        raise SaltInvocationError("the pillar is not valid:\n" + "\n".join(found))
    return result


def satellite_faults(pillar, name, facts, certificate=""):
    """
    What :func:`satellite` would refuse.

    pillar, name, facts, certificate
        As for :func:`satellite`.

    Returns a list of sentences, as :func:`faults` does.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    return _read_satellite(pillar, name, facts, certificate)[1]


def mined(pillar):
    """
    What the satellites have published in the master's mine, if the pillar names them by a target.

    pillar
        The whole pillar.

    Returns the credentials, as :func:`satellite_credential` gives them, by minion id: the ids are
    those that the master knows the minions by. A minion whose key was deleted is not among them.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    target = _settings(pillar, []).get("satellites")
    if not target or not isinstance(target, str):
        return {}
    return __salt__["mine.get"](target, "mailsrv.satellite_credential", tgt_type="compound")


def mined_certificate(pillar):
    """
    The certificate that the mail machine of a satellite has published in the master's mine.

    pillar
        The whole pillar of the satellite.

    Returns PEM text; empty where there is none, since a CA has signed it, or no master.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.satellite test=True
    """
    minion = _relay_minion(_section(_section(pillar, "mailsrv", "", []), "satellite", "", []))
    if not isinstance(minion, str) or not MINION.fullmatch(minion):
        return ""
    found = __salt__["mine.get"](minion, "mailsrv.certificate", tgt_type="list").get(minion)
    return found if isinstance(found, str) and CERTIFICATE.fullmatch(found) else ""


def hashes(pillar, key_file, standing, rounds, mined=None):
    """
    The crypt(3) hash of every account, made anew only where the password, the ``salt`` of the
    pillar or the rounds changed.

    The salt of a hash is derived from the key, the address and the password, so a hash with this
    very salt in one of the standing files is known to be the hash of this password, at the cost of
    one HMAC. Without the key the salt tells nothing about the password.

    pillar
        The whole pillar, valid for :func:`model`.

    key_file
        File of 32 random bytes that never leave the minion.

    standing
        Files that hold the hashes of an earlier run: those of both daemons.

    rounds
        Cost of a new hash.

    mined
        What :func:`mined` returns. Default: nothing.

    Returns a dictionary of hashes by address, in the order of the pillar, and by name of satellite.
    Only those in the model may log in.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.dovecot test=True
    """
    settings = _settings(pillar, [])
    key = _password_key(key_file) + str(settings.get("salt", "")).encode()
    stand = _standing(standing)
    # Two templates ask in one run; the second one finds what the first one hashed.
    fresh = __context__.setdefault("mailsrv.hashes", {})
    result = {}
    for account in _accounts(settings, [], {}, []):
        address, secret = account["address"], account["secret"]
        if "hash" in secret:
            result[address] = secret["hash"]
            continue
        mac = hmac.new(key, f"{address}\0{secret['password']}".encode(), hashlib.sha256).digest()
        salt = base64.b64encode(mac[:12], altchars=b"./").decode("ascii")
        cost = "" if rounds == 5000 else f"rounds={rounds}$"
        prefix = f"$6${cost}{salt}$"
        if not stand.get(address, "").startswith(prefix):
            if prefix not in fresh:
                fresh[prefix] = __salt__["password.hash"](secret["password"], salt, rounds)
            result[address] = fresh[prefix]
        else:
            result[address] = stand[address]
    # An account's is never that of a minion which bears its name.
    return dict(_credentials(settings, mined, [])) | result


def signing(model):
    """
    The DKIM keys that mail is signed with now.

    model
        What :func:`model` returns. The selectors in it are those that shall sign; another one does
        while DNS does not show theirs (see the state :mod:`dkim.signing`).

    Returns a list of keys like those of the model, with the selector and files of the one that
    signs.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.rotation
    """
    stages = [(key, _stage(key)["signing"]) for key in model["dkim"]["keys"]]
    return [_named(key, selector) for key, selector in stages if selector]


def records(model, published, addresses, tlsa=None):
    """
    The DNS records that the model's domains need.

    model
        What :func:`model` returns.

    published
        The DKIM keys that shall be in DNS: by domain, the value of the TXT record by selector.

    addresses
        The IPv4 and IPv6 addresses of the mail host, text.

    tlsa
        The SHA-256 of the public key of the certificate that is served, hexadecimal. Absent: none
        is published.

    Returns a list of records by domain, each ``{"name", "type", "value", "need", "why"}``: the name
    absolute with its dot, the value as in a zone file but for TXT, which is one string without
    quotes, ``need`` either ``required`` or ``recommended``, ``why`` a sentence. The records of the
    mail host stand with the domains it is in, else with the first one.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.dns
    """
    hostname, domains = model["hostname"], model["domains"]
    homes = [domain for domain in domains if _within(hostname, domain)] or domains[:1]
    result = {}
    for domain in domains:
        result[domain] = [
            _required(domain, "MX", f"10 {hostname}.", "other servers bring mail there"),
            _required(
                domain,
                "TXT",
                f"v=spf1 {' '.join(model['dns']['spf'])}",
                "it says who may send as this domain (SPF)",
            ),
            *_dkim_records(domain, published[domain]),
            *_policy_records(domain, model),
            *_client_records(domain, model),
        ]
        if domain in homes:
            result[domain] += _host_records(hostname, addresses, tlsa)
    for satellite in model["satellites"]:
        if satellite["aligned"]:
            # An answer, or a bounce, is refused by us at once; without an MX it would wait for days
            # in front of the satellite, which does not listen.
            result[satellite["signed_by"]] += [
                _recommended(
                    satellite["name"],
                    "MX",
                    f"10 {hostname}.",
                    "an answer to this satellite is refused at once",
                ),
                _recommended(
                    satellite["name"],
                    "TXT",
                    "v=spf1 mx -all",
                    "it says who may send as this satellite (SPF)",
                ),
            ]
    return result


def nameserver(pillar, fqdn):
    """
    What the pillar says to the minion that serves the zones of the others.

    pillar
        The whole pillar, a dictionary. Domains and accounts need not be in it.

    fqdn
        The machine's own name, as the grain of this name gives it.

    Returns ``{"machines", "nameservers", "faults"}``: whose records are served, by which names, and
    every fault of the pillar as :func:`faults` says it.

    CLI Example:

    .. code-block:: bash

        salt-call state.apply mailsrv.nsd test=True
    """
    faults = []
    settings = _nsd(_settings(pillar, faults), faults)
    if not settings["nameservers"]:
        settings["nameservers"] = [name for name in [_domain(fqdn)] if name]
    if not faults and not settings["nameservers"]:
        faults.append(
            f"mailsrv:nsd:nameservers: is missing, and this machine's own name, {fqdn}, is none; "
            "list host names, e.g. [ns1.example.net]"
        )
    return {**settings, "faults": faults}


def version(package):
    """
    The version of the software in a package, as numbers that compare.

    package
        Name of the package: the installed version counts, where there is none the one that would be
        installed, as on the first run in test mode.

    Returns a list of numbers, e.g. ``[2, 3, 19, 1]``.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.version dovecot-core
    """
    text = __salt__["pkg.version"](package) or __salt__["pkg.latest_version"](
        package, refresh=False
    )
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", text)
    if not match:
        raise CommandExecutionError(f"no version of the package {package} can be found")
    return [int(number) for number in match[1].split(".")]


def satellite_credential():
    """
    What a satellite publishes, and the mail machine checks its password against.

    Returns ``{"hash": "$6$…", "reader": …}``: the crypt(3) hash of a random password of 256 bits,
    which stays on the satellite, and the id of the minion that may read it in the mine.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.satellite_credential
    """
    path = f"{facts()['directory']}/satellite.hash"
    try:
        with open(path, encoding="ascii") as file:
            credential = file.read().strip()
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{path} is not there yet; salt-call state.apply mailsrv.satellite makes it"
        ) from None
    here = satellite(__pillar__, __opts__["id"], facts(), mined_certificate(__pillar__))
    return {"hash": credential, "reader": here["minion"]}


def certificate():
    """
    What the mail machine publishes for its satellites.

    Returns its self-signed certificate, PEM text: whoever has it can be sure of this machine. Empty
    where the pillar names another certificate, which the systems of the satellites know the CA of.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.certificate
    """
    tls = _here()["tls"]
    if not tls["self_signed"]:
        return ""
    try:
        with open(tls["cert"], encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{tls['cert']} is not there yet; salt-call state.apply mailsrv.tls makes it"
        ) from None


def fingerprint(path):
    """
    The SHA-256 of the first certificate in a file, as dma(8) pins it.

    path
        The file, PEM.

    Returns 64 digits. In test mode the file may not be there yet.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.fingerprint /etc/mail/relay.pem
    """
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
    except FileNotFoundError:
        if __opts__["test"]:
            return "0" * 64
        raise CommandExecutionError(
            f"{path} is missing; put the relay's certificate there"
        ) from None
    found = CERTIFICATE.search(text)
    if not found:
        raise CommandExecutionError(f"{path} holds no certificate in PEM form")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()


def lint():
    """
    Every fault of the pillar at once.

    Returns a list of sentences, each with the key, the value (never a secret) and the cure, and
    behind the faults what is valid but worth knowing; empty where there is neither. The exit status
    is 1 where there are faults.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.lint
    """
    found, notes = [], []
    settings = _settings(__pillar__, [])
    if "satellite" in settings:
        found += satellite_faults(
            __pillar__, __opts__["id"], facts(), mined_certificate(__pillar__)
        )
    if "domains" in settings or "satellite" not in settings:
        read, more = _read(__pillar__, __grains__["fqdn"], facts(), mined(__pillar__))
        found, notes = found + more, read["notes"]
    if found:
        __context__["retcode"] = 1
    return found + notes


def explain(address):
    """
    What happens to mail for an address, who may send as it, and why; from the pillar alone.

    address
        Any address, of ours or not, with or without a subaddress (``+tag``).

    Returns a dictionary: ``accepted`` and ``because``; the ``rule`` of smtpd.conf and the ``table
    line`` that decide; ``delivered to`` mailboxes and ``forwarded to`` addresses elsewhere; the
    ``quota`` of each mailbox and the ``filters`` before it; and ``senders``, who may send as it and
    why.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.explain sales@example.com
    """
    here = _here()
    target = str(address).lower()
    domain = _domain(target.rpartition("@")[2])
    if domain is None or not TARGET_LOCAL_PART.fullmatch(target.rpartition("@")[0]):
        raise SaltInvocationError(f"mailsrv.explain: {_show(address)} is not an address")
    accounts = {account["address"]: account for account in here["accounts"]}
    result = {"senders": _explain_senders(target, here)}
    if any(domain == satellite["name"] for satellite in here["satellites"] if satellite["aligned"]):
        result["accepted"] = "no"
        result["because"] = f"{domain} is a satellite, which sends only"
        return result
    if domain not in here["domains"]:
        result["accepted"] = "from our users and this machine only"
        result["because"] = f"{domain} is not one of our domains: {', '.join(here['domains'])}"
        action = "sign" if here["dkim"]["signer"] == "dkimproxy" else "relay"
        result["rule"] = f'match from auth for any action "{action}"'
        result["forwarded to"] = [target]
        return result
    for name in (target, _base(target), f"@{domain}"):
        if name in here["aliases"] or name in accounts:
            break
    else:
        result["accepted"] = "no"
        result["because"] = "there is no such account, no such alias, and no catch-all"
        result["rule"] = "match from any for domain <vdomains> reject"
        return result
    ends = here["aliases"].get(name, [name])
    kind = "an alias" if name in here["aliases"] else "an account"
    result["accepted"] = "yes"
    result["because"] = f"{name} is {'a catch-all' if name.startswith('@') else kind}"
    result["rule"] = 'match from any for domain <vdomains> rcpt-to <recipients> action "mailbox"'
    values = ",".join("vmail" if end == name else end for end in ends)
    result["table line"] = f"virtuals: {name} {values}"
    # A mailbox with a forward of its own brings that along.
    ends = [end for e in ends for end in ([e] if e == name else here["aliases"].get(e, [e]))]
    boxes = list(dict.fromkeys(_base(end) for end in ends if _base(end) in accounts))
    result["delivered to"] = boxes
    result["forwarded to"] = [end for end in dict.fromkeys(ends) if _base(end) not in accounts]
    result["quota"] = {box: accounts[box]["quota"] or here["quota"] or "unlimited" for box in boxes}
    result["filters"] = _explain_filters(here) if boxes else []
    return result


def leftovers():
    """
    The mail of accounts that are no longer in the pillar. It stays until :func:`purge` removes it.

    Returns a dictionary by address: ``path`` and ``bytes`` on the disk.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.leftovers
    """
    known = facts()
    accounts = {account["address"] for account in _here()["accounts"]}
    result = {}
    top = known["vmail"]["home"]
    for domain in _subdirectories(top):
        for user in _subdirectories(os.path.join(top, domain)):
            address, path = f"{user}@{domain}", os.path.join(top, domain, user)
            # A name that no account can have is nothing of ours.
            if address not in accounts and _address(address) == address:
                result[address] = {"path": path, "bytes": _size(path)}
    return result


def purge(address, test=False):
    """
    Remove for good the mail of an account that is no longer in the pillar.

    address
        One that :func:`leftovers` lists.

    test
        Whether to say only what would be removed. Default: ``False``.

    Returns what was removed, as :func:`leftovers` does. Raises ``SaltInvocationError`` for any
    other address, and nothing is removed.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.purge gone@example.com
        salt-call mailsrv.purge gone@example.com test=True
    """
    left = leftovers()
    if address not in left:
        raise SaltInvocationError(
            f"mailsrv.purge: {_show(address)} left no mail behind; "
            f"{'those that did: ' + ', '.join(left) if left else 'nobody did'}"
        )
    if not test:
        shutil.rmtree(left[address]["path"])
        with contextlib.suppress(OSError):  # the domain still has mailboxes
            os.rmdir(os.path.dirname(left[address]["path"]))
    return {address: left[address]}


def dns(domain=None):
    """
    The DNS records to publish, as data.

    domain
        One of the pillar's domains. Absent: all of them.

    Returns a list of records by domain, as :func:`records` does.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.dns
        salt-call mailsrv.dns example.com --out=json
    """
    here = _here()
    return _records_here(here, _chosen(domain, here, "mailsrv.dns"))


def zone(domain=None):
    """
    The records of a domain as a zone file that BIND and NSD load.

    domain
        One of the pillar's domains. Absent: all of them, one zone file after the other.

    Returns the text. Without ``mailsrv:dns:nameservers``, SOA and NS name the mail host; put your
    own name servers there. What belongs into another zone, as the PTR, is a comment.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.zone example.com
        salt-call mailsrv.zone example.com --out=txt | cut -c8- > example.com.zone
    """
    here = _here()
    found = _records_here(here, _chosen(domain, here, "mailsrv.zone"))
    return "\n".join(_zone(name, entries, here) for name, entries in found.items())


def web(domain=None):
    """
    The files that the host of ``mailsrv:dns:web`` is to serve by HTTPS.

    domain
        One of the pillar's domains. Absent: all of them.

    Returns the content of each file by its URL, by domain: the MTA-STS policy (RFC 8461), whose
    lines end in CRLF, and the settings that mail clients such as Thunderbird look for.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.web example.com
    """
    here = _here()
    if not here["dns"]["web"]:
        raise CommandExecutionError(
            "mailsrv.web: no host serves these files; name one in mailsrv:dns:web"
        )
    return {
        name: {
            f"https://mta-sts.{name}/.well-known/mta-sts.txt": _mta_sts(here),
            f"https://autoconfig.{name}/mail/config-v1.1.xml": _autoconfig(name, here),
        }
        for name in _chosen(domain, here, "mailsrv.web")
    }


def rotation():
    """
    How far each DKIM key is on its way, asked of live DNS.

    Returns by domain and algorithm: ``signs``, the selector that signs; ``next`` and ``waits for``,
    the selector that shall sign and what keeps it from doing so, a sentence for each name server;
    ``still published``, selectors that no longer sign, and until when their records are needed.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.rotation
    """
    known = facts()
    here = _here()
    result = {domain: {} for domain in here["domains"]}
    for key in here["dkim"]["keys"]:
        stage = _stage(key)
        until = {
            selector: time.strftime("%Y-%m-%d", time.gmtime(since + known["dkim"]["keep"]))
            for selector, since in stage["retired"].items()
        }
        for domain in key["domains"]:
            said = result[domain][key["algorithm"]] = {"signs": stage["signing"] or "nothing"}
            if stage["signing"] != key["selector"]:
                name, value = f"{key['selector']}._domainkey.{domain}", _txt(key["private"])
                said["next"] = key["selector"]
                try:
                    said["waits for"] = __salt__["mailcheck.lacking"](name, "TXT", value)
                except CommandExecutionError as exc:
                    said["waits for"] = [str(exc)]
                said["waits for"] = said["waits for"] or ["the next run"]
            if until:
                said["still published"] = until
    return result


def client():
    """
    What a person types into a mail client.

    Returns a dictionary of sentences.

    CLI Example:

    .. code-block:: bash

        salt-call mailsrv.client
    """
    here = _here()
    hostname = here["hostname"]
    return {
        "incoming mail": f"IMAP, {hostname}, port 993, TLS (or 143, STARTTLS)",
        "incoming mail, POP3": f"POP3, {hostname}, port 995, TLS (or 110, STARTTLS)",
        "outgoing mail": f"SMTP, {hostname}, port 465, TLS (or 587, STARTTLS), with password",
        "filters": f"ManageSieve, {hostname}, port 4190, STARTTLS",
        "user name": "the whole address",
        **{f"note {number}": note for number, note in enumerate(here["notes"], 1)},
    }


# Reading the pillar: each function takes what stands there, appends a sentence to `faults` for
# everything that cannot be used, and returns what can.


def _read(pillar, fqdn, facts, mined):
    # Each template of a run asks for the model: with 10000 accounts that was most of the time.
    question = hashlib.sha256(repr((pillar, fqdn, facts, mined)).encode(errors="replace")).digest()
    last = __context__.setdefault("mailsrv.model", {})
    if question not in last:
        last.clear()
        last[question] = _read_anew(pillar, fqdn, facts, mined)
    return last[question]


def _read_anew(pillar, fqdn, facts, mined):
    faults, notes = [], []
    settings = _settings(pillar, faults)
    if "salt" in settings and not isinstance(settings["salt"], str):
        faults.append("salt: must be text; quote it")
    domains = _domains(settings, faults)
    accounts = _accounts(settings, domains, facts, faults)
    aliases = _aliases(settings, domains, accounts, faults)
    names = _aliases_of(aliases)
    hostname = _hostname(settings, fqdn, domains, faults, notes)
    _nsd(settings, faults)  # for mailsrv.nsd, should this machine serve the zones, too
    mailboxes = [account["address"] for account in accounts]
    model = {
        "hostname": hostname,
        "domains": domains,
        "accounts": [
            {
                "address": account["address"],
                "quota": account["quota"],
                "senders": _senders(account, names),
            }
            for account in accounts
        ],
        "aliases": aliases,
        "subaddress": _choice(
            settings.get("subaddress", facts["subaddress"]),
            SUBADDRESS,
            "mailsrv:subaddress",
            faults,
        ),
        "quota": _quota(settings, "mailsrv:quota", faults),
        "quota_warning": _quota_warning(settings, facts, faults),
        "sieve": _sieve(settings, faults),
        "srs": _srs(settings, faults),
        "tls": (tls := _tls(settings, hostname, facts, faults)),
        "dkim": _dkim(settings, domains, facts, faults),
        "dns": _dns(settings, domains, hostname, tls, {*mailboxes, *aliases}, faults),
        "spam_filter": _switch(settings, "spam_filter", "mailsrv:spam_filter", faults),
        "limits": _limits(settings, facts, faults),
        "passwords": _passwords(settings, facts, faults),
        "satellites": _satellites(settings, mined, domains, hostname, faults, notes),
        "has_fleet": isinstance(settings.get("satellites"), str),
        "notes": notes,
    }
    model["rspamd"] = model["spam_filter"] or model["dkim"]["signer"] == "rspamd"
    return model, faults


def _settings(pillar, faults):
    settings = dict(_section(pillar, "mailsrv", "mailsrv", faults))
    for key in SEED_KEYS:
        if key in pillar and key in settings:
            faults.append(f"{key}: stands at the top and under mailsrv:; remove one of them")
        if key in pillar:
            settings[key] = pillar[key]
    return settings


def _section(parent, name, path, faults):
    """The mapping `parent[name]`, its keys checked; empty where it is absent or unusable."""
    section = parent.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        faults.append(f"{path}: must hold keys and values, not {_kind(section)}")
        return {}
    _unknown_keys(section, KEYS[name], f"{path}:", faults)
    return section


def _unknown_keys(section, known, path, faults):
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            name = _name(key)
            if known is KEYS["account"] and not near:
                # {address: …, hash: $argon2id$m=65536,t=3,p=1$…}: YAML makes keys of a secret.
                name = "?"
            faults.append(f"{path}{name}: no such key; {cure}")


def _domains(settings, faults):
    domains = []
    listed = settings.get("domains")
    if not isinstance(listed, list) or not listed:
        faults.append("domains: list at least one domain, e.g. domains: [example.com]")
        return domains
    for index, name in enumerate(listed):
        domain = _domain(name)
        if domain is None:
            faults.append(
                f"domains[{index}]: {_show(name)} is not a domain; "
                f"write it like {_like(name, 'example.com')}"
            )
        elif domain in domains:
            faults.append(f"domains[{index}]: {domain} is listed twice; remove one of them")
        else:
            domains.append(domain)
    return domains


def _accounts(settings, domains, facts, faults):
    accounts, seen = [], set()
    listed = settings.get("accounts") or []
    if not isinstance(listed, list):
        faults.append(f"accounts: must be a list, not {_kind(listed)}")
        return accounts
    for index, entry in enumerate(listed):
        path = f"accounts[{index}]"
        if isinstance(entry, list):
            if len(entry) != 2:
                faults.append(f"{path}: must be [address, password], two values")
                continue
            entry = {"address": entry[0], "password": entry[1]}
        if not isinstance(entry, dict):
            faults.append(f"{path}: must be [address, password] or keys and values")
            continue
        _unknown_keys(entry, KEYS["account"], f"{path}:", faults)
        address = _address(entry.get("address"))
        if address is None:
            # What stands there may be the password, in the wrong place.
            faults.append(
                f"{path}: has no address that can be an account's; write it like user@example.com, "
                "with letters, digits and . _ -"
            )
            continue
        path = f"{path} ({address})"
        if domains and address.partition("@")[2] not in domains:
            faults.append(f"{path}: its domain is not in domains; add it there")
        if address in seen:
            faults.append(f"{path}: this account is listed twice; remove one of them")
        seen.add(address)
        accounts.append(
            {
                "address": address,
                "secret": _secret(entry, path, facts, faults),
                "quota": _quota(entry, f"{path}: quota", faults),
                "send_as": _send_as(entry, path, domains, faults),
            }
        )
    return accounts


def _secret(entry, path, facts, faults):
    if ("password" in entry) == ("hash" in entry):
        faults.append(f"{path}: give either a password or a hash")
        return {}
    if "hash" in entry:
        kinds = facts["passwords"]["kinds"] if facts else None
        fault = __salt__["password.lint"](entry["hash"], kinds)
        if fault:
            faults.append(f"{path}: hash: {fault}")
        return {"hash": entry["hash"]}
    password = entry["password"]
    if not isinstance(password, str):
        faults.append(f"{path}: password: YAML reads this one as {_kind(password)}; quote it")
    elif not password:
        faults.append(f"{path}: password: is empty; give one, or a hash")
    elif not password.isprintable():
        faults.append(f"{path}: password: holds a control character; remove it")
    elif len(password.encode()) > MAX_PASSWORD:
        faults.append(
            f"{path}: password: is longer than the {MAX_PASSWORD} bytes crypt(3) takes; shorten it"
        )
    return {"password": password}


def _quota(section, path, faults):
    quota = section.get("quota")
    if quota is None or (isinstance(quota, str) and QUOTA.fullmatch(quota)):
        return quota
    faults.append(f"{path}: {_show(quota)} is not a size; write it like 500M or 2G")
    return None


def _limits(settings, facts, faults):
    path = "mailsrv:limits"
    given = {**facts["limits"], **_section(settings, "limits", path, faults)}
    size = given["message_size"]
    if not isinstance(size, str) or not QUOTA.fullmatch(size):
        faults.append(f"{path}:message_size: {_show(size)} is not a size; write it like 50M")
    for key, (least, most) in LIMITS.items():
        if type(given[key]) is not int or not least <= given[key] <= most:
            faults.append(
                f"{path}:{key}: {_show(given[key])} is not usable; "
                f"write a number from {least} to {most}"
            )
    return {key: given[key] for key in facts["limits"]}


def _quota_warning(settings, facts, faults):
    percent = settings.get("quota_warning", facts["quota_warning"])
    if type(percent) is not int or not 0 <= percent <= 99:
        faults.append(
            f"mailsrv:quota_warning: {_show(percent)} is not a percentage; "
            "write a number from 1 to 99, or 0 for no warning"
        )
    return percent


def _sieve(settings, faults):
    script = settings.get("sieve")
    if script is None:
        return ""
    if not isinstance(script, str):
        faults.append(f"mailsrv:sieve: must be the text of a script, not {_kind(script)}")
    elif not script.strip():
        faults.append("mailsrv:sieve: is empty; write a script, or remove it")
    elif not script.replace("\n", "").replace("\t", "").isprintable():
        faults.append("mailsrv:sieve: holds a control character; remove it")
    else:
        return script.strip("\n")
    return ""


def _srs(settings, faults):
    key = _section(settings, "srs", "mailsrv:srs", faults).get("key")
    if key is None:
        return {"key": ""}
    if not isinstance(key, str) or not SRS_KEY.fullmatch(key):
        faults.append(
            f"mailsrv:srs:key: {_show(key)} is no name for a key; "
            "write letters, digits and . _ -, quoted"
        )
    return {"key": key}


def _switch(section, name, path, faults):
    value = section.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    faults.append(f"{path}: {_show(value)} is no switch; write true or false")
    return False


def _send_as(entry, path, domains, faults):
    senders = entry.get("send_as", [])
    if not isinstance(senders, list):
        faults.append(f"{path}: send_as: must be a list, not {_kind(senders)}")
        return []
    result = []
    for sender in senders:
        address = _address(sender) or _catch_all(sender)
        if address is None:
            faults.append(
                f"{path}: send_as: {_show(sender)} is neither an address nor a domain; "
                "write info@example.com, or @example.com for all of a domain"
            )
        elif domains and address.partition("@")[2] not in domains:
            faults.append(f"{path}: send_as: {address} is not in domains; mail as it is not signed")
        else:
            result.append(address)
    return result


def _aliases(settings, domains, accounts, faults):
    """Every alias with the mailboxes and remote addresses it leads to, chains followed."""
    given = settings.get("aliases") or {}
    mailboxes = dict.fromkeys(account["address"] for account in accounts)
    aliases = {}
    if not isinstance(given, dict):
        faults.append(f"mailsrv:aliases: must hold aliases and targets, not {_kind(given)}")
        given = {}
    for key, targets in given.items():
        alias = _address(key) or _catch_all(key)
        path = f"mailsrv:aliases:{alias}"
        if alias is None:
            faults.append(
                f"mailsrv:aliases: {_show(key)} is not an alias; "
                f"write {_like(key, 'sales@example.com')}, or @example.com for a catch-all"
            )
        elif domains and alias.partition("@")[2] not in domains:
            faults.append(f"{path}: its domain is not in domains; add it there")
        elif alias in aliases:
            faults.append(f"{path}: this alias is listed twice; remove one of them")
        else:
            aliases[alias] = _targets(targets, path, domains, faults)
    for alias, targets in aliases.items():
        path = f"mailsrv:aliases:{alias}"
        if alias in mailboxes and alias not in targets:
            faults.append(
                f"{path}: is an account, which would get nothing any more; add {alias} to the "
                "targets to keep a copy, or remove one of them"
            )
        for target in targets:
            name, domain = _base(target), target.partition("@")[2]
            if domain in domains and name not in mailboxes and name not in aliases:
                faults.append(
                    f"{path}: its target {target} is neither an account nor an alias; add it"
                )
    for domain in domains if mailboxes else ():
        # To somebody of the domain itself, else to the first account of all.
        ours = (mailbox for mailbox in mailboxes if mailbox.endswith(f"@{domain}"))
        keeper = next(ours, next(iter(mailboxes)))
        for role in ROLES:
            if f"{role}@{domain}" not in mailboxes:
                aliases.setdefault(f"{role}@{domain}", [keeper])
    return {
        alias: _resolve(alias, aliases, mailboxes, faults)
        for alias in sorted(aliases, key=lambda alias: alias.startswith("@"))
    }


def _targets(targets, path, domains, faults):
    listed = targets if isinstance(targets, list) else [targets]
    if not listed:
        faults.append(f"{path}: leads nowhere; name a target, or remove it")
    result = []
    for target in listed:
        address = _target(target, domains)
        if address:
            result.append(address)
        else:
            faults.append(
                f"{path}: its target {_show(target)} is not an address; "
                f"write it like {_like(target, 'user@example.com')}"
            )
    return result


def _resolve(alias, aliases, mailboxes, faults):
    """The ends of all chains from an alias, each once; a fault where a chain bites its tail."""
    ends, seen, ahead = [], {alias}, list(aliases[alias])
    while ahead:
        target = ahead.pop(0)
        name = _base(target)
        if name not in aliases or name in mailboxes:
            ends.append(target)
        elif name == alias:
            faults.append(f"mailsrv:aliases:{alias}: leads back to itself; break the loop")
        elif name not in seen:
            seen.add(name)
            ahead[:0] = aliases[name]
    # A mailbox with a forward of its own brings that along.
    brought = {
        end for name in ends if name in mailboxes and name != alias for end in aliases.get(name, ())
    }
    return [end for end in dict.fromkeys(ends) if end not in brought or end in mailboxes]


def _aliases_of(aliases):
    """The aliases that lead to each address, without the catch-alls."""
    names = {}
    for alias, ends in aliases.items():
        for end in ends if not alias.startswith("@") else ():
            names.setdefault(end, []).append(alias)
    return names


def _senders(account, names):
    """The addresses an account may send as: its own, its aliases, what send_as lists."""
    own = account["address"]
    return list(dict.fromkeys((own, *names.get(own, ()), *account["send_as"])))


def _hostname(settings, fqdn, domains, faults, notes):
    name = settings.get("hostname")
    if name is None:
        hostname = _domain(fqdn)
        if hostname and hostname not in domains and not hostname.endswith(".localdomain"):
            return hostname
        hostname = f"mail.{domains[0]}" if domains else ""
        while hostname in domains:
            hostname = f"mail.{hostname}"
        notes.append(
            f"this machine's own name, {fqdn}, cannot be the mail server's: it is called "
            f"{hostname}. Set mailsrv:hostname for another name."
        )
        return hostname
    hostname = _domain(name)
    if hostname is None:
        faults.append(
            f"mailsrv:hostname: {_show(name)} is not a host name; "
            f"write it like {_like(name, 'mail.example.com')}"
        )
    elif hostname in domains:
        # Mail to root@hostname is for a user of this machine, mail to root@domain for an account.
        faults.append(
            f"mailsrv:hostname: {hostname} is a mail domain too; name the host mail.{hostname}"
        )
    return hostname or ""


def _tls(settings, hostname, facts, faults):
    """
    The files that the daemons read, and where they come from.

    A certificate of the pillar is copied under another name than the self-signed one: each is there
    again where the pillar goes back to it.
    """
    given = _section(settings, "tls", "mailsrv:tls", faults)
    name = f"{facts['tls']['directory']}/{hostname}{'.copy' if given else ''}"
    result = {"sources": {}, "self_signed": not given, "cert": f"{name}.crt", "key": f"{name}.key"}
    for key in ("cert", "key"):
        path = given.get(key)
        if path is None:
            if given:
                faults.append(f"mailsrv:tls:{key}: is missing; name both cert and key")
        elif not isinstance(path, str) or not PATH.fullmatch(path):
            faults.append(
                f"mailsrv:tls:{key}: {_show(path)} is not a path; write it like /etc/ssl/mail.pem "
                "or salt://mail.pem, without blanks"
            )
        else:
            result["sources"][key] = path
    return result


def _dkim(settings, domains, facts, faults):
    given = _section(settings, "dkim", "mailsrv:dkim", faults)
    dkim = {key: given.get(key, facts["dkim"][key]) for key in ("signer", "selector", "bits")}
    if dkim["signer"] not in SIGNERS:
        faults.append(
            f"mailsrv:dkim:signer: {_show(dkim['signer'])} is not a signer; "
            f"choose {', '.join(SIGNERS[:-1])} or {SIGNERS[-1]}"
        )
    dkim["selector"] = selector = _selector(dkim["selector"], given.get("rotate"), facts, faults)
    dkim["revoked"] = _revoked(given.get("revoked"), selector, faults)
    if type(dkim["bits"]) is not int or dkim["bits"] not in (1024, 2048, 3072, 4096):
        faults.append(
            f"mailsrv:dkim:bits: {_show(dkim['bits'])} is no key length; "
            "write the number 1024, 2048, 3072 or 4096"
        )
    path = "mailsrv:dkim:ed25519"
    dkim["ed25519"] = _switch(given, "ed25519", path, faults)
    if dkim["ed25519"] and dkim["signer"] == "dkimproxy":
        faults.append(
            f"{path}: dkimproxy cannot sign with Ed25519; choose dkimsign or rspamd as the "
            "signer, or leave it out"
        )
    if dkim["ed25519"] and len(str(selector).rpartition(".")[2]) > 63 - len("-ed25519"):
        faults.append(
            f"{path}: {_show(selector)} is too long a selector to have -ed25519 put behind it; "
            "choose a shorter one"
        )
    path = "mailsrv:dkim:archive"
    archive = _section(given, "archive", path, faults) or facts["dkim"]["archive"]
    for key, usable in ARCHIVE.items():
        value = archive.get(key)
        if value is None:
            faults.append(f"{path}:{key}: is missing; name both source and source_hash, a SHA-256")
        elif not isinstance(value, str) or not usable.fullmatch(value):
            faults.append(f"{path}:{key}: {_show(value)} is not usable; write plain text, quoted")
    # Another archive is another directory: what runs is never a mixture of two.
    directory = f"{facts['dkimproxy']['install']}/{str(archive.get('source_hash'))[-12:]}"
    archive = {**archive, "directory": directory}
    return {**dkim, "archive": archive, "keys": _keys(dkim, domains, facts)}


def _selector(selector, rotate, facts, faults):
    """The selector that shall sign: with `rotate`, another one for each year, quarter or month."""
    if not isinstance(selector, str) or not all(map(LABEL.fullmatch, selector.split("."))):
        faults.append(
            f"mailsrv:dkim:selector: {_show(selector)} is not a selector; "
            "use a-z, 0-9 and inner hyphens"
        )
    if rotate is None:
        return selector
    if not isinstance(rotate, str) or rotate not in ROTATIONS:
        faults.append(
            f"mailsrv:dkim:rotate: {_show(rotate)} is not usable; choose {_or([*ROTATIONS])}"
        )
        return selector
    year, month = map(int, facts["today"].split("-")[:2])
    selector = f"{selector}{ROTATIONS[rotate].format(year, (month + 2) // 3, month)}"
    if not all(map(LABEL.fullmatch, selector.split("."))):
        faults.append(
            f"mailsrv:dkim:rotate: {_show(selector)} would be too long a selector; "
            "choose a shorter one in mailsrv:dkim:selector"
        )
    return selector


def _revoked(given, selector, faults):
    path = "mailsrv:dkim:revoked"
    listed = [] if given is None else given
    if not isinstance(listed, list):
        faults.append(f"{path}: must be a list of selectors, not {_kind(listed)}")
        return []
    for name in listed:
        if not isinstance(name, str) or not all(map(LABEL.fullmatch, name.split("."))):
            faults.append(
                f"{path}: {_show(name)} is not a selector; use a-z, 0-9 and inner hyphens"
            )
        elif name == selector:
            faults.append(
                f"{path}: {name} is the selector that shall sign; "
                "name another one in mailsrv:dkim:selector"
            )
    return [name for name in listed if isinstance(name, str)]


def _keys(dkim, domains, facts):
    """
    One key per domain and algorithm; one for all domains with dkimsign, which holds a single key
    per process.

    Whoever changes the signer keeps the keys, and with them the DNS records: the shared key is
    adopted by each domain, the first domain's key by all of them.
    """
    keys = _keys_of("rsa", "", dkim, domains, facts)
    if dkim["ed25519"]:
        keys += _keys_of("ed25519", "-ed25519", dkim, domains, facts)
    return keys


def _keys_of(algorithm, suffix, dkim, domains, facts):
    directory, signer = facts["dkim"]["directory"], dkim["signer"]
    selector = f"{dkim['selector']}{suffix}"
    shared = f"{directory}/{selector}.private"
    own = {domain: f"{directory}/{domain}/{selector}.private" for domain in domains}
    # The 2015 formula's keys, adopted where they are published under the selector that is wanted.
    seed = facts["dkim"]["seed_key"] if selector == facts["dkim"]["seed_selector"] else ""
    if signer == "dkimsign":
        keys = [(domains, shared, [own.get(domain) for domain in domains[:1]])]
    else:
        keys = [([domain], own[domain], [shared]) for domain in domains]
    return [
        {
            "domains": names,
            "selector": selector,
            "algorithm": algorithm,
            "private": private,
            "public": private.removesuffix("private") + "public",
            # What rspamd reads instead of the PEM.
            "bare": private.removesuffix("private") + "bare"
            if (algorithm, signer) == ("ed25519", "rspamd")
            else "",
            "adopt": ([seed.format(domain=names[0])] if seed and names else []) + adopt,
            "signing": f"{os.path.dirname(private)}/{algorithm}.signing",
            "adopt_signing": [f"{os.path.dirname(path)}/{algorithm}.signing" for path in adopt],
            # RSA signs from the first message on, there is nothing else; Ed25519 when DNS has it.
            "waits": algorithm != "rsa",
            "revoked": [f"{name}{suffix}" for name in dkim["revoked"]],
        }
        for names, private, adopt in keys
    ]


def _nsd(settings, faults):
    path = "mailsrv:nsd"
    given = _section(settings, "nsd", path, faults)
    machines, listed = given.get("machines", "*"), given.get("nameservers") or []
    if not isinstance(machines, str) or not machines:
        faults.append(f"{path}:machines: {_show(machines)} names no minions; write it like 'mx*'")
    if not isinstance(listed, list):
        faults.append(f"{path}:nameservers: must be a list, not {_kind(listed)}")
        listed = []
    for name in listed:
        if _domain(name) is None:
            faults.append(
                f"{path}:nameservers: {_show(name)} is not a host name; write it like "
                "ns1.example.net"
            )
    names = [domain for domain in map(_domain, listed) if domain]
    return {"machines": machines, "nameservers": list(dict.fromkeys(names))}


def _dns(settings, domains, hostname, tls, known, faults):
    path = "mailsrv:dns"
    given = _section(settings, "dns", path, faults)
    dmarc = _section(given, "dmarc", f"{path}:dmarc", faults)
    policy, tls_reports = dmarc.get("policy", "quarantine"), given.get("tls_reports")
    result = {
        "spf": _spf(given.get("spf", "mx -all"), f"{path}:spf", faults),
        "dmarc": {
            "policy": _choice(policy, DMARC_POLICIES, f"{path}:dmarc:policy", faults),
            "reports": _reports(
                dmarc.get("reports"), f"{path}:dmarc:reports", domains, known, faults
            ),
        },
        "tls_reports": _reports(tls_reports, f"{path}:tls_reports", domains, known, faults),
        "web": _web(given.get("web"), f"{path}:web", domains, hostname, faults),
        "mta_sts": _choice(given.get("mta_sts", "none"), MTA_STS_MODES, f"{path}:mta_sts", faults),
        "dane": given.get("dane", False),
        "addresses": _host_addresses(given.get("addresses"), f"{path}:addresses", faults),
        "nameservers": _nameservers(given.get("nameservers"), domains, hostname, faults),
        "skip": _skip(given.get("skip"), f"{path}:skip", faults),
    }
    result["closed"] = _closed(result["spf"])
    if result["mta_sts"] in ("testing", "enforce") and given.get("web") is None:
        faults.append(
            f"{path}:mta_sts: senders fetch the policy by HTTPS; name the host that serves it in "
            "mailsrv:dns:web"
        )
    if result["mta_sts"] == "enforce" and tls["self_signed"]:
        faults.append(
            f"{path}:mta_sts: nobody who enforces it takes a self-signed certificate; name one "
            "that the world trusts in mailsrv:tls, or write testing"
        )
    if not isinstance(result["dane"], bool):
        faults.append(f"{path}:dane: {_show(result['dane'])} is not usable; write true or false")
    return result


def _choice(value, choices, path, faults):
    if not isinstance(value, str) or value not in choices:
        faults.append(f"{path}: {_show(value)} is not usable; choose {_or(choices)}")
    return value


def _spf(text, path, faults):
    """The terms of an SPF record (RFC 7208), without the version before them."""
    terms = text.lower().split() if isinstance(text, str) and text.isascii() else []
    if not terms:
        faults.append(f"{path}: {_show(text)} is no list of terms; write it like mx -all")
        return []
    if terms[:1] == ["v=spf1"]:
        faults.append(f"{path}: v=spf1 is put before it; leave it out")
        return terms[1:]
    found = [SPF_TERM.fullmatch(term) for term in terms]
    for term, match in zip(terms, found, strict=True):
        if not match or (match["ip"] and not _network(match["ip"], match["network"])):
            faults.append(
                f"{path}: {_show(term)} is not a term of SPF; known are all, include:, a, mx, "
                "ip4:, ip6:, exists:, redirect= and exp="
            )
    if None in found:
        return terms
    ends = [match for match in found if match["all"] or match["modifier"] == "redirect"]
    mechanisms = [match for match in found if not match["modifier"]]
    if len(ends) != 1 or (ends[0]["all"] and ends != mechanisms[-1:]):
        faults.append(f"{path}: {_show(text)} does not end in one all or redirect=; add -all")
    elif ends[0][0] in ("all", "+all"):
        faults.append(f"{path}: {ends[0][0]} lets everybody send as these domains; write -all")
    lookups = sum(bool(m["lookup"] or m["host"] or m["modifier"] == "redirect") for m in found)
    if lookups > MAX_SPF_LOOKUPS:
        faults.append(
            f"{path}: {lookups} terms look something up, receivers stop at {MAX_SPF_LOOKUPS}; "
            "write addresses, ip4: and ip6:, instead"
        )
    return terms


def _closed(terms):
    """
    The networks beside this machine that may use our envelope senders, where SPF says so of all
    others (`-all`); None where it does not, or where only DNS knows who they are.
    """
    if not terms or terms[-1] != "-all":
        return None
    plain = [term.lstrip("+") for term in terms[:-1]]
    networks = [term.partition(":")[2] for term in plain if term.startswith(("ip4:", "ip6:"))]
    known = {"mx", "a"}
    return networks if len(networks) == sum(term not in known for term in plain) else None


def _network(kind, text):
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return f"ip{network.version}" == kind


def _reports(value, path, domains, known, faults):
    """The address that reports go to, or None; one of ours must exist."""
    if value is None:
        return None
    local, _, domain = value.rpartition("@") if isinstance(value, str) else ("", "", "")
    domain = _domain(domain)
    if not domain or not TARGET_LOCAL_PART.fullmatch(local):
        faults.append(f"{path}: {_show(value)} is not an address; write it like dmarc@example.com")
        return None
    if domain not in domains:
        return f"{local}@{domain}"
    address = f"{local.lower()}@{domain}"
    if not {address, _base(address), f"@{domain}"} & known:
        faults.append(f"{path}: {address} is neither an account nor an alias; add it")
    return address


def _web(value, path, domains, hostname, faults):
    if value is None:
        return None
    host = _domain(value)
    if host is None:
        faults.append(f"{path}: {_show(value)} is not a host name; write it like www.example.com")
    for domain in domains:
        for name in (f"mta-sts.{domain}", f"autoconfig.{domain}"):
            # RFC 1034, section 3.6.2: where an alias stands, nothing else may.
            if name in (host, hostname, *domains):
                faults.append(
                    f"{path}: {name} is to lead to this host as an alias, and cannot be a host or "
                    "a mail domain itself; choose another name for that"
                )
    return host


def _host_addresses(listed, path, faults):
    if listed is None:
        return []
    if not isinstance(listed, list):
        faults.append(f"{path}: must be a list, not {_kind(listed)}")
        return []
    result = []
    for value in listed:
        try:
            if not isinstance(value, str) or "%" in value:
                raise ValueError
            result.append(str(ipaddress.ip_address(value)))
        except ValueError:
            faults.append(f"{path}: {_show(value)} is not an IP address; write it like 192.0.2.1")
    return list(dict.fromkeys(result))


def _nameservers(listed, domains, hostname, faults):
    path = "mailsrv:dns:nameservers"
    if listed is None:
        return []
    if not isinstance(listed, list):
        faults.append(f"{path}: must be a list, not {_kind(listed)}")
        return []
    result = []
    for value in listed:
        name = _domain(value)
        if name is None:
            faults.append(
                f"{path}: {_show(value)} is not a host name; write it like ns1.example.net"
            )
        elif name != hostname and any(_within(name, domain) for domain in domains):
            faults.append(
                f"{path}: {name} is in a zone that would need its address, too; name a host "
                "elsewhere, or leave nameservers out and complete the zone yourself"
            )
        else:
            result.append(name)
    return list(dict.fromkeys(result))


def _skip(listed, path, faults):
    """What `mailcheck.dns` shall not look at: [name, type], either of them may be empty."""
    if listed is None:
        return []
    if not isinstance(listed, list):
        faults.append(f"{path}: must be a list, not {_kind(listed)}")
        return []
    result = []
    for entry in listed:
        words = entry.split() if isinstance(entry, str) else []
        kind = words.pop().upper() if words and words[-1].upper() in RECORD_TYPES else ""
        name = words.pop().lower().rstrip(".") if words else ""
        if words or not (kind or name) or (name and not RECORD_NAME.fullmatch(name)):
            faults.append(
                f"{path}: {_show(entry)} is not a record; write a type, a name, or both: SRV, "
                "_dmarc.example.com, example.com MX"
            )
        else:
            result.append([name, kind])
    return result


def _or(choices):
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _passwords(settings, facts, faults):
    given = _section(settings, "passwords", "mailsrv:passwords", faults)
    rounds = given.get("rounds", facts["passwords"]["rounds"])
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1000 <= rounds <= 1_000_000:
        faults.append(
            f"mailsrv:passwords:rounds: {_show(rounds)} is not usable; "
            "write a number from 1000 to 1000000"
        )
    return {"rounds": rounds}


def _satellites(settings, mined, domains, hostname, faults, notes):
    """Who of the satellites may send as what, signed by whom."""
    by_hand = isinstance(settings.get("satellites"), dict)
    result = []
    for name, credential in _credentials(settings, mined, faults):
        trouble = _satellite_trouble(name, credential, domains, hostname)
        if trouble and by_hand:
            faults.append(f"mailsrv:satellites:{_name(name)}: {trouble}")
        elif trouble:
            # One machine of the fleet does not stop the mail of all.
            notes.append(f"satellite {_show(name)} cannot send: it {trouble}")
        else:
            parents = [domain for domain in domains if name.endswith(f".{domain}")]
            signer = max(parents, key=len, default=domains[0] if domains else "")
            result.append({"name": name, "signed_by": signer, "aligned": bool(parents)})
            if domains and not parents:
                notes.append(
                    f"satellite {name} is in none of our domains: its mail is signed by {signer}, "
                    "which does not count for its own name (DMARC)"
                )
    if not by_hand and settings.get("satellites") and not result:
        notes.append(
            "mailsrv:satellites: no minion of this target has published a credential for us yet; "
            "run the highstate on the satellites, then here"
        )
    return result


def _credentials(settings, mined, faults):
    """Every satellite's name and hash, as they stand in the pillar or the mine."""
    given = settings.get("satellites")
    if given is None:
        return []
    if isinstance(given, dict):
        listed = given
    elif isinstance(given, str) and given.strip():
        listed = mined or {}
    else:
        faults.append(
            "mailsrv:satellites: must be a target of minions, like '*.example.com', or names with "
            f"their hash, not {_kind(given) if given else 'nothing'}"
        )
        return []
    result = []
    for name, entry in listed.items():
        entry = entry if isinstance(entry, dict) else {}
        if listed is given:
            _unknown_keys(entry, KEYS["satellites"], f"mailsrv:satellites:{_name(name)}:", faults)
        result.append((name, entry.get("hash")))
    return result


def _satellite_trouble(name, credential, domains, hostname):
    if not isinstance(name, str) or _domain(name) != name:
        return f"is not a host name in lower case; {RENAME}"
    if name in domains or name == hostname:
        return f"has the name of {'a mail domain' if name in domains else 'this server'}; {RENAME}"
    if not isinstance(credential, str) or not CREDENTIAL.fullmatch(credential):
        printer = "salt-call mailsrv.satellite_credential"
        return f"has no hash that can be used; the satellite prints it: {printer}"
    return None


def _read_satellite(pillar, name, facts, certificate):
    faults = []
    path = "mailsrv:satellite"
    given = _section(_section(pillar, "mailsrv", "mailsrv", faults), "satellite", path, faults)
    if _domain(name) != name:
        faults.append(f"id: {_show(name)} is not a host name in lower case; {RENAME}")
    relay = _domain(given.get("relay"))
    if relay is None:
        faults.append(
            f"{path}:relay: {_show(given.get('relay', ''))} is not a host name; "
            "name the mail machine, like mail.example.com"
        )
    elif relay == name:
        faults.append(f"{path}:relay: is this machine itself; name the mail machine")
    minion = _relay_minion(given)
    if relay and (not isinstance(minion, str) or not MINION.fullmatch(minion)):
        faults.append(
            f"{path}:minion: {_show(minion)} is not the id of a minion; write it like "
            "mail.example.com"
        )
    root = _target(given.get("root"))
    if root is None:
        faults.append(
            f"{path}:root: {_show(given.get('root', ''))} is not an address; "
            "name who reads root's mail, like admin@example.com"
        )
    elif root.endswith(f"@{name}"):
        faults.append(f"{path}:root: {root} is on this machine; name a mailbox elsewhere")
    agent = given.get("agent", AGENTS[0])
    if agent not in AGENTS:
        faults.append(f"{path}:agent: {_show(agent)} is no agent; choose {' or '.join(AGENTS)}")
    ca = given.get("ca")
    if ca is not None and (not isinstance(ca, str) or not PATH.fullmatch(ca)):
        faults.append(
            f"{path}:ca: {_show(ca)} is not a path; write it like /etc/ssl/relay.pem "
            "or salt://relay.pem, without blanks"
        )
    elif agent == "dma" and not ca and not certificate:
        faults.append(
            f"{path}:agent: dma verifies no CA, it only knows one certificate again, and "
            f"{_show(minion)} has published none; run the highstate there first, or name the "
            f"certificate in {path}:ca, or use opensmtpd"
        )
    here = f"{facts['directory']}/relay.pem"
    on_server = str(ca).startswith("salt://")
    return {
        "name": name,
        "relay": relay,
        "minion": minion,
        "root": root,
        "agent": agent,
        "ca": here if on_server or (certificate and not ca) else ca or "",
        "ca_source": ca if on_server else "",
    }, faults


def _relay_minion(given):
    """The id of the mail machine's minion, which by default is its name."""
    return given.get("minion", _domain(given.get("relay")))


def _domain(name):
    """The domain in lower case, or None where the name is none."""
    if not isinstance(name, str) or len(name) > 253 or not name.isascii():
        return None
    labels = name.lower().split(".")
    if len(labels) < 2 or not all(map(LABEL.fullmatch, labels)) or labels[-1].isdigit():
        return None
    return ".".join(labels)


def _like(text, example):
    """
    How a domain or address is to be written: an international one as DNS has it, in A-labels.

    So it is on the wire, since smtpd(8) has no SMTPUTF8 (RFC 6531), and in the name its user logs
    in with.
    """
    local, at, domain = text.rpartition("@") if isinstance(text, str) else ("", "", "")
    with contextlib.suppress(AttributeError, UnicodeError):
        domain = idna.encode(domain, uts46=True).decode("ascii")
        if _domain(domain) and (not local or TARGET_LOCAL_PART.fullmatch(local)):
            return f"{local}{at}{domain}"
    return example


def _address(text):
    """The address in lower case, or None where the text is none."""
    if not isinstance(text, str) or not text.isascii():
        return None
    local, _, domain = text.rpartition("@")
    local, domain = local.lower(), _domain(domain)
    if domain is None or len(local) > 64 or not LOCAL_PART.fullmatch(local):
        return None
    return f"{local}@{domain}"


def _target(text, domains=()):
    """
    Any address that mail can be sent on to, or None where the text is none.

    In lower case where the domain is one of `domains`, but for a tag: another server may tell A
    from a (RFC 5321, section 2.4).
    """
    text = text if isinstance(text, str) else ""
    local, _, domain = text.rpartition("@")
    domain = _domain(domain)
    if not domain or not TARGET_LOCAL_PART.fullmatch(local) or local.endswith("."):
        return None
    if domain in domains:
        user, plus, tag = local.partition("+")
        local = f"{user.lower()}{plus}{tag}"
    return f"{local}@{domain}"


def _catch_all(text):
    """`@domain` in lower case, or None where the text is none."""
    if not isinstance(text, str) or not text.startswith("@"):
        return None
    domain = _domain(text[1:])
    return f"@{domain}" if domain else None


def _within(name, domain):
    return name == domain or name.endswith(f".{domain}")


def _related(one, other):
    return _within(one, other) or _within(other, one)


def _base(address):
    """The address without its subaddress: user@… of user+tag@…"""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def _name(key):
    """A key of the pillar as it can be shown, whatever it is."""
    return re.sub(r"[^\w.@-]", "?", str(key))[:40]


def _show(value):
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def _kind(value):
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "keys and values" if isinstance(value, dict) else "a date")


# The machine


def _password_key(path):
    try:
        with open(path, "rb") as file:
            key = file.read()
    except FileNotFoundError:
        if not __opts__["test"]:
            raise CommandExecutionError(
                f"{path} is missing; the state mailsrv.genkeys makes it"
            ) from None
        return os.urandom(KEY_LENGTH)  # nothing is written in test mode
    if len(key) != KEY_LENGTH:
        raise CommandExecutionError(
            f"{path} must hold {KEY_LENGTH} bytes, not {len(key)}; "
            "remove it and run again: every password is hashed anew"
        )
    return key


def _standing(paths):
    result = {}
    for path in paths:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                result.update(match.groups() for match in map(STANDING.match, file) if match)
    return result


def _here():
    return model(__pillar__, __grains__["fqdn"], facts(), mined(__pillar__))


def _chosen(domain, here, function):
    if domain is not None and domain not in here["domains"]:
        raise SaltInvocationError(
            f"{function}: {domain!r} is not one of the pillar's domains: "
            f"{', '.join(here['domains'])}"
        )
    return here["domains"] if domain is None else [domain]


def _records_here(here, domains):
    addresses = here["dns"]["addresses"] or _addresses()
    tlsa = _key_digest(here["tls"]["cert"]) if here["dns"]["dane"] else None
    found = records(here, _published(here), addresses, tlsa)
    return {domain: found[domain] for domain in domains}


def _published(here):
    """The values of the TXT records of the keys on this machine, by domain and selector."""
    result = {domain: {} for domain in here["domains"]}
    for key in here["dkim"]["keys"]:
        stage, values = _stage(key), {}
        for selector in dict.fromkeys((key["selector"], stage["signing"], *stage["retired"])):
            if selector and selector not in key["revoked"]:
                values[selector] = _txt(_named(key, selector)["private"])
        for domain in key["domains"]:
            result[domain] |= values | dict.fromkeys(key["revoked"], REVOKED)
    return result


def _txt(private):
    try:
        with open(private, encoding="ascii") as file:
            return __salt__["dkim.txt"](__salt__["dkim.public_key"](file.read()))
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{private} is not there yet; salt-call state.apply mailsrv.genkeys makes it"
        ) from None


def _stage(key):
    """Which selector signs and which did, as the state `dkim.signing` remembers it."""
    try:
        with open(key["signing"], encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {"signing": "" if key["waits"] else key["selector"], "retired": {}}


def _named(key, selector):
    """A key of the model under another selector."""
    files = {
        kind: os.path.join(os.path.dirname(key[kind]), f"{selector}.{kind}")
        for kind in ("private", "public", "bare")
        if key[kind]
    }
    return {**key, "selector": selector, **files}


def _key_digest(cert):
    """The SHA-256 of the public key of a certificate, as `3 1 1` wants it (RFC 6698)."""
    if not os.path.exists(cert):
        raise CommandExecutionError(
            f"{cert} is not there yet; salt-call state.apply mailsrv.tls makes it"
        )
    pem = __salt__["cmd.run"](
        ["openssl", "x509", "-in", cert, "-pubkey", "-noout"], python_shell=False, raise_err=True
    )
    return hashlib.sha256(base64.b64decode("".join(pem.split("\n")[1:-1]))).hexdigest()


def _addresses():
    """The machine's addresses as the world may see them: global ones, else private ones."""
    found = [
        ipaddress.ip_address(address) for address in (*__grains__["ipv4"], *__grains__["ipv6"])
    ]
    found = [address for address in found if not address.is_loopback and not address.is_link_local]
    chosen = [address for address in found if address.is_global] or found
    return [str(address) for address in chosen]


# DNS records


def _record(name, kind, value, need, why):
    return {"name": f"{name}.", "type": kind, "value": value, "need": need, "why": why}


def _required(name, kind, value, why):
    return _record(name, kind, value, "required", why)


def _recommended(name, kind, value, why):
    return _record(name, kind, value, "recommended", why)


def _dkim_records(domain, published):
    why = "without it no signature under this selector verifies"
    return [
        _required(f"{selector}._domainkey.{domain}", "TXT", value, why)
        for selector, value in published.items()
    ]


def _policy_records(domain, model):
    """What other servers are to do with mail that claims to be of the domain, or is for it."""
    settings = model["dns"]
    dmarc, reports = f"v=DMARC1; p={settings['dmarc']['policy']}", settings["dmarc"]["reports"]
    why, consents = "it says what becomes of mail that is neither signed nor sent by us (DMARC)", []
    if reports:
        dmarc += f"; rua=mailto:{reports}"
        home = reports.rpartition("@")[2]
        # RFC 7489, section 7.1; a home of ours has the consent among its own records.
        if home not in model["domains"] and not _related(home, domain):
            why += f"; its reports come only with the consent of {home}, a TXT record v=DMARC1 at "
            why += f"{domain}._report._dmarc.{home}"
        consents = [
            _recommended(
                f"{other}._report._dmarc.{domain}",
                "TXT",
                "v=DMARC1",
                f"it consents to DMARC reports about {other} that go here",
            )
            for other in model["domains"]
            if home == domain and not _related(other, home)
        ]
    result = [_recommended(f"_dmarc.{domain}", "TXT", dmarc, why), *consents]
    if settings["tls_reports"]:
        result.append(
            _recommended(
                f"_smtp._tls.{domain}",
                "TXT",
                f"v=TLSRPTv1; rua=mailto:{settings['tls_reports']}",
                "servers that cannot bring mail by TLS report it there",
            )
        )
    if settings["mta_sts"] != "none":
        # RFC 8461, section 3.1: a sender fetches the policy again when the id is another one.
        policy = hashlib.sha256(_mta_sts(model).encode()).hexdigest()[:20]
        result.append(
            _recommended(
                f"_mta-sts.{domain}",
                "TXT",
                f"v=STSv1; id={policy}",
                "it says that there is a policy at mta-sts, and whether it has changed",
            )
        )
    return result


def _client_records(domain, model):
    """What mail clients look for."""
    hostname, web = model["hostname"], model["dns"]["web"]
    result = [
        _recommended(
            f"_{service}._tcp.{domain}",
            "SRV",
            f"{priority} 1 {port} {hostname}.",
            "mail clients find the server by it",
        )
        for service, priority, port in SERVICES
    ]
    result += [
        _recommended(
            f"_{service}._tcp.{domain}",
            "SRV",
            "0 0 0 .",
            "mail clients are to use TLS from the first byte instead",
        )
        for service in NOT_OFFERED
    ]
    if web:
        for name, what in (("mta-sts", "the MTA-STS policy"), ("autoconfig", "the settings")):
            why = f"{what} at https://{name}.{domain}/ comes from {web}"
            result.append(_recommended(f"{name}.{domain}", "CNAME", f"{web}.", why))
    return result


def _host_records(hostname, addresses, tlsa):
    result, reverse = [], []
    for address in map(ipaddress.ip_address, addresses):
        why = "the mail server is found by it"
        if any(address in network for network in BEHIND_NAT):
            why = (
                "this machine knows only this address, which the world does not see; name the one "
                "that it sees in mailsrv:dns:addresses"
            )
        else:
            reverse.append(
                _required(
                    address.reverse_pointer,
                    "PTR",
                    f"{hostname}.",
                    "other servers refuse mail from an address without it; your hosting provider "
                    "sets it",
                )
            )
        kind = "A" if address.version == 4 else "AAAA"
        result.append(_required(hostname, kind, str(address), why))
    result.append(
        _recommended(
            hostname, "TXT", "v=spf1 a -all", "bounces are sent as the host itself, not as a domain"
        )
    )
    if tlsa:
        result.append(
            _recommended(
                f"_25._tcp.{hostname}",
                "TLSA",
                f"3 1 1 {tlsa}",
                "other servers insist on the key of this certificate (DANE): only in a signed "
                "zone, and the key must be kept when the certificate is renewed",
            )
        )
    return result + reverse


def _zone(domain, entries, here):
    mx = f"{here['hostname']}."
    servers = [f"{name}." for name in here["dns"]["nameservers"]]
    serial = time.strftime("%Y%m%d%H", time.gmtime())
    lines = [f"$ORIGIN {domain}.", f"$TTL {TTL}"]
    if not servers:
        lines.append("; SOA and NS: put your own name servers here")
        servers = [mx]
    soa = f"{servers[0]} hostmaster.{domain}. ( {serial} 3600 900 1209600 300 )"
    lines.append(f"@\tIN\tSOA\t{soa}")
    lines += [f"@\tIN\tNS\t{server}" for server in servers]
    for entry in entries:
        value = entry["value"]
        if entry["type"] == "TXT":
            value = f"( {' '.join(__salt__['dkim.strings'](value))} )"
        elsewhere = "" if _within(entry["name"], f"{domain}.") else "; in another zone: "
        lines.append(f"{elsewhere}{entry['name']}\tIN\t{entry['type']}\t{value}")
    return "\n".join(lines) + "\n"


def _mta_sts(here):
    """The policy file (RFC 8461, section 3.2); its lines end in CRLF."""
    lines = (
        "version: STSv1",
        f"mode: {here['dns']['mta_sts']}",
        f"mx: {here['hostname']}",
        f"max_age: {MTA_STS_MAX_AGE}",
    )
    return "".join(f"{line}\r\n" for line in lines)


def _autoconfig(domain, here):
    servers = "".join(
        f"""\
    <{way}Server type="{kind}">
      <hostname>{here["hostname"]}</hostname>
      <port>{port}</port>
      <socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username>
      <authentication>password-cleartext</authentication>
    </{way}Server>
"""
        for way, kind, port in (
            ("incoming", "imap", 993),
            ("incoming", "pop3", 995),
            ("outgoing", "smtp", 465),
        )
    )
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1">
  <emailProvider id="{domain}">
    <domain>{domain}</domain>
    <displayName>{domain}</displayName>
    <displayShortName>{domain}</displayShortName>
{servers}  </emailProvider>
</clientConfig>
"""


def _explain_senders(target, here):
    result = {}
    for account in here["accounts"]:
        own, name = account["address"], _base(target)
        if name == own:
            result[own] = "it is the account's own address"
        elif own in here["aliases"].get(name, ()):
            result[own] = f"{name} is an alias of it"
        elif name in account["senders"] or f"@{name.partition('@')[2]}" in account["senders"]:
            result[own] = "its send_as says so"
    for satellite in here["satellites"]:
        if target.endswith(f"@{satellite['name']}"):
            signed = f"signed by {satellite['signed_by']}"
            result[satellite["name"]] = f"it is the satellite of this name; {signed}" + (
                "" if satellite["aligned"] else ", which does not count for its own name (DMARC)"
            )
    return result


def _explain_filters(here):
    filters = ["X-Spam: yes goes to Junk", "the user's own active filter (ManageSieve)"]
    if here["sieve"]:
        filters.insert(0, "the script in mailsrv:sieve")
    if here["subaddress"] == "mailbox":
        filters.append("what is left of mail to user+tag goes to the mailbox tag")
    return filters


def _subdirectories(path):
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def _size(path):
    """The bytes of all files below a directory."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path)
        for name in names
    )
