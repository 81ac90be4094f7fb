"""The states on both systems: they render, alone and together, and what they need is there."""

import pytest

SYSTEMS = ["Debian", "FreeBSD"]
SIGNERS = ["dkimproxy", "dkimsign", "rspamd"]
SEED = "tests/functional/seed"
# The states that make keys.
KEYS = ["dkim.key_present", "dkim.signing", "mailsrv.password_key", "mailsrv.srs_key"]
KEYS += ["certificate.self_signed"]
SEED_SLS = ["mailsrv.genkeys", "mailsrv.opensmtpd", "mailsrv.dovecot", "mailsrv.dkimproxy"]


def dangling(low):
    """Requisites that name no state of the run."""
    there = {(c["state"], value) for c in low for value in (c["__id__"], c["name"])}
    there |= {("sls", chunk["__sls__"]) for chunk in low}
    return [
        f"{chunk['__id__']}: {requisite}: {target}"
        for chunk in low
        for requisite in ("require", "watch", "onchanges", "onfail", "listen", "prereq")
        for target in chunk.get(requisite, [])
        if not set(target.items()) <= there
    ]


def named(low, *kind):
    return {chunk["name"] for chunk in low if (chunk["state"], chunk["fun"]) == kind}


@pytest.mark.parametrize(
    ("pillar", "mailsrv"),
    [
        (SEED, {}),
        ("pillar.example", {}),
        ("pillar.example", {"dkim": {"signer": "dkimproxy"}}),
        ("pillar.example", {"dkim": {"signer": "dkimsign"}}),
        ("pillar.example", {"dkim": {"signer": "rspamd"}}),
        ("pillar.example", {"dkim": {"signer": "rspamd", "ed25519": True}, "spam_filter": True}),
        ("pillar.example", {"spam_filter": True}),
    ],
    ids=["seed", "example", *SIGNERS, "both", "filter"],
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_whole_server_renders_and_every_requisite_is_met(minion, system, pillar, mailsrv):
    low = minion(system, pillar).low(**mailsrv)
    assert not dangling(low)
    for kind in ("pkg.installed", "file.managed", "dkim.key_present", "daemon.running"):
        assert named(low, *kind.split("."))


@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_file_has_an_owner_and_a_mode(minion, system, signer):
    """What is not stated is not repaired: a run was green over a world-writable smtpd.conf."""
    low = minion(system).low(dkim={"signer": signer}, spam_filter=True)
    files = [c for c in low if c["state"] == "file" and c["fun"] in ("managed", "directory")]
    assert len(files) > 20
    assert [c["name"] for c in files if not {"user", "group", "mode"} <= c.keys()] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_top_file_names_the_whole_server(minion, system):
    assert minion(system)("state.show_top") == {"base": ["mailsrv"]}


@pytest.mark.parametrize("sls", ["mailsrv.tls", "mailsrv.rspamd", *SEED_SLS])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_room_can_be_applied_alone(minion, system, sls):
    signer = sls.removeprefix("mailsrv.")
    settings = {"dkim": {"signer": signer}} if signer in SIGNERS else {}
    assert not dangling(minion(system).low(sls, **settings))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_top_file_of_2015_makes_a_whole_server(minion, system):
    low = minion(system, SEED).low(SEED_SLS)
    assert not dangling(low)
    whole = named(minion(system, SEED).low(), "daemon", "running")
    assert named(low, "daemon", "running") == whole


@pytest.mark.parametrize(("system", "signer"), [("Debian", "dkimsign"), ("FreeBSD", "dkimproxy")])
def test_the_signer_is_the_systems_own_where_the_pillar_names_none(minion, system, signer):
    rooms = {chunk["__sls__"] for chunk in minion(system).low()}
    assert [name for name in SIGNERS if f"mailsrv.{name}" in rooms] == [signer]


@pytest.mark.parametrize("selector", ["007", "1.10", "yes"])
def test_a_selector_that_yaml_reads_otherwise_stays_text(minion, selector):
    keys = [c for c in minion().low(dkim={"selector": selector}) if c["state"] == "dkim"]
    assert [key["selector"] for key in keys if "selector" in key] == [selector, selector]


def test_what_a_signer_remembers_that_is_not_used_is_forgotten(minion):
    """Ed25519 that is off for a while begins anew, when DNS shows its record."""
    machine = minion(id="unused")
    directory = machine.at("/etc/mail/dkim")
    used, *unused = (
        directory / name for name in ("rsa.signing", "ed25519.signing", "example.com/rsa.signing")
    )
    for file in used, *unused:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    forget = ("mailsrv-genkeys-signing-unused",)
    assert machine.apply(*forget, test=True)["result"] is None
    for deleted in (sorted(map(str, unused)), None):
        made = machine.apply(*forget)
        assert (made["result"], made["changes"].get("deleted")) == (True, deleted)
    assert used.exists()
    assert not [file for file in unused if file.exists()]


@pytest.mark.parametrize("init", ["systemd", "sysvinit"])
def test_a_dkimproxy_without_a_package_is_started_by_the_machines_init(minion, init):
    machine = minion(grains=(("init", init),))
    low = machine.low("mailsrv.dkimproxy", dkim={"signer": "dkimproxy"})
    written = {machine.bare(name) for name in named(low, "file", "managed")}
    starters = {
        "systemd": "/etc/systemd/system/dkimproxy_out.service",
        "sysvinit": "/etc/init.d/dkimproxy_out",
    }
    assert written & {*starters.values()} == {starters[init]}


def test_the_archive_of_dkimproxy_is_known_by_its_checksum(minion):
    archive = minion().state("mailsrv-dkimproxy-archive", dkim={"signer": "dkimproxy"})
    assert archive["source"].startswith("https://")
    assert len(archive["source_hash"]) == len("sha256=") + 64


def test_freebsd_has_a_package_of_dkimproxy(minion):
    low = minion("FreeBSD").low()
    assert not [chunk for chunk in low if chunk["state"] == "archive"]
    assert ["dkimproxy"] in [chunk.get("pkgs") for chunk in low]


def test_freebsd_has_the_sqlite_of_the_python_that_salt_has(minion):
    """Python's default changes: 'No packages available to install matching py311-…'."""
    machine = minion("FreeBSD", grains=(("pythonversion", [3, 12, 15, "final", 0]),))
    assert machine.state("mailsrv-guard-packages")["pkgs"] == ["python3", "py312-sqlite3"]


@pytest.mark.parametrize(
    ("system", "others"),
    [
        ("Debian", {"exim4", "postfix", "sendmail"}),
        ("FreeBSD", {"exim", "postfix", "sendmail"}),
    ],
)
def test_the_mail_server_that_came_with_the_system_gives_way(minion, system, others):
    machine = minion(system)
    assert others <= named(machine.low(), "daemon", "stopped")
    for name in others:
        assert machine.state(f"mailsrv-stock-mta-{name}")["require_in"]


@pytest.mark.parametrize("spam_filter", [False, True])
def test_rspamd_is_retired_where_it_neither_signs_nor_filters(minion, spam_filter):
    low = minion().low(dkim={"signer": "dkimsign"}, spam_filter=spam_filter)
    assert ("rspamd" in named(low, "daemon", "stopped")) is not spam_filter
    assert ("rspamd" in named(low, "daemon", "running")) is spam_filter


def test_smtpd_is_restarted_once_rspamd_answers(minion):
    smtpd = minion().state("mailsrv-opensmtpd-service", spam_filter=True)
    assert {"daemon": "mailsrv-rspamd-service"} in smtpd["require"]
    assert minion().state("mailsrv-rspamd-service", spam_filter=True)["ready"]
    config = minion().state("mailsrv-rspamd-config", spam_filter=True)
    assert config["check_cmd"] == "rspamadm configtest -c"


def test_a_signer_of_before_is_retired_once_mail_goes_elsewhere(minion):
    machine = minion()
    assert "dkimproxy_out" in named(machine.low(), "daemon", "stopped")
    requisites = machine.state("mailsrv-dkimproxy-retired")["require"]
    assert requisites == [{"daemon": "mailsrv-opensmtpd-service"}]
    low = machine.low(dkim={"signer": "dkimproxy"})
    assert "dkimproxy_out" not in named(low, "daemon", "stopped")


BOOKWORM = {"grains": (("oscodename", "bookworm"),), "packages": (("opensmtpd", "6.8.0p2-4"),)}


def test_an_opensmtpd_that_openssl_3_breaks_is_taken_from_backports(minion):
    machine = minion(**BOOKWORM)
    packages = machine.state("mailsrv-opensmtpd-packages")
    assert (packages["fun"], packages["fromrepo"]) == ("latest", "bookworm-backports")
    source = machine.state("mailsrv-opensmtpd-backports")
    assert "\nSuites: bookworm-backports\n" in source["contents"]
    assert minion().state("mailsrv-opensmtpd-packages")["fun"] == "installed"


def test_a_dry_run_asks_nothing_of_backports_that_it_may_not_add(minion):
    """ "No information found for 'opensmtpd'", and thirteen states failed."""
    machine = minion(test=True, **BOOKWORM)
    packages = machine.state("mailsrv-opensmtpd-packages")
    assert (packages["fun"], packages["pkgs"]) == ("installed", [{"opensmtpd": ">=7.3"}])
    assert "fromrepo" not in packages
    assert not dangling(machine.low())


def test_where_no_version_is_known_the_newest_is_taken_for_granted(minion):
    """Without apt's lists and a network to fetch them, a traceback ended even a dry run."""
    machine = minion(machine={"packages": {}, "candidates": {}, "services": []})
    assert machine.state("mailsrv-opensmtpd-packages")["fun"] == "installed"
    assert not dangling(machine.low())
    assert "\ndovecot_config_version = 2.4" in machine.files()["/etc/dovecot/dovecot.conf"]


def test_backports_are_no_source_where_the_release_has_the_package(minion):
    """After an upgrade of the system, that of the release before was still there."""
    name = "mailsrv-opensmtpd-backports"
    assert minion(packages=(("opensmtpd", "7.6.0p1-1"),)).state(name)["fun"] == "absent"
    backported = minion(packages=(("opensmtpd", "7.4.0p1-1~bpo12+1"),))
    assert name not in {chunk["__id__"] for chunk in backported.low()}


def test_before_the_upgrade_of_dovecot_its_next_configuration_is_at_hand(minion):
    """dovecot-core stayed half configured: 2.4 was started with the file of 2.3."""
    before, after = minion(packages=(("dovecot-core", "1:2.3.19.1+dfsg1-2.1"),)), minion()
    next_file = before.files()["/etc/dovecot/dovecot-2.4.conf"]
    assert next_file == after.files()["/etc/dovecot/dovecot.conf"]
    assert next_file != before.files()["/etc/dovecot/dovecot.conf"]
    for name in "mailsrv-dovecot-next", "mailsrv-dovecot-next-start":
        assert before.state(f"file: {name}")["fun"] == "managed"
        assert after.state(f"file: {name}")["fun"] == "absent"


@pytest.mark.parametrize(("system", "os"), [("Debian", "Ubuntu"), ("FreeBSD", "FreeBSD")])
def test_where_there_are_no_backports_such_an_opensmtpd_is_refused(minion, system, os):
    machine = minion(system, grains=(("os", os),), packages=BOOKWORM["packages"])
    (error,) = machine("state.show_low_sls", "mailsrv")
    assert (
        "mailsrv: OpenSMTPD before 7.3 cannot speak TLS with OpenSSL 3; install 7.3 or later first"
    ) in error


def test_a_machine_without_a_name_says_what_it_is_called(minion):
    (note,) = [c for c in minion(grains=(("fqdn", "localhost"),)).low() if c["state"] == "test"]
    assert note["text"].startswith(
        "this machine's own name, localhost, cannot be the mail server's: it is called "
    )
    assert not [chunk for chunk in minion().low() if chunk["state"] == "test"]


@pytest.mark.parametrize("where", ["/etc/letsencrypt/live/mx.example.com", "salt://certs"])
def test_a_certificate_of_the_pillar_is_looked_at_before_anything_is_touched(minion, where):
    machine = minion()
    tls = {"cert": f"{where}/fullchain.pem", "key": f"{where}/privkey.pem"}
    low = machine.low(tls=tls)
    state = machine.state("mailsrv-tls-certificate", tls=tls)
    assert min(low, key=lambda chunk: chunk["order"]) == state
    assert state["failhard"] is True
    assert (state["source"], state["key_source"]) == (tls["cert"], tls["key"])
    assert machine.bare(state["name"]) == "/etc/mail/tls/mx.example.com.copy.crt"
    assert "mailsrv-tls-self-signed" not in {chunk["__id__"] for chunk in low}


@pytest.mark.parametrize("signer", SIGNERS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_backup_holds_or_names_all_that_is_made_on_the_machine(minion, system, signer):
    machine = minion(system, id="backup.example.com")
    low = machine.low(dkim={"signer": signer, "ed25519": signer != "dkimproxy"})
    made = set().union(*(named(low, *kind.split(".")) for kind in KEYS))
    assert len(made) >= 6
    for name in made:
        machine.at(name).parent.mkdir(parents=True, exist_ok=True)
        machine.at(name).write_text("a key")
    found = machine("mailsrv.backup_paths")
    known = [*found["paths"], *found["left out"]]
    assert [m for m in made if not any(f"{m}/".startswith(f"{path}/") for path in known)] == []
