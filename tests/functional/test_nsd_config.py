"""The real nsd-checkconf and the whole configuration of NSD, of which our file is a part."""

import os
import subprocess
import sys

import _mailsrv_nsd as whole
import _mailsrv_signer as signer
import pytest

OURS = "zone:\n\tname: example.com\n\tzonefile: /var/lib/nsd/mailsrv/example.com.zone\n"
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"  # as an administrator may write it where it is wrong


class Nsd:
    """The configuration of NSD in a directory, with one of Debian's nsd-checkconf."""

    def __init__(self, top):
        self.top = top
        self.whole, self.ours = str(top / "nsd.conf"), str(top / "nsd.conf.d/mailsrv.conf")
        self.write("nsd.conf", f'include: "{top}/nsd.conf.d/*.conf"\n')

    def write(self, name, text):
        path = self.top / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("TOP", str(self.top)))

    def others(self):
        return whole.others(self.whole, self.ours)

    def check(self, text):
        """What the check of our file says of that text; empty where it is well."""
        self.write("candidate", text)
        command = [sys.executable, "-I", whole.__file__, self.whole, self.ours]
        ran = subprocess.run(
            [*command, self.top / "candidate"], capture_output=True, text=True, check=False
        )
        assert ran.stdout == ""
        assert bool(ran.returncode) == bool(ran.stderr)
        return ran.stderr.strip().replace(str(self.top), "TOP")


@pytest.fixture
def nsd(program, suite, tmp_path, monkeypatch):
    directory = os.path.dirname(program("nsd-checkconf", suite))
    monkeypatch.setenv("PATH", directory, prepend=os.pathsep)
    return Nsd(tmp_path)


def test_what_debian_brings_and_our_file_are_taken(nsd):
    assert nsd.others() == []
    assert nsd.check(OURS) == ""
    assert nsd.check("") == ""


def test_zones_of_the_administrator_are_found_wherever_they_stand(nsd):
    nsd.write(
        "nsd.conf",
        "server:\n"
        '\tzonelistfile: "TOP/zone.list"\n'
        '# include: "TOP/not.conf"\n'
        "zone:\n\tname: One.Example.\n\tzonefile: one\n"
        'include: "TOP/nsd.conf.d/*.conf" include: TOP/more/first.conf\n',
    )
    nsd.write("nsd.conf.d/own.conf", 'zone:\n\tname: "two.example"\n\tzonefile: two\n')
    nsd.write("more/first.conf", "zone:\n\tname: three.example\n\tinclude: 'TOP/more/deep.inc'\n")
    nsd.write("more/deep.inc", "zonefile: three\ninclude: TOP/more/none*.conf\n")
    nsd.write("nsd.conf.d/mailsrv.conf", OURS)
    nsd.write("not.conf", "zone:\n\tname: not.example\n")
    nsd.write("zone.list", "# NSD zone list\nadd four.example secondary\nadd five.example. x\n")
    zones = ["five.example", "four.example", "one.example", "three.example", "two.example"]
    assert nsd.others() == zones
    assert nsd.check(OURS) == ""


def test_nsd_is_asked_once(nsd, monkeypatch):
    real, asked = subprocess.run, []
    monkeypatch.setattr(
        subprocess, "run", lambda *args, **kw: asked.append(args) or real(*args, **kw)
    )
    assert nsd.others() == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    "text",
    [
        "zone:\n\tname: example.com\nnonsense\n",
        "zone:\n\tname: example.com\n\tnotify: 192.0.2.1 mailsrv\n",  # there is no such key
        OURS.replace("zone:", "zones:"),
        OURS + OURS,
        'key:\n\tname: mailsrv\n\tsecret: "not ended\n',
        "\x00\x1b[2J",
        "\udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1"),
        'include: "TOP/nsd.conf.d/mailsrv.conf"\n',
        'include: "TOP/none"\n',
    ],
)
def test_the_check_of_our_file_refuses_nonsense(nsd, text):
    assert nsd.check(text).startswith("TOP/nsd.conf")
    assert nsd.check(OURS) == ""


def test_a_zone_of_the_administrator_beside_the_same_of_ours_is_refused(nsd):
    nsd.write("nsd.conf.d/own.conf", "zone:\n\tname: example.com\n\tzonefile: own\n")
    assert "example.com" in nsd.check(OURS)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"nsd.conf": "server:\n\tport: 53\n"},
            "TOP/nsd.conf: does not include TOP/nsd.conf.d/mailsrv.conf; add there: include: "
            '"TOP/nsd.conf.d/*.conf"',
        ),
        (
            {"nsd.conf.d/own.conf": "\n\nnonsense: yes\n"},
            "TOP/nsd.conf: TOP/nsd.conf.d/own.conf:3: at …: error: syntax error",
        ),
        (
            {"nsd.conf.d/own.conf": 'include: "TOP/none"\n'},
            "TOP/nsd.conf: TOP/nsd.conf.d/own.conf:1: error: cannot open include file 'TOP/none'",
        ),
        (
            {"nsd.conf.d/own.conf": 'include: "TOP/nsd.conf.d"\n'},
            "TOP/nsd.conf: [Errno 21] Is a directory: 'TOP/nsd.conf.d'",
        ),
        (
            {"nsd.conf.d/own.conf": "include: TOP/deep\n", "deep": 'include: "TOP/nsd.conf"\n'},
            "TOP/deep: includes TOP/nsd.conf, of which it is a part",
        ),
        (
            {"nsd.conf.d/own.conf": f"key:\n name: a\n secret: {SECRET}!\n"},
            "TOP/nsd.conf: TOP/nsd.conf.d/own.conf:",
        ),
    ],
)
def test_a_configuration_that_is_none_is_said_with_the_place(nsd, files, sentence):
    for name, text in files.items():
        nsd.write(name, text)
    assert nsd.check(OURS).startswith(sentence)
    with pytest.raises(whole.Unusable) as caught:
        nsd.others()
    assert str(caught.value).replace(str(nsd.top), "TOP").startswith(sentence)


@pytest.mark.parametrize(
    "text",
    [
        f"key:\n name: a\n algorithm: {SECRET}\n secret: {SECRET}\n",
        f"key:\n name: a\n algorithm: hmac-sha256\n secret: {SECRET} {SECRET}\n",
        f'key:\n name: a\n algorithm: hmac-sha256\n secret: "{SECRET}"{SECRET}\n',
        f"key:\n name: a\n secret: {SECRET}!\n",
        f'key:\n name: a\n algorithm: hmac-sha256\n secret: "{SECRET}\n',
        f"key:\n name: a\n secrets: {SECRET}\n",
        f"key:\n name: a\n {SECRET}: yes\n",
        f"key:\n name: a\n secret {SECRET}\n",
        f"key:\n name: a\n '{SECRET}' \"{SECRET}'{SECRET}\"\n",
        f"zone:\n name: a.example\n request-xfr: {SECRET} mailsrv\n",
        f"zone:\n name: a.example\n request-xfr: 192.0.2.1 {SECRET}\n",
        f"server:\n port: {SECRET}\n tls-service-key: {SECRET}\n",
        f"{SECRET}\n",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_said(nsd, text):
    said = nsd.check(text)
    assert said.startswith("TOP/nsd.conf: ")
    assert SECRET not in said


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("", "127.0.0.1"),
        ("ip-address: 192.0.2.53", "192.0.2.53"),
        ("ip-address: 192.0.2.53@5353", "192.0.2.53@5353"),
        ("ip-address: 2001:db8::53", "2001:db8::53"),
        ("ip-address: 0.0.0.0", "127.0.0.1"),
        ("ip-address: 0.0.0.0\n\tip-address: ::0", "127.0.0.1"),
        ("ip-address: eth0\n\tip-address: 192.0.2.53", "192.0.2.53"),
        ("nonsense", "127.0.0.1"),
    ],
)
def test_the_signer_knows_where_nsd_listens(nsd, server, told):
    nsd.write("nsd.conf", f"server:\n\t{server}\n")
    assert signer.address(nsd.whole) == told
