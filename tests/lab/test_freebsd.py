"""
A machine that is shaped like FreeBSD: the formula with Salt's modules of FreeBSD, its paths, its
rc(8), pkg(8), pw(8) and sysrc(8). See docs/testing.md for what of it is real.
"""

import uuid

import pytest

from lab import HEAD, NS
from server import arrived, signed_by
from test_signers import OFFLINE, ORDINARY, SOMEBODY, leaving
from wire import until


def running(server, service):
    """The process ID of a service by its script; empty where it does not run."""
    said = server.machine.run(f"service {service} onestatus", check=False).stdout
    return said.rpartition(" pid ")[2].strip(".\n") if " is running " in said else ""


def planned(server):
    """What a run would change, which the run itself then must."""
    would = server.highstate("test=True")
    done = server.highstate()
    assert would.keys() == done.keys()
    assert server.highstate() == {}
    return done


def test_a_second_run_changes_nothing_and_nobody_saw_a_secret(bsd):
    assert "The mail server runs" in bsd.output
    assert (bsd.again, bsd.seen) == ([], [])


def test_salt_has_its_modules_of_freebsd(bsd):
    grains = bsd.salt("grains.item", "kernel", "os_family", "osmajorrelease", "init")
    assert grains == {"kernel": "FreeBSD", "os_family": "FreeBSD", "osmajorrelease": 14, "init": ""}
    assert {"smtpd", "dovecot", "dkimproxy_out", "syslogd"} <= {*bsd.salt("service.get_all")}
    assert bsd.salt("pkg.version", "opensmtpd") > "7"
    assert bsd.salt("sysrc.get", "name=smtpd_enable") == {"/etc/rc.conf": {"smtpd_enable": "YES"}}
    assert bsd.salt("user.info", "_smtpd")["name"] == "_smtpd"


def test_no_group_is_called_root(bsd):
    assert bsd.machine.run("getent group root", check=False).returncode
    assert bsd.machine.run("stat -c %G /usr/local/etc/mail/smtpd.conf").stdout == "wheel\n"


def test_the_own_check_finds_nothing(bsd):
    assert bsd.faults() == {}


def test_mail_comes_in(bsd):
    user = next(iter(bsd.accounts))
    assert bsd.wait(user, bsd.deliver([user]))


def test_mail_goes_out_signed_by_dkimproxy(bsd, lab, sink):
    for domain, message in leaving(bsd, sink).items():
        assert signed_by(lab, message) == {domain}


def test_mail_of_local_programs_goes_by_mailwrapper_and_is_signed(bsd, lab, sink):
    subject, domain = str(uuid.uuid4()), bsd.pillar["domains"][0]
    head = f"From: root <cron@{domain}>\nTo: {SOMEBODY}\nSubject: {subject}\n"
    bsd.machine.run(["sendmail", "-t"], input=f"{head}\nhello\n")
    (envelope,) = arrived(sink, subject)
    assert signed_by(lab, envelope.content) == {domain}


@pytest.mark.parametrize("service", ["smtpd", "dovecot", "dkimproxy_out"])
def test_a_daemon_that_was_killed_runs_again_after_the_next_run(bsd, service):
    bsd.machine.run("service cron stop")  # or it would be there first
    bsd.machine.run(f"kill -9 {running(bsd, service)}")
    assert not running(bsd, service)
    assert service in [state["name"] for state in planned(bsd).values()]
    assert running(bsd, service)
    bsd.machine.run("service cron start")


def test_what_was_edited_is_as_it_was_after_the_next_run(bsd):
    before = bsd.machine.get("/usr/local/etc/mail/smtpd.conf")
    bsd.machine.run(
        "echo '# mine' >>/usr/local/etc/mail/smtpd.conf; chmod 777 /usr/local/etc/mail/vdomains;"
        " sysrc dovecot_enable=NO; rm /usr/local/etc/cron.d/mailsrv-purge"
        " /usr/local/etc/rc.conf.d/dkimproxy_out"
    )
    assert {
        "mailsrv-opensmtpd-config",
        "mailsrv-opensmtpd-vdomains",
        "mailsrv-dovecot-service",
        "mailsrv-dovecot-purge",
        "mailsrv-dkimproxy-service",
    } <= planned(bsd).keys()
    assert bsd.machine.get("/usr/local/etc/mail/smtpd.conf") == before


def test_what_a_key_has_brought_goes_with_it(bsd):
    job = "/usr/local/etc/cron.d/mailsrv-watch"
    domain = bsd.pillar["domains"][0]
    with bsd.having(notify=f"kim@{domain}", aliases={f"sales@{domain}": f"kim@{domain}"}):
        assert bsd.highstate() == {}
        assert bsd.machine.get(job)
        bsd.wait(f"kim@{domain}", bsd.deliver([f"sales@{domain}"]))
    assert bsd.machine.run(f"test -e {job}", check=False).returncode
    assert bsd.highstate() == {}


def test_rspamd_signs_and_looks_at_what_comes_in(bsd, lab, sink):
    lab.dns.serve("rspamd.com", HEAD)
    user = next(iter(bsd.accounts))
    bsd.machine.run("pkg install -y rspamd")
    for module in OFFLINE:
        bsd.machine.put(f"/usr/local/etc/rspamd/local.d/{module}.conf", "enabled = false;\n")
    with bsd.having(dkim={"signer": "rspamd"}, spam_filter=True):
        assert bsd.highstate() == {}
        assert not running(bsd, "dkimproxy_out")
        for domain, message in leaving(bsd, sink).items():
            assert signed_by(lab, message) == {domain}
        message = bsd.wait(user, bsd.deliver([user], **ORDINARY))
        assert b"Authentication-Results: " in message
        assert bsd.faults() == {}
        # Its workers live on, and keep its port.
        bsd.machine.run(f"service cron stop; kill -9 {running(bsd, 'rspamd')}")
        assert bsd.highstate().keys() == {"mailsrv-rspamd-service"}
        # One that starts beside it writes the pidfile, and ends.
        command = "/usr/local/bin/rspamd -c /usr/local/etc/rspamd/rspamd.conf -u rspamd -g rspamd"
        bsd.machine.run(command)
        until(lambda: not running(bsd, "rspamd"), 60, "the second one does not end")
        assert bsd.highstate().keys() == {"mailsrv-rspamd-service"}
        assert bsd.faults() == {}
        bsd.machine.run("service cron start")
    assert not running(bsd, "rspamd")
    assert running(bsd, "dkimproxy_out")
    assert bsd.highstate() == {}


def test_dkimsign_signs_for_each_domain_that_shows_its_key(bsd, lab, sink, name_servers):
    """It has one key for all domains; who comes to it from another signer has none published."""
    nameservers = [f"{name}.provider.example" for name in NS]
    first, second = bsd.pillar["domains"]
    with bsd.having(dkim={"signer": "dkimsign"}, dns={"nameservers": nameservers}):
        signers = {d: signed_by(lab, message) for d, message in leaving(bsd, sink).items()}
        assert signers == {first: {first}, second: {first}}
        bsd.publish()
        for domain in first, second:
            for server in name_servers:
                server.serve(domain, bsd.salt("mailsrv.zone", domain))
        assert f"{bsd.facts['dkim']['directory']}/rsa.signing" in bsd.highstate()
        for domain, message in leaving(bsd, sink).items():
            assert signed_by(lab, message) == {domain}
        assert bsd.highstate() == {}
    bsd.publish()


def test_after_a_reboot_all_runs(bsd):
    bsd.machine.reboot()
    until(bsd.takes_mail, 60, "port 25 does not answer")
    assert all(running(bsd, name) for name in ("smtpd", "dovecot", "dkimproxy_out"))
    assert bsd.highstate() == {}
    user = next(iter(bsd.accounts))
    assert bsd.wait(user, bsd.deliver([user]))
