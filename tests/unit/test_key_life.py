"""The life of a DKIM key: made, shown in DNS, signing, still published, over."""

import json

import pytest
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import dkim, mailsrv

NOW, KEEP = 1_800_000_000, 604_800
LACKING = ["ns2.example.net (192.0.2.2) still lacks it"]
S1 = {"signing": "s1", "retired": {}}


def step(known, wanted="s2", lacking=(), now=NOW, **options):
    return dkim.rotation(known, wanted, list(lacking), now, KEEP, **options)


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


# The pillar


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
def test_a_schedule_names_the_selector_by_the_date(facts, rotate, today, selector):
    pillar = {"domains": ["a.example"], "mailsrv": {"dkim": {"selector": "s", "rotate": rotate}}}
    model = mailsrv.model(pillar, "mx.b.example", {**facts("Debian"), "today": today})
    assert {key["selector"] for key in model["dkim"]["keys"]} == {selector}


# The machine


@pytest.fixture
def here(loader, facts, keys, tmp_path, monkeypatch):
    """A machine that signs by dkimsign with s1 while s2 shall sign; what DNS lacks."""
    known = facts("Debian")
    known["dkim"]["directory"] = str(tmp_path)
    monkeypatch.setattr(mailsrv, "facts", lambda: known)
    settings = {"dkim": {"selector": "s2", "ed25519": True}}
    loader["__pillar__"].update({"domains": ["a.example", "b.example"], "mailsrv": settings})
    for selector, bits in (("s1", 1024), ("s2", 2048), ("s0", 1024)):
        (tmp_path / f"{selector}.private").write_text(keys[bits][0])
    edward = dkim.generate(algorithm="ed25519")[0]
    (tmp_path / "s2-ed25519.private").write_text(edward)
    (tmp_path / "rsa.signing").write_text(json.dumps({"signing": "s1", "retired": {"s0": 0}}))
    loader["__salt__"]["mailcheck.lacking"] = lambda *question: LACKING
    return loader


def model():
    return mailsrv.model(mailsrv.__pillar__, "mx.example.com", mailsrv.facts())


def test_mail_is_signed_with_the_keys_that_dns_shows(here, tmp_path):
    (key,) = mailsrv.signing(model())
    assert (key["selector"], key["private"]) == ("s1", str(tmp_path / "s1.private"))
    for algorithm, selector in (("rsa", "s2"), ("ed25519", "s2-ed25519")):
        stage = {"signing": selector, "retired": {}}
        (tmp_path / f"{algorithm}.signing").write_text(json.dumps(stage))
    assert [key["selector"] for key in mailsrv.signing(model())] == ["s2", "s2-ed25519"]


def test_before_the_first_run_only_the_rsa_key_signs(here, tmp_path):
    (tmp_path / "rsa.signing").unlink()
    assert [key["selector"] for key in mailsrv.signing(model())] == ["s2"]


def selectors(domain):
    txt = {r["name"]: r["value"] for r in mailsrv.dns(domain)[domain] if r["type"] == "TXT"}
    end = f"._domainkey.{domain}."
    return {name.removesuffix(end): txt[name] for name in txt if name.endswith(end)}


@pytest.mark.parametrize("domain", ["a.example", "b.example"])
def test_the_records_of_the_keys_of_before_now_and_next_are_to_be_published(here, domain):
    assert set(selectors(domain)) == {"s0", "s1", "s2", "s2-ed25519"}


def test_the_record_of_a_key_that_leaked_says_so(here):
    here["__pillar__"]["mailsrv"]["dkim"]["revoked"] = ["s1"]
    found = selectors("a.example")
    assert set(found) == {"s0", "s1", "s2", "s1-ed25519", "s2-ed25519"}
    assert found["s1"] == found["s1-ed25519"] == "v=DKIM1; p="


def test_rotation_tells_what_signs_and_what_the_next_one_waits_for(here):
    here["__context__"].clear()
    assert mailsrv.rotation()["b.example"] == {
        "rsa": {
            "signs": "s1",
            "next": "s2",
            "waits for": LACKING,
            "still published": {"s0": "1970-01-08"},
        },
        "ed25519": {"signs": "nothing", "next": "s2-ed25519", "waits for": LACKING},
    }


def test_rotation_tells_that_dns_cannot_be_asked(here):
    def unreachable(*question):
        raise CommandExecutionError("no")

    here["__salt__"]["mailcheck.lacking"] = unreachable
    assert mailsrv.rotation()["a.example"]["rsa"]["waits for"] == ["no"]
    here["__salt__"]["mailcheck.lacking"] = lambda *question: []
    assert mailsrv.rotation()["a.example"]["rsa"]["waits for"] == ["the next run"]
