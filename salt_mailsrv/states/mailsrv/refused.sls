{%- from "mailsrv/macros.jinja" import refusal with context %}
{%- from "mailsrv/map.jinja" import not_synced, refused, stranded with context %}
{{- refusal(refused, not_synced, stranded) if refused }}
