"""_mailsrv.names: what an address is, and a domain."""

import pytest
from _mailsrv import names
from hypothesis import given
from hypothesis import strategies as st

from reading import faults

LONG = "a" * 63


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("a-b.1.example", "a-b.1.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (f"{LONG}.example", f"{LONG}.example"),
        *((text, None) for text in ("", ".", "com", "example.com.", ".example.com", "a..example")),
        *((text, None) for text in ("192.0.2.1", "a.example.1", "-a.example", "a-.example")),
        *((text, None) for text in ("a_b.example", "a b.example", "a.example\n", "b\xfc.example")),
        *((text, None) for text in (f"a{LONG}.example", f"{'a.' * 126}example", None, 1.5, [])),
    ],
)
def test_a_domain_has_two_labels_of_letters_digits_and_inner_hyphens(text, read_as):
    assert names.domain(text) == read_as


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("A.b_c-d@Example.com", "a.b_c-d@example.com"),
        ("1@example.com", "1@example.com"),
        (f"{'a' * 64}@example.com", f"{'a' * 64}@example.com"),
        *((text, None) for text in ("a", "@example.com", "a@", "a@b@example.com", "a+b@x.example")),
        *(
            (text, None)
            for text in ("-a@x.example", ".a@x.example", "a.@x.example", "a..b@x.example")
        ),
        *((text, None) for text in ("a/b@x.example", "a:b@x.example", "\u017f@x.example", None, 5)),
        (f"{'a' * 65}@example.com", None),
    ],
)
def test_an_address_is_what_both_daemons_read_as_one(text, read_as):
    assert names.address(text) == read_as


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("A+Tag@Example.com", "a+Tag@example.com"),
        ("A+Tag@Elsewhere.example", "A+Tag@elsewhere.example"),
        ("x=y&z~@elsewhere.example", "x=y&z~@elsewhere.example"),
        *(
            (text, None)
            for text in ("|sh@b.example", "/a@b.example", "a,b@b.example", "a", None, [])
        ),
        *((text, None) for text in ("a.@b.example", "@b.example", "\u017f@b.example")),
    ],
)
def test_a_target_keeps_the_case_that_another_server_may_care_for(text, read_as):
    assert names.target(text, ["example.com"]) == read_as


def test_a_catch_all_is_a_domain_behind_an_at_sign():
    assert names.catch_all("@Example.com") == "@example.com"
    for text in ("example.com", "@", "@com", "a@example.com", None):
        assert names.catch_all(text) is None


def test_the_base_of_an_address_has_no_tag():
    assert names.base("a+b+c@example.com") == names.base("a@example.com") == "a@example.com"
    assert names.base("@example.com") == "@example.com"


def test_a_name_is_within_a_domain_by_whole_labels():
    assert names.within("example.com", "example.com")
    assert names.within("a.b.example.com", "example.com")
    assert not names.within("anexample.com", "example.com")
    assert not names.within("com", "example.com")
    assert names.related("com", "example.com")
    assert names.related("example.com", "com")
    assert not names.related("a.com", "b.com")


def test_an_internal_name_is_none_where_somebody_has_a_mail_domain_there():
    assert names.internal("mx.office.lan", ["example.com"])
    assert names.internal("lan", [])
    assert not names.internal("mx.office.lan", ["office.lan"])
    assert not names.internal("mx.mylan.net", [])


def test_a_name_of_dns_is_bare_without_case_and_last_dot():
    assert names.bare("MX.Example.com.") == "mx.example.com"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("stra\xdfe.example", "xn--strae-oqa.example"),
        ("a@b\xfccher.example", "a@xn--bcher-kva.example"),
        ("|a@b\xfccher.example", "like"),
        ("\u2603.example", "like"),
        ("plain", "like"),
        (None, "like"),
    ],
)
def test_an_international_name_is_written_as_dns_has_it(text, written):
    assert names.like(text, "like") == written


def test_without_the_library_of_international_domains_the_cure_is_the_plain_one(monkeypatch):
    monkeypatch.setattr(names, "idna", None)
    (fault, *_) = faults({"domains": ["stra\xdfe.example"]})
    assert fault.endswith("is not a domain; write it like example.com")


@given(st.text() | st.none() | st.integers() | st.lists(st.text()))
def test_whatever_a_pillar_holds_is_a_name_or_none(value):
    for read in (names.domain, names.address, names.target, names.catch_all):
        found = read(value)
        assert found is None or (found.isascii() and found.isprintable() and " " not in found)
        assert found is None or read(found) == found
