{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import timer with context %}
{#- Asks a CA for the certificate, and has the daemons take it: docs/certificates.md. #}
{%- set program = facts.guard.python ~ " -I " ~ facts.directory ~ "/acme.py" %}
{%- if model.tls.acme %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.dovecot
  - mailsrv.opensmtpd
{%- if model.web %}
  - mailsrv.web
{%- endif %}

mailsrv-acme-packages:
  pkg.installed:
    - pkgs: {{ (facts.acme.packages + facts.guard.packages) | json }}

mailsrv-acme-program:
  file.managed:
    - name: {{ facts.directory }}/acme.py
    - source: salt://mailsrv/acme/acme.py
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-acme-packages
      - file: mailsrv-genkeys-directory

mailsrv-acme-config:
  file.managed:
    - name: {{ facts.directory }}/acme.json
    - source: salt://mailsrv/acme/acme.json
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0600"
    - show_changes: False
    - check_cmd: {{ program }} check
    - require:
      - file: mailsrv-acme-program
{%- if model.dns.dane %}

mailsrv-acme-next-key:
  certificate.next_shown:
    - name: {{ model.tls.acme.next }}.shown
    - key: {{ model.tls.acme.next }}.key
    - hostname: {{ model.hostname }}
    - require:
      - sls: mailsrv.tls
{%- endif %}
{%- if systemd %}
{{- timer("mailsrv-acme", "acme", "mailsrv-acme", facts, [
  {"daemon": "mailsrv-opensmtpd-service"}, {"file": "mailsrv-acme-config"},
] + ([{"daemon": "mailsrv-web-service"}] if model.web else [])) }}
{%- else %}

mailsrv-acme:
  file.managed:
    - name: {{ facts.cron }}/mailsrv-acme
    - contents: |
        # Managed by Salt (mailsrv.acme): changes here are overwritten.
        PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
        */15 * * * * root {{ program }} {{ facts.directory }}/acme.json >/dev/null
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - require:
      - file: mailsrv-acme-config
{%- endif %}
{%- else %}
{%- if systemd %}

mailsrv-acme:
  daemon.removed:
    - name: mailsrv-acme.timer
    - files:
      - {{ facts.units }}/mailsrv-acme.timer
      - {{ facts.units }}/mailsrv-acme.service
    - require_in:
      - file: mailsrv-acme-gone
{%- endif %}

# The certificate and the account stay: they are there again where the pillar goes back to them.
mailsrv-acme-gone:
  file.absent:
    - names:
      - {{ facts.directory }}/acme.py
      - {{ facts.directory }}/acme.json
      {%- if not systemd %}
      - {{ facts.cron }}/mailsrv-acme
      {%- endif %}
{%- endif %}
{%- endif %}
