"""Several mail machines of one pillar tree: each its own domains, by its name."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    written = "".join(machine.files().values())
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
