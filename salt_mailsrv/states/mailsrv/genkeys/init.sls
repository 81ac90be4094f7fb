{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os with context %}
include:
  - mailsrv.{{ mailsrv.dkim.signer }}

# Keys are made on the minion, once, and never leave it.

mailsrv-genkeys-directory:
  file.directory:
    - name: {{ os.directory }}
    - makedirs: True
    - mode: "0755"

mailsrv-genkeys-password-key:
  cmd.run:
    - name: umask 077 && head -c 32 /dev/urandom > "$KEY.new" && mv "$KEY.new" "$KEY"
    - env:
        - KEY: {{ os.directory }}/password.key
    - creates: {{ os.directory }}/password.key
    - require:
      - file: mailsrv-genkeys-directory

# smtpd.conf includes it: the key is in no template.
mailsrv-genkeys-srs-key:
  cmd.run:
    - name: >-
        umask 077 &&
        printf 'srs key "%s"\n' "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')" > "$KEY.new"
        && mv "$KEY.new" "$KEY"
    - env:
        - KEY: {{ os.directory }}/srs.conf
    - creates: {{ os.directory }}/srs.conf
    - require:
      - file: mailsrv-genkeys-directory
{%- for key in mailsrv.dkim["keys"] %}

{{ key.private }}:
  dkim.key_present:
    - public: {{ key.public }}
    - selector: {{ mailsrv.dkim.selector | yaml_dquote }}
    - bits: {{ mailsrv.dkim.bits }}
    - user: {{ os[mailsrv.dkim.signer].user }}
    - adopt: {{ key.adopt | json }}
    - require:
      - user: mailsrv-signer-user
{%- endfor %}
{%- endif %}
