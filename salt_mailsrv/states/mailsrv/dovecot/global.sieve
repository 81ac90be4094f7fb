{%- from "mailsrv/map.jinja" import mailsrv with context -%}
# Managed by Salt (mailsrv.dovecot): changes here are overwritten. It stands in the pillar, mailsrv:sieve.
{%- if mailsrv.sieve %}
{{ mailsrv.sieve }}
{%- endif %}
