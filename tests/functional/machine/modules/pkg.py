"""The packages of the machine that a test describes."""

__virtualname__ = "pkg"


def __virtual__():
    return __virtualname__


def version(*names):
    return _versions("packages", names)


def latest_version(*names, refresh=True):
    return _versions("candidates", names)


def list_pkgs(**kwargs):
    return dict(__opts__["machine"]["packages"])


def _versions(kind, names):
    found = {name: __opts__["machine"][kind].get(name, "") for name in names}
    return found if len(names) > 1 else found[names[0]]
