{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import comes_back with context %}
{%- from "mailsrv/map.jinja" import mailsrv, os, systemd with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys

mailsrv-dovecot-packages:
  pkg.installed:
    - pkgs: {{ os.dovecot.packages | json }}

{{- comes_back("dovecot", os) }}

mailsrv-vmail:
  user.present:
    - name: vmail
    - system: True
    - home: {{ os.vmail.home }}
    - createhome: False
    - shell: {{ os.vmail.shell }}
  file.directory:
    - name: {{ os.vmail.home }}
    - user: vmail
    - group: vmail
    - mode: "0700"
    - require:
      - user: mailsrv-vmail

mailsrv-dovecot-passwd:
  file.managed:
    - name: {{ os.dovecot.directory }}/dovecot-passwd
    - source: salt://mailsrv/dovecot/dovecot-passwd
    - template: jinja
    - user: root
    - group: dovecot
    - mode: "0640"
    - show_changes: False
    - require:
      - pkg: mailsrv-dovecot-packages
      - cmd: mailsrv-genkeys-password-key

mailsrv-dovecot-sieve-directory:
  file.directory:
    - name: {{ os.dovecot.directory }}/sieve
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"
    - require:
      - pkg: mailsrv-dovecot-packages
{%- for name in ("global", "junk") %}

mailsrv-dovecot-sieve-{{ name }}:
  file.managed:
    - name: {{ os.dovecot.directory }}/sieve/{{ name }}.sieve
    - source: salt://mailsrv/dovecot/{{ name }}.sieve
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - check_cmd: sievec -d
    - require:
      - file: mailsrv-dovecot-sieve-directory
      - file: mailsrv-dovecot-config
  # Dovecot runs filters as vmail, who cannot write a compiled script here. Another release of
  # Pigeonhole does not read the old one.
  cmd.run:
    - name: sievec {{ os.dovecot.directory }}/sieve/{{ name }}.sieve
    - onchanges:
      - file: mailsrv-dovecot-sieve-{{ name }}
      - pkg: mailsrv-dovecot-packages
    - require:
      - file: mailsrv-dovecot-sieve-{{ name }}
    - require_in:
      - module: mailsrv-dovecot-restart
      - service: mailsrv-dovecot-service
{%- endfor %}
{%- if mailsrv.quota_warning %}

mailsrv-dovecot-quota-warning:
  file.managed:
    - name: {{ os.dovecot.directory }}/quota-warning
    - source: salt://mailsrv/dovecot/quota-warning
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"
    - check_cmd: sh -n
    - require:
      - pkg: mailsrv-dovecot-packages
    - require_in:
      - service: mailsrv-dovecot-service
{%- endif %}

mailsrv-dovecot-config:
  file.managed:
    - name: {{ os.dovecot.directory }}/dovecot.conf
    - source: salt://mailsrv/dovecot/dovecot.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    # Salt calls no shell. What it prints would show the TLS key.
    - check_cmd: sh -c 'doveconf -x -n -c "$0" >/dev/null'
    - require:
      - pkg: mailsrv-dovecot-packages
      - file: mailsrv-dovecot-passwd
      - sls: mailsrv.tls
{%- if os.dovecot.init_defaults and not systemd %}

# Dovecot keeps the standard error of the script that starts it, and Salt waits until all have let
# go of it: salt-call hung here for ever.
mailsrv-dovecot-init-defaults:
  file.append:
    - name: {{ os.dovecot.init_defaults }}
    - text: exec 2>/dev/null
    - makedirs: True
    - require:
      - pkg: mailsrv-dovecot-packages
    - require_in:
      - module: mailsrv-dovecot-restart
      - service: mailsrv-dovecot-service
{%- endif %}

# A reload does not see the protocol that a package brought: port 4190 stayed closed.
mailsrv-dovecot-restart:
  module.run:
    - service.restart:
      - name: {{ os.dovecot.service }}
    - onchanges:
      - pkg: mailsrv-dovecot-packages
    - require:
      - file: mailsrv-vmail
      - file: mailsrv-dovecot-config
    - require_in:
      - service: mailsrv-dovecot-service

mailsrv-dovecot-service:
  service.running:
    - name: {{ os.dovecot.service }}
    - enable: True
    - reload: True
    - require:
      - file: mailsrv-vmail
    - watch:
      - file: mailsrv-dovecot-config
      - sls: mailsrv.tls

# mdbox only notes what is expunged: without it, no mailbox ever becomes smaller.
{%- if systemd %}
{%- for unit in ("service", "timer") %}

mailsrv-dovecot-purge-{{ unit }}:
  file.managed:
    - name: {{ os.units }}/mailsrv-purge.{{ unit }}
    - source: salt://mailsrv/dovecot/mailsrv-purge.{{ unit }}
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
{%- endfor %}

mailsrv-dovecot-purge:
  service.running:
    - name: mailsrv-purge.timer
    - enable: True
    - require:
      - service: mailsrv-dovecot-service
    - watch:
      - file: mailsrv-dovecot-purge-service
      - file: mailsrv-dovecot-purge-timer
{%- else %}

mailsrv-dovecot-purge:
  file.managed:
    - name: {{ os.cron }}/mailsrv-purge
    - contents: |
        # Managed by Salt (mailsrv.dovecot): changes here are overwritten.
        17 3 * * * root {{ os.dovecot.doveadm }} purge -A
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - makedirs: True
{%- endif %}

# An account that is gone is logged out.
mailsrv-dovecot-kick:
  cmd.run:
    - name: >-
        doveadm who -1 | awk 'NR > 1 { print $1 }' | sort -u | while read -r user; do
        cut -d : -f 1 "$PASSWD" | grep -qxF "$user" || doveadm kick "$user"; done
    - env:
        - PASSWD: {{ os.dovecot.directory }}/dovecot-passwd
    - onchanges:
      - file: mailsrv-dovecot-passwd
    - require:
      - service: mailsrv-dovecot-service
{%- endif %}
