"""What a run writes it looks at: faulty files, owners and modes are found and put right."""

import contextlib
import imaplib
import itertools
import json

import pytest

from server import CHECKOUT
from wire import until

pytestmark = pytest.mark.lab

# Neither a setting of any daemon nor a script of any language.
NONSENSE = "}{ this is nonsense ((\n"


def states(server, *kind):
    """The states of a run of that kind, by name."""
    low = server.salt("state.show_lowstate")
    return {chunk["name"]: chunk for chunk in low if (chunk["state"], chunk["fun"]) == kind}


@pytest.fixture
def checked(server):
    """The files that a program checks before they are taken, and what calls it."""
    return {
        name: chunk["check_cmd"]
        for name, chunk in states(server, "file", "managed").items()
        if "check_cmd" in chunk
    }


def contents(server, names):
    return {name: server.machine.get(name) for name in names}


def test_another_salt_of_the_machine_keeps_what_it_has(server):
    """Both syncing into one directory, each deleted the modules of the other."""
    theirs = "/var/cache/salt/minion/extmods/modules/theirs.py"
    server.machine.put(theirs, "def there():\n    return True\n")
    server.salt("saltutil.sync_all")
    assert server.machine.get(theirs)
    assert server.machine.run("ls /etc/salt", check=False).stdout == ""


def test_modules_are_those_of_the_checkout_whoever_synced_others(server):
    """After `git pull`, new states ran with the modules of the bootstrap before."""
    old = "def old():\n    return True\n"
    for place in "extmods", "synced":
        server.machine.put(f"/var/cache/salt-mailsrv/{place}/modules/mailsrv.py", old)
    assert server.highstate() == {}
    assert set(server.salt("saltutil.sync_all")["modules"]) == set()
    assert server.salt("sys.list_functions", "mailsrv.old") == []
    module = f"{CHECKOUT}/salt_mailsrv/_modules/mailsrv.py"
    text = server.machine.get(module)
    server.machine.put(module, f"{text}\n\ndef pulled():\n    return True\n")
    pulled = server.salt("mailsrv.pulled")
    server.machine.put(module, text)
    assert pulled is True


def test_every_daemon_refuses_a_faulty_file(server, checked):
    assert {"/etc/smtpd.conf", "/etc/dovecot/dovecot.conf"} < checked.keys()
    before = contents(server, checked)
    taken = []
    for name, check in checked.items():
        call = ["state.single", "file.managed", f"name={name}", f"check_cmd={check}"]
        result = server.salt(*call, f"contents={json.dumps(NONSENSE)}", check=False)
        (state,) = result.values()
        taken += [name] * (state["result"] is not False)
    assert taken == []
    assert contents(server, checked) == before


def test_a_faulty_file_in_place_is_replaced(server, checked):
    before = contents(server, checked)
    for name in checked:
        server.machine.put(name, NONSENSE)
    server.highstate()
    assert contents(server, checked) == before
    assert server.highstate() == {}


def test_owners_and_modes_are_put_right(server):
    """A loose srs.conf made every further run fail; most others stayed as they were."""
    keys = states(server, "dkim", "key_present")
    certificates = states(server, "certificate", "self_signed")
    names = [
        *states(server, "file", "managed"),
        *states(server, "mailsrv", "password_key"),
        *states(server, "mailsrv", "srs_key"),
        *certificates,
        *(chunk["key"] for chunk in certificates.values()),
        *keys,
        *(chunk["public"] for chunk in keys.values()),
        *states(server, "dkim", "signing"),
    ]

    def found():
        command = ["stat", "--format=%n %U %G %a", *names]
        return server.machine.run(command).stdout.splitlines()

    before = found()
    assert {"/etc/mail/password.key", "/etc/mail/srs.conf"} < {*names}
    for change in (["chmod", "0777"], ["chmod", "0000"], ["chown", "nobody:nogroup"]):
        server.machine.run([*change, *names])
        server.highstate()
        assert found() == before, change
    assert server.highstate() == {}


AFTER = {
    "quota": "3G",
    "limits": {"messages": 900},
    "sieve": 'require "fileinto";\nif header "Subject" "nothing" { fileinto "Archive"; }',
    "subaddress": "mailbox",
}


@pytest.fixture
def changing(server):
    """
    Two pillars that differ in all kinds: the server's own, and one with a domain, an account and an
    alias more, one account less, and settings of every daemon.
    """
    domain = next(iter(server.pillar["domains"]))
    accounts = server.pillar["accounts"]
    after = {
        **server.pillar,
        "domains": [*server.pillar["domains"], "more.example"],
        "accounts": [*accounts[:-1], ["new@more.example", "new pass"]],
        "mailsrv": {
            **server.pillar.get("mailsrv", {}),
            **AFTER,
            "aliases": {f"fresh@{domain}": "new@more.example"},
        },
    }
    gone = accounts[-1][0]
    server.accounts["new@more.example"] = "new pass"
    yield server.pillar, after, gone
    del server.accounts["new@more.example"]
    server.write_pillar(server.pillar)
    server.highstate()


def everything(server, names, gone):
    """What a machine is: its files, what its daemons take, who is let in and who is in."""
    command = ["stat", "--format=%n %U %G %a", *names]
    services = "systemctl show -p ActiveState,UnitFileState,NeedDaemonReload opensmtpd dovecot"
    with server.smtp() as smtp:
        smtp.ehlo()
        smtp.mail("somebody@elsewhere.example")
        taken = [smtp.rcpt(to)[0] for to in (gone, "new@more.example", "ghost@more.example")]
    let_in = []
    for address in (gone, "new@more.example"):
        with contextlib.suppress(imaplib.IMAP4.error):
            server.imap(address).logout()
            let_in.append(address)
    who = server.machine.run("doveadm who -1").stdout
    return {
        "files": contents(server, names),
        "modes": server.machine.run(command).stdout,
        "services": server.machine.run(services).stdout,
        "recipients": taken,
        "logins": let_in,
        "sessions": gone in who,
    }


def test_a_run_that_was_killed_is_repaired_by_the_next(server, changing, request):
    """Green runs over a dead server: what hung on a change was lost with the run that made it."""
    before, after, gone = changing
    pillars = {"after": after, "before": before}
    wanted, names = {}, [*states(server, "file", "managed"), "/etc/dovecot/sieve/global.svbin"]
    for which, pillar in pillars.items():
        server.write_pillar(pillar)
        ran = sorted(server.salt("state.highstate").values(), key=lambda s: s["__run_num__"])
        changed = [state["name"] for state in ran if state["changes"]]
        wanted[which] = everything(server, names, gone)
    assert len(changed) > 10
    assert wanted["after"]["recipients"] == [550, 250, 550]
    assert wanted["before"]["recipients"] == [250, 550, 550]
    # Every fourth one, to and fro, beginning elsewhere on each release.
    some = changed[request.node.callspec.indices["server"] :: 4]
    for name, which in zip(some, itertools.cycle(pillars)):
        session = server.imap(gone) if which == "after" else contextlib.nullcontext()
        server.write_pillar(pillars[which])
        assert server.kill_run(f"Completed state [{name}]")
        server.highstate()
        assert everything(server, names, gone) == wanted[which], (name, which)
        with contextlib.suppress(imaplib.IMAP4.abort, OSError), session:
            pass
    assert server.highstate("test=True") == {}


def test_a_daemon_that_does_not_come_up_gets_back_what_it_had(server):
    """And the run fails with the daemon's own words, while mail goes on."""
    path = "/etc/smtpd.conf"
    before = server.machine.get(path)
    # Valid, and impossible: an address that this machine has not.
    call = ["state.single", "daemon.running", "name=opensmtpd", "record=/run/mailsrv/opensmtpd"]
    call += [f"restart=[{path}]", f"keep={{{path}: /var/lib/mailsrv/smtpd.conf}}"]
    call += ["ready=smtpctl show status", "port=25", "patience=5"]
    server.machine.put(path, f"{before}\nlisten on 192.0.2.77 port 2525\n")
    (state,) = server.salt(*call, check=False).values()
    assert state["result"] is False
    assert "smtpd: bind: Cannot assign requested address" in state["comment"]
    assert state["changes"]["put back"] == [path]
    assert server.machine.get(path) == before
    with server.smtp() as smtp:
        assert smtp.ehlo()[0] == 250
    server.highstate()
    assert server.highstate() == {}


def test_a_daemon_runs_with_what_stands_on_the_disk_whoever_restarted_it(server):
    """An administrator's edit that is gone from the file was still in the daemon."""
    table = "/etc/mail/vdomains"
    before = server.machine.get(table)
    server.machine.put(table, f"{before}stray.example\n")
    server.machine.run("smtpctl update table vdomains")
    assert server.highstate()["mailsrv-opensmtpd-service"]["changes"]["updated"] == [table]
    server.machine.put(table, f"{before}stray.example\n")
    server.machine.run("systemctl restart opensmtpd && sleep 3")
    server.machine.put(table, before)
    changed = server.highstate()["mailsrv-opensmtpd-service"]["changes"]
    assert table in changed.get("restarted", changed.get("updated"))
    server.machine.run("systemctl disable --now dovecot && systemctl kill -s STOP opensmtpd")
    changed = server.highstate()
    assert changed["mailsrv-dovecot-service"]["changes"] == {"enabled": True, "started": True}
    assert "restarted" in changed["mailsrv-opensmtpd-service"]["changes"]
    assert server.highstate() == {}
    assert server.faults() == {}


def test_a_timer_waits_as_its_files_say(server):
    unit = "/etc/systemd/system/mailsrv-purge.timer"
    server.machine.run("systemctl disable --now mailsrv-purge.timer")
    assert "mailsrv-dovecot-purge" in server.highstate("test=True")
    changed = server.highstate()
    assert changed["mailsrv-dovecot-purge"]["changes"] == {"enabled": True, "started": True}
    server.machine.run(f"sed -i s/^OnCalendar=.*/OnCalendar=yearly/ {unit}")
    server.machine.run("systemctl daemon-reload && systemctl restart mailsrv-purge.timer")
    changed = server.highstate()
    assert changed["mailsrv-dovecot-purge"]["changes"] == {"unit": "read again"}
    shown = server.machine.run("systemctl show -p TimersCalendar mailsrv-purge.timer").stdout
    assert "03:00:00" in shown
    assert server.highstate() == {}


def test_a_mail_server_that_comes_back_is_stopped_again(server):
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    server.machine.put("/etc/systemd/system/sendmail.service", unit)
    server.machine.run("systemctl daemon-reload && systemctl enable --now sendmail")
    assert "mailsrv-stock-mta-sendmail" in server.highstate("test=True")
    changes = server.highstate()["mailsrv-stock-mta-sendmail"]["changes"]
    active = server.machine.run("systemctl is-active sendmail", check=False).stdout
    server.machine.run("rm /etc/systemd/system/sendmail.service && systemctl daemon-reload")
    assert (changes, active) == ({"stopped": True, "disabled": True}, "inactive\n")
    assert server.highstate() == {}


@pytest.fixture
def renamed(one):
    """A machine whose provider, or DNS that is away, gives it another name for a while."""
    name, address = "ip-10-0-0-1.ec2.internal", one.machine.address
    before = one.machine.get("/etc/hosts"), one.machine.run("hostname").stdout.strip()
    one.machine.put("/etc/hosts", f"127.0.0.1 localhost\n{address} {name} ip-10-0-0-1\n")
    one.machine.run("hostname ip-10-0-0-1")
    assert one.salt("grains.get", "fqdn") == name
    yield one
    one.machine.put("/etc/hosts", before[0])
    one.machine.run(["hostname", before[1]])


def test_a_machine_that_is_called_otherwise_stays_the_same_mail_server(renamed):
    """Certificate, MX and addresses of bounces got the other name."""
    assert renamed.highstate() == {}
    (note,) = renamed.salt("mailsrv.lint")
    assert note.startswith("this machine's own name is ip-10-0-0-1.ec2.internal; ")


@pytest.fixture
def few(one):
    """A server whose pillar has lost all accounts but one; a function that adds to `mailsrv:`."""
    pillar = {**one.pillar, "accounts": one.pillar["accounts"][:1]}
    one.write_pillar(pillar)
    yield lambda **settings: one.write_pillar({**pillar, "mailsrv": settings})
    one.write_pillar(one.pillar)
    one.highstate()
    for address in one.accounts:
        one.imap(address).logout()


def test_most_accounts_go_only_with_a_word_in_the_pillar(one, few):
    command, tables = (
        ["salt-call", "state.highstate"],
        ["/etc/mail/credentials", "/etc/mail/sendas"],
    )
    before = contents(one, tables)
    kept, *gone = one.accounts
    refused = one.machine.run(command, check=False)
    assert refused.returncode
    assert f"accounts: {len(gone)} of the {len(one.accounts)} accounts on this" in refused.stdout
    assert contents(one, tables) == before

    few(removes=len(gone))
    planned = {*one.highstate("test=True")}
    said = one.machine.run(command).stdout
    assert all(address in said for address in gone)
    assert {"mailsrv-dovecot-removed", "mailsrv-dovecot-passwd"} <= planned
    one.imap(kept).logout()
    for address in gone:
        with pytest.raises(Exception, match="AUTHENTICATIONFAILED"):
            one.imap(address)
    (note,) = one.salt("mailsrv.lint")
    assert note.startswith(f"mailsrv:removes: {len(gone)} is not needed; ")
    assert one.highstate() == {}


def test_what_is_expunged_gives_its_space_back(server, user):
    """mdbox notes it and keeps it: 50 MB stayed 50 MB."""
    local, _, domain = user.partition("@")
    used = f"du -sk /var/vmail/{domain}/{local}/mdbox/storage"
    before = int(server.machine.run(used).stdout.split()[0])
    text = ("0123456789abcdef" * 4 + "\r\n") * 16000
    with server.imap(user) as imap:
        imap.create("Large")
        for _ in range(5):
            imap.append("Large", None, None, f"Subject: large\r\n\r\n{text}".encode())
        assert int(server.machine.run(used).stdout.split()[0]) > before + 5000
        imap.delete("Large")
    assert server.machine.run("systemctl is-active mailsrv-purge.timer").stdout == "active\n"

    def given_back():
        # Once, after many kills, it ended with 1: who sees that again needs its words.
        purge = "systemctl start mailsrv-purge; journalctl -n 5 -o cat -u mailsrv-purge; sleep 3"
        print(server.machine.run(purge).stdout)
        return int(server.machine.run(used).stdout.split()[0]) < before + 1000

    until(given_back, 60, "purged, the mailbox stays as large as it was")


def test_an_upgrade_is_announced_and_a_machine_that_is_not_ready_says_so(server):
    ready = server.salt("mailcheck.upgrade", "free=0")
    assert not [text for text in ready.values() if "FAULT" in text], ready
    server.machine.run("apt-mark hold openssl")
    held = server.salt("mailcheck.upgrade", "free=1000000", check=False)
    server.machine.run("apt-mark unhold openssl")
    assert {key for key, text in held.items() if "FAULT" in text} == {"held packages", "disk of /"}
    assert "openssl" in held["held packages"]


def reinstall(server, *packages, check=True):
    command = ["apt-get", "install", "-y", "--reinstall", *packages]
    server.machine.run(command, check=check, env={"DEBIAN_FRONTEND": "noninteractive"})


def test_packages_installed_once_more_change_nothing(server):
    server.machine.run("apt-get update")
    reinstall(server, "opensmtpd", "dovecot-core", "dovecot-sieve")
    assert server.highstate() == {}
    assert server.faults() == {}


def test_a_dovecot_that_its_file_kept_half_configured_is_mended(server):
    """As Debian 13 left it: the file was of 2.3, and nothing could be installed any more."""
    machine = server.machine
    machine.run("echo 'protocols = nonsense' > /etc/dovecot/dovecot.conf")
    reinstall(server, "dovecot-sieve", check=False)  # dovecot-core restarts Dovecot for it
    assert "dovecot-core" in machine.run("dpkg --audit").stdout
    would = server.highstate("test=True")
    assert {"mailsrv-dovecot-config-unpacked", "mailsrv-dovecot-configured"} <= would.keys()
    assert "dovecot-core" in machine.run("dpkg --audit").stdout
    server.highstate()
    assert machine.run("dpkg --audit").stdout == ""
    assert server.highstate() == {}
    assert server.faults() == {}
