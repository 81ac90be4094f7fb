"""The spam filter that learns: what the key brings and takes away, and that the daemons take it."""

import json
import re
import subprocess
from types import SimpleNamespace

import pytest

ON = {"spam_filter": {"learn": True}}
ALL = {
    "spam_filter": {
        **dict.fromkeys(("learn", "greylist", "reputation"), True),
        "thresholds": {"add_header": 5.5, "reject": False},
        "allow": ["friends.example", "pal@mates.example", "192.0.2.0/24"],
        "block": ["foes.example", "2001:db8::/32"],
    },
    "dkim": {"signer": "dkimsign"},
}
ROOMS = ("mailsrv.redis", "mailsrv.learning")
UNITS = {"mailsrv-redis.service", "mailsrv-learning.path"}
REDIS = (("redis-server", "5:8.0.2-3"),)
DROP_IN = "/etc/systemd/system/redis-server.service.d/mailsrv-redis.conf"
SIEVE = ("learn-ham", "learn-spam")
DOVECOT = {"bookworm": "1:2.3.19.1", "trixie": "1:2.4.1"}


def of_the_rooms(machine, **mailsrv):
    low = machine.low(**mailsrv)
    return [chunk for chunk in low if chunk["__sls__"] in ROOMS]


def kinds(chunks):
    return {f"{chunk['state']}.{chunk['fun']}" for chunk in chunks}


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_without_the_key_all_that_it_brings_is_removed(minion, system):
    machine = minion(system)
    before, after = machine.files(spam_filter=True), machine.files(**ON)
    brought = {*after} - {*before}
    assert len(brought) > 5
    away = of_the_rooms(machine)
    assert kinds(away) <= {"daemon.removed", "daemon.stopped", "file.absent"}
    removed = {name for chunk in away for name in [chunk["name"], *chunk.get("files", ())]}
    removed = {machine.bare(name) for name in removed}
    assert not [name for name in brought if not any(name.startswith(gone) for gone in removed)]
    assert "/var/spool/mailsrv-learning" in removed
    for switch in ("greylist", "reputation"):
        found = of_the_rooms(machine, spam_filter={switch: True})
        assert any(chunk["state"] == "pkg" for chunk in found)
        assert "mailsrv-learning-gone" in {chunk["__id__"] for chunk in found}


def test_what_was_taught_stays_when_the_key_goes(minion):
    names = [name for c in of_the_rooms(minion()) for name in [c["name"], *c.get("files", ())]]
    assert not [name for name in names if "/lib/" in name]


def test_the_units_wait_and_are_removed(minion):
    machine = minion(id="units")
    running = {c["name"] for c in of_the_rooms(machine, **ON) if c["state"] == "daemon"}
    assert running == {"mailsrv-redis", "mailsrv-learning"}
    away = {c["name"] for c in of_the_rooms(machine) if c["state"] == "daemon"}
    assert away == UNITS


def test_the_server_of_the_package_does_not_start_where_it_is_new(minion):
    states = [c["__id__"] for c in of_the_rooms(minion(id="new-redis"), **ON)]
    assert states.index("mailsrv-redis-default") < states.index("mailsrv-redis-packages")
    old = minion(id="old-redis", packages=REDIS)
    assert DROP_IN not in old.files(**ON)
    assert "redis-server" not in [c["name"] for c in of_the_rooms(old)]


def test_nobody_but_rspamd_reaches_what_learns(minion):
    machine = minion()
    files = machine.files(**ALL)
    redis = files["/etc/mail/redis.conf"]
    assert "\nport 0\n" in redis
    assert "\nunixsocketperm 770\n" in redis
    unit = files["/etc/systemd/system/mailsrv-redis.service"]
    assert "\nGroup=_rspamd\n" in unit
    assert "\nRuntimeDirectoryMode=0750\n" in unit
    assert (
        "controller.sock mode=0660 owner=_rspamd group=_rspamd" in files["/etc/rspamd/rspamd.conf"]
    )
    assert "\nUser=_rspamd\n" in files["/etc/systemd/system/mailsrv-learning.service"]
    spool = [
        c for c in machine.low(**ON) if c["name"].startswith(str(machine.at("/var/spool/mails")))
    ]
    assert {(c["user"], c["group"], c["mode"]) for c in spool} == {
        ("_rspamd", "vmail", "0750"),
        ("vmail", "_rspamd", "2770"),
    }


@pytest.fixture(scope="module")
def rendered(minion):
    """The files of a Debian with that Dovecot."""

    def render(suite, **mailsrv):
        packages = (("dovecot-core", DOVECOT[suite]),)
        machine = minion(id=f"learns-{suite}", packages=packages)
        return SimpleNamespace(files=machine.files(**mailsrv), machine=machine)

    return render


def asked(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def test_dovecot_takes_it_and_knows_nothing_of_it_without(rendered, program, suite, tmp_path):
    conf, found = tmp_path / "dovecot.conf", {}
    for name, settings in (("with", ON), ("without", {"spam_filter": True})):
        text = rendered(suite, **settings).files["/etc/dovecot/dovecot.conf"]
        conf.write_text(re.sub(r"(?m)^(ssl_(cert|key|server_\w+) = ).*", "", text))
        ran = asked(program("doveconf", suite), "-n", "-c", conf)
        assert ran.returncode == 0, ran.stderr
        found[name] = ran.stdout
    for word in ("learn-spam.sieve", "learn-ham.sieve", "imap_sieve", "sieve_extprograms"):
        assert word in found["with"]
        assert word not in found["without"]


def test_the_scripts_compile_with_their_options_and_nonsense_does_not(
    rendered, program, suite, tmp_path
):
    of = rendered(suite, **ON)
    for name in SIEVE:
        state = of.machine.state(f"file: mailsrv-dovecot-sieve-{name}", **ON)
        options = of.machine.state(f"dovecot: mailsrv-dovecot-sieve-{name}", **ON)["options"]
        (text,) = [t for path, t in of.files.items() if path.endswith(f"/{name}.sieve")]
        script = tmp_path / f"{name}.sieve"
        script.write_text(text)
        check = state["check_cmd"].removeprefix("sievec ")
        sievec = program("sievec", suite)
        ran = subprocess.run(
            f"{sievec} {check} {script}", shell=True, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert "vnd.dovecot.pipe" in ran.stdout
        assert asked(sievec, *options, script, tmp_path / "out.svbin").returncode == 0
        script.write_text(text.replace("pipe :copy", "pipe :cpoy"))
        refused = f"{sievec} {check} {script}"
        assert subprocess.run(refused, shell=True, capture_output=True).returncode


@pytest.mark.parametrize("settings", [ALL, {"spam_filter": {"greylist": True}}])
def test_rspamd_takes_it_and_refuses_nonsense(rendered, program, suite, settings, tmp_path):
    text = rendered(suite, **settings).files["/etc/rspamd/rspamd.conf"]
    conf = tmp_path / "rspamd.conf"
    conf.write_text(text)
    ran = asked(program("rspamadm", suite), "configtest", "-c", conf)
    assert "syntax OK" in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    conf.write_text(text.replace("servers = ", "servers { = ", 1))
    assert asked(program("rspamadm", suite), "configtest", "-c", conf).returncode


def merged(sections):
    """As rspamd takes what the package says of a module and what we say."""
    return {name: found for part in sections for name, found in part.items()}


def test_what_the_lists_and_thresholds_become(rendered, program, suite, tmp_path):
    conf = tmp_path / "rspamd.conf"
    backed = {**ALL, "backup": {"mx2.example.net": ["192.0.2.2", "2001:db8::2"]}}
    conf.write_text(rendered(suite, **backed).files["/etc/rspamd/rspamd.conf"])
    rspamadm = program("rspamadm", suite)
    found = json.loads(asked(rspamadm, "configdump", "-j", "-c", conf).stdout)
    assert found["actions"][-1] == {"add_header": 5.5, "reject": None}  # the last one counts
    maps, reputation = merged(found["multimap"]), merged(found["reputation"])
    assert {name for name in maps if name.startswith("mailsrv_")} == {
        "mailsrv_allow_networks",
        "mailsrv_allow_addresses",
        "mailsrv_allow_domains",
        "mailsrv_block_networks",
        "mailsrv_block_domains",
        "mailsrv_block_sender_domains",
    }
    assert maps["mailsrv_block_domains"]["action"] == "reject"
    assert "action" not in maps["mailsrv_allow_domains"]
    assert not found["classifier"]["bayes"].get("autolearn")
    assert {"ip_reputation", "spf_reputation", "dkim_reputation"} <= {*reputation["rules"]}
    assert "redis.sock" in merged(found["greylist"])["servers"]
    # What a backup MX passes on waits no second time, and its lists stand beside the others.
    assert merged(found["greylist"])["whitelisted_ip"] == ["192.0.2.2", "2001:db8::2"]
    assert maps["MAILSRV_BACKUP"]["map"] == ["192.0.2.2", "2001:db8::2"]


@pytest.mark.parametrize("name", ["teach", "program"])
def test_a_program_with_nonsense_in_it_is_refused(minion, name, tmp_path):
    machine = minion()
    state = machine.state(f"mailsrv-learning-{name}", **ON)
    text = machine.files(**ON)[machine.bare(state["name"])]
    file = tmp_path / "program"
    for content, refused in ((text, False), (text + "\n)nonsense(\n", True)):
        file.write_text(content)
        ran = subprocess.run(f"{state['check_cmd']} {file}", shell=True, capture_output=True)
        assert bool(ran.returncode) == refused, ran.stderr


# teach, as Dovecot calls it


@pytest.fixture
def teach(minion, tmp_path):
    """teach(kind, message, user), with a spool of this test's."""
    machine = minion()
    text = machine.files(**ON)["/etc/dovecot/imapsieve/teach"]
    spool = tmp_path / "spool"
    text = text.replace("/var/spool/mailsrv-learning", str(spool))
    for name in ("new", "tmp"):
        (spool / name).mkdir(parents=True)

    def call(kind, message, user="ann@a.example", edit=lambda text: text, timeout=5):
        (tmp_path / "teach").write_text(edit(text))
        command = ["/usr/bin/perl", tmp_path / "teach", kind]
        ran = subprocess.run(
            command, input=message, env={"USER": user}, capture_output=True, timeout=timeout
        )
        return ran.returncode, ran.stdout + ran.stderr

    call.spool = spool
    return call


def test_teach_lays_a_copy_down_for_rspamd_alone(teach):
    assert teach("spam", b"a\r\n\0\xff") == (0, b"")
    (file,) = (teach.spool / "new").iterdir()
    assert re.fullmatch(r"\d{10},\d+,spam,ann@a\.example", file.name)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"a\r\n\0\xff", 0o640)
    assert [*(teach.spool / "tmp").iterdir()] == []


@pytest.mark.parametrize("user", ["../../x", "a,b\n", "\xff" * 300, "", "$(id)`id`|;"])
def test_the_name_of_a_user_is_no_way_out(teach, user):
    assert teach("ham", b"x", user) == (0, b"")
    (file,) = (teach.spool / "new").iterdir()
    assert re.fullmatch(r"\d{10},\d+,ham,[\w.+@-]*", file.name, re.ASCII)


def test_teach_leaves_it_where_it_cannot(teach):
    large = b"x" * 3_000_000
    (teach.spool / "tmp").rmdir()
    assert teach("spam", large) == (0, b"")
    (teach.spool / "tmp").mkdir()
    for number in range(2000):
        (teach.spool / "new" / str(number)).touch()
    assert teach("spam", large) == (0, b"")
    assert len([*(teach.spool / "new").iterdir()]) == 2000


def test_on_a_full_disk_teach_leaves_nothing_behind(teach):
    text = "ulimit -f 1; exec /usr/bin/perl"
    (teach.spool.parent / "teach").unlink(missing_ok=True)
    teach("spam", b"first")
    ran = subprocess.run(
        ["sh", "-c", f'trap "" XFSZ; {text} "$0" spam', teach.spool.parent / "teach"],
        input=b"x" * 100_000,
        capture_output=True,
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, b"")
    assert len([*(teach.spool / "new").iterdir()]) == 1
    assert [*(teach.spool / "tmp").iterdir()] == []


def test_a_teach_that_hangs_ends_itself(teach):
    status, _ = teach("spam", b"x", edit=lambda text: text.replace("opendir", "sleep 60; opendir"))
    assert status == -14
