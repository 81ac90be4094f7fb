"""What a run writes it looks at: faulty files, owners and modes are found and put right."""

import json

import pytest

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
    names = [
        *states(server, "file", "managed"),
        *keys,
        *(chunk["public"] for chunk in keys.values()),
        *states(server, "dkim", "signing"),
    ]

    def found():
        command = ["stat", "--format=%n %U %G %a", *names]
        return server.machine.run(command).stdout.splitlines()

    before = found()
    for change in (["chmod", "0777"], ["chmod", "0000"], ["chown", "nobody:nogroup"]):
        server.machine.run([*change, *names])
        server.highstate()
        assert found() == before, change
    assert server.highstate() == {}


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
