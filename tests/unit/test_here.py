"""mailsrv.here: what is known of pillar, system, machine and fleet, asked once a run."""

import copy
import inspect
import json
import os
import time

import _mailsrv_disk as disk
import _mailsrv_here
import pytest
import yaml
from _mailsrv import withdrawing
from salt.exceptions import CommandExecutionError
from salt.loader.context import LoaderContext

import reading
from reading import HOST, ROOT
from saltext.mailsrv.modules import mailsrv

SECRET = "hunter2"
HASH = "$6$salt$" + "a" * 86
OTHER = "$6$other$" + "b" * 86
WEB1 = "web1.example.com"
PEM = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n"


def accounts(*names):
    return [f"{name}@example.com" for name in names]


def having(*names):
    """A pillar with these accounts."""
    return {
        "domains": ["example.com"],
        "accounts": [[address, SECRET] for address in accounts(*names)],
    }


def test_an_unknown_system_is_named(loader):
    loader["__grains__"]["os_family"] = "RedHat"
    with pytest.raises(CommandExecutionError) as raised:
        mailsrv.here()
    assert str(raised.value) == "mailsrv: this formula knows Debian and FreeBSD, not RedHat"


@pytest.mark.parametrize("family", reading.FAMILIES)
def test_the_facts_are_those_of_the_system_with_the_date_and_what_stands_here(loader, family):
    loader["__grains__"]["os_family"] = family
    today = time.strftime("%Y-%m-%d")
    # The machine of the tests has no grain "init".
    nobody = "this machine has no systemd, whose journal tells who guesses"
    wanted = {**reading.facts(family, today), "cannot_ban": nobody}
    if family == "Debian":
        wanted["cannot_remember"] = "this machine has no systemd, which starts the Redis for it"
    assert mailsrv.here()["facts"] == wanted


def test_a_daemon_that_may_not_change_the_firewall_bans_nobody(loader, monkeypatch, tmp_path):
    loader["__grains__"]["init"] = "systemd"
    read = disk.text

    def first_process(bounding):
        status = tmp_path / "status"
        status.write_text(f"Name:\tsystemd\nCapBnd:\t{bounding}\n")
        monkeypatch.setattr(
            disk, "text", lambda path: read(status if path == "/proc/1/status" else path)
        )
        return mailsrv.here()["facts"]["cannot_ban"]

    assert first_process("000001ffffffffff") == ""
    # systemd-nspawn without a network of its own, docker
    assert first_process("00000000fdecafff").startswith("this machine may not change its firewall")
    assert first_process("00000000a80425fb").startswith("this machine may not change its firewall")


@pytest.mark.parametrize(
    ("version", "search", "indexed"),
    [([2, 3, 19, 1], True, False), ([2, 4, 1], True, True), ([2, 3, 19, 1], False, True)],
)
def test_an_index_that_does_not_find_what_is_there_is_none(loader, version, search, indexed):
    asked = []
    loader["__salt__"]["mailsrv.version"] = lambda package: asked.append(package) or version
    loader.next_run(**{**having("a"), "mailsrv": {"hostname": HOST, "search": search}})
    here = mailsrv.here()
    assert (here["facts"]["cannot_search"] == "") == indexed
    assert asked == ["dovecot-core"] * search  # once in a run: it may have to ask the archive
    assert (here["model"]["search"] is not None) == (search and indexed)
    notes = [note for note in here["model"]["notes"] if note.startswith("mailsrv:search")]
    assert notes == [
        "mailsrv:search: a search reads all mail, as ever: the index of Dovecot 2.3 does not find "
        "what is there; from 2.4 on (Debian 13) it does"
    ] * (search and not indexed)


# What stands on the machine from the last run


@pytest.fixture
def machine(known, tmp_path):
    """The directories of a machine, below another one."""
    facts = known()
    facts["directory"] = str(tmp_path / "etc/mail")
    facts["dovecot"]["directory"] = str(tmp_path / "etc/dovecot")
    for directory in ("etc/mail", "etc/dovecot"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


def standing():
    return mailsrv.here()["facts"]["standing"]


def test_before_the_first_run_nothing_stands_on_the_machine(machine):
    policies = {"mode": "", "until": ""}
    nothing = {"hostname": "", "accounts": [], "blocked": {}, "policies": policies}
    nothing |= {"backup_for": {}, "signing": [], "moving": {}}
    assert standing() == nothing


def test_a_note_of_what_has_moved_that_is_none_stops_the_run(machine, loader, known):
    path = machine / "moving.json"
    known()["kept"] = str(machine)
    assert standing()["moving"] == {}
    for text in "", "[]", '{"example.org": {"phase": "gone"}}', "\xff":
        path.write_bytes(text.encode("latin-1"))
        loader["__context__"].clear()
        known()["kept"] = str(machine)
        assert standing()["moving"].startswith(f"{path}: ")
    path.unlink()


def test_the_accounts_of_the_last_run_are_those_that_dovecot_knows(machine):
    file = machine / "etc/dovecot/dovecot-passwd"
    for names in ("ab", "abc"):
        lines = "".join(f"{address}:{HASH}::::::\n" for address in accounts(*names))
        file.write_text(f"# Managed by Salt\n{lines}")
        assert standing()["accounts"] == accounts(*names)
    file.write_bytes(b"\xff\0:\n\nroot:x:0:0\n@a:\na@:\n:a@b\na@example.com:x\na@example.com:y")
    assert standing()["accounts"] == accounts("a")
    file.unlink()
    file.mkdir()
    assert standing()["accounts"] == []


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("mx.example.com\n", HOST),
        ("MX.Example.com", HOST),
        ("", ""),
        ("localhost\n", ""),
        ("mx.example.com mx2.example.com\n", ""),
        ("\0" * 4096, ""),
    ],
)
def test_the_name_of_the_last_run_is_remembered_if_it_is_one(machine, content, name):
    (machine / "etc/mail/hostname").write_text(content)
    assert standing()["hostname"] == name


def test_lint_tells_of_accounts_that_go_and_of_another_name(machine, loader):
    (machine / "etc/mail/hostname").write_text("old.example.com\n")
    (machine / "etc/dovecot/dovecot-passwd").write_text("a@example.com:\nb@example.com:\n")
    loader.next_run(**having("a"))
    removed, name = mailsrv.lint()
    assert removed.startswith("b@example.com is no longer in the pillar: ")
    assert name.startswith("this machine's own name is mx.example.com; the mail server keeps ")
    assert "retcode" not in loader["__context__"]
    loader.next_run(**having())
    (fault, *_) = mailsrv.lint()
    assert fault.startswith("accounts: 2 of the 2 accounts on this machine are no longer in the ")
    assert loader["__context__"]["retcode"] == 1


# What the fleet has published


@pytest.fixture
def mine(loader):
    """What was asked of the mine; it has what stands in `found`."""
    asked, found = [], {}

    def get(target, function, tgt_type):
        asked.append((target, function, tgt_type))
        return found

    loader["__salt__"]["mine.get"] = get
    return asked, found


def test_the_mine_is_asked_for_the_target_of_the_pillar_alone(loader, mine):
    asked, found = mine
    found[WEB1] = {"hash": HASH}
    for satellites in (None, {WEB1: {"hash": HASH}}, ["web1"], ""):
        loader.next_run(mailsrv={"satellites": satellites})
        assert mailsrv.here()["mine"]["satellites"] == []
    assert asked == []
    loader.next_run(mailsrv={"satellites": "web*"})
    assert mailsrv.here()["mine"]["satellites"] == [WEB1]
    assert asked == [("web*", "mailsrv.satellite_credential", "compound")]


@pytest.mark.parametrize("published", [{}, {"mail.example.com": ""}, {"mail.example.com": "junk"}])
def test_what_is_no_certificate_is_not_trusted(loader, mine, published):
    asked, found = mine
    found |= published
    loader.next_run(mailsrv={"satellite": {"relay": "mail.example.com"}})
    assert mailsrv.here()["mine"]["certificate"] == ""
    found["mail.example.com"] = PEM
    loader.next_run()
    assert mailsrv.here()["mine"]["certificate"] == PEM
    assert {*asked} == {("mail.example.com", "mailsrv.certificate", "list")}


def test_the_mine_is_not_asked_in_the_name_of_nobody(loader, mine):
    for nobody in ({}, {"satellite": {}}, {"satellite": {"relay": "*"}}, {"satellite": "x"}):
        loader.next_run(mailsrv=nobody)
        assert mailsrv.here()["mine"]["certificate"] == ""
    assert mine[0] == []


# Once a run


@pytest.fixture
def counted(loader, mine, monkeypatch):
    """How often the maps, the mine and the pillar were read."""
    counts = {"maps": 0, "pillar": 0}
    renderer, read = loader["__salt__"]["slsutil.renderer"], _mailsrv_here.pillar.read

    def rendered(*args, **kwargs):
        counts["maps"] += 1
        return renderer(*args, **kwargs)

    def reading_it(*args):
        counts["pillar"] += 1
        return read(*args)

    loader["__salt__"]["slsutil.renderer"] = rendered
    monkeypatch.setattr(_mailsrv_here.pillar, "read", reading_it)
    return lambda: (counts["maps"], len(mine[0]), counts["pillar"])


@pytest.fixture
def with_pillar(monkeypatch):
    def give(pillar):
        monkeypatch.setattr(mailsrv, "__pillar__", pillar, raising=False)

    return give


FLEET = {**having("a"), "mailsrv": {"satellites": "web*"}}


def test_for_one_pillar_maps_mine_and_pillar_are_read_once(loader, counted, with_pillar):
    with_pillar(FLEET)
    first = mailsrv.here()
    assert mailsrv.here() == first
    mailsrv.explain("a@example.com")
    mailsrv.lint()
    assert counted() == (2, 1, 1)


def test_another_pillar_is_another_question(loader, counted, with_pillar):
    """Whatever it says: Salt gives each run one of its own, with what was laid over it."""
    with_pillar(FLEET)
    mailsrv.here()
    with_pillar(copy.deepcopy(FLEET))
    mailsrv.here()
    assert counted() == (2, 2, 2)
    with_pillar({**FLEET, **having("a", "b")})
    assert [account["address"] for account in mailsrv.here()["model"]["accounts"]] == (
        accounts("a", "b")
    )
    assert counted() == (2, 3, 3)


def test_another_system_is_another_question(loader, counted):
    first = mailsrv.here()["facts"]
    loader["__grains__"]["os_family"] = "FreeBSD"
    assert mailsrv.here()["facts"]["dkim"] != first["dkim"]
    assert counted()[0] == 4


def test_the_date_is_looked_at_each_time(loader, counted, with_pillar, monkeypatch):
    with_pillar({**having("a"), "mailsrv": {"dkim": {"rotate": "monthly"}}})
    for today, selector in (("2027-01-31", "mailsrv-202701"), ("2027-02-01", "mailsrv-202702")):
        monkeypatch.setattr(_mailsrv_here.time, "strftime", lambda form, today=today: today)
        known = mailsrv.here()
        assert known["facts"]["today"] == today
        assert known["model"]["dkim"]["selector"] == selector
    assert counted() == (2, 0, 2)


def test_what_stands_on_the_machine_is_looked_at_each_time(machine, counted, with_pillar):
    with_pillar(having("a"))
    passwd = machine / "etc/dovecot/dovecot-passwd"
    assert mailsrv.here()["model"]["removed"] == []
    passwd.write_text("".join(f"{address}:x\n" for address in accounts("a", "b")))
    assert mailsrv.here()["model"]["removed"] == accounts("b")
    passwd.write_text("".join(f"{address}:x\n" for address in accounts("a", "c")))
    (machine / "etc/mail/hostname").write_text("old.example.com\n")
    known = mailsrv.here()["model"]
    assert (known["removed"], known["hostname"]) == (accounts("c"), "old.example.com")
    assert counted() == (2, 0, 3)
    mailsrv.here()
    assert counted() == (2, 0, 3)


def test_a_pillar_may_be_a_name_of_salts_for_that_of_the_call(loader, with_pillar):
    with_pillar(LoaderContext().named_context("__pillar__", default=FLEET))
    assert mailsrv.here()["model"]["domains"] == ["example.com"]


# No secret


SECRETS = ["pepper", "p4ssw0rd", "s3cond", HASH, OTHER, "a" * 86, "b" * 86, "in-no-place"]


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_nothing_of_what_is_returned_is_secret(loader, mine, machine, valid, mapped):
    mine[1][WEB1] = {"hash": OTHER, "reader": "mx"}
    mine[1]["mail.example.com"] = PEM
    listed = [
        ["a@example.com", "p4ssw0rd"],
        {"address": "b@example.com", "hash": HASH},
        {"address": "c@example.com", "password": "s3cond", "quota": "2G"},
    ]
    if mapped:
        listed = {"a@example.com": "p4ssw0rd", "b@example.com": {"hash": HASH}}
    if not valid:
        listed = [*listed, ["in-no-place", "d@example.com"], ["e@example.com", "p4ssw0rd", "2G"]]
    # Hashes stand on the machine from the last run.
    (machine / "etc/dovecot/dovecot-passwd").write_text(
        f"a@example.com:{{SHA512-CRYPT}}{HASH}::::::\nb@example.com:{{SHA512-CRYPT}}{OTHER}::::::\n"
    )
    (machine / "etc/mail/password.key").write_bytes(b"in-no-place")
    satellite = {"relay": "mail.example.com", "root": "a@example.com"}
    fleet = {"satellites": "web*", "satellite": satellite, "tls": {"cert": "/a", "key": "/b"}}
    loader.next_run(salt="pepper", domains=["example.com"], accounts=listed, mailsrv=fleet)
    known = mailsrv.here()
    assert bool(known["faults"]) is not valid
    assert known["mine"] == {"satellites": [WEB1, "mail.example.com"], "certificate": PEM}
    assert [found["name"] for found in known["model"]["satellites"]] == [WEB1]
    for text in (repr(known), json.dumps(known)):
        assert not [secret for secret in SECRETS if secret in text]
    if valid:
        assert "a@example.com" in repr(known)


def test_nothing_of_a_satellite_by_hand_or_of_pillar_example_is_secret(loader):
    loader.next_run(**having("a"), mailsrv={"satellites": {WEB1: {"hash": HASH}}})
    known = mailsrv.here()
    assert (known["faults"], len(known["model"]["satellites"])) == ([], 1)
    assert not [secret for secret in (SECRET, HASH) if secret in repr(known)]
    text = (ROOT / "pillar.example/mail/users.sls").read_text()
    loader["__pillar__"].clear()
    loader.next_run(**yaml.safe_load(text))
    known = mailsrv.here()
    assert known["faults"] == []
    given = loader["__pillar__"]
    for secret in (given["salt"], *(password for _, password in given["accounts"])):
        assert secret not in repr(known)


def test_the_door_says_what_is_behind_it():
    documented = inspect.getdoc(mailsrv.here)
    for name in ("model", "faults", "satellite", "facts", "mine"):
        assert f"\n{name}\n" in documented


def test_the_policy_that_senders_hold_to_is_the_one_that_is_served(tmp_path, known):
    files = tmp_path / "web"
    known()["web"] = {"files": str(files)}
    assert standing()["policies"] == {"mode": "", "until": ""}
    file = files / "mta-sts.example.com/.well-known/mta-sts.txt"
    file.parent.mkdir(parents=True)
    (files / "mta-sts.other.example").mkdir()
    for mode, until in (("enforce", ""), ("none", "2026-07-08")):
        file.write_bytes(withdrawing.policy(mode, "mx.example.com").encode())
        os.utime(file, (0, 1782907200))  # 2026-07-01 12:00 UTC
        assert standing()["policies"] == {"mode": mode, "until": until}
    file.write_bytes(b"\xff\0")
    assert standing()["policies"] == {"mode": "", "until": ""}
