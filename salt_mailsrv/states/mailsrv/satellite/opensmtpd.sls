{%- from "mailsrv/macros.jinja" import keep with context %}
{%- from "mailsrv/map.jinja" import satellite, facts with context %}
include:
  - mailsrv.satellite
  - mailsrv.opensmtpd.package
{{- keep("opensmtpd", facts.opensmtpd.config) }}

mailsrv-opensmtpd-config:
  file.managed:
    - name: {{ facts.opensmtpd.config }}
    - source: salt://mailsrv/satellite/smtpd.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: smtpd -n -f
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - mailsrv: mailsrv-satellite-credential
      - file: mailsrv-satellite-mailname

mailsrv-opensmtpd-service:
  daemon.running:
    - name: {{ facts.opensmtpd.service }}
    - record: {{ facts.run }}/opensmtpd
    - pidfile: {{ facts.opensmtpd.pidfile }}
    - restart:
      - {{ facts.opensmtpd.program }}
      - {{ facts.opensmtpd.config }}
      - {{ facts.opensmtpd.mailname }}
      - {{ facts.directory }}/satellite.secrets
      {%- if satellite.ca %}
      - {{ satellite.ca }}
      {%- endif %}
    - ready: smtpctl show status
    - keep:
        {{ facts.opensmtpd.config }}: {{ facts.kept }}/smtpd.conf
    - watch:
      - file: mailsrv-opensmtpd-config
      - file: mailsrv-satellite-mailname
      - mailsrv: mailsrv-satellite-credential
{%- if facts.dma.mailer_conf %}

# Of the other agent, which was here before.
mailsrv-dma-queue:
  file.absent:
    - name: /etc/cron.d/dma
{%- endif %}
