"""The keys of a machine: which sign, which records are to be published, what the next waits for."""

import json

import pytest
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import dkim, mailsrv

LACKING = ["ns2.example.net (192.0.2.2) still lacks it"]


@pytest.fixture
def here(loader, known, keys, tmp_path):
    """A machine that signs by dkimsign with s1 while s2 shall sign; what DNS lacks."""
    known()["dkim"]["directory"] = str(tmp_path)
    settings = {"dkim": {"selector": "s2", "ed25519": True}}
    loader["__pillar__"].update({"domains": ["a.example", "b.example"], "mailsrv": settings})
    for selector, bits in (("s1", 1024), ("s2", 2048), ("s0", 1024)):
        (tmp_path / f"{selector}.private").write_text(keys[bits][0])
    edward = dkim.generate(algorithm="ed25519")[0]
    (tmp_path / "s2-ed25519.private").write_text(edward)
    (tmp_path / "rsa.signing").write_text(json.dumps({"signing": "s1", "retired": {"s0": 0}}))
    loader["__salt__"]["mailcheck.lacking"] = lambda *question: LACKING
    return loader


def test_mail_is_signed_with_the_keys_that_dns_shows(here, tmp_path):
    (key,) = mailsrv.signing()
    assert (key["selector"], key["private"]) == ("s1", str(tmp_path / "s1.private"))
    for algorithm, selector in (("rsa", "s2"), ("ed25519", "s2-ed25519")):
        stage = {"signing": selector, "retired": {}}
        (tmp_path / f"{algorithm}.signing").write_text(json.dumps(stage))
    assert [key["selector"] for key in mailsrv.signing()] == ["s2", "s2-ed25519"]


def test_before_the_first_run_only_the_rsa_key_signs(here, tmp_path):
    (tmp_path / "rsa.signing").unlink()
    assert [key["selector"] for key in mailsrv.signing()] == ["s2"]


def selectors(domain):
    txt = {r["name"]: r["value"] for r in mailsrv.dns(domain)[domain] if r["type"] == "TXT"}
    end = f"._domainkey.{domain}."
    return {name.removesuffix(end): txt[name] for name in txt if name.endswith(end)}


@pytest.mark.parametrize("domain", ["a.example", "b.example"])
def test_the_records_of_the_keys_of_before_now_and_next_are_to_be_published(here, domain):
    assert set(selectors(domain)) == {"s0", "s1", "s2", "s2-ed25519"}


def test_the_record_of_a_key_that_leaked_says_so(here):
    here.next_run(mailsrv={"dkim": {"selector": "s2", "ed25519": True, "revoked": ["s1"]}})
    found = selectors("a.example")
    assert set(found) == {"s0", "s1", "s2", "s1-ed25519", "s2-ed25519"}
    assert found["s1"] == found["s1-ed25519"] == "v=DKIM1; p="


def test_rotation_tells_what_signs_and_what_the_next_one_waits_for(here):
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


def test_a_key_whose_day_has_come_is_no_fault_until_the_next_run_makes_it(here, tmp_path):
    """With `dkim:rotate` the day alone wants another one; what signs is published meanwhile."""
    (tmp_path / "s2.private").unlink()
    assert set(selectors("a.example")) == {"s0", "s1", "s2-ed25519"}
    assert mailsrv.rotation()["a.example"]["rsa"] == {
        "signs": "s1",
        "next": "s2",
        "waits for": ["its key, which the next run makes"],
        "still published": {"s0": "1970-01-08"},
    }
    # What leaked is no key to wait with.
    here.next_run(mailsrv={"dkim": {"selector": "s2", "ed25519": True, "revoked": ["s1"]}})
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.dns()
    assert "s2.private is not there yet; salt-call state.apply" in str(raised.value)


def test_what_does_not_tell_which_key_signs_is_named_with_its_cure(here, tmp_path):
    (tmp_path / "rsa.signing").write_text("s1\n")
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.signing()
    assert str(raised.value) == (
        f"{tmp_path}/rsa.signing does not tell what signs; remove it, and what the pillar says does"
    )


def test_what_a_power_cut_left_is_as_before_the_first_run(here, tmp_path):
    (tmp_path / "rsa.signing").write_bytes(bytes(512))
    assert [key["selector"] for key in mailsrv.signing()] == ["s2"]
