"""
What the world is told of the mail server: DNS records, zone files, MTA-STS policies, and what mail
clients are to type or find by themselves.
"""

import hashlib
import ipaddress
from typing import NamedTuple

from _mailsrv import caa, withdrawing
from _mailsrv.names import related, within
from _mailsrv.relaying import terms
from _mailsrv.spf import VERSION

TTL = 3600

# RFC 1035, section 3.3.14: a TXT record is made of strings of at most 255 octets. These fit into
# a line of a terminal.
MAX_STRING = 68


class Port(NamedTuple):
    """A port that the mail server listens on."""

    number: int
    protocol: str
    tls: str  # TLS: from the first byte; or STARTTLS
    service: str  # its name in SRV records (RFC 6186, RFC 8314, RFC 5804)
    priority: int | None  # there; None: it is said not to be offered


# A mail client uses TLS from the first byte: IMAP and POP3 that begin without it are said not to be
# offered, though they are there.
PORTS = (
    Port(25, "SMTP", "STARTTLS", "smtp", None),
    Port(465, "SMTP", "TLS", "submissions", 0),
    Port(587, "SMTP", "STARTTLS", "submission", 0),
    Port(993, "IMAP", "TLS", "imaps", 0),
    Port(143, "IMAP", "STARTTLS", "imap", None),
    Port(995, "POP3", "TLS", "pop3s", 10),  # IMAP first
    Port(110, "POP3", "STARTTLS", "pop3", None),
    Port(4190, "ManageSieve", "STARTTLS", "sieve", 0),
)
NUMBERS = {port.service: port.number for port in PORTS}
PREFERENCES = (10, 20)  # of the mail server and of its backups (RFC 5321, section 5.1)
WEB_NAMES = {"mta-sts": "the MTA-STS policy", "autoconfig": "the settings"}

# RFC 1918, RFC 6598, RFC 4193: addresses that the world does not see.
BEHIND_NAT = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


def records(model, published, addresses, tlsa=()):
    """
    The DNS records that the model's domains need.

    model
        A :class:`_mailsrv.model.Model`.

    published
        The DKIM keys that shall be in DNS: by domain, the value of the TXT record by selector.

    addresses
        The IPv4 and IPv6 addresses of the mail host, text.

    tlsa
        The SHA-256 of the public key of the certificate that is served, and of the next one,
        hexadecimal. Default: none is published.

    Returns a list of records by domain, each ``{"name", "type", "value", "need", "why"}``: the name
    absolute with its dot, the value as in a zone file but for TXT, which is one string without
    quotes, ``need`` either ``required`` or ``recommended``, ``why`` a sentence. The records of the
    mail host stand with the domains it is in, else with the first one.
    """
    hostname, domains = model["hostname"], model["domains"]
    homes = [domain for domain in domains if within(hostname, domain)] or domains[:1]
    result = {}
    for domain in domains:
        result[domain] = [
            *_exchangers(domain, model),
            _required(
                domain,
                "TXT",
                _spf(model["dns"]["spf"], model, domain),
                "it says who may send as this domain (SPF)",
            ),
            *_dkim_records(domain, published[domain]),
            *_policy_records(domain, model),
            *_client_records(domain, model),
        ]
        if domain in homes:
            result[domain] += _host_records(model, addresses, tlsa)
            if model["tls"]["acme"] and (issuer := model["tls"]["acme"]["caa"]):
                # For the names of the web, too: they are aliases of this one.
                result[domain].append(_recommended(hostname, "CAA", caa.value(issuer), caa.WHY))
    for satellite in model["satellites"]:
        if satellite["aligned"]:
            # An answer, or a bounce, is refused by us at once; without an MX it would wait for days
            # in front of the satellite, which does not listen.
            result[satellite["signed_by"]] += [
                _recommended(
                    satellite["name"],
                    "MX",
                    f"{PREFERENCES[0]} {hostname}.",
                    "an answer to this satellite is refused at once",
                ),
                _recommended(
                    satellite["name"],
                    "TXT",
                    _spf(["mx", "-all"], model, satellite["name"]),
                    "it says who may send as this satellite (SPF)",
                ),
            ]
    return result


def _spf(given, model, domain):
    return " ".join([VERSION, *terms(given, model["relay"], domain)])


def _record(name, kind, value, need, why):
    return {"name": f"{name}.", "type": kind, "value": value, "need": need, "why": why}


def _required(name, kind, value, why):
    return _record(name, kind, value, "required", why)


def _recommended(name, kind, value, why):
    return _record(name, kind, value, "recommended", why)


def _exchangers(domain, model):
    """Who takes mail; and of backups whose name is in the domain, their addresses."""
    first, then = PREFERENCES
    found = f"{first} {model['hostname']}."
    result = [_required(domain, "MX", found, "other servers bring mail there")]
    for backup in model["backup"]:
        name = backup["name"]
        why = "other servers bring mail there while the first one is away"
        result.append(_required(domain, "MX", f"{then} {name}.", why))
        if within(name, domain):
            for address in backup["addresses"]:
                kind = "AAAA" if ":" in address else "A"
                result.append(_required(name, kind, address, "the backup MX is found by it"))
            why = "bounces are sent as the host itself, not as a domain"
            spf = " ".join([VERSION, "a", "-all"])
            result.append(_recommended(name, "TXT", spf, why))
    return result


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
        if home not in model["domains"] and not related(home, domain):
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
            if home == domain and not related(other, home)
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
    if settings["mta_sts"]:
        # RFC 8461, section 3.1: a sender fetches the policy again when the id is another one.
        policy = hashlib.sha256(_sts(model).encode()).hexdigest()[:20]
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
    offered = [port for port in PORTS if port.priority is not None]
    result = [
        _recommended(
            f"_{port.service}._tcp.{domain}",
            "SRV",
            f"{port.priority} 1 {port.number} {hostname}.",
            "mail clients find the server by it",
        )
        for port in offered
    ]
    result += [
        _recommended(
            f"_{port.service}._tcp.{domain}",
            "SRV",
            "0 0 0 .",
            "mail clients are to use TLS from the first byte instead",
        )
        for port in PORTS
        if port not in offered and port.protocol != "SMTP"
    ]
    if web:
        for name, what in WEB_NAMES.items():
            why = f"{what} at https://{name}.{domain}/ comes from {web}"
            result.append(_recommended(f"{name}.{domain}", "CNAME", f"{web}.", why))
    return result


def _host_records(model, addresses, tlsa):
    hostname, result, reverse = model["hostname"], [], []
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
            hostname,
            "TXT",
            _spf(["a", "-all"], model, hostname),
            "bounces are sent as the host itself, not as a domain",
        )
    )
    result += [
        _recommended(
            f"_25._tcp.{hostname}",
            "TLSA",
            f"3 1 1 {digest}",
            "other servers insist on the key of this certificate (DANE): only in a signed zone, "
            "and the key must be kept when the certificate is renewed"
            if digest == tlsa[0]
            else "the next key is not used before every name server shows it (DANE)",
        )
        for digest in tlsa
    ]
    return result + reverse


def zone(domain, entries, servers, serial, comment="", others=True):
    """
    A zone file that BIND and NSD load.

    domain
        The name of the zone.

    entries
        Records as :func:`records` makes them; those of other zones are comments, or left out.

    servers
        Host names for NS; the first one is the primary of SOA.

    serial
        A number that rises with every change (RFC 1912, section 2.2).

    comment, others
        The first line, and whether records of other zones stand there. Default: none, and yes.
    """
    lines = [f"; {comment}"] if comment else []
    lines += [
        f"$ORIGIN {domain}.",
        f"$TTL {TTL}",
        f"@\tIN\tSOA\t{servers[0]}. hostmaster.{domain}. (",
        f"\t{serial} 3600 900 1209600 300 )",
        *(f"@\tIN\tNS\t{server}." for server in servers),
    ]
    for entry in entries:
        value = quoted(entry["value"]) if entry["type"] == "TXT" else entry["value"]
        line = f"{entry['name']}\tIN\t{entry['type']}\t{value}"
        if within(entry["name"], f"{domain}."):
            lines.append(line)
        elif others:
            lines.append("; in another zone: " + line.replace("\n", "\n; "))
    return "\n".join(lines) + "\n"


def quoted(value):
    """
    The value of a TXT record, of printable ASCII without quotes, as it stands in a zone file: a
    string, or several in parentheses, one a line, which whoever reads the record takes as one.
    """
    pieces = [f'"{value[i : i + MAX_STRING]}"' for i in range(0, len(value) or 1, MAX_STRING)]
    return pieces[0] if len(pieces) == 1 else "(\n\t" + "\n\t".join(pieces) + " )"


def web_names(model):
    """The names at which policies and settings are looked for."""
    return [f"{name}.{domain}" for domain in model["domains"] for name in WEB_NAMES]


def web_files(domain, model):
    """What is served for a domain: the text of each file by its URL."""
    return {
        f"https://mta-sts.{domain}/.well-known/mta-sts.txt": _sts(model),
        f"https://autoconfig.{domain}/mail/config-v1.1.xml": autoconfig(domain, model),
    }


def _sts(model):
    hosts = (model["hostname"], *(backup["name"] for backup in model["backup"]))
    return withdrawing.policy(model["dns"]["mta_sts"], *hosts)


def autoconfig(domain, model):
    """What Thunderbird and others look for, its own XML."""
    servers = "".join(
        f"""\
    <{way}Server type="{kind}">
      <hostname>{model["hostname"]}</hostname>
      <port>{port}</port>
      <socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username>
      <authentication>password-cleartext</authentication>
    </{way}Server>
"""
        for way, kind, port in (
            ("incoming", "imap", NUMBERS["imaps"]),
            ("incoming", "pop3", NUMBERS["pop3s"]),
            ("outgoing", "smtp", NUMBERS["submissions"]),
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


def client(model):
    """What a person types into a mail client, as sentences."""
    host = model["hostname"]

    def on(service, other):
        return f"port {NUMBERS[service]}, TLS (or {NUMBERS[other]}, STARTTLS)"

    return {
        "incoming mail": f"IMAP, {host}, {on('imaps', 'imap')}",
        "incoming mail, POP3": f"{host}, {on('pop3s', 'pop3')}",
        "outgoing mail": f"SMTP, {host}, {on('submissions', 'submission')}",
        "filters": f"ManageSieve, {host}, port {NUMBERS['sieve']}, STARTTLS",
        "user name": "the whole address, with its password, for sending, too",
    }
