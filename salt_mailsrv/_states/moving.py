"""
Which domains move from this machine, or to it.
"""

__virtualname__ = "moving"


def __virtual__():
    return __virtualname__


def noted(name):
    """
    There is a note of each domain that moves, and of how far it is. What it has reached stays: a
    run never puts it back.

    name
        The file, for root alone.

    .. code-block:: yaml

        /var/lib/mailsrv/moving.json:
          moving.noted: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "it is noted what moves"}
    ret["changes"] = __salt__["moving.noted"](name, test=__opts__["test"])
    if ret["changes"] and __opts__["test"]:
        ret.update(result=None, comment="it would be noted what moves")
    return ret
