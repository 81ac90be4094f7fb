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
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"

mailsrv-genkeys-password-key:
  cmd.run:
    - name: umask 077 && head -c 32 /dev/urandom > "$KEY.new" && mv "$KEY.new" "$KEY"
    - env:
        - KEY: {{ os.directory }}/password.key
    - creates: {{ os.directory }}/password.key
    - require:
      - file: mailsrv-genkeys-directory
  file.managed:
    - name: {{ os.directory }}/password.key
    - replace: False
    - create: False
    - user: root
    - group: {{ os.root_group }}
    - mode: "0600"
    - require:
      - cmd: mailsrv-genkeys-password-key

# smtpd.conf includes it: the key is in no template. A new name in the pillar makes a new key; bounces
# to addresses made with the one before still come back.
mailsrv-genkeys-srs-key:
  cmd.run:
    - name: >-
        umask 077 && {
        [ -z "$NAME" ] || printf '# %s\n' "$NAME";
        printf 'srs key "%s"\n' "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')";
        [ ! -e "$KEY" ] || sed -n 's/^srs key "/srs key backup "/p' "$KEY";
        } > "$KEY.new" && mv "$KEY.new" "$KEY"
    - unless: '[ -e "$KEY" ] && [ "$(sed -n "s/^# //p" "$KEY")" = "$NAME" ]'
    - env:
        - KEY: {{ os.directory }}/srs.conf
        - NAME: {{ mailsrv.srs.key | yaml_dquote }}
    - require:
      - file: mailsrv-genkeys-directory
  file.managed:
    - name: {{ os.directory }}/srs.conf
    - replace: False
    - create: False
    - user: root
    - group: {{ os.root_group }}
    - mode: "0600"
    - require:
      - cmd: mailsrv-genkeys-srs-key
{%- for key in mailsrv.dkim["keys"] %}

{{ key.private }}:
  dkim.key_present:
    - public: {{ key.public }}
    - selector: {{ key.selector | yaml_dquote }}
    - algorithm: {{ key.algorithm }}
    - bits: {{ mailsrv.dkim.bits }}
    - user: {{ os[mailsrv.dkim.signer].user }}
    - adopt: {{ key.adopt | json }}
    {%- if key.bare %}
    - bare: {{ key.bare }}
    {%- endif %}
    - require:
      - user: mailsrv-signer-user

{{ key.signing }}:
  dkim.signing:
    - selector: {{ key.selector | yaml_dquote }}
    - domains: {{ key.domains | json }}
    - keep: {{ os.dkim.keep }}
    - revoked: {{ key.revoked | json }}
    - waits: {{ key.waits }}
    - user: {{ os[mailsrv.dkim.signer].user }}
    - adopt: {{ key.adopt_signing | json }}
    - bare: {{ key.bare != "" }}
    - require:
      - dkim: {{ key.private }}
    - require_in:
      - cmd: mailsrv-genkeys-signing-unused
{%- endfor %}
{%- set unused %}find {{ os.dkim.directory }} -name '*.signing' {%- for key in mailsrv.dkim["keys"] %} ! -path {{ key.signing }}{% endfor %}{% endset %}

# Of an algorithm that is off, or another signer: what it remembers will not be true when it returns.
mailsrv-genkeys-signing-unused:
  cmd.run:
    - name: {{ unused }} -delete
    - onlyif: {{ unused }} | grep -q .
{%- endif %}
