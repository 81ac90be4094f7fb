"""The packages of the machine that a test describes."""

__virtualname__ = "pkg"


def __virtual__():
    return __virtualname__


def version(name):
    return __opts__["machine"]["packages"].get(name, "")


def latest_version(name, refresh=True):
    return __opts__["machine"]["candidates"].get(name, "")


def list_pkgs(**kwargs):
    return dict(__opts__["machine"]["packages"])
