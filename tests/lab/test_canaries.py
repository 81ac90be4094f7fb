"""
No secret is where others read it: while a run is on, in what it says, in what it leaves.

Others are the users of the machine, and whoever is shown a log, a return or a job's result.
"""

import re

import pytest
import yaml

from spy import Spy

pytestmark = pytest.mark.lab

WORDS = ["kanarienvogel-eins #{1}", "kanarienvogel-zwei", "kanarienvogel-drei", "kanariensalz0123"]
FAULTY = "kanarienvogel\x07vier"
HASH = "$6$kanarienhash$" + "Ka" * 43
PATTERNS = "/root/canaries"


def secrets(server):
    """The server's passwords, their hashes, and lines of its keys that no public key has."""
    found = [*server.accounts.values()]
    for file in "credentials", "srs.conf":
        found += re.findall(r"\$\S{60,}|[0-9a-f]{48}", server.machine.get(f"/etc/mail/{file}"))
    for file in "tls/*.key", "dkim/*.private":
        found += server.machine.run(f"cat /etc/mail/{file}").stdout.splitlines()[-9:-3]
    assert len(found) > 16
    return found


def places(server, words):
    """Where these words are kept and should not be: files, and the journal."""
    machine = server.machine
    machine.run(["sh", "-c", f"umask 077; cat > {PATTERNS}"], input="\n".join(words) + "\n")
    where = "find /etc /home /opt /root /run /tmp /usr/local /var -xdev"
    grep = f"xargs -0 grep -laF -f {PATTERNS}"
    kept = machine.run(
        f"{where} ! -path '/opt/salt-mailsrv/lib/*' -type f -perm -o=r -size -4M -print0 | {grep};"
        f"find /var/cache/salt-mailsrv /var/log -type f ! -path '*/journal/*' -print0 | {grep};"
        f"journalctl --no-pager -o export | grep -qaF -f {PATTERNS} && echo the journal;"
        f"rm {PATTERNS}"
    )
    return kept.stdout.splitlines()


def leftovers(server):
    """The names of what stands where runs write."""
    return server.machine.run("find /etc/mail /etc/dovecot /root /tmp /var/tmp | sort").stdout


def run(server, pillar, *arguments):
    """All that a run says, with everything that Salt can say."""
    server.write_pillar(pillar)
    command = ["salt-call", "-l", "debug", "--log-file-level=debug", "state.highstate", *arguments]
    ran = server.machine.run(command, check=False)
    return ran.stdout + ran.stderr


def test_the_spy_sees_what_is_open_for_a_moment(server):
    """A file, one that is renamed, one that is opened up, and an argument."""
    write = "umask {}; echo kanarienvogel > /etc/mail/{}; "
    moment = "sleep 0.02; "
    with Spy(server.machine, "kanarienvogel") as spy:
        server.machine.run(
            write.format("022", "one") + moment + "rm /etc/mail/one;"
            "mkdir /tmp/new;" + moment + write.format("022", "../../tmp/new/x")
            + "mv /tmp/new/x /etc/mail/two;" + moment + "rm -r /etc/mail/two /tmp/new;"
            + write.format("077", "three") + "chmod 644 /etc/mail/three;"
            + moment + "rm /etc/mail/three; sh -c 'sleep 0.1; true' kanarienvogel"
        )  # fmt: skip
    for name in "/etc/mail/one", "/etc/mail/two", "/etc/mail/three", "an argument":
        assert any(name in sentence for sentence in spy.seen), name


def test_the_first_run_showed_nothing(server):
    assert server.seen == []
    shown = [word for word in secrets(server) if word in server.output]
    made_here = server.pillar_file.startswith("/srv/salt-mailsrv")
    assert {*shown} == ({*server.accounts.values()} if made_here else set())


def test_nothing_is_kept_that_is_secret(server):
    assert places(server, secrets(server)) == []


def test_a_run_shows_nothing_whatever_comes_of_it(server):
    """A dry one, one that changes, one that fails at a check, and one that refuses its pillar."""
    domain = server.pillar["domains"][0]
    before = leftovers(server)

    def pillar(word, **settings):
        accounts = [
            *server.pillar["accounts"],
            [f"canary@{domain}", word],
            {"address": f"hashed@{domain}", "hash": HASH},
        ]
        mailsrv = {**server.pillar.get("mailsrv", {}), **settings}
        return {**server.pillar, "accounts": accounts, "salt": WORDS[-1], "mailsrv": mailsrv}

    try:
        with Spy(server.machine, *WORDS, FAULTY, *secrets(server)) as spy:
            said = [
                run(server, pillar(WORDS[0]), "test=True"),
                run(server, pillar(WORDS[1], srs={"key": "canary"})),
                run(server, pillar(WORDS[2], sieve='fileinto "News";\n')),
                run(server, pillar(FAULTY)),
            ]
        made = secrets(server)
    finally:
        server.write_pillar(server.pillar)
        server.highstate()
    assert spy.seen == []
    assert "fileinto" in said[2]
    assert f"canary@{domain}" in said[3]
    words = [*WORDS, "kanarienvogel", HASH, *made]
    assert [(word, text[:200]) for text in said for word in words if word in text] == []
    assert places(server, words) == []
    assert leftovers(server) == before


def test_the_pillar_that_bootstrap_makes_is_for_root_alone(two):
    assert yaml.safe_load(two.machine.get(two.pillar_file))["salt"]
    shown = two.machine.run(f"stat -c %a {two.pillar_file}").stdout
    assert shown == "600\n"
