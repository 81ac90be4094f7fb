"""certificate.installed: what the daemons read follows its source, and only what is sound."""

import os
import stat
import subprocess
import time

import pytest

from authority import Authority, cert_pem, fingerprint, key_pem, new_key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the key is root's")
HOST = "mx.example.com"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def place(tmp_path):
    """Where the daemons read."""
    return tmp_path / "tls/mx.crt", tmp_path / "tls/mx.key"


@pytest.fixture
def write(tmp_path):
    """Write source files, as an ACME client does."""

    def write(chain, key, mode=0o600):
        (tmp_path / "fullchain.pem").write_text(chain)
        (tmp_path / "privkey.pem").write_text(key)
        (tmp_path / "privkey.pem").chmod(mode)
        return chain, key

    return write


@pytest.fixture
def installed(minion, tmp_path, place, caplog):
    """Apply the state; what it returns and logs is searched for the key."""
    functions = {t: minion().state_function("certificate.installed", t) for t in (True, False)}
    cert, key = place

    def apply(test=False, cert_source=None, key_source=None):
        ret = functions[test](
            str(cert),
            key=str(key),
            source=cert_source or str(tmp_path / "fullchain.pem"),
            key_source=key_source or str(tmp_path / "privkey.pem"),
            hostname=HOST,
        )
        secrets = [*tmp_path.glob("priv*.pem"), key]
        lines = [
            line for file in secrets if file.is_file() for line in file.read_text().split("\n")
        ]
        assert not [x for x in lines if len(x) > 9 and "-" not in x and x in f"{ret}{caplog.text}"]
        return ret

    return apply


def standing(place):
    return tuple(path.read_text() if path.exists() else None for path in place)


def test_a_certificate_is_installed_once(authority, write, installed, place):
    pems = write(*authority.pems(HOST))
    ret = installed()
    assert (ret["result"], ret["comment"]) == (True, "the certificate was replaced")
    assert ret["changes"]["certificate"].startswith(f"SHA-256 {fingerprint(pems[0])}, until 20")
    assert standing(place) == pems
    modes = [stat.S_IMODE(path.stat().st_mode) for path in place]
    assert (modes, place[1].stat().st_uid) == ([0o644, 0o600], 0)
    assert [path.name for path in place[0].parent.iterdir()] != []
    assert len([*place[0].parent.iterdir()]) == 2
    before = [path.stat().st_ino for path in place]
    ret = installed()
    assert (ret["result"], ret["changes"]) == (True, {})
    assert [path.stat().st_ino for path in place] == before


def test_test_mode_shows_and_changes_nothing(authority, write, installed, place):
    write(*authority.pems(HOST))
    ret = installed(test=True)
    assert (ret["result"], list(ret["changes"])) == (None, ["certificate"])
    assert standing(place) == (None, None)
    installed()
    assert installed(test=True)["result"] is True


@pytest.mark.parametrize("change", ["same key", "new key", "rsa"])
def test_a_renewal_is_followed(authority, write, installed, place, change):
    leaf, key = authority.issue(HOST, key="ecdsa")
    write(cert_pem(leaf, authority.intermediate), key_pem(key))
    installed()
    kind = {"same key": key, "new key": "ecdsa", "rsa": "rsa"}[change]
    pems = write(*authority.pems(HOST, key=kind))
    assert list(installed()["changes"]) == ["certificate"]
    assert standing(place) == pems
    assert installed()["changes"] == {}


def test_a_key_that_was_opened_to_others_is_closed(authority, write, installed, place):
    write(*authority.pems(HOST))
    installed()
    place[1].chmod(0o644)
    assert installed()["changes"] == {"owner": [str(place[1])]}
    assert stat.S_IMODE(place[1].stat().st_mode) == 0o600


BAD = {
    "mismatch": (lambda a: (a.pems(HOST)[0], a.pems(HOST)[1]), "is not the certificate of the key"),
    "no certificate": (lambda a: ("nothing", a.pems(HOST)[1]), "holds no certificate in PEM form"),
    "no key": (lambda a: (a.pems(HOST)[0], "nothing"), "holds no private key in PEM form"),
    "order": (lambda a: shuffled(a), "has its certificates in the wrong order"),
    "expired": (lambda a: a.pems(HOST, begins=-9, ends=-1), "expired on 20"),
    "too early": (lambda a: a.pems(HOST, begins=1), "is not valid before 20"),
    "name": (lambda a: a.pems("a.example"), "is for a.example, not for mx.example.com"),
}


def shuffled(authority):
    leaf, key = authority.issue(HOST)
    return cert_pem(authority.intermediate, leaf), key_pem(key)


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_one_is_refused_and_the_old_one_stays(
    authority, write, installed, place, tmp_path, bad, test
):
    old = write(*authority.pems(HOST))
    installed()
    make, sentence = BAD[bad]
    write(*make(authority))
    ret = installed(test)
    assert (ret["result"], ret["changes"]) == (False, {})
    part = "privkey.pem" if bad == "no key" else "fullchain.pem"
    assert f"{tmp_path / part} {sentence}" in ret["comment"]
    assert ret["comment"].endswith("Nothing was changed; what was served until now still is.")
    assert standing(place) == old


@pytest.mark.parametrize("bad", ["expired", "too early", "name"])
def test_what_is_served_already_is_no_reason_to_fail_for_ever(
    authority, write, installed, place, bad
):
    chain, key = write(*BAD[bad][0](authority))
    for path, text in zip(place, (chain, key), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600 if path == place[1] else 0o644)
    ret = installed()
    assert (ret["result"], ret["changes"]) == (True, {})
    (warning,) = ret["warnings"]
    assert BAD[bad][1] in warning


def test_a_new_key_that_everybody_can_read_is_refused(authority, write, installed, tmp_path):
    write(*authority.pems(HOST), mode=0o644)
    ret = installed()
    assert ret["result"] is False
    assert ret["comment"].startswith(
        f"{tmp_path}/privkey.pem is open to everybody on this machine; chmod 600 it"
    )
    (tmp_path / "privkey.pem").chmod(0o640)  # of a group such as ssl-cert
    assert installed()["result"] is True


def test_a_file_that_is_missing_is_named_with_its_key_in_the_pillar(installed, tmp_path):
    ret = installed()
    assert ret["result"] is False
    assert ret["comment"].split("\n")[:2] == [
        f"{tmp_path}/fullchain.pem cannot be read: No such file or directory; "
        "mailsrv:tls:cert names it",
        f"{tmp_path}/privkey.pem cannot be read: No such file or directory; "
        "mailsrv:tls:key names it",
    ]


def test_the_file_server_is_a_source_and_says_what_it_lacks(authority, installed, minion, place):
    certs = minion().root / "overlay/certs"
    certs.mkdir(exist_ok=True)
    urls = {"cert_source": "salt://certs/mx.pem", "key_source": "salt://certs/mx.key"}
    ret = installed(**urls, test=True) if not (certs / "mx.pem").exists() else None
    assert ret["comment"].startswith(
        "salt://certs/mx.pem cannot be read: the file server has no such file"
    )
    pems = authority.pems(HOST)
    (certs / "mx.pem").write_text(pems[0])
    (certs / "mx.key").write_text(pems[1])
    assert installed(**urls)["result"] is True
    assert standing(place) == pems
    (certs / "mx.pem").write_text(authority.pems(HOST)[0])
    assert installed(**urls)["result"] is False
    assert standing(place) == pems


# How the clients lay out their files, and what a renewal does there


def certbot(directory, number, chain, key):
    """live/NAME/ holds links, which a renewal turns to new files in archive/NAME/."""
    for part, text in (("fullchain", chain), ("privkey", key)):
        new = directory / f"archive/{HOST}/{part}{number}.pem"
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.chmod(0o600)
        link = directory / f"live/{HOST}/{part}.pem"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../archive/{HOST}/{part}{number}.pem")
    return directory / f"live/{HOST}/fullchain.pem", directory / f"live/{HOST}/privkey.pem"


def acme_sh(directory, number, chain, key):
    """NAME_ecc/ holds files, which a renewal writes over."""
    names = directory / f"{HOST}_ecc/fullchain.cer", directory / f"{HOST}_ecc/{HOST}.key"
    names[0].parent.mkdir(exist_ok=True)
    for name, text in zip(names, (chain, key), strict=True):
        name.write_text(text)
        name.chmod(0o600)
    return names


def dehydrated(directory, number, chain, key):
    """certs/NAME/ holds links to files with the time in their names, beside them."""
    names = directory / f"certs/{HOST}/fullchain.pem", directory / f"certs/{HOST}/privkey.pem"
    names[0].parent.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (chain, key), strict=True):
        new = name.with_name(f"{name.stem}-{1795536266 + number}.pem")
        new.write_text(text)
        new.chmod(0o600)
        name.unlink(missing_ok=True)
        name.symlink_to(new.name)
    return names


@pytest.mark.parametrize("client", [certbot, acme_sh, dehydrated])
def test_the_files_of_an_acme_client_are_followed_through_a_renewal(
    authority, installed, place, tmp_path, client
):
    for number in (1, 2):
        pems = authority.pems(HOST)
        cert, key = client(tmp_path, number, *pems)
        assert list(installed(cert_source=str(cert), key_source=str(key))["changes"]) == [
            "certificate"
        ]
        assert standing(place) == pems
        assert not installed(cert_source=str(cert), key_source=str(key))["changes"]


# To begin with, until a CA gives one


@pytest.fixture
def begun(minion, tmp_path, place):
    """Apply the state; of what stands, by what it is called there."""
    cert, key = place
    pairs = [(str(tmp_path / f"{name}.crt"), str(tmp_path / f"{name}.key")) for name in "ab"]

    def apply(test=False, kind="rsa"):
        function = minion().state_function("certificate.begun", test)
        return function(
            str(cert),
            key=str(key),
            hostname=HOST,
            next=str(tmp_path / "next"),
            kind=kind,
            adopt=[list(pair) for pair in pairs],
        )

    return apply


def put(tmp_path, name, pems):
    (tmp_path / f"{name}.crt").write_text(pems[0])
    (tmp_path / f"{name}.key").write_text(pems[1])
    return pems


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_where_there_was_none_one_is_made_and_kept(begun, place, minion, kind):
    assert begun(test=True, kind=kind)["result"] is None
    assert standing(place) == (None, None)
    ret = begun(kind=kind)
    assert (ret["result"], ret["changes"]) == (True, {"certificate": "new, self-signed"})
    made = standing(place)
    look = minion()("certificate.look", made[0], HOST, made[1])
    assert (look["broken"], look["doubtful"], look["kind"]) == ([], [], kind)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in place]
    assert modes == [0o644, 0o600]
    # Another kind is the work of the program: clients have been told to trust this one.
    assert begun(kind="ecdsa" if kind == "rsa" else "rsa")["changes"] == {}
    assert standing(place) == made
    place[1].chmod(0o644)
    assert begun()["changes"] == {"owner": [str(place[1])]}
    assert stat.S_IMODE(place[1].stat().st_mode) == 0o600


def test_what_was_served_is_taken_over_if_clients_took_it(authority, begun, place, tmp_path):
    put(tmp_path, "a", authority.pems(HOST, begins=-9, ends=-1))  # expired
    second = put(tmp_path, "b", authority.pems(HOST))
    ret = begun()
    assert ret["changes"] == {"certificate": f"that of {tmp_path}/b.crt"}
    assert standing(place) == second
    assert begun()["changes"] == {}


@pytest.mark.parametrize("killed", [None, "after the key", "after both"])
def test_a_next_key_that_was_taking_its_place_takes_it(authority, begun, place, tmp_path, killed):
    place[0].parent.mkdir()
    before, after = authority.pems(HOST), put(tmp_path, "next", authority.pems(HOST))
    place[0].write_text(after[0] if killed == "after both" else before[0])
    place[1].write_text(after[1] if killed else before[1])
    (tmp_path / "next.shown").write_text("5\n")
    assert begun(test=True)["result"] is None
    assert begun()["changes"] == {"certificate": "that of the next key"}
    assert standing(place) == after
    assert not [*tmp_path.glob("next.*")]
    assert begun()["changes"] == {}


def test_one_that_does_not_fit_its_key_is_said_and_stays(authority, begun, place):
    place[0].parent.mkdir()
    place[0].write_text(authority.pems(HOST)[0])
    place[1].write_text(authority.pems(HOST)[1])
    before = standing(place)
    ret = begun()
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "is not the certificate of the key beside it" in ret["comment"]
    assert standing(place) == before


@pytest.mark.parametrize("left", [None, ""])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_whose_certificate_a_power_cut_took_is_kept(
    authority, begun, place, minion, tmp_path, kind, left
):
    """DNS may name it, and a CA has given it a certificate before."""
    begun(kind=kind)
    key = standing(place)[1]
    place[0].write_text("") if left == "" else place[0].unlink()
    put(tmp_path, "a", authority.pems(HOST))
    said = {"certificate": "new, self-signed, of the key that was there"}
    assert (begun(test=True)["changes"], begun()["changes"]) == (said, said)
    cert, same = standing(place)
    assert same == key
    look = minion()("certificate.look", cert, HOST, same)
    assert (look["broken"], look["doubtful"], look["self_signed"]) == ([], [], True)
    assert begun()["changes"] == {}


def test_a_key_that_is_none_is_not_kept(authority, begun, place, tmp_path):
    place[0].parent.mkdir()
    pems = authority.pems(HOST)
    locked = subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:x"],
        input=pems[1],
        capture_output=True,
        text=True,
    ).stdout
    for key in (pems[1][:100], pems[0], locked, "\0" * 512, ""):
        place[0].write_text("")
        place[1].write_text(key)
        assert begun()["changes"] == {"certificate": "new, self-signed"}
    put(tmp_path, "a", pems)
    place[0].write_text("")
    place[1].write_text(pems[1][:100])
    assert begun()["changes"] == {"certificate": f"that of {tmp_path}/a.crt"}


def test_without_a_next_key_nothing_is_asked_of_dns(minion, tmp_path):
    function = minion().state_function("certificate.next_shown")
    ret = function(str(tmp_path / "shown"), key=str(tmp_path / "next.key"), hostname=HOST)
    assert (ret["result"], ret["changes"]) == (True, {})


def test_a_next_key_whose_record_cannot_be_asked_for_waits(minion, tmp_path):
    (tmp_path / "next.key").write_text(key_pem(new_key()))
    (tmp_path / "shown").write_text("5\n")
    function = minion().state_function("certificate.next_shown")
    ret = function(str(tmp_path / "shown"), key=str(tmp_path / "next.key"), hostname="mx.invalid")
    assert (ret["result"], ret["changes"]) == (True, {"shown": False})
    assert ret["comment"].startswith("the next key waits for its record 3 1 1 ")
    assert not (tmp_path / "shown").exists()


@pytest.mark.parametrize("left", ["99999999999", "x", "\0\0", ""])
def test_a_record_that_was_seen_by_a_clock_that_was_ahead_is_seen_anew(
    minion, tmp_path, monkeypatch, left
):
    path = tmp_path / "shown"
    (tmp_path / "next.key").write_text(key_pem(new_key()))
    path.write_text(left)
    machine = minion()
    function = machine.state_function("certificate.next_shown")
    assert machine._functions["mailcheck.lacking"]
    monkeypatch.setitem(machine._functions._dict, "mailcheck.lacking", lambda *asked: [])
    ret = function(str(path), key=str(tmp_path / "next.key"), hostname=HOST)
    assert (ret["result"], ret["changes"]) == (True, {"shown": True})
    assert abs(int(path.read_text()) - time.time()) < 60
    ret = function(str(path), key=str(tmp_path / "next.key"), hostname=HOST)
    assert (ret["result"], ret["changes"]) == (True, {})


def test_a_next_key_that_a_power_cut_has_emptied_is_no_error(minion, tmp_path):
    for left in (b"", b"\0\0\0"):
        (tmp_path / "next.key").write_bytes(left)
        function = minion().state_function("certificate.next_shown")
        ret = function(str(tmp_path / "shown"), key=str(tmp_path / "next.key"), hostname=HOST)
        assert (ret["result"], ret["changes"]) == (True, {})
        assert "holds neither a certificate nor a key" in ret["comment"]
