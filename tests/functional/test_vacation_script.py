"""What is answered for who is away: whatever the text is, Sieve reads it and nothing else."""

import re
import subprocess

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ODD = st.sampled_from(
    ['"', "\\", '\\"', "\n.\n", "\n..\n", "text:", "${x}", "*/", "#", "{{ x }}", "%}"]
)
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])
TEXTS = st.lists(ODD | st.text(LETTERS, max_size=5), min_size=1, max_size=20).map("".join)
TEXTS = TEXTS.filter(str.strip)


def strings(script):
    """The quoted strings of a script (RFC 5228, section 2.4.2)."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', script, re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) for text in found]


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=st.lists(TEXTS, min_size=20, max_size=20))
def test_a_text_is_answered_as_it_stands(minion, program, suite, tmp_path, texts):
    machine = minion(packages=(("dovecot-core", "1:2.4.1"),), id="vacation")
    accounts = {
        f"a{n}@example.com": {
            "password": "x",
            "vacation": {"text": text, "subject": re.sub(r"\s", " ", text).strip() or "x"},
        }
        for n, text in enumerate(texts)
    }
    source = {"source": "salt://mailsrv/dovecot/vacation.sieve", "template": "jinja"}
    states = {
        name: {
            "file": ["managed", {"name": str(tmp_path / f"{n}.sieve")}]
            + [{key: value} for key, value in {**source, "context": {"address": name}}.items()]
        }
        for n, name in enumerate(accounts)
    }
    pillar = {"domains": ["example.com"], "accounts": accounts}
    assert all(ran["result"] for ran in machine("state.high", states, pillar=pillar).values())
    for n, name in enumerate(accounts):
        found = strings((tmp_path / f"{n}.sieve").read_text())
        assert found[-1] == texts[n].strip("\n")
        assert found[3] == accounts[name]["vacation"]["subject"]
    ran = subprocess.run([program("sievec", suite), tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
