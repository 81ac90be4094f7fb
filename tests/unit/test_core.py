"""The core is what it says: arguments in, results out; and no module is too long to be read."""

import ast
import inspect
import re
import sys

import pytest

from reading import ROOT

MODULES = ROOT / "salt_mailsrv/_modules"
CORE = sorted((MODULES / "_mailsrv").glob("*.py"))
# Of the commands, half is what `salt-call sys.doc` prints.
LENGTHS = {**dict.fromkeys(CORE, 450), MODULES / "mailsrv.py": 780, MODULES / "mailcheck.py": 600}

# What reaches a disk, another process, the network or the clock. DNS is asked by one module.
OUTSIDE = {
    *("asyncio", "fcntl", "glob", "http", "pathlib", "pwd", "shutil", "socket", "sqlite3", "ssl"),
    *("subprocess", "tempfile", "urllib", "requests", "salt", "dns", "threading", "concurrent"),
    *("time", "datetime", "random", "logging"),
}
RESOLVING = {"salt", "dns", "socket", "time", "concurrent"}
# Of what else may reach there: the parts that do not.
PARTS = {
    "os": {"path"},
    "os.path": {"basename", "commonprefix", "dirname", "join", "normpath", "split", "splitext"},
    "email.utils": {"formatdate", "make_msgid"},  # a message has its time
    "secrets": {"choice"},
    "hashlib": {"sha256"},
}
CALLS = {"open", "exec", "eval", "__import__", "input", "print", "breakpoint", "globals"}


def impurities(source, outside=OUTSIDE):
    """What in the text of a module is no function of its arguments, each with its line."""
    tree = ast.parse(source)
    whole = {}  # what a name stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                whole[name] = alias.name if alias.asname else name
                if alias.name.partition(".")[0] in outside:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            if node.module.partition(".")[0] in outside:
                yield node.lineno, f"from {node.module} import"
            for alias in node.names:
                whole[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if alias.name not in PARTS.get(node.module, {alias.name}):
                    yield node.lineno, f"from {node.module} import {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id in CALLS or re.fullmatch("__.+__", node.id):
                yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            path = ast.unparse(node.value)
            first, dot, rest = path.partition(".")
            path = f"{whole.get(first, f'?{first}')}{dot}{rest}"
            if node.attr not in PARTS.get(path, {node.attr}):
                yield node.lineno, f"{path}.{node.attr}"
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield node.lineno, "global"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_reaches_nothing_but_its_arguments(path):
    outside = OUTSIDE - RESOLVING if path.name == "resolve.py" else OUTSIDE
    assert [*impurities(path.read_text(), outside)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = __salt__['cmd.run']", "__salt__"),
        ("def f():\n    return __pillar__", "__pillar__"),
        ("open('/etc/passwd')", "open"),
        ("import os\nos.listdir('/')", "os.listdir"),
        ("import os\nos.path.exists('/')", "os.path.exists"),
        ("import os as o\no.environ", "os.environ"),
        ("import os.path\nos.getcwd()", "os.getcwd"),
        ("from os import path\npath.realpath('/')", "os.path.realpath"),
        ("from os.path import exists", "from os.path import exists"),
        ("from os import environ", "from os import environ"),
        ("import subprocess", "import subprocess"),
        ("import socket", "import socket"),
        ("import time", "import time"),
        ("from time import time", "from time import"),
        ("from salt.exceptions import CommandExecutionError", "from salt.exceptions import"),
        ("import hashlib\nhashlib.file_digest", "hashlib.file_digest"),
        ("def f():\n    global x", "global"),
    ],
)
def test_what_reaches_further_is_found(source, found):
    assert found in [what for _, what in impurities(source)]


def test_what_reaches_no_further_is_left_alone():
    source = "import os\nimport re\n\ndef f(time, open_):\n    return os.path.join(time.os, re.sub)"
    assert [*impurities(source)] == []


@pytest.mark.parametrize("path", LENGTHS, ids=lambda path: path.name)
def test_a_module_is_short_enough_to_be_read(path):
    assert len(path.read_text().splitlines()) <= LENGTHS[path]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_every_module_and_every_public_function_of_the_core_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_the_tests_import_the_core_that_the_commands_import():
    from _mailsrv import pillar

    from saltext.mailsrv.modules import mailsrv

    assert sys.modules["_mailsrv.pillar"] is pillar
    assert inspect.getmodule(mailsrv.accounts) is sys.modules["_mailsrv.accounts"]


def test_our_dkim_does_not_stand_for_dkimpys():
    import dkim

    assert "site-packages" in dkim.__file__
