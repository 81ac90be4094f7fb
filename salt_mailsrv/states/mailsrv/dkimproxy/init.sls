{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os, systemd with context %}
{%- set dkimproxy = os.dkimproxy %}
include:
  - mailsrv.genkeys
{%- if mailsrv.dkim.signer == "dkimproxy" %}

mailsrv-dkimproxy-packages:
  pkg.installed:
    - pkgs: {{ dkimproxy.packages | json }}

mailsrv-signer-user:
  user.present:
    - name: {{ dkimproxy.user }}
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: {{ os.vmail.shell }}
    - require:
      - pkg: mailsrv-dkimproxy-packages
{%- if dkimproxy.install %}

# No package here: the release archive is all there is, and all that is needed.
mailsrv-dkimproxy-archive:
  archive.extracted:
    - name: {{ mailsrv.dkim.archive.directory }}
    - source: {{ mailsrv.dkim.archive.source }}
    - source_hash: {{ mailsrv.dkim.archive.source_hash }}
    - archive_format: tar
    - options: --strip-components=1
    - enforce_toplevel: False
    - user: root
    - group: root
    - if_missing: {{ mailsrv.dkim.archive.directory }}/scripts/dkimproxy.out
    - require:
      - pkg: mailsrv-dkimproxy-packages

mailsrv-dkimproxy-unit:
  file.managed:
    {%- if systemd %}
    - name: {{ os.units }}/{{ dkimproxy.service }}.service
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.service
    - mode: "0644"
    {%- else %}
    - name: /etc/init.d/{{ dkimproxy.service }}
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.init
    - mode: "0755"
    {%- endif %}
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - require_in:
      - service: mailsrv-dkimproxy-service
    - watch_in:
      - service: mailsrv-dkimproxy-service
{%- endif %}

mailsrv-dkimproxy-map:
  file.managed:
    - name: {{ dkimproxy.map }}
    - source: salt://mailsrv/dkimproxy/keyfiles
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - makedirs: True
    - require:
      {%- for key in mailsrv.dkim["keys"] %}
      - dkim: {{ key.signing }}
      {%- endfor %}

{%- for variable, value in dkimproxy.rc.items() %}

mailsrv-rc-{{ variable }}:
  sysrc.managed:
    - name: {{ variable }}
    - value: {{ value | yaml_dquote }}
    - watch_in:
      - service: mailsrv-dkimproxy-service
{%- endfor %}

mailsrv-dkimproxy-config:
  file.managed:
    - name: {{ dkimproxy.config }}
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"

mailsrv-dkimproxy-service:
  service.running:
    - name: {{ dkimproxy.service }}
    - enable: True
    - require:
      {%- for key in mailsrv.dkim["keys"] %}
      - dkim: {{ key.signing }}
      {%- endfor %}
    - watch:
      - file: mailsrv-dkimproxy-map
      - file: mailsrv-dkimproxy-config
      {%- if dkimproxy.install %}
      - archive: mailsrv-dkimproxy-archive
      {%- endif %}
{%- endif %}
{%- endif %}
