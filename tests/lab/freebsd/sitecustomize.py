"""
What every Python of the FreeBSD-shaped machine of the lab loads at its start: two lies and no more.

`platform` says FreeBSD 14.3, which Salt makes its grains of, and pip the markers of requirements;
pip then takes no wheel with compiled code either, as there are none for FreeBSD. Salt's own
question which system it is on, `salt.utils.platform`, hears FreeBSD, too. All else is Linux:
`sys.platform`, `os.uname`, /proc, psutil, crypt(3). With SHAPED=no nothing is changed.
"""

import importlib.machinery
import os
import platform
import sys

RELEASE = "14.3-RELEASE"
ASKS = "salt.utils.platform"


class _System:
    """The module `sys`, with another platform."""

    platform = "freebsd14"

    def __getattr__(self, name):
        return getattr(sys, name)


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        module.sys = _System()


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != ASKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec:
            spec.loader = _Loader(name, spec.origin)
        return spec


def _uname():
    node = os.uname().nodename
    version = f"FreeBSD {RELEASE} releng/14.3 GENERIC"
    return platform.uname_result("FreeBSD", node, RELEASE, version, "amd64")


if os.environ.get("SHAPED") != "no":
    platform.uname = _uname
    sys.meta_path.insert(0, _Finder)
