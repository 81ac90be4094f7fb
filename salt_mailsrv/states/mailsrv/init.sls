{%- from "mailsrv/macros.jinja" import refuse with context %}
{%- set faults = salt["mailsrv.faults"](pillar, grains["fqdn"], salt["mailsrv.facts"](), salt["mailsrv.mined"](pillar)) if "mailsrv.faults" in salt else [] %}
{%- if faults %}
{{- refuse(faults) }}
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.{{ mailsrv.dkim.signer }}
  - mailsrv.dovecot
  - mailsrv.opensmtpd
{%- for note in mailsrv.notes %}

mailsrv-note-{{ loop.index }}:
  test.show_notification:
    - text: {{ note | yaml_dquote }}
{%- endfor %}
{%- endif %}
