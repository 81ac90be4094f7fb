"""A machine that has mail already: it is told, nothing is stranded, what is replaced is kept."""

import json
import os
import stat

import pytest
from test_faults import ROOMS

MINE = "# by hand\n"
OURS = "# Managed by Salt (mailsrv.dovecot): changes here are overwritten.\n"


@pytest.fixture
def postfix(minion, tmp_path, monkeypatch):
    """A minion in whose Postfix a message waits; the minion of that name."""

    def make(name, **options):
        machine = minion(id=name, **options)
        machine.at("/var/spool/postfix").mkdir(parents=True, exist_ok=True)
        program = tmp_path / "postqueue"
        program.write_text("#!/bin/sh\necho '{}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return machine

    return make


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("rooms", [["mailsrv"], ROOMS], ids=["mailsrv", "every room"])
def test_a_queue_that_is_not_empty_keeps_every_room_from_beginning(postfix, rooms, test):
    result = postfix("queue")("state.apply", rooms, test=test)
    (state,) = result.values()
    assert (state["result"], state["changes"]) == (False, {})
    assert state["__id__"] == "mailsrv-queue-is-not-empty"
    said = state["name" if test else "comment"]
    assert said.startswith("mailsrv: nothing was touched: Postfix holds 1 message in ")


def test_a_queue_may_be_left_behind_and_is_told_of(postfix):
    machine = postfix("abandon", services=("postfix",))
    low = machine.low(abandon_queue=True)
    told = [chunk["text"] for chunk in low if chunk["state"] == "test"]
    assert [text.split()[0] for text in told] == ["Postfix", "postfix"]
    assert {chunk["order"] for chunk in low if chunk["state"] == "test"} == {1}
    assert "mailsrv-opensmtpd-service" in {chunk["__id__"] for chunk in low}


def test_once_our_smtpd_conf_stands_no_queue_is_asked_for(postfix):
    machine = postfix("later", services=("postfix",))
    config = machine.at("/etc/smtpd.conf")
    config.parent.mkdir(exist_ok=True)
    config.write_text(OURS)
    assert not [chunk for chunk in machine.low() if chunk["state"] == "test"]


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
@pytest.mark.parametrize("signer", ["dkimproxy", "rspamd"])
def test_what_stands_there_is_kept_before_a_package_or_a_file_replaces_it(minion, system, signer):
    settings = {"dkim": {"signer": signer}}
    low = minion(system).low(**settings)
    keeping = {chunk["name"]: chunk for chunk in low if chunk["state"] == "mailbox"}
    for room in ("opensmtpd", "dovecot", signer):
        config = minion(system).state(f"file: mailsrv-{room}-config", **settings)
        before = keeping.pop(config["name"])["require_in"]
        assert before == [{"pkg": f"mailsrv-{room}-packages"}, {"file": config["__id__"]}]
    assert keeping == {}


@pytest.mark.parametrize("agent", ["opensmtpd", "dma"])
def test_a_satellite_neither_strands_a_queue_nor_loses_a_file(postfix, pillar, agent):
    satellite = {
        "relay": "mail.example.com",
        "root": "admin@example.com",
        "agent": agent,
        "ca": "/etc/ssl/relay.pem",
    }
    text = f"#!json\n{json.dumps({'mailsrv': {'satellite': satellite}})}"
    machine = postfix("web1.example.com", pillar=pillar(text))
    (state,) = machine("state.apply", "mailsrv.satellite", test=True).values()
    assert (state["__id__"], state["result"]) == ("mailsrv-queue-is-not-empty", False)
    low = machine.low("mailsrv.satellite", abandon_queue=True, satellite=satellite)
    keeping = {machine.bare(chunk["name"]) for chunk in low if chunk["state"] == "mailbox"}
    whole = {"opensmtpd": {"/etc/smtpd.conf"}, "dma": {"/etc/dma/dma.conf", "/etc/aliases"}}
    assert keeping == whole[agent]


@pytest.fixture
def kept(minion):
    return {test: minion().state_function("mailbox.kept", test) for test in (True, False)}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_what_is_replaced_stays_beside_it_with_its_owner_and_mode(kept, tmp_path, mode):
    conf, copy = tmp_path / "dovecot.conf", tmp_path / "dovecot.conf.before-mailsrv"
    conf.write_text(MINE)
    conf.chmod(mode)
    if os.geteuid() == 0:
        os.chown(conf, 7, 8)
    would = kept[True](str(conf))
    assert (would["result"], would["changes"]) == (None, {str(copy): "new"})
    assert not copy.exists()
    did = kept[False](str(conf))
    assert (did["result"], did["changes"]) == (True, {str(copy): "new"})
    found, wanted = copy.stat(), conf.stat()
    assert copy.read_text() == MINE
    assert stat.S_IMODE(found.st_mode) == mode
    assert (found.st_uid, found.st_gid) == (wanted.st_uid, wanted.st_gid)
    assert {*tmp_path.iterdir()} == {conf, copy}


@pytest.mark.parametrize("test", [True, False])
def test_what_was_kept_is_kept_for_good(kept, tmp_path, test):
    conf, copy = tmp_path / "smtpd.conf", tmp_path / "smtpd.conf.before-mailsrv"
    conf.write_text("another one\n")
    copy.write_text(MINE)
    ret = kept[test](str(conf))
    assert (ret["result"], ret["changes"]) == (True, {})
    assert copy.read_text() == MINE


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("content", [None, OURS, "as its package brought it\n"])
def test_what_is_nobodys_work_is_not_kept(kept, tmp_path, test, content):
    conf = tmp_path / "dovecot.conf"
    if content:
        conf.write_text(content)
        (tmp_path / "dovecot.conf.sample").write_text("as its package brought it\n")
    ret = kept[test](str(conf))
    assert (ret["result"], ret["changes"]) == (True, {})
    assert not (tmp_path / "dovecot.conf.before-mailsrv").exists()


def test_where_nothing_can_be_kept_nothing_is_replaced(kept, tmp_path, monkeypatch):
    """The state fails, and what requires it does not run."""
    conf = tmp_path / "dovecot.conf"
    conf.write_text(MINE)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    ret = kept[False](str(conf))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "No space left on device" in ret["comment"]
    assert [*tmp_path.iterdir()] == [conf]
