{%- from "mailsrv/refused.sls" import refused with context %}
{%- if refused %}
include: [mailsrv.refused]
{%- else %}
{%- from "mailsrv/map.jinja" import mailsrv, os, systemd with context %}
include:
  - mailsrv.tls
  - mailsrv.genkeys
  - mailsrv.dovecot
  - mailsrv.{{ mailsrv.dkim.signer }}
  - mailsrv.rspamd
  - mailsrv.guard
  - mailsrv.opensmtpd.package

mailsrv-opensmtpd-mailname:
  file.managed:
    - name: {{ os.opensmtpd.mailname }}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - contents: {{ mailsrv.hostname | yaml_dquote }}
    - require:
      - pkg: mailsrv-opensmtpd-packages
{%- for table in ("vdomains", "recipients", "virtuals", "sendas", "ours", "credentials") %}

mailsrv-opensmtpd-{{ table }}:
  file.managed:
    - name: {{ os.directory }}/{{ table }}
    - source: salt://mailsrv/opensmtpd/{{ table }}
    - template: jinja
    - user: root
    - group: {{ os.opensmtpd.group }}
    - mode: "0640"
    {%- if table == "credentials" %}
    - show_changes: False
    {%- endif %}
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - cmd: mailsrv-genkeys-password-key
    - require_in:
      - file: mailsrv-opensmtpd-config
  cmd.run:
    - name: smtpctl update table {{ table }}
    - onchanges:
      - file: mailsrv-opensmtpd-{{ table }}
    - require:
      - cmd: mailsrv-opensmtpd-ready
{%- endfor %}

mailsrv-opensmtpd-deliver:
  file.managed:
    - name: {{ os.directory }}/deliver
    - source: salt://mailsrv/opensmtpd/deliver
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"  # for a smtpd(8) of before, until its restart
    - check_cmd: {{ os.opensmtpd.perl }} -Mstrict -c
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - file: mailsrv-genkeys-directory

mailsrv-opensmtpd-config:
  file.managed:
    - name: {{ os.opensmtpd.config }}
    - source: salt://mailsrv/opensmtpd/smtpd.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - check_cmd: smtpd -n -f
    - require:
      - sls: mailsrv.tls
      - file: mailsrv-genkeys-srs-key
      - file: mailsrv-opensmtpd-deliver
      - file: mailsrv-guard-config
      - file: mailsrv-opensmtpd-mailname

mailsrv-opensmtpd-service:
  service.running:
    - name: {{ os.opensmtpd.service }}
    - enable: True
    {%- if not systemd %}
    - sig: {{ os.opensmtpd.program }}  # Debian's init script says 0, running, for every status
    {%- endif %}
    - require:
      - service: mailsrv-dovecot-service
      {%- if mailsrv.rspamd %}
      - cmd: mailsrv-rspamd-ready
      {%- endif %}
    - watch:
      - file: mailsrv-opensmtpd-config
      - file: mailsrv-guard-program
      - file: mailsrv-opensmtpd-mailname
      - cmd: mailsrv-genkeys-srs-key
      - sls: mailsrv.tls

# A daemon that started takes a moment until it hears smtpctl(8); one whose filter ends right away,
# for a key it cannot read, has started too and is gone a moment later.
mailsrv-opensmtpd-ready:
  cmd.run:
    - name: >-
        sleep 1; for second in 1 2 3 4 5 6 7 8 9; do smtpctl show status >/dev/null 2>&1 && exit;
        sleep 1; done; echo "smtpd does not stay up, its log says why"; exit 1
    - onchanges:
      - service: mailsrv-opensmtpd-service
{%- set needed = {"dkimproxy": mailsrv.dkim.signer == "dkimproxy", "rspamd": mailsrv.rspamd} %}
{%- for daemon in needed if not needed[daemon] and salt["service.available"](os[daemon].service) %}

# A signer of before, once smtpd(8) no longer hands mail to it.
mailsrv-{{ daemon }}-retired:
  service.dead:
    - name: {{ os[daemon].service }}
    - enable: False
    - require:
      - service: mailsrv-opensmtpd-service
{%- endfor %}
{%- endif %}
