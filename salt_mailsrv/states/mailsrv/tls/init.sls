{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- set tls = model.tls %}
{%- if tls.self_signed or tls.acme %}
mailsrv-tls-directory:
  file.directory:
    - name: {{ facts.tls.directory }}
    - makedirs: True
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"

mailsrv-tls-packages:
  pkg.installed:
    - pkgs: {{ facts.tls.packages | json }}
{%- endif %}
{%- if tls.self_signed %}

mailsrv-tls-self-signed:
  certificate.self_signed:
    - name: {{ tls.cert }}
    - key: {{ tls.key }}
    - hostname: {{ model.hostname }}
    - require:
      - file: mailsrv-tls-directory
      - pkg: mailsrv-tls-packages
{%- elif tls.acme %}

# Until mailsrv.acme has one of the CA, clients see what they have seen until now.
mailsrv-tls-begun:
  certificate.begun:
    - name: {{ tls.cert }}
    - key: {{ tls.key }}
    - hostname: {{ model.hostname }}
    - next: {{ tls.acme.next }}
    - kind: {{ tls.acme.key }}
    - adopt:
      {%- for before in (".copy", "") %}
      - {{ (facts.tls.directory ~ "/" ~ model.hostname ~ before ~ ".crt", facts.tls.directory ~ "/" ~ model.hostname ~ before ~ ".key") | json }}
      {%- endfor %}
    - require:
      - file: mailsrv-tls-directory
      - pkg: mailsrv-tls-packages
{%- else %}
# First of all: where it is refused, nothing has been touched and the old one is still served.
mailsrv-tls-certificate:
  certificate.installed:
    - name: {{ tls.cert }}
    - key: {{ tls.key }}
    - source: {{ tls.sources.cert }}
    - key_source: {{ tls.sources.key }}
    - hostname: {{ model.hostname }}
    - order: 1
    - failhard: True
{%- endif %}
{%- if model.has_fleet %}

# So that satellites can be sure of this machine.
mailsrv-tls-published:
  mailsrv.published:
    - name: mailsrv.certificate
    - require:
      {%- if tls.self_signed %}
      - certificate: mailsrv-tls-self-signed
      {%- elif tls.acme %}
      - certificate: mailsrv-tls-begun
      {%- else %}
      - certificate: mailsrv-tls-certificate
      {%- endif %}
{%- endif %}
{%- endif %}
