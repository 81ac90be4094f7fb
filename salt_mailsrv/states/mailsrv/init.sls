{%- from "mailsrv/map.jinja" import model, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.{{ model.dkim.signer }}
  - mailsrv.redis
  - mailsrv.rspamd
  - mailsrv.dovecot
  - mailsrv.learning
  - mailsrv.logs
  - mailsrv.opensmtpd
  - mailsrv.watch
  - mailsrv.metrics
  - mailsrv.web
  - mailsrv.acme
  - mailsrv.bans
{%- for note in model.notes %}

mailsrv-note-{{ loop.index }}:
  test.show_notification:
    - text: {{ note | yaml_dquote }}
{%- endfor %}
{%- for sentence in salt["mailbox.found"]().values() | sum(start=[]) %}

mailsrv-found-{{ loop.index }}:
  test.show_notification:
    - text: {{ sentence | yaml_dquote }}
    - order: 1
{%- endfor %}
{%- endif %}
