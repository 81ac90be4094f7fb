{#- OpenSMTPD itself, for the mail server and for a satellite: neither their models are known here. #}
{%- from "mailsrv/macros.jinja" import comes_back, give_way with context %}
{%- set os = salt["mailsrv.facts"]() %}
{%- set systemd = grains.get("init") == "systemd" %}
{{- give_way(os.stock_mtas, os.opensmtpd.rc, "mailsrv-opensmtpd-packages") }}
{%- if salt["mailsrv.version"](os.opensmtpd.packages[0]) < [7, 3] %}
{%- if grains["os"] != "Debian" %}
{{- raise("mailsrv: OpenSMTPD before 7.3 cannot speak TLS with OpenSSL 3; install 7.3 or later first") }}
{%- endif %}

# OpenSMTPD 6.8 of Debian 12 fails every TLS handshake with OpenSSL 3: "rsa routines::missing
# private key". Debian's own backports have a version that does not.
mailsrv-opensmtpd-backports:
  file.managed:
    - name: /etc/apt/sources.list.d/mailsrv-backports.sources
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - contents: |
        Types: deb
        URIs: http://deb.debian.org/debian
        Suites: {{ grains["oscodename"] }}-backports
        Components: main
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

mailsrv-opensmtpd-packages:
  pkg.latest:
    - pkgs: {{ os.opensmtpd.packages | json }}
    - fromrepo: {{ grains["oscodename"] }}-backports
    - refresh: True
    - require:
      - file: mailsrv-opensmtpd-backports
{%- else %}

mailsrv-opensmtpd-packages:
  pkg.installed:
    - pkgs: {{ os.opensmtpd.packages | json }}
{%- endif %}
{#- What is being handed on when smtpd(8) ends would be handed on again. #}
{%- set running = 'smtpctl show stats | grep -Eq "^(mta.task|mda).running=[1-9]"' %}
{%- set drain = "smtpctl pause mta; smtpctl pause mda; while " ~ running ~ "; do sleep 0.2; done" %}
{{- comes_back("opensmtpd", os, drain) }}
{%- if os.opensmtpd.mailer_conf %}

mailsrv-opensmtpd-mailer-conf:
  file.managed:
    - name: {{ os.opensmtpd.mailer_conf }}
    - source: salt://mailsrv/opensmtpd/mailer.conf
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- endif %}
{%- if os.opensmtpd.init_defaults and not systemd %}

# Debian's init script starts the new daemon before the old one has ended: "already running".
mailsrv-opensmtpd-init-defaults:
  file.append:
    - name: {{ os.opensmtpd.init_defaults }}
    - text: |
        if [ "$1" = restart ]; then
          "$0" stop
          for try in 1 2 3 4 5 6 7 8 9; do [ -e /run/smtpd.pid ] || break; sleep 1; done
          exec "$0" start
        fi
    - require:
      - pkg: mailsrv-opensmtpd-packages
    - require_in:
      - service: mailsrv-opensmtpd-service
{%- endif %}
