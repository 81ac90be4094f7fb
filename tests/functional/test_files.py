"""The files that the daemons read, on both systems, for both Dovecots and every signer."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from _mailsrv import names
from cryptography import x509
from passlib.hash import sha512_crypt

import guard

# Every system with every Dovecot and every signer, and what FreeBSD has by default.
CASES = [
    ("Debian", "2.3", "dkimsign"),
    ("Debian", "2.4", "dkimproxy"),
    ("FreeBSD", "2.3", "dkimproxy"),
    ("FreeBSD", "2.4", "dkimsign"),
    ("Debian", "2.4", "rspamd"),
    ("FreeBSD", "2.4", "rspamd"),
    ("FreeBSD", "2.4", "dkimproxy"),
]
# Every signer with every further choice that concerns it.
SIGNING = [
    {"dkim": {"signer": "dkimproxy"}, "spam_filter": True},
    {"dkim": {"signer": "dkimsign"}, "spam_filter": True},
    {"dkim": {"signer": "dkimsign", "ed25519": True}},
    {"dkim": {"signer": "rspamd"}},
    {"dkim": {"signer": "rspamd", "ed25519": True}, "spam_filter": True},
]
DOVECOTS = {
    ("Debian", "2.3"): ("dovecot-core", "1:2.3.19.1+dfsg1-2.1+deb12u7"),
    ("Debian", "2.4"): ("dovecot-core", "1:2.4.1+dfsg1-6+deb13u1"),
    ("FreeBSD", "2.3"): ("dovecot24", "2.3.21.1_4"),
    ("FreeBSD", "2.4"): ("dovecot24", "2.4.5_2"),
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
ACCOUNTS = {"user1@example.com": "pass1", "users2@example.com": "pass2", "users3@test.com": "pass3"}
DOMAINS = ["example.com", "test.com"]
TABLES = ["vdomains", "recipients", "virtuals", "credentials", "dovecot-passwd", "keyfiles"]


@pytest.fixture(scope="session")
def written(minion):
    """The files of a case by their last name; `at` has their whole names."""

    def write(system, dovecot, signer, pillar="pillar.example", **mailsrv):
        machine = minion(system, pillar, packages=(DOVECOTS[system, dovecot],), id=signer)
        at = machine.files(dkim={"signer": signer}, **mailsrv)
        at = {name: text for name, text in at.items() if not name.endswith(".py")}
        files = {os.path.basename(name): text for name, text in at.items()}
        assert len(files) == len(at)
        case = {"machine": machine, "at": at, "files": files, "signer": signer}
        return SimpleNamespace(**case, system=system, dovecot=dovecot)

    return write


@pytest.fixture(params=CASES, ids="-".join)
def case(request, written):
    return written(*request.param)


def entries(table):
    """The lines of a table that are no comment."""
    return [line for line in table.splitlines() if not line.startswith("#")]


def conf(text):
    """The lines of a configuration, without comments and blank lines."""
    return [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]


def test_nothing_of_the_template_is_left_in_a_file(case):
    for name, text in case.files.items():
        assert not re.search(r"{[{%#]|[%#]}|}}|\b(None|True|False|Undefined)\b", text), name
        assert name != "guard.json" or json.loads(text)
        assert not re.search(r"[ \t]$", text, re.M), name
        assert re.match(r"\S", text), name
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name


def test_the_paths_are_those_of_the_system(case):
    known = {"/etc/mail/aliases", "/etc/mail/mailer.conf", "/var/run/dovecot/lmtp", "/vmail"}
    known |= {"/bin/sh", "/bin/ps", "/usr/sbin/sendmail", "/var/spool/smtpd", "/dev/null", "/sbin"}
    known |= {"/var/db/mailsrv/guard/sent.sqlite", "/ms"}  # the last one of a regular expression
    absolute = r"(?<![\w~}.:/-])/(?:[\w.-]+/?)+"
    for name, text in {**case.at, "names": "\n".join(case.at)}.items():
        paths = set(re.findall(absolute, text))
        if case.system == "FreeBSD":
            strange = {path for path in paths if not path.startswith("/usr/local/")} - known
            strange = {path for path in strange if not path.startswith("/vmail")}
        else:
            strange = {path for path in paths if path.startswith(("/usr/local/etc", "/vmail"))}
        assert not strange, name


def test_the_addresses_of_the_pillar_are_in_every_table(case):
    files = case.files
    assert entries(files["vdomains"]) == DOMAINS
    assert entries(files["ours"]) == ["@mx.example.com", "@example.com", "@test.com"]
    roles = {f"{name}@{domain}" for name in ("postmaster", "abuse") for domain in DOMAINS}
    assert entries(files["recipients"])[:3] == [*ACCOUNTS]
    assert {*entries(files["recipients"])[3:]} == roles
    virtuals = dict(line.split(" ") for line in entries(files["virtuals"]))
    assert virtuals == dict.fromkeys(ACCOUNTS, "vmail") | {
        role: "users3@test.com" if role.endswith("@test.com") else "user1@example.com"
        for role in roles
    }


def test_nobody_may_send_as_somebody_else(case):
    senders = dict(line.split(" ") for line in entries(case.files["sendas"]))
    assert list(senders) == [*ACCOUNTS]
    for address, allowed in senders.items():
        assert {*allowed.split(",")} & {*ACCOUNTS} == {address}


def test_both_daemons_know_the_same_hash_of_each_password(case):
    credentials = dict(line.split(" ") for line in entries(case.files["credentials"]))
    passwd = dict(line.split(":", 1) for line in entries(case.files["dovecot-passwd"]))
    assert list(credentials) == list(passwd) == list(ACCOUNTS)
    for address, password in ACCOUNTS.items():
        assert passwd[address] == f"{{SHA512-CRYPT}}{credentials[address]}::::::"
        assert sha512_crypt.verify(password, credentials[address])


def test_tables_have_no_empty_line(case):
    """OpenSMTPD once shut down on one."""
    for name in TABLES:
        assert "" not in case.files.get(name, "").splitlines()


# OpenSMTPD


def listeners(case):
    return [line for line in conf(case.files["smtpd.conf"]) if line.startswith("listen on ")]


def test_no_password_is_taken_without_tls(case):
    with_auth = [line for line in listeners(case) if " auth" in line]
    assert with_auth
    assert all(" tls-require " in line or " smtps " in line for line in with_auth)
    assert all(" auth <credentials> senders <sendas> " in line for line in with_auth)


def test_ports_are_open_as_mail_clients_and_other_servers_expect_them(case):
    ports = {line.split(" port ")[1].split()[0] for line in listeners(case) if " port " in line}
    assert ports == {"25", "465", "587", "10026"} | (
        {"10028"} if case.signer == "dkimproxy" else set()
    )
    assert all(" auth" not in line for line in listeners(case) if " port 25 " in line)
    assert all(" auth " in line for line in listeners(case) if re.search(" port (465|587) ", line))


def test_only_the_machine_itself_hands_in_signed_mail(case):
    lines = [line for line in listeners(case) if "10028" in line]
    assert len(lines) == (case.signer == "dkimproxy")
    for line in lines:
        assert line.startswith("listen on 127.0.0.1 port 10028 tag DKIM ")
        assert " tls" not in line
        assert " filter " not in line


def test_guard_stands_before_all_that_comes_in(case):
    for line in listeners(case):
        assert " filter guard" in line or " port 10028 " in line
    (filters,) = [line for line in conf(case.files["smtpd.conf"]) if line.startswith("filter ")]
    python = {"Debian": "/usr/bin/python3", "FreeBSD": "/usr/local/bin/python3"}[case.system]
    assert filters.startswith(f'filter guard proc-exec "{python} -I ')
    assert ("user _dkimsign group _dkimsign" in filters) == (case.signer == "dkimsign")


def test_guard_knows_what_smtpd_knows(case):
    rules = guard.Rules(case.files["guard.json"])
    assert rules.ours == {"mx.example.com", *DOMAINS}
    senders = dict(line.split(" ") for line in entries(case.files["sendas"]))
    assert rules.senders == {name: {*allowed.split(",")} for name, allowed in senders.items()}
    assert rules.closed == []


def test_guard_refuses_nonsense_of_a_configuration(case, tmp_path):
    (program,) = {guard.__file__}
    rules = json.loads(case.files["guard.json"])
    for text in ("", "{", "[]", *(json.dumps({**rules, key: 1.5}) for key in rules)):
        (tmp_path / "guard.json").write_text(text)
        check = [sys.executable, "-I", program, "-n", tmp_path / "guard.json"]
        ran = subprocess.run(check, capture_output=True, text=True)
        assert ran.returncode == 1
        assert "guard.json" in ran.stderr


def test_a_machine_without_ipv6_does_not_listen_on_it(minion, written):
    assert "on ::" in written("Debian", "2.3", "dkimsign").files["smtpd.conf"]
    conf_file = minion(grains=(("ipv6", []),)).files()["/etc/smtpd.conf"]
    assert "on ::" not in conf_file
    assert conf_file.count("listen on 0.0.0.0 ") == 3


def test_mail_is_signed_by_the_signer_of_the_pillar_and_only_once(case):
    lines = conf(case.files["smtpd.conf"])
    loop = 'action "sign" relay host "smtp+notls://127.0.0.1:10027"'
    assert (loop in lines) == (case.signer == "dkimproxy")
    programs = [os.path.basename(c[0]) for c in guard.Rules(case.files["guard.json"]).signers]
    rspamd = {"Debian": "filter-rspamd", "FreeBSD": "opensmtpd-filter-rspamd"}[case.system]
    known = {"dkimsign": ["filter-dkimsign"], "rspamd": [rspamd], "dkimproxy": []}
    assert programs == known[case.signer]


@pytest.fixture(params=SIGNING, ids=repr)
def signing(request, minion):
    """The files with a signer and the further choices, by their last name; the choices."""

    def files(system):
        at = minion(system, "pillar.example").files(**request.param)
        return {os.path.basename(name): text for name, text in at.items()}

    return files, request.param


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_dkimsign_is_a_filter_for_each_algorithm_that_dns_shows(minion, system):
    def signers(machine):
        (text,) = [t for name, t in machine.files(dkim=dkim).items() if name.endswith("guard.json")]
        return guard.Rules(text).signers

    dkim = {"signer": "dkimsign", "ed25519": True}
    (alone,) = signers(minion(system, "pillar.example", id="chain"))
    assert alone[alone.index("-s") + 1] == "mailsrv"
    machine = minion(system, "pillar.example", id="chain of two")
    machine.sign(dkim=dkim)
    for command, selector, algorithm in zip(
        signers(machine), ("mailsrv", "mailsrv-ed25519"), ("rsa", "ed25519"), strict=True
    ):
        assert command[0].endswith("/filter-dkimsign")
        options = " ".join(command[1:])
        assert f"-a {algorithm}-sha256 -c relaxed/relaxed -h from:" in options
        assert "list-unsubscribe-post" in options
        assert f" -s {selector} -k " in options
        assert options.endswith(f"/{selector}.private -d example.com -d test.com")


@pytest.mark.parametrize(
    "dkim",
    [
        {"signer": "dkimsign"},
        {"signer": "rspamd"},
        {"signer": "rspamd", "ed25519": True},  # which DNS shows, but many verifiers do not know
        {"signer": "dkimproxy"},
    ],
)
def test_mail_of_a_domain_that_waits_for_its_record_is_signed_as_another(minion, dkim):
    signer = dkim["signer"]
    machine = minion("Debian", "pillar.example", id=f"{' '.join(map(str, dkim.values()))} waits")
    machine.sign(dkim=dkim)
    waits, signs = DOMAINS
    step = {"signing": "", "retired": {}, "domains": []}
    file = machine.at(f"/etc/mail/dkim/{waits}/rsa.signing")
    if signer == "dkimsign":
        step = {"signing": "mailsrv", "retired": {}, "domains": [signs]}
        file = machine.at("/etc/mail/dkim/rsa.signing")
    file.write_text(json.dumps(step))
    at = machine.files(dkim=dkim)
    files = {os.path.basename(name): text for name, text in at.items()}
    if signer == "dkimsign":
        (command,) = guard.Rules(files["guard.json"]).signers
        assert command[-2:] == ["-d", signs]
        assert waits not in command
    elif signer == "dkimproxy":
        by = {line.split()[0]: line for line in entries(files["keyfiles"])}
        assert all(f" d={signs}, s=mailsrv, key=" in line for line in by.values())
        assert {waits, signs, f"user1{waits}"} <= by.keys()
    else:
        section = files["rspamd.conf"].partition("dkim_signing {")[2].partition("\n}")[0]
        assert waits not in section
        assert f'return domain or "{signs}"' in section


CONF = {"Debian": "/etc/smtpd.conf", "FreeBSD": "/usr/local/etc/mail/smtpd.conf"}


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_mail_from_outside_alone_goes_through_the_spam_filter(signing, system):
    files, mailsrv = signing
    lines = conf(files(system)["smtpd.conf"])
    filtered = [line for line in lines if " filter incoming " in line]
    assert len(filtered) == (2 if mailsrv.get("spam_filter") else 0)
    assert all(" port 25 " in line for line in filtered)
    program = {"Debian": "filter-rspamd", "FreeBSD": "opensmtpd-filter-rspamd"}[system]
    rspamd = [line for line in lines if "rspamd" in line]
    url = f'proc-exec "{program} -url http://127.0.0.1:11333 -settings-id'
    wanted = [f'filter spam {url} incoming"'] * mailsrv.get("spam_filter", False)
    assert rspamd == wanted
    assert ("filter incoming chain { guard, spam }" in lines) == bool(wanted)


def section(text, name):
    """A section of rspamd.conf at its top level, without comments."""
    found = re.search(rf"^{name} {{$(.*?)^}}$", text, re.M | re.S)
    return conf(found[1]) if found else []


@pytest.mark.parametrize("system", ["Debian", "FreeBSD"])
def test_rspamd_signs_each_domain_with_each_of_its_keys(minion, system):
    dkim = {"signer": "rspamd", "ed25519": True}
    machine = minion(system, "pillar.example", id="rspamd")
    machine.sign(dkim=dkim)
    files = machine.files(dkim=dkim)
    (text,) = [text for name, text in files.items() if name.endswith("/rspamd.conf")]
    paths = re.findall(r'selector = "([^"]+)"; path = "([^"]+)";', text)
    keys = [chunk for chunk in machine.low(dkim=dkim) if chunk["fun"] == "key_present"]
    read = {(key["selector"], machine.bare(key.get("bare", key["name"]))) for key in keys}
    assert len(paths) == 4
    assert {*paths} == read
    assert all(path.endswith(".bare") == selector.endswith("-ed25519") for selector, path in paths)
    assert 'return domain or "example.com"' in section(text, "dkim_signing")


def test_rspamd_is_reached_from_this_machine_alone_and_has_no_web_interface(signing):
    files, mailsrv = signing
    text = files("Debian").get("rspamd.conf", "")
    assert bool(text) == (mailsrv["dkim"]["signer"] == "rspamd" or "spam_filter" in mailsrv)
    assert re.findall(r'^worker "(.*)"', text, re.M) == (["normal"] if text else [])
    assert re.findall(r"bind_socket = (.*);", text) == (['"127.0.0.1:11333"'] if text else [])
    assert "password" not in "".join(conf(text))


def test_rspamd_does_what_it_is_there_for_and_nothing_else(signing):
    files, mailsrv = signing
    text = files("Debian").get("rspamd.conf", "")
    signs = mailsrv["dkim"]["signer"] == "rspamd"
    assert ("enabled = false;" in section(text, "dkim_signing")) == (bool(text) and not signs)
    assert bool(section(text, "force_actions")) == signs
    assert bool(section(text, "milter_headers")) == mailsrv.get("spam_filter", False)
    settings = section(text, "settings")
    assert ('id = "signing";' in settings) == signs
    assert ('id = "incoming";' in settings) == mailsrv.get("spam_filter", False)


BACKUP = {"mx2.example.net": ["192.0.2.2", "2001:db8::2"]}
FILTERED = [s for s in SIGNING if re.search("rspamd|spam_filter", repr(s))]
FILTERED += [{**s, "backup": BACKUP} for s in FILTERED if "spam_filter" in s]


@pytest.mark.parametrize("mailsrv", FILTERED, ids=repr)
def test_rspamd_takes_the_configuration(minion, program, suite, mailsrv):
    rspamadm = program("rspamadm", suite)
    machine = minion("Debian", "pillar.example", id="rspamd")
    machine.write(**mailsrv)
    file = machine.at("/etc/rspamd/rspamd.conf")
    ran = subprocess.run([rspamadm, "configtest", "-s", "-c", file], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "syntax OK\n"), ran.stderr


def test_the_first_rule_that_matches_is_the_right_one(case):
    """Signed mail leaves, our mail stays, nobody relays but our users."""
    rules = [line for line in conf(case.files["smtpd.conf"]) if line.startswith("match ")]
    signed = [
        'match tag DKIM for domain <vdomains> rcpt-to <recipients> action "mailbox"',
        'match tag DKIM for any action "relay"',
    ]
    by_loop = [
        'match from socket mail-from <ours> for any action "sign"',
        'match from src <loopback> mail-from <ours> for any action "sign"',
    ]
    dkimproxy = case.signer == "dkimproxy"
    assert rules == [
        *(signed if dkimproxy else []),
        'match from any for domain <vdomains> rcpt-to <recipients> action "mailbox"',
        "match from any for domain <vdomains> reject",
        'match from any for domain regex "^\\[" reject',
        'match from src <here> for local action "local"',
        f'match from auth for any action "{"sign" if dkimproxy else "relay"}"',
        'match tag SIEVE for any action "relay"',
        *(
            by_loop
            if dkimproxy
            else ['match from src <here> mail-from <ours> for any action "relay"']
        ),
        'match from src <here> for any action "forward"',
    ]


def made(machine, state, **mailsrv):
    """The state's files are there; which it is."""
    os.makedirs(os.path.dirname(machine.state(state, **mailsrv)["name"]), exist_ok=True)
    ret = machine.apply(state, **mailsrv)
    assert ret["result"] is True, ret
    return machine.state(state, **mailsrv)


@as_root
def test_a_certificate_that_is_made_is_the_hosts_and_its_key_is_closed(minion, program):
    program("openssl")
    files = made(minion(), "mailsrv-tls-self-signed")
    with open(files["name"], "rb") as file:
        cert = x509.load_pem_x509_certificate(file.read())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mx.example.com"]
    assert os.stat(files["key"]).st_mode & 0o777 == 0o600
    assert minion().apply("mailsrv-tls-self-signed")["changes"] == {}


@as_root
def test_a_certificate_can_be_made_for_a_long_hostname(minion, program):
    """openssl req -subj /CN=…: "string too long:maxsize=64" """
    program("openssl")
    made(minion(), "mailsrv-tls-self-signed", hostname=f"{'a' * 40}.{'b' * 40}.example.com")


NOBODY = "domains: [example.com]\n"
STRANGE = r"""#!yaml
domains: [xn--bcher-kva.example, a.b.c.example.com]
accounts:
  - ["0_a.-@xn--bcher-kva.example", "{{ grains['os'] }} %d : # ' \" \\ $HOME {SSHA} ä"]
  - {address: A@a.b.c.example.com, hash: $6$salt$HASH}
mailsrv:
  dkim: {selector: 2024-01.a}
  aliases:
    sales@a.b.c.example.com: [a+x@a.b.c.example.com, No~bo=dy&co@elsewhere.example]
    "@a.b.c.example.com": A@a.b.c.example.com
""".replace("HASH", "a" * 86)


def smtpd_says(smtpd, machine, **mailsrv):
    machine.write(**mailsrv)
    for state in ("mailsrv-tls-self-signed", "mailsrv-genkeys-srs-key"):
        made(machine, state, **mailsrv)
    machine.at("/etc/aliases").write_text("postmaster: root\n")
    file = machine.at("/etc/smtpd.conf")
    return subprocess.run([smtpd, "-n", "-f", file], capture_output=True, text=True).stderr


LEAVING = {
    "relay": {
        "host": "smtp.a.example",
        "user": "us",
        "password": "p:ss {{ w }} #rd",
        "senders": {"test.com": "direct"},
        "recipients": {
            "b.example": {"host": "smtp.b.example", "port": 465},
            "c.example": "direct",
        },
    },
    "tls_required": ["c.example"],
}


@pytest.mark.parametrize("signer", ["dkimsign", "dkimproxy"])
def test_smtpd_takes_every_way_by_which_mail_leaves(minion, program, suite, signer):
    machine = minion("Debian", "pillar.example", id="leaving")
    said = smtpd_says(program("smtpd", suite), machine, dkim={"signer": signer}, **LEAVING)
    assert said == "configuration OK\n"


@pytest.mark.parametrize("signer", ["dkimsign", "dkimproxy"])
def test_smtpd_takes_what_a_backup_mx_does(minion, program, suite, signer):
    machine = minion("Debian", "pillar.example", id="backup")
    known = {"hostname": "mail.due.example", "message_size": "50M", "certificate": ""}
    known |= {"closed": None, "domains": {"due.example": ["", "list-*"]}}
    file = machine.at("/etc/mail/backup/known")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"mx1.due.example": known}))
    owned = {"mx1.due.example": ["due.example"], "mx.tre.example": ["tre.example"]}
    text = smtpd_says(program("smtpd", suite), machine, dkim={"signer": signer}, backup_for=owned)
    assert 'action "backup-mx1.due.example"' in machine.at("/etc/smtpd.conf").read_text()
    assert text == "configuration OK\n"


@pytest.mark.parametrize("mailsrv", SIGNING, ids=repr)
def test_smtpd_takes_every_signer_and_filter(minion, program, suite, mailsrv):
    machine = minion("Debian", "pillar.example", id="filters")
    assert smtpd_says(program("smtpd", suite), machine, **mailsrv) == "configuration OK\n"


@pytest.mark.parametrize(
    ("text", "signer"),
    [(None, "dkimsign"), (None, "dkimproxy"), (NOBODY, "dkimsign"), (STRANGE, "dkimsign")],
    ids=["dkimsign", "dkimproxy", "nobody", "strange"],
)
def test_smtpd_takes_the_configuration(written, program, suite, pillar, text, signer):
    dovecot = {"dkimsign": "2.3", "dkimproxy": "2.4"}[signer]
    case = written("Debian", dovecot, signer, pillar(text) if text else "pillar.example")
    said = smtpd_says(program("smtpd", suite), case.machine, dkim={"signer": signer})
    assert said == "configuration OK\n"


def test_strange_passwords_are_hashed_as_they_stand(written, pillar):
    case = written("Debian", "2.3", "dkimsign", pillar(STRANGE))
    credentials = dict(line.split(" ") for line in entries(case.files["credentials"]))
    password = "{{ grains['os'] }} %d : # ' \" \\ $HOME {SSHA} ä"
    assert sha512_crypt.verify(password, credentials["0_a.-@xn--bcher-kva.example"])
    assert credentials["a@a.b.c.example.com"] == f"$6$salt${'a' * 86}"


# Dovecot


def test_dovecot_delivers_where_smtpd_hands_over(case):
    (program,) = re.findall(r'^action "mailbox" mda "(.*?)"', case.files["smtpd.conf"], re.M)
    (socket,) = re.findall(r'^my \$path = "(.*)";', case.at[case.machine.bare(program)], re.M)
    directory = {"Debian": "/run/dovecot", "FreeBSD": "/var/run/dovecot"}[case.system]
    assert socket == f"{directory}/lmtp"
    listener = case.files["dovecot.conf"].partition("unix_listener lmtp {")[2].partition("}")[0]
    assert conf(listener) == ["user = vmail", "mode = 0600"]


def test_dovecot_reads_the_passwords_from_the_file_that_is_written(case):
    (path,) = [name for name in case.at if name.endswith("/dovecot-passwd")]
    assert case.files["dovecot.conf"].count(f"{path}\n") == 2


def test_dovecot_takes_no_password_without_tls_and_serves_the_certificate_of_smtpd(case):
    settings = conf(case.files["dovecot.conf"])
    assert "ssl = required" in settings
    pki = dict(re.findall(r'^pki \S+ (cert|key) "(.*)"$', case.files["smtpd.conf"], re.M))
    if case.dovecot == "2.4":
        assert "auth_allow_cleartext = no" in settings
        assert f"ssl_server_cert_file = {pki['cert']}" in settings
        assert f"ssl_server_key_file = {pki['key']}" in settings
    else:
        assert "disable_plaintext_auth = yes" in settings
        assert f"ssl_cert = <{pki['cert']}" in settings
        assert f"ssl_key = <{pki['key']}" in settings


def test_dovecot_2_4_finds_its_version_first_and_no_word_of_2_3(case):
    text = case.files["dovecot.conf"]
    if case.dovecot == "2.4":
        assert conf(text)[:2] == [
            "dovecot_config_version = 2.4.0",
            "dovecot_storage_version = 2.4.0",
        ]
        assert not re.search(r"%[^{]", text)
        assert not re.search(r"^\s*(mail_location|ssl_cert|address) ", text, re.M)
        assert re.findall(r"^\s*args = (.*)", text, re.M) == ["90 %{user}"]
    else:
        assert not re.search(r"_version =|%{|_path =|cleartext", text)


def test_mailboxes_are_where_the_seed_had_them(case):
    home = {"Debian": "/var/vmail", "FreeBSD": "/vmail"}[case.system]
    name = {"2.3": "%d/%n", "2.4": "%{user | domain}/%{user | username}"}[case.dovecot]
    settings = conf(case.files["dovecot.conf"])
    assert f"mail_home = {home}/{name}" in settings
    assert {"mail_location = mdbox:~/mdbox", "mail_path = ~/mdbox"} & {*settings}


QUOTAS = """
domains: [example.com]
accounts:
  - [user1@example.com, pass1]
  - {address: user2@example.com, password: pass2, quota: 2G}
mailsrv: {quota: 5G}
"""


@pytest.mark.parametrize(
    ("dovecot", "everybody", "own"),
    [
        ("2.3", "quota_rule = *:storage=5G", "userdb_quota_rule=*:storage=2G"),
        ("2.4", "quota_storage_size = 5G", "userdb_quota_storage_size=2G"),
    ],
)
def test_an_accounts_own_quota_stands_with_its_password(written, pillar, dovecot, everybody, own):
    files = written("Debian", dovecot, "dkimsign", pillar(QUOTAS)).files
    assert everybody in conf(files["dovecot.conf"])
    extra = [line.split("::::::")[1] for line in entries(files["dovecot-passwd"])]
    assert extra == ["", own]


def test_without_a_quota_there_is_none(case):
    assert not re.search(r"(?m)^ *quota_(rule|storage_size) = ", case.files["dovecot.conf"])


@pytest.fixture
def dovecot_conf(written, program, suite):
    """Ask the Dovecot of a Debian about the configuration that is its own."""
    doveconf, dovecot = program("doveconf", suite), program("dovecot", suite)
    version = subprocess.run([dovecot, "--version"], capture_output=True, text=True).stdout[:3]
    case = written("Debian", version, "dkimsign")
    made(case.machine, "mailsrv-tls-self-signed")
    file = case.machine.at("/etc/dovecot/dovecot.conf")

    def ask(*arguments):
        return subprocess.run([doveconf, "-c", file, *arguments], capture_output=True, text=True)

    return ask


def test_dovecot_takes_the_configuration(dovecot_conf):
    ran = dovecot_conf("-x", "-n")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_dovecot_lets_everybody_in_whom_the_pillar_may_name(dovecot_conf):
    """auth: Error: Username character disallowed by auth_username_chars: 0x7e"""
    allowed = dovecot_conf("-h", "auth_username_chars").stdout.strip()
    chars = [*map(chr, range(33, 127))]
    named = [char for char in chars if names.address(f"a{char}b@example.com")]
    assert len(named) > 60
    assert not {*named} - {*allowed}


# DKIMproxy


@pytest.fixture(params=[case for case in CASES if case[2] == "dkimproxy"], ids="-".join)
def proxied(request, written):
    return written(*request.param)


def test_dkimproxy_signs_each_domain_with_its_key_and_nothing_else(proxied):
    table = dict(line.split(" ", 1) for line in entries(proxied.files["keyfiles"]))
    tagged = ["user1example.com", "postmasterexample.com", "abuseexample.com", "users2example.com"]
    tagged += ["users3test.com", "postmastertest.com", "abusetest.com"]
    assert list(table) == ["example.com", "test.com", *tagged]
    options = {
        key: dict(item.split("=", 1) for item in value[len("dkim(") : -1].split(", "))
        for key, value in table.items()
    }
    keys = {
        chunk["name"]
        for chunk in proxied.machine.low(dkim={"signer": "dkimproxy"})
        if chunk["fun"] == "key_present"
    }
    assert {proxied.machine.bare(key) for key in keys} == {o["key"] for o in options.values()}
    assert all(o["a"] == "rsa-sha256" and o["s"] == "mailsrv" for o in options.values())
    # The domain itself for what is below it, such as a satellite: DMARC takes that for aligned.
    assert all(options[domain]["d"] == domain for domain in ("example.com", "test.com"))
    for key in tagged:
        assert options[key] == options["test.com" if key.endswith("test.com") else "example.com"]
    assert all(f"/{domain}/" in options[domain]["key"] for domain in ("example.com", "test.com"))


def test_dkimproxy_stands_between_the_two_ports_of_smtpd(proxied):
    (file,) = [text for name, text in proxied.at.items() if name.endswith("dkimproxy_out.conf")]
    settings = dict(line.split(" ", 1) for line in conf(file))
    assert (settings["listen"], settings["relay"]) == ("127.0.0.1:10027", "127.0.0.1:10028")
    assert settings["sender_map"] in proxied.at
    assert "reject_error" not in settings  # which has no effect in there
    started = [text for name, text in proxied.at.items() if name.endswith("dkimproxy_out.service")]
    assert all(" --reject-error\n" in text for text in started)
    if proxied.system == "FreeBSD":
        flags = proxied.machine.state(
            "mailsrv-rc-dkimproxy_out_flags", dkim={"signer": "dkimproxy"}
        )
        assert flags["contents"] == 'dkimproxy_out_flags="--reject-error"'
    assert settings["user"] == settings["group"] == "dkimproxy"


def test_dkimproxy_starts_with_its_numbers_of_servers(proxied):
    """Net::Server::PreFork: "Error: Value for min_spare_servers must be less than …" """
    text = proxied.files["dkimproxy_out.conf"]
    numbers = {k: int(v) for k, v in re.findall(r"^(\w+_servers) (\d+)$", text, re.M)}
    assert numbers["min_spare_servers"] <= numbers["min_servers"] <= numbers["max_servers"]
    assert numbers["min_spare_servers"] < numbers["max_spare_servers"] < numbers["max_servers"]


def test_the_init_script_is_shell(minion):
    machine = minion(grains=(("init", "sysvinit"),))
    files = machine.files("mailsrv.dkimproxy", dkim={"signer": "dkimproxy"})
    script = files["/etc/init.d/dkimproxy_out"]
    assert script.startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert machine.state("mailsrv-dkimproxy-unit", dkim={"signer": "dkimproxy"})["mode"] == "0755"


# The next run


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], indirect=True, ids="-".join)
def test_the_same_pillar_again_changes_nothing(case):
    assert not any(case.machine.write(dkim={"signer": case.signer}).values())
