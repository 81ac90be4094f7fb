"""
What this machine serves by HTTPS, as other mail servers and mail clients see it.
"""

import http.client
import socket
import ssl

import _mailsrv_talking as talking
from _mailsrv import records

MOST = 3  # names with a sentence of their own


def check(model, host, timeout):
    """
    What is worth a word about the policies and settings that a machine serves; a note where all is
    well. Raises ``OSError`` where nobody answers.
    """
    if model["tls"]["self_signed"]:
        return (
            "WARNING: with a self-signed certificate MTA-STS does not work, and mail clients find "
            "their settings only without TLS; name a certificate in mailsrv:tls, or have it come "
            "by mailsrv:tls:acme"
        )
    context, wrong, names = talking.verifying(model["tls"]), [], 0
    for domain in model["domains"]:
        for url, text in records.web_files(domain, model).items():
            names += 1
            name, _, path = url.removeprefix("https://").partition("/")
            if why := _fault(name, f"/{path}", text.encode(), context, host, timeout):
                wrong.append(f"{name}: {why}")
    if not wrong:
        return f"{names} names"
    more = [f"and {len(wrong) - MOST} more"] if len(wrong) > MOST else []
    return f"WARNING: {'; '.join([*wrong[:MOST], *more])}"


def _fault(name, path, text, context, host, timeout):
    """Why a file is not had as it shall, a part of a sentence; nothing where it is."""
    try:
        status, found = _fetched(name, path, context, host, timeout)
    except ssl.SSLCertVerificationError as exc:
        return f"its certificate is of no use, {exc.verify_message}"
    except ConnectionRefusedError:
        raise
    except (OSError, http.client.HTTPException) as exc:
        return f"the web server does not answer for it, {exc}; run the highstate"
    if (status, found) == (200, text):
        return ""
    what = "something else" if status == 200 else f"status {status}"
    return f"{path} brings {what}; run the highstate, and see which site of nginx has that name"


def _fetched(name, path, context, host, timeout):
    with (
        socket.create_connection((host, 443), timeout) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        connection = http.client.HTTPConnection(name)
        connection.sock = secured
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 16)
