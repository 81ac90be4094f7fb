"""The services of the machine that a test describes."""

__virtualname__ = "service"


def __virtual__():
    return __virtualname__


def available(name):
    return name in __opts__["machine"]["services"]


def status(name, sig=None):
    return available(name)


def enabled(name, **kwargs):
    return available(name)
