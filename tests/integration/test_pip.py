"""The extension as pip installs it: every form of the package, each into a venv of its own."""

import subprocess
import sys

import pytest

MODULES = {"dkim", "mailcheck", "mailsrv", "password"}
FORMS = ["wheel", "sdist", "wheel of the sdist", "git", "editable"]
# What brings the libraries that Salt itself does not.
LIBRARIES = ("passlib", "pycryptodome-", "^Crypto$")


@pytest.fixture(scope="session")
def forms(repository, short_tmp):
    """What pip is given for each form."""
    tree = repository.removeprefix("file://")
    dist = short_tmp / "dist"
    for command in (
        ["-m", "build", "--outdir", dist / "of-sdist", tree],
        ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", dist, tree],
    ):
        ran = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("of-sdist/*.tar.gz")
    (second,) = dist.glob("of-sdist/*.whl")
    arguments = [[wheel], [sdist], [second], [f"git+{repository}"], ["--editable", tree]]
    return dict(zip(FORMS, arguments, strict=True))


@pytest.fixture(scope="session")
def installed(forms, make_venv, salt_call_of):
    """Install a form into a venv, where some libraries are not there yet: its salt-call."""

    def install(form, *options, less=(), **minion):
        python, _ = make_venv(*less)
        # The build that `forms` made was isolated; once is enough.
        command = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", *options]
        ran = subprocess.run([*command, *forms[form]], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return salt_call_of(python, **minion)

    return install


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_every_module(installed, form):
    call = installed(form)
    assert "saltext.mailsrv: 0.1.0" in call("--versions-report", out=None)
    assert set(call("sys.list_modules")) >= MODULES
    assert call("sys.list_state_functions", "dkim") == [
        "dkim.key_present",
        "dkim.remembered",
        "dkim.signing",
    ]


def test_pip_brings_what_the_modules_need(installed):
    call = installed("wheel", less=LIBRARIES)
    assert call("password.hash", "pass1", "aoiuasdfhalsdfiuyh").startswith("$6$aoiuasdfhalsdfiu$")
    assert len(call("dkim.generate", "1024")) == 2


def test_without_its_libraries_every_module_loads_and_says_what_to_install(installed):
    call = installed("wheel", "--no-deps", less=LIBRARIES)
    assert set(call("sys.list_modules")) >= MODULES
    said = call("password.hash", "pass1", out="txt", status=1)
    assert "passlib is missing where Salt runs; install it with: salt-pip install passlib" in said
    # pycryptodomex, which Salt brings itself, will do.
    assert len(call("dkim.generate", "1024")) == 2


def test_of_two_deliveries_the_synced_one_is_used(installed, short_tmp):
    modules = short_tmp / "newer/_modules"
    modules.mkdir(parents=True)
    (modules / "password.py").write_text('def hash(pw):\n    return "synced"\n')
    call = installed("wheel", file_roots={"base": [str(modules.parent)]})
    assert call("password.hash", "pass1").startswith("$6$")
    assert call("saltutil.sync_all")["modules"] == ["modules.password"]
    assert call("password.hash", "pass1") == "synced"
    # What was not synced is still the installed one.
    assert len(call("dkim.generate", "1024")) == 2
