"""Several mail machines of one pillar tree: each its own domains, by its name."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = "minion"  # the id that the fixture gives it
OWN = {
    "mx1.example.com": {"example.com": ["user1@example.com", "hunter2"]},
    "mx2.example.net": {"example.net": ["user2@example.net", "swordfish"]},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What the comment in pillar.example/top.sls shows, with the files that it names."""
    directory = tmp_path_factory.mktemp("pillar")
    (directory / "mail").mkdir()
    example = (ROOT / "pillar.example/top.sls").read_text()
    shown = re.sub(r"^# ?", "", example[example.index("# base:") :], flags=re.M)
    (directory / "top.sls").write_text(shown)
    (directory / "mail/common.sls").write_text("mailsrv: {quota: 5G}\n")
    for name, accounts in OWN.items():
        pillar = {"domains": [*accounts], "accounts": [*accounts.values()]}
        (directory / f"mail/{name.partition('.')[0]}.sls").write_text(json.dumps(pillar))
    return str(directory)


@pytest.mark.parametrize("name", OWN)
def test_a_machine_gets_its_own_domains_and_nothing_of_anothers(minion, tree, name):
    machine = minion(pillar=tree, id=name, grains=(("fqdn", name),))
    pillar = json.dumps(machine("pillar.raw"))
    written = "".join(t for file, t in machine.files().items() if not file.endswith(".py"))
    assert machine("mailsrv.lint") == []
    for other, accounts in OWN.items():
        for domain, (address, password) in accounts.items():
            for text in (domain, address):
                assert (text in written) is (text in pillar) is (other == name)
            assert (password in pillar) is (other == name)
            assert password not in written


@pytest.mark.parametrize("name", OWN)
def test_what_the_machines_share_is_written_once(minion, tree, name):
    machine = minion(pillar=tree, id=name, grains=(("fqdn", name),))
    ((address, _),) = OWN[name].values()
    assert machine("mailsrv.explain", address)["quota"] == {address: "5G"}


def test_a_machine_of_another_name_gets_nothing(minion, tree):
    assert minion(pillar=tree, id="web.example.com")("pillar.raw") == {}


def test_a_zone_that_cannot_be_made_anew_stays_and_one_of_nobody_goes(minion, pillar, program):
    machine = minion(
        pillar=pillar(f"""
mailsrv:
  nsd:
    machines: {{{HOST}: [example.com, example.net]}}
    nameservers: [ns1.example.org]
""")
    )
    good = [{"name": "example.com.", "type": "TXT", "value": "v=spf1 mx -all"}]
    bad = [{"name": "example.net.", "type": "TXT", "value": '"'}]
    machine("data.update", "mine_cache", {"mailsrv.dns": {"example.com": good, "example.net": bad}})
    directory = machine.at("/var/lib/nsd/mailsrv")
    directory.mkdir(parents=True)
    for domain in ("example.net", "example.edu"):
        (directory / f"{domain}.zone").write_text("as it was")

    low = machine("state.show_low_sls", "mailsrv.nsd")
    (refused,) = [chunk for chunk in low if chunk["state"] == "test"]
    assert refused["name"] == "example.net: '\"' is not the value of a record 'TXT'"
    (config,) = [chunk for chunk in low if chunk["__id__"] == "mailsrv-nsd-config"]
    assert config["context"]["served"] == ["example.com", "example.net"]

    result = machine("state.high", dict(map(file_state, files(low, directory, program))))
    assert not [state["comment"] for state in result.values() if not state["result"]]
    assert {file.name for file in directory.iterdir()} == {"example.com.zone", "example.net.zone"}
    assert (directory / "example.net.zone").read_text() == "as it was"
    assert "ns1.example.org." in (directory / "example.com.zone").read_text()


def files(low, directory, program):
    """The states of the zone files, with the real check and without the package before them."""
    for chunk in low:
        if chunk["state"] == "file" and chunk["name"].startswith(str(directory)):
            chunk["require"] = [need for need in chunk["require"] if "file" in need]
            if "check_cmd" in chunk:
                chunk["check_cmd"] = f"{program('nsd-checkzone')} {chunk['check_cmd'].split()[1]}"
            yield chunk


def file_state(chunk):
    known = {"name", "contents", "mode", "makedirs", "clean", "exclude_pat", "check_cmd", "require"}
    arguments = [{key: chunk[key]} for key in known & chunk.keys()]
    return chunk["__id__"], {"file": [chunk["fun"], *arguments]}
