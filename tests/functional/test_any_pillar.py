"""Whatever a valid pillar says: the daemons load the files, and the files mean what it says."""

import os
import re

from _mailsrv.pillar import read
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from passlib.hash import sha512_crypt

DOMAINS = ["example.com", "xn--bcher-kva.example", "a.b-c.test.com"]
names = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,5}(\.[a-z0-9_-]{1,6})?", fullmatch=True)
elsewhere = st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9._+=&~-]{0,5}[a-z]@elsewhere\.example", fullmatch=True
)
printable = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1
)
sizes = st.from_regex(r"[1-9][0-9]{0,3}[kMGT]", fullmatch=True)


@st.composite
def pillars(draw):
    """A valid pillar, and what it means: mailboxes with passwords, quotas, senders; aliases."""
    domains = draw(st.lists(st.sampled_from(DOMAINS), min_size=1, unique=True))
    addresses = st.builds("{}@{}".format, names, st.sampled_from(domains))
    boxes = draw(st.lists(addresses, min_size=1, max_size=4, unique=True))
    accounts = {
        box: {"password": draw(printable)}
        | draw(st.fixed_dictionaries({}, optional={"quota": sizes}))
        for box in boxes
    }
    if draw(st.booleans()):
        accounts = [{"address": box, **account} for box, account in accounts.items()]
    aliases = draw(
        st.dictionaries(
            addresses.filter(lambda address: address not in boxes),
            st.lists(st.sampled_from(boxes) | elsewhere, min_size=1, max_size=3, unique=True),
            max_size=3,
        )
    )
    mailsrv = {
        "aliases": aliases,
        "passwords": {"rounds": 1000},
        "subaddress": draw(st.sampled_from(["inbox", "mailbox"])),
        "quota_warning": draw(st.integers(0, 99)),
        "sieve": draw(st.none() | printable.map(lambda text: f"# {text}\nkeep;\n")),
    }
    return {"salt": draw(st.text()), "domains": domains, "accounts": accounts, "mailsrv": mailsrv}


def table(text):
    return [line for line in text.splitlines() if not line.startswith("#")]


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink one takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pillar=pillars())
def test_the_files_mean_what_the_pillar_says(minion, pillar):
    machine = minion(packages=(("dovecot-core", "1:2.4.1"),), id="any-pillar")
    # Not the run after the last example, which would lose all of its accounts.
    machine.at("/etc/dovecot/dovecot-passwd").unlink(missing_ok=True)
    facts = machine("mailsrv.here")["facts"]
    assert read(pillar, "mx.example.org", facts, None)[1] == []
    machine.write(pillar=pillar)
    files = {
        os.path.basename(name): machine.bare(machine.at(name).read_text())
        for name in (
            chunk["name"]
            for chunk in machine.low()
            if chunk["fun"] == "managed" and chunk.get("create", True)
        )
    }
    accounts = pillar["accounts"]
    if isinstance(accounts, list):
        accounts = {account["address"]: account for account in accounts}
    aliases = pillar["mailsrv"]["aliases"]
    assert table(files["vdomains"]) == pillar["domains"]
    assert {*accounts, *aliases} <= {*table(files["recipients"])}
    virtuals = dict(line.split(" ", 1) for line in table(files["virtuals"]))
    assert {name: virtuals[name] for name in accounts if name not in aliases} == dict.fromkeys(
        accounts, "vmail"
    )
    assert {name: virtuals[name].split(",") for name in aliases} == aliases
    credentials = dict(line.split(" ") for line in table(files["credentials"]))
    senders = dict(line.split(" ") for line in table(files["sendas"]))
    passwd = dict(line.split(":", 1) for line in table(files["dovecot-passwd"]))
    assert list(credentials) == list(passwd) == list(senders) == list(accounts)
    for name, account in accounts.items():
        assert sha512_crypt.verify(account["password"], credentials[name])
        hash, *fields = passwd[name].split(":")
        assert hash == f"{{SHA512-CRYPT}}{credentials[name]}"
        quota = f"userdb_quota_storage_size={account['quota']}" if "quota" in account else ""
        assert fields == [""] * 5 + [quota]
        allowed = {alias for alias, ends in aliases.items() if name in ends} | {name}
        roles = {
            sender for sender in senders[name].split(",") if re.match("postmaster|abuse", sender)
        }
        assert {*senders[name].split(",")} - roles == allowed - roles
    script = files["global.sieve"].partition("\n")[2]
    assert script == (pillar["mailsrv"]["sieve"] or "")
