"""Rolling out from a master: what it looks at before the first machine is changed."""

import json

import pytest

MX1, MX2 = "mx1.example.com", "mx2.example.net"


@pytest.fixture
def roll(fleet, salt_run_any):
    """Roll out over the mail machines: what it returned. They are where nothing is changed."""

    def run(*arguments, status=0):
        ran = salt_run_any("mailsrv.roll", *arguments)
        assert ran.returncode == status, ran
        assert ran.stderr == "" or "==>" not in ran.stderr
        return ran.data

    return run


@pytest.fixture(scope="session")
def salt_run_any(master, runners):
    """Run `salt-run FUNCTION …`, whatever becomes of it."""
    assert runners == ["runners.mailsrv", "runners.told"]
    return lambda *arguments: master.salt_run_cli(timeout=120).run(*arguments)


@pytest.fixture
def users(pillar_tree, salt):
    """The file with the pillar of the second machine; in the end it is as before, there, too."""
    file = pillar_tree / "mail/mx2.sls"
    old = file.read_text()
    yield file
    file.write_text(old)
    salt(MX2, "saltutil.refresh_pillar", "wait=True")


def test_a_dry_run_says_by_state_where_it_would_change_something(roll, short_tmp):
    for name in MX1, MX2:  # other tests write the files of one of them
        (short_tmp / f"machines/{name}/etc/dovecot/dovecot.conf").unlink(missing_ok=True)
    told = roll("mx*", "test=True")
    assert told["machines"] == {MX1: "untouched", MX2: "untouched"}
    assert told["would change"]["mailsrv-dovecot-config"] == "all"
    assert told["retcode"] == 0
    assert "stopped" not in told
    alone = roll(f"{MX2} or E@nobody", "test=True")
    assert alone["would change"]["mailsrv-dovecot-config"] == MX2


def test_a_faulty_pillar_of_one_keeps_all_from_being_touched(roll, users):
    users.write_text(users.read_text() + "mailsrv: {quota: much}\n")
    told = roll("mx*", status=1)
    assert told["stopped"] == f"{MX2}: its pillar has faults; nothing was changed anywhere"
    assert told["machines"][MX1] == "untouched"
    assert told["machines"][MX2].startswith("mailsrv:quota: 'much' is not a size")
    assert "would change" not in told


@pytest.mark.parametrize(
    ("arguments", "stopped"),
    [
        (["nobody*"], "no minion is meant by 'nobody*'; its key has to be accepted: salt-key -L"),
        (["mx*", "canary=mx9"], f"canary: 'mx9' is none of them: {MX1}, {MX2}"),
        (["mx*", "batch=50%"], "batch: '50%' is no number of machines; write one from 1 on"),
    ],
)
def test_what_cannot_be_meant_is_refused(roll, arguments, stopped):
    assert roll(*arguments, status=1) == {"stopped": stopped, "retcode": 1}


def test_the_first_that_is_not_well_afterwards_is_the_last_that_is_changed(roll, minions):
    """No daemon runs here: both look ill before, and what was so before holds up nobody."""
    told = roll("mx*", f"canary={MX2}")
    for name in MX1, MX2:
        assert "states changed; it was not well before, either; FAULT: " in told["machines"][name]
    assert json.dumps(told).count("service opensmtpd") == 2


@pytest.mark.parametrize(
    ("arguments", "stopped"),
    [
        ([], "name the two minions, from=mx1.example.net to=mx2.example.net"),
        ([f"from={MX1}", f"to={MX1}"], "name the two minions, from="),
        ([f"from={MX1}", f"to={MX2}", "by=me"], "name the two minions, from="),
        ([f"from={MX1}", f"to={MX2}", "port=65536"], "port: 65536 is none"),
        ([f"from={MX1}", "to=mx9.example.net"], "mx9.example.net: no answer"),
        (
            [f"from={MX1}", f"to={MX2}"],
            f"{MX1}: ERROR: moving: 'example.com' is not in mailsrv:moves_to or mailsrv:moves_from "
            "of the pillar here",
        ),
    ],
)
def test_what_cannot_move_is_refused_before_anything_is_done(
    fleet, salt_run_any, arguments, stopped
):
    ran = salt_run_any("mailsrv.move", "example.com", *arguments)
    assert ran.returncode == 1
    assert ran.data["stopped"].startswith(stopped)
    assert ran.data.keys() == {"stopped", "retcode"}
