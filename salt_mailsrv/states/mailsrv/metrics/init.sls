{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import timer with context %}
include:
  - mailsrv.guard
  - mailsrv.watch
{%- if systemd and "metrics" in facts %}
{%- set exporter = facts.metrics.package %}
{%- set ours = facts.units ~ "/" ~ exporter ~ ".service.d/mailsrv-metrics.conf" %}
{%- set units = [facts.units ~ "/mailsrv-metrics.timer", facts.units ~ "/mailsrv-metrics.service"] %}
{%- if not model.metrics %}

mailsrv-metrics-retired:
  daemon.removed:
    - name: mailsrv-metrics.timer
    - files: {{ units | json }}

mailsrv-metrics-exporter-retired:
  daemon.removed:
    - name: {{ exporter }}.service
    - files: [{{ ours }}]

mailsrv-metrics-files:
  file.absent:
    - names:
      - {{ facts.metrics.directory }}/mailsrv.prom
      - {{ facts.metrics.directory }}/mailsrv-rspamd.prom
      - {{ facts.directory }}/metrics
      - {{ facts.directory }}/metrics.json
      - {{ facts.kept }}/metrics.json
      - {{ facts.kept }}/run.json
{%- else %}
{#- One that was here before us belongs to somebody, and listens where that one wants it. #}
{%- if salt["file.file_exists"](ours) or not salt["pkg.version"](exporter) %}

# Before the package starts it, on all addresses.
mailsrv-metrics-exporter:
  file.managed:
    - name: {{ ours }}
    - contents: |
        # Managed by Salt (mailsrv.metrics): changes here are overwritten.
        [Service]
        ExecStart=
        ExecStart={{ facts.metrics.program }} --web.listen-address=127.0.0.1:9100 $ARGS
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - require_in:
      - pkg: mailsrv-metrics-packages
{%- endif %}

mailsrv-metrics-packages:
  pkg.installed:
    - pkgs: [{{ exporter }}]
    - install_recommends: False

mailsrv-metrics-exporter-service:
  daemon.running:
    - name: {{ exporter }}
    - record: {{ facts.run }}/{{ exporter }}
    - require:
      - pkg: mailsrv-metrics-packages

mailsrv-metrics-directory:
  file.directory:
    - name: {{ facts.directory }}/metrics
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - require:
      - file: mailsrv-genkeys-directory
{%- if not model.rspamd %}

mailsrv-metrics-of-rspamd:
  file.absent:
    - name: {{ facts.metrics.directory }}/mailsrv-rspamd.prom
{%- endif %}
{%- for name, source in {
  "metrics": "mailsrv/metrics/metrics.py",
  "journal": "_modules/_mailsrv/journal.py",
  "waiting": "_modules/_mailsrv/waiting.py",
}.items() %}

mailsrv-metrics-{{ name }}:
  file.managed:
    - name: {{ facts.directory }}/metrics/{{ name }}.py
    - source: salt://{{ source }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-metrics-directory
      - pkg: mailsrv-guard-packages
    - require_in:
      - daemon: mailsrv-metrics
{%- endfor %}

mailsrv-metrics-config:
  file.managed:
    - name: {{ facts.directory }}/metrics.json
    - source: salt://mailsrv/metrics/metrics.json
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: {{ facts.guard.python }} -m json.tool
    - require:
      - file: mailsrv-metrics-directory
{{- timer("mailsrv-metrics", "metrics", "mailsrv-metrics", facts, [
  {"daemon": "mailsrv-metrics-exporter-service"}, {"file": "mailsrv-metrics-config"},
]) }}

mailsrv-metrics-run:
  mailsrv.ran:
    - name: {{ facts.kept }}/run.json
    - order: last
{%- endif %}
{%- endif %}
{%- endif %}
