{%- from "mailsrv/map.jinja" import model, facts, systemd, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import unit with context %}
{#- What its users put into Junk and out of it: Dovecot has teach lay a copy of the message into the
    spool, and learn.py gives it to rspamd. #}
{%- set spool = facts.learning.spool %}
{%- set program = facts.directory ~ "/learn.py" %}
{%- set programs = facts.dovecot.directory ~ "/imapsieve" %}
include:
  - mailsrv.guard
  - mailsrv.dovecot
  - mailsrv.rspamd
{%- if model.learns %}

# Dovecot, which runs as vmail, writes into two directories of it, and the rest is none of its business.
mailsrv-learning-spool:
  file.directory:
    - name: {{ spool }}
    - user: {{ facts.rspamd.user }}
    - group: vmail
    - mode: "0750"
    - require:
      - user: mailsrv-vmail
      - pkg: mailsrv-rspamd-packages

mailsrv-learning-messages:
  file.directory:
    - names:
      - {{ spool }}/new
      - {{ spool }}/tmp
    - user: vmail
    - group: {{ facts.rspamd.user }}
    - mode: "2770"
    - require:
      - file: mailsrv-learning-spool

mailsrv-learning-teach:
  file.managed:
    - name: {{ programs }}/teach
    - source: salt://mailsrv/learning/teach
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - makedirs: True
    - check_cmd: {{ facts.opensmtpd.perl }} -c
    - require:
      - file: mailsrv-learning-messages
      - pkg: mailsrv-dovecot-packages
    - require_in:
      - daemon: mailsrv-dovecot-service

mailsrv-learning-program:
  file.managed:
    - name: {{ program }}
    - source: salt://mailsrv/learning/learn.py
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: {{ facts.guard.python }} -I -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())'
    - require:
      - pkg: mailsrv-guard-packages
      - file: mailsrv-genkeys-directory
{%- if systemd %}
{{- unit("mailsrv-learning", "learning", "mailsrv-learning", "path", facts, [
  {"daemon": "mailsrv-rspamd-service"}, {"file": "mailsrv-learning-program"}, {"file": "mailsrv-learning-messages"},
]) }}
{%- else %}
{%- set learn = [facts.guard.python, "-I", program, spool, facts.rspamd.controller] | join(" ") %}

mailsrv-learning:
  file.managed:
    - name: {{ facts.cron }}/mailsrv-learning
    - contents: |
        # Managed by Salt (mailsrv.learning): changes here are overwritten.
        * * * * * {{ facts.rspamd.user }} {{ learn }} 2>&1 | logger -p mail.notice -t mailsrv-learning
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - require:
      - file: mailsrv-learning-program
      - daemon: mailsrv-rspamd-service
{%- endif %}
{%- else %}
{%- if systemd %}

mailsrv-learning-retired:
  daemon.removed:
    - name: mailsrv-learning.path
    - files:
      - {{ facts.units }}/mailsrv-learning.path
      - {{ facts.units }}/mailsrv-learning.service
    - require_in:
      - file: mailsrv-learning-gone
{%- endif %}

mailsrv-learning-gone:
  file.absent:
    - names:
      - {{ spool }}
      - {{ programs }}
      - {{ program }}
      {%- for kind in ("ham", "spam") %}
      - {{ facts.dovecot.directory }}/sieve/learn-{{ kind }}.sieve
      - {{ facts.dovecot.directory }}/sieve/learn-{{ kind }}.svbin
      {%- endfor %}
      {%- if not systemd %}
      - {{ facts.cron }}/mailsrv-learning
      {%- endif %}
    - require:
      - daemon: mailsrv-dovecot-service
{%- endif %}
{%- endif %}
