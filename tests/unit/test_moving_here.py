"""What a machine notes of a domain that moves, while others note theirs."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import moving

DOMAINS = ["example.org", "example.edu"]
FIRST = {"way": "to", "peer": "mx2.example.net", "phase": "here"}


@pytest.fixture
def facts(tmp_path):
    known = {"kept": str(tmp_path / "kept"), "directory": str(tmp_path / "etc")}
    for directory in known.values():
        os.mkdir(directory)
    (tmp_path / "kept/moving.json").write_text(json.dumps(dict.fromkeys(DOMAINS, FIRST)))
    return known


def phases(facts):
    with open(f"{facts['kept']}/moving.json") as file:
        return {domain: record["phase"] for domain, record in json.load(file).items()}


def test_two_domains_that_move_at_once_do_not_put_each_other_back(facts):
    begin = threading.Barrier(2)

    def note(domain):
        begin.wait()
        for phase in ("frozen", "here") * 20 + ("gone",):
            moving._note(facts, domain, {"phase": phase})
            moving._tell_deliver(facts, domain, phase)
            assert phases(facts)[domain] == phase

    with ThreadPoolExecutor() as pool:
        list(pool.map(note, DOMAINS))
    assert phases(facts) == dict.fromkeys(DOMAINS, "gone")
    with open(f"{facts['directory']}/moving") as file:
        assert sorted(file.read().splitlines()) == [f"{d} gone" for d in sorted(DOMAINS)]


def test_what_smtpd_could_not_be_told_is_not_noted(facts):
    for hostname, certificate in ("mx2.example.net\nlisten", ""), ("mx2.example.net", "x"):
        known = {"phase": "gone", "hostname": hostname, "certificate": certificate}
        with pytest.raises(CommandExecutionError, match="is not noted: what it says of"):
            moving._note(facts, DOMAINS[0], known)
    assert phases(facts) == dict.fromkeys(DOMAINS, "here")


def test_what_was_never_noted_is_not_noted_in_the_middle(facts):
    with pytest.raises(CommandExecutionError, match=r"has no example\.com: run the h"):
        moving._note(facts, "example.com", {"phase": "frozen"})


def test_who_delivers_without_a_lock_is_seen_until_he_ends(facts):
    """As smtpd.conf starts it: by a shell, which becomes perl."""
    program = f"{sys.executable} -c 'input()' 'do q({facts['directory']}/deliver)'"
    assert moving._deliveries(facts) == set()
    with subprocess.Popen(["/bin/sh", "-c", f"exec {program}"], stdin=subprocess.PIPE) as one:
        (found,) = moving._deliveries(facts)
        assert found.pid == one.pid
        one.communicate(b"\n")
    assert moving._deliveries(facts) == set()


def test_to_look_whether_somebody_delivers_holds_up_nobody(facts):
    path = f"{facts['directory']}/moving"
    with open(path, "w") as delivery, open(path) as freeze:
        assert not moving._is_held(freeze)
        fcntl.flock(delivery, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert moving._is_held(freeze)
