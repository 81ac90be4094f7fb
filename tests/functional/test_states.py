"""The states on both systems: they render, alone and together, and what they need is there."""

import pytest

SYSTEMS = ["Debian", "FreeBSD"]
SIGNERS = ["dkimproxy", "dkimsign", "rspamd"]
SEED = "tests/functional/seed"
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
    for kind in ("pkg.installed", "file.managed", "dkim.key_present", "service.running"):
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
    whole = named(minion(system, SEED).low(), "service", "running")
    assert named(low, "service", "running") == whole


@pytest.mark.parametrize(("system", "signer"), [("Debian", "dkimsign"), ("FreeBSD", "dkimproxy")])
def test_the_signer_is_the_systems_own_where_the_pillar_names_none(minion, system, signer):
    rooms = {chunk["__sls__"] for chunk in minion(system).low()}
    assert [name for name in SIGNERS if f"mailsrv.{name}" in rooms] == [signer]


@pytest.mark.parametrize("selector", ["007", "1.10", "yes"])
def test_a_selector_that_yaml_reads_otherwise_stays_text(minion, selector):
    keys = [c for c in minion().low(dkim={"selector": selector}) if c["state"] == "dkim"]
    assert [key["selector"] for key in keys] == [selector, selector]


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
    state = machine.state("mailsrv-genkeys-signing-unused")
    for changes in (True, False):
        command = ("state.single", "cmd.run", state["name"])
        (made,) = machine(*command, onlyif=state["onlyif"]).values()
        assert made["result"] is True
        assert bool(made["changes"]) is changes
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


@pytest.mark.parametrize(
    ("system", "here"),
    [("Debian", ["exim4"]), ("Debian", ["postfix", "sendmail"]), ("FreeBSD", ["sendmail"])],
)
def test_the_mail_server_that_came_with_the_system_gives_way(minion, system, here):
    machine = minion(system, services=("cron", *here))
    assert named(machine.low(), "service", "dead") == set(here)
    assert not any(machine.state(f"mailsrv-stock-mta-{name}")["enable"] for name in here)


@pytest.mark.parametrize("spam_filter", [False, True])
def test_rspamd_is_retired_where_it_neither_signs_nor_filters(minion, spam_filter):
    machine = minion(services=("rspamd",))
    low = machine.low(dkim={"signer": "dkimsign"}, spam_filter=spam_filter)
    assert named(low, "service", "dead") == (set() if spam_filter else {"rspamd"})
    assert ("rspamd" in named(low, "service", "running")) is spam_filter


def test_smtpd_is_restarted_once_rspamd_answers(minion):
    smtpd = minion().state("service: mailsrv-opensmtpd-service", spam_filter=True)
    assert {"cmd": "mailsrv-rspamd-ready"} in smtpd["require"]
    config = minion().state("mailsrv-rspamd-config", spam_filter=True)
    assert config["check_cmd"] == "rspamadm configtest -c"


def test_a_signer_of_before_is_retired_once_mail_goes_elsewhere(minion):
    machine = minion(services=("dkimproxy_out",))
    assert named(machine.low(), "service", "dead") == {"dkimproxy_out"}
    requisites = machine.state("mailsrv-dkimproxy-retired")["require"]
    assert requisites == [{"service": "mailsrv-opensmtpd-service"}]
    assert not named(machine.low(dkim={"signer": "dkimproxy"}), "service", "dead")


BOOKWORM = {"grains": (("oscodename", "bookworm"),), "packages": (("opensmtpd", "6.8.0p2-4"),)}


def test_an_opensmtpd_that_openssl_3_breaks_is_taken_from_backports(minion):
    machine = minion(**BOOKWORM)
    packages = machine.state("mailsrv-opensmtpd-packages")
    assert (packages["fun"], packages["fromrepo"]) == ("latest", "bookworm-backports")
    source = machine.state("mailsrv-opensmtpd-backports")
    assert "\nSuites: bookworm-backports\n" in source["contents"]
    assert minion().state("mailsrv-opensmtpd-packages")["fun"] == "installed"


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
