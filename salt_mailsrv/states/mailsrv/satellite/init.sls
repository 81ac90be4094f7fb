{%- from "mailsrv/refused.sls" import not_synced, refusal with context %}
{%- if not_synced %}
include: [mailsrv.refused]
{%- else %}
{%- set certificate = salt["mailsrv.mined_certificate"](pillar) %}
{%- set faults = salt["mailsrv.satellite_faults"](pillar, opts["id"], salt["mailsrv.facts"](), certificate) %}
{%- if faults %}
{{- refusal("mailsrv-pillar-is-not-valid", faults) }}
{%- else %}
{%- from "mailsrv/satellite/map.jinja" import satellite, certificate, os with context %}
{%- set password, hash = os.directory ~ "/satellite.password", os.directory ~ "/satellite.hash" %}
include:
  - mailsrv.satellite.{{ satellite.agent }}

mailsrv-satellite-packages:
  pkg.installed:
    - pkgs: {{ os.satellite.packages | json }}

mailsrv-satellite-directory:
  file.directory:
    - name: {{ os.directory }}
    - makedirs: True
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"

# Made here and never shown: the mail machine gets to know the hash.
mailsrv-satellite-credential:
  mailsrv.credential_present:
    {%- if satellite.agent == "dma" %}
    - name: {{ os.dma.auth }}
    - line: {{ satellite.name }}|{{ satellite.relay }}:PASSWORD
    - group: {{ os.dma.group }}
    {%- else %}
    - name: {{ os.directory }}/satellite.secrets
    - line: relay {{ satellite.name }}:PASSWORD
    - group: {{ os.opensmtpd.group }}
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
    - name: {{ os.opensmtpd.mailname }}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - contents: {{ satellite.name | yaml_dquote }}
    - makedirs: True
    - require:
      - pkg: mailsrv-{{ satellite.agent }}-packages
{%- if satellite.ca_source or satellite.ca == os.directory ~ "/relay.pem" %}

mailsrv-satellite-ca:
  file.managed:
    - name: {{ satellite.ca }}
    {%- if satellite.ca_source %}
    - source: {{ satellite.ca_source }}
    {%- else %}
    - contents: {{ certificate | yaml_dquote }}
    {%- endif %}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-satellite-directory
    - require_in:
      - file: mailsrv-{{ satellite.agent }}-config
    {%- if satellite.agent == "opensmtpd" %}
    - watch_in:
      - service: mailsrv-opensmtpd-service
    {%- endif %}
{%- endif %}
{%- endif %}
{%- endif %}
