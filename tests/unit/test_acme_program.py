"""acme, the program that asks for certificates: what it makes of answers, and what stops it."""

import contextlib
import http.server
import importlib.util
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time

import pytest
from _mailsrv import acme as settings
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from authority import Authority, cert_pem, key_pem, new_key
from reading import HOST, ROOT, STATES, faults, model

SPEC = importlib.util.spec_from_file_location("acme_program", STATES / "acme/acme.py")
acme = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(acme)

NOW = 1_800_000_000
SECRET = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
DAY = 86400
LAB = ROOT / "tests/lab"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def rules(tmp_path, authority):
    """A configuration, and a sound certificate that is served."""
    pems = authority.pems(HOST)
    (tmp_path / "m.crt").write_text(pems[0])
    (tmp_path / "m.key").write_text(pems[1])
    (tmp_path / "acme").mkdir()
    return {
        **dict.fromkeys(("ca", "provider"), ""),
        **{"hostname": HOST, "email": "a@example.com", "challenge": "http-01", "kind": "ecdsa"},
        **{name: str(tmp_path / f"m.{name}") for name in ("cert", "key", "next")},
        "cert": str(tmp_path / "m.crt"),
        "server": "https://ca.example:14000/dir",
        "directory": str(tmp_path / "acme"),
        "webroot": "",
        "lego": str(tmp_path / "lego"),
        **{"names": [], "addresses": ["192.0.2.1"], "daemons": [], "eab": {}, "environment": {}},
        "dane": False,
    }


def loaded(pem):
    return serialization.load_pem_private_key(pem.encode(), None)


# The pillar


def tls(**given):
    return {"domains": ["example.com"], "mailsrv": {"tls": {"acme": given}}}


def test_an_address_is_all_that_the_pillar_has_to_say():
    assert model(tls(email="a@example.com"))["tls"] == {
        "self_signed": False,
        "sources": {},
        "cert": f"/etc/mail/tls/{HOST}.acme.crt",
        "key": f"/etc/mail/tls/{HOST}.acme.key",
        "acme": {
            "email": "a@example.com",
            "server": "https://acme-v02.api.letsencrypt.org/directory",
            "challenge": "http-01",
            "key": "rsa",
            "ca": "",
            "provider": "",
            "caa": "letsencrypt.org",
            "next": f"/etc/mail/tls/{HOST}.acme.next",
        },
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "email: is missing; the CA writes there"),
        ({"email": "a"}, "email: 'a' is not an address"),
        ({"server": "http://ca.example/"}, "server: 'http://ca.example/' is not the URL of"),
        ({"challenge": "http"}, "challenge: 'http' is not usable; choose http-01, tls-alpn-01 or"),
        ({"key": "ed25519"}, "key: 'ed25519' is not usable; choose rsa or ecdsa"),
        ({"ca": "ca.pem"}, "ca: 'ca.pem' is not a path"),
        ({"challenge": "dns-01"}, "provider: is missing; write one"),
        ({"provider": "rfc2136"}, "provider: is for the challenge dns-01, not for http-01"),
        ({"eab": {"kid": "k"}}, "eab:hmac: is missing or not as the CA gave it"),
        (
            {"eab": {"kid": "k", "hmac": SECRET[:-3]}},
            "eab:hmac: is missing or not as the CA gave it",
        ),
        ({"eab": {"hmac": SECRET}}, "eab:kid: is missing or not as the CA gave it"),
        (
            {"challenge": "dns-01", "provider": "rfc2136", "settings": {"RFC2136_TSIG_KEY": 5}},
            "settings:RFC2136_TSIG_KEY: must be text on one line; quote it",
        ),
        (
            {"challenge": "dns-01", "provider": "rfc2136", "settings": {SECRET: "x"}},
            "settings: holds a key that is no variable of lego's provider",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_its_cure_and_no_secret(given, said):
    given = given if given == {} or "email" in given else {"email": "a@example.com", **given}
    (found,) = faults(tls(**given))
    assert found.startswith(f"mailsrv:tls:acme:{said}")
    assert SECRET not in found


@pytest.mark.parametrize("key", ["cert", "key"])
def test_beside_a_certificate_of_your_own_there_is_no_other(key):
    given = tls(email="a@example.com")
    given["mailsrv"]["tls"][key] = "/etc/ssl/mail.pem"
    (found,) = faults(given)
    assert found == (
        f"mailsrv:tls:{key}: stands beside acme, which brings a certificate of its own; "
        "remove one of them"
    )


def test_a_secret_is_in_no_model():
    eab = {"kid": "kid-1", "hmac": SECRET}
    dns = {
        "challenge": "dns-01",
        "provider": "rfc2136",
        "settings": {"RFC2136_TSIG_SECRET": SECRET},
    }
    given = tls(email="a@example.com", eab=eab, **dns)
    assert SECRET not in json.dumps(model(given))
    assert settings.secrets(given["mailsrv"]["tls"], []) == {
        "eab": eab,
        "environment": {"RFC2136_TSIG_SECRET": SECRET},
    }


# What mailcheck says


def standing(memory, self_signed=False, itself=True, days=60, life=90):
    found = {"until": "2027-02-24T00:00:00", "self_signed": self_signed, "days": days, "life": life}
    text = memory if isinstance(memory, str) else json.dumps(memory)
    return settings.standing("/m.crt", found, {"acme": {} if itself is None else itself}, text, NOW)


def test_the_sentence_of_the_program_is_the_warning():
    memory = {"looked": NOW - 60, "said": "the CA is down", "since": "2026-11-01"}
    itself = {"ca": ""}
    assert standing(memory, itself=itself) == (
        "WARNING: until 2027-02-24; not renewed since 2026-11-01: the CA is down"
    )
    assert standing(memory, self_signed=True, itself=itself).startswith(
        "WARNING: until 2027-02-24; self-signed since 2026-11-01: "
    )
    assert standing({**memory, "said": ""}, itself=itself) == ""
    assert standing({**memory, "short": True}, itself=itself).endswith(
        "; lacks names since 2026-11-01: the CA is down"
    )
    late = standing({**memory, "looked": NOW - 2 * DAY}, itself=itself)
    assert late.startswith("WARNING: until 2027-02-24; nothing has looked after it for a day")


@pytest.mark.parametrize("memory", ["", "{", "[]", "5", '{"looked": []}', "\0\0"])
def test_a_memory_that_a_power_cut_has_left_is_none(memory):
    assert standing(memory, itself={"ca": ""}) == ""
    assert "has not been asked yet" in standing(memory, self_signed=True, itself={"ca": ""})


@pytest.mark.parametrize(
    ("days", "life", "warns"),
    [(23, 90, False), (22, 90, True), (12, 45, False), (11, 45, True), (2, 6, False), (1, 6, True)],
)
def test_a_quarter_of_its_life_before_the_end_is_late(days, life, warns):
    said = standing("", itself=False, days=days, life=life)
    assert said.startswith("WARNING: /m.crt ends in") == warns


# What lego says

LEGO = "2026/11/26 20:26:28 Could not obtain certificates:\n\terror: one or more domains had it"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            f"{LEGO}\n[{HOST}] acme: error: 400 :: urn:ietf:params:acme:error:connection :: "
            "192.0.2.1: Fetching http://x/: Timeout during connect (likely firewall problem)",
            f"ca.example:14000 does not reach port 80 of {HOST}; open it in the firewalls",
        ),
        (
            f"{LEGO}\n[{HOST}] acme: error: 403 :: urn:ietf:params:acme:error:caa :: CAA record "
            f"for {HOST} prevents issuance",
            f"a CAA record forbids ca.example:14000 to issue for {HOST}",
        ),
        (
            f"{LEGO}\n[{HOST}] acme: error: 403 :: urn:ietf:params:acme:error:unauthorized :: "
            'Invalid response from http://x/: "<html>\x1b[31m404"',
            f"ca.example:14000 asked for {HOST} and got another answer than this machine's",
        ),
        (
            "acme: error: 429 :: POST :: https://ca.example/new-order :: "
            "urn:ietf:params:acme:error:rateLimited :: too many certificates (5) already issued",
            "ca.example:14000 has enough of our questions for now: too many certificates (5)",
        ),
        (
            "get directory at 'https://ca': Get \"https://ca\": dial tcp: lookup ca: no such host",
            "ca.example:14000 does not answer: lookup ca: no such host",
        ),
        (
            'Get "https://ca": x509: certificate signed by unknown authority',
            "ca.example:14000 is not who it says, or its certificates are unknown here",
        ),
        (
            "Server requires External Account Binding. Use --eab",
            "ca.example:14000 wants an account",
        ),
        ("", "lego has no certificate: it said nothing"),
        ("urn:ietf:params:acme:error:odd :: x\ny", "ca.example:14000 refuses (odd): x"),
    ],
)
def test_the_cause_is_named(rules, said, sentence):
    trouble = acme.meaning(said, rules, NOW)
    assert str(trouble).startswith(sentence)


def test_a_page_of_html_instead_of_an_answer_is_cut(rules):
    began = time.monotonic()
    said = str(acme.meaning("get: " + "<p>" * 300000, rules, NOW))
    assert time.monotonic() - began < 1
    assert said.startswith("lego has no certificate: ")


@given(st.text() | st.text().map("urn:ietf:params:acme:error:connection :: {}".format))
def test_whatever_is_said_becomes_one_line_of_a_sentence(said):
    rules = {"server": "https://ca.example/dir", "hostname": HOST, "challenge": "http-01"}
    sentence = str(acme.meaning(said, rules, NOW))
    assert re.fullmatch(r"[\x20-\x7e]{1,600}", sentence)


@pytest.mark.parametrize(
    ("said", "until"),
    [
        ("retry after 2027-01-15 09:00:00 UTC: see https://", 1_800_003_600),
        ("retry after 2027-01-15T09:00:00Z", 1_800_003_600),
        ("retry after 2099-01-01 00:00:00", NOW + 7 * DAY),
        ("retry after 2027-99-99 00:00:00", NOW + DAY),
        ("retry after lunch", NOW + DAY),
    ],
)
def test_a_ca_that_says_when_is_asked_then(said, until):
    assert acme.retry(said, NOW) == until


# What comes is looked at


def test_a_certificate_is_served_only_if_clients_would_take_it(rules, authority, tmp_path):
    key, text = rules["key"], acme.read(rules["cert"])
    leaf, owner = authority.issue(HOST)
    (tmp_path / "o.key").write_text(key_pem(owner))

    def fault(chain, of=key, names=(HOST,), now=None):
        return acme.Certificate(chain).fault(names, of, now or time.time())

    assert fault(text) == ""
    assert fault(cert_pem(leaf, authority.intermediate)) == "it is of another key"
    assert fault(text, names=(HOST, "www.example.com")) == "it is not for www.example.com"
    assert fault(text, now=time.time() + 91 * DAY).startswith("it is not valid now")
    assert fault(text, now=time.time() - 2 * DAY).startswith("it is not valid now")
    chain = cert_pem(leaf, authority.root)
    assert fault(chain, of=tmp_path / "o.key") == "its chain is in the wrong order"
    # The name of the one that signed is not enough.
    chain = cert_pem(leaf, Authority().intermediate)
    assert fault(chain, of=tmp_path / "o.key") == "its chain is in the wrong order"


@pytest.mark.parametrize(
    "text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_not_served(text):
    with pytest.raises(acme.Trouble):
        acme.Certificate(text)


def test_a_certificate_whose_names_look_like_a_key_has_no_other_key(rules, authority):
    for name in ("-----BEGIN PUBLIC KEY-----END", f"x\n{acme.public(rules['key'])}"):
        leaf, _ = authority.issue(name, HOST)
        found = acme.Certificate(cert_pem(leaf, authority.intermediate))
        assert found.fault([HOST], rules["key"], time.time()) == "it is of another key"


def test_names_in_a_certificate_say_nothing_of_its_end(authority):
    leaf, _ = authority.issue(f"{HOST}\nnotAfter=Jan  1 00:00:00 2060 GMT", ends=9)
    assert acme.Certificate(cert_pem(leaf)).ends < time.time() + 10 * DAY


def test_what_no_daemon_could_start_with_is_not_served(rules, authority):
    """An intermediate of 1024 bits: smtpd and Dovecot say "ca key too small", and end."""
    weak = authority.weak()
    chain = cert_pem(
        authority.issue(HOST, key=loaded(acme.read(rules["key"])), by=weak)[0], weak[0]
    )
    said = acme.Certificate(chain).fault([HOST], rules["key"], time.time())
    assert said == "no daemon can be started with it (ca key too small)"


def test_a_chain_without_end_is_not_read_for_ever(rules, authority):
    pem = acme.read(rules["cert"])
    noise = "-----BEGIN CERTIFICATE-----\n" * 40000
    for text in (noise, pem + noise, pem.replace("-----END", "A" * 100000 + "\n-----END")):
        began = time.process_time()
        with contextlib.suppress(acme.Trouble):
            assert acme.Certificate(text).fault([HOST], rules["key"], time.time()) == ""
        assert time.process_time() - began < 5


def test_a_signer_that_is_larger_than_a_pipe_is_looked_at(rules, authority):
    alternatives = [f"{'x' * 50}.{n}.example" for n in range(1500)]
    leaf, _ = authority.issue(*alternatives)
    assert len(cert_pem(leaf)) > 1 << 16
    assert not acme.signed(acme.read(rules["cert"]), cert_pem(leaf))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_kind_of_a_key_is_known(kind, tmp_path):
    path = tmp_path / "k"
    path.write_text(key_pem(new_key(kind)))
    assert acme.kind(path) == kind
    path.write_text(acme.openssl("genpkey", *acme.KINDS[kind]))
    assert acme.kind(path) == kind


@pytest.mark.parametrize(
    ("ends", "begins", "due"),
    [(31, -59, False), (29, -61, True), (16, -29, False), (14, -31, True), (3, -3, False)],
)
def test_it_is_due_when_a_third_of_its_life_is_left(rules, authority, ends, begins, due):
    chain, key = authority.pems(HOST, begins=begins, ends=ends)
    acme.write(rules["cert"], chain)
    acme.write(rules["key"], key)
    assert bool(acme.due(rules, [HOST], rules["key"], time.time())) == due


# A run: everything but the CA is there. Here a CA that cannot be reached stands for it; the lab has
# a real one.


def leading(monkeypatch, *addresses):
    info = [(2, 1, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(acme.socket, "getaddrinfo", lambda *a, **k: info)
    monkeypatch.setattr(acme, "taken", lambda port: "")


def lego(rules, said, status=1):
    """A program that says that and ends so."""
    acme.write(
        rules["lego"],
        f"#!/bin/sh\necho ran >>{rules['lego']}.ran\necho '{said}'\nexit {status}\n",
        0o755,
    )


def ran(rules):
    return acme.read(f"{rules['lego']}.ran").count("ran")


@pytest.fixture
def late(rules, authority, monkeypatch):
    """The same, with a certificate that ends soon."""
    leading(monkeypatch, "192.0.2.1")
    chain, key = authority.pems(HOST, begins=-80, ends=10)
    acme.write(rules["cert"], chain)
    acme.write(rules["key"], key)
    return rules


def test_a_certificate_that_will_do_is_left_alone(rules):
    lego(rules, "asked")
    assert acme.run(rules, False) == ""
    assert ran(rules) == 0


def test_a_ca_that_refuses_is_asked_less_and_less(late, monkeypatch):
    lego(late, "urn:ietf:params:acme:error:serverInternal :: down")
    now, asked = [time.time()], []
    monkeypatch.setattr(acme.time, "time", lambda: now[0])
    for _ in range(4 * 24 * 2):  # four days
        before = ran(late)
        assert acme.run(late, False).startswith("ca.example:14000 has a trouble of its own")
        if ran(late) > before:
            asked.append(now[0])
        now[0] += 1800
    waits = [round((b - a) / 1800) for a, b in itertools.pairwise(asked)]
    assert waits == [1, 2, 4, 8, 16, 32, 48, 48]
    assert json.loads(acme.read(f"{late['directory']}/said"))["since"] == time.strftime(
        "%Y-%m-%d", time.gmtime(asked[0])
    )
    # By hand at once; with another pillar, too.
    before = ran(late)
    acme.run(late, True)
    acme.run({**late, "email": "b@example.com"}, False)
    assert ran(late) == before + 2


def test_what_can_be_seen_here_is_not_asked_of_the_ca(late, monkeypatch):
    lego(late, "asked")
    leading(monkeypatch, "192.0.2.1", "2001:db8::1")
    said = acme.run(late, False)
    assert said.startswith(f"{HOST} leads to 2001:db8::1, which is not this machine")
    assert ran(late) == 0
    # And as soon as it is right, it is asked.
    leading(monkeypatch, "192.0.2.1")
    assert acme.run(late, False) == "lego has no certificate: asked"


def test_a_further_name_is_had_when_it_leads_here_and_is_named_while_it_does_not(
    rules, monkeypatch
):
    lego(rules, "asked")
    rules["names"] = ["mta-sts.example.com"]
    monkeypatch.setattr(
        acme, "leads", lambda name, addresses: "" if name == HOST else f"{name} leads elsewhere"
    )
    assert acme.run(rules, False) == "mta-sts.example.com leads elsewhere"
    assert ran(rules) == 0
    leading(monkeypatch, "192.0.2.1")
    monkeypatch.setattr(acme, "leads", lambda name, addresses: "")
    assert acme.run(rules, False) == "lego has no certificate: asked"
    request = ["openssl", "req", "-noout", "-text", "-in", f"{rules['directory']}/request.pem"]
    said = subprocess.run(request, capture_output=True, text=True, check=True).stdout
    assert f"DNS:{HOST}, DNS:mta-sts.example.com" in said


def ca(rules, tmp_path, key, refused=""):
    """One that gives what was asked for, but for the name that it refuses."""
    problem = f"[{refused}] acme: error: 403 :: urn:ietf:params:acme:error:caa :: CAA forbids"
    acme.write(
        rules["lego"],
        f"""#!/bin/sh
echo ran >>{rules["lego"]}.ran
cd {rules["directory"]}
openssl req -noout -text -in request.pem | grep DNS: >names
! grep -q '{refused or "none"}' names || {{ echo '{problem}'; exit 1; }}
mkdir -p certificates
{sys.executable} {tmp_path}/sign.py
""",
        0o755,
    )
    (tmp_path / "sign.py").write_text(
        f"""import sys
sys.path.insert(0, {str(LAB)!r})
from authority import Authority, cert_pem
from cryptography.hazmat.primitives import serialization
names = [word[4:] for word in open("names").read().replace(",", " ").split()]
key = serialization.load_pem_private_key(open({key!r}, "rb").read(), None)
authority = Authority()
leaf, _ = authority.issue(*names, key=key)
with open(f"certificates/{{names[0]}}.crt", "w") as file:
    file.write(cert_pem(leaf, authority.intermediate))
"""
    )


def served(rules):
    return acme.Certificate(acme.read(rules["cert"])).names


def test_names_that_come_to_lead_here_one_by_one_are_asked_for_once_an_hour(
    rules, tmp_path, monkeypatch
):
    ca(rules, tmp_path, rules["key"])
    rules["names"] = [f"mta-sts.{n}.example" for n in range(12)]
    now, lead = [time.time()], {HOST}
    monkeypatch.setattr(acme.time, "time", lambda: now[0])
    monkeypatch.setattr(acme, "taken", lambda port: "")
    monkeypatch.setattr(
        acme, "leads", lambda name, addresses: "" if name in lead else f"{name} leads nowhere"
    )
    for name in rules["names"]:  # one every ten minutes
        lead.add(name)
        said = acme.run(rules, False)
        now[0] += 600
        assert ("leads nowhere" in said) == (name != rules["names"][-1])
    assert ran(rules) == 2
    assert json.loads(acme.read(f"{rules['directory']}/said"))["short"] is True
    assert said == "further names are asked for an hour after the last"
    now[0] += 3600
    assert acme.run(rules, False) == ""
    assert (ran(rules), served(rules)) == (3, {HOST, *rules["names"]})
    # All are there: nobody looks into DNS, and a name more is not asked for by itself for an hour.
    lead.clear()
    assert acme.run(rules, False) == ""
    assert ran(rules) == 3


def test_a_name_that_the_ca_refuses_keeps_the_host_from_nothing(late, tmp_path):
    bad, good = "mta-sts.bad.example", "mta-sts.good.example"
    ca(late, tmp_path, late["key"], bad)
    late["names"] = [bad, good]
    said = acme.run(late, False)
    assert said.startswith(f"a CAA record forbids ca.example:14000 to issue for {bad};")
    assert (ran(late), served(late)) == (2, {HOST, good})
    memory = json.loads(acme.read(f"{late['directory']}/said"))
    assert (memory["short"], memory["tries"]) == (True, 1)
    # It is asked again, less and less, and no other certificate is made for it.
    assert acme.run(late, False) == said
    assert ran(late) == 2
    acme.run(late, True)
    assert ran(late) == 3


def test_with_a_web_server_the_ca_is_answered_by_it(rules, monkeypatch, tmp_path):
    monkeypatch.setattr(acme, "taken", lambda port: "port 80 is taken")
    monkeypatch.setattr(acme, "leads", lambda name, addresses: "")
    lego(rules, "asked")
    rules["names"] = ["mta-sts.example.com"]
    assert acme.run(rules, False) == "port 80 is taken"
    rules["webroot"] = str(tmp_path)
    assert acme.challenge(rules) == ["--http", "--http.webroot", str(tmp_path)]
    acme.write(rules["lego"], "#!/bin/sh\numask\nexit 1\n", 0o755)
    before = os.umask(0o077)  # the unit's
    try:
        # What it writes there is read by another user.
        assert acme.run(rules, True) == "lego has no certificate: 0022"
    finally:
        os.umask(before)


def test_a_refusal_is_still_said_after_something_else_was(late, monkeypatch):
    lego(late, "urn:ietf:params:acme:error:serverInternal :: down")
    first = acme.run(late, False)
    leading(monkeypatch, "192.0.2.9")
    assert acme.run(late, False) != first
    leading(monkeypatch, "192.0.2.1")
    assert acme.run(late, False) == first


def test_a_clock_that_was_wrong_keeps_nothing_waiting(late):
    lego(late, "asked")
    acme.run(late, False)
    memory = json.loads(acme.read(f"{late['directory']}/said"))
    acme.write(f"{late['directory']}/said", json.dumps({**memory, "again": time.time() + 99 * DAY}))
    acme.run(late, False)
    assert ran(late) == 2


def giving(rules, chain):
    """A CA that gives this."""
    acme.write(f"{rules['directory']}/given", chain)
    came = f"{rules['directory']}/certificates"
    acme.write(
        rules["lego"],
        f"#!/bin/sh\necho ran >>{rules['lego']}.ran\nmkdir -p {came}\n"
        f"cp {rules['directory']}/given {came}/{HOST}.crt\n",
        0o755,
    )


def renewal(rules, authority, **options):
    leaf, _ = authority.issue(HOST, key=loaded(acme.read(rules["key"])), **options)
    return cert_pem(leaf, authority.intermediate)


def test_what_comes_is_served(late, authority):
    chain = renewal(late, authority)
    giving(late, chain)
    for _ in range(3):
        assert acme.run(late, False) == ""
    assert (ran(late), acme.read(late["cert"])) == (1, chain)


@pytest.mark.parametrize(
    "chain",
    [
        "",
        "<html>",
        "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n",
        cert_pem(Authority().issue(HOST)[0]),
    ],
)
def test_a_ca_that_gives_what_is_not_served_is_not_asked_every_quarter_of_an_hour(late, chain):
    before = acme.read(late["cert"])
    giving(late, chain)
    said = {acme.run(late, False) for _ in range(3)}
    assert len(said) == 1
    assert "" not in said
    assert (ran(late), acme.read(late["cert"])) == (1, before)


def test_a_certificate_that_has_no_room_on_the_disk_is_not_asked_for_again_and_again(
    late, authority, monkeypatch
):
    giving(late, renewal(late, authority))
    write = acme.write

    def full(path, text, mode=0o600):
        if path == late["cert"]:
            raise OSError(28, "No space left on device", path)
        write(path, text, mode)

    monkeypatch.setattr(acme, "write", full)
    for _ in range(3):
        assert "No space left on device" in acme.run(late, False)
    assert ran(late) == 1


def test_where_nothing_can_be_written_one_line_says_why(late):
    path = f"{late['directory']}/c.json"
    # Nobody resolves a name here.
    acme.write(path, json.dumps({**late, "challenge": "dns-01", "provider": "manual"}))
    program = [sys.executable, "-I", SPEC.origin, path]
    full = ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *program]
    done = subprocess.run(full, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("File too large\n")
    assert done.stderr.count("\n") == 1


def test_one_that_is_killed_while_it_asks_does_not_ask_again_at_once(late, authority):
    giving(late, renewal(late, authority))
    acme.write(late["lego"], acme.read(late["lego"]) + "kill -KILL $PPID\n", 0o755)
    path = f"{late['directory']}/c.json"
    # Nobody resolves a name here.
    acme.write(path, json.dumps({**late, "challenge": "dns-01", "provider": "manual"}))
    command = [sys.executable, "-I", SPEC.origin, path]
    assert subprocess.run(command, capture_output=True).returncode == -9
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "it was stopped while it asked ca.example:14000; it asks again soon\n"
    assert ran(late) == 1


def test_a_clock_that_is_ahead_does_not_use_up_what_the_ca_gives(late, authority, monkeypatch):
    """The CA's clock is right: each certificate that comes is near its end, here."""
    chain = renewal(late, authority, begins=-70, ends=20)
    giving(late, chain)
    for _ in range(3):
        said = acme.run(late, False)
    assert said.endswith("less than a third of its life is left; is this machine's clock right?")
    assert (ran(late), acme.read(late["cert"])) == (1, chain)


def test_what_a_ca_says_moves_no_cursor_of_a_terminal(late, capsys):
    lego(late, "urn:ietf:params:acme:error:dns :: \033[2J\u202e")
    acme.run(late, False)
    assert re.fullmatch(r"[\n\x20-\x7e]+", capsys.readouterr().out)


def test_what_is_missing_here_is_not_counted_as_a_question(late, authority):
    chain = renewal(late, authority)
    giving(late, chain)
    os.chmod(late["lego"], 0o600)
    assert "cannot be started" in acme.run(late, False)
    ca = {**late, "ca": "/nonexistent.pem"}
    os.chmod(late["lego"], 0o755)
    assert "/nonexistent.pem cannot be read" in acme.run(ca, False)
    assert acme.run(late, False) == ""
    assert acme.read(late["cert"]) == chain


@pytest.mark.parametrize(
    "left", ["{", "[]", '{"served": 5}', '{"again": "x"}', '{"again": 9e99}', "\0\0\0", "5"]
)
def test_a_memory_of_its_own_that_is_none_does_not_stop_it(late, left):
    lego(late, "asked")
    acme.write(f"{late['directory']}/said", left)
    assert acme.run(late, False) == "lego has no certificate: asked"


def test_a_next_key_takes_its_place_wherever_it_was_killed(rules, authority):
    old, new = acme.read(rules["key"]), key_pem(new_key())
    served = acme.read(rules["cert"])

    def staged():
        acme.write(f"{rules['next']}.key", new)
        leaf, _ = authority.issue(HOST, key=loaded(new))
        return cert_pem(leaf, authority.intermediate)

    chain = staged()
    for killed in range(5):
        acme.write(rules["key"], old if killed < 1 else new)
        acme.write(rules["cert"], served if killed < 2 else chain)
        acme.write(f"{rules['next']}.key", new)
        acme.write(f"{rules['next']}.crt", chain)
        acme.write(f"{rules['next']}.shown", "5")
        if killed > 2:
            acme.remove(f"{rules['next']}.crt")
        if killed > 3:
            acme.remove(f"{rules['next']}.shown")
        acme.go_on(rules)
        assert [acme.read(rules["key"]), acme.read(rules["cert"])] == [new, chain]
        assert not [
            *filter(os.path.exists, (f"{rules['next']}.{x}" for x in ("key", "crt", "shown")))
        ]


@pytest.mark.parametrize("what", ["key", "crt"])
def test_what_is_no_next_key_and_no_certificate_goes(rules, what):
    acme.write(f"{rules['next']}.{what}", "nothing")
    assert acme.run(rules, False) == ""
    assert not os.path.exists(f"{rules['next']}.{what}")


def test_a_certificate_that_was_emptied_is_had_again(late):
    lego(late, "asked")
    acme.write(late["cert"], "")
    assert acme.run(late, False) == "lego has no certificate: asked"


def test_a_daemon_that_does_not_take_it_keeps_none_of_the_others_from_it(late, tmp_path):
    told = [tmp_path / "one", tmp_path / "two"]
    late["daemons"] = [
        {"tell": ["sh", "-c", f"echo x >>{path}; test {path.name} = two"], "record": str(path)}
        for path in told
    ]
    acme.run(late, False)
    acme.write(late["key"], acme.read(late["key"]) + "\n")
    for _ in range(3):
        assert acme.run(late, False).endswith("failed: ")
    assert [path.read_text() for path in told] == ["x\n" * 3, "x\n"]


def test_with_dane_a_next_key_waits_until_it_was_shown_for_a_while(rules):
    rules["dane"] = True
    key = f"{rules['next']}.key"
    assert acme.next_key(rules) == rules["key"]
    assert acme.next_key(rules, made=True) == rules["key"]
    assert os.stat(key).st_mode & 0o777 == 0o600
    for shown in ("", "x\n", f"{int(time.time())}\n"):
        acme.write(f"{rules['next']}.shown", shown)
        assert acme.next_key(rules) == rules["key"]
    acme.write(f"{rules['next']}.shown", f"{int(time.time()) - acme.FORGOTTEN}\n")
    assert acme.next_key(rules) == key
    assert acme.next_key({**rules, "dane": False}) == key


def test_another_kind_of_key_in_the_pillar_makes_a_next_key(rules):
    assert acme.next_key({**rules, "kind": "rsa"}) == f"{rules['next']}.key"
    assert acme.kind(f"{rules['next']}.key") == "rsa"


def test_the_daemons_are_told_once_and_again_where_it_failed(rules, authority, tmp_path):
    told = tmp_path / "told"
    record = tmp_path / "record"
    record.write_text(json.dumps({"process": [1, 2], "taken": {"/x": ["a", 1]}}))
    tell = ["sh", "-c", f"echo x >>{told}; test -e {tmp_path}/up"]
    rules["daemons"] = [{"tell": tell, "record": str(record)}]
    assert acme.run(rules, False) == ""
    assert not told.exists()
    leaf, _ = authority.issue(HOST, key=loaded(acme.read(rules["key"])))
    acme.write(rules["cert"], cert_pem(leaf, authority.intermediate))
    for _ in range(2):
        assert acme.run(rules, False).startswith("sh -c ")
    (tmp_path / "up").write_text("")
    assert acme.run(rules, False) == acme.run(rules, False) == ""
    assert told.read_text() == "x\nx\nx\n"
    taken = json.loads(record.read_text())["taken"]
    assert taken.keys() == {"/x", rules["cert"], rules["key"]}
    assert taken[rules["cert"]][1] == os.stat(rules["cert"]).st_mtime_ns


def test_a_next_key_that_the_highstate_takes_meanwhile_empties_nothing(
    rules, authority, monkeypatch
):
    new, old = key_pem(new_key()), acme.read(rules["key"])
    acme.write(f"{rules['next']}.key", new)
    leaf, _ = authority.issue(HOST, key=loaded(new))
    acme.write(f"{rules['next']}.crt", cert_pem(leaf, authority.intermediate))
    fits = acme.Certificate.fits

    def taken(self, key):
        found = fits(self, key)
        acme.remove(f"{rules['next']}.key", f"{rules['next']}.crt")
        return found

    monkeypatch.setattr(acme.Certificate, "fits", taken)
    acme.go_on(rules)
    assert acme.read(rules["key"]) in (old, new)
    assert acme.read(rules["cert"])


def test_a_new_next_key_was_not_shown_when_the_one_before_was(rules):
    rules["dane"] = True
    acme.write(f"{rules['next']}.shown", "5")  # somebody has removed that key
    assert acme.next_key(rules, made=True) == rules["key"]
    assert acme.next_key(rules) == rules["key"]


def test_a_next_key_that_was_shown_by_a_clock_that_was_ahead_is_not_used(rules):
    rules["dane"] = True
    acme.next_key(rules, made=True)
    for shown in ("²", "9" * 5000, f"{int(time.time()) + 10}"):
        acme.write(f"{rules['next']}.shown", shown)
        assert acme.next_key(rules) == rules["key"]


# The account of an account


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_a_signature_is_two_numbers_of_32_octets(r, s):
    assert acme.raw(encode_dss_signature(r, s)) == r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Server(http.server.ThreadingHTTPServer):
    """A CA that says one thing to everybody."""

    def __init__(self, said):
        class Says(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(said)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Says)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"<html>",
        b"[]",
        b"5",
        b"null",
        b'{"newNonce": 5}',
        b'{"newNonce": "file:///etc/passwd"}',
        b"[" * 200000,
        b"\xff" * (1 << 21),
    ],
)
def test_a_ca_of_accounts_that_answers_nonsense_is_named(rules, said, tmp_path, authority):
    server = Server(said)
    leaf, key = authority.issue("localhost")
    (tmp_path / "ca.crt").write_text(cert_pem(authority.root))
    (tmp_path / "ca.both").write_text(cert_pem(leaf, authority.intermediate) + key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.both")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    acme.write(rules["cert"], "")
    rules |= {
        "challenge": "dns-01",
        "server": f"https://localhost:{server.server_port}/dir",
        "ca": str(tmp_path / "ca.crt"),
        "eab": {"kid": "k", "hmac": SECRET},
    }
    lego(rules, "asked")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        sentences = {acme.run(rules, False) for _ in range(2)}
    finally:
        server.shutdown()
        server.server_close()
    assert sentences == {f"{rules['server']} is no directory of a CA; mailsrv:tls:acme:server"}
    assert ran(rules) == 0


# The configuration


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"hostname": 5}'])
def test_nonsense_is_refused_by_the_check_and_nothing_of_it_is_shown(text, tmp_path):
    path = tmp_path / "acme.json"
    path.write_text(text)
    command = [sys.executable, "-I", SPEC.origin, "check", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path}: ")


def test_a_sound_configuration_passes_the_check(rules, tmp_path):
    path = tmp_path / "acme.json"
    path.write_text(json.dumps(rules))
    command = [sys.executable, "-I", SPEC.origin, "check", path]
    assert subprocess.run(command, capture_output=True).returncode == 0
    path.write_text(json.dumps({**rules, "challenge": "x"}))
    assert subprocess.run(command, capture_output=True).returncode == 1
