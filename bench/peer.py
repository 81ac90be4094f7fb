"""A mail server as many build one: Postfix and OpenDKIM in front of Dovecot."""

import re

MILTER = "/run/opendkim/socket"

MAIN_CF = """\
compatibility_level = 3.6
myhostname = {host}
mydestination = localhost
alias_maps =
biff = no
append_dot_mydomain = no
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = texthash:/etc/postfix/mailboxes
virtual_transport = lmtp:unix:private/dovecot-lmtp
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
smtp_tls_security_level = may
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/dovecot-auth
smtpd_sender_login_maps = texthash:/etc/postfix/mailboxes
non_smtpd_milters = unix:{milter}
milter_default_action = tempfail
"""
SUBMISSION = {
    "smtpd_tls_wrappermode": "yes",
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_sender_restrictions": "reject_sender_login_mismatch",
    "smtpd_milters": f"unix:{MILTER}",
}
DOVECOT_CONF = """
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    user = postfix
    mode = 0600
  }
}
service auth {
  unix_listener /var/spool/postfix/private/dovecot-auth {
    user = postfix
    mode = 0600
  }
}
"""
OPENDKIM_CONF = """\
Mode s
Domain {domain}
Selector peer
KeyFile /etc/dkimkeys/peer.private
Canonicalization relaxed/relaxed
Socket local:{milter}
UMask 007
PidFile /run/opendkim/opendkim.pid
UserID opendkim
Syslog yes
"""


class Peer:
    """Postfix on `machine`, with Dovecot, accounts and certificate as they are on `ours`."""

    def __init__(self, ours, machine):
        self.machine = machine
        self._ours = ours
        self._domain = ours.pillar["domains"][0]

    def install(self):
        """Set the machine up; returns the DNS record of its DKIM key, as a line of the zone."""
        run = self.machine.run
        query = "dpkg-query -W -f '${db:Status-Status} ${Package}\\n' 'dovecot-*'"
        found = self._ours.machine.run(query).stdout.split("\n")
        dovecot = " ".join(line.split()[1] for line in found if line.startswith("installed "))
        run("apt-get update")
        # Debian's packages start with configurations of their own, which are not what is compared.
        self.machine.put("/usr/sbin/policy-rc.d", "exit 101\n")
        run("chmod +x /usr/sbin/policy-rc.d")
        run(
            f"apt-get install -y --no-install-recommends postfix opendkim opendkim-tools {dovecot}",
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )
        run("rm /usr/sbin/policy-rc.d")
        certificate = self._copy_dovecot()
        self._configure_postfix(certificate)
        record = self._configure_opendkim()
        run("systemctl restart opendkim postfix && systemctl restart dovecot")
        return record

    def _copy_dovecot(self):
        ours, run = self._ours.machine, self.machine.run
        conf = ours.get("/etc/dovecot/dovecot.conf")
        found = re.findall(r"^ssl_(?:server_)?(cert|key)(?:_file)? = <?(\S+)", conf, re.MULTILINE)
        certificate = dict(found)
        _, _, uid, gid, _, home, shell = ours.run("getent passwd vmail").stdout.strip().split(":")
        run(f"groupadd -g {gid} vmail && useradd -u {uid} -g vmail -d {home} -s {shell} vmail")
        run(f"install -d -o vmail -g vmail -m 700 {home}")
        files = f"etc/dovecot {certificate['cert']} {certificate['key']}"
        packed = ours.run(f"tar -C / -ch {files} | base64").stdout
        run("rm -r /etc/dovecot && base64 -d | tar -C / -x", input=packed)
        self.machine.put("/etc/dovecot/dovecot.conf", conf + DOVECOT_CONF)
        return certificate

    def _configure_postfix(self, certificate):
        main_cf = MAIN_CF.format(
            host=self.machine.fqdn, domain=self._domain, milter=MILTER, **certificate
        )
        self.machine.put("/etc/postfix/main.cf", main_cf)
        # Each mailbox is delivered to, and sent from, by itself.
        lines = "".join(f"{account} {account}\n" for account in self._ours.accounts)
        self.machine.put("/etc/postfix/mailboxes", lines)
        options = " ".join(f"-o {name}={value}" for name, value in SUBMISSION.items())
        self.machine.run(["postconf", "-Me", f"465/inet=465 inet n - n - - smtpd {options}"])
        self.machine.run(["postconf", "-F", "*/*/chroot=n"])

    def _configure_opendkim(self):
        run = self.machine.run
        conf = OPENDKIM_CONF.format(domain=self._domain, milter=MILTER)
        self.machine.put("/etc/opendkim.conf", conf)
        run(f"opendkim-genkey -b 2048 -s peer -d {self._domain} -D /etc/dkimkeys")
        run("chown opendkim: /etc/dkimkeys/peer.private && usermod -aG opendkim postfix")
        return self.machine.get("/etc/dkimkeys/peer.txt")
