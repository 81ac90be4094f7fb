"""What a fleet does by itself: schedule, beacon and reactor, as docs/fleet.md has them."""

import json
import os
import time

import pytest

from wire import until

MX1, MX2, BACKUP = "mx1.example.com", "mx2.example.net", "backup.example.edu"
PASSWORD = "batterystaple"
PATIENCE = 180


@pytest.fixture
def told(inbox):
    """Wait until the master has mailed that of a machine; the mails since then."""
    first = len(inbox.mails)

    def wait(subject, seconds=PATIENCE):
        def found():
            return [mail for mail in inbox.mails[first:] if mail["Subject"].startswith(subject)]

        return until(found, seconds, f"no mail says {subject!r}")

    return wait


@pytest.fixture
def pillar_of(pillar_tree, salt):
    """Write what a file of the pillar has more; in the end it has no more."""
    file = pillar_tree / "mail/backup.sls"
    old = file.read_text()

    def write(text):
        file.write_text(text)
        salt(BACKUP, "saltutil.refresh_pillar", "wait=True")

    yield lambda more: write(old.replace("mailsrv: {", f"mailsrv: {{{more}"))
    write(old)


def answer(master, *arguments):
    """What it returns on the backup, whatever the exit status."""
    return master.salt_cli(timeout=PATIENCE).run(*arguments, minion_tgt=BACKUP).data


@pytest.mark.usefixtures("backup")
def test_drift_is_an_event_and_a_mail_once_and_again_when_it_is_another(
    master, salt, events, told, pillar_of
):
    run = (BACKUP, "schedule.run_job", "mailsrv-drift")
    seen, jobs = len(events("mailsrv/drift")), len(events(f"salt/job/*/ret/{BACKUP}"))
    assert salt(*run)["result"] is True
    (mail,) = told(f"{BACKUP}: ")
    assert mail["To"] == "admin@example.com"
    said = mail.get_content()
    assert "would change:  mailsrv-dovecot-config\n" in said
    assert answer(master, "drift.tell")["told"] == "before"
    assert salt(*run)["result"] is True

    pillar_of("notify: admin@elsewhere.example, ")
    assert salt(*run)["result"] is True
    until(lambda: len(events("mailsrv/drift")) > seen + 1, PATIENCE, "the change is not told")
    first, second = events("mailsrv/drift")[seen:]
    assert first["id"] == BACKUP
    new = {*second["data"]["changes"]} - {*first["data"]["changes"]}
    assert new
    assert all(name.startswith("mailsrv-watch") for name in new)
    assert {*second["data"]} == {"changes", "failures", "impossible", "well", "says"}

    pillar_of("notify: 5, ")
    assert salt(*run)["result"] is True
    until(lambda: len(events("mailsrv/drift")) > seen + 2, PATIENCE, "the fault is not told")
    assert events("mailsrv/drift")[-1]["data"]["failures"] == ["mailsrv-pillar-is-not-valid"]
    told(f"{BACKUP}: 1 states would fail")
    assert PASSWORD not in json.dumps(events("mailsrv/drift")) + said
    # The schedule's own returns stay on the machine: no news is no event.
    scheduled = [job for job in events(f"salt/job/*/ret/{BACKUP}")[jobs:] if job.get("schedule")]
    assert scheduled == []


def test_a_daemon_that_ends_is_told_and_that_it_runs_again(backup, told):
    def ended():
        """A beacon that was just loaded takes what it sees first for what was before."""
        backup.running.write_text("opensmtpd")
        try:
            return told(f"{BACKUP}: dovecot does not run", 15)
        except TimeoutError:
            backup.running.write_text("opensmtpd dovecot")
            time.sleep(5)  # seconds; the beacon looks several times in each
            return None

    try:
        (mail, *_) = until(ended, PATIENCE, "the beacon says nothing")
        assert f"salt '{BACKUP}' mailcheck.run" in mail.get_content()
    finally:
        backup.running.write_text("opensmtpd dovecot")
    told(f"{BACKUP}: dovecot runs again")


@pytest.mark.usefixtures("backup")
def test_what_a_hostile_minion_sends_is_text_and_the_reactor_goes_on(
    ask_master, told, inbox, events
):
    evil = '"\n- x: {{ 7 * 7 }}\n!!python/object/apply:os.system ["true"]\nBcc: v@example.net'
    jobs = len(events("salt/job/*/new"))
    deep = []
    for _ in range(100):
        deep = [deep]
    for tag in "mailsrv/drift", "mailsrv/published", f"salt/beacon/{BACKUP}/service/dovecot":
        for data in (
            *({"name": name} for name in ("mailsrv.certificate", evil, 5, ["mailsrv.dns"])),
            *({"changes": listed} for listed in ([evil, {evil: 1}], "x", deep)),
            {"service_name": evil, evil: {"running": evil}},
            *(evil, 5, None, deep, "x" * 100_000),
        ):
            ask_master(BACKUP, cmd="_minion_event", id=BACKUP, tag=tag, data=data)
        # The way of beacons, by which a minion says itself whose event it is.
        for minion in evil, "x or *", "*", None, ["*"]:
            data = {"id": minion, "data": {"name": "mailsrv.certificate"}}
            listed = [{"tag": tag, "data": data}]
            ask_master(BACKUP, cmd="_minion_event", id=BACKUP, events=listed)
    news = {"changes": ["mailsrv-still-here"]}
    ask_master(BACKUP, cmd="_minion_event", id=BACKUP, tag="mailsrv/drift", data=news)
    until(
        lambda: any("mailsrv-still-here" in mail.get_content() for mail in inbox.mails),
        PATIENCE,
        "the reactor has ended",
    )
    assert not [mail for mail in inbox.mails if mail["Bcc"] or "49" in mail["Subject"]]
    started = events("salt/job/*/new")[jobs:]
    targets = {(job["fun"], json.dumps(job["tgt"])) for job in started if "user" in job}
    assert targets <= {
        (
            "state.apply",
            json.dumps(
                f"I@mailsrv:satellite:relay:{BACKUP} or I@mailsrv:satellite:minion:{BACKUP}"
            ),
        )
    }


@pytest.fixture
def certificate(primary, salt):
    """Have the primary make a new certificate of its own, and publish what is new; the changes."""

    def renew(anew=True):
        (state,) = [
            state
            for state in salt(primary.minion, "state.show_low_sls", "mailsrv.tls")
            if state["fun"] == "self_signed"
        ]
        for name in (state["name"], state["key"]) if anew else ():
            os.unlink(name)
        arguments = [f"{key}={state[key]}" for key in ("name", "key", "hostname")]
        salt(primary.minion, "state.single", "certificate.self_signed", *arguments, "test=False")
        (published,) = salt(
            primary.minion, "state.single", "mailsrv.mined", f"name={primary.notes}", "test=False"
        ).values()
        return published["changes"], primary.read(state["name"])

    return renew


@pytest.fixture
def satellite(pillar_tree, salt):
    """The pillar of the other machine says that it sends through the first one."""
    users = pillar_tree / "mail/mx2.sls"
    old = users.read_text()
    users.write_text(f"{old}mailsrv: {{satellite: {{relay: {MX1}, root: admin@example.com}}}}\n")
    salt(MX2, "saltutil.refresh_pillar", "wait=True")
    yield
    users.write_text(old)
    salt(MX2, "saltutil.refresh_pillar", "wait=True")


@pytest.mark.skipif(os.getuid() != 0, reason="keys are made for root: run as root")
@pytest.mark.usefixtures("satellite")
def test_a_new_certificate_is_at_its_backup_without_anybody(certificate, salt, events):
    """From the run that made it over mine, event and reactor into the next run of the backup."""

    def asked(minion, room):
        """The runs that the reactor has started: those of a schedule name the room otherwise."""
        return [
            job
            for job in events(f"salt/job/*/ret/{minion}")
            if job["fun"] == "state.apply"
            and any(
                isinstance(given, dict) and given.get("mods") == room for given in job["fun_args"]
            )
        ]

    def applied():
        return asked(BACKUP, "mailsrv.opensmtpd")

    before = len(applied())
    changes, pem = certificate()
    assert changes["backup_mx.recipients"] == "published"
    until(lambda: len(applied()) > before, PATIENCE, "nobody has told the backup")
    states = applied()[-1]["return"]
    assert isinstance(states, dict), states
    (low,) = [
        state
        for state in salt(BACKUP, "state.show_low_sls", "mailsrv.opensmtpd")
        if state["__id__"] == "mailsrv-opensmtpd-backup-mx1.example.com" and "contents" in state
    ]
    assert low["contents"] == pem
    assert certificate(anew=False)[0] == {}
    # Its satellites hear of it in the same way.
    satellites, told = asked(MX2, "mailsrv.satellite"), "mailsrv.certificate"
    salt(MX1, "state.single", "mailsrv.published", f"name={told}", "test=False")
    until(
        lambda: {"name": told} in [event["data"] for event in events("mailsrv/published")],
        PATIENCE,
        "there is no event",
    )
    until(
        lambda: len(asked(MX2, "mailsrv.satellite")) > len(satellites),
        PATIENCE,
        "nobody has told the satellite",
    )
    assert certificate()[1] != pem
    until(lambda: len(applied()) == before + 2, PATIENCE, "nobody has told the backup again")
