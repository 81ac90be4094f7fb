"""_mailsrv.spf: records as receivers read them (RFC 7208)."""

import re

import pytest
from _mailsrv import spf
from hypothesis import given
from hypothesis import strategies as st

TERMS = [
    *("all", "+all", "-ALL", "~all", "?all"),
    *("a", "A", "a/0", "a/24", "a//64", "a/24//128", "a:mail.example.com/24", "-a:a.example."),
    *("mx", "mx:example.com//64", "ptr", "ptr:example.com"),
    *("include:_spf.a.example", "exists:a.example", "redirect=a.example", "exp=a.example"),
    # Section 5: no more than a top-level label makes the end of a domain.
    *("a:foo:bar/baz.example.com", "a:1.2.3.4.example", "a:example.1a", "a:example.xn--p1ai"),
    # Section 7: macros.
    *("exists:%{i}._spf.%{d2}.example", "include:%{ir}.%{v}.a.example", "a:%{d}/24", "a:%{D}"),
    *("exists:%{l1r+-}.a.example", "redirect=%{d}", "exp=%{s}.%_%-%%.a.example"),
    *("ip4:192.0.2.1", "IP4:192.0.2.0/24", "ip4:0.0.0.0/0", "-ip4:192.0.2.1/32"),
    *("ip6:2001:db8::1", "ip6:2001:DB8::/32", "ip6:::/0", "ip6:::ffff:192.0.2.1", "ip6:::1/128"),
    # Section 6: a modifier that nobody knows is ignored, whatever it says.
    *("moo=", "moo=cow", "m.o-o_1=%{d}/:=;"),
]
NO_TERMS = [
    *("alll", "all:", "all:a.example", "all/8", "all.", "--all", "+-all", "!all", ""),
    *("incude:a.example", "foo", "foo:a.example", "-redirect=a.example", "=a", "1a=b"),
    *(
        "include",
        "include:",
        "exists",
        "exists:",
        "redirect=",
        "exp=",
        "ptr:",
        "ptr/24",
        "a:",
        "mx:",
    ),
    *(
        "include:museum",
        "a:museum.",
        "a:1.2.3.4",
        "a:example.123",
        "a:example.-com",
        "a:a..",
        "a:.",
    ),
    *("a/33", "a//129", "a/", "a//", "a/024", "a/1a", "a/24/64", "mx/-1", "a:a.example/33"),
    *("exists:%{e}.a.example", "exists:%{c}.a.example", "exists:%{d0}.a.example", "exists:%{i.a.b"),
    *("exists:%a.example", "a:%", "a:a.example%", "moo=%{", "exists:%(d).a.example"),
    *("ip4:", "ip4", "ip4:192.0.2", "ip4:192.0.2.256", "ip4:192.0.2.1/33", "ip4:192.0.2.1/024"),
    *("ip4:192.0.2.0/255.255.255.0", "ip4:192.0.2.1//32", "ip4:2001:db8::1", "ip4:a.example"),
    *("ip6:192.0.2.1", "ip6:2001:db8::/129", "ip6:fe80::1%eth0", "ip6:2001:db8::1::", "ip6:"),
    # Letters that are an s and a k where case does not count.
    *("exi\u017fts:a.example", "a:a.example.\u212a", "a:b\xfccher.example"),
]


@pytest.mark.parametrize("term", TERMS)
def test_what_rfc_7208_has_for_a_term_is_one(term):
    assert spf.read(term)
    assert spf.parse(f"v=spf1 {term}")


@pytest.mark.parametrize("word", NO_TERMS)
def test_what_it_does_not_have_is_none_and_the_record_is_thrown_away(word):
    assert spf.read(word) is None
    if word:
        assert spf.parse(f"v=spf1 mx {word} -all") is None


@pytest.mark.parametrize(
    ("word", "term"),
    [
        ("ALL", ("all", "+", "")),
        ("~All", ("all", "~", "")),
        ("-MX:Example.com/24", ("mx", "-", "example.com/24")),
        ("a/24//64", ("a", "+", "/24//64")),
        ("?ip4:192.0.2.9/24", ("ip4", "?", "192.0.2.0/24")),
        ("IP6:2001:DB8:0::1", ("ip6", "+", "2001:db8::1/128")),
        ("Exists:%{I}.A.example", ("exists", "+", "%{I}.A.example")),
        ("Redirect=A.example", ("redirect", "", "a.example")),
        ("moo=a=b:c", ("moo", "", "a=b:c")),
    ],
)
def test_a_term_has_a_name_a_qualifier_and_a_target(word, term):
    assert spf.read(word) == term


def test_what_is_looked_up_counts():
    terms = spf.parse("v=spf1 a mx ptr include:a.example exists:b.example ip4:192.0.2.1 -all")
    assert [term.looks_up for term in terms] == [True] * 5 + [False] * 2
    terms = spf.parse("v=spf1 redirect=a.example exp=b.example moo=c")
    assert [term.looks_up for term in terms] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "spf1", "v=spf2 -all", "v=spf1mx -all", "v=spf1-all", "v=spf10 -all"),
        *(" v=spf1 -all", "v=spf1\t-all", "v=spf1 mx\t-all", "v=spf1 mx\u00a0-all", "v=spf1;-all"),
        *("v=\u017fpf1 -all", "mx v=spf1 -all"),
        "v=spf1 redirect=a.example redirect=b.example",
        "v=spf1 redirect=a.example REDIRECT=a.example",
        "v=spf1 -all exp=a.example exp=a.example",
    ],
)
def test_a_text_that_is_no_record_has_no_terms(text):
    assert spf.parse(text) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("v=spf1", 0),
        ("V=SPF1   -all ", 1),
        ("v=spf1 moo=a moo=b -all", 3),
        ("v=spf1 redirect=a.example exp=b.example", 2),
        ("v=spf1 mx mx -all", 3),
    ],
)
def test_a_record_is_words_between_blanks(text, count):
    assert len(spf.parse(text)) == count


# What a record says of example.com

SAME = [
    ("v=spf1 a mx -all", "V=SPF1  MX  +A  -ALL"),
    ("v=spf1 mx -all", "v=spf1 mx:example.com -all"),
    ("v=spf1 mx -all", "v=spf1 mx:EXAMPLE.com. -all"),
    ("v=spf1 mx/24 -all", "v=spf1 mx:example.com/24 -all"),
    ("v=spf1 ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1/32 -all"),
    ("v=spf1 ip6:2001:db8::/32 -all", "v=spf1 ip6:2001:DB8:0::9/32 -all"),
    ("v=spf1 include:a.example -all", "v=spf1 include:A.example. -all"),
    ("v=spf1 mx -all", "v=spf1 mx -all a include:b.example"),  # behind `all`
    ("v=spf1 mx -all", "v=spf1 redirect=a.example mx -all"),  # section 6.1
    ("v=spf1 mx -all", "v=spf1 mx moo=cow -all"),  # section 6
    ("v=spf1 mx", "v=spf1 mx ?all"),  # section 4.7
    ("v=spf1 a -mx -ptr ~all", "v=spf1 a -ptr -mx ~all"),
    ("v=spf1 mx redirect=a.example", "v=spf1 redirect=A.example. mx"),
]
OTHER = [
    ("v=spf1 mx -all", "v=spf1 mx ~all"),
    ("v=spf1 mx -all", "v=spf1 mx"),
    ("v=spf1 mx -all", "v=spf1 -all"),
    ("v=spf1 mx -all", "v=spf1 mx a -all"),
    ("v=spf1 mx -all", "v=spf1 mx:other.example -all"),
    ("v=spf1 mx -all", "v=spf1 mx/24 -all"),
    ("v=spf1 -a mx -all", "v=spf1 mx -a -all"),  # the first that matches decides
    ("v=spf1 a -mx ptr ~all", "v=spf1 a ptr -mx ~all"),
    ("v=spf1 mx redirect=a.example", "v=spf1 mx redirect=b.example"),
    ("v=spf1 mx redirect=a.example", "v=spf1 mx"),
    ("v=spf1 include:%{D}.a.example -all", "v=spf1 include:%{d}.a.example -all"),  # URL-escaped
    ("v=spf1 mx -all exp=a.example", "v=spf1 mx -all"),
    ("v=spf1 mx -all", "v=spf1 mx -al"),
    ("v=spf1 mx -all", "v=spf1 mx -all redirect=a.example redirect=a.example"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_records_mean_the_same_where_receivers_do_the_same(one, other):
    assert spf.meaning("example.com", one) == spf.meaning("example.com", other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_records_mean_something_else_where_receivers_do_something_else(one, other):
    assert spf.meaning("example.com", one) != spf.meaning("example.com", other)


words = st.sampled_from(TERMS + NO_TERMS) | st.text(max_size=12)
records = st.text() | st.lists(words).map(lambda found: " ".join(["v=spf1", *found]))


@given(records)
def test_any_text_has_a_meaning(text):
    terms = spf.parse(text)
    assert terms is None or all(isinstance(term, spf.Term) for term in terms)
    assert (spf.meaning("example.com", text) == text) is (terms is None)


@given(st.lists(st.sampled_from(TERMS), unique=True), st.randoms(use_true_random=False))
def test_within_a_qualifier_order_means_nothing(terms, random):
    plain = [term for term in terms if not re.match(r"[+~?-]|all|.*=", term, re.I)]
    mixed = random.sample(plain, len(plain))
    one, other = (f"v=spf1 {' '.join(found)} -all" for found in (plain, mixed))
    assert spf.meaning("example.com", one) == spf.meaning("example.com", other)


def test_a_very_long_text_is_read_in_no_time():
    for piece in (".", "a.", "%{d}", "a/24", "=", "%", ":"):
        assert spf.parse(f"v=spf1 include:{piece * 20000}! -all") is None


# Whom it lets send


@pytest.mark.parametrize(
    ("terms", "world"),
    [
        ("ip4:0.0.0.0/0 -all", "ip4:0.0.0.0/0"),
        ("ip4:0.0.0.0/1 +ip4:128.0.0.0/1 -all", "ip4:0.0.0.0/1 +ip4:128.0.0.0/1"),
        ("mx ip4:16.0.0.0/7 -all", "ip4:16.0.0.0/7"),
        (
            "ip4:0.0.0.0/8 mx ip4:1.0.0.0/8 ip4:9.0.0.0/8",
            "ip4:0.0.0.0/8 ip4:1.0.0.0/8 ip4:9.0.0.0/8",
        ),
        ("ip6:::/0 -all", "ip6:::/0"),
        ("ip6:2000::/3 ip4:192.0.2.0/24 -all", "ip6:2000::/3"),
        ("ip6:2001::/18 -all", "ip6:2001::/18"),
        ("a/0 -all", "a/0"),
        ("mx/4 -all", "mx/4"),
        ("mx//0 -all", "mx//0"),
        ("a:a.example/24//16 -all", "a:a.example/24//16"),
        ("mx -all", ""),
        ("ip4:10.0.0.0/8 mx a include:a.example -all", ""),
        ("ip6:2001::/19 a/24//64 -all", ""),
        ("-ip4:0.0.0.0/0 -all", ""),
        ("?ip4:0.0.0.0/0 mx redirect=a.example", ""),
    ],
)
def test_networks_that_let_the_world_send_are_named(terms, world):
    assert spf.lets_the_world(terms.split()) == world.split()


@given(st.lists(st.sampled_from(TERMS)))
def test_any_terms_can_be_asked_for_the_world(terms):
    assert {*spf.lets_the_world(terms)} <= {*terms}


# What a record costs a receiver


def cost(text, known=None, domain="example.com"):
    found = spf.cost(domain, text, known or {})
    return found["lookups"], found["void"], sorted(found["ask"])


@pytest.mark.parametrize(
    ("text", "lookups", "asked"),
    [
        ("v=spf1 -all", 0, []),
        ("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all", 0, []),
        ("v=spf1 mx a -all", 2, [("example.com", "A"), ("example.com", "MX")]),
        ("v=spf1 mx/24 a:b.example/24//64 -all", 2, [("b.example", "A"), ("example.com", "MX")]),
        ("v=spf1 include:b.example -all", 1, [("b.example", "TXT")]),
        ("v=spf1 redirect=b.example", 1, [("b.example", "TXT")]),
        ("v=spf1 -all include:b.example redirect=c.example", 0, []),
        ("v=spf1 redirect=c.example ?all", 0, []),
        ("v=spf1 exists:%{i}.b.example include:%{d}.b.example ptr -all", 3, []),
        ("v=spf1 exp=b.example unknown=c.example -all", 0, []),
        ("no record", 0, []),
    ],
)
def test_terms_that_look_something_up_are_counted_up_to_all(text, lookups, asked):
    assert cost(text) == (lookups, [], asked)


def test_what_is_included_counts_and_an_all_there_ends_only_itself():
    known = {
        ("b.example", "TXT"): ["v=spf1 a:x.example include:c.example ~all a:y.example", "other"],
        ("c.example", "TXT"): ["V=SPF1 mx redirect=d.example"],
        ("d.example", "TXT"): ["v=spf1 ip4:192.0.2.1"],
        ("x.example", "A"): ["192.0.2.1"],
        ("c.example", "MX"): ["10 mx.c.example."],
    }
    text = "v=spf1 include:b.example mx -all"
    assert cost(text, known) == (6, [], [("example.com", "MX")])


def test_what_leads_to_nothing_is_named_once_and_what_is_not_told_is_not():
    known = {
        **{(f"{name}.example", "TXT"): [] for name in "ab"},
        **{("c.example", "A"): [], ("c.example", "AAAA"): ["2001:db8::1"]},
        **{("d.example", "A"): [], ("d.example", "AAAA"): []},
        ("e.example", "TXT"): None,
    }
    text = "v=spf1 include:a.example include:a.example include:b.example a:c.example a:d.example "
    void = ["a.example TXT", "b.example TXT", "d.example A"]
    assert cost(text + "include:e.example -all", known) == (6, void, [])


def test_records_that_lead_to_each_other_come_to_an_end():
    def leads(*names):
        return " ".join(["v=spf1", *(f"include:{name}.example" for name in names)])

    known = {(f"{name}.example", "TXT"): [leads(*"abcdefghij")] for name in "abcdefghij"}
    assert spf.MAX_LOOKUPS < cost(leads("a"), known)[0] <= spf.MOST + 1
    assert cost("v=spf1 include:example.com", {("example.com", "TXT"): [leads("a")]})[0] == 1


@given(st.text(max_size=200), st.lists(st.text(max_size=80), max_size=3))
def test_whatever_stands_there_is_counted(text, values):
    known = {("b.example", "TXT"): values}
    assert cost(f"v=spf1 include:b.example {text}", known)[0] <= spf.MOST + 1
    assert cost(f"v=spf1 {text}")[0] <= spf.MOST + 1
