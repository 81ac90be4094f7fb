"""A real NSD serves what two mail machines put into the mine of a real master."""

import json
import os
import socket
import subprocess
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="keys are made for root: run as root")

NS1 = "ns1.example.org"
MX2 = "mx2.example.net"
MX1 = "mx1.example.com"
OWNED = {MX1: ["example.com"], MX2: ["example.net"]}
HOSTS = {"example.com": "mx1.example.com", "example.net": MX2}
# What a state needs to write a file or to run a command here.
KEPT = {
    *("name", "contents", "source", "template", "context", "mode", "makedirs", "check_cmd"),
    *("clean", "exclude_pat", "require"),
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
    (server / "etc/nsd/nsd.conf").write_text(f"""
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
    daemon = subprocess.Popen([program("nsd"), "-d", "-c", server / "etc/nsd/nsd.conf"])

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
def published(fleet, salt, make_keys):
    """Both mail machines have made their key and put their records into the mine."""
    for name in HOSTS.values():
        make_keys(name)
    assert salt("mx*", "mine.update") == dict.fromkeys(HOSTS.values(), True)


@pytest.fixture(scope="module")
def owners(pillar_tree, salt):
    """Say in the pillar of the DNS minion who owns what."""
    with (pillar_tree / "top.sls").open("a") as top:
        top.write(f"  {NS1}: [mail.ns1]\n")

    def write(machines, run=True):
        pillar = {"mailsrv": {"nsd": {"machines": machines}}}
        (pillar_tree / "mail/ns1.sls").write_text(json.dumps(pillar))
        if run:
            salt(NS1, "saltutil.refresh_pillar", "wait=True")

    write(OWNED, run=False)
    return write


@pytest.fixture(scope="module")
def apply(ask, owners, published, add_minion, salt, server, program):
    """
    Apply mailsrv.nsd on the DNS minion, but for package and service: the IDs that changed, and
    what failed.
    """
    add_minion(NS1, programs=os.path.dirname(program("nsd")))
    salt(NS1, "saltutil.sync_all")
    commands = {
        '"nsd-control ': f'"{program("nsd-control")} -c {server}/etc/nsd/nsd.conf ',
        '"nsd-check': f'"{program("nsd-checkzone").removesuffix("zone")}',
    }

    def run(*failing):
        states, failed = {}, []
        for chunk in salt(NS1, "state.show_low_sls", "mailsrv.nsd"):
            if chunk["state"] == "file":
                arguments = {key: chunk[key] for key in KEPT & chunk.keys()}
                if "require" in arguments:
                    arguments["require"] = [need for need in chunk["require"] if "file" in need]
                states[chunk["__id__"]] = {"file": [chunk["fun"], *_each(arguments)]}
            if chunk["fun"] == "fail_without_changes":
                failed.append(chunk["name"])
            if chunk["state"] == "daemon":
                # The service is not this machine's: what it would be told is told by hand.
                for file, command in chunk.get("update", {}).items():
                    told = {"name": command, "onchanges": [{"file": file}], "order": "last"}
                    states[f"told {os.path.basename(file)}"] = {"cmd": ["run", *_each(told)]}
        text = json.dumps(states)
        for command, here in commands.items():
            text = text.replace(command, here)
        result = salt(NS1, "state.high", json.loads(text), "test=False").values()
        assert not [state["comment"] for state in result if not state["result"]]
        assert len(failed) == len(failing), failed
        for part, said in zip(failing, failed, strict=True):
            assert part in said
        return {state["__id__"] for state in result if state["changes"]}

    return run


def _each(arguments):
    return [{key: value} for key, value in arguments.items()]


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


def test_the_zones_of_all_machines_are_served_and_only_what_changed_is_loaded(
    apply, owners, change, ask
):
    def serial(domain):
        return ask(domain, "SOA").answer[0][0].serial

    apply()
    for domain, host in HOSTS.items():
        assert str(ask(domain, "MX").answer[0][0]) == f"10 {host}."
        assert str(ask(domain, "NS").answer[0][0]) == f"{NS1}."
        assert b"v=DKIM1" in ask(f"mailsrv._domainkey.{domain}", "TXT").answer[0][0].strings[0]
    before = {domain: serial(domain) for domain in HOSTS}

    change("[example.net]", "[example.net, example.edu]")
    assert apply() == {"mailsrv-nsd-zone-example.net", "told example.net.zone"}
    assert ask("example.edu", "MX").rcode() == dns.rcode.REFUSED
    owners(OWNED | {MX2: ["example.net", "example.edu"]})
    told = {"told mailsrv.conf", "told example.edu.zone"}
    assert apply() == {"mailsrv-nsd-zone-example.edu", "mailsrv-nsd-config", *told}
    assert str(ask("example.edu", "MX").answer[0][0]) == "10 mx.example.net."
    assert serial("example.net") > before["example.net"]
    assert serial("example.com") == before["example.com"]

    # It stays until the pillar of the DNS machine takes it away, too.
    change("", "")
    assert apply("example.edu: mx2.example.net has published no records of it") == set()
    assert str(ask("example.edu", "MX").answer[0][0]) == "10 mx.example.net."
    owners(OWNED)
    gone = {"mailsrv-nsd-directory", "mailsrv-nsd-config", "told mailsrv.conf"}
    assert apply() == gone
    assert ask("example.edu", "MX").rcode() == dns.rcode.REFUSED
    assert str(ask("example.net", "MX").answer[0][0]) == "10 mx.example.net."


def mx(name, host="mx.attacker.example."):
    return {"name": name, "type": "MX", "value": f"0 {host}"}


@pytest.fixture
def send(ask_master):
    """Send it to the mine in the name of a minion, with the keys of MX2: what that answers."""

    def publish(name, listed):
        return ask_master(MX2, cmd="_mine", id=name, data={"mailsrv.dns": listed})

    return publish


@pytest.fixture
def hostile(salt, send):
    """A minion of ours that has been taken over: publish whatever `mine.send` can."""

    def publish(listed):
        assert send(MX2, listed) is True

    yield publish
    assert salt(MX2, "mine.update") is True


def test_a_machine_gets_nothing_that_is_not_its_own(apply, ask, hostile, owners):
    """And what it publishes keeps no other zone from being brought up to date."""
    owners(OWNED)
    apply()
    before = ask("example.net", "MX").answer[0].to_text()
    names = ["example.com", "mail.example.com", "_domainkey.example.com", "com", ".", "*", "a/../b"]
    names += ["mailsrv._domainkey.example.com", "xn--e1afmkfd.example.com", "x" * 5000]
    hostile({name: [mx(f"{name}.")] for name in names} | {"example.net": [mx("example.com.")]})
    assert apply() == {"mailsrv-nsd-zone-example.net", "told example.net.zone"}
    for name in ("example.com", "mail.example.com", "_domainkey.example.com"):
        assert "attacker" not in ask(name, "MX").to_text()
    assert not ask("example.net", "MX").answer  # it has none of its own any more

    hostile({"example.net": [mx("example.net.", "mx2.example.net.")]})
    apply()
    before = ask("example.net", "MX").answer[0].to_text()
    deep = []
    for _ in range(200):
        deep = [deep]
    for listed in (
        *([mx(name)] for name in ("*.example.net.", "\\046.example.net.", "x.EXAMPLE.net.")),
        [{"name": "example.net.", "type": "CNAME", "value": "example.com."}],
        [{"name": "example.net.", "type": "NS", "value": "ns.attacker.example."}],
        [{"name": "example.net.", "type": "TXT", "value": 'a"\n$INCLUDE /etc/shadow\n; '}],
        [{"name": "$INCLUDE", "type": "/etc/shadow", "value": ""}],
        deep,
        "a" * 5_000_000,
        b"\xff\x00",
        {},
        5,
    ):
        hostile({"example.net": listed, "\u0435xample.com": listed})
        assert apply("example.net: ") == set()
        assert ask("example.net", "MX").answer[0].to_text() == before
    hostile("no mapping")
    assert apply("example.net: mx2.example.net has published no records of it") == set()


@pytest.mark.usefixtures("apply")  # whose minion reads the mine
def test_nobody_publishes_in_anothers_name(send, salt):
    before = salt(NS1, "mine.get", MX1, "mailsrv.dns")
    own = salt(MX2, "mine.get", MX2, "mailsrv.dns")[MX2]
    assert send(MX2, own) is True  # in its own name it may
    assert send(MX1, {"example.com": [mx("example.com.")]}) is not True
    assert salt(NS1, "mine.get", MX1, "mailsrv.dns") == before
    assert "example.com" in before[MX1]


def test_a_million_records_keep_nobody_from_being_served(apply, ask, change, hostile, salt):
    hostile({"example.net": [mx("example.net.")] * 1_000_000})
    began = time.monotonic()
    assert apply("example.net: ") == set()
    assert time.monotonic() - began < 60
    assert "attacker" not in ask("example.net", "MX").to_text()
