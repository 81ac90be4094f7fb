"""
What happens to mail for an address, and who may send as it: what a model says, in words.
"""

from _mailsrv import relaying
from _mailsrv.names import base
from _mailsrv.patterns import match

# The rules of smtpd.conf that decide.
DELIVERED = 'match from any for domain <vdomains> rcpt-to <recipients> action "mailbox"'
BY_PATTERN = 'match from any for domain <vdomains> rcpt-to regex "{}" action "pattern{}"'
REFUSED = "match from any for domain <vdomains> reject"
SENT = 'match from auth for any action "{}"'
SENT_THERE = 'match from auth for domain "{}" action "{}"'


def explain(target, model):
    """
    What happens to mail for an address, in lower case, as :func:`mailsrv.explain` returns it.
    """
    domain = target.rpartition("@")[2]
    accounts = {account["address"]: account for account in model["accounts"]}
    result = {"accepted": "yes", "because": "", "senders": _senders(target, model)}
    if result["senders"] and model["relay"]["ways"]:
        result["what it sends leaves by"] = relaying.by_recipient(model["relay"], target)
    if domain in [entry["name"] for entry in model["satellites"] if entry["aligned"]]:
        result["accepted"] = "no"
        result["because"] = f"{domain} is a satellite, which sends only"
        result["rule"] = REFUSED
        return result
    if domain not in model["domains"]:
        result["accepted"] = "from our users and this machine only"
        result["because"] = f"{domain} is not one of our domains: {', '.join(model['domains'])}"
        if model["dkim"]["signer"] == "dkimproxy":
            result["rule"] = SENT.format("sign")
        elif own := relaying.action(model["relay"], domain):
            result["rule"] = SENT_THERE.format(domain, own)
        else:
            result["rule"] = SENT.format("relay")
        result["forwarded to"] = [target]
        if model["relay"]["ways"] or model["relay"]["tls_required"]:
            result["leaves by"] = relaying.by_sender(model["relay"], target)
        return result
    for name in (target, base(target), f"@{domain}"):
        if name in model["aliases"] or name in accounts:
            break
    else:
        if number := match(target, model["patterns"]):
            found = model["patterns"][number - 1]
            result["because"] = f"it is an alias by the pattern {found['pattern']}"
            result["rule"] = BY_PATTERN.format(found["regex"], number)
            values = ",".join(found["targets"])
            result["table line"] = f"pattern{number}: @{domain} {values}"
            return _ends(result, found["targets"], "", model, accounts)
        result["accepted"] = "no"
        result["because"] = "there is no such account, no such alias, and no catch-all"
        result["rule"] = REFUSED
        return result
    ends = model["aliases"].get(name, [name])
    kind = "an alias" if name in model["aliases"] else "an account"
    result["because"] = f"{name} is {'a catch-all' if name.startswith('@') else kind}"
    if domain in model["moved"]:
        result["because"] += f"; {domain} has moved to {model['moved'][domain]}"
    result["rule"] = DELIVERED
    values = ",".join("vmail" if end == name else end for end in ends)
    result["table line"] = f"virtuals: {name} {values}"
    return _ends(result, ends, name, model, accounts)


def _ends(result, ends, name, model, accounts):
    """What becomes of mail for a name that leads there, into `result`."""
    # A mailbox with a forward of its own brings that along.
    ends = [end for e in ends for end in ([e] if e == name else model["aliases"].get(e, [e]))]
    boxes = list(dict.fromkeys(base(end) for end in ends if base(end) in accounts))
    result["delivered to"] = boxes
    result["forwarded to"] = [end for end in dict.fromkeys(ends) if base(end) not in accounts]
    result["quota"] = {
        box: accounts[box]["quota"] or model["quota"] or "unlimited" for box in boxes
    }
    result["filters"] = _filters(model, [accounts[box] for box in boxes]) if boxes else []
    return result


def _senders(target, model):
    """Who may send as an address, and why."""
    result = {}
    for account in model["accounts"]:
        own, name = account["address"], base(target)
        if name == own:
            result[own] = "it is the account's own address"
        elif own in model["aliases"].get(name, ()):
            result[own] = f"{name} is an alias of it"
        elif name in account["senders"] or f"@{name.partition('@')[2]}" in account["senders"]:
            result[own] = "its send_as says so"
    for satellite in model["satellites"]:
        if target.endswith(f"@{satellite['name']}"):
            signed = f"signed by {satellite['signed_by']}"
            result[satellite["name"]] = f"it is the satellite of this name; {signed}" + (
                "" if satellite["aligned"] else ", which does not count for its own name (DMARC)"
            )
    for own in result.keys() & {*model["blocked"]}:
        result[own] += ", but it is blocked"
    return result


def _filters(model, accounts):
    """What looks at mail for a mailbox, in that order."""
    filters = ["X-Spam: yes goes to Junk", "the user's own active filter (ManageSieve)"]
    filters[1:1] = [
        f"the vacation of {account['address']} answers{_term(account['vacation'])}"
        for account in accounts
        if account["vacation"]
    ]
    if model["sieve"]:
        filters.insert(0, "the script in mailsrv:sieve")
    if model["subaddress"] == "mailbox":
        filters.append("what is left of mail to user+tag goes to the mailbox tag")
    return filters


def _term(vacation):
    """From when until when it is answered."""
    return "".join(f" {name} {vacation[name]}" for name in ("from", "until") if vacation[name])
