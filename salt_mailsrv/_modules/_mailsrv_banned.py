"""
Whom fail2ban bans and the firewall refuses on this machine, for the commands.
"""

import subprocess

from _mailsrv import bans
from salt.exceptions import CommandExecutionError

SAID_BY = "_SYSTEMD_UNIT=mailsrv-guesses.service"
PATIENCE = 20  # seconds for a command


def listed():
    """Until when and why, by network, as :func:`mailsrv.bans` returns it."""
    found = bans.banned(_said("fail2ban-client", "get", bans.JAIL, "banip", "--with-time"))
    why = {}
    if found:
        why = bans.reasons(
            _said("journalctl", "--quiet", "--output=cat", "--since=-2d", "--no-pager", SAID_BY)
        )
    return {
        str(network): {"until": until, "why": why.get(network, "the journal does not say")}
        for network, until in found.items()
    }


def lift(networks):
    """Let these networks in again."""
    for network in networks:
        # As fail2ban calls it: an address alone has no length.
        name = str(network.network_address if network.num_addresses == 1 else network)
        _said("fail2ban-client", "set", bans.JAIL, "unbanip", name)


def check():
    """fail2ban has its jail, and the firewall refuses whom that bans; how many they are."""
    wanted, found = {*map(bans.network_of, listed())}, set()
    for name in ("banned4", "banned6"):
        found |= bans.refused(_said("nft", "-j", "list", "set", "inet", bans.JAIL, name))
    if missing := sorted(map(str, wanted - found)):
        raise CommandExecutionError(
            f"the firewall does not refuse {', '.join(missing)}; restart fail2ban"
        )
    return f"{len(wanted)} banned" if wanted else "nobody is banned"


def _said(*command):
    """What a command says; an error, with what to do, where it fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if not ran.returncode:
            return ran.stdout
        said = " ".join((ran.stderr or ran.stdout).split()).rpartition("ERROR ")[2]
    except FileNotFoundError:
        said = "it is not installed"
    except subprocess.TimeoutExpired:
        said = f"no answer within {PATIENCE} seconds"
    # "nft flush ruleset" takes the table away, as Debian's own nftables.service does.
    raise CommandExecutionError(f"{command[0]}: {said}; the highstate sets up again what bans")
