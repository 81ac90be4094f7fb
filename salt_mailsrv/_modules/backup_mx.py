"""
What a mail machine tells its backup MX, by the Salt Mine: see ``mailsrv:backup`` of the pillar.
"""

import _mailsrv_published as published
from _mailsrv import backup_mx
from _mailsrv_here import Here, valid

__virtualname__ = "backup_mx"


def __virtual__():
    return __virtualname__


def recipients():
    """
    Who gets mail on this machine, and what else a backup MX of it must know: for
    ``mine_functions``, where ``allow_tgt`` lets no other machine read it.

    Returns ``domains``, the local parts of each, an empty one for all of them, one with a star for
    a pattern; the ``hostname`` to pass mail on to; ``message_size``; ``certificate``, PEM, where it
    is self-signed; ``closed``, the networks that may use our senders, or None where anybody may.

    CLI Example:

    .. code-block:: bash

        salt-call backup_mx.recipients
    """
    model = valid(*Here(__salt__, __context__, __opts__, __grains__, __pillar__).read())
    addresses = published.sent_from(model, __grains__)
    return backup_mx.published(model, addresses, __salt__["mailsrv.certificate"]())
