"""
Who serves policies (RFC 8461) and the settings of mail clients: ``mailsrv:web`` and
``mailsrv:dns:web`` of the pillar.
"""

from _mailsrv import acme, names
from _mailsrv.faults import show, switch


def web(settings, domains, tls, facts, faults):
    """Whether this machine itself serves the policies and the settings of mail clients."""
    path, itself = "mailsrv:web", tls["acme"]
    if not switch(settings, "web", path, faults):
        return False
    if "web" not in facts:
        faults.append(
            f"{path}: this system has no web server that this formula knows; remove it, and name a "
            "host that serves the files in mailsrv:dns:web"
        )
    if itself and itself["challenge"] == "tls-alpn-01":
        faults.append(
            "mailsrv:tls:acme:challenge: tls-alpn-01 wants port 443, where mailsrv:web serves; "
            "write http-01 or dns-01"
        )
    if itself and len(domains) > acme.MOST_DOMAINS:
        faults.append(
            f"{path}: a certificate by mailsrv:tls:acme has 100 names at most, which is enough for "
            f"{acme.MOST_DOMAINS} domains, not for {len(domains)}; bring one of your own, or name "
            "another host in mailsrv:dns:web"
        )
    return True


def host(value, serves, domains, hostname, faults):
    """The host that serves policies and settings, or None; our names for it must be free."""
    if value is None:
        return None
    path = "mailsrv:web" if value == hostname and serves else "mailsrv:dns:web"
    found = names.domain(value)
    if found is None:
        faults.append(f"{path}: {show(value)} is not a host name; write it like www.example.com")
    elif serves and found != hostname:
        faults.append(
            f"{path}: {found} is not this machine, {hostname}, which serves the files itself by "
            "mailsrv:web; remove one of them"
        )
    for domain in domains:
        for name in (f"mta-sts.{domain}", f"autoconfig.{domain}"):
            # RFC 1034, section 3.6.2: where an alias stands, nothing else may.
            if name in (found, hostname, *domains):
                faults.append(
                    f"{path}: {name} is to lead to this host as an alias, and cannot be a host or "
                    "a mail domain itself; choose another name for that"
                )
    return found
