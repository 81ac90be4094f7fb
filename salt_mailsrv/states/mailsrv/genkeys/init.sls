{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
include:
  - mailsrv.{{ model.dkim.signer }}

# Keys are made on the minion, once, and never leave it.

mailsrv-genkeys-directory:
  file.directory:
    - name: {{ facts.directory }}
    - makedirs: True
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"

# The name that the mail server has had: it stays, whatever DNS says of the machine later. Here,
# since the room of every daemon that is told the name includes this one.
mailsrv-hostname:
  file.managed:
    - name: {{ facts.directory }}/hostname
    - contents: {{ model.hostname | yaml_dquote }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-genkeys-directory

# Which domains move, before anything is done about it: what it has reached is never put back.
mailsrv-moving:
  moving.noted:
    - name: {{ facts.kept }}/moving.json
    - require_in:
      - mailsrv: mailsrv-genkeys-password-key

# Who neither logs in nor sends: Dovecot and guard read it. Here for the same reason.
mailsrv-blocked:
  file.managed:
    - name: {{ facts.directory }}/blocked
    - source: salt://mailsrv/genkeys/blocked
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-genkeys-directory

mailsrv-genkeys-tidy:
  mailsrv.tidied:
    - name: {{ facts.directory }}
    - files:
      - {{ facts.opensmtpd.config }}
      - {{ facts.opensmtpd.mailname }}
      - {{ facts.dovecot.directory }}/dovecot.conf
      - {{ facts.dovecot.directory }}/dovecot-passwd
      - {{ facts.rspamd.config }}
      - {{ facts.dkimproxy.config }}

mailsrv-genkeys-password-key:
  mailsrv.password_key:
    - name: {{ facts.directory }}/password.key
    - require:
      - file: mailsrv-genkeys-directory

# smtpd.conf includes it: the key is in no template.
mailsrv-genkeys-srs-key:
  mailsrv.srs_key:
    - name: {{ facts.directory }}/srs.conf
    - key: {{ model.srs.key | yaml_dquote }}
    - require:
      - file: mailsrv-genkeys-directory
{%- for key in model.dkim["keys"] %}

{{ key.private }}:
  dkim.key_present:
    - public: {{ key.public }}
    - selector: {{ key.selector | yaml_dquote }}
    - algorithm: {{ key.algorithm }}
    - bits: {{ model.dkim.bits }}
    - user: {{ facts[model.dkim.signer].user }}
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
    - keep: {{ facts.dkim.keep }}
    - revoked: {{ key.revoked | json }}
    - waits: {{ key.waits }}
    - user: {{ facts[model.dkim.signer].user }}
    - adopt: {{ key.adopt_signing | json }}
    - bare: {{ key.bare != "" }}
    - require:
      - dkim: {{ key.private }}
    - require_in:
      - dkim: mailsrv-genkeys-signing-unused
{%- endfor %}

mailsrv-genkeys-signing-unused:
  dkim.remembered:
    - name: {{ facts.dkim.directory }}
    - used: {{ model.dkim["keys"] | map(attribute="signing") | list | json }}
    - domains: {{ facts.dkim.directory }}/domains
{%- endif %}
