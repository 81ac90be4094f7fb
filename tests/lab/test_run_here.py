"""
`./run-tests tests/here`, as an administrator of a server runs it: on a Debian 12, on a Debian 13,
and on what is shaped like FreeBSD.
"""

import pytest

from server import CHECKOUT
from stock import everywhere

pytestmark = [pytest.mark.lab, pytest.mark.again]


@pytest.fixture(scope="module")
def looked(server):
    """A server; `look` runs it there and returns how it ended, and the report."""

    def look(*arguments):
        run = ["sh", "-c", f'cd {CHECKOUT} && exec ./run-tests tests/here "$@"', "sh", *arguments]
        done = server.machine.run(run, check=False)
        report = server.machine.get(f"{CHECKOUT}/here-report.txt")
        assert report in done.stdout
        return done.returncode, report

    server.look = look
    return server


@everywhere
def test_all_of_it_holds_and_the_report_tells_nothing(looked):
    server, user = looked, next(iter(looked.accounts))
    before = {name: server.mailboxes(name) for name in server.accounts}
    status, report = server.look()
    assert status == 0, report
    assert "DID NOT HOLD ==" not in report
    kept = [*server.accounts.values(), *server.accounts, *server.pillar["domains"]]
    kept += [server.machine.fqdn, server.machine.address, str(server.pillar["salt"])]
    assert [text for text in kept if text in report] == []
    after = {name: server.mailboxes(name) for name in server.accounts}
    for name, folders in before.items():
        assert {f: after[name][f] for f in folders} == folders
    assert not server.machine.run("smtpctl show queue").stdout
    with server.managesieve(user) as sieve:
        assert sieve.active() is None
    assert server.highstate() == {}


@pytest.mark.parametrize("server", ["bsd"], ids=["freebsd"], indirect=True, scope="session")
def test_what_does_not_hold_is_told(looked):
    server = looked
    passwords = f"{server.facts['dovecot']['directory']}/dovecot-passwd"
    server.machine.run(["chmod", "o+r", passwords])
    try:
        status, report = server.look("-k", "secrets or a_run")
        assert status == 1
        lines = report.splitlines()
        lines = lines[lines.index("== DID NOT HOLD ==") : lines.index("== versions ==")]
        told = "\n".join(lines)
        assert "secrets cannot be read by others" in told
        assert "a run would change nothing" in told
        assert "run the highstate first" in told
        assert server.machine.run(["stat", "-c", "%a", passwords]).stdout == "644\n"
    finally:
        assert "mailsrv-dovecot-passwd" in server.highstate()
