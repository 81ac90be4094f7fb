"""The services of the machine that a test describes."""

__virtualname__ = "service"


def __virtual__():
    return __virtualname__


def get_all():
    """Those that a test lists, or that stand in a file while it goes on."""
    services = __opts__["machine"]["services"]
    if isinstance(services, str):
        with open(services, encoding="ascii") as file:
            return file.read().split()
    return services


def status(name, sig=None):
    return name in get_all()


def enabled(name, **kwargs):
    return name in get_all()
