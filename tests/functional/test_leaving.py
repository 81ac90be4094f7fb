"""By which ways mail leaves: what the formula writes for it."""

HOST = "mx.example.com"
A = {"host": "smtp.a.example", "user": "us", "password": "p:ss {{ w }} #rd"}
B = {"host": "smtp.b.example", "port": 465, "ca": "/etc/ssl/b.pem"}
SOME = {
    "senders": {"example.com": A, "test.com": "direct"},
    "recipients": {"Partner.example": B, "near.example": "direct"},
}
OWN = "from src <here> mail-from <ours>"
BEGINS = ('action "relay', 'action "forw', "match from auth", "match tag", "match from s")


def leaving(machine, **mailsrv):
    """The rules and actions by which mail leaves."""
    lines = machine.files(**mailsrv)["/etc/smtpd.conf"].splitlines()
    return [line for line in lines if line.startswith(BEGINS) and "for local" not in line]


def test_without_the_key_mail_leaves_to_the_mx(minion):
    assert leaving(minion()) == [
        f'action "relay" relay helo {HOST}',
        f'action "forward" relay helo {HOST} srs',
        'match from auth for any action "relay"',
        'match tag SIEVE for any action "relay"',
        f'match {OWN} for any action "relay"',
        'match from src <here> for any action "forward"',
    ]
    assert "relays" not in minion().files()["/etc/smtpd.conf"]
    assert minion().state("file: mailsrv-opensmtpd-relays")["fun"] == "absent"


def test_all_mail_leaves_by_one_relay(minion):
    host = 'relay host "smtp+tls://all@smtp.a.example:587" auth <relays>'
    assert leaving(minion(), relay=A) == [
        f'action "relay" {host} helo {HOST}',
        f'action "forward" {host} helo {HOST} srs',
        *leaving(minion())[2:],
    ]


def test_a_relay_without_a_login_and_with_a_ca_of_its_own(minion):
    files = minion().files(relay=B)
    text = files["/etc/smtpd.conf"]
    assert f'action "relay" relay host "smtps://smtp.b.example:465" ca "all" helo {HOST}' in text
    assert 'ca "all" cert "/etc/ssl/b.pem"' in text
    assert "relays" not in text
    assert "/etc/mail/relays" not in files
    service = minion().state("daemon: mailsrv-opensmtpd-service", relay=B)
    assert "/etc/ssl/b.pem" in service["restart"]


def test_domains_with_a_way_of_their_own(minion):
    to_b, near = 'for domain "partner.example" action', 'for domain "near.example" action'
    rules = []
    for match, of in (("from auth",) * 2, ("tag SIEVE",) * 2, (OWN, "from src <here>")):
        rules += [
            f'match {match} {to_b} "relay-to-partner.example"',
            f'match {match} {near} "relay"',
            f'match {of} mail-from "@example.com" for any action "relay-from-example.com"',
            f'match {of} mail-from "@test.com" for any action "relay"',
            f'match {match} for any action "relay"',
        ]
    found = leaving(minion(), relay=SOME)
    assert found[6:] == [
        *rules,
        f'match from src <here> {to_b} "forward-to-partner.example"',
        f'match from src <here> {near} "forward"',
        'match from src <here> for any action "forward"',
    ]
    assert found[:2] == leaving(minion())[:2]


def test_a_domain_that_goes_directly_beside_a_relay_for_all(minion):
    found = leaving(minion(), relay={**A, "recipients": {"near.example": "direct"}})
    assert f'action "relay-direct" relay helo {HOST}' in found
    assert f'action "forward-direct" relay helo {HOST} srs' in found
    assert 'match from auth for domain "near.example" action "relay-direct"' in found
    assert 'match from src <here> for domain "near.example" action "forward-direct"' in found


def test_tls_is_demanded_for_some_domains(minion):
    found = leaving(minion(), tls_required=["partner.example"])
    assert f'action "relay-tls" relay tls helo {HOST}' in found
    rules = [line for line in found if "partner.example" in line]
    assert rules == [
        f'match {match} for domain "partner.example" action "{action}-tls"'
        for match, action in (
            ("from auth", "relay"),
            ("tag SIEVE", "relay"),
            (OWN, "relay"),
            ("from src <here>", "forward"),
        )
    ]
    assert [line for line in found if line not in rules and "-tls" not in line] == leaving(minion())


def test_signed_mail_takes_the_ways_when_it_comes_back(minion):
    found = leaving(minion(), relay=SOME, dkim={"signer": "dkimproxy"})
    signed = [line for line in found if line.startswith("match tag DKIM for any")]
    assert signed == ['match tag DKIM for any action "relay"']
    assert 'match tag DKIM mail-from "@test.com" for any action "relay"' in found
    assert found.count('match from auth for any action "sign"') == 1
    assert not [line for line in found if line.startswith("match from auth mail-from")]


def test_the_logins_stand_in_one_closed_file(minion):
    machine = minion()
    assert machine.files(relay=SOME)["/etc/mail/relays"].splitlines()[1:] == [
        "from-example.com us:p:ss {{ w }} #rd"
    ]
    table = machine.state("file: mailsrv-opensmtpd-relays", relay=SOME)
    assert (table["user"], table["group"], table["mode"]) == ("root", "opensmtpd", "0640")
    assert table["show_changes"] is False
    service = machine.state("daemon: mailsrv-opensmtpd-service", relay=SOME)
    assert "smtpctl update table relays" in service["update"].values()
