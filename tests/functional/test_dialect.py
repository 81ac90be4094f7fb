"""
What runs on FreeBSD speaks the dialect of its base system and of POSIX's shell: all commands of the
states, the files that they write, the commands of the modules, and ./bootstrap.
"""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dialects import called, foreign

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "salt_mailsrv"


# With these, the rooms write all that they have for FreeBSD.
SIGNERS = ["dkimproxy", "dkimsign", "rspamd"]
ALL = {
    "notify": "admin@elsewhere.example",
    "expire": {"Trash": "30d"},
    "search": True,
    "spam_filter": True,
    "subaddress": "mailbox",
    "quota": "1G",
    "metrics": True,
    "tls": {"acme": {"email": "a@example.com"}},
}
SATELLITE = """
mailsrv:
  satellite: {{relay: mx.example.com, root: ops@example.com, agent: {}, ca: {}}}
"""
GNU = """
sed -i s/a/b/ file
sed -i 's/a b/b/' file
sed --in-place=.old s/a/b/ file
sed 's/a\\+/b/' file
sed -e p -e '/a\\|b/d' file
grep 'a\\|b' file
grep -qP '\\d' file
ls | head --bytes=3
date -d yesterday
* * * * * root touch "$x" && date -u --iso-8601
n=$(stat -c %s "$file")
echo "$(stat -c %s "$file")"
n=`date --utc`
sh -c 'set -e; stat -c %a "$0"'
find /x -printf '%p'
if [ -n "$(find "$night" -mtime -4 -regextype egrep)" ]; then
readlink -e x
mktemp --tmpdir
mktemp -d || cat -A file
tail --pid=3 -f file
LC_ALL=C od --width=4 file
cp --reflink a b
rm "$x" -rf
xargs -d x rm
xargs -n 1 stat -c %s
timeout 5 setpriv true
systemctl restart smtpd
echo -e x
! ps --ppid 1
""".strip().splitlines()
COMMON = """
find "$night" -mtime -4 2>/dev/null
date -u +%s
head -c 300 | tail -n 2
sed -n 's/^a \\(b\\)$/\\1/p' file; sed 1d file
sed -i '' s/a/b/ file
grep -q -e a -e b file || grep -E 'a|b+' file
LC_ALL=C tr -dc 'a-z2-9' </dev/urandom | head -c "$1"
[ "$(readlink -f "$(command -v x)")" = x ]
rm -f -- -x; kill -9 3
/bin/ps -ax -o pid= -o ppid= -o state= -o command=
cp -r a/. "$b"
timeout 5 sh -c 'a; b'
""".strip().splitlines()


@pytest.mark.parametrize("text", GNU)
def test_what_freebsd_lacks_is_seen(text):
    assert foreign(text)
    assert foreign(f"#!/bin/sh\n# a comment: it's one\n{text}\n")


@pytest.mark.parametrize("text", COMMON)
def test_what_it_has_is_let_be(text):
    assert foreign(text) == []


@pytest.fixture(scope="module")
def machines(minion, pillar, relay_pem):
    """The mail server with each signer and with all it may have, and both kinds of a satellite."""

    def make():
        for signer in SIGNERS:
            yield minion("FreeBSD"), "mailsrv", {"dkim": {"signer": signer}, **ALL}
        yield minion("FreeBSD"), "mailsrv", {}
        for agent in ("opensmtpd", "dma"):
            text = SATELLITE.format(agent, relay_pem)
            yield minion("FreeBSD", pillar(text), id="web1.example.com"), "mailsrv.satellite", {}

    return list(make())


@pytest.fixture(scope="module")
def texts(machines):
    """All that the states call, and all that they write: where it stands, and the text."""
    found = {}
    for machine, sls, settings in machines:
        for chunk in machine.low(sls, **settings):
            for key, value in chunk.items():
                if not key.startswith("__") and key not in ("comment", "text"):
                    found.update({(chunk["__id__"], key, text): text for text in strings(value)})
        for name, text in machine.files(sls, **settings).items():
            found[name, text] = text
    return found


@pytest.fixture(scope="module")
def scripts(texts):
    """What a shell runs: programs, lines of cron, what `sh -c` is given, rc.subr's files."""
    found = {"bootstrap": (ROOT / "bootstrap").read_text()}
    for where, text in texts.items():
        if text.startswith("#!/bin/sh") or "/rc.conf.d/" in where[0]:
            found[where] = text
        for line in re.findall(r"^\S+(?: \S+){4} root (.*)$", text, re.MULTILINE):
            found[where, line] = line
        for line in re.findall(r"sh -c '([^']*)'", text):
            found[where, line] = line
    return found


def test_the_states_and_their_files_have_nothing_of_gnu(texts):
    assert len(texts) > 300
    said = {where: foreign(shell(where[0], text)) for where, text in texts.items()}
    assert {where[0]: found for where, found in said.items() if found} == {}


def test_what_is_looked_at_is_what_runs_there(texts, scripts):
    """That the test itself is not blind: one of each kind."""
    names = {where[0] for where in texts}
    assert {"/usr/local/etc/dovecot/purge", "/usr/local/etc/cron.d/mailsrv-acme"} <= names
    assert {"/usr/local/etc/mail/deliver", "/etc/cron.d/dma"} <= names
    assert any("check_cmd" in where and "doveconf" in text for where, text in texts.items())
    assert any("smtpctl update table" in text for text in texts.values())
    assert any("find " in text for text in scripts.values())
    assert any("pause mta" in text for text in scripts.values())


@pytest.mark.parametrize(
    "shell",
    [
        ["dash", "-n"],
        ["posh", "-n"],
        ["yash", "-n"],
        ["shellcheck", "-s", "sh", "-S", "info", "-e", "SC2034"],
    ],
)
def test_the_shell_is_that_of_posix(scripts, shell, tmp_path):
    if not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    files = []
    for number, text in enumerate(scripts.values()):
        files.append(tmp_path / str(number))
        files[-1].write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
    names = [str(file) for file in files]
    # yash and the others take one script and its arguments.
    for each in [names] if shell[0] == "shellcheck" else [[name] for name in names]:
        ran = subprocess.run([*shell, *each], capture_output=True, text=True, check=False)
        assert ran.stdout + ran.stderr == ""


def test_bootstrap_has_nothing_of_gnu_but_where_it_is_on_debian():
    debian = {"dpkg is not there", "apt-get is not there"}
    found = set(foreign((ROOT / "bootstrap").read_text()))
    assert found - debian == set()
    assert found  # its packages


@pytest.mark.parametrize(
    "path",
    [
        *sorted(PACKAGE.glob("_modules/**/*.py")),
        *sorted(PACKAGE.glob("_states/*.py")),
        *sorted(PACKAGE.glob("states/mailsrv/**/*.py")),
    ],
    ids=lambda path: path.name,
)
def test_commands_of_the_modules_have_nothing_of_gnu(path):
    assert [found for argv in arguments(path.read_text()) if (found := called(argv))] == []


def test_commands_of_a_module_are_found():
    text = "run(['rm', '-rf', '--', path])\nLOOK = ('stat', '-c', name, '%s')"
    assert [called(argv) for argv in arguments(text)] == [[], ["stat -c"]]


def shell(name, text):
    """What of it a shell may run. Programs of Python are looked at as such."""
    if name.endswith(".py"):
        return ""
    if text.startswith("#!") and not text.startswith("#!/bin/sh"):
        return "\n".join(re.findall("`([^`]*)`", text))  # Perl's
    return text


def strings(value):
    """All texts of a state's argument."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.items():
            yield from strings(list(each))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings(each)


def arguments(text):
    """The lists of a program's text that begin with a utility: what is no text is empty."""
    linux = {"systemctl", "journalctl", "nft"}  # they know where they run
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.List, ast.Tuple))]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if node.elts:
            words = [each.value if isinstance(each, ast.Constant) else "" for each in node.elts]
            if all(isinstance(word, str) for word in words) and words[0] not in linux:
                yield words
