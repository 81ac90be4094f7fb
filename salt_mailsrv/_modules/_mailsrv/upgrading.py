"""
What an upgrade of the system brings, and the commands for it.
"""

# What Debian's releases are followed by.
RELEASES = {"bookworm": "trixie", "trixie": "forky"}


def dovecot(installed, systemd):
    """What becomes of Dovecot, by its version, as numbers."""
    if installed >= [2, 4]:
        return "its configuration stays"
    if not systemd:
        return "2.4 refuses the configuration of 2.3: its package fails until the next highstate"
    return (
        "2.4 refuses the configuration of 2.3; the new one stands in dovecot-2.4.conf and is taken"
        " when the package starts 2.4: IMAP is away from its unpacking until then"
    )


def commands(release, facts):
    """What to type, from one release of Debian to the next."""
    following = RELEASES[release]
    daemons = [facts[name] for name in ("opensmtpd", "dovecot")]
    packages = " ".join(package for daemon in daemons for package in daemon["packages"])
    apt = "apt-get -o Dpkg::Options::=--force-confold"
    return [
        f"sed -i s/{release}/{following}/g /etc/apt/sources.list /etc/apt/sources.list.d/*",
        "apt-get update",
        f"{apt} full-upgrade --download-only",
        f"{apt} install --only-upgrade {packages}",
        f"{apt} full-upgrade",
        "./bootstrap, or the highstate of your own Salt",
        "apt-get autoremove; reboot",
    ]
