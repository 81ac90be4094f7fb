{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import comes_back, keep, lets_go, timer with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.dovecot.upgrade
{{- keep("dovecot", facts.dovecot.directory ~ "/dovecot.conf") }}

mailsrv-dovecot-packages:
  pkg.installed:
    - pkgs: {{ facts.dovecot.packages | json }}
{%- if model.search %}

mailsrv-dovecot-search:
  pkg.installed:
    - pkgs: {{ (facts.dovecot.search + (facts.dovecot.decoders if model.search.attachments else [])) | json }}
    - require:
      - pkg: mailsrv-dovecot-packages
    - require_in:
      - file: mailsrv-dovecot-config
{%- endif %}

{{- comes_back("dovecot", facts) }}

mailsrv-vmail:
  user.present:
    - name: vmail
    - system: True
    - home: {{ facts.vmail.home }}
    - createhome: False
    - shell: {{ facts.vmail.shell }}
  file.directory:
    - name: {{ facts.vmail.home }}
    - user: vmail
    - group: vmail
    - mode: "0700"
    - require:
      - user: mailsrv-vmail
  # Restored from a machine where vmail had another number: nobody's mailbox opened.
  vmail.owned:
    - name: {{ facts.vmail.home }}
    - domains: {{ model.domains | json }}
    - require:
      - file: mailsrv-vmail

mailsrv-dovecot-passwd:
  file.managed:
    - name: {{ facts.dovecot.directory }}/dovecot-passwd
    - source: salt://mailsrv/dovecot/dovecot-passwd
    - template: jinja
    - user: root
    - group: dovecot
    - mode: "0640"
    - show_changes: False
    - require:
      - pkg: mailsrv-dovecot-packages
      - mailsrv: mailsrv-genkeys-password-key
{%- if model.removed %}

mailsrv-dovecot-removed:
  mailsrv.accounts_removed:
    - accounts: {{ model.removed | json }}
    - require:
      - file: mailsrv-dovecot-passwd
{%- endif %}

mailsrv-dovecot-sieve-directory:
  file.directory:
    - name: {{ facts.dovecot.directory }}/sieve
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - require:
      - pkg: mailsrv-dovecot-packages
{#- What sievec(1) does not read in dovecot.conf, where these two are for IMAP alone. #}
{%- set pipes = ["-P", "sieve_extprograms", "-P", "sieve_imapsieve", "-x", "+vnd.dovecot.pipe +imapsieve"] %}
{%- for name, options in [("global", []), ("junk", [])] + ([("learn-ham", pipes), ("learn-spam", pipes)] if model.learns else []) %}

mailsrv-dovecot-sieve-{{ name }}:
  file.managed:
    - name: {{ facts.dovecot.directory }}/sieve/{{ name }}.sieve
    - source: salt://mailsrv/dovecot/{{ name }}.sieve
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: sievec {% for option in options %}{{ option | yaml_squote if " " in option else option }} {% endfor %}-d
    - require:
      - file: mailsrv-dovecot-sieve-directory
      - file: mailsrv-dovecot-config
  dovecot.sieve_compiled:
    - name: {{ facts.dovecot.directory }}/sieve/{{ name }}.sieve
    {%- if options %}
    - options: {{ options | json }}
    {%- endif %}
    - watch:
      - file: mailsrv-dovecot-sieve-{{ name }}
    - require_in:
      - daemon: mailsrv-dovecot-service
{%- endfor %}

mailsrv-dovecot-vacations:
  file.directory:
    - name: {{ facts.dovecot.directory }}/sieve/vacation
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - require:
      - file: mailsrv-dovecot-sieve-directory
  dovecot.vacations:
    - name: {{ facts.dovecot.directory }}/sieve/vacation
    - accounts: {{ model.accounts | selectattr("vacation") | map(attribute="address") | list | json }}
    - require:
      - file: mailsrv-dovecot-vacations
{%- for account in model.accounts if account.vacation %}

mailsrv-dovecot-vacation-{{ account.address }}:
  file.managed:
    - name: {{ facts.dovecot.directory }}/sieve/vacation/{{ account.address }}.sieve
    - source: salt://mailsrv/dovecot/vacation.sieve
    - template: jinja
    - context:
        address: {{ account.address }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: sievec -d
    - require:
      - file: mailsrv-dovecot-vacations
      - file: mailsrv-dovecot-config
  dovecot.sieve_compiled:
    - name: {{ facts.dovecot.directory }}/sieve/vacation/{{ account.address }}.sieve
    - watch:
      - file: mailsrv-dovecot-vacation-{{ account.address }}
{%- endfor %}
{%- if model.quota_warning %}

mailsrv-dovecot-quota-warning:
  file.managed:
    - name: {{ facts.dovecot.directory }}/quota-warning
    - source: salt://mailsrv/dovecot/quota-warning
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - check_cmd: sh -n
    - require:
      - pkg: mailsrv-dovecot-packages
    - require_in:
      - daemon: mailsrv-dovecot-service
{%- endif %}
{%- if model.search and model.search.attachments %}

mailsrv-dovecot-decode2text:
  file.managed:
    - name: {{ facts.dovecot.directory }}/decode2text
    - source: salt://mailsrv/dovecot/decode2text
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - check_cmd: sh -n
    - require:
      - pkg: mailsrv-dovecot-search
    - require_in:
      - daemon: mailsrv-dovecot-service
{%- endif %}

mailsrv-dovecot-config:
  file.managed:
    - name: {{ facts.dovecot.directory }}/dovecot.conf
    - source: salt://mailsrv/dovecot/dovecot.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    # Salt calls no shell. What it prints would show the TLS key.
    - check_cmd: sh -c 'doveconf -x -n -c "$0" >/dev/null'
    - require:
      - pkg: mailsrv-dovecot-packages
      - file: mailsrv-dovecot-passwd
      - file: mailsrv-blocked
      - sls: mailsrv.tls
{{- lets_go("dovecot", facts) }}

# A reload does not see the protocol that a package brought: port 4190 stayed closed.
mailsrv-dovecot-service:
  daemon.running:
    - name: {{ facts.dovecot.service }}
    - record: {{ facts.run }}/dovecot
    - pidfile: {{ facts.dovecot.pidfile }}
    - restart:
      - {{ facts.dovecot.programs }}
    - reload:
      - {{ facts.dovecot.directory }}/dovecot.conf
      - {{ model.tls.cert }}
      - {{ model.tls.key }}
    - ready: doveadm service status
    - keep:
        {{ facts.dovecot.directory }}/dovecot.conf: {{ facts.kept }}/dovecot.conf
    - require:
      - file: mailsrv-vmail
    - watch:
      - pkg: mailsrv-dovecot-packages
      - file: mailsrv-dovecot-config
      - sls: mailsrv.tls

mailsrv-dovecot-purge-program:
  file.managed:
    - name: {{ facts.dovecot.directory }}/purge
    - source: salt://mailsrv/dovecot/purge
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - check_cmd: sh -n
    - require:
      - pkg: mailsrv-dovecot-packages
{%- if systemd %}
{{- timer("mailsrv-dovecot-purge", "dovecot", "mailsrv-purge", facts, [
  {"daemon": "mailsrv-dovecot-service"}, {"file": "mailsrv-dovecot-purge-program"},
]) }}
{%- else %}

mailsrv-dovecot-purge:
  file.managed:
    - name: {{ facts.cron }}/mailsrv-purge
    - contents: |
        # Managed by Salt (mailsrv.dovecot): changes here are overwritten.
        PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin
        17 3 * * * root {{ facts.dovecot.directory }}/purge
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
{%- endif %}
{%- set moving = model.moves | selectattr("phase", "in", ["frozen", "waiting"]) | sum(attribute="accounts", start=[]) %}

mailsrv-dovecot-kick:
  dovecot.logged_out:
    - name: {{ facts.dovecot.directory }}/dovecot-passwd
    - removed: {{ (model.removed + model.blocked + moving) | json }}
    - require:
      - file: mailsrv-dovecot-passwd
      - daemon: mailsrv-dovecot-service
{%- endif %}
