"""Packs the stand-in as DKIMproxy's own release is packed.

    python tests/dkimproxy/archive.py FILE.tar.gz      # prints the SHA256

The same input gives the same bytes. As nothing may hinge on them, the files have no execute bit
and belong to a stranger, whose files they would stay if root unpacked them as they are.
"""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

TOP = "dkimproxy-1.4.1"


def make_archive(path):
    """Write the archive to path; return its SHA256 in hex."""
    files = {
        "README": b"A stand-in for tests, not DKIMproxy.\n",
        "lib/LookupMap.pm": b"1;\n",
        "scripts/dkimproxy.out": Path(__file__).with_name("dkimproxy.out").read_bytes(),
    }
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for name, content in files.items():
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.size, member.mode = len(content), 0o644
            member.uid = member.gid = 1000
            tar.addfile(member, io.BytesIO(content))
    Path(path).write_bytes(packed.getvalue())
    return hashlib.sha256(packed.getvalue()).hexdigest()


if __name__ == "__main__":
    print(make_archive(sys.argv[1]))
