"""_mailsrv.accounts: domains and accounts, their secrets, and those that go."""

import re

import pytest

from reading import HOST, faults, model, said

SECRET = "hunter2"
HASH = "$6$salt$" + "a" * 86


def test_the_long_form_of_an_account_says_the_same_as_the_short_one():
    short = {"domains": ["example.com"], "accounts": [["a@example.com", SECRET]]}
    for secret in ({"password": SECRET}, {"hash": HASH}):
        long = short | {"accounts": [{"address": "a@example.com", **secret}]}
        assert model(long) == model(short)


def test_accounts_by_address_say_the_same_as_a_list_and_keep_their_order():
    send_as = ["@example.com"]
    listed = [
        ["z@example.com", SECRET],
        {"address": "b@example.com", "hash": HASH, "quota": "2G"},
        {"address": "a@example.com", "password": SECRET, "send_as": send_as},
    ]
    mapped = {
        "Z@Example.com": SECRET,
        "b@example.com": {"hash": HASH, "quota": "2G"},
        "a@example.com": {"password": SECRET, "send_as": send_as},
    }
    pillar = {"domains": ["example.com"]}
    assert model(pillar | {"accounts": mapped}) == model(pillar | {"accounts": listed})


def test_domains_and_addresses_are_read_in_lower_case():
    pillar = {"domains": ["Example.COM"], "accounts": [["User@EXAMPLE.com", SECRET]]}
    found = model(pillar | {"mailsrv": {"hostname": "MX.Example.com"}})
    assert found["domains"] == ["example.com"]
    assert [account["address"] for account in found["accounts"]] == ["user@example.com"]
    assert found["hostname"] == HOST


def test_a_server_may_have_no_accounts_yet():
    assert model({"domains": ["example.com"]})["accounts"] == []
    assert model({"domains": ["example.com"], "accounts": None})["accounts"] == []


def test_an_international_domain_is_a_domain_as_dns_writes_it():
    found = model(
        {"domains": ["XN--Bcher-kva.example"], "accounts": [["a@xn--bcher-kva.example", "p"]]}
    )
    assert found["domains"] == ["xn--bcher-kva.example"]


@pytest.mark.parametrize(("family", "good"), [("Debian", True), ("FreeBSD", False)])
def test_a_hash_is_one_that_the_crypt_of_the_system_verifies(family, good):
    hash = "$y$j9T$abcdefghijklmnop$ZrkBpUBCDi3MK7LE9Ay9jscShCxVaFVi4wHPDobzz36"
    pillar = {"domains": ["example.com"], "accounts": [{"address": "a@example.com", "hash": hash}]}
    found = faults(pillar, HOST, family)
    assert (found == []) is good
    assert good or "is of the kind $y$, which crypt(3) here does not verify" in found[0]


# Accounts that go


def accounts(*names):
    return [f"{name}@example.com" for name in names]


def having(*names, **settings):
    """A pillar with these accounts."""
    listed = [[address, SECRET] for address in accounts(*names)]
    return {"domains": ["example.com"], "accounts": listed, "mailsrv": settings}


def test_an_account_that_goes_is_named():
    found = model(having("a", "d"), accounts=accounts("a", "b", "c", "d"))
    assert found["removed"] == accounts("b", "c")
    assert found["notes"] == [
        f"{address} is no longer in the pillar: it can no longer log in; its mail stays until "
        "mailsrv.purge removes it"
        for address in accounts("b", "c")
    ]
    found = model(having("a", "b"), accounts=accounts("b", "a"))
    assert (found["removed"], found["notes"]) == ([], [])


def test_of_very_many_accounts_that_go_some_are_named_and_the_others_counted():
    gone = [f"gone{n}" for n in range(30)]
    kept = [f"user{n}" for n in range(30)]
    notes = model(having(*kept), accounts=accounts(*gone, *kept))["notes"]
    assert [note.partition(" ")[0] for note in notes[:-1]] == accounts(*gone[:20])
    assert notes[-1] == "10 more accounts are no longer in the pillar; so it is with them"


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ("", "a", False),
        ("a", "", False),  # one account is every day's work
        ("ab", "a", False),
        ("ab", "cd", True),
        ("abc", "ab", False),
        ("abc", "ad", True),
        ("abcd", "ab", False),
        ("abcd", "aefgh", True),
        ("abcd", "", True),
    ],
)
def test_a_run_that_would_remove_more_than_half_of_the_accounts_is_refused(before, now, refused):
    found = faults(having(*now), accounts=accounts(*before))
    assert bool(found) is refused
    if refused:
        gone = [name for name in before if name not in now]
        others = " and others" if len(gone) > 3 else ""
        assert found == [
            f"accounts: {len(gone)} of the {len(before)} accounts on this machine are no longer in "
            f"the pillar and could not log in any more: {', '.join(accounts(*gone[:3]))}{others}. "
            f"If that is right, write mailsrv:removes: {len(gone)}. If they stand in another file "
            "of the pillar, Salt keeps only the last list: write them as user@example.com: "
            "password, in each file"
        ]


def test_the_word_in_the_pillar_counts_for_this_number_alone():
    before = accounts(*"abcd")
    found = model(having("a", removes=3), accounts=before)
    assert found["removed"] == accounts(*"bcd")
    assert len(found["notes"]) == 3
    for removes in (2, 4):
        assert faults(having("a", removes=removes), accounts=before)
    # After the run it is a word too many.
    found = model(having("a", removes=3), accounts=accounts("a"))
    assert found["removed"] == []
    assert found["notes"] == [
        "mailsrv:removes: 3 is not needed; remove it, else a run that would remove 3 accounts by "
        "mistake is not refused"
    ]


def test_an_account_that_cannot_be_read_does_not_look_like_one_that_is_gone():
    pillar = having("a", "b", "c")
    pillar["accounts"] = [[address] for address, _ in pillar["accounts"]]
    found = faults(pillar, accounts=accounts(*"abc"))
    assert [fault.partition(": ")[2] for fault in found] == [
        "must be [address, password], two values"
    ] * 3


# Faults: what stands in the pillar beside `domains: [example.com]`, and what is said about it

A = "accounts[0] (a@example.com)"
FAULTS = [
    ("domains: []", "domains: list at least one domain, e.g. domains: [example.com]"),
    ("domains: example.com", "domains: list at least one domain, e.g. domains: [example.com]"),
    ("domains: [mail]", "domains[0]: 'mail' is not a domain; write it like example.com"),
    (
        "domains: [a b.example]",
        "domains[0]: 'a b.example' is not a domain; write it like example.com",
    ),
    ("domains: [192.0.2.1]", "domains[0]: '192.0.2.1' is not a domain; write it like example.com"),
    (
        "domains: [-a.example]",
        "domains[0]: '-a.example' is not a domain; write it like example.com",
    ),
    (
        r'domains: ["a.example\n"]',
        r"domains[0]: 'a.example\n' is not a domain; write it like example.com",
    ),
    ("domains: [1.5]", "domains[0]: '1.5' is not a domain; write it like example.com"),
    # An international domain is written as it is in DNS: RFC 5891, not Python's codec of 2003.
    (
        "domains: [straße.example]",
        r"domains[0]: 'stra\xdfe.example' is not a domain; write it like xn--strae-oqa.example",
    ),
    (
        "domains: [☃.example]",
        r"domains[0]: '\u2603.example' is not a domain; write it like example.com",
    ),
    (
        "domains: [example.com, EXAMPLE.com]",
        "domains[1]: example.com is listed twice; remove one of them",
    ),
    ("accounts: a@example.com", "accounts: must be a list, or keys and values, not text"),
    (
        "accounts: {a@elsewhere.example: hunter2}",
        "accounts:a@elsewhere.example: its domain is not in domains; add it there",
    ),
    (
        "accounts: {a@example.com: hunter2, A@example.com: hunter2}",
        "accounts:a@example.com: this account is listed twice; remove one of them",
    ),
    (
        "accounts: {a@example.com: 12345}",
        "accounts:a@example.com: password: YAML reads this one as a number; quote it",
    ),
    (
        "accounts: {a@example.com: }",
        "accounts:a@example.com: password: YAML reads this one as nothing; quote it",
    ),
    (
        "accounts: {a@example.com: [hunter2, 2G]}",
        "accounts:a@example.com: password: YAML reads this one as a list; quote it",
    ),
    (
        "accounts: {a@example.com: {quota: 2G}}",
        "accounts:a@example.com: give either a password or a hash",
    ),
    (
        "accounts: {a@example.com: {password: hunter2, quota: 2}}",
        "accounts:a@example.com: quota: '2' is not a size; write it like 500M or 2G",
    ),
    (
        "accounts: {a@example.com: {password: hunter2, address: b@example.com}}",
        "accounts:a@example.com:address: no such key; known are password, hash, quota, send_as, "
        "forward, keep_copy, vacation, recipients_per_hour, recipients_per_day",
    ),
    (
        "accounts: {b@example.com: hunter2, hunter2: a@example.com}",
        "accounts[1]: its key is no address that can be an account's; write it like "
        "user@example.com: password, with letters, digits and . _ -",
    ),
    *(
        (
            f"mailsrv: {{removes: {value}}}",
            f"mailsrv:removes: {shown!r} is no number of accounts; write the one that the refusal "
            "of a run names, or remove it",
        )
        for value, shown in (("0", "0"), ("-1", "-1"), ("yes", "True"), ("most", "most"))
    ),
    ("accounts: [a@example.com]", "accounts[0]: must be [address, password] or keys and values"),
    ("accounts: [[a@example.com]]", "accounts[0]: must be [address, password], two values"),
    ("accounts: [[a@example.com hunter2]]", "accounts[0]: must be [address, password], two values"),
    (
        "accounts: [[a@example.com, hunter2, 5G]]",
        "accounts[0]: must be [address, password], two values",
    ),
    (
        "accounts: [[a@elsewhere.example, hunter2]]",
        "accounts[0] (a@elsewhere.example): its domain is not in domains; add it there",
    ),
    (
        "accounts: [[a@example.com, hunter2], [A@example.com, hunter2]]",
        "accounts[1] (a@example.com): this account is listed twice; remove one of them",
    ),
    (
        "accounts: [[a@example.com, yes]]",
        f"{A}: password: YAML reads this one as true or false; quote it",
    ),
    (
        "accounts: [[a@example.com, 12345]]",
        f"{A}: password: YAML reads this one as a number; quote it",
    ),
    (
        "accounts: [[a@example.com, 1.10]]",
        f"{A}: password: YAML reads this one as a number; quote it",
    ),
    (
        "accounts: [[a@example.com, 2024-01-01]]",
        f"{A}: password: YAML reads this one as a date; quote it",
    ),
    ("accounts: [[a@example.com, ~]]", f"{A}: password: YAML reads this one as nothing; quote it"),
    (
        "accounts: [[a@example.com, [hunter2]]]",
        f"{A}: password: YAML reads this one as a list; quote it",
    ),
    ("accounts: [[a@example.com, '']]", f"{A}: password: is empty; give one, or a hash"),
    (
        r'accounts: [[a@example.com, "hunter2\n"]]',
        f"{A}: password: holds a control character; remove it",
    ),
    (
        "accounts: [{address: a@example.com, password: hunter2, hash: $6$salt$hunter2}]",
        f"{A}: give either a password or a hash",
    ),
    ("accounts: [{address: a@example.com}]", f"{A}: give either a password or a hash"),
    (
        "accounts: [{address: a@example.com, hash: '{PLAIN}hunter2'}]",
        f"{A}: hash: is not of the form $6$SALT$HASH; make one with: "
        "salt-call password.hash PASSWORD",
    ),
    (
        "accounts: [{address: a@example.com, pasword: hunter2}]",
        "accounts[0]:pasword: no such key; did you mean password?\n"
        f"{A}: give either a password or a hash",
    ),
    (
        "accounts: [{address: a@example.com, hash: '$argon2id$v=19$m=65536,t=3,p=1$c2E$aGE'}]",
        f"{A}: hash: is Argon2, which OpenSMTPD cannot verify: it asks crypt(3); "
        "make one with: salt-call password.hash PASSWORD",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_fault_is_named_with_its_key_and_its_cure(text, sentence):
    assert said(text) == sentence
    assert SECRET not in sentence


@pytest.mark.parametrize(
    "address",
    [
        *("a", "a@", "@example.com", "a@b@example.com", "a+b@example.com", "a b@example.com", ""),
        *(
            "a:b@example.com",
            "a#b@example.com",
            "a/b@example.com",
            ".a@example.com",
            "-a@example.com",
            "%a@example.com",
        ),
        *("ä@example.com", "a@example", "a@example.com\n", f"{'a' * 65}@example.com", None, 5),
    ],
)
def test_what_is_no_address_for_an_account_is_named_with_its_place(address):
    (fault,) = faults({"domains": ["example.com"], "accounts": [[address, SECRET]]})
    assert re.fullmatch(
        r"accounts\[0\]: .*; write it like user@example.com, with letters, digits and .*", fault
    )


def test_the_longest_password_is_the_longest_that_crypt_takes():
    def pillar(length):
        return {
            "domains": ["example.com"],
            "accounts": [["a@example.com", "ä" + "x" * (length - 2)]],
        }

    assert model(pillar(511))
    (fault,) = faults(pillar(512))
    assert "longer than the 511 bytes" in fault


@pytest.mark.parametrize(
    "accounts",
    [
        [[SECRET, "a@example.com"]],
        [[f"a@example.com {SECRET}"]],
        [{"a@example.com": SECRET}],
        [{"address": f"a@example.com:{SECRET}", "password": ""}],
        [{"address": ["a@example.com", SECRET], "password": ""}],
        [{"address": "a@example.com", "hash": "$argon2id$v=19$m=65536", f"p=1${SECRET}": None}],
        [{"address": "a@example.com", f"password:{SECRET}": None}],
        [{"address": "a@example.com", f"password {SECRET}": None}],
        {SECRET: "a@example.com"},
        {f"a@example.com:{SECRET}": None},
        {"a@example.com": {f"password:{SECRET}": None}},
        {"a@example.com": {"address": SECRET}},
        {"a@example.com": {"hash": SECRET}},
        {"a@example.com": {"password": SECRET, "quota": {}}},
        {"a@example.com": [SECRET]},
        f"a@example.com {SECRET}",
    ],
    ids=str,
)
def test_a_password_in_the_wrong_place_is_not_repeated(accounts):
    found = faults({"domains": ["example.com"], "accounts": accounts})
    assert found
    assert SECRET not in "".join(found)
