{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
{#- The filter between smtpd(8) and the signers. smtpd(8) starts it: mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
  - mailsrv.opensmtpd.package

mailsrv-guard-packages:
  pkg.installed:
    - pkgs: {{ os.guard.packages | json }}

mailsrv-guard-program:
  file.managed:
    - name: {{ os.directory }}/guard.py
    - source: salt://mailsrv/guard/guard.py
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-guard-packages
      - file: mailsrv-genkeys-directory

# guard reads it again by itself when it changes, and starts the signers that it names.
mailsrv-guard-config:
  file.managed:
    - name: {{ os.directory }}/guard.json
    - source: salt://mailsrv/guard/guard.json
    - template: jinja
    - user: root
    - group: {{ os.dkimsign.user if mailsrv.dkim.signer == "dkimsign" else os.opensmtpd.group }}
    - mode: "0640"
    - check_cmd: {{ os.guard.python }} -I {{ os.directory }}/guard.py -n
    - require:
      - file: mailsrv-guard-program
      - pkg: mailsrv-opensmtpd-packages
      {%- if mailsrv.dkim.signer == "dkimsign" %}
      - user: mailsrv-signer-user
      {%- endif %}
      {%- for key in mailsrv.dkim["keys"] %}
      - dkim: {{ key.signing }}
      {%- endfor %}
{%- endif %}
