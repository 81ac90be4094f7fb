"""A search by Dovecot's index finds what stands in the mail; what strangers send costs little."""

import io
import re
import time
import zipfile
from email.message import EmailMessage

import pytest

from wire import until

pytestmark = pytest.mark.lab

ANN = "ann@one.example"


def pdf(text):
    """A page with that text."""
    drawn = b"BT /F 18 Tf 10 100 Td (%s) Tj ET" % text.encode()
    page = b"/Type /Page /Parent 2 0 R /MediaBox [0 0 300 144] /Contents 4 0 R"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< %s /Resources << /Font << /F 5 0 R >> >> >>" % page,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    file, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(b"%010d 00000 n \n" % len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(places)
    trailer = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(file)
    return file + table + trailer


def packed(name, text):
    """An office document: XML in a ZIP."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return file.getvalue()


def message(subject, text, **attachments):
    """One in ann's mailbox; the attachments by their extension."""
    kinds = {
        "pdf": "pdf",
        "odt": "vnd.oasis.opendocument.text",
        "docx": "vnd.openxmlformats-officedocument.wordprocessingml.document",
    }
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "x@elsewhere.example", ANN, subject
    mail["Message-ID"] = f"<{time.time()}@elsewhere.example>"
    mail.set_content(text + "\n")
    for name, content in attachments.items():
        mail.add_attachment(
            content, maintype="application", subtype=kinds[name], filename=f"x.{name}"
        )
    return mail.as_bytes()


@pytest.fixture(scope="module")
def indexed(two):
    """Debian 13 with an index, and what its journal says from then on."""
    began = time.time()
    with two.having(search={"attachments": True}):
        yield two
    said = two.machine.run(f"journalctl -u dovecot --since=@{int(began)} -o cat").stdout
    faults = re.findall(r".*(?:Error|Panic|Fatal|client_limit).*", said)
    # What these tests did themselves: a kill, and a folder deleted while it is indexed.
    own = re.compile(r"killed with signal 9|stat\(\S+/search\d+/\S+ failed: No such file")
    assert [line for line in faults if not own.search(line)] == []


@pytest.fixture
def mailbox(indexed):
    """An empty folder of ann's, open."""
    with indexed.imap(next(iter(indexed.accounts))) as imap:
        folder = f"search{time.time_ns()}"
        imap.create(folder)
        imap.select(folder)
        yield Folder(indexed, imap, folder)
        imap.close()
        imap.delete(folder)


class Folder:
    def __init__(self, server, imap, name):
        self.server, self.imap, self.name = server, imap, name

    def append(self, *messages):
        for content in messages:
            assert self.imap.append(self.name, None, None, content)[0] == "OK"
        self.imap.noop()

    def found(self, text, key="TEXT"):
        """The numbers of the messages in which a client finds that."""
        self.imap.literal = text.encode()
        status, data = self.imap.search("UTF-8", key)
        assert status == "OK"
        return [int(number) for number in data[0].split()]


def test_text_is_found_by_words_and_how_they_begin_with_marks_or_without(mailbox):
    mailbox.append(
        message("Größe der Dampfschifffahrt", "Überraschung für Müller"),
        message(
            "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz", "siehe 12.345,67 €"
        ),
        message("naïve café", "foo_bar-baz 192.0.2.17 https://a.example/p?q=zwei"),
    )
    for text in ("Müller", "muller", "MÜLLER", "dampfschiff", "überrasch", "Größe"):
        assert (text, mailbox.found(text)) == (text, [1])
    for text in ("rindfleischetikettierungsüberwachungsaufgabenübertrag", "345,67", "12.345", "€"):
        assert (text, mailbox.found(text)) == (text, [2])
    for text in ("cafe", "NAÏVE", "foo_bar", "baz", "192.0.2.17", "zwei"):
        assert (text, mailbox.found(text)) == (text, [3])
    page = EmailMessage()
    page.set_content("<html><p>Gr&uuml;&szlig;e <b>Schnee</b>gl&ouml;ckchen</p></html>", "html")
    mailbox.append(page.as_bytes())
    assert mailbox.found("grüße") == [4]
    assert mailbox.found("nowhere") == []
    assert mailbox.found("dampfschiff", "BODY") == []
    assert mailbox.found("dampfschiff", "SUBJECT") == [1]
    (number,) = mailbox.imap.fetch("3", "(BODY[HEADER.FIELDS (MESSAGE-ID)])")[1][:1]
    identity = re.search(rb"<.*>", number[1])[0].decode()
    assert mailbox.found(identity, "HEADER Message-ID") == [3]


def test_what_stands_in_attachments_is_found(mailbox):
    mailbox.append(
        message("a", "see it", pdf=pdf("Quartalszahlen")),
        message("b", "see it", odt=packed("content.xml", "<d><p>Wiesenblume süß</p></d>")),
        message("c", "see it", docx=packed("word/document.xml", "<d><p>Zaunkönig</p></d>")),
    )
    assert mailbox.found("quartals") == [1]
    assert mailbox.found("süß") == [2]
    assert mailbox.found("zaunkonig") == [3]


def test_an_attachment_that_is_garbage_hides_no_text_and_ends_in_time(mailbox):
    bomb = packed("content.xml", "<d><p>" + "bomb " * 40_000_000 + "</p></d>")
    mailbox.append(
        message("bomb", "tick", odt=bomb),
        message("no pdf", "trick", pdf=b"%PDF-1.4\n" + b"\0\xff<<" * 50_000),
        message("no zip", "track", docx=b"PK\3\4" + b"x" * 50_000),
        message("loop", "truck", pdf=pdf("x").replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]")),
    )
    began = time.monotonic()
    for number, text in enumerate(("tick", "trick", "track", "truck"), 1):
        assert mailbox.found(text) == [number]
    assert time.monotonic() - began < 60
    left = "ls /tmp/systemd-private-*-dovecot.service-*/tmp"
    assert mailbox.server.machine.run(left).stdout == ""


def test_a_decoder_reaches_no_network_and_is_nobody(indexed):
    """What a flaw of a decoder lets in can neither send mail nor read any."""
    machine = indexed.machine
    machine.put(
        "/srv/alone",
        "sed -n '/^alone()/,/^}/p' /etc/dovecot/decode2text >/tmp/alone; . /tmp/alone\n"
        "alone sh -c 'id -u; grep -c : /proc/net/dev; (: </var/vmail) 2>&1'\n",
    )
    ran = machine.run("runuser -u nobody -- sh /srv/alone; rm /tmp/alone", check=False).stdout
    user, networks, denied = ran.splitlines()[:3]
    assert (user, networks) == ("65534", "1")  # the loopback of its own
    assert "denied" in denied or "Permission" in denied


def test_an_indexer_that_is_killed_at_its_work_costs_no_message(mailbox):
    mailbox.append(*[message(f"m{n}", f"needle{n} " + "hay " * 20_000) for n in range(30)])
    machine = mailbox.server.machine
    until(
        lambda: machine.run("pkill -9 indexer-worker", check=False).returncode == 0,
        20,
        "no indexer",
    )
    assert mailbox.found("needle29") == [30]
    assert mailbox.found("needle") == [*range(1, 31)]


def test_without_an_index_the_self_check_and_the_next_run_are_as_ever(indexed):
    assert indexed.faults() == {}
    assert indexed.highstate() == {}
    indexed.machine.run("systemctl start mailsrv-purge")
