{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import comes_back with context %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
{#- The filters between smtpd(8) and rspamd are started by smtpd(8): mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
{%- if mailsrv.rspamd %}

# Without Redis, which Debian's package recommends.
mailsrv-rspamd-packages:
  pkg.installed:
    - pkgs: {{ os.rspamd.packages | json }}
    - install_recommends: False
{{- comes_back("rspamd", os) }}
{%- if mailsrv.dkim.signer == "rspamd" %}

mailsrv-signer-user:
  user.present:
    - name: {{ os.rspamd.user }}
    - system: True
    - createhome: False
    - require:
      - pkg: mailsrv-rspamd-packages
{%- endif %}

mailsrv-rspamd-config:
  file.managed:
    - name: {{ os.rspamd.config }}
    - source: salt://mailsrv/rspamd/rspamd.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - check_cmd: rspamadm configtest -c
    - require:
      - pkg: mailsrv-rspamd-packages
      {%- for key in mailsrv.dkim["keys"] if mailsrv.dkim.signer == "rspamd" %}
      - dkim: {{ key.signing }}
      {%- endfor %}

mailsrv-rspamd-service:
  service.running:
    - name: {{ os.rspamd.service }}
    - enable: True
    - watch:
      - file: mailsrv-rspamd-config

# The first start compiles rules for half a minute, and until then nothing can be asked.
mailsrv-rspamd-ready:
  cmd.run:
    - name: >-
        for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        rspamadm control stat >/dev/null 2>&1 && exit; sleep 6; done;
        echo "rspamd does not answer, its log says why"; exit 1
    - onchanges:
      - service: mailsrv-rspamd-service
{%- endif %}
{%- endif %}
