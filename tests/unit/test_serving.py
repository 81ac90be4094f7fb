"""`mailsrv:web` of the pillar: who serves the policies and settings."""

import pytest
import yaml
from _mailsrv import records

from reading import HOST, faults, model

ITSELF = "tls: {acme: {email: a@example.com"


def given(text, domains=("example.com", "test.com")):
    return {"domains": [*domains], "mailsrv": yaml.safe_load(f"{{{text}}}")}


def test_this_machine_is_its_own_web_host_and_no_other_has_to_be_named():
    found = model(given("web: true, dns: {mta_sts: testing}"))
    assert (found["web"], found["dns"]["web"]) == (True, HOST)
    assert model(given(f"web: true, dns: {{web: {HOST}}}")) == model(given("web: true"))
    assert records.web_names(found) == [
        "mta-sts.example.com",
        "autoconfig.example.com",
        "mta-sts.test.com",
        "autoconfig.test.com",
    ]
    shown = records.records(found, {"example.com": {}, "test.com": {}}, [])
    for domain in found["domains"]:
        aliases = {r["name"]: r["value"] for r in shown[domain] if r["type"] == "CNAME"}
        names = {url.split("/")[2] + "." for url in records.web_files(domain, found)}
        assert aliases == dict.fromkeys(names, f"{HOST}.")


@pytest.mark.parametrize("text", ["", "web: false", "web: ~", "dns: {web: www.example.net}"])
def test_without_the_key_nothing_is_served_here(text):
    found = model(given(text))
    assert found["web"] is False
    assert found["dns"]["web"] == ("www.example.net" if "www" in text else None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("web: here", "mailsrv:web: 'here' is no switch; write true or false"),
        (
            "web: true, dns: {web: www.example.net}",
            "mailsrv:dns:web: www.example.net is not this machine, mx.example.com, which serves "
            "the files itself by mailsrv:web; remove one of them",
        ),
        (
            f"web: true, {ITSELF}, challenge: tls-alpn-01}}}}",
            "mailsrv:tls:acme:challenge: tls-alpn-01 wants port 443, where mailsrv:web serves; "
            "write http-01 or dns-01",
        ),
        (
            "web: true, hostname: autoconfig.test.com",
            "mailsrv:web: autoconfig.test.com is to lead to this host as an alias, and cannot be a "
            "host or a mail domain itself; choose another name for that",
        ),
        (
            "web: true, dns: {mta_sts: enforce}",
            "mailsrv:dns:mta_sts: nobody who enforces it takes a self-signed certificate; name one "
            "that the world trusts in mailsrv:tls, or write testing",
        ),
    ],
)
def test_what_does_not_go_together_is_named_with_its_cure(text, sentence):
    assert faults(given(text)) == [sentence]


def test_a_certificate_has_names_for_so_many_domains():
    domains = [f"d{n}.example" for n in range(49)]
    assert len(records.web_names(model(given(f"web: true, {ITSELF}}}}}", domains)))) == 98
    assert model(given("web: true", [*domains, "one.more"]))["web"]
    (found,) = faults(given(f"web: true, {ITSELF}}}}}", [*domains, "one.more"]))
    assert found.startswith("mailsrv:web: a certificate by mailsrv:tls:acme has 100 names at most")


def test_where_no_web_server_is_known_another_host_is_to_be_named():
    (found,) = faults(given("web: true"), family="FreeBSD")
    assert found.startswith("mailsrv:web: this system has no web server that this formula knows;")
