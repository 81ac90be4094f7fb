{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import comes_back, keep with context %}
{%- set dkimproxy = facts.dkimproxy %}
include:
  - mailsrv.genkeys
{%- if model.dkim.signer == "dkimproxy" %}
{{- keep("dkimproxy", dkimproxy.config) }}

mailsrv-dkimproxy-packages:
  pkg.installed:
    - pkgs: {{ dkimproxy.packages | json }}

mailsrv-signer-user:
  user.present:
    - name: {{ dkimproxy.user }}
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: {{ facts.vmail.shell }}
    - require:
      - pkg: mailsrv-dkimproxy-packages
{%- if dkimproxy.install %}

# No package here: the release archive is all there is, and all that is needed.
mailsrv-dkimproxy-archive:
  archive.extracted:
    - name: {{ model.dkim.archive.directory }}
    - source: {{ model.dkim.archive.source }}
    - source_hash: {{ model.dkim.archive.source_hash }}
    - archive_format: tar
    - options: --strip-components=1
    - enforce_toplevel: False
    - user: root
    - group: root
    - if_missing: {{ model.dkim.archive.directory }}/scripts/dkimproxy.out
    - require:
      - pkg: mailsrv-dkimproxy-packages

{%- set unit = (facts.units ~ "/" ~ dkimproxy.service ~ ".service") if systemd else "/etc/init.d/" ~ dkimproxy.service %}

mailsrv-dkimproxy-unit:
  file.managed:
    - name: {{ unit }}
    {%- if systemd %}
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.service
    - mode: "0644"
    {%- else %}
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.init
    - mode: "0755"
    {%- endif %}
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - watch_in:
      - daemon: mailsrv-dkimproxy-service
{%- endif %}

mailsrv-dkimproxy-map:
  file.managed:
    - name: {{ dkimproxy.map }}
    - source: salt://mailsrv/dkimproxy/keyfiles
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - require:
      {%- for key in model.dkim["keys"] %}
      - dkim: {{ key.signing }}
      {%- endfor %}

{%- if not dkimproxy.install %}
{{- comes_back("dkimproxy", facts) }}
{%- endif %}
{%- for variable, value in dkimproxy.rc.items() %}

# A file of its own: /etc/rc.conf changes whenever a service is enabled.
mailsrv-rc-{{ variable }}:
  file.managed:
    - name: {{ facts.rc_conf }}/{{ dkimproxy.service }}
    - contents: {{ (variable ~ '="' ~ value ~ '"') | yaml_dquote }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - watch_in:
      - daemon: mailsrv-dkimproxy-service
{%- endfor %}

mailsrv-dkimproxy-config:
  file.managed:
    - name: {{ dkimproxy.config }}
    - source: salt://mailsrv/dkimproxy/dkimproxy_out.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"

mailsrv-dkimproxy-service:
  daemon.running:
    - name: {{ dkimproxy.service }}
    - record: {{ facts.run }}/dkimproxy
    - pidfile: {{ dkimproxy.pidfile | yaml_dquote }}
    - restart:
      - {{ dkimproxy.config }}
      - {{ dkimproxy.map }}
      {%- if dkimproxy.install %}
      - {{ unit }}
      {%- endif %}
      {%- if dkimproxy.rc %}
      - {{ facts.rc_conf }}/{{ dkimproxy.service }}
      {%- endif %}
    - keep:
        {{ dkimproxy.config }}: {{ facts.kept }}/dkimproxy_out.conf
    - require:
      {%- for key in model.dkim["keys"] %}
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
