"""The satellite's states and files on both systems, and its credential, made on the machine."""

import grp
import os
import re
import subprocess

import pytest
from passlib.hash import sha512_crypt

SYSTEMS = ["Debian", "FreeBSD"]
AGENTS = ["opensmtpd", "dma"]
PILLAR = """
mailsrv:
  satellite: {{relay: mail.example.com, root: admin@example.com, agent: {}, ca: {}}}
"""
WEB1 = "web1.example.com"


@pytest.fixture
def satellite(minion, pillar, relay_pem):
    """A satellite of that system with that agent."""

    def make(system="Debian", agent="opensmtpd", **options):
        return minion(system, pillar(PILLAR.format(agent, relay_pem)), id=WEB1, **options)

    return make


def dangling(low):
    there = {(c["state"], value) for c in low for value in (c["__id__"], c["name"])}
    return [
        (chunk["__id__"], requisite, target)
        for chunk in low
        for requisite in ("require", "watch", "onchanges")
        for target in chunk.get(requisite, [])
        if not set(target.items()) <= there
    ]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_satellite_renders_and_every_requisite_is_met(satellite, system, agent):
    low = satellite(system, agent).low("mailsrv.satellite")
    assert not dangling(low)
    functions = {(chunk["state"], chunk["fun"]) for chunk in low}
    assert {("mailsrv", "credential_present"), ("mailsrv", "published")} <= functions
    assert (("daemon", "running") in functions) is (agent == "opensmtpd")
    rooms = {chunk["__sls__"] for chunk in low}
    assert not [room for room in rooms if re.search("dovecot|dkim|genkeys|tls", room)]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_mail_server_that_came_with_the_system_gives_way(satellite, system, agent):
    low = satellite(system, agent).low("mailsrv.satellite")
    stopped = {chunk["name"] for chunk in low if chunk["fun"] == "stopped"}
    assert "sendmail" in stopped
    assert bool(stopped & {"opensmtpd", "smtpd"}) is (agent == "dma")
    sysrc = {chunk["name"]: chunk for chunk in low if chunk["state"] == "sysrc"}
    assert bool(sysrc) is (system == "FreeBSD")
    if sysrc:
        assert sysrc.pop("sendmail_enable")["value"] == "NONE"
        assert "daily_submit_queuerun" in sysrc
        found = {(chunk["value"], chunk["file"]) for chunk in sysrc.values()}
        assert found == {("NO", "/etc/periodic.conf")}


def test_on_freebsd_sendmail_leads_to_the_agent(satellite):
    for agent, program in (("opensmtpd", "/usr/local/sbin/smtpctl"), ("dma", "/usr/libexec/dma")):
        files = satellite("FreeBSD", agent).files("mailsrv.satellite")
        assert f"\nsendmail\t{program}\n" in files["/usr/local/etc/mail/mailer.conf"]


def test_on_freebsd_each_agent_takes_away_what_cron_called_for_the_other(satellite):
    lines = {"opensmtpd": "/usr/local/etc/cron.d/mailsrv-opensmtpd", "dma": "/etc/cron.d/dma"}
    for agent, other in (AGENTS, reversed(AGENTS)):
        machine = satellite("FreeBSD", agent)
        low = machine.low("mailsrv.satellite")
        assert lines[agent] in machine.files("mailsrv.satellite")
        absent = [machine.bare(chunk["name"]) for chunk in low if chunk["fun"] == "absent"]
        assert lines[other] in absent
        assert lines[agent] not in absent


def test_an_opensmtpd_that_openssl_3_breaks_is_taken_from_backports_here_too(satellite):
    old = {"grains": (("oscodename", "bookworm"),), "packages": (("opensmtpd", "6.8.0p2-4"),)}
    packages = satellite(**old).state("mailsrv-opensmtpd-packages", "mailsrv.satellite")
    assert (packages["fun"], packages["fromrepo"]) == ("latest", "bookworm-backports")


@pytest.mark.parametrize("system", SYSTEMS)
def test_smtpd_hears_nobody_but_this_machine_and_relays_with_tls_and_credential(satellite, system):
    machine = satellite(system)
    files = machine.files("mailsrv.satellite")
    (text,) = [text for name, text in files.items() if name.endswith("/smtpd.conf")]
    assert re.findall(r"^listen on (\S+)", text, re.M) == ["socket", "127.0.0.1", "::1"]
    actions = re.findall(r"^action .* relay (.*)$", text, re.M)
    assert len(actions) == 3
    assert all(re.match('host "(smtps://relay|smtp[+]tls://mail)', action) for action in actions)
    assert all("ca upstream" in action and "no-verify" not in action for action in actions)
    secrets = {"Debian": "/etc/mail", "FreeBSD": "/usr/local/etc/mail"}[system]
    assert f"table secrets file:{secrets}/satellite.secrets\n" in text


def test_smtpd_takes_the_configuration(satellite, program, suite, tmp_path):
    smtpd = program("smtpd", suite)
    machine = satellite()
    text = machine.files("mailsrv.satellite")["/etc/smtpd.conf"]
    (tmp_path / "secrets").write_text("relay web1.example.com:secret\n")
    text = text.replace("/etc/mail/satellite.secrets", str(tmp_path / "secrets"))
    (tmp_path / "smtpd.conf").write_text(text)
    ran = subprocess.run([smtpd, "-n", "-f", tmp_path / "smtpd.conf"], capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_the_configuration_is_checked_before_it_replaces_the_old_one(satellite):
    state = satellite().state("mailsrv-opensmtpd-config", "mailsrv.satellite")
    assert state["check_cmd"] == "smtpd -n -f"


@pytest.mark.parametrize("system", SYSTEMS)
def test_dma_pins_the_certificate_and_reads_the_password_from_a_file_of_its_own(
    satellite, system, relay_pem
):
    machine = satellite(system, "dma")
    credential = machine.state("mailsrv-satellite-credential", "mailsrv.satellite")
    assert machine.bare(credential["name"]) == "/etc/dma/auth.conf"
    assert credential["line"] == f"{WEB1}|mail.example.com:PASSWORD"
    text = machine.files("mailsrv.satellite")["/etc/dma/dma.conf"]
    settings = dict(line.partition(" ")[::2] for line in text.splitlines() if line[0] != "#")
    ask = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", relay_pem]
    digest = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    assert settings == {
        "SMARTHOST": "mail.example.com",
        "PORT": "465",
        "AUTHPATH": "/etc/dma/auth.conf",
        "SECURETRANSFER": "",
        "FINGERPRINT": digest.partition("=")[2].strip().replace(":", "").lower(),
        "MAILNAME": WEB1,
        "MASQUERADE": WEB1,
    }


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_same_pillar_again_changes_nothing(satellite, system, agent):
    machine = satellite(system, agent)
    machine.write("mailsrv.satellite")
    assert not any(machine.write("mailsrv.satellite").values())


def test_a_faulty_pillar_of_a_satellite_is_refused_with_the_sentences_of_lint(minion, pillar):
    machine = minion(pillar=pillar("mailsrv: {satellite: {relay: mail}}"), id="web1")
    sentences = machine("mailsrv.lint")
    assert len(sentences) == 3
    (state,) = machine("state.apply", "mailsrv.satellite").values()
    assert (state["result"], state["changes"]) == (False, {})
    assert state["comment"].split("\n") == sentences


# The credential

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a file to root and the agent's group"
)
LINE = f"relay {WEB1}:PASSWORD"
GROUP = "mail"


@pytest.fixture
def files(tmp_path):
    return {name: tmp_path / name for name in ("secrets", "password", "hash")}


@pytest.fixture
def present(minion, files, caplog):
    """Apply mailsrv.credential_present; what it returns and logs is searched for the secrets."""
    functions = {
        test: minion().state_function("mailsrv.credential_present", test) for test in (True, False)
    }

    def apply(test=False, line=LINE, **arguments):
        paths = {name: str(files[name]) for name in ("password", "hash")}
        with caplog.at_level("DEBUG"):
            ret = functions[test](
                str(files["secrets"]), **paths, line=line, group=GROUP, **arguments
            )
        for name in paths:
            if files[name].exists():
                assert files[name].read_text().strip() not in f"{ret} {caplog.text}"
        return ret

    return apply


@as_root
def test_a_credential_is_made_once_and_its_hash_is_that_of_its_password(present, files):
    ret = present()
    assert (ret["result"], ret["comment"]) == (True, "the credential was made")
    assert ret["changes"] == {"credential": "new", "file": str(files["secrets"])}
    password = files["password"].read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", password)
    assert sha512_crypt.verify(password, files["hash"].read_text().strip())
    assert files["secrets"].read_text() == f"relay {WEB1}:{password}\n"
    again = present()
    assert (again["result"], again["changes"]) == (True, {})
    assert files["password"].read_text().strip() == password


@as_root
def test_a_credential_is_closed_to_all_but_root_and_the_agent(present, files):
    present()
    modes = {name: path.stat().st_mode & 0o777 for name, path in files.items()}
    assert modes == {"secrets": 0o640, "password": 0o600, "hash": 0o600}
    assert all(path.stat().st_uid == 0 for path in files.values())
    assert files["secrets"].stat().st_gid == grp.getgrnam(GROUP).gr_gid
    files["secrets"].chmod(0o644)
    assert present()["changes"] == {"owner": "root:mail 0640"}
    assert files["secrets"].stat().st_mode & 0o777 == 0o640


@as_root
def test_in_test_mode_no_credential_is_made(present, files):
    ret = present(test=True)
    assert (ret["result"], ret["changes"]["credential"]) == (None, "new")
    assert not any(path.exists() for path in files.values())
    present()
    ret = present(test=True)
    assert (ret["result"], ret["changes"]) == (True, {})


@as_root
def test_another_agent_takes_the_same_password(present, files):
    present()
    password = files["password"].read_text()
    assert present(line="web1|mail:PASSWORD")["changes"] == {"file": str(files["secrets"])}
    assert files["secrets"].read_text() == f"web1|mail:{password}"
    assert files["password"].read_text() == password


@as_root
@pytest.mark.parametrize("lost", ["password", "hash", "secrets"])
def test_what_is_lost_of_a_credential_is_made_again_and_fits(present, files, lost):
    present()
    before = files["password"].read_text()
    files[lost].unlink()
    assert present()["changes"]
    password = files["password"].read_text()
    assert (password == before) is (lost != "password")
    assert sha512_crypt.verify(password.strip(), files["hash"].read_text().strip())
    assert files["secrets"].read_text() == LINE.replace("PASSWORD", password.strip()) + "\n"


@as_root
def test_a_group_that_is_not_there_is_named(minion, files):
    present = minion().state_function("mailsrv.credential_present")
    paths = {name: str(files[name]) for name in ("password", "hash")}
    ret = present(str(files["secrets"]), **paths, line=LINE, group="nosuchgroup")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == f"{files['secrets']}: no such group: nosuchgroup"


def test_without_a_master_there_is_nothing_to_publish(satellite):
    ret = satellite().state_function("mailsrv.published")("mailsrv.satellite_credential")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "no master" in ret["comment"]


HASH = "$6$salt$" + "a" * 86


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_mail_machine_lets_a_satellite_log_in_and_send_as_itself(minion, system):
    satellites = {WEB1: {"hash": HASH}, "web1.other.net": {"hash": HASH}}
    files = minion(system).files(satellites=satellites)
    tables = {os.path.basename(name): text.splitlines() for name, text in files.items()}
    for name in satellites:
        assert f"{name} {HASH}" in tables["credentials"]
        assert f"{name} @{name}" in tables["sendas"]
    # Mail for it is refused at once; what is outside of our domains is not ours to refuse.
    assert WEB1 in tables["vdomains"]
    assert "web1.other.net" not in tables["vdomains"]
    for table in ("recipients", "virtuals", "dovecot-passwd", "ours"):
        assert not [line for line in tables[table] if "web1" in line]


def test_only_a_mail_machine_with_a_fleet_publishes_its_certificate(minion):
    published = "mailsrv-tls-published"
    for satellites, there in (("web*", True), ({WEB1: {"hash": HASH}}, False), (None, False)):
        low = minion().low("mailsrv.tls", satellites=satellites)
        assert (published in {chunk["__id__"] for chunk in low}) is there


def test_the_certificate_that_is_published_is_the_self_signed_one_or_none(minion, pillar):
    machine = minion()
    path = machine.at("/etc/mail/tls/mx.example.com.crt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("the certificate\n")
    assert machine("mailsrv.certificate") == "the certificate\n"
    tls = "domains: [example.com]\nmailsrv: {tls: {cert: /etc/ssl/a.crt, key: /etc/ssl/a.key}}"
    assert minion(pillar=pillar(tls))("mailsrv.certificate") == ""


def test_the_hash_for_a_mail_machine_without_a_master_is_printed(satellite):
    machine = satellite()
    path = machine.at("/etc/mail/satellite.hash")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("$6$salt$hash\n")
    assert machine("mailsrv.satellite_credential") == {
        "hash": "$6$salt$hash",
        "reader": "mail.example.com",
    }
