{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
{#- The filter is started by smtpd(8) and configured in smtpd.conf: mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
{%- if mailsrv.dkim.signer == "dkimsign" %}
mailsrv-dkimsign-packages:
  pkg.installed:
    - pkgs: {{ os.dkimsign.packages | json }}

mailsrv-signer-user:
  user.present:
    - name: {{ os.dkimsign.user }}
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: {{ os.vmail.shell }}
    - require:
      - pkg: mailsrv-dkimsign-packages
{%- endif %}
{%- endif %}
