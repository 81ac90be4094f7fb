"""dkim.key_present: a key that is made once, stays, and never leaves its file; dkim.signing."""

import base64
import grp
import json
import os
import pwd
import re
import shutil
import stat
from pathlib import Path

import pytest
from Crypto.PublicKey import ECC, RSA
from salt.exceptions import CommandExecutionError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a key to the user that signs with it"
)
SIGNER = "nobody"


@pytest.fixture
def key(tmp_path):
    return tmp_path / "dkim/example.com/s1.private"


@pytest.fixture
def record(key):
    return key.with_suffix(".public")


@pytest.fixture
def present(minion, key, record, caplog):
    """Apply the state; what it returns and logs is searched for the key."""

    functions = {test: minion().state_function("dkim.key_present", test) for test in (True, False)}

    def apply(test=False, **arguments):
        arguments = {"selector": "s1", "bits": 1024, "user": SIGNER, **arguments}
        ret = functions[test](str(key), public=str(record), **arguments)
        said = f"{ret} {caplog.text}"
        assert "PRIVATE" not in said
        if key.is_file():
            assert not [line for line in key.read_text().splitlines() if line and line in said]
        return ret

    return apply


def pem(bits=1024):
    return RSA.generate(bits).export_key().decode() + "\n"


def public(private):
    return base64.b64encode(RSA.import_key(private).public_key().export_key("DER")).decode()


def published(record):
    return "".join(re.findall(r'"([^"]*)"', record.read_text()))


def owner(path):
    status = path.stat()
    user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    return user, group, stat.S_IMODE(status.st_mode)


GROUP = grp.getgrgid(pwd.getpwnam(SIGNER).pw_gid).gr_name


def test_a_key_and_its_record_are_made(present, key, record):
    ret = present()
    assert (ret["result"], ret["comment"]) == (True, "the key was made")
    assert ret["changes"] == {"key": "RSA, 1024 bits, new", "record": str(record)}
    assert RSA.import_key(key.read_text()).size_in_bits() == 1024
    assert owner(key) == (SIGNER, GROUP, 0o440)
    assert owner(record)[2] == 0o644
    assert record.read_text().startswith("s1._domainkey\tIN\tTXT\t(\n")
    assert published(record) == f"v=DKIM1; k=rsa; t=s; p={public(key.read_text())}"
    assert {*os.listdir(key.parent)} == {key.name, record.name}


@pytest.fixture
def bare(key):
    return key.with_suffix(".bare")


def test_an_ed25519_key_is_made_with_the_form_that_rspamd_reads(present, key, record, bare):
    ret = present(algorithm="ed25519", bare=str(bare))
    assert ret["changes"] == {"key": "Ed25519, new", "record": str(record), "bare": str(bare)}
    made = ECC.import_key(key.read_text())
    assert base64.b64decode(bare.read_text(), validate=False) == made.seed
    assert bare.read_text().count("\n") == 1
    assert owner(key) == owner(bare) == (SIGNER, GROUP, 0o440)
    assert published(record).startswith("v=DKIM1; k=ed25519; ")
    assert present(algorithm="ed25519", bare=str(bare))["changes"] == {}


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("what", ["missing", "content", "owner", "mode"])
def test_the_bare_form_follows_the_key(present, key, bare, what, test):
    present(algorithm="ed25519", bare=str(bare))
    right, private = bare.read_text(), key.read_text()
    if what == "missing":
        bare.unlink()
    elif what == "content":
        bare.write_text("AAAA\n")
    elif what == "owner":
        os.chown(bare, 0, 0)
    else:
        bare.chmod(0o644)
    ret = present(algorithm="ed25519", bare=str(bare), test=test)
    assert ret["result"] is (None if test else True)
    assert ret["changes"] == {"bare": str(bare)}
    if not test:
        assert bare.read_text() == right
        assert owner(bare) == (SIGNER, GROUP, 0o440)
    assert key.read_text() == private


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("there", "wanted", "kind"), [("rsa", "ed25519", "Ed25519"), ("ed25519", "rsa", "RSA")]
)
def test_a_key_of_the_other_algorithm_is_refused_and_stays(
    present, key, tmp_path, there, wanted, kind, test
):
    present(algorithm=there)
    private = key.read_text()
    ret = present(algorithm=wanted, test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == (
        f"{key}: {key} holds no {kind} private key; move it away to have a new one made"
    )
    assert key.read_text() == private


def test_an_ed25519_key_is_adopted(present, key, tmp_path):
    old = tmp_path / "old"
    old.write_text(ECC.generate(curve="Ed25519").export_key(format="PEM"))
    ret = present(algorithm="ed25519", adopt=[str(old)])
    assert ret["changes"]["key"] == f"adopted from {old}"
    assert key.read_text() == old.read_text() + "\n"


def test_the_key_is_not_in_what_a_run_returns_and_logs(minion, key, record, caplog):
    arguments = {"selector": "s1", "public": str(record), "bits": 1024, "user": SIGNER}
    (ret,) = minion()("state.single", "dkim.key_present", str(key), **arguments).values()
    assert ret["result"] is True
    assert not [line for line in key.read_text().splitlines() if line in f"{ret} {caplog.text}"]


@pytest.mark.parametrize("test", [False, True])
def test_a_key_that_is_there_is_kept_whatever_its_length(present, key, test):
    present(bits=1024)
    before = key.read_bytes(), key.stat().st_mtime_ns
    ret = present(bits=2048, test=test)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == "the key is present"
    assert (key.read_bytes(), key.stat().st_mtime_ns) == before


@pytest.mark.parametrize("adopted", [False, True])
def test_in_test_mode_a_key_would_be_made_and_nothing_is(present, key, tmp_path, adopted):
    old = tmp_path / "old"
    if adopted:
        old.write_text(pem())
    ret = present(test=True, adopt=[str(old)])
    assert ret["result"] is None
    assert ret["changes"]["key"] == (f"adopted from {old}" if adopted else "RSA, 1024 bits, new")
    assert "would be" in ret["comment"]
    assert not key.parent.exists()


def test_in_test_mode_the_signer_may_still_be_missing(present, key):
    assert present(test=True, user="nobody-of-that-name")["result"] is None
    present()
    assert present(test=True, user="nobody-of-that-name")["result"] is None
    assert owner(key)[0] == SIGNER


def test_the_first_key_that_exists_is_adopted_and_left_where_it_is(present, key, record, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(pem())
    second.write_text(pem())
    ret = present(adopt=[str(tmp_path / "missing"), str(first), str(second)])
    assert ret["changes"]["key"] == f"adopted from {first}"
    assert key.read_text() == first.read_text()
    assert published(record).endswith(f"p={public(first.read_text())}")
    assert owner(key) == (SIGNER, GROUP, 0o440)
    assert present(adopt=[str(second)])["changes"] == {}


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("what", ["owner", "group", "mode"])
def test_owner_and_mode_are_repaired(present, key, what, test):
    present()
    if what == "mode":
        key.chmod(0o644)
    else:
        os.chown(key, 0 if what == "owner" else -1, 0)
    before, private = owner(key), key.read_text()
    ret = present(test=test)
    assert ret["result"] is (None if test else True)
    assert ret["changes"] == {"owner": f"{SIGNER}:{SIGNER} 0440"}
    assert owner(key) == (before if test else (SIGNER, GROUP, 0o440))
    assert key.read_text() == private


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("content", [None, "", 's1._domainkey IN TXT ( "v=DKIM1; p=AAAA" )\n', "é"])
def test_the_record_follows_the_key(present, key, record, content, test):
    present()
    right, private = record.read_text(), key.read_text()
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    ret = present(test=test)
    assert ret["result"] is (None if test else True)
    assert ret["changes"] == {"record": str(record)}
    if not test:
        assert record.read_text() == right
    assert key.read_text() == private


def test_a_new_selector_makes_a_new_record_of_the_same_key(present, key, record):
    present()
    value = published(record)
    assert present(selector="s2")["changes"] == {"record": str(record)}
    assert record.read_text().startswith("s2._domainkey\t")
    assert published(record) == value


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("where", ["key", "adopted"])
@pytest.mark.parametrize("content", ["", "hunter2\n", "-----BEGIN RSA PRIVATE KEY-----\nMIIC\n"])
def test_a_file_that_holds_no_key_is_refused_and_stays_as_it_is(
    present, key, tmp_path, content, where, test
):
    file = key if where == "key" else tmp_path / "old"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    ret = present(test=test, adopt=[str(tmp_path / "old")])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == (
        f"{key}: {file} holds no RSA private key; move it away to have a new one made"
    )
    assert file.read_text() == content
    assert where == "key" or not key.exists()


def test_a_directory_in_the_place_of_the_key_is_a_fault(present, key):
    key.mkdir(parents=True)
    ret = present()
    assert ret["result"] is False
    assert str(key) in ret["comment"]


@pytest.mark.parametrize("who", ["user", "group"])
def test_a_signer_that_does_not_exist_is_named_and_nothing_is_made(present, key, who):
    ret = present(**{who: "nobody-of-that-name"})
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"].startswith(f"{key}: no such user or group: ")
    assert "nobody-of-that-name" in ret["comment"]
    assert not key.exists()


def test_a_run_that_is_interrupted_leaves_no_half_key(present, key, monkeypatch):
    def rename(*paths):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr(os, "replace", rename)
        assert present()["result"] is False
    assert not key.exists()
    assert os.listdir(key.parent) == []
    assert present()["result"] is True


def test_a_key_is_complete_and_closed_before_it_has_its_name(present, key, monkeypatch):
    rename, seen = os.rename, []

    def look(source, target):
        if target == str(key):
            source = Path(source)
            seen.append((owner(source), RSA.import_key(source.read_text())))
        rename(source, target)

    monkeypatch.setattr(os, "rename", look)
    present()
    ((before, made),) = seen
    assert before == (SIGNER, GROUP, 0o440)
    assert made == RSA.import_key(key.read_text())


def test_the_signer_reaches_the_key_whatever_the_umask_of_the_run(present, key, record, tmp_path):
    before = os.umask(0o077)
    try:
        assert present()["result"] is True
    finally:
        os.umask(before)
    assert stat.S_IMODE(record.stat().st_mode) == 0o644
    for directory in (key.parent, key.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755


# dkim.signing


@pytest.fixture
def signs(minion, key, caplog, monkeypatch):
    """Apply the state; DNS is `signs.lacking`, sentences or an error (the lab has a real one)."""
    states = {test: minion().state_function("dkim.signing", test) for test in (True, False)}
    name = key.with_name("rsa.signing")

    def apply(selector="s1", test=False, **arguments):
        arguments = {"domains": ["example.com"], "keep": 1000, "user": SIGNER, **arguments}
        ret = states[test](str(name), selector, **arguments)
        assert "PRIVATE" not in f"{ret} {caplog.text}"
        return ret

    def lacking(name, kind, value):
        apply.asked.append((name, kind, value))
        if isinstance(apply.lacking, Exception):
            raise apply.lacking
        return apply.lacking

    functions = minion()._functions
    assert functions["mailcheck.lacking"]
    monkeypatch.setitem(functions._dict, "mailcheck.lacking", lacking)
    apply.asked, apply.lacking, apply.name = [], [], name
    return apply


@pytest.fixture
def made(minion):
    """Make the key of a selector beside another one."""
    state = minion().state_function("dkim.key_present")

    def make(key, selector):
        path = key.with_name(f"{selector}.private")
        record = str(path.with_suffix(".public"))
        assert state(str(path), selector, record, bits=1024, user=SIGNER)["result"]
        return path

    return make


def test_signing_follows_dns_through_the_whole_life_of_a_key(signs, made, key):
    first = made(key, "s1")
    ret = signs()
    assert ret["changes"]["signing"] == {"old": "", "new": "s1"}
    assert signs()["changes"] == {}
    assert signs.asked == []  # there is nothing to wait for

    second = made(key, "s2")
    signs.lacking = ["ns2.example.net still lacks it"]
    ret = signs("s2")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == "s1 signs, s2 waits: ns2.example.net still lacks it"
    value = f"v=DKIM1; k=rsa; t=s; p={public(second.read_text())}"
    assert signs.asked == [("s2._domainkey.example.com", "TXT", value)]

    signs.lacking = CommandExecutionError("DNS cannot be asked")
    assert signs("s2")["comment"] == "s1 signs, s2 waits: DNS cannot be asked"

    signs.lacking = []
    ret = signs("s2", test=True)
    assert (ret["result"], ret["comment"]) == (None, "s2 signs now, after s1")
    assert json.loads(signs.name.read_text())["signing"] == "s1"
    assert signs("s2")["changes"]["signing"] == {"old": "s1", "new": "s2"}
    assert signs("s2")["changes"] == {}
    assert first.exists()

    signs.name.write_text(signs.name.read_text().replace('"s1": ', '"s1": -'))
    assert signs("s2")["changes"]["deleted"] == [str(first)]
    assert not first.exists()
    assert first.with_suffix(".public").exists()  # its record is to be found and removed
    assert second.exists()
    assert signs("s2")["changes"] == {}


def test_who_changes_the_signer_in_the_middle_of_it_goes_on_where_it_stood(signs, made, key):
    shared = key.parent.with_name("shared") / key.name
    made(shared, "s1")
    made(shared, "s2")
    stage = {"signing": "s1", "retired": {}, "domains": ["example.com"]}
    shared.with_name("rsa.signing").write_text(json.dumps(stage))
    made(key, "s2")
    signs.lacking = ["not yet"]
    adopt = [str(shared.with_name("rsa.signing"))]
    ret = signs("s2", adopt=adopt)
    assert ret["comment"] == "s1 signs, s2 waits: not yet"
    assert key.read_text() == shared.read_text()
    assert owner(key) == (SIGNER, GROUP, 0o440)
    assert json.loads(signs.name.read_text()) == stage
    os.chown(key, 0, 0)
    assert signs("s2", adopt=adopt)["changes"]["keys"] == [str(key)]
    assert owner(key) == (SIGNER, GROUP, 0o440)
    assert signs("s2", adopt=adopt)["changes"] == {}


def test_of_all_domains_of_another_signer_those_with_that_very_key_go_on(signs, made, key):
    """From a key for each to one for all: where it is the same, its record stands."""
    first, second, third, fourth = domains = [f"{name}.example" for name in "abcd"]
    for domain in first, third:
        made(key.parent / domain / key.name, "s1")
    for domain in second, fourth:
        shutil.copytree(key.parent / first, key.parent / domain)
    waiting = {"signing": "", "retired": {}, "domains": []}
    (key.parent / fourth / "rsa.signing").write_text(json.dumps(waiting))
    adopted = key.parent / first / "rsa.signing"
    adopted.write_text(json.dumps({"signing": "s1", "retired": {}, "domains": [first]}))
    made(key, "s1")
    signs.lacking = ["not yet"]
    assert signs(domains=domains, adopt=[str(adopted)])["result"] is True
    assert stage(signs)["domains"] == [first, second]


def test_a_file_that_is_damaged_is_named_and_left_as_it_is(signs, made, key):
    made(key, "s1")
    signs.name.write_text("{")
    ret = signs()
    assert ret["result"] is False
    assert ret["comment"].startswith(f"{signs.name}: ")
    assert signs.name.read_text() == "{"


# A new domain


def stage(signs):
    return json.loads(signs.name.read_text())


def test_a_new_domain_of_a_key_of_all_is_signed_when_its_record_is_there(signs, made, key):
    made(key, "s1")
    signs()
    both = ["new.example", "example.com"]
    signs.lacking = ["ns1 still lacks it"]
    ret = signs(domains=both)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == (
        "s1 signs; mail of new.example is signed as another domain until DNS shows its record: "
        "ns1 still lacks it"
    )
    assert {name for name, *_ in signs.asked} == {"s1._domainkey.new.example"}
    # It keeps no other from getting its next key.
    made(key, "s2")
    signs.lacking = []
    signs.asked.clear()
    assert signs("s2", domains=both, test=True)["comment"] == "s2 signs now, after s1"
    assert signs.asked[0][0] == "s2._domainkey.example.com"
    ret = signs(domains=both, test=True)
    assert ret["changes"]["domains"] == {"old": ["example.com"], "new": both}
    assert stage(signs)["domains"] == ["example.com"]
    assert signs(domains=both)["result"] is True
    assert stage(signs)["domains"] == both
    assert signs(domains=both)["changes"] == {}
    # Who comes back waits again; where nobody else is signed, nobody waits.
    signs(domains=["example.com"])
    signs.lacking = ["ns1 still lacks it"]
    assert "domains" not in signs(domains=both)["changes"]
    assert signs(domains=["only.example"])["result"] is True
    assert stage(signs)["domains"] == ["only.example"]


def test_a_new_domain_with_a_key_of_its_own_waits_as_well(signs, made, key):
    made(key, "s1")
    signs.lacking = ["ns1 still lacks it"]
    assert signs(waits=True)["comment"] == "nothing signs, s1 waits: ns1 still lacks it"
    assert stage(signs) == {"signing": "", "retired": {}, "domains": []}
    assert signs(waits=True)["changes"] == {}
    signs.lacking = []
    assert signs(waits=True)["changes"]["signing"] == {"old": "", "new": "s1"}
    assert stage(signs)["domains"] == ["example.com"]
    # Nobody waits where nothing else is signed any more.
    signs.name.write_text('{"signing": "", "retired": {}, "domains": []}')
    signs.lacking = ["ns1 still lacks it"]
    assert signs(waits=False)["changes"]["signing"] == {"old": "", "new": "s1"}


def test_a_domain_that_waits_goes_on_to_wait_with_another_signer(signs, made, key):
    """The key of all signs for another domain; in a directory of its own this one has it, too."""
    shared = key.parent.with_name("shared") / key.name
    made(shared, "s1")
    made(key, "s1")
    others = {"signing": "s1", "retired": {}, "domains": ["signed.example"]}
    shared.with_name("rsa.signing").write_text(json.dumps(others))
    adopt = [str(shared.with_name("rsa.signing"))]
    signs.lacking = ["ns1 still lacks it"]
    ret = signs(waits=True, adopt=adopt)
    assert ret["comment"] == "nothing signs, s1 waits: ns1 still lacks it"
    assert stage(signs) == {"signing": "", "retired": {}, "domains": []}
    signs.lacking = []
    assert signs(waits=True, adopt=adopt)["changes"]["signing"] == {"old": "", "new": "s1"}


def test_a_domain_that_was_signed_before_there_were_new_ones_goes_on(signs, made, key):
    made(key, "s1")
    signs.lacking = ["ns1 still lacks it"]
    both = ["example.com", "example.org"]
    signs.name.write_text('{"signing": "s1", "retired": {}}\n')
    assert signs(domains=both, waits=True)["changes"] == {"file": str(signs.name)}
    assert stage(signs)["domains"] == both
    signs.name.write_text("")  # a power cut
    assert signs(domains=both, waits=True)["warnings"]
    assert stage(signs) == {"signing": "s1", "retired": {}, "domains": both}


def test_the_domains_that_are_signed_are_noted_for_the_next_run(minion, signs, made, key):
    made(key, "s1")
    file = key.with_name("domains")
    arguments = {"used": [str(signs.name)], "domains": str(file)}
    top = str(key.parent)
    noted = {t: minion().state_function("dkim.remembered", t) for t in (True, False)}
    assert noted[True](top, **arguments)["changes"] == {}
    signs()
    assert noted[True](top, **arguments)["result"] is None
    assert not file.exists()
    assert noted[False](top, **arguments)["changes"] == {"domains": ["example.com"]}
    assert json.loads(file.read_text()) == {"example.com": "s1"}
    assert noted[False](top, **arguments)["changes"] == {}
    signs.name.write_text("{")
    assert noted[False](top, **arguments)["result"] is False
