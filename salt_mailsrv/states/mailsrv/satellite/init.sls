{%- from "mailsrv/macros.jinja" import refusal with context %}
{%- from "mailsrv/map.jinja" import certificate, not_synced, facts, satellite, satellite_refused, stranded with context %}
{%- if satellite_refused %}
{{- refusal(satellite_refused, not_synced, stranded) }}
{%- else %}
{%- set password, hash = facts.directory ~ "/satellite.password", facts.directory ~ "/satellite.hash" %}
include:
  - mailsrv.satellite.{{ satellite.agent }}

mailsrv-satellite-packages:
  pkg.installed:
    - pkgs: {{ facts.satellite.packages | json }}

mailsrv-satellite-directory:
  file.directory:
    - name: {{ facts.directory }}
    - makedirs: True
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"

# Made here and never shown: the mail machine gets to know the hash.
mailsrv-satellite-credential:
  mailsrv.credential_present:
    {%- if satellite.agent == "dma" %}
    - name: {{ facts.dma.auth }}
    - line: {{ satellite.name }}|{{ satellite.relay }}:PASSWORD
    - group: {{ facts.dma.group }}
    {%- else %}
    - name: {{ facts.directory }}/satellite.secrets
    - line: relay {{ satellite.name }}:PASSWORD
    - group: {{ facts.opensmtpd.group }}
    {%- endif %}
    - password: {{ password }}
    - hash: {{ hash }}
    - require:
      - file: mailsrv-satellite-directory
      - pkg: mailsrv-satellite-packages
      - pkg: mailsrv-{{ satellite.agent }}-packages

mailsrv-satellite-published:
  mailsrv.published:
    - name: mailsrv.satellite_credential
    - reader: {{ satellite.minion }}
    - require:
      - mailsrv: mailsrv-satellite-credential

mailsrv-satellite-mailname:
  file.managed:
    - name: {{ facts.opensmtpd.mailname }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - contents: {{ satellite.name | yaml_dquote }}
    - makedirs: True
    - require:
      - pkg: mailsrv-{{ satellite.agent }}-packages
{%- if satellite.ca_source or satellite.ca == facts.directory ~ "/relay.pem" %}

mailsrv-satellite-ca:
  file.managed:
    - name: {{ satellite.ca }}
    {%- if satellite.ca_source %}
    - source: {{ satellite.ca_source }}
    {%- else %}
    - contents: {{ certificate | yaml_dquote }}
    {%- endif %}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-satellite-directory
    - require_in:
      - file: mailsrv-{{ satellite.agent }}-config
    {%- if satellite.agent == "opensmtpd" %}
    - watch_in:
      - daemon: mailsrv-opensmtpd-service
    {%- endif %}
{%- endif %}
{%- endif %}
