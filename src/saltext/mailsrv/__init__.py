"""Salt extension: a mail server from one pillar (OpenSMTPD, Dovecot, DKIM)."""
