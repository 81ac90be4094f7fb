{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
{%- set tls = mailsrv.tls %}
{%- if tls.self_signed %}
mailsrv-tls-directory:
  file.directory:
    - name: {{ os.tls.directory }}
    - makedirs: True
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"

# Made once and kept: a new certificate would be a new warning in every mail client.
mailsrv-tls-self-signed:
  cmd.run:
    - name: >-
        umask 077 &&
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=${HOST%%.*}"
        -addext "subjectAltName=DNS:$HOST" -keyout "$KEY.new" -out "$CERT" 2>&1 &&
        mv "$KEY.new" "$KEY"
    - env:
        - HOST: {{ mailsrv.hostname }}
        - CERT: {{ tls.cert }}
        - KEY: {{ tls.key }}
    - creates: {{ tls.key }}
    - require:
      - file: mailsrv-tls-directory
      - pkg: mailsrv-tls-packages
{%- for name in ("cert", "key") %}

mailsrv-tls-self-signed-{{ name }}:
  file.managed:
    - name: {{ tls[name] }}
    - replace: False
    - create: False
    - user: root
    - group: {{ os.root_group }}
    - mode: "0600"
    - require:
      - cmd: mailsrv-tls-self-signed
{%- endfor %}

mailsrv-tls-packages:
  pkg.installed:
    - pkgs: {{ os.tls.packages | json }}
{%- else %}
# First of all: where it is refused, nothing has been touched and the old one is still served.
mailsrv-tls-certificate:
  certificate.installed:
    - name: {{ tls.cert }}
    - key: {{ tls.key }}
    - source: {{ tls.sources.cert }}
    - key_source: {{ tls.sources.key }}
    - hostname: {{ mailsrv.hostname }}
    - order: 1
    - failhard: True
{%- endif %}
{%- if mailsrv.has_fleet %}

# So that satellites can be sure of this machine.
mailsrv-tls-published:
  mailsrv.published:
    - name: mailsrv.certificate
    - require:
      {%- if tls.self_signed %}
      - cmd: mailsrv-tls-self-signed
      {%- else %}
      - certificate: mailsrv-tls-certificate
      {%- endif %}
{%- endif %}
{%- endif %}
