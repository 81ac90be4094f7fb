"""What `./run-tests tests/here` takes out of its report."""

from hypothesis import given
from hypothesis import strategies as st

from redaction import SHORTEST, Redactor

PILLAR = {
    "salt": "aoiuasdfhalsdfiuyh",
    "domains": ["example.com", "test.com"],
    "accounts": [["user1@example.com", "pass.1*"], ["users3@test.com", 12345678]],
    "mailsrv": {
        "hostname": "mail.example.com",
        "accounts": [{"address": "kim@example.com", "hash": "$6$abc$def/ghi"}],
        "relay": {"host": "smtp.provider.example", "password": "x(y"},
        "dkim": {"signer": "dkimproxy"},
        "notify": ["ops@elsewhere.example"],
        "blocked": None,
    },
}
NAMES = {
    **{"mail.example.com": "HOST", "example.com": "DOMAIN1", "test.com": "DOMAIN2"},
    **{"kim@example.com": "ACCOUNT", "198.51.100.9": "IP"},
}
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=SHORTEST, max_size=30)


def test_secrets_names_and_addresses_are_out():
    text = (
        "kim@example.com at MAIL.example.com (198.51.100.9) pass.1* 12345678 $6$abc$def/ghi"
        " aoiuasdfhalsdfiuyh smtp.provider.example ops@elsewhere.example user1+tag@sub.example.com"
    )
    assert Redactor(PILLAR, NAMES)(text) == (
        "ACCOUNT at HOST (IP) SECRET SECRET SECRET SECRET NAME ADDRESS ADDRESS"
    )


def test_a_mailbox_is_not_told_by_its_path():
    said = Redactor(PILLAR, NAMES)("/vmail/example.com/kim/mail: Permission denied")
    assert said == "/vmail/DOMAIN1/USER/mail: Permission denied"


def test_what_a_report_is_for_stays():
    text = "opensmtpd 7.8.0p1,1 dkimproxy 1.4.1 Python 3.12.7 127.0.0.1 /usr/local/etc/mail"
    assert Redactor(PILLAR, NAMES)(text) == text


def test_a_pillar_of_nothing_takes_nothing_out():
    assert Redactor({}, {})("as it is") == "as it is"


@given(words, words)
def test_no_secret_is_in_a_report_whatever_it_is(password, salt):
    pillar = {"salt": salt, "accounts": [["a@example.com", password]]}
    said = Redactor(pillar, NAMES)(f"<{password}> <{salt}>")
    made = said.replace("SECRET", "")
    assert password not in made
    assert salt not in made
