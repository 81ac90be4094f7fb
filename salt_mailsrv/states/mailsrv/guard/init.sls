{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{#- The filter between smtpd(8) and the signers. smtpd(8) starts it: mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
  - mailsrv.opensmtpd.package

mailsrv-guard-packages:
  pkg.installed:
    - pkgs: {{ facts.guard.packages | json }}

mailsrv-guard-program:
  file.managed:
    - name: {{ facts.directory }}/guard.py
    - source: salt://mailsrv/guard/guard.py
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-guard-packages
      - file: mailsrv-genkeys-directory

{%- set user = facts.dkimsign.user if model.dkim.signer == "dkimsign" else facts.opensmtpd.user %}

mailsrv-guard-kept:
  file.directory:
    - name: {{ facts.kept }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"

# What guard counts. Another signer is another user, who begins anew: root changes nothing within a
# directory in which somebody else can swap a file for a link.
mailsrv-guard-state:
  file.directory:
    - name: {{ facts.guard.state }}
    - user: {{ user }}
    - group: {{ facts.root_group }}
    - mode: "0700"
    - require:
      - file: mailsrv-guard-kept
      - pkg: mailsrv-opensmtpd-packages
      {%- if model.dkim.signer == "dkimsign" %}
      - user: mailsrv-signer-user
      {%- endif %}

# guard reads it again by itself when it changes, and starts the signers that it names.
mailsrv-guard-config:
  file.managed:
    - name: {{ facts.directory }}/guard.json
    - source: salt://mailsrv/guard/guard.json
    - template: jinja
    - user: root
    - group: {{ facts.dkimsign.user if model.dkim.signer == "dkimsign" else facts.opensmtpd.group }}
    - mode: "0640"
    - check_cmd: {{ facts.guard.python }} -I {{ facts.directory }}/guard.py -n
    - require:
      - file: mailsrv-guard-program
      - file: mailsrv-guard-state
      - file: mailsrv-blocked
      - pkg: mailsrv-opensmtpd-packages
      {%- if model.dkim.signer == "dkimsign" %}
      - user: mailsrv-signer-user
      {%- endif %}
      {%- for key in model.dkim["keys"] %}
      - dkim: {{ key.signing }}
      {%- endfor %}
{%- endif %}
