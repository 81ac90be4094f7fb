{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{#- What rspamd remembers: a server of our own beside whatever else the machine has in Redis. #}
{%- set redis = facts.redis %}
{%- if systemd %}
{%- set unit = facts.units ~ "/" ~ redis.service ~ ".service" %}
{%- set default = facts.units ~ "/" ~ redis.default ~ ".service.d/mailsrv-redis.conf" %}
{%- set files = [unit, default, redis.config] %}
{%- endif %}
{%- if model.redis %}
include:
  - mailsrv.genkeys
{%- if systemd and (salt["file.file_exists"](default) or not salt["pkg.version"](redis.packages[0])) %}

# Before the package starts a server that anybody on this machine may ask, by a port and without a
# password. One that was here before us belongs to somebody.
mailsrv-redis-default:
  file.managed:
    - name: {{ default }}
    - contents: |
        # Managed by Salt (mailsrv.redis): the mail server has a Redis of its own, {{ redis.service }}.
        # Without this file this one starts, too.
        [Unit]
        ConditionPathExists=!{{ default }}
    - user: root
    - group: root
    - mode: "0644"
    - makedirs: True
    - require_in:
      - pkg: mailsrv-redis-packages
{%- endif %}

mailsrv-redis-packages:
  pkg.installed:
    - pkgs: {{ redis.packages | json }}
    - install_recommends: False

mailsrv-redis-config:
  file.managed:
    - name: {{ redis.config }}
    - source: salt://mailsrv/redis/redis.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - pkg: mailsrv-redis-packages
      - file: mailsrv-genkeys-directory

mailsrv-redis-unit:
  file.managed:
    {%- if systemd %}
    - name: {{ unit }}
    - source: salt://mailsrv/redis/mailsrv-redis.service
    - mode: "0644"
    {%- else %}
    - name: {{ redis.script }}
    - source: salt://mailsrv/redis/mailsrv_redis
    - mode: "0755"
    {%- endif %}
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - require:
      - pkg: mailsrv-redis-packages

mailsrv-redis-service:
  daemon.running:
    - name: {{ redis.service }}
    - record: {{ facts.run }}/redis
    - pidfile: {{ redis.run }}/redis.pid
    - restart:
      - {{ redis.config }}
      {%- if systemd %}
      - {{ unit }}
      {%- endif %}
    - ready: redis-cli -s {{ redis.socket }} ping
    - keep:
        {{ redis.config }}: {{ facts.kept }}/redis.conf
    - require:
      - pkg: mailsrv-rspamd-packages
    - watch:
      - file: mailsrv-redis-config
      - file: mailsrv-redis-unit
{%- elif systemd %}
{#- What was learned stays, for who comes back to it. #}
{%- if salt["file.file_exists"](default) %}

# Nobody has ever asked for it.
mailsrv-redis-default-retired:
  daemon.stopped:
    - name: {{ redis.default }}
    - require_in:
      - daemon: mailsrv-redis-retired
{%- endif %}

mailsrv-redis-retired:
  daemon.removed:
    - name: {{ redis.service }}.service
    - files: {{ files | json }}
{%- elif "script" in redis %}

mailsrv-redis-retired:
  daemon.stopped:
    - name: {{ redis.service }}
  file.absent:
    - names:
      - {{ redis.script }}
      - {{ redis.config }}
    - require:
      - daemon: mailsrv-redis-retired
{%- endif %}
{%- endif %}
