"""Who is away by the pillar is answered for by it, beside whatever the account's own filters do."""

import pytest

from server import parsed, signed_by
from stock import everywhere
from wire import until

pytestmark = [pytest.mark.lab, everywhere]

SUBJECT = "Abwesend, bis übermorgen"
TEXT = 'Grüße!\n.\n..\ntext:\n"${subject}" \\ /* */ 👩‍💻\n--\n\tZoë'
ELSEWHERE = "elsewhere.example"


@pytest.fixture(scope="module")
def absent(server):
    """A server where three are away: one now, one was, one will be."""
    server.domain = domain = server.pillar["domains"][0]
    server.away = away = f"away@{domain}"
    server.scripts = f"{server.facts['dovecot']['directory']}/sieve/vacation"
    other = next(iter(server.accounts))
    terms = {
        away: {"until": "2099-12-31", "subject": SUBJECT},
        f"back@{domain}": {"until": "2020-01-31"},
        f"still@{domain}": {"from": "2099-01-31"},
    }
    accounts = [
        {"address": name, "password": "a pass", "vacation": {"text": TEXT, **term}}
        for name, term in terms.items()
    ]
    accounts[0]["forward"] = f"copy@{ELSEWHERE}"
    aliases = {f"alias@{domain}": away, f"team@{domain}": [away, other]}
    with server.having(accounts=accounts, aliases=aliases):
        server.accounts = {**server.accounts, **dict.fromkeys(terms, "a pass")}
        assert server.highstate() == {}
        yield server
    server.accounts = dict(server.pillar["accounts"])
    for name in server.salt("mailsrv.leftovers").keys() & terms.keys():
        server.salt("mailsrv.purge", name)
    assert server.machine.run(["ls", server.scripts]).stdout == ""


@pytest.fixture
def answered(absent, sink, request):
    """Write to somebody, each time as somebody else; and what has been answered to whom."""
    test = f"{request.node.originalname}-{absent.domain}"
    names = (f"{test}-{n}@{ELSEWHERE}"[-60:] for n in range(100))

    def write(to, **headers):
        sender = next(names)
        absent.deliver([to], sender=sender, **headers)
        return sender

    def answers(*senders):
        absent.idle()
        found = {sender: [] for sender in senders}
        for envelope in sink.messages:
            if (to := "".join(envelope.rcpt_tos)) in found:
                found[to].append(envelope)
        return found

    write.answers = answers
    return write


def test_who_writes_is_answered_once_in_the_words_of_the_pillar(lab, absent, answered, sink):
    domain, away = absent.domain, absent.away
    names = [away, f"alias@{domain}", f"away+tag@{domain}"]
    # One after the other: of four answers at once, Dovecot forgets to note every fifth.
    writers = {}
    for name in names:
        writers[writer := answered(name)] = name
        until(lambda writer=writer: answered.answers(writer)[writer], 60, "no answer")
    absent.deliver([away], sender=next(iter(writers)))
    found = answered.answers(*writers)
    assert [len(answers) for answers in found.values()] == [1, 1, 1]
    # DKIMproxy gets what users and programs send; what Dovecot sends, it does not.
    signer = absent.salt("mailsrv.here")["model"]["dkim"]["signer"]
    signed = set() if signer == "dkimproxy" else {domain}
    for writer, (envelope,) in found.items():
        said = parsed(envelope.content)
        assert (said["From"], said["Subject"].split()) == (writers[writer], SUBJECT.split())
        assert said.get_content().replace("\r\n", "\n").rstrip("\n") == TEXT
        assert said["Auto-Submitted"].startswith("auto-replied")
        assert signed_by(lab, envelope.content) == signed
    copies = [e for e in sink.messages if e.rcpt_tos == [f"copy@{ELSEWHERE}"]]
    assert len(copies) >= 4


def test_nobody_else_is_answered(absent, answered, sink):
    domain, away = absent.domain, absent.away
    quiet = [
        answered(away, List_Id="<news.elsewhere.example>"),
        answered(away, List_Unsubscribe="<https://elsewhere.example/u>"),
        answered(away, Precedence="bulk"),
        answered(away, Auto_Submitted="auto-replied"),
        answered(away, X_Spam="yes"),
        answered(away, To="undisclosed-recipients:;"),
        answered(f"team@{domain}"),
        answered(f"back@{domain}"),
        answered(f"still@{domain}"),
    ]
    absent.deliver([away], sender="")
    absent.submit(away, [away])
    loud = answered(away)
    until(lambda: answered.answers(loud)[loud], 60, "no answer")
    found = answered.answers(*quiet)
    assert {sender: len(answers) for sender, answers in found.items() if answers} == {}
    assert [e for e in sink.messages if e.rcpt_tos in ([""], [away])] == []


FOLDER = 'require ["fileinto", "mailbox"]; fileinto :create "Mine";'
OWN = 'require "vacation"; vacation :subject "mine" "my own";'


@pytest.mark.parametrize(
    ("script", "folder"),
    [
        (FOLDER, "Mine"),
        (OWN, "INBOX"),
        ('require "reject"; reject "no";', None),
        ("discard;", None),
        ("redirect :bad;", "INBOX"),
    ],
    ids=["fileinto", "vacation", "reject", "discard", "broken"],
)
def test_the_accounts_own_filter_goes_on(absent, answered, script, folder, request):
    away = absent.away
    with absent.managesieve(away) as sieve:
        if "broken" in request.node.callspec.id:  # ManageSieve would not take it
            sieve.put("mine", "keep;")
            home = f"{absent.facts['vmail']['home']}/{absent.domain}/away"
            absent.machine.put(f"{home}/sieve/mine.sieve", script)
        else:
            sieve.put("mine", script)
        writer = answered(away, X_Of=request.node.name)
        (answer,) = until(lambda: answered.answers(writer)[writer], 60, "no answer")
        assert "Gr" in parsed(answer.content).get_content()
        assert len(answered.answers(writer)[writer]) == 1
        with absent.imap(away) as imap:
            found = {}
            for name in ("INBOX", "Mine"):
                if imap.select(name, readonly=True)[0] == "OK":
                    seen = imap.search(None, "HEADER", "X-Of", f'"{request.node.name}"')[1][0]
                    found[name] = len(seen.split())
        assert {name for name, count in found.items() if count} == ({folder} - {None})
        sieve.put("mine", "keep;")


def test_who_is_back_is_no_longer_answered_for(absent, answered, sink):
    """It comes last: afterwards nobody is there any more."""
    listing = ["ls", absent.scripts]
    assert f"{absent.away}.svbin" in absent.machine.run(listing).stdout
    accounts = [{"address": absent.away, "password": "a pass"}]
    with absent.having(accounts=accounts) as changed:
        assert "mailsrv-dovecot-vacations" in changed
        assert "mailsrv-dovecot-service" not in changed
        assert absent.machine.run(listing).stdout == ""
        writer, sent = answered(absent.away), len(sink.messages)
        absent.idle()
        assert answered.answers(writer)[writer] == []
        assert len(sink.messages) == sent  # neither an answer nor a copy
