{#- OpenSMTPD itself, for the mail server and for a satellite: neither their models are known here. #}
{%- from "mailsrv/macros.jinja" import comes_back, give_way with context %}
{%- from "mailsrv/map.jinja" import facts, systemd with context %}
{%- set backports = "/etc/apt/sources.list.d/mailsrv-backports.sources" %}
{{- give_way(facts.stock_mtas, facts.opensmtpd.rc, facts.opensmtpd.periodic, "mailsrv-opensmtpd-packages") }}
{%- if salt["mailsrv.version"](facts.opensmtpd.packages[0]) < [7, 3] %}
{%- if grains["os"] != "Debian" %}
{{- raise("mailsrv: OpenSMTPD before 7.3 cannot speak TLS with OpenSSL 3; install 7.3 or later first") }}
{%- endif %}

# OpenSMTPD 6.8 of Debian 12 fails every TLS handshake with OpenSSL 3: "rsa routines::missing
# private key". Debian's own backports have a version that does not.
mailsrv-opensmtpd-backports:
  file.managed:
    - name: {{ backports }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - contents: |
        Types: deb
        URIs: http://deb.debian.org/debian
        Suites: {{ grains["oscodename"] }}-backports
        Components: main
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

mailsrv-opensmtpd-packages:
  {%- if opts["test"] %}
  # Nothing was written, so apt does not know the backports: "No information found for 'opensmtpd'".
  pkg.installed:
    - pkgs: {{ [{facts.opensmtpd.packages[0]: ">=7.3"}] | json }}
  {%- else %}
  pkg.latest:
    - pkgs: {{ facts.opensmtpd.packages | json }}
    - fromrepo: {{ grains["oscodename"] }}-backports
    - refresh: True
  {%- endif %}
    - require:
      - file: mailsrv-opensmtpd-backports
{%- else %}
{%- if grains["os"] == "Debian" and "~bpo" not in salt["pkg.version"](facts.opensmtpd.packages[0]) %}

# Where the release's own version will do, as after an upgrade of the system.
mailsrv-opensmtpd-backports:
  file.absent:
    - name: {{ backports }}
{%- endif %}

mailsrv-opensmtpd-packages:
  pkg.installed:
    - pkgs: {{ facts.opensmtpd.packages | json }}
{%- endif %}
{#- What is being handed on when smtpd(8) ends would be handed on again. #}
{%- set running = 'smtpctl show stats | grep -Eq "^(mta.task|mda).running=[1-9]"' %}
{%- set drain = "smtpctl pause mta; smtpctl pause mda; while " ~ running ~ "; do sleep 0.2; done" %}
{{- comes_back("opensmtpd", facts, drain) }}
{%- if facts.opensmtpd.mailer_conf %}

mailsrv-opensmtpd-mailer-conf:
  file.managed:
    - name: {{ facts.opensmtpd.mailer_conf }}
    - source: salt://mailsrv/opensmtpd/mailer.conf
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- else %}

mailsrv-opensmtpd-sendmail:
  file.managed:
    - name: {{ facts.opensmtpd.commands.sendmail }}
    - source: salt://mailsrv/opensmtpd/sendmail
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - follow_symlinks: False
    - check_cmd: sh -n
    - require:
      - pkg: mailsrv-opensmtpd-packages

{%- for name, target in (("mailq", "/usr/sbin/smtpctl"), ("newaliases", facts.opensmtpd.commands.sendmail)) %}

mailsrv-opensmtpd-{{ name }}:
  file.symlink:
    - name: {{ facts.opensmtpd.commands[name] }}
    - target: {{ target }}
    - backupname: {{ facts.opensmtpd.commands[name] }}.before
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- endfor %}

# Where programs look for it that were written long ago.
mailsrv-opensmtpd-lib-sendmail:
  file.symlink:
    - name: /usr/lib/sendmail
    - target: ../sbin/sendmail
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- endif %}
{%- if facts.opensmtpd.init_defaults and not systemd %}

# Debian's init script starts the new daemon before the old one has ended: "already running".
mailsrv-opensmtpd-init-defaults:
  file.append:
    - name: {{ facts.opensmtpd.init_defaults }}
    - text: |
        if [ "$1" = restart ]; then
          "$0" stop
          for try in 1 2 3 4 5 6 7 8 9; do [ -e /run/smtpd.pid ] || break; sleep 1; done
          exec "$0" start
        fi
    - require:
      - pkg: mailsrv-opensmtpd-packages
    - require_in:
      - daemon: mailsrv-opensmtpd-service
{%- endif %}
