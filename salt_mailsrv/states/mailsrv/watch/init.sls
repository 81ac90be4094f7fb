{%- from "mailsrv/map.jinja" import model, facts, systemd, salt_call, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import timer with context %}
include:
  - mailsrv.dovecot
  - mailsrv.opensmtpd
{#- Not Salt's schedule: it ends with the minion's daemon, and a machine without a master has none. #}
{%- if not (model.notify or model.metrics) %}
{%- if systemd %}

mailsrv-watch-retired:
  daemon.removed:
    - name: mailsrv-watch.timer
    - files:
      - {{ facts.units }}/mailsrv-watch.timer
      - {{ facts.units }}/mailsrv-watch.service
{%- else %}

mailsrv-watch-retired:
  file.absent:
    - name: {{ facts.cron }}/mailsrv-watch
{%- endif %}

# What was told: whoever is told again one day is told everything.
mailsrv-watch-notes:
  file.absent:
    - name: {{ facts.kept }}/watch.json
{%- elif systemd %}
{{- timer("mailsrv-watch", "watch", "mailsrv-watch", facts, [
  {"daemon": "mailsrv-opensmtpd-service"}, {"daemon": "mailsrv-dovecot-service"},
]) }}
{%- else %}

mailsrv-watch:
  file.managed:
    - name: {{ facts.cron }}/mailsrv-watch
    - contents: |
        # Managed by Salt (mailsrv.watch): changes here are overwritten.
        PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
        7,22,37,52 * * * * root {{ salt_call }} --log-level=error --out=quiet mailcheck.notify
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
{%- endif %}
{%- endif %}
