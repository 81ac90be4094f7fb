{%- from "mailsrv/map.jinja" import satellite, facts with context %}
{%- from "mailsrv/macros.jinja" import give_way, keep with context %}
include:
  - mailsrv.satellite
{{- give_way(facts.stock_mtas + [facts.opensmtpd.service], facts.opensmtpd.rc, facts.opensmtpd.periodic, "mailsrv-dma-packages") }}
{{- keep("dma", facts.dma.config) }}
{{- keep("dma", facts.opensmtpd.aliases, "aliases") }}

mailsrv-dma-packages:
  pkg.installed:
    - pkgs: {{ facts.dma.packages | json }}

mailsrv-dma-config:
  file.managed:
    - name: {{ facts.dma.config }}
    - source: salt://mailsrv/satellite/dma.conf
    - template: jinja
    - makedirs: True
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-dma-packages
      - mailsrv: mailsrv-satellite-credential
{%- if not facts.dma.mailer_conf %}

# Of the other agent, which was here before; those of dma are in its package.
mailsrv-dma-commands:
  file.absent:
    - names: {{ facts.opensmtpd.commands.values() | list | json }}
    - require:
      - pkg: mailsrv-dma-packages
{%- endif %}

mailsrv-dma-aliases:
  file.managed:
    - name: {{ facts.opensmtpd.aliases }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - contents: |
        # Managed by Salt (mailsrv.satellite): changes here are overwritten.
        # Nobody reads mail here: whoever of this machine it is for, a person gets it.
        *: {{ satellite.root }}
{%- if facts.dma.mailer_conf %}

mailsrv-dma-mailer-conf:
  file.managed:
    - name: {{ facts.dma.mailer_conf }}
    - source: salt://mailsrv/satellite/mailer.conf
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-dma-config

# Of the other agent, which was here before.
mailsrv-dma-instead:
  file.absent:
    - names:
      - {{ facts.cron }}/mailsrv-opensmtpd
      - {{ facts.rc_conf }}/{{ facts.opensmtpd.service }}
    - require:
      - pkg: mailsrv-dma-packages

# dma is no daemon: what could not be sent waits for this.
mailsrv-dma-queue:
  file.managed:
    - name: /etc/cron.d/dma
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - contents: "*/5 * * * * root /usr/libexec/dma -q"
    - makedirs: True
{%- endif %}
