"""mailsrv.explain says what stands in the files: the rules of smtpd.conf, the lines of a table."""

import json

import pytest

WEB1 = "web1.example.com"
AWAY = "someone@elsewhere.example"
PILLAR = {
    "domains": ["example.com", "test.com"],
    "accounts": [["ann@example.com", "pass1"], ["bob@example.com", "pass2"]],
}
SETTINGS = {
    "aliases": {
        "sales@example.com": ["ann@example.com", AWAY],
        "bob@example.com": ["bob@example.com", AWAY],
        "lists@test.com": "ann+lists@example.com",
        "@test.com": "bob@example.com",
    },
    "satellites": {WEB1: {"hash": "$6$salt$" + "a" * 86}},
}
# What mail can be for: an account, with a tag, with a copy; an alias, a role, a catch-all; nobody,
# somebody elsewhere, a satellite.
ADDRESSES = [
    *("ann@example.com", "ann+tag@example.com", "bob@example.com", "sales@example.com"),
    *("lists@test.com", "abuse@test.com", "anything@test.com"),
    *("nobody@example.com", AWAY, f"root@{WEB1}"),
]


@pytest.fixture(
    scope="module",
    params=[(s, f) for s in ("dkimproxy", "dkimsign", "rspamd") for f in (False, True)],
    ids=lambda param: f"{param[0]}, {'filtered' if param[1] else 'unfiltered'}",
)
def machine(request, minion, pillar):
    signer, spam_filter = request.param
    settings = {**SETTINGS, "dkim": {"signer": signer}, "spam_filter": spam_filter}
    text = f"#!json\n{json.dumps({**PILLAR, 'mailsrv': settings})}"
    return minion(pillar=pillar(text), id=f"explained-{signer}-{spam_filter}")


def lines(machine, name):
    return machine.files("mailsrv.opensmtpd")[f"/etc/mail/{name}"].splitlines()


@pytest.fixture(scope="module")
def smtpd_conf(machine):
    files = machine.files("mailsrv.opensmtpd")
    (text,) = [text for name, text in files.items() if name.endswith("/smtpd.conf")]
    return text.splitlines()


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_rule_and_the_line_that_decide_stand_in_the_files(machine, smtpd_conf, address):
    said = machine("mailsrv.explain", address)
    assert smtpd_conf.count(said["rule"]) == 1
    if "delivered to" in said:
        table, line = said["table line"].split(": ", 1)
        assert lines(machine, table).count(line) == 1
    else:
        assert "table line" not in said


def test_the_rule_is_the_first_one_that_is_for_such_mail(machine, smtpd_conf):
    """Those before it are for other domains, or for what came back from the signer."""
    rules = [line for line in smtpd_conf if line.startswith("match ") and "tag DKIM" not in line]
    said = {address: machine("mailsrv.explain", address)["rule"] for address in ADDRESSES}
    assert said["ann@example.com"] == rules[0]
    assert said["nobody@example.com"] == said[f"root@{WEB1}"] == rules[1]
    for_our_users = [rule for rule in rules[2:] if rule.startswith("match from auth ")]
    assert said[AWAY] == for_our_users[0]
    # Known to be for others: a satellite's domain and ours stand in the table of domains.
    assert {"example.com", "test.com", WEB1} <= {*lines(machine, "vdomains")}


def test_who_is_a_recipient_is_accepted_and_nobody_else(machine):
    recipients = {*lines(machine, "recipients")}
    for address in ADDRESSES:
        said = machine("mailsrv.explain", address)
        named = address.replace("+tag", "")
        catch_all = f"@{address.partition('@')[2]}"
        assert (said["accepted"] == "yes") is bool({named, catch_all} & recipients), address
