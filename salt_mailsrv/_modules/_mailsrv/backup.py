"""
What a backup of a machine holds, and what it does not: each by its path, with the reason.
"""

QUEUE = "mail that waits to be sent: by the time it is put back it was sent, and would be again"


def server(model, facts, links, paths, left):
    """Of a mail server; `links` are those of the certificate's sources that lead elsewhere."""
    directory, dovecot, tls = facts["directory"], facts["dovecot"]["directory"], model["tls"]
    paths[facts["vmail"]["home"]] = "mail, with its folders and flags, and the users' own filters"
    paths[facts["dkim"]["directory"]] = "the DKIM keys that DNS shows, and which of them sign"
    paths[f"{facts['kept']}/blocked"] = "the accounts that mailsrv.block has stopped stay so"
    paths[f"{facts['kept']}/moving.json"] = "which domains have moved, and must not be served twice"
    paths[f"{directory}/srs.conf"] = "bounces to SRS addresses made with its keys come back"
    if tls["self_signed"]:
        paths[tls["cert"]] = "the self-signed certificate, which mail clients were told to trust"
        paths[tls["key"]] = "its key"
    if tls["acme"]:
        paths[tls["cert"]] = "the certificate, until a new machine has its own"
        paths[tls["key"]] = "its key, which DNS may show (TLSA)"
        paths[facts["acme"]["directory"]] = "the account at the CA"
    if model["redis"]:
        paths[facts["redis"]["directory"]] = "what the spam filter has learned"
    for source in tls["sources"].values():
        if source.startswith("salt://"):
            continue
        if source not in links:
            paths[source] = "the certificate of mailsrv:tls or its key: without them a run refuses"
        else:
            left[source] = (
                "it is a link, as ACME clients make them: back up the client's whole directory, or "
                "have the certificate made anew before the first run"
            )
    left[f"{directory}/password.key"] = (
        "beside the hashes it tells a thief at once whether a password that he guesses is right; "
        "it is made anew, and every password hashed anew"
    )
    for path in (f"{dovecot}/dovecot-passwd", f"{directory}/credentials"):
        left[path] = "hashes of the pillar's passwords: they are made again"
    left[facts["opensmtpd"]["spool"]] = QUEUE
    left[facts["guard"]["state"]] = "how much each account has sent of late: it counts anew"


def nameserver(facts, paths):
    """Of a machine that serves the zones of others, where it signs them."""
    paths[f"{facts['nsd']['signer']['directory']}/keys"] = (
        "the DNSSEC keys of the DS records: with others, nobody who validates finds the domains"
    )


def satellite(model, facts, paths, left):
    """Of a machine that only sends."""
    for kind in ("password", "hash"):
        path = f"{facts['directory']}/satellite.{kind}"
        paths[path] = "the mail machine knows this satellite by it; a new one has to be told to it"
    if model["ca"] and model["ca"] != f"{facts['directory']}/relay.pem":
        paths[model["ca"]] = "the certificate of mailsrv:satellite:ca: without it a run refuses"
    left[facts[model["agent"]]["spool"]] = QUEUE
