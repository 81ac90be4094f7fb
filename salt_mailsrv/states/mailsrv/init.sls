{%- set faults = salt["mailsrv.faults"](pillar, grains["fqdn"], salt["mailsrv.facts"]()) if "mailsrv.faults" in salt else [] %}
{%- if faults %}

# One state that fails and ends the run, where the exception of mailsrv.model would come with a
# traceback. The sentences are its name, too: in test mode Salt has a comment of its own.
mailsrv-pillar-is-not-valid:
  test.fail_without_changes:
    - name: {{ faults | join("\n") | yaml_dquote }}
    - comment: {{ faults | join("\n") | yaml_dquote }}
    - order: 1
    - failhard: True
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
