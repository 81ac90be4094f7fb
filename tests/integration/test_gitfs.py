"""One entry in gitfs_remotes serves states and modules, from a branch and from a tag."""

from pathlib import Path

import pytest

LIBRARIES = {"gitpython": "git", "pygit2": "pygit2"}


@pytest.fixture
def salt_call(repository, make_venv, salt_call_of):
    """salt-call of a masterless minion with the formula by gitfs from a provider and reference."""

    def configure(provider, reference, backends=("gitfs",), **options):
        pytest.importorskip(LIBRARIES[provider], reason=f"{provider} is not installed here")
        remote = [
            {"root": "salt_mailsrv/states"},
            {"base": reference},
            {"disable_saltenv_mapping": True},
        ]
        return salt_call_of(
            make_venv()[0],
            fileserver_backend=[*backends],
            gitfs_provider=provider,
            gitfs_remotes=[{repository: remote}],
            **options,
        )

    return configure


@pytest.mark.parametrize("reference", ["stable", "v0.1.0"])
@pytest.mark.parametrize("provider", LIBRARIES)
def test_one_entry_serves_states_and_modules(salt_call, provider, reference):
    call = salt_call(provider, reference)
    assert call("cp.envs") == ["base"]
    synced = call("saltutil.sync_all")
    files = Path(__file__).parents[2].glob("salt_mailsrv/_states/*.py")
    assert synced["states"] == sorted(f"states.{file.stem}" for file in files)
    assert synced["output"] == ["output.mailsrv"]
    assert {"modules.dkim", "modules.mailsrv", "modules.password"} <= set(synced["modules"])
    low = call("state.show_low_sls", "mailsrv")
    assert {"dkim.key_present", "file.managed", "pkg.installed", "daemon.running"} <= {
        f"{chunk['state']}.{chunk['fun']}" for chunk in low
    }


@pytest.mark.parametrize(("name", "top"), [("mx1", {"base": ["mailsrv"]}), ("web", {})])
def test_a_top_file_of_your_own_keeps_other_machines_out(salt_call, tmp_path, name, top):
    (tmp_path / "top.sls").write_text("base: {'mx*': [mailsrv]}\n")
    roots = {"base": [str(tmp_path)]}
    call = salt_call("gitpython", "main", ["roots", "gitfs"], file_roots=roots, id=name)
    assert call("state.show_top") == top
