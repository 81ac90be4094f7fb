"""One copy of each module, in every delivery, documented."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "salt_mailsrv"
BY_HAND = ("tests/lab/record", "tests/lab/kills", "tests/lab/upgrade")
KINDS = {
    "modules": "_modules",
    "output": "_output",
    "runners": "_runners",
    "states": "_states",
}
FILES = [*PACKAGE.glob("_modules/*.py"), *PACKAGE.glob("_states/*.py")]
MODULES = sorted(path for path in FILES if not path.name.startswith("_"))


def name(path):
    return f"{path.parent.name}/{path.name}"


def public_functions():
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield pytest.param(path, node, id=f"{name(path)}:{node.name}")


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_file_has_its_link_in_the_file_root_and_every_link_its_file(kind):
    """A link for each file: gitfs does not see through a linked directory."""
    root, top = PACKAGE / kind, PACKAGE / "states" / kind
    links = {
        path.relative_to(top): path for path in top.rglob("*") if "__pycache__" not in path.parts
    }
    files = {path.relative_to(root) for path in root.rglob("*") if "__pycache__" not in path.parts}
    assert links.keys() == files
    for name in files:
        link = links[name]
        if link.is_dir():
            assert not link.is_symlink()
            continue
        up = Path(*[".."] * (len(name.parts) + 1))
        assert link.readlink() == up / kind / name
        assert link.read_bytes() == (root / name).read_bytes()


@pytest.mark.parametrize(("link", "kind"), KINDS.items())
def test_the_package_holds_the_modules_by_a_link(link, kind):
    assert (ROOT / "src/saltext/mailsrv" / link).resolve() == PACKAGE / kind


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_complete_in_itself(path):
    """One that is synced from a file server finds what has a private name beside it, no more."""
    siblings = {module.stem for module in MODULES} | {"saltext"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module.split(".")[0] not in siblings
        elif isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & siblings


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_has_the_name_of_its_file(path):
    """lazy_loader_strict_matching looks no further than the file's name."""
    assert f'__virtualname__ = "{path.stem}"' in path.read_text()


@pytest.mark.parametrize(("path", "function"), [*public_functions()])
def test_every_function_shows_how_it_is_called(path, function):
    doc = ast.get_docstring(function)
    if function.name.startswith("__"):
        return
    if path.parent.name == "_modules":
        example = doc.partition("CLI Example:")[2]
        # A PEM would be an option without the two dashes.
        assert re.search(rf"salt-call (-- )?{path.stem}[.]", example) or (
            "salt-call state.apply" in doc
        )
    else:
        assert f"{path.stem}.{function.name}:" in doc.partition(".. code-block:: yaml")[2]
    arguments = [argument.arg for argument in function.args.args]
    undocumented = [a for a in arguments if not re.search(rf"\b{a}\b", doc)]
    assert not undocumented


def test_the_version_is_the_newest_of_the_changelog():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


def test_on_freebsd_the_package_brings_what_salt_3008_no_longer_has():
    """'service' and 'sysrc' are not available there: both went to saltext.freebsd."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = ast.literal_eval(re.search(r"^dependencies = (\[.*?\])$", text, re.M | re.S)[1])
    for_freebsd = [
        requirement.name
        for requirement in map(Requirement, listed)
        if requirement.marker and requirement.marker.evaluate({"platform_system": "FreeBSD"})
    ]
    assert "saltext.freebsd" in for_freebsd


@pytest.mark.parametrize("path", ["bench/compare", "bench/runs", "bench/year", *BY_HAND])
def test_what_is_run_by_hand_starts(path):
    """Its names had moved, and nobody had started it since."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}/bench:{ROOT}/tests/lab"}
    ran = subprocess.run(
        [sys.executable, ROOT / f"{path}.py", "--help"], env=env, text=True, stdout=-1
    )
    assert (ran.returncode, ran.stdout[:6]) == (0, "usage:")
