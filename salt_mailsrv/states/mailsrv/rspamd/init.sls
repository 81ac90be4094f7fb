{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import comes_back, keep, lets_go with context %}
{#- The filters between smtpd(8) and rspamd are started by smtpd(8): mailsrv/opensmtpd. #}
include:
  - mailsrv.genkeys
  - mailsrv.redis
{%- if model.rspamd %}
{{- keep("rspamd", facts.rspamd.config) }}

# Without Redis, which Debian's package recommends.
mailsrv-rspamd-packages:
  pkg.installed:
    - pkgs: {{ facts.rspamd.packages | json }}
    - install_recommends: False
{{- comes_back("rspamd", facts) }}
{#- The workers of one that was killed live on and keep its port, as does one whose pidfile a second
    one has written, and each new one ended at once. With a title or without, but no rc.d/rspamd. #}
{{- lets_go("rspamd", facts, [
  "start_precmd='[ -n \"$rc_pid\" ] || ! pkill -KILL -f \"^(rspamd: |/usr/local/bin/rspamd )\" || sleep 1'",
]) }}
{%- if model.dkim.signer == "rspamd" %}

mailsrv-signer-user:
  user.present:
    - name: {{ facts.rspamd.user }}
    - system: True
    - createhome: False
    - require:
      - pkg: mailsrv-rspamd-packages
{%- endif %}

mailsrv-rspamd-config:
  file.managed:
    - name: {{ facts.rspamd.config }}
    - source: salt://mailsrv/rspamd/rspamd.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: rspamadm configtest -c
    - require:
      - pkg: mailsrv-rspamd-packages
      {%- for key in model.dkim["keys"] if model.dkim.signer == "rspamd" %}
      - dkim: {{ key.signing }}
      {%- endfor %}

# The first start compiles rules for half a minute, and until then nothing can be asked.
mailsrv-rspamd-service:
  daemon.running:
    - name: {{ facts.rspamd.service }}
    - record: {{ facts.run }}/rspamd
    - pidfile: {{ facts.rspamd.pidfile }}
    - restart:
      - {{ facts.rspamd.config }}
    - ready: rspamadm control stat
    - patience: 120
    - keep:
        {{ facts.rspamd.config }}: {{ facts.kept }}/rspamd.conf
    {%- if model.redis %}
    - require:
      - daemon: mailsrv-redis-service
    {%- endif %}
    - watch:
      - file: mailsrv-rspamd-config
{%- endif %}
{%- endif %}
