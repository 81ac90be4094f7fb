"""The services of the machine that a test describes."""

__virtualname__ = "service"


def __virtual__():
    return __virtualname__


def get_all():
    return __opts__["machine"]["services"]


def status(name, sig=None):
    return name in get_all()


def enabled(name, **kwargs):
    return name in get_all()
