{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.{{ mailsrv.dkim.signer }}
  - mailsrv.rspamd
  - mailsrv.dovecot
  - mailsrv.opensmtpd
{%- for note in mailsrv.notes %}

mailsrv-note-{{ loop.index }}:
  test.show_notification:
    - text: {{ note | yaml_dquote }}
{%- endfor %}
{%- endif %}
