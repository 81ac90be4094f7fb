"""
The whole configuration of NSD, of which our file is a part.

Without anything but Python's own library: it is the check of our file, too, run by itself.
"""

import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import PurePath

# NSD takes "include:" wherever it stands; what stands in quotes or behind # it does not look at.
TOKEN = re.compile(
    r"""(?P<other>\#[^\n]*|"[^"\n]*"|'[^'\n]*')|\binclude:\s*(?P<path>"[^"\n]*"|'[^'\n]*'|[^\s"']+)"""
)
WILD = re.compile(r"[*?[{~]")  # where nothing fits a path with one of these, it is no fault
ZONE = re.compile(r'^zone:\n\tname: "?([^"\n]*)"?$', re.MULTILINE)
LISTING = re.compile(r'^\s*zonelistfile: "?([^"\n]*)"?$', re.MULTILINE)
ADDED = re.compile(r"^add (\S+) ", re.MULTILINE)  # by nsd-control addzone
# What nsd-checkconf repeats may be a secret, where that stands in the wrong place.
REPEATED = re.compile(
    r"(?<=: at )'.*'(?=: error: )|(?<!include file )'.*'|(?<= key )\S+|(?<=rithm ).+"
)
SHOWN = 5  # of its sentences
PATIENCE = 60  # seconds


class Unusable(Exception):
    """Why the configuration is none, a sentence."""


class Copy:
    """
    A copy of a configuration and all that it includes, with the candidate in the place of our file.

    whole, ours
        The paths of NSD's configuration and of our file.

    candidate
        The text that our file may become.

    directory
        Where the copy is made, of root's alone: there are secrets in it.
    """

    def __init__(self, whole, ours, candidate, directory):
        self._ours, self._candidate, self._directory = ours, candidate, directory
        self._sources = []
        self.includes_ours = False
        self.path = self._add(whole, ())

    def original(self, text):
        """The same text with the files' own paths in it, but nothing that is repeated from them."""
        text = REPEATED.sub("…", text)
        for number, path in reversed([*enumerate(self._sources)]):
            text = text.replace(self._place(number), path)
        return text

    def _place(self, number):
        return os.path.join(self._directory, f"{number}.conf")

    def _add(self, path, chain):
        if path in chain:
            raise Unusable(f"{chain[-1]}: includes {path}, of which it is a part")
        if path == self._ours:
            self.includes_ours = True
            text = self._candidate
        else:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        place = self._place(len(self._sources))
        self._sources.append(path)
        text = TOKEN.sub(lambda found: self._included(found, (*chain, path)), text)
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return place

    def _included(self, found, chain):
        if found["other"]:
            return found[0]
        pattern = os.path.join("/", found["path"].strip("\"'"))  # NSD is started there
        paths = {*glob.glob(pattern)} | ({self._ours} if self._is_ours(pattern) else set())
        if not paths and not WILD.search(pattern):
            return found[0]  # NSD says that there is none
        # On one line, so that what comes after it keeps its number.
        return " ".join(f'include: "{self._add(path, chain)}"' for path in sorted(paths))

    def _is_ours(self, pattern):
        return PurePath(self._ours).match(pattern)


def checked(whole, ours, candidate):
    """What NSD would take of the whole configuration with that text in the place of our file."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            copy = Copy(whole, ours, candidate, directory)
            if not copy.includes_ours:
                pattern = os.path.join(os.path.dirname(ours), "*.conf")
                raise Unusable(f'{whole}: does not include {ours}; add there: include: "{pattern}"')
            ran = subprocess.run(
                ["nsd-checkconf", "-v", copy.path],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Unusable(f"{whole}: {exc}") from None
    if ran.returncode:
        said = copy.original(ran.stderr).strip().splitlines()
        raise Unusable(f"{whole}: {'; '.join(said[:SHOWN]) or 'nsd-checkconf does not take it'}")
    return ran.stdout


def others(whole, ours):
    """The zones that are served beside ours, each in lower case and without its last dot."""
    if not (os.path.exists(whole) and shutil.which("nsd-checkconf")):
        return []  # NSD is not installed yet
    told = checked(whole, ours, "")
    found = ZONE.findall(told)
    for path in LISTING.findall(told):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            found += ADDED.findall(file.read())
    return sorted({name.rstrip(".").lower() for name in found})


def main(whole, ours, candidate):
    """End with 1, and say why, where NSD would not start with that file in the place of ours."""
    try:
        with open(candidate, encoding="utf-8", errors="surrogateescape") as file:
            checked(whole, ours, file.read())
    except (OSError, Unusable) as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main(*sys.argv[1:])
