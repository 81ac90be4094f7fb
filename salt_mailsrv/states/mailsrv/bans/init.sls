{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- elif "fail2ban" in facts %}
{%- from "mailsrv/macros.jinja" import comes_back with context %}
{%- set program = facts.directory ~ "/guesses.py" %}
{%- set unit = facts.units ~ "/mailsrv-guesses.service" %}
{%- set table = facts.directory ~ "/bans.nft" %}
{%- set filter = facts.fail2ban.directory ~ "/filter.d/mailsrv.conf" %}
{%- set action = facts.fail2ban.directory ~ "/action.d/mailsrv.conf" %}
{%- set jail = facts.fail2ban.directory ~ "/jail.d/mailsrv.conf" %}
{%- if model.bans %}
include:
  - mailsrv.genkeys
  - mailsrv.guard

mailsrv-fail2ban-packages:
  pkg.installed:
    - pkgs: {{ facts.fail2ban.packages | json }}
    - install_recommends: False
{{- comes_back("fail2ban", facts) }}
{%- if salt["mailsrv.version"]("fail2ban") < [1, 1] and not salt["file.file_exists"]("/var/log/auth.log") %}

# Of Debian's own: "Have not found any log file for sshd jail", and fail2ban ends. Whatever else is
# said of that jail comes later.
mailsrv-fail2ban-sshd:
  file.managed:
    - name: {{ facts.fail2ban.directory }}/jail.d/defaults-mailsrv.conf
    - contents: |
        # Managed by Salt (mailsrv.bans): there is no auth.log.
        [sshd]
        backend = systemd
    - user: root
    - group: root
    - mode: "0644"
    - require:
      - pkg: mailsrv-fail2ban-packages
    - watch_in:
      - daemon: mailsrv-fail2ban-service
{%- endif %}

mailsrv-guesses-program:
  file.managed:
    - name: {{ program }}
    - source: salt://mailsrv/bans/guesses.py
    - user: root
    - group: root
    - mode: "0644"
    - check_cmd: {{ facts.guard.python }} -I -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())'
    - require:
      - pkg: mailsrv-guard-packages
      - file: mailsrv-genkeys-directory

mailsrv-guesses-unit:
  file.managed:
    - name: {{ unit }}
    - source: salt://mailsrv/bans/mailsrv-guesses.service
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"

mailsrv-guesses-service:
  daemon.running:
    - name: {{ facts.guesses.service }}
    - record: {{ facts.run }}/guesses
    - restart:
      - {{ program }}
      - {{ unit }}
    - watch:
      - file: mailsrv-guesses-program
      - file: mailsrv-guesses-unit

mailsrv-bans-table:
  file.managed:
    - name: {{ table }}
    - source: salt://mailsrv/bans/bans.nft
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"
    - check_cmd: nft -c -f
    - require:
      - pkg: mailsrv-fail2ban-packages
      - file: mailsrv-genkeys-directory

mailsrv-bans-filter:
  file.managed:
    - name: {{ filter }}
    - source: salt://mailsrv/bans/filter.conf
    - user: root
    - group: root
    - mode: "0644"
    - check_cmd: "fail2ban-regex 'mx mailsrv-guesses[1]: 192.0.2.1 wrong password for ann, Dovecot'"
    - require:
      - pkg: mailsrv-fail2ban-packages

mailsrv-bans-action:
  file.managed:
    - name: {{ action }}
    - source: salt://mailsrv/bans/action.conf
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"
    - require:
      - file: mailsrv-bans-table

mailsrv-bans-jail:
  file.managed:
    - name: {{ jail }}
    - source: salt://mailsrv/bans/jail.conf
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"
    # It reads a directory, not a file.
    - check_cmd: >-
        sh -c 'set -e; all=$(mktemp -d); trap "rm -r $all" 0;
        cp -r {{ facts.fail2ban.directory }}/. "$all"; cp "$0" "$all/jail.d/mailsrv.conf";
        fail2ban-client -c "$all" -t'
    - require:
      - file: mailsrv-bans-filter
      - file: mailsrv-bans-action

# What else flushes the firewall takes the table away: it is back after a start.
mailsrv-fail2ban-service:
  daemon.running:
    - name: {{ facts.fail2ban.service }}
    - record: {{ facts.run }}/fail2ban
    - restart:
      - {{ table }}
      - {{ filter }}
      - {{ action }}
      - {{ jail }}
    - ready: nft list set inet mailsrv banned6
    - keep:
        {{ jail }}: {{ facts.kept }}/jail.conf
    - watch:
      - file: mailsrv-bans-jail
      - file: mailsrv-bans-action
      - file: mailsrv-bans-filter
      - file: mailsrv-bans-table
{%- else %}

# fail2ban itself stays, with whatever else it does.
mailsrv-guesses-retired:
  daemon.stopped:
    - name: {{ facts.guesses.service }}

mailsrv-bans-absent:
  bans.absent:
    - name: mailsrv
    - files: {{ [jail, filter, action, table, program, unit, facts.units ~ "/" ~ facts.fail2ban.service ~ ".service.d/mailsrv-fail2ban.conf"] | json }}
    - require:
      - daemon: mailsrv-guesses-retired
{%- endif %}
{%- endif %}
