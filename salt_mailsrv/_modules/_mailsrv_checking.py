"""
Checks that run side by side, and what each of them says.
"""

import contextlib
import contextvars
import threading
import time


def gather(calls, seconds):
    """
    What each of these functions without arguments returns, by name; one that hangs or breaks is not
    among them, and nothing waits for it.
    """
    found, threads = {}, []

    def call(name, function):
        with contextlib.suppress(Exception):
            found[name] = function()

    for name, function in calls.items():
        inside = contextvars.copy_context()  # where Salt keeps what __salt__ and the like mean
        thread = threading.Thread(target=inside.run, args=(call, name, function), daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(found)


def together(checks, limit):
    """What checks say that run at once: by name a function and its arguments."""
    calls = {name: lambda check=check: said(*check) for name, check in checks.items()}
    found = gather(calls, limit)
    late = f"FAULT: did not come to an end within {limit} seconds; look at the log of the mail"
    return {name: found.get(name, late) for name in checks}


def said(check, *arguments):
    """What a check says, as text."""
    try:
        note = check(*arguments) or ""
    except ConnectionRefusedError:
        return "FAULT: nobody answers there; is its service running?"
    except Exception as exc:  # a check that breaks is no reason not to see the others
        return f"FAULT: {exc}" if str(exc) else f"FAULT: {type(exc).__name__}"
    marked = note.startswith(("WARNING: ", "skipped: "))
    return note if marked else f"ok: {note}".removesuffix(": ")


def retcode(result):
    """The exit status for what checks said: 1 where there is a fault."""
    return 1 if any(str(text).startswith("FAULT") for text in result.values()) else 0
