"""README.md and docs/ against the code: what they name is there, what is there they name."""

import ast
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from _mailsrv.pillar import KEYS

ROOT = Path(__file__).parents[2]
CODE = ROOT / "salt_mailsrv"
PAGES = {str(p.relative_to(ROOT)): p for p in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}

MODULES = ("mailsrv", "mailcheck", "mailbox", "password", "dkim", "drift")
COMMAND = re.compile(rf"(?<![\w/.-])((?:{'|'.join(MODULES)})\.[a-z]\w*)(?![\w.-]*/)")
# Functions that show how they are called, but that states, templates and other modules call.
FOR_CODE = {
    *("mailsrv.here", "mailsrv.version", "mailsrv.certificate", "mailsrv.figures"),
    *("mailbox.stock", "mailbox.replaced", "mailbox.stranded"),
    *("dkim.public_key", "dkim.algorithm", "dkim.bare", "dkim.txt", "dkim.record"),
    *("dkim.next_stage", "dkim.signs_for"),
    *("mailcheck.notify", "backup_mx.recipients", "drift.tell"),
}
FILES = {
    "password.key",
    "mailsrv.told",
    "drift.sls",
    "drift.json",
    "mailsrv.conf",
    "mailsrv.rules",
    "mailsrv.dashboard",
}

# Of a block of YAML: what makes it a pillar, and what it may be else.
OF_A_PILLAR = {"mailsrv", "salt", "domains", "accounts"}
OF_SALT = {"base", "file_roots", "fileserver_backend", "gitfs_provider", "gitfs_remotes"}
OF_SALT |= {"mine_functions", "reactor", "mailsrv.told"}
OF_AN_ORCHESTRATION = {"salt.runner", "salt.state", "salt.function"}
OF_PROMETHEUS = {"scrape_configs", "rule_files"}
# What a block leaves out for brevity; the example has these accounts.
REST = {
    "domains": "domains: [example.com, test.com]\n",
    "accounts": "accounts: [[user1@example.com, pass1], [users3@test.com, pass3]]\n",
}
SECRET = "A" * 43 + "="
HASH = "$6$aoiuasdfhalsdfiu$" + 86 * "x"

# How a code span begins that is typed, and not read.
TYPED = re.compile(
    r"(sudo|salt|salt-call|salt-key|salt-run|salt-pip|printf|echo|mv|journalctl|systemctl|smtpctl"
    r"|doveadm|dpkg|apt-get|\$apt|postqueue|postsuper|exim4|rsync|sendmail|getmail|certbot|lego|rm|gpg|\w+=\S+"
    r"|\./\S+|bench/run|daemon|kill|nft|vacation|--?\w\S*) "
)
# What a code span with a blank is otherwise, if it is no message: a key with its value, a path and
# the like, a list, a mailbox, a command with its arguments, single characters.
SETTINGS = re.compile(
    r"[\w:]+: (\S+|[\[{].*[\]}])|/\S+( \S+)?|\[.*\]|\w+ <\S+>|[\w.]+ [A-Z \[\]]+|[._ -]+"
)
# Messages that are not ours.
OF_OTHERS = {
    # OpenSMTPD and its filters
    "530 Sender rejected",
    "452 … Too many messages sent",
    "550 Invalid recipient",
    "535 Authentication failed",
    "421 server internal error",
    "AUTH rejected: 535",
    "certificate verification failed",
    "sendmail: no recipients",
    # OpenSSL
    "rsa routines::missing private key",
    # Salt
    "check_cmd execution failed",
    "does not support adding files",
    # Python, apt and dpkg
    "No module named 'salt'",
    "dovecot-core … returned error exit status 1",
    "dpkg was interrupted",
    # Dovecot
    "552 5.2.2",
}


def rows(page):
    """The cells of each row of the tables of a page."""
    for line in TEXTS[page].splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def blocks(language):
    """The blocks of code in a language: the page and the line, and the text."""
    for name, text in TEXTS.items():
        for found in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.M | re.S):
            if found[1] == language:
                line = text.count("\n", 0, found.start()) + 1
                yield pytest.param(textwrap.dedent(found[2]), id=f"{name}:{line}")


def prose(text):
    """A text without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def spans():
    """The code spans of all pages, each with its page; a table's bar needs a backslash there."""
    for name, text in TEXTS.items():
        for found in re.finditer(r"``(.+?)``|`([^`]+)`", prose(text), re.S):
            yield name, " ".join((found[1] or found[2]).split()).replace(r"\|", "|")


def functions():
    """The public functions of the modules, by name, with their docstrings."""
    return {
        f"{module}.{node.name}": ast.get_docstring(node) or ""
        for module in MODULES
        for node in ast.parse((CODE / f"_modules/{module}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def keys_of_the_pillar():
    """Every key that takes a value, as `dns:dmarc:policy`, without `mailsrv:`."""
    # These have a key that is called as a section elsewhere is.
    alike = ("satellite", "relay")
    above = {
        key: section
        for section, keys in KEYS.items()
        for key in keys
        if key in KEYS and section not in alike
    }

    def path(section):
        section = {"account": "accounts"}.get(section, section)
        return [] if section == "mailsrv" else [*path(above[section]), section]

    groups = KEYS.keys() - {
        "accounts",
        "bans",
        "satellites",
        "search",
        "spam_filter",
    }  # these take a value, too
    return {
        ":".join([*path(section), key])
        for section, keys in KEYS.items()
        for key in keys
        if key not in groups or section in alike
    }


def documented_keys():
    """What the first column of the reference names, with the default that the second one has."""
    return {
        key: cells[1]
        for cells in rows("docs/pillar.md")
        for key in re.findall(r"`([^`]+)`", cells[0])
    }


def test_the_reference_of_the_pillar_has_the_keys_that_the_code_knows_and_no_other():
    assert documented_keys().keys() == keys_of_the_pillar()


def test_the_reference_of_the_pillar_has_the_defaults_of_the_code():
    defaults = yaml.safe_load((CODE / "states/mailsrv/defaults.yaml").read_text())
    documented = documented_keys()
    flat = {
        f"{section}:{key}": value
        for section, values in defaults.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    known = {key.rstrip(":"): value for key, value in flat.items()}
    compared = known.keys() & documented.keys()
    assert {key: documented[key].strip("`") for key in compared} == {
        key: str(known[key]) for key in compared
    }
    assert {"dkim:selector", "limits:messages", "subaddress"} <= compared


def test_the_readme_has_every_command():
    listed = {name for cells in rows("README.md") for name in COMMAND.findall(cells[0])}
    commands = {
        name
        for name, doc in functions().items()
        if re.search(rf"salt-call (--\S+ )*{re.escape(name)}\b", doc)
    }
    assert listed == commands - FOR_CODE


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_states_of_a_page_are_there(page):
    states = {
        ".".join(path.relative_to(CODE / "states").with_suffix("").parts).removesuffix(".init")
        for path in CODE.glob("states/mailsrv/**/*.sls")
    }
    typed = [span for name, span in spans() if name == page]
    typed += [block.values[0] for block in blocks("sh") if block.id.startswith(f"{page}:")]
    named = {name for text in typed for name in COMMAND.findall(text)}
    runners = {
        f"{path.stem}.{node.name}"
        for path in CODE.glob("_runners/*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert named - functions().keys() - runners - states - FILES == set()


@pytest.mark.parametrize("block", [*blocks("yaml")])
def test_a_pillar_of_the_documentation_is_valid(block, minion, pillar):
    # The renderer would ask gpg for the key of whoever reads this.
    block = re.sub(r"\|\n *-----BEGIN PGP.*?…\n", "secret\n", block, flags=re.S)
    text = block.replace("#!yaml|gpg\n", "").replace("$6$…", HASH)
    text = text.replace("tsig: …", f"tsig: {SECRET}")
    block = yaml.safe_load(text)
    if block.keys() <= OF_SALT or block.keys() <= OF_PROMETHEUS:
        return
    if any({*state} & OF_AN_ORCHESTRATION for state in block.values() if isinstance(state, dict)):
        return  # by an ID of the reader's own
    assert block.keys() <= OF_A_PILLAR | OF_SALT
    settings = {**block, **block.get("mailsrv", {})}
    if "satellite" not in settings:
        text += "".join(lines for key, lines in REST.items() if key not in settings)
    machine = minion(id="web1.example.com", pillar=pillar(text))
    assert machine("pillar.items").keys() & OF_A_PILLAR, "it was not rendered"
    # Without a master there is no mine that a credential could come from: a note, and no fault.
    from_the_mine = re.compile("has published a credential|nothing is known of")
    said = [said for said in machine("mailsrv.lint") if not from_the_mine.search(said)]
    assert said == []


@pytest.mark.parametrize("block", [*blocks("sh")])
def test_what_is_to_be_typed_is_shell(block):
    checked = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_no_block_of_code_is_without_a_test():
    fences = "\n".join(TEXTS.values()).count("```")
    # Files of mail clients are used as they stand by tests/lab/test_clients.py.
    files = re.findall(r"^`~/\S+`.*\n\n```", TEXTS["docs/clients.md"], re.M)
    typed = sum(1 for language in ("yaml", "sh") for _ in blocks(language))
    assert fences == 2 * (typed + len(files))


def anchors(text):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(target, page):
    path, _, anchor = target.partition("#")
    file = (PAGES[page].parent / path).resolve() if path else PAGES[page]
    return file.exists() and (not anchor or anchor in anchors(file.read_text()))


def links(text):
    """Where the links of a text lead, those of `[text][name]` by their definition."""
    text = re.sub(r"``.+?``|`[^`]+`", "", prose(text), flags=re.S)
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.M))
    named = re.findall(r"\]\[([^\]]+)\]", text)
    assert {*named} == defined.keys()
    return [*re.findall(r"\]\(([^)]+)\)", text), *defined.values()]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    ours = [target for target in links(TEXTS[page]) if not target.startswith("https://")]
    assert [target for target in ours if not is_there(target, page)] == []


def test_the_readme_is_short_and_leads_to_every_page():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
    assert PAGES.keys() - {"README.md"} - {*links(TEXTS["README.md"])} == set()


def test_each_row_of_what_is_expected_is_held_by_a_test():
    """Tests of booted machines with real programs."""
    rows_of = [row for row in rows("README.md") if re.match("`test_", row[-1])]
    assert len(rows_of) == 8
    for row in rows_of:
        files = [ROOT / "tests/lab" / name for name in re.findall("`(.*?)`", row[-1])]
        assert files
        for file in files:
            assert re.search(r"^def test_", file.read_text(), re.M)


def test_what_the_code_says_of_the_documentation_is_there():
    named = {
        (str(path.relative_to(ROOT)), target)
        for top in (CODE, ROOT / "pillar.example", ROOT / "bootstrap")
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.suffix != ".pyc"
        for target in re.findall(r"README(?:\.md)?|docs/\w+\.md(?:#[\w-]+)?", path.read_text())
    }
    assert named
    assert {(p, t) for p, t in named if "README" in t or not is_there(t, "README.md")} == set()


def literals(path):
    """The texts of a Python file, with `{}` for what is put in when it runs; no docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and node not in docstrings:
            yield str(node.value)


@pytest.fixture(scope="module")
def said():
    """All that the code can say: texts of Python, and everything else without its comments."""
    texts = []
    for path in (*CODE.rglob("*"), ROOT / "bootstrap"):
        if path.is_symlink() or not path.is_file() or path.suffix == ".pyc":
            continue
        if path.suffix == ".py":
            texts += literals(path)
        else:
            texts.append(re.sub(r"(?s)\{#.*?#\}|(?m:^ *#[^\n]*$)", "", path.read_text()))
    return [" ".join(text.split()) for text in texts]


def messages():
    """What the pages quote of what somebody reads, with the page."""
    for page, span in spans():
        typed = TYPED.match(span) or SETTINGS.fullmatch(span)
        if span in OF_OTHERS or (" " in span and not typed):
            yield page, span
        elif re.fullmatch(r"mailsrv-[a-z-]+", span):
            yield page, span  # the ID of a state


@pytest.mark.parametrize(("page", "message"), sorted(set(messages())))
def test_what_is_quoted_is_what_the_code_says(page, message, said):
    if message in OF_OTHERS:
        return
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    words = ".{0,60}?".join(map(re.escape, pieces))
    pattern = re.compile(rf"(?<!\w){words}(?![\w-])")
    assert any(pattern.search(text) for text in said), f"{page}: nothing says {message!r}"


def test_messages_of_others_are_still_quoted():
    assert OF_OTHERS - {message for _, message in messages()} == set()
