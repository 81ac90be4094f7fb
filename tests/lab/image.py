"""The root filesystems of Debian that machines start from and daemons are asked in.

    sudo python3 tests/lab/image.py

makes them, if they are not there yet; so does whoever needs one. All labs share them, and they are
kept between runs.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

CACHE = Path(os.environ.get("MAILSRV_LAB_CACHE", "/var/cache/salt-mailsrv-lab"))
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INCLUDE = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,sudo,procps,cron"
# All Debian releases are built by the script "sid"; naming it builds those newer than the host.
SCRIPT = "/usr/share/debootstrap/scripts/sid"
# With mounts and processes of its own, a killed debootstrap leaves nothing behind.
ALONE = "unshare --mount --pid --fork --kill-child --mount-proc"
DEBOOTSTRAP = (
    f"debootstrap --variant=minbase --include={INCLUDE} --keyring={KEYRING}"
    f" {{suite}} {{target}} {MIRROR} {SCRIPT}"
)
NEEDS = {
    "debootstrap": "debootstrap",
    "git": "git",
    "ip": "iproute2",
    "iptables": "iptables",
    "pgrep": "procps",
    "systemd-nspawn": "systemd-container",
    KEYRING: "debian-archive-keyring",
}

# What is asked about its files, as the formula installs it; and the users that smtpd looks for.
DAEMONS = {"bookworm": "opensmtpd/bookworm-backports", "trixie": "opensmtpd"}
TOOLS = (
    "opensmtpd-filter-dkimsign dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-sieve"
    " dovecot-managesieved rspamd nsd bind9-utils"
)
INSTALL = """
echo "deb {mirror} {suite}-backports main" >/etc/apt/sources.list.d/backports.list
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update
apt-get install -y --no-install-recommends {packages}
useradd --system vmail
useradd --system dkimproxy
echo "enabled = false;" >/etc/rspamd/local.d/fuzzy_check.conf  # it asks for hosts on the Internet
apt-get clean
rm -r /var/lib/apt/lists
"""
# What the FreeBSD-shaped machine has beside its daemons; its programs wait where nothing finds them
# until their port is installed, and what FreeBSD does not have is gone.
SHAPED = "opensmtpd-filter-rspamd python3 python3-venv python3-dkim inetutils-syslogd perl"
WAITING = "/usr/libexec/shaped"
SHAPE = f"""
apt-get update
apt-get install -y --no-install-recommends {SHAPED}
mkdir -p {WAITING}/etc
apt-get download dma
dpkg --extract dma_*.deb {WAITING}/dma
mv {WAITING}/dma/usr/sbin/dma /usr/libexec/dma
rm -r dma_*.deb {WAITING}/dma
for name in dovecot smtpd smtpctl; do mv /usr/sbin/$name {WAITING}/; done
ln -s smtpctl {WAITING}/makemap
for name in doveadm doveconf dovecot-sysreport sievec sieve-dump sieve-filter sieve-test \
    rspamd rspamadm rspamc; do
    mv /usr/bin/$name {WAITING}/
done
for name in doveadm doveconf; do  # where Debian's Dovecot looks for them
    ln -s ../local/bin/$name /usr/bin/
done
mv /usr/libexec/opensmtpd {WAITING}/
ln -s ../local/libexec/opensmtpd /usr/libexec/  # and where Debian's smtpd looks for filters
for name in dovecot rspamd; do
    mv /etc/$name {WAITING}/etc/
    ln -s /usr/local/etc/$name /etc/$name
done
rm -f /etc/smtpd.conf /etc/mailname /etc/aliases
ln -s /usr/local/etc/mail/smtpd.conf /etc/smtpd.conf
ln -s /usr/local/etc/mail/mailname /etc/mailname
ln -s mail/aliases /etc/aliases
mkdir -p /usr/local/etc/cron.d
rm -r /etc/cron.d
ln -s /usr/local/etc/cron.d /etc/cron.d
for name in sendmail mailq newaliases hoststat purgestat; do
    rm -f /usr/sbin/$name /usr/bin/$name
done
ln -s mailwrapper /usr/sbin/sendmail
ln -s ../sbin/mailwrapper /usr/bin/mailq
ln -s ../sbin/mailwrapper /usr/bin/newaliases
userdel vmail
userdel dkimproxy
mv /usr/bin/perl {WAITING}/
ln -s "$(readlink -f /usr/bin/python3)" {WAITING}/python3
rm -f /usr/bin/python3 /usr/bin/journalctl /usr/bin/systemctl
sed -i 's/^root:x:0:$/wheel:x:0:root/' /etc/group
apt-get clean
rm -r /var/lib/apt/lists
"""
# $0 is where the root is put together, seen by this process alone.
ENTER = """set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs lab "$0"
cd "$0"
mkdir upper work root
mount -t overlay lab -o "lowerdir=$1,upperdir=${2:-upper},workdir=${3:-work}" root
shift 3
cd root
for shared in /proc /dev "$@"; do
    [ "$shared" != -- ] || break
    mkdir -p ".$shared"
    mount --rbind "$shared" ".$shared"
done
while [ "$1" != -- ]; do shift; done
shift
cat /etc/resolv.conf >etc/resolv.conf
exec chroot . "$@"
"""


def missing():
    """What keeps images from being made here, as one sentence; empty when nothing does."""
    if os.geteuid():
        return "the lab boots machines and needs root"
    packages = [package for need, package in NEEDS.items() if not shutil.which(need, os.F_OK)]
    return f"the lab needs: apt-get install {' '.join(packages)}" if packages else ""


def image(suite):
    """A fresh Debian: its root directory, which nobody may change."""

    def command(root, _):
        return f"{ALONE} {DEBOOTSTRAP}".format(suite=suite, target=root).split()

    return _made(suite, DEBOOTSTRAP, command)


def daemons(suite):
    """The directories, one over the other, of a Debian with all daemons that the formula knows."""
    base = image(suite)
    packages = f"{DAEMONS[suite]} {TOOLS}"
    install = INSTALL.format(mirror=MIRROR, suite=suite, packages=packages)

    def command(root, work):
        return _enter(base, root, work, (), ("sh", "-ec", install))

    return f"{_made(f'{suite}-daemons', DEBOOTSTRAP + install, command)}:{base}"


def freebsd():
    """The directories, one over the other, of a Debian that is shaped like FreeBSD."""
    base = daemons("trixie")

    def command(root, work):
        return _enter(base, root, work, (), ("sh", "-ec", SHAPE))

    below = [Path(layer).name for layer in base.split(":")]  # names that say how they were made
    return f"{_made('freebsd', f'{below}{SHAPE}', command)}:{base}"


def within(suite, *shared):
    """What to put before a command to run it among the daemons of that Debian.

    It sees these directories of the host; all else that it writes is gone when it ends.
    """
    return _enter(daemons(suite), "", "", shared, ())


def _enter(lower, upper, work, shared, command):
    root = CACHE / "root"
    root.mkdir(parents=True, exist_ok=True)
    places = (str(root), str(lower), str(upper), str(work), *map(str, shared), "--")
    return ("unshare", "--mount", "sh", "-c", ENTER, *places, *command)


def _made(name, recipe, command):
    """The directory of that name, made by that command if it is not there yet."""
    path = CACHE / "images" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with turn(CACHE / "images" / f"{name}.lock"):
        if not path.exists():
            place = CACHE / "unfinished" / name
            root, work, log = place / "root", place / "work", place / "log"
            shutil.rmtree(place, ignore_errors=True)
            root.mkdir(parents=True)
            work.mkdir()
            with log.open("w") as output:
                made = subprocess.run(
                    command(root, work),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"},
                )
            if made.returncode:
                raise RuntimeError(f"{name} cannot be made:\n{log.read_text()[-2000:]}")
            root.rename(path)
            shutil.rmtree(place)
    return path


@contextmanager
def turn(file):
    """One at a time, of all processes and threads of the host."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    if why := missing():
        sys.exit(why)
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(daemons, suite) for suite in DAEMONS]
        with suppress(RuntimeError):  # Debian 14 may be in pieces today
            image("forky")
    for future in made:
        future.result()


if __name__ == "__main__":
    main()
