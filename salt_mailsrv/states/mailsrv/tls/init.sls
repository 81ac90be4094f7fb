{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
{%- set tls = mailsrv.tls %}

mailsrv-tls-directory:
  file.directory:
    - name: {{ os.tls.directory }}
    - makedirs: True
    - mode: "0755"
{%- if tls.self_signed %}

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

mailsrv-tls-packages:
  pkg.installed:
    - pkgs: {{ os.tls.packages | json }}
{%- endif %}
{%- for part, source in tls.sources.items() %}

mailsrv-tls-{{ part }}:
  file.managed:
    - name: {{ tls[part] }}
    - source: {{ source }}
    - mode: "0600"
    - show_changes: False
    - require:
      - file: mailsrv-tls-directory
{%- endfor %}
{%- if mailsrv.has_fleet %}

# So that satellites can be sure of this machine.
mailsrv-tls-published:
  mailsrv.published:
    - name: mailsrv.certificate
    {%- if tls.self_signed %}
    - require:
      - cmd: mailsrv-tls-self-signed
    {%- endif %}
{%- endif %}
{%- endif %}
