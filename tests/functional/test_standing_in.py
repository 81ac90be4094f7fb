"""A backup MX: what the formula writes on it, from the mine and from what stood there before."""

import json

import pytest

HOST = "mx.example.com"
ID = "minion.due.example"  # whose mine a masterless minion sees: its own
PUBLISHED = {
    "hostname": "mail.due.example",
    "message_size": "50M",
    "certificate": "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n",
    "closed": ["203.0.113.7/32", "2001:db8:7::/48"],
    "domains": {"due.example": ["ann", "list-*"], "tre.example": [""], "not.given": ["x"]},
}
OWNED = {"backup_for": {ID: ["due.example", "tre.example", "quattro.example"]}}
TO = "match from any for domain"


def ours(text):
    """The lines of smtpd.conf that are about backups."""
    return [line for line in text.splitlines() if "backup" in line or "warn-interval" in line]


@pytest.fixture(scope="module")
def backup(minion, pillar):
    """A backup of itself, as far as its id goes, and Salt's own way to its mine."""
    return minion(id=ID)


@pytest.fixture
def published(backup):
    """Put something into the mine."""

    def publish(given):
        backup("data.update", "mine_cache", {"backup_mx.recipients": given} if given else {})
        backup._known.clear()
        backup._functions.pack["__context__"].clear()

    yield publish
    publish(None)


def test_without_the_key_nothing_is_there(minion):
    files = minion().files()
    assert ours(files["/etc/smtpd.conf"]) == []
    assert not [name for name in files if name.startswith("/etc/mail/backup")]
    guard = json.loads(files["/etc/mail/guard.json"])
    assert (guard["backups"], guard["unknown"]) == ({}, [])
    assert minion().state("file: mailsrv-opensmtpd-backup")["fun"] == "absent"


def test_what_the_primary_has_published_is_taken_and_kept(backup, published):
    published(PUBLISHED)
    files = backup.files(**OWNED)
    assert files["/etc/mail/backup/recipients"].splitlines()[2:] == [
        "ann@due.example",
        "@tre.example",
    ]
    assert ours(files["/etc/smtpd.conf"]) == [
        "table backups file:/etc/mail/backup/recipients",
        "bounce warn-interval 5d",
        f'ca "backup1" cert "/etc/mail/backup/{ID}.pem"',
        'table backup1 { "due.example", "tre.example" }',
        f'action "backup-{ID}" relay host "smtp+tls://mail.due.example" ca "backup1" '
        f"helo {HOST} ttl 5d",
        f'{TO} <backup1> rcpt-to <backups> action "backup-{ID}"',
        f'{TO} "due.example" rcpt-to regex "^list-[A-Za-z0-9._=-]+([+][^@]*)?@due[.]example$" '
        f'action "backup-{ID}"',
        'match from any mail-from regex "^@?$" for domain <backup1> rcpt-to regex '
        f'"^[Ss][Rr][Ss][01]=" action "backup-{ID}"',
        f"{TO} <backup1> reject",
    ]
    assert files[f"/etc/mail/backup/{ID}.pem"] == PUBLISHED["certificate"]
    guard = json.loads(files["/etc/mail/guard.json"])
    closed = PUBLISHED["closed"]
    assert guard["backups"] == {"due.example": closed, "tre.example": closed}
    assert guard["unknown"] == ["quattro.example"]
    service = backup.state("daemon: mailsrv-opensmtpd-service", **OWNED)
    table = str(backup.at("/etc/mail/backup/recipients"))
    assert service["update"][table] == "smtpctl update table backups"
    assert str(backup.at(f"/etc/mail/backup/{ID}.pem")) in service["restart"]
    known = json.loads(files["/etc/mail/backup/known"])
    assert known[ID]["domains"] == {"due.example": ["ann", "list-*"], "tre.example": [""]}

    published(None)  # the primary is gone, or its mine was cleared
    assert backup.files(**OWNED) == files
    published({**PUBLISHED, "domains": {"due.example": ["ann\n@gmail.com"]}})
    assert backup.files(**OWNED) == files
    notes = [c["text"] for c in backup.low(**OWNED) if c["__id__"].startswith("mailsrv-note")]
    assert any("nobody's name" in note for note in notes)
    backup.at(KNOWN := "/etc/mail/backup/known").write_text("[7")
    published(None)
    guard = json.loads(backup.files(**OWNED)["/etc/mail/guard.json"])
    assert guard["unknown"] == OWNED["backup_for"][ID]
    backup.at(KNOWN).unlink()


def test_the_first_run_puts_mail_off_and_refuses_nobody(backup, published):
    published(None)
    files = backup.files(**OWNED)
    guard = json.loads(files["/etc/mail/guard.json"])
    assert (guard["backups"], guard["unknown"]) == ({}, OWNED["backup_for"][ID])
    assert json.loads(files["/etc/mail/backup/known"]) == {}
    assert ours(files["/etc/smtpd.conf"]) == [
        "table backups file:/etc/mail/backup/recipients",
        "bounce warn-interval 5d",
    ]


def test_users_of_a_backup_are_signed_by_dkimproxy_first(backup, published):
    published(PUBLISHED)
    text = backup.files(dkim={"signer": "dkimproxy"}, **OWNED)["/etc/smtpd.conf"]
    rules = [line for line in ours(text) if line.startswith("match")]
    assert rules[:3] == [
        f'match tag DKIM for domain <backup1> action "backup-{ID}"',
        'match from auth for domain <backup1> rcpt-to <backups> action "sign"',
        f'{TO} <backup1> rcpt-to <backups> action "backup-{ID}"',
    ]


def test_the_primary_lets_its_backup_send_as_its_own(minion):
    backup = {"mx2.example.net": ["192.0.2.2", "2001:db8::2"]}
    files = minion().files(backup=backup)
    closed = json.loads(files["/etc/mail/guard.json"])["closed"]
    assert closed == ["192.0.2.2", "2001:db8::2"]
    assert ours(files["/etc/smtpd.conf"]) == []
    files = minion().files(backup=backup, dns={"spf": "mx ~all"})
    assert json.loads(files["/etc/mail/guard.json"])["closed"] is None
