"""Two signatures by dkimsign and by rspamd, and the spam filter, on machines of both releases."""

import functools
import smtplib
import uuid

import pytest

from lab import HEAD
from server import arrived, parsed, signatures
from wire import until

pytestmark = pytest.mark.lab

GTUBE = "buy\r\nXJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\nbuy\r\n"
ORDINARY = {"Date": "Tue, 24 Nov 2026 15:00:00 +0000", "Message-ID": "<1@elsewhere.example>"}
SOMEBODY = "somebody@elsewhere.example"
LEAVE = {
    "List_Unsubscribe": "<https://one.example/leave?id=1>",
    "List_Unsubscribe_Post": "List-Unsubscribe=One-Click",
}

# As an administrator would: rspamd's lists on the Internet are none of the lab's business.
OFFLINE = ("asn", "fuzzy_check", "phishing", "rbl")

MAIL_DKIM = r"""
use Mail::DKIM::Verifier;
my $verifier = Mail::DKIM::Verifier->new();
while (<STDIN>) { s/\r?\n$//; $verifier->PRINT("$_\015\012") }
$verifier->CLOSE;
print join(" ", $_->domain, $_->algorithm), "\n" for grep { $_->result eq "pass" }
    $verifier->signatures;
"""


@pytest.fixture(scope="module")
def by_mail_dkim(two):
    """The signatures that Perl's Mail::DKIM verifies, by domain and algorithm."""
    two.machine.run("apt-get install -y --no-install-recommends libmail-dkim-perl")

    def verify(message):
        ran = two.machine.run(["perl", "-e", MAIL_DKIM], input=message.decode())
        return sorted(tuple(line.split()) for line in ran.stdout.splitlines())

    return verify


@pytest.fixture(scope="module")
def by_dkimpy(lab):
    """The signatures that dkimpy verifies, by domain and algorithm."""
    return functools.partial(signatures, lab)


def leaving(server, sink):
    """A message of one user of each domain, as it leaves, by that domain."""
    users = {address.partition("@")[2]: address for address in server.accounts}
    subjects = [server.submit(user, [SOMEBODY], **LEAVE) for user in users.values()]
    envelopes = arrived(sink, *subjects)
    return {domain: e.content for domain, e in zip(users, envelopes, strict=True)}


def dkim_records(server):
    records = [record for found in server.salt("mailsrv.dns").values() for record in found]
    return {r["name"]: r["value"] for r in records if "._domainkey." in r["name"]}


@pytest.fixture(scope="module")
def signers(lab, server, sink):
    """A server whose signer changed from dkimsign to rspamd; mail and records of both."""
    lab.dns.serve("rspamd.com", HEAD)
    for module in OFFLINE:
        server.machine.put(f"/etc/rspamd/local.d/{module}.conf", "enabled = false;\n")
    server.records = {"before": dkim_records(server)}
    server.left = {}
    dns = {"nameservers": ["ns.elsewhere.example"]}
    with server.having(dkim={"ed25519": True}, dns=dns, spam_filter=True):
        server.publish()
        changed = server.highstate()
        assert "mailsrv-guard-config" in changed  # now the Ed25519 key signs, too
        assert "mailsrv-opensmtpd-service" not in changed
        server.records["dkimsign"] = dkim_records(server)
        server.left["dkimsign"] = leaving(server, sink)
        first = next(iter(server.accounts))
        server.filtered = server.wait(first, server.deliver([first], **ORDINARY))
    away = {f"away@{server.pillar['domains'][0]}": SOMEBODY}
    rspamd = {"signer": "rspamd", "ed25519": True}
    with server.having(dkim=rspamd, dns=dns, spam_filter=True, aliases=away):
        server.records["rspamd"] = dkim_records(server)
        server.left["rspamd"] = leaving(server, sink)
        yield server
    # And back, where rspamd has nothing to do any more.
    server.publish()
    assert dkim_records(server) == server.records["before"]
    assert server.machine.run("systemctl is-active rspamd", check=False).stdout == "inactive\n"
    assert server.machine.run("systemctl is-enabled rspamd", check=False).stdout == "disabled\n"
    assert server.highstate() == {}


def test_mail_carries_a_signature_of_each_algorithm(signers, by_dkimpy, by_mail_dkim):
    for left in signers.left.values():
        assert list(left) == signers.pillar["domains"]
        for domain, message in left.items():
            both = [(domain, "ed25519-sha256"), (domain, "rsa-sha256")]
            assert by_dkimpy(message) == by_mail_dkim(message) == both


def test_leaving_a_list_by_one_click_is_signed(signers, by_dkimpy):
    """RFC 8058, section 4: both fields, or no receiver shows the button."""
    for left in signers.left.values():
        for message in left.values():
            for name, value in LEAVE.items():
                line = f"{name.replace('_', '-')}: {value}".encode()
                assert message.count(line) == 1
                assert by_dkimpy(message.replace(line, line[:-1])) == []


def test_the_records_stay_whoever_signs(signers):
    before, dkimsign, rspamd = signers.records.values()
    assert dkimsign == rspamd
    assert before.items() < dkimsign.items()
    domains = signers.pillar["domains"]
    added = {f"mailsrv-ed25519._domainkey.{domain}." for domain in domains}
    assert dkimsign.keys() - before.keys() == added


def test_with_rspamd_a_second_run_changes_nothing(signers):
    assert signers.highstate() == {}


def test_the_own_check_knows_rspamd(signers):
    assert signers.salt("mailcheck.run")["service rspamd"] == "ok"
    assert signers.faults() == {}


def test_a_configuration_that_rspamd_refuses_does_not_replace_the_old_one(signers):
    file, broken = "/etc/rspamd/rspamd.conf", "/etc/rspamd/local.d/options.inc"
    signers.machine.run(["sed", "-i", "1a # mine", file])
    before = signers.machine.get(file)
    signers.machine.put(broken, "tempdir = {\n")
    states = signers.salt("state.apply", "mailsrv.rspamd", check=False).values()
    (failed,) = [state for state in states if state["__id__"] == "mailsrv-rspamd-config"]
    after = signers.machine.get(file)
    signers.machine.run(["rm", broken])
    assert signers.highstate()
    assert failed["comment"].startswith("check_cmd execution failed")
    assert after == before


def test_rspamd_listens_to_this_machine_alone(signers):
    listening = signers.machine.run("ss -Hltnp").stdout.splitlines()
    ports = [line.split()[3] for line in listening if ":1133" in line]
    assert ports == ["127.0.0.1:11333"]


def test_mail_of_local_programs_is_signed_by_the_domain_above_the_host(signers, by_dkimpy, sink):
    subject = str(uuid.uuid4())
    head = f"From: root (Cron Daemon)\nTo: {SOMEBODY}\nSubject: {subject}\n"
    signers.machine.run(["sendmail", "-t"], input=f"{head}\nhello\n")
    (envelope,) = arrived(sink, subject)
    domain = signers.pillar["domains"][0]
    assert by_dkimpy(envelope.content) == [(domain, "ed25519-sha256"), (domain, "rsa-sha256")]


def test_a_forward_of_foreign_mail_is_not_signed(signers, by_dkimpy, sink):
    domain = signers.pillar["domains"][0]
    (envelope,) = arrived(sink, signers.deliver([f"away@{domain}"], **ORDINARY))
    assert by_dkimpy(envelope.content) == []


BODIES = [
    "a line \t of  blanks\r\n\t\r\n \r\nhello\r\n\r\n\r\n",
    "the end \r\n",
    ".\r\n..two\r\n.one\r\n",
    "",
    "no newline",
]


@pytest.mark.parametrize("body", BODIES, ids=["blanks", "blank end", "dots", "empty", "newline"])
def test_what_rspamd_signs_verifies(signers, by_dkimpy, sink, body):
    user = next(iter(signers.accounts))
    (envelope,) = arrived(sink, signers.submit(user, [SOMEBODY], text=body))
    assert len(by_dkimpy(envelope.content)) == 2


@pytest.mark.xfail(strict=True, reason="https://github.com/rspamd/rspamd/issues/4322")
def test_a_page_break_is_signed_as_it_leaves(signers, by_dkimpy, sink):
    user = next(iter(signers.accounts))
    (envelope,) = arrived(sink, signers.submit(user, [SOMEBODY], text="page\x0cpage\r\n"))
    assert len(by_dkimpy(envelope.content)) == 2


def test_unsigned_mail_is_not_taken(signers, by_dkimpy, sink):
    """While rspamd is down, or cannot read a key, its users are asked to come again."""
    user = next(iter(signers.accounts))
    keys = f"/etc/mail/dkim/{signers.pillar['domains'][0]}"
    signers.machine.run("systemctl stop rspamd")
    with pytest.raises(smtplib.SMTPDataError, match="could not be signed") as down:
        signers.submit(user, [SOMEBODY])
    signers.machine.run(f"mv {keys} {keys}.away && systemctl start rspamd")
    rspamd_answers(signers)
    with pytest.raises(smtplib.SMTPDataError, match="could not be signed") as unread:
        signers.submit(user, [SOMEBODY])
    assert (down.value.smtp_code, unread.value.smtp_code) == (451, 451)
    signers.machine.run(f"mv {keys}.away {keys}")
    (envelope,) = arrived(sink, signers.submit(user, [SOMEBODY]))
    assert len(by_dkimpy(envelope.content)) == 2


def rspamd_answers(server):
    stat = "rspamadm control stat"
    until(lambda: not server.machine.run(stat, check=False).returncode, 60, "rspamd is not back")


# The spam filter


def results(message):
    """What Authentication-Results says, from its one header."""
    (header,) = parsed(message).get_all("Authentication-Results")
    server, *found = (part.strip() for part in header.split(";"))
    return server, {result.split("=")[0]: result.split("=")[1].split()[0] for result in found}


def test_good_mail_arrives_as_it_was_sent_with_what_is_known_of_its_sender(signers):
    user = next(iter(signers.accounts))
    for message in (
        signers.filtered,
        signers.wait(user, signers.deliver([user], **ORDINARY)),
    ):
        assert parsed(message).get_content() == "hello\r\n"
        assert results(message) == (
            signers.machine.fqdn,
            {"dkim": "none", "spf": "none", "dmarc": "none"},
        )
        assert "X-Spam" not in parsed(message)


def test_mail_of_another_server_of_ours_passes_every_check(signers, one, two):
    other = two if signers is one else one
    user = next(iter(signers.accounts))
    message = signers.wait(user, other.submit(next(iter(other.accounts)), [user]))
    assert results(message)[1] == {"dkim": "pass", "spf": "pass", "dmarc": "pass"}


def test_the_mark_of_spam_is_refused(signers):
    """By rspamd, of strangers, and where it signs of everybody."""
    user = next(iter(signers.accounts))
    for send in signers.deliver, functools.partial(signers.submit, user):
        with pytest.raises(smtplib.SMTPDataError, match="Gtube") as refused:
            send([user], text=GTUBE, **ORDINARY)
        assert refused.value.smtp_code == 550


def test_a_forged_author_of_ours_goes_to_junk_whatever_its_x_spam_says(signers):
    user, actions = next(iter(signers.accounts)), "/etc/rspamd/local.d/actions.conf"
    signers.machine.put(actions, "add_header = 0.1;\n")
    signers.machine.run("systemctl restart rspamd")
    rspamd_answers(signers)
    subject = signers.deliver([user], From=user, X_Spam="no", **ORDINARY)
    message = signers.wait(user, subject, folder="Junk")
    signers.machine.run(f"rm {actions}; systemctl restart rspamd")
    rspamd_answers(signers)
    assert parsed(message).get_all("X-Spam") == ["yes"]
    assert results(message)[1] == {"dkim": "none", "spf": "none", "dmarc": "fail"}


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper])
def test_what_a_stranger_writes_into_our_headers_does_not_count(signers, spelling):
    user = next(iter(signers.accounts))
    forged = {
        spelling("Authentication-Results"): f"{signers.machine.fqdn};\r\n\tdkim=pass; spf=pass",
        spelling("X-Spam"): "yes",
    }
    message = signers.wait(user, signers.deliver([user], **forged, **ORDINARY))
    assert "X-Spam" not in parsed(message)
    assert results(message)[1]["dkim"] == "none"
    assert parsed(message).get_content() == "hello\r\n"


def test_while_rspamd_is_down_strangers_are_asked_to_come_again(signers):
    user = next(iter(signers.accounts))
    signers.machine.run("systemctl stop rspamd")
    with pytest.raises((smtplib.SMTPDataError, smtplib.SMTPServerDisconnected)) as refused:
        signers.deliver([user], **ORDINARY)
    assert 400 <= refused.value.smtp_code < 500
    assert signers.salt("mailcheck.run", check=False)["service rspamd"].startswith("FAULT: ")
    signers.machine.run("systemctl start rspamd")
    rspamd_answers(signers)
    signers.wait(user, signers.deliver([user], **ORDINARY))


# Our own tests; the lists that are none of the lab's business; no controller, as it is meant; and
# what rspamd says of a history, statistics and a cache that are not there yet, and of processes of
# its own when it is stopped.
EXPECTED = (
    "cannot load dkim key|empty text part|maps.rspamd.com|controller worker is unconfigured"
    "|stored history is smaller|cannot load controller stats|symbols.cache.new"
    "|by signal: Terminated"
)


def test_rspamd_has_nothing_to_complain_about(signers):
    signers.wait(user := next(iter(signers.accounts)), signers.deliver([user], **ORDINARY))
    lines = signers.machine.run("journalctl -q -o cat -p warning -u rspamd").stdout.splitlines()
    assert [line for line in lines if not any(word in line for word in EXPECTED.split("|"))] == []
