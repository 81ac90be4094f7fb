"""_mailsrv.accounts: aliases, catch-alls, roles, quotas and senders."""

import pytest
import yaml

from reading import faults, model

PILLAR = """
domains: [example.com, test.com]
accounts:
  - [ann@example.com, pass1]
  - [bob@example.com, pass2]
  - {address: eve@test.com, password: pass3, quota: 2G, send_as: ["@test.com", ann@example.com]}
mailsrv:
  quota: 5G
"""
AWAY = "someone@elsewhere.example"


def having(aliases):
    """The pillar with aliases of its own."""
    pillar = yaml.safe_load(PILLAR)
    pillar["mailsrv"]["aliases"] = yaml.safe_load(aliases)
    return pillar


def given(aliases="{}"):
    """Its model."""
    return model(having(aliases))


def roles(aliases):
    return {k: v for k, v in aliases.items() if k.startswith(("postmaster@", "abuse@"))}


@pytest.mark.parametrize(
    ("aliases", "ends"),
    [
        ("{a@example.com: bob@example.com}", {"a@example.com": ["bob@example.com"]}),
        ("{A@Example.COM: Bob@Example.com}", {"a@example.com": ["bob@example.com"]}),
        ("{a@example.com: Bob+Tag@example.com}", {"a@example.com": ["bob+Tag@example.com"]}),
        # RFC 5321, section 2.4: only the other server knows whether case counts.
        ("{a@example.com: Jo@Elsewhere.Example}", {"a@example.com": ["Jo@elsewhere.example"]}),
        (f"{{a@test.com: [{AWAY}]}}", {"a@test.com": [AWAY]}),
        (
            f"{{a@test.com: [eve@test.com, {AWAY}, eve@test.com]}}",
            {"a@test.com": ["eve@test.com", AWAY]},
        ),
        ("{'@test.com': eve@test.com}", {"@test.com": ["eve@test.com"]}),
        ("{a@test.com: eve+lists@test.com}", {"a@test.com": ["eve+lists@test.com"]}),
        (
            f"{{a@test.com: b@test.com, b@test.com: [c@test.com, {AWAY}], "
            "c@test.com: eve@test.com}",
            {
                "a@test.com": ["eve@test.com", AWAY],
                "b@test.com": ["eve@test.com", AWAY],
                "c@test.com": ["eve@test.com"],
            },
        ),
        # An account that keeps a copy.
        (
            f"{{eve@test.com: [eve@test.com, {AWAY}]}}",
            {"eve@test.com": ["eve@test.com", AWAY]},
        ),
    ],
)
def test_an_alias_leads_to_the_ends_of_its_chain_each_once(aliases, ends):
    found = given(aliases)["aliases"]
    assert {k: v for k, v in found.items() if k not in roles(found)} == ends


def test_catch_alls_stand_behind_what_has_a_name():
    found = given("{'@test.com': eve@test.com, a@test.com: bob@example.com}")["aliases"]
    assert list(found)[-1] == "@test.com"


def test_every_domain_has_its_roles_which_somebody_of_it_reads():
    assert given()["aliases"] == {
        "postmaster@example.com": ["ann@example.com"],
        "abuse@example.com": ["ann@example.com"],
        "postmaster@test.com": ["eve@test.com"],
        "abuse@test.com": ["eve@test.com"],
    }


def test_a_domain_without_accounts_leaves_its_roles_to_the_first_of_all():
    found = model({"domains": ["a.example", "b.example"], "accounts": [["x@a.example", "p"]]})
    assert found["aliases"]["postmaster@b.example"] == ["x@a.example"]
    assert model({"domains": ["a.example"]})["aliases"] == {}


def test_roles_of_the_pillar_are_left_as_they_are():
    found = given("{postmaster@test.com: bob@example.com}")["aliases"]
    assert found["postmaster@test.com"] == ["bob@example.com"]
    found = model({"domains": ["a.example"], "accounts": [["abuse@a.example", "p"]]})
    assert list(found["aliases"]) == ["postmaster@a.example"]


def test_an_account_may_send_as_itself_its_aliases_and_what_send_as_lists():
    found = given(f"{{a@example.com: [bob@example.com, {AWAY}], '@example.com': bob@example.com}}")
    senders = {account["address"]: account["senders"] for account in found["accounts"]}
    assert senders["bob@example.com"] == ["bob@example.com", "a@example.com"]
    assert senders["eve@test.com"] == [
        "eve@test.com",
        "postmaster@test.com",
        "abuse@test.com",
        "@test.com",
        "ann@example.com",
    ]


def test_quotas_are_an_accounts_own_and_everybodys():
    found = given()
    assert found["quota"] == "5G"
    assert [account["quota"] for account in found["accounts"]] == [None, None, "2G"]


SIZE = "is not a size; write it like 500M or 2G"
NO_ALIAS = "is not an alias; write sales@example.com, or @example.com for a catch-all"
NO_TARGET = "is not an address; write it like user@example.com"
FAULTS = [
    ("[a@example.com]", ": must hold aliases and targets, not a list"),
    ("{sales: a@example.com}", f": 'sales' {NO_ALIAS}"),
    ("{'x y@example.com': a@example.com}", f": 'x y@example.com' {NO_ALIAS}"),
    ("{5: a@example.com}", f": '5' {NO_ALIAS}"),
    ("{x@b.example: a@example.com}", ":x@b.example: its domain is not in domains; add it there"),
    (
        "{x@example.com: a@example.com, X@example.com: a@example.com}",
        ":x@example.com: this alias is listed twice; remove one of them",
    ),
    ("{x@example.com: []}", ":x@example.com: leads nowhere; name a target, or remove it"),
    ("{x@example.com: [a@example.com, root]}", f":x@example.com: its target 'root' {NO_TARGET}"),
    ("{x@example.com: 'a,b@b.example'}", f":x@example.com: its target 'a,b@b.example' {NO_TARGET}"),
    ("{x@example.com: 'a:b@b.example'}", f":x@example.com: its target 'a:b@b.example' {NO_TARGET}"),
    # The long s, which is an s where case does not count.
    (
        "{x@example.com: '\u017f@b.example'}",
        f":x@example.com: its target '\\u017f@b.example' {NO_TARGET}",
    ),
    (
        "{x@example.com: nobody@example.com}",
        ":x@example.com: its target nobody@example.com is neither an account nor an alias; add it",
    ),
    (
        "{a@example.com: b@b.example}",
        ":a@example.com: is an account, which would get nothing any more; "
        "add a@example.com to the targets to keep a copy, or remove one of them",
    ),
    ("{x@example.com: x@example.com}", ":x@example.com: leads back to itself; break the loop"),
]


@pytest.mark.parametrize(("aliases", "sentence"), FAULTS, ids=[ascii(row[0]) for row in FAULTS])
def test_a_faulty_alias_is_named_with_its_cure(aliases, sentence):
    pillar = {"domains": ["example.com"], "accounts": [["a@example.com", "hunter2"]]}
    pillar["mailsrv"] = {"aliases": yaml.safe_load(aliases)}
    assert faults(pillar) == [f"mailsrv:aliases{sentence}"]


def test_every_alias_of_a_loop_is_named():
    loop = "{a@test.com: b@test.com, b@test.com: [c@test.com], c@test.com: a@test.com}"
    assert faults(having(loop)) == [
        f"mailsrv:aliases:{name}@test.com: leads back to itself; break the loop" for name in "abc"
    ]


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("/dev/null", "remove the alias, and its senders are told"),
        ("/var/mail/x", "name an account"),
        ("/a@b.example", "name an account"),
        ("|/bin/sh", "fetch the mail of an account by IMAP"),
        ("|sh@b.example", "fetch the mail of an account by IMAP"),
        (":include:/etc/list", "write them here, as a list"),
        ("error:550 gone", "remove the alias"),
        ("ERROR:550 gone", "remove the alias"),
    ],
)
def test_what_is_no_mailbox_is_refused_with_what_to_do_instead(target, cure):
    (fault,) = faults(having(yaml.safe_dump({"x@test.com": target})))
    assert fault.startswith(f"mailsrv:aliases:x@test.com: its target {target!r} ")
    assert cure in fault
    forwards = {"a@example.com": {"password": "hunter2", "forward": target}}
    (fault,) = faults({"domains": ["example.com"], "accounts": forwards})
    assert fault.startswith(f"accounts:a@example.com: forward: its target {target!r} ")


@pytest.mark.parametrize("size", ["2", "2 G", "2GB", "0G", "-1G", "1.5G", "many", 5, True])
def test_a_quota_that_is_no_size_is_named(size):
    pillar = {"domains": ["example.com"], "accounts": [["a@example.com", "hunter2"]]}
    said = f"{str(size)!a} {SIZE}"
    assert faults(pillar | {"mailsrv": {"quota": size}}) == [f"mailsrv:quota: {said}"]
    pillar["accounts"] = [{"address": "a@example.com", "password": "hunter2", "quota": size}]
    assert faults(pillar) == [f"accounts[0] (a@example.com): quota: {said}"]


@pytest.mark.parametrize(
    ("send_as", "sentence"),
    [
        ("info@example.com", "must be a list, not text"),
        (["info"], "'info' is neither an address nor a domain; "),
        (["info@other.example"], "info@other.example is not in domains; mail as it is not signed"),
        (["@other.example"], "@other.example is not in domains; mail as it is not signed"),
    ],
)
def test_a_sender_that_cannot_be_is_named(send_as, sentence):
    account = {"address": "a@example.com", "password": "hunter2", "send_as": send_as}
    (fault,) = faults({"domains": ["example.com"], "accounts": [account]})
    assert fault.startswith(f"accounts[0] (a@example.com): send_as: {sentence}")


MOVED = {"old.example": "example.com"}


def moving(moved, aliases=None):
    pillar = having(yaml.safe_dump(aliases or {}))
    pillar["domains"] += ["old.example"]
    pillar["mailsrv"]["moved"] = moved
    return pillar


def test_a_domain_that_moved_brings_every_address_and_no_other():
    aliases = {
        "team@example.com": ["ann@example.com", AWAY],
        "sales@old.example": "bob@example.com",
    }
    found = model(moving({"Old.Example": "example.COM"}, {**aliases, "sales@example.com": AWAY}))
    old = {k: v for k, v in found["aliases"].items() if k.endswith("@old.example")}
    assert found["moved"] == MOVED
    assert old == {
        "ann@old.example": ["ann@example.com"],
        "bob@old.example": ["bob@example.com"],
        "team@old.example": ["ann@example.com", AWAY],
        "sales@old.example": ["bob@example.com"],  # what the pillar says comes first
        "postmaster@old.example": ["ann@example.com"],
        "abuse@old.example": ["ann@example.com"],
    }
    senders = {account["address"]: account["senders"] for account in found["accounts"]}
    assert "bob@old.example" in senders["bob@example.com"]


def test_a_catch_all_moves_too():
    found = model(moving(MOVED, {"@example.com": "bob@example.com"}))["aliases"]
    assert found["@old.example"] == ["bob@example.com"]
    assert list(found)[-2:] == ["@example.com", "@old.example"]


@pytest.mark.parametrize(
    ("moved", "sentence"),
    [
        ([], ": must hold domains, old: new, not a list"),
        ({"old": "example.com"}, ":old: 'old' is not a domain; "),
        ({"old.example": None}, ":old.example: 'None' is not a domain; "),
        ({"gone.example": "example.com"}, ":gone.example: gone.example is not in domains; add it "),
        ({"old.example": "new.example"}, ":old.example: new.example is not in domains; add it "),
        ({"old.example": "old.example"}, ":old.example: old.example has moved, too; name the "),
    ],
)
def test_a_move_that_cannot_be_is_named(moved, sentence):
    (fault,) = faults(moving(moved))
    assert fault.startswith(f"mailsrv:moved{sentence}")


def test_a_chain_of_moves_is_refused_and_so_is_an_account_left_behind():
    assert "mailsrv:moved:old.example: test.com has moved, too; name the domain" in "".join(
        faults(moving({"old.example": "test.com", "test.com": "example.com"}))
    )
    assert faults(moving({"test.com": "example.com"})) == [
        "accounts[2] (eve@test.com): its domain has moved (mailsrv:moved); write the account with "
        "example.com: mail for the old address comes, too"
    ]


def test_an_alias_by_pattern_is_no_name():
    found = given(f"{{Sales-*@Example.com: [c@test.com, {AWAY}], c@test.com: eve@test.com}}")
    assert found["patterns"] == [
        {
            "pattern": "sales-*@example.com",
            "regex": "^sales-[A-Za-z0-9._=-]+([+][^@]*)?@example[.]com$",
            "domain": "example.com",
            "targets": ["eve@test.com", AWAY],
        }
    ]
    assert "*" not in "".join(found["aliases"])
    assert "*" not in "".join(sender for a in found["accounts"] for sender in a["senders"])


def test_a_pattern_moves_too():
    found = model(moving(MOVED, {"a.*@example.com": "bob@example.com"}))["patterns"]
    assert [pattern["pattern"] for pattern in found] == ["a.*@example.com", "a.*@old.example"]
    assert found[1]["regex"].startswith("^a[.][A-Z")


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("*@example.com", ": '*@example.com' would take every address; write @example.com for a "),
        ("*.*@example.com", ": '*.*@example.com' would take every address; write @example.com "),
        ("a-*@*.com", ": 'a-*@*.com' is not a pattern; write it like sales-*@example.com"),
        ("a**@example.com", ": 'a**@example.com' is not a pattern; write it like sales-*@"),
        ("a|*@example.com", ": 'a|*@example.com' is not a pattern; write it like sales-*@"),
        ("a+*@example.com", ": 'a+*@example.com' is not a pattern; write it like sales-*@"),
        ("a-*", ": 'a-*' is not a pattern; write it like sales-*@example.com"),
        ("a-*@b.example", ":a-*@b.example: its domain is not in domains; add it there"),
        ("a-*@test.com", ":a-*@test.com: the catch-all @test.com takes its mail; remove one of "),
    ],
)
def test_a_pattern_that_cannot_be_is_named(key, sentence):
    aliases = {key: "bob@example.com", "@test.com": "eve@test.com"}
    (fault,) = faults(having(yaml.safe_dump(aliases)))
    assert fault.startswith(f"mailsrv:aliases{sentence}")


def test_a_pattern_is_no_target():
    aliases = {"a-*@test.com": "eve@test.com", "b@test.com": "a-1@test.com"}
    (fault,) = faults(having(yaml.safe_dump(aliases)))
    assert fault.endswith("its target a-1@test.com is neither an account nor an alias; add it")
