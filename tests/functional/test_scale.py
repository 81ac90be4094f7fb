"""Ten thousand accounts and ten thousand aliases."""

import json
import os

import pytest

NUMBER = 10_000


@pytest.fixture(scope="module")
def large(minion, pillar):
    accounts = [[f"user{n}@example.com", f"pass{n}"] for n in range(NUMBER)]
    aliases = {
        f"alias{n}@example.com": [f"user{n}@example.com", f"user{(n + 1) % NUMBER}@example.com"]
        for n in range(NUMBER)
    }
    settings = {"aliases": aliases, "passwords": {"rounds": 1000}}
    text = {"domains": ["example.com"], "accounts": accounts, "mailsrv": settings}
    return minion(pillar=pillar(f"#!json\n{json.dumps(text)}"))


def test_a_large_pillar_is_linted_and_rendered_and_the_next_run_changes_nothing(large):
    assert large("mailsrv.lint") == []
    lines = {os.path.basename(name): text.count("\n") for name, text in large.files().items()}
    roles = 2
    assert lines["virtuals"] == lines["recipients"] - 1 == 2 * NUMBER + roles + 1
    assert lines["credentials"] == lines["dovecot-passwd"] == lines["sendas"] == NUMBER + 1
    assert not any(large.write().values())


def test_a_large_pillar_is_explained(large):
    said = large("mailsrv.explain", "alias9999@example.com")
    assert said["delivered to"] == ["user9999@example.com", "user0@example.com"]
