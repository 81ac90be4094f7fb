{#- Dovecot 2.4 takes no file of 2.3, and its package starts it in the middle of a system's upgrade. #}
{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- elif grains["os_family"] == "Debian" %}
{%- set config = facts.dovecot.directory ~ "/dovecot.conf" %}
{%- set next = facts.dovecot.directory ~ "/dovecot-2.4.conf" %}
{%- set drop_in = facts.units ~ "/" ~ facts.dovecot.service ~ ".service.d/mailsrv-upgrade.conf" %}
{%- if systemd and salt["mailsrv.version"](facts.dovecot.version_of) < [2, 4] %}

# The file of the next release is at hand, and whichever the installed Dovecot takes is its file.
mailsrv-dovecot-next:
  file.managed:
    - name: {{ next }}
    - source: salt://mailsrv/dovecot/dovecot.conf
    - template: jinja
    - context: {version: [2, 4]}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-dovecot-packages

mailsrv-dovecot-next-start:
  file.managed:
    - name: {{ drop_in }}
    - contents: |
        # Managed by Salt (mailsrv.dovecot.upgrade): changes here are overwritten.
        [Service]
        ExecStartPre=+-/bin/sh -c 'doveconf -n >/dev/null 2>&1 || { \
            doveconf -n -c {{ next }} >/dev/null && mv {{ next }} {{ config }} && \
            sievec {{ facts.dovecot.directory }}/sieve; }'
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - require:
      - file: mailsrv-dovecot-next
    - watch_in:
      - daemon: mailsrv-dovecot-service
{%- else %}
{%- for name, file in {"next": next, "next-start": drop_in}.items() %}

mailsrv-dovecot-{{ name }}:
  file.absent:
    - name: {{ file }}
    - watch_in:
      - daemon: mailsrv-dovecot-service
{%- endfor %}
{%- endif %}
{#- Not installed, and there: an upgrade was cut off or has failed, "half configured". #}
{%- set exists = salt["file.file_exists"] %}
{%- if not salt["pkg.version"](facts.dovecot.version_of) and exists(facts.dovecot.doveadm) and exists(config) %}

# Its package is configured only where it starts, and nothing is installed before it is.
mailsrv-dovecot-config-unpacked:
  file.managed:
    - name: {{ config }}
    - source: salt://mailsrv/dovecot/dovecot.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: sh -c 'doveconf -x -n -c "$0" >/dev/null'
    - order: 1

mailsrv-dovecot-configured:
  cmd.run:
    # "Start request repeated too quickly": it was tried again and again.
    - name: >-
        {% if systemd %}systemctl reset-failed {{ facts.dovecot.service }}; {% endif -%}
        dpkg --force-confold --configure -a
    - env:
        - DEBIAN_FRONTEND: noninteractive
    - order: 2
    - require:
      - file: mailsrv-dovecot-config-unpacked
    - require_in:
      - pkg: mailsrv-dovecot-packages
{%- endif %}
{%- endif %}
