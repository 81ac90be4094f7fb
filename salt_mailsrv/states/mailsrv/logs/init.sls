{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- elif systemd %}
{%- from "mailsrv/macros.jinja" import timer with context %}
{%- set config = facts.journald.directory ~ "/mailsrv.conf" %}
{%- set record = facts.run ~ "/journald" %}
{%- set exists = salt["file.file_exists"] %}
{%- if model.logs.keep or exists(config) or exists(record) %}

mailsrv-logs-config:
  {%- if model.logs.keep %}
  file.managed:
    - name: {{ config }}
    - source: salt://mailsrv/logs/journald.conf
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"
    - makedirs: True
  {%- else %}
  file.absent:
    - name: {{ config }}
  {%- endif %}

# Of a file that is gone nothing says when: its directory does.
mailsrv-logs-service:
  daemon.running:
    - name: {{ facts.journald.service }}
    - record: {{ record }}
    - restart:
      - {{ facts.journald.directory }}
    - watch:
      - file: mailsrv-logs-config
{%- if model.logs.keep %}
{{- timer("mailsrv-logs-kept", "logs", "mailsrv-logs", facts, [{"daemon": "mailsrv-logs-service"}]) }}
{%- else %}

mailsrv-logs-kept-retired:
  daemon.removed:
    - name: mailsrv-logs.timer
    - files:
      - {{ facts.units }}/mailsrv-logs.timer
      - {{ facts.units }}/mailsrv-logs.service
{%- endif %}
{%- endif %}
{%- endif %}
