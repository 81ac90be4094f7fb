"""A real NSD serves what two mail machines put into the mine of a real master."""

import json
import os
import socket
import subprocess

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="keys are made for root: run as root")

NS1 = "ns1.example.org"
MX2 = "mx2.example.net"
HOSTS = {"example.com": "mx1.example.com", "example.net": MX2}
# What a state needs to write a file or to run a command here.
KEPT = {
    *("name", "contents", "source", "template", "context", "mode", "makedirs", "check_cmd"),
    *("clean", "exclude_pat", "require", "onchanges"),
}


@pytest.fixture(scope="module")
def server(short_tmp):
    """The directory of the DNS minion's machine."""
    return short_tmp / "machines" / NS1


@pytest.fixture(scope="module")
def ask(program, server):
    """NSD, configured as Debian does it: ask it."""
    (server / "etc/nsd/nsd.conf.d").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (server / "nsd.conf").write_text(f"""
server:
    ip-address: 127.0.0.1
    port: {port}
    username: ""
    pidfile: ""
    zonesdir: {server}
    logfile: {server}/log
    xfrdfile: {server}/xfrd.state
    xfrdir: {server}
    zonelistfile: {server}/zone.list
remote-control:
    control-enable: yes
    control-interface: {server}/control
include: "{server}/etc/nsd/nsd.conf.d/*.conf"
""")
    daemon = subprocess.Popen([program("nsd"), "-d", "-c", server / "nsd.conf"])

    def ask(name, kind):
        query = dns.message.make_query(name, kind)
        for _ in range(50):
            try:
                return dns.query.udp(query, "127.0.0.1", port=port, timeout=1)
            except (OSError, dns.exception.Timeout):
                assert daemon.poll() is None
        raise TimeoutError((server / "log").read_text())

    ask("example.com", "SOA")
    yield ask
    daemon.terminate()
    daemon.wait()


@pytest.fixture(scope="module")
def published(fleet, salt):
    """Both mail machines have made their key and put their records into the mine."""
    for name in HOSTS.values():
        for state in salt(name, "state.show_low_sls", "mailsrv.genkeys"):
            if state["fun"] == "key_present":
                arguments = [f"{key}={state[key]}" for key in ("name", "public", "selector")]
                salt(name, "state.single", "dkim.key_present", *arguments, "test=False")
    assert salt("mx*", "mine.update") == dict.fromkeys(HOSTS.values(), True)


@pytest.fixture(scope="module")
def apply(ask, published, add_minion, salt, server, program):
    """Apply mailsrv.nsd on the DNS minion, but for package and service: the IDs that changed."""
    add_minion(NS1)
    salt(NS1, "saltutil.sync_all")
    commands = {
        '"nsd-control ': f'"{program("nsd-control")} -c {server}/nsd.conf ',
        '"nsd-check': f'"{program("nsd-checkzone").removesuffix("zone")}',
    }

    def run():
        states = {}
        for chunk in salt(NS1, "state.show_low_sls", "mailsrv.nsd"):
            if chunk["state"] in ("file", "cmd"):
                arguments = {key: chunk[key] for key in KEPT & chunk.keys()}
                for key in arguments.keys() & {"require", "onchanges"}:
                    arguments[key] = [need for need in arguments[key] if {*need} <= {"file", "cmd"}]
                states.setdefault(chunk["__id__"], {})[chunk["state"]] = [
                    chunk["fun"],
                    *({key: value} for key, value in arguments.items()),
                ]
        text = json.dumps(states)
        for command, here in commands.items():
            text = text.replace(command, here)
        result = salt(NS1, "state.high", json.loads(text), "test=False").values()
        assert not [state["comment"] for state in result if not state["result"]]
        return {state["__id__"] for state in result if state["changes"]}

    return run


@pytest.fixture
def change(pillar_tree, salt):
    """Change the pillar of a mail machine, and so the mine; in the end all is as before."""
    users = pillar_tree / "mail/mx2.sls"
    old = users.read_text()

    def write(text):
        users.write_text(text)
        salt(MX2, "saltutil.refresh_pillar", "wait=True")
        assert salt(MX2, "mine.update") is True

    yield lambda *replaced: write(old.replace(*replaced) + "mailsrv: {hostname: mx.example.net}\n")
    write(old)


def test_the_zones_of_all_machines_are_served_and_only_what_changed_is_loaded(apply, change, ask):
    def serial(domain):
        return ask(domain, "SOA").answer[0][0].serial

    apply()
    for domain, host in HOSTS.items():
        assert str(ask(domain, "MX").answer[0][0]) == f"10 {host}."
        assert str(ask(domain, "NS").answer[0][0]) == f"{NS1}."
        assert b"v=DKIM1" in ask(f"mailsrv._domainkey.{domain}", "TXT").answer[0][0].strings[0]
    before = {domain: serial(domain) for domain in HOSTS}

    change("[example.net]", "[example.net, example.edu]")
    zones = {f"mailsrv-nsd-zone-{domain}" for domain in ("example.net", "example.edu")}
    assert apply() == {*zones, "mailsrv-nsd-config", "mailsrv-nsd-reconfig"}
    assert str(ask("example.edu", "MX").answer[0][0]) == "10 mx.example.net."
    assert serial("example.net") > before["example.net"]
    assert serial("example.com") == before["example.com"]

    change("", "")
    assert apply() == {"mailsrv-nsd-directory", "mailsrv-nsd-config", "mailsrv-nsd-reconfig"}
    assert ask("example.edu", "MX").rcode() == dns.rcode.REFUSED
    assert str(ask("example.net", "MX").answer[0][0]) == "10 mx.example.net."
