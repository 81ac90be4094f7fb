"""mailsrv.backup_paths: what to keep of a machine, and what not."""

import os

import pytest
import yaml

from saltext.mailsrv.modules import mailsrv

CLIENT = "/etc/letsencrypt/live/mx.example.com"


@pytest.fixture
def machine(loader, known, tmp_path):
    """A machine whose files are below `tmp_path`: what its backup holds, for a `mailsrv:`."""

    def of(mailsrv_, family="Debian", domains=("example.com",)):
        facts = known(family)
        moved = yaml.safe_dump(facts).replace(": /", f": {tmp_path}/")
        facts |= yaml.safe_load(moved)
        loader["__opts__"] |= {
            "id": "web1.example.com",
            "file_client": "local",
            "pillar_roots": {"base": [str(tmp_path / "srv/pillar")]},
        }
        accounts = {"domains": [*domains], "accounts": [["a@example.com", "x"]]} if domains else {}
        loader["__pillar__"].clear()
        loader.next_run(**accounts, mailsrv=mailsrv_)
        found = mailsrv.backup_paths()
        bare = {part: {strip(p): v for p, v in found[part].items()} for part in found}
        return bare["paths"], bare["left out"]

    def strip(path):
        return path.removeprefix(str(tmp_path))

    return of


@pytest.fixture
def put(tmp_path):
    def put(*names, size=100):
        for name in names:
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))

    return put


SERVER = {
    "Debian": ("/var/vmail", "/etc/mail", "/etc/dovecot", "/var/lib/mailsrv"),
    "FreeBSD": ("/vmail", "/usr/local/etc/mail", "/usr/local/etc/dovecot", "/var/db/mailsrv"),
}


@pytest.mark.parametrize("family", SERVER)
def test_mail_keys_and_pillar_of_a_mail_machine_are_kept(machine, put, family):
    home, etc, dovecot, state = SERVER[family]
    kept = {
        "/srv/pillar": ["mail/users.sls", "top.sls"],
        home: ["example.com/a/mdbox/storage/m.1", "example.com/a/sieve/mine.sieve"],
        f"{etc}/dkim": ["example.com/s1.private", "example.com/rsa.signing"],
        f"{etc}/srs.conf": [""],
        f"{state}/blocked": [""],
        f"{etc}/tls/mx.example.com.crt": [""],
        f"{etc}/tls/mx.example.com.key": [""],
    }
    put(*(os.path.join(path, name).rstrip("/") for path, names in kept.items() for name in names))
    put(f"{etc}/password.key", f"{etc}/credentials", f"{dovecot}/dovecot-passwd", f"{etc}/virtuals")
    paths, left = machine({}, family)
    assert {path: entry["bytes"] for path, entry in paths.items()} == {
        path: 100 * len(names) for path, names in kept.items()
    }
    assert all(entry["why"] for entry in paths.values())
    assert [*left] == [
        f"{etc}/password.key",
        f"{dovecot}/dovecot-passwd",
        f"{etc}/credentials",
        "/var/spool/smtpd",
        f"{state}/guard",
    ]
    assert "tells a thief" in left[f"{etc}/password.key"]


def test_what_is_not_there_is_not_named(machine):
    assert machine({})[0] == {}


def test_links_are_not_followed(machine, put, tmp_path):
    put("elsewhere/large", "/var/vmail/example.com/a/file", size=5000)
    (tmp_path / "var/vmail/example.com/link").symlink_to(tmp_path / "elsewhere")
    assert machine({})[0]["/var/vmail"]["bytes"] < 5500


def test_the_pillar_of_a_master_is_not_here(machine, put, loader):
    put("srv/pillar/top.sls")
    assert "/srv/pillar" in machine({})[0]
    loader["__opts__"]["file_client"] = "remote"
    assert mailsrv.backup_paths()["paths"] == {}


def test_a_certificate_of_the_pillar_is_kept_if_it_is_no_link(machine, put, tmp_path):
    tls = {"cert": f"{tmp_path}/etc/ssl/mx.pem", "key": "salt://mx.key"}
    put("etc/ssl/mx.pem", "etc/mail/tls/mx.example.com.copy.crt")
    assert [*machine({"tls": tls})[0]] == ["/etc/ssl/mx.pem"]


def test_a_link_of_an_acme_client_is_left_to_the_backup_of_the_client(machine, put, tmp_path):
    put("etc/letsencrypt/archive/mx1.pem")
    live = tmp_path / CLIENT[1:]
    live.mkdir(parents=True)
    for part in ("fullchain", "privkey"):
        (live / f"{part}.pem").symlink_to("../../archive/mx1.pem")
    tls = {"cert": f"{live}/fullchain.pem", "key": f"{live}/privkey.pem"}
    paths, left = machine({"tls": tls})
    assert paths == {}
    assert "the client's whole directory" in left[f"{CLIENT}/privkey.pem"]


@pytest.mark.parametrize(
    ("agent", "spool"), [("opensmtpd", "/var/spool/smtpd"), ("dma", "/var/spool/dma")]
)
def test_of_a_satellite_its_credential_is_kept(machine, put, tmp_path, agent, spool):
    put("etc/mail/satellite.password", "etc/mail/satellite.hash", "etc/mail/satellite.secrets")
    put("etc/mail/relay.pem", "etc/ssl/relay.pem")
    settings = {"relay": "mx.example.com", "root": "a@example.com", "agent": agent}
    settings["ca"] = f"{tmp_path}/etc/ssl/relay.pem"
    paths, left = machine({"satellite": settings}, domains=())
    assert [*paths] == [
        "/etc/mail/satellite.password",
        "/etc/mail/satellite.hash",
        "/etc/ssl/relay.pem",
    ]
    assert [*left] == [spool]


def test_a_machine_that_is_both_keeps_both(machine, put):
    put("etc/mail/satellite.password", "etc/mail/srs.conf")
    settings = {"relay": "mx.example.org", "root": "a@example.com"}
    assert [*machine({"satellite": settings})[0]] == [
        "/etc/mail/satellite.password",
        "/etc/mail/srs.conf",
    ]


def test_a_name_server_that_signs_keeps_its_keys(machine, put):
    put("var/lib/mailsrv-signer/keys/data.mdb", "var/lib/mailsrv-signer/journal/data.mdb")
    paths, left = machine({"nsd": {"machines": {"mx1": ["example.com"]}}}, domains=())
    assert ([*paths], left) == (["/var/lib/mailsrv-signer/keys"], {})
