"""What a mail machine has others know of it: what is noted of it on the disk."""

import json
import os

import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="files are root's: run as root")


@pytest.fixture
def mined(minion, pillar, tmp_path):
    """Publish in the mine, which without a master is a file of Salt's."""
    text = "domains: [a.example]\naccounts: [[u@a.example, pw]]\n"
    text += "mailsrv: {tls: {cert: /etc/a.crt, key: /etc/a.key}}\n"
    text += "mine_functions: {backup_mx.recipients: []}\n"
    machine = minion(id="mined", pillar=pillar(text))
    notes = tmp_path / "mined.json"

    def publish(test=False):
        return machine.state_function("mailsrv.mined", test)(str(notes))

    publish.notes, publish.machine = notes, machine
    return publish


def test_it_is_published_once_and_again_when_the_notes_are_none(mined):
    assert (mined(test=True)["result"], mined(test=True)["changes"]) == (None, {})
    assert not mined.notes.exists()
    assert mined()["changes"] == {"backup_mx.recipients": "published"}
    cache = mined.machine("data.get", "mine_cache")
    assert cache["backup_mx.recipients"]["domains"]["a.example"][0] == "abuse"
    assert (mined()["result"], mined()["changes"], mined(test=True)["result"]) == (True, {}, True)
    assert mined.notes.stat().st_mode & 0o777 == 0o600
    assert "abuse" not in mined.notes.read_text()
    for damaged in "", "[7", "[7]", "null", json.dumps({"backup_mx.recipients": 5}):
        mined.notes.write_text(damaged)
        assert mined()["changes"] == {"backup_mx.recipients": "published"}
        assert mined()["changes"] == {}
