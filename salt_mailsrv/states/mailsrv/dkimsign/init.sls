{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{#- The filter is started by smtpd(8) and configured in smtpd.conf: mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
{%- if model.dkim.signer == "dkimsign" %}
mailsrv-dkimsign-packages:
  pkg.installed:
    - pkgs: {{ facts.dkimsign.packages | json }}

mailsrv-signer-user:
  user.present:
    - name: {{ facts.dkimsign.user }}
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: {{ facts.vmail.shell }}
    - require:
      - pkg: mailsrv-dkimsign-packages
{%- endif %}
{%- endif %}
