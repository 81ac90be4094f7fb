{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- elif "web" in facts %}
{%- set web = facts.web %}
{%- set record = facts.run ~ "/web" %}
{%- set kept = facts.kept ~ "/nginx-site" %}
{#- Where nginx was here before us, the site for all other names is somebody's. #}
{%- set brought = salt["file.search"](web.default, "Managed by Salt .mailsrv.web", ignore_if_missing=True) %}
{%- set ours = [web.site] + ([web.default] if brought or not salt["pkg.version"](web.packages[0]) else []) %}
{%- if model.web %}
include:
  - mailsrv.tls
  - mailsrv.guard
{%- if web.default in ours %}

# Before the package puts its own page there.
mailsrv-web-default:
  file.managed:
    - name: {{ web.default }}
    - source: salt://mailsrv/web/default
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - follow_symlinks: False
    - require_in:
      - pkg: mailsrv-web-packages
    - watch_in:
      - daemon: mailsrv-web-service
{%- endif %}

mailsrv-web-packages:
  pkg.installed:
    - pkgs: {{ web.packages | json }}
    - install_recommends: False

mailsrv-web-files:
  mailsrv.served:
    - name: {{ web.files }}
    - require:
      - file: mailsrv-guard-kept

mailsrv-web-challenges:
  file.directory:
    - name: {{ web.challenges }}/.well-known/acme-challenge
    - makedirs: True
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - require:
      - file: mailsrv-guard-kept

# It stands among the sites of a copy of all: its own check reads no part alone.
mailsrv-web-config:
  file.managed:
    - name: {{ web.site }}
    - source: salt://mailsrv/web/site
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: >-
        sh -c 'set -e; all=$(mktemp -d); trap "rm -r $all" 0;
        cp -r {{ web.directory }}/. "$all"; cp "$0" "$all/sites-enabled/zz-mailsrv";
        sed -i "s,{{ web.directory }}/,$all/,g" "$all/nginx.conf";
        nginx -T -q -c "$all/nginx.conf" | grep "mailsrv.web.: policies" >/dev/null'
    - require:
      - sls: mailsrv.tls
      - pkg: mailsrv-web-packages

# Whoever else has sites here is not disturbed: it is reloaded.
mailsrv-web-service:
  daemon.running:
    - name: {{ web.service }}
    - record: {{ record }}
    - reload: {{ (ours + [model.tls.cert, model.tls.key]) | json }}
    - port: 443
    - keep:
        {{ web.site }}: {{ kept }}
    - watch:
      - file: mailsrv-web-config
    - require:
      - mailsrv: mailsrv-web-files
      - file: mailsrv-web-challenges
{%- else %}

# nginx itself stays, with whatever else it does.
mailsrv-web-retired:
  daemon.without:
    - name: {{ web.service }}
    - record: {{ record }}
    - files: {{ ([web.site] + ([web.default] if brought else [])) | json }}

mailsrv-web-gone:
  file.absent:
    - names:
      - {{ web.files }}
      - {{ web.challenges }}
      - {{ kept }}
    - require:
      - daemon: mailsrv-web-retired
{%- endif %}
{%- if model.dns.dropped %}

mailsrv-web-dropped:
  test.configurable_test_state:
    - name: MTA-STS
    - changes: False
    - result: True
    - comment: {{ model.dns.dropped | yaml_dquote }}
    - warnings: {{ model.dns.dropped | yaml_dquote }}
{%- endif %}
{%- endif %}
