"""_mailsrv.keys: the keys that sign, their files, and the life of one: made, shown in DNS, over."""

import json
import re

import pytest
from _mailsrv import keys

from reading import model, read, said

NOW, KEEP = 1_800_000_000, 604_800
LACKING = ["ns2.example.net (192.0.2.2) still lacks it"]
S1 = {"signing": "s1", "retired": {}}
KEYS = {"Debian": "/etc/mail/dkim", "FreeBSD": "/usr/local/etc/mail/dkim"}
SEED_KEY = "/usr/local/etc/dkimproxy/{}/private"


# The section of the pillar


def dkim(family="Debian", domains=("example.com", "test.com"), **given):
    pillar = {"domains": list(domains), "mailsrv": {"dkim": given}}
    return model(pillar, family=family)["dkim"]


@pytest.mark.parametrize(("family", "signer"), [("Debian", "dkimsign"), ("FreeBSD", "dkimproxy")])
def test_each_system_has_a_signer_of_its_own(family, signer):
    found = dkim(family)
    assert (found["signer"], found["selector"], found["bits"]) == (signer, "mailsrv", 2048)


@pytest.mark.parametrize("signer", ["dkimproxy", "rspamd"])
@pytest.mark.parametrize("family", KEYS)
def test_dkimproxy_and_rspamd_sign_with_a_key_for_each_domain(family, signer):
    found = dkim(family, signer=signer, selector="s1")["keys"]
    assert [key["domains"] for key in found] == [["example.com"], ["test.com"]]
    assert [key["private"] for key in found] == [
        f"{KEYS[family]}/example.com/s1.private",
        f"{KEYS[family]}/test.com/s1.private",
    ]


@pytest.mark.parametrize("family", KEYS)
def test_dkimsign_signs_with_one_key_for_all(family):
    (key,) = dkim(family, signer="dkimsign", selector="s1")["keys"]
    assert key["domains"] == ["example.com", "test.com"]
    assert key["private"] == f"{KEYS[family]}/s1.private"
    assert key["public"] == f"{KEYS[family]}/s1.public"


@pytest.mark.parametrize("signer", ["dkimproxy", "rspamd"])
@pytest.mark.parametrize("family", KEYS)
def test_whoever_changes_the_signer_keeps_the_key_and_its_record(family, signer):
    own = dkim(family, signer=signer)["keys"]
    (shared,) = dkim(family, signer="dkimsign")["keys"]
    assert own[0]["private"] in shared["adopt"]
    assert all(shared["private"] in key["adopt"] for key in own)
    for signer in ("dkimproxy", "rspamd"):
        found = dkim(family, signer=signer)["keys"]
        assert [key["private"] for key in found] == [key["private"] for key in own]


@pytest.mark.parametrize("signer", ["dkimsign", "rspamd"])
def test_a_key_of_ed25519_stands_beside_each_of_rsa(signer):
    plain = dkim(signer=signer)["keys"]
    both = dkim(signer=signer, ed25519=True)["keys"]
    assert both[: len(plain)] == plain
    assert {(key["selector"], key["algorithm"]) for key in plain} == {("mailsrv", "rsa")}
    for rsa, ed25519 in zip(plain, both[len(plain) :], strict=True):
        assert (ed25519["selector"], ed25519["algorithm"]) == ("mailsrv-ed25519", "ed25519")
        assert ed25519["domains"] == rsa["domains"]
        for file in ("private", "public"):
            assert ed25519[file] == rsa[file].replace("mailsrv", "mailsrv-ed25519")
        assert ed25519["adopt"] == [
            file.replace("mailsrv.", "mailsrv-ed25519.")
            for file in rsa["adopt"]
            if "dkimproxy" not in file
        ]
        assert (rsa["bare"], bool(ed25519["bare"])) == ("", signer == "rspamd")


def test_the_seeds_keys_are_adopted_under_the_selector_they_are_published_under():
    own = dkim(signer="dkimproxy")["keys"]
    assert [key["adopt"][0] for key in own] == [
        SEED_KEY.format("example.com"),
        SEED_KEY.format("test.com"),
    ]
    assert dkim(signer="dkimsign")["keys"][0]["adopt"][0] == SEED_KEY.format("example.com")
    for signer in ("dkimproxy", "dkimsign"):
        found = dkim(signer=signer, selector="s2")["keys"]
        assert "/usr/local/etc/dkimproxy" not in repr(found)


def test_an_archive_of_ones_own_replaces_upstreams():
    archive = {"source": "salt://dkimproxy.tar.gz", "source_hash": "sha256=" + "0" * 64}
    assert archive.items() <= dkim(archive=archive)["archive"].items()
    assert dkim()["archive"]["source"].startswith("https://")


@pytest.mark.parametrize(
    "source_hash", ["sha256=" + "0" * 64, "https://a.example/dkimproxy.sha256", "salt://a/../b"]
)
def test_an_archive_has_a_directory_of_its_own_or_is_refused(source_hash):
    archive = {"source": "salt://dkimproxy.tar.gz", "source_hash": source_hash}
    pillar = {"domains": ["example.com"], "mailsrv": {"dkim": {"archive": archive}}}
    found, wrong = read(pillar)
    assert wrong or re.fullmatch(
        "/usr/local/lib/dkimproxy/[0-9a-f]+", found["dkim"]["archive"]["directory"]
    )


@pytest.mark.parametrize(
    ("rotate", "today", "selector"),
    [
        ("yearly", "2026-12-31", "s-2026"),
        ("quarterly", "2026-12-31", "s-2026q4"),
        ("quarterly", "2027-01-01", "s-2027q1"),
        ("quarterly", "2027-04-01", "s-2027q2"),
        ("monthly", "2027-04-01", "s-202704"),
    ],
)
def test_a_schedule_names_the_selector_by_the_date(rotate, today, selector):
    pillar = {"domains": ["a.example"], "mailsrv": {"dkim": {"selector": "s", "rotate": rotate}}}
    found = model(pillar, today=today)
    assert {key["selector"] for key in found["dkim"]["keys"]} == {selector}


# Faults: what stands in the pillar beside `domains: [example.com]`, and what is said about it

FAULTS = [
    (
        "mailsrv: {dkim: {signer: opendkim}}",
        "mailsrv:dkim:signer: 'opendkim' is not a signer; choose dkimproxy, dkimsign or rspamd",
    ),
    (
        "mailsrv: {dkim: {selector: Mail_1}}",
        "mailsrv:dkim:selector: 'Mail_1' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {selector: 2024}}",
        "mailsrv:dkim:selector: '2024' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {ed25519: maybe}}",
        "mailsrv:dkim:ed25519: 'maybe' is no switch; write true or false",
    ),
    (
        "mailsrv: {dkim: {ed25519: true, signer: dkimproxy}}",
        "mailsrv:dkim:ed25519: dkimproxy cannot sign with Ed25519; choose dkimsign or rspamd as "
        "the signer, or leave it out",
    ),
    (
        "mailsrv: {dkim: {ed25519: true, selector: a." + 56 * "b" + "}}",
        f"mailsrv:dkim:ed25519: 'a.{56 * 'b'}' is too long a selector to have -ed25519 put behind "
        "it; choose a shorter one",
    ),
    (
        "mailsrv: {dkim: {bits: 512}}",
        "mailsrv:dkim:bits: '512' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {bits: '2048'}}",
        "mailsrv:dkim:bits: '2048' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {bits: 2048.0}}",
        "mailsrv:dkim:bits: '2048.0' is no key length; write the number 1024, 2048, 3072 or 4096",
    ),
    (
        "mailsrv: {dkim: {archive: {source: /tmp/dkimproxy.tar.gz}}}",
        "mailsrv:dkim:archive:source_hash: is missing; name both source and source_hash, a SHA-256",
    ),
    (
        "mailsrv: {dkim: {archive: {url: 1, source: a, source_hash: sha256=" + "0" * 64 + "}}}",
        "mailsrv:dkim:archive:url: no such key; known are source, source_hash",
    ),
    (
        "mailsrv: {dkim: {rotate: weekly}}",
        "mailsrv:dkim:rotate: 'weekly' is not usable; choose yearly, quarterly or monthly",
    ),
    (
        f"mailsrv: {{dkim: {{rotate: yearly, selector: {'a' * 60}}}}}",
        f"mailsrv:dkim:rotate: '{'a' * 60}-2027' would be too long a selector; "
        "choose a shorter one in mailsrv:dkim:selector",
    ),
    (
        "mailsrv: {dkim: {revoked: s1}}",
        "mailsrv:dkim:revoked: must be a list of selectors, not text",
    ),
    (
        "mailsrv: {dkim: {revoked: [2024]}}",
        "mailsrv:dkim:revoked: '2024' is not a selector; use a-z, 0-9 and inner hyphens",
    ),
    (
        "mailsrv: {dkim: {revoked: [mailsrv]}}",
        "mailsrv:dkim:revoked: mailsrv is the selector that shall sign; "
        "name another one in mailsrv:dkim:selector",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_fault_is_named_with_its_key_and_its_cure(text, sentence):
    assert said(text) == sentence


# The life of a key


def step(known, wanted="s2", lacking=(), now=NOW, **options):
    return keys.next_stage(known, wanted, list(lacking), now, KEEP, **options)


def test_the_first_key_signs_at_once_there_is_nothing_else():
    found = step({}, "s1", LACKING)
    assert (found["signing"], found["retired"], found["over"]) == ("s1", {}, [])
    assert found["says"] == "s1 signs now"


def test_a_first_key_beside_another_waits_for_its_record():
    found = step({}, "s1", LACKING, waits=True)
    assert (found["signing"], found["says"]) == ("", f"nothing signs, s1 waits: {LACKING[0]}")
    assert step({"signing": "", "retired": {}}, "s1", waits=True)["signing"] == "s1"


def test_the_next_key_waits_until_every_server_shows_its_record():
    found = step(S1, lacking=LACKING)
    assert (found["signing"], found["retired"]) == ("s1", {})
    assert found["says"] == f"s1 signs, s2 waits: {LACKING[0]}"
    found = step(S1)
    assert (found["signing"], found["retired"]) == ("s2", {"s1": NOW})
    assert found["says"] == "s2 signs now, after s1"


def test_a_key_that_signs_goes_on_without_a_question():
    assert step(S1, "s1") == {**S1, "over": [], "says": "s1 signs"}


@pytest.mark.parametrize(("seconds", "over"), [(KEEP - 1, []), (KEEP, ["s1"])])
def test_the_key_of_before_is_over_when_no_mail_signed_with_it_is_on_its_way(seconds, over):
    known = {"signing": "s2", "retired": {"s1": NOW}}
    found = step(known, now=NOW + seconds)
    assert found["over"] == over
    assert found["retired"] == ({} if over else {"s1": NOW})


def test_who_goes_back_before_that_finds_the_old_key():
    found = step({"signing": "s2", "retired": {"s1": NOW - KEEP, "s0": NOW}}, "s1")
    assert (found["signing"], found["over"]) == ("s1", [])
    assert found["retired"] == {"s0": NOW, "s2": NOW}


def test_a_key_that_leaked_stops_signing_whatever_dns_shows_and_is_over_in_the_next_run():
    found = step(S1, lacking=LACKING, revoked=["s1"])
    assert (found["signing"], found["over"]) == ("s2", [])
    again = step(found, lacking=LACKING, now=NOW + 1, revoked=["s1"])
    assert (again["signing"], again["retired"], again["over"]) == ("s2", {}, ["s1"])


# What signs now, and what DNS has to show

KEY = {
    **keys.files("/k", "s2", bare=False),
    "selector": "s2",
    "waits": False,
    "revoked": ["s0"],
    "domains": ["a.example", "b.example"],
}


def test_before_the_first_run_a_key_signs_if_it_does_not_wait():
    for nothing in ("", "\n", "\0" * 512):
        stage = {"signing": "s2", "retired": {}, "domains": KEY["domains"]}
        assert keys.stage(KEY, nothing) == stage
        waits = {"signing": "", "retired": {}, "domains": []}
        assert keys.stage({**KEY, "waits": True}, nothing) == waits


def test_what_was_remembered_is_the_stage_of_a_key():
    assert keys.stage(KEY, '{"signing": "s1", "retired": {"s0": 5}}\n') == {
        "signing": "s1",
        "retired": {"s0": 5},
        "domains": KEY["domains"],
    }
    stage = {"signing": "s1", "retired": {}, "domains": ["b.example"]}
    assert keys.stage(KEY, json.dumps(stage)) == stage
    with pytest.raises(ValueError, match="Expecting value"):
        keys.stage(KEY, "s1")


def test_the_key_that_signs_has_files_of_its_own():
    s1, nothing = ({"signing": s, "retired": {}, "domains": ["b.example"]} for s in ("s1", ""))
    nobody = {"signing": "s1", "retired": {}, "domains": ["c.example"]}
    (found,) = keys.signing([KEY] * 3, [s1, nothing, nobody])
    assert found["domains"] == ["b.example"]
    assert (found["selector"], found["private"], found["public"], found["bare"]) == (
        "s1",
        "/k/s1.private",
        "/k/s1.public",
        "",
    )
    assert keys.named({**KEY, "bare": "/k/s2.bare"}, "s1")["bare"] == "/k/s1.bare"


def test_dns_shows_the_next_key_the_one_that_signs_and_the_previous_ones_once_each():
    assert keys.shown(KEY, {"signing": "s1", "retired": {"s3": 5, "s0": 5}}) == ["s2", "s1", "s3"]
    assert keys.shown(KEY, {"signing": "s2", "retired": {}}) == ["s2"]
    assert keys.shown(KEY, {"signing": "", "retired": {}}) == ["s2"]


def test_the_selectors_of_a_directory_are_those_of_its_public_keys():
    listing = ["s2.public", "s2.private", "a.b-1.public", "x.public~", "S.public", ".public", "s"]
    assert keys.selectors(listing) == ["a.b-1", "s2"]


def test_mail_of_a_new_domain_is_signed_as_the_one_above_or_the_first_one():
    rsa = {"algorithm": "rsa", "domains": ["b.example", "c.example"]}
    listed = [rsa, {"algorithm": "ed25519", "domains": ["c.example", "new.example"]}]
    domains = ["new.example", "a.c.example", "b.example", "c.example"]
    assert keys.signs_for(domains, listed) == {
        "new.example": "b.example",
        "a.c.example": "c.example",
        "b.example": "b.example",
        "c.example": "c.example",
    }
    assert keys.signs_for(domains, listed[1:])["new.example"] == "new.example"
    assert keys.signs_for(["a.example"], []) == {"a.example": "a.example"}


@pytest.mark.parametrize(
    ("signer", "waiting"),
    [("rspamd", ["b.example"]), ("dkimproxy", ["b.example"]), ("dkimsign", [])],
)
def test_a_domain_waits_where_another_one_signs(signer, waiting):
    def waits(*signing):
        mailsrv = {"dkim": {"signer": signer}}
        given = {"domains": ["a.example", "b.example"], "mailsrv": mailsrv}
        found = model(given, signing=signing)["dkim"]["keys"]
        return [domain for key in found if key["waits"] for domain in key["domains"]]

    assert waits() == []  # the first run
    assert waits("a.example") == waiting
    assert waits("gone.example") == []
    # Whose file was removed, as it says itself, goes on.
    assert waits("a.example", "b.example") == []


def test_the_key_of_all_is_that_of_the_first_domain_that_is_signed():
    def taken(*signing):
        given = {"domains": ["new.example", "a.example"], "mailsrv": {"dkim": {"selector": "s1"}}}
        (key,) = model(given, signing=signing)["dkim"]["keys"]
        assert key["waits"] is False
        return key["adopt"], key["adopt_signing"]

    top = KEYS["Debian"]
    for signing, domain in (((), "new"), (["a.example"], "a"), (["gone.example"], "new")):
        kept = f"{top}/{domain}.example"
        assert taken(*signing) == ([f"{kept}/s1.private"], [f"{kept}/rsa.signing"])
