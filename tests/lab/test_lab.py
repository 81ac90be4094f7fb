"""The lab itself does what the tests in it take for granted."""

import smtplib
import socket

import pytest

from lab import HEAD

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(lab, request):
    machine = lab.machine(request.param, f"{request.param}.example.org")
    lab.dns.serve("example.org", HEAD + f"{request.param} A {machine.address}\n")
    yield machine
    machine.stop()


def test_a_machine_boots_without_a_failed_unit(machine):
    assert machine.run("systemctl --failed --no-legend").stdout == ""
    assert machine.run("hostname -f").stdout.strip() == machine.fqdn


def test_apt_reaches_the_mirror(machine):
    update = machine.run("apt-get update")
    assert "Get:1" in update.stdout
    assert update.stderr == ""


def test_nothing_but_the_web_is_reached_beyond_the_lab(machine):
    mail = machine.run(["bash", "-c", "</dev/tcp/192.0.2.1/25"], check=False, timeout=10)
    assert "unreachable" in mail.stderr


def test_a_machine_resolves_our_zone_as_it_is_now_and_the_outside(lab, machine):
    for address in ("192.0.2.1", "192.0.2.2"):
        lab.dns.serve("changing.example", HEAD + f"www A {address}\n")
        assert machine.run("getent ahostsv4 www.changing.example").stdout.startswith(address)
    assert machine.run("getent hosts deb.debian.org").stdout
    assert lab.outside.fqdn in machine.run(["getent", "hosts", lab.outside.address]).stdout
    assert [str(record) for record in lab.lookup("www.changing.example", "A")] == ["192.0.2.2"]
    assert lab.lookup("nothing.changing.example", "A") == []


def test_a_broken_zone_is_refused_and_the_old_one_kept(lab, machine):
    with pytest.raises(ValueError, match="refuses the zone"):
        lab.dns.serve("example.org", HEAD + "www A not-an-address\n")
    assert machine.run(["getent", "ahostsv4", machine.fqdn]).stdout.startswith(machine.address)


def test_the_outside_and_a_machine_reach_each_other(lab, machine):
    """Out of the machine into the sink, and by name from outside to a port of the machine."""
    there = lab.host(f"there.{machine.fqdn}")
    relay = f"/usr/lib/systemd/systemd-socket-proxyd {there.address}:25"
    machine.run("systemd-run --socket-property=ListenStream=25 --unit=mail " + relay)
    with there.sink() as sink:
        with lab.outside.call(smtplib.SMTP, machine.fqdn, 25, timeout=10) as smtp:
            smtp.sendmail("a@example.org", ["b@elsewhere.example"], "Subject: hello\n\nhello\n")
        (envelope,) = sink.wait()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@example.org", ["b@elsewhere.example"])
    assert b"hello" in envelope.content
    with pytest.raises(socket.gaierror):
        lab.outside.call(socket.create_connection, ("nobody.example.org", 25))


def test_a_reboot_keeps_the_disk(machine):
    machine.put("/srv/kept/note", "kept\n")
    before = machine.run("cat /proc/sys/kernel/random/boot_id").stdout
    machine.reboot()
    assert machine.get("/srv/kept/note") == "kept\n"
    assert machine.run("cat /proc/sys/kernel/random/boot_id").stdout != before


def test_the_checkout_arrives_with_its_links(machine):
    machine.install_checkout("/srv/checkout")
    assert machine.run("cd /srv/checkout && test -f pyproject.toml && find . -type l").stdout


def test_a_command_of_a_machine_is_cut_off_and_reported(machine):
    assert machine.run("sleep 9", timeout=1, check=False).returncode == 124
    with pytest.raises(AssertionError, match="no such thing"):
        machine.run("echo no such thing >&2; exit 3")
