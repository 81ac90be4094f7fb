{%- from "mailsrv/map.jinja" import model with context -%}
# Managed by Salt (mailsrv.dovecot): changes here are overwritten. It stands in the pillar, mailsrv:sieve.
{%- if model.sieve %}
{{ model.sieve }}
{%- endif %}
