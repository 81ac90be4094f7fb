{%- from "mailsrv/map.jinja" import model, facts, refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/macros.jinja" import keep with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.dovecot
  - mailsrv.{{ model.dkim.signer }}
  - mailsrv.rspamd
  - mailsrv.guard
  - mailsrv.opensmtpd.package
{{- keep("opensmtpd", facts.opensmtpd.config) }}

mailsrv-opensmtpd-mailname:
  file.managed:
    - name: {{ facts.opensmtpd.mailname }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - contents: {{ model.hostname | yaml_dquote }}
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- set logins = model.relay.ways | selectattr("login") | list %}
{%- set backup = facts.directory ~ "/backup" %}
{%- set tables = ["vdomains", "recipients", "virtuals", "sendas", "ours", "credentials"] + (["relays"] if logins else []) %}
{%- for table in tables %}

mailsrv-opensmtpd-{{ table }}:
  file.managed:
    - name: {{ facts.directory }}/{{ table }}
    - source: salt://mailsrv/opensmtpd/{{ table }}
    - template: jinja
    - user: root
    - group: {{ facts.opensmtpd.group }}
    - mode: "0640"
    {%- if table in ("credentials", "relays") %}
    - show_changes: False
    {%- endif %}
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - mailsrv: mailsrv-genkeys-password-key
    - require_in:
      - file: mailsrv-opensmtpd-config
    - watch_in:
      - daemon: mailsrv-opensmtpd-service
{%- endfor %}

{%- if model.backup_for %}

# What is known of the primaries: whoever gets mail there, and what the next run begins with.
mailsrv-opensmtpd-backup:
  file.directory:
    - name: {{ backup }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - require:
      - file: mailsrv-genkeys-directory

mailsrv-opensmtpd-backup-known:
  file.managed:
    - name: {{ backup }}/known
    - source: salt://mailsrv/opensmtpd/known
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0600"
    - require:
      - file: mailsrv-opensmtpd-backup

mailsrv-opensmtpd-backup-recipients:
  file.managed:
    - name: {{ backup }}/recipients
    - source: salt://mailsrv/opensmtpd/backups
    - template: jinja
    - user: root
    - group: {{ facts.opensmtpd.group }}
    - mode: "0640"
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - file: mailsrv-opensmtpd-backup
    - require_in:
      - file: mailsrv-opensmtpd-config
    - watch_in:
      - daemon: mailsrv-opensmtpd-service
{%- for primary in model.backup_for if primary.certificate %}

mailsrv-opensmtpd-backup-{{ primary.minion }}:
  file.managed:
    - name: {{ backup }}/{{ primary.minion }}.pem
    - contents: {{ primary.certificate | json }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - require:
      - file: mailsrv-opensmtpd-backup
    - require_in:
      - file: mailsrv-opensmtpd-config
{%- endfor %}
{%- endif %}

mailsrv-opensmtpd-deliver:
  file.managed:
    - name: {{ facts.directory }}/deliver
    - source: salt://mailsrv/opensmtpd/deliver
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"  # for the smtpd(8) that runs, until its restart
    - check_cmd: {{ facts.opensmtpd.perl }} -Mstrict -c
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - file: mailsrv-genkeys-directory

mailsrv-opensmtpd-config:
  file.managed:
    - name: {{ facts.opensmtpd.config }}
    - source: salt://mailsrv/opensmtpd/smtpd.conf
    - template: jinja
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - check_cmd: smtpd -n -f
    - require:
      - sls: mailsrv.tls
      - mailsrv: mailsrv-genkeys-srs-key
      - file: mailsrv-opensmtpd-deliver
      - file: mailsrv-guard-config
      - file: mailsrv-opensmtpd-mailname

mailsrv-opensmtpd-service:
  daemon.running:
    - name: {{ facts.opensmtpd.service }}
    - record: {{ facts.run }}/opensmtpd
    - pidfile: {{ facts.opensmtpd.pidfile }}
    - restart:
      - {{ facts.opensmtpd.program }}
      - {{ facts.opensmtpd.config }}
      - {{ facts.opensmtpd.mailname }}
      - {{ facts.directory }}/srs.conf
      - {{ facts.directory }}/guard.py
      - {{ model.tls.cert }}
      - {{ model.tls.key }}
      {%- for way in model.relay.ways if way.ca %}
      - {{ way.ca }}
      {%- endfor %}
      {%- for primary in model.backup_for if primary.certificate %}
      - {{ backup }}/{{ primary.minion }}.pem
      {%- endfor %}
    - update:
        {%- if model.backup_for %}
        {{ backup }}/recipients: smtpctl update table backups
        {%- endif %}
        {%- for table in tables %}
        {{ facts.directory }}/{{ table }}: smtpctl update table {{ table }}
        {%- endfor %}
    - ready: smtpctl show status
    - port: 25
    - keep:
        {{ facts.opensmtpd.config }}: {{ facts.kept }}/smtpd.conf
    - require:
      - daemon: mailsrv-dovecot-service
      {%- if model.rspamd %}
      - daemon: mailsrv-rspamd-service
      {%- endif %}
    - watch:
      - file: mailsrv-opensmtpd-config
      - file: mailsrv-guard-program
      - file: mailsrv-opensmtpd-mailname
      - mailsrv: mailsrv-genkeys-srs-key
      - sls: mailsrv.tls
{%- set leaving = model.moves | selectattr("way", "equalto", "to") | list %}

# What deliver does with mail for a domain that moves away: when smtpd knows where it has gone.
mailsrv-opensmtpd-moving:
  file.{{ "managed" if leaving else "absent" }}:
    - name: {{ facts.directory }}/moving
    {%- if leaving %}
    - contents:
      {%- for move in leaving %}
      - {{ move.domain }} {{ move.phase }}
      {%- endfor %}
    - user: root
    - group: vmail
    - mode: "0640"  # whoever reads it can lock it, and deliveries wait for the lock
    {%- endif %}
    - require:
      - daemon: mailsrv-opensmtpd-service
{%- if not logins %}

mailsrv-opensmtpd-relays:
  file.absent:
    - name: {{ facts.directory }}/relays
    - require:
      - daemon: mailsrv-opensmtpd-service
{%- endif %}
{%- if not model.backup_for %}

mailsrv-opensmtpd-backup:
  file.absent:
    - name: {{ backup }}
    - require:
      - daemon: mailsrv-opensmtpd-service
{%- endif %}
{%- set needed = {"dkimproxy": model.dkim.signer == "dkimproxy", "rspamd": model.rspamd} %}
{%- for daemon in needed if not needed[daemon] %}

# The previous signer, once smtpd(8) no longer hands mail to it.
mailsrv-{{ daemon }}-retired:
  daemon.stopped:
    - name: {{ facts[daemon].service }}
    - require:
      - daemon: mailsrv-opensmtpd-service
{%- if grains["kernel"] == "FreeBSD" %}

mailsrv-{{ daemon }}-stays-away:
  file.absent:
    - name: {{ facts.cron }}/mailsrv-{{ daemon }}
{%- endif %}
{%- endfor %}
{%- if opts["file_client"] != "local" %}

# Last: keys, certificates and addresses are then what they will be.
mailsrv-opensmtpd-mined:
  mailsrv.mined:
    - name: {{ facts.kept }}/mined.json
    - order: last
    - require:
      - daemon: mailsrv-opensmtpd-service
{%- endif %}
{%- endif %}
