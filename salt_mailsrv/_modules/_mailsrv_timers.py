"""
How the last work of the timers of this machine ended: systemd(1) remembers it until the next.
"""

import json
import subprocess

from salt.exceptions import CommandExecutionError

PATIENCE = 20  # seconds for an answer
FAILED = ["systemctl", "list-units", "--state=failed", "--output=json", "mailsrv-*.service"]


def check():
    """What is worth a word of the services that our timers call; a note where all is well."""
    try:
        ran = subprocess.run(FAILED, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise CommandExecutionError(f"systemd gives no answer within {PATIENCE} seconds") from None
    if ran.returncode:
        raise CommandExecutionError(f"systemd gives no answer: {' '.join(ran.stderr.split())}")
    failed = [unit["unit"].removesuffix(".service") for unit in json.loads(ran.stdout)]
    if not failed:
        return None
    return "WARNING: " + "; ".join(
        f"{name} failed; see why: journalctl -u {name} -n 30; and try again: systemctl start {name}"
        for name in failed
    )
