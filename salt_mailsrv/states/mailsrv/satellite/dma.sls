{%- from "mailsrv/satellite/map.jinja" import satellite, os with context %}
{%- from "mailsrv/macros.jinja" import give_way with context %}
include:
  - mailsrv.satellite
{{- give_way(os.stock_mtas + [os.opensmtpd.service], os.opensmtpd.rc, "mailsrv-dma-packages") }}

mailsrv-dma-packages:
  pkg.installed:
    - pkgs: {{ os.dma.packages | json }}

mailsrv-dma-config:
  file.managed:
    - name: {{ os.dma.config }}
    - source: salt://mailsrv/satellite/dma.conf
    - template: jinja
    - makedirs: True
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-dma-packages
      - mailsrv: mailsrv-satellite-credential

mailsrv-dma-aliases:
  file.managed:
    - name: {{ os.opensmtpd.aliases }}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - contents: |
        # Managed by Salt (mailsrv.satellite): changes here are overwritten.
        # Nobody reads mail here: whoever of this machine it is for, a person gets it.
        *: {{ satellite.root }}
{%- if os.dma.mailer_conf %}

mailsrv-dma-mailer-conf:
  file.managed:
    - name: {{ os.dma.mailer_conf }}
    - source: salt://mailsrv/satellite/mailer.conf
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-dma-config

# dma is no daemon: what could not be sent waits for this.
mailsrv-dma-queue:
  file.managed:
    - name: /etc/cron.d/dma
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - contents: "*/5 * * * * root /usr/libexec/dma -q"
    - makedirs: True
{%- endif %}
