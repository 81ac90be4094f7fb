"""
Which CA may issue certificates for the mail server: CAA records (RFC 8659). A CA looks at the name
itself, then at the name above, and so on; the first name that has any such record decides. Where an
alias stands, as at the names of the web, it looks at the alias's target.
"""

import re

from _mailsrv.names import bare

# By the host of an ACME server, what its CA says it is called in CAA records.
ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme.zerossl.com": "sectigo.com",
    "dv.acme-v02.api.pki.goog": "pki.goog",
    "acme.ssl.com": "ssl.com",
}
# Properties that a CA understands; of another one that is critical it must not issue.
KNOWN = ("issue", "issuewild", "issuemail", "issuevmc", "iodef", "contactemail", "contactphone")
CRITICAL = 128
PROPERTY = re.compile(r'(\d{1,3}) ([A-Za-z0-9]+) "?(.*?)"?')
WHY = "with it no other CA issues for this name, and without any each CA may"


def issuer(server):
    """The name in CAA records of the CA whose directory is at that URL; empty if not known."""
    return ISSUERS.get(re.sub(r":\d+$", "", server.split("/")[2]).lower(), "")


def value(issuer):
    """
    The value of the record that lets that CA issue. Not one account of it alone: a machine that
    was set up anew has another one, and would have no certificate until somebody changed DNS.
    """
    return f'0 issue "{issuer}"'


def names(hostname):
    """Where such records may stand for a host, itself first; not a top-level domain's."""
    labels = hostname.split(".")
    return [".".join(labels[i:]) for i in range(max(1, len(labels) - 1))]


def forbids(values, issuer):
    """Whether the CAA records of a name keep that CA from issuing for it."""
    found = [match.groups() for text in values if (match := PROPERTY.fullmatch(text))]
    issuers = [said for _, tag, said in found if tag.lower() == "issue"]
    allowed = [said.partition(";")[0].strip().lower().rstrip(".") for said in issuers]
    return bool(issuers and issuer not in allowed) or any(
        int(flags) & CRITICAL and tag.lower() not in KNOWN for flags, tag, _ in found
    )


def judged(record, live):
    """
    The fault of the CAA records that decide for the host of that record: what is wrong, at which
    name, and the answers of the servers that show it so; nothing where the CA may issue.

    record
        The record that is wanted, as :func:`_mailsrv.records.records` makes it.

    live
        What was seen, as for :func:`_mailsrv.compare.findings`.
    """
    hostname, wanted = bare(record["name"]), PROPERTY.fullmatch(record["value"])[3]
    if f"{hostname} CAA" not in live:  # it shall not be looked at
        return None
    have = set()  # servers of which a name below has decided; another one may lag behind
    for name in names(hostname):
        answers = live.get(f"{name} CAA", {}).items()
        shown = {server: values for server, values in answers if not isinstance(values, str)}
        climbed = {server: values for server, values in shown.items() if server not in have}
        wrong = {server: values for server, values in climbed.items() if forbids(values, wanted)}
        if wrong:
            return "wrong", name, wrong
        # Who cannot be asked may have the record that decides: that is a finding of its own.
        if len(shown) < len(answers) or (climbed and all(climbed.values())):
            return None
        have |= {server for server, values in climbed.items() if values}
    lacking = [server for server in live[f"{hostname} CAA"] if server not in have]
    return "missing", hostname, dict.fromkeys(lacking, ())
