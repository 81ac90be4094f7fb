{%- from "mailsrv/satellite/map.jinja" import os with context %}
{%- set systemd = grains.get("init") == "systemd" %}
include:
  - mailsrv.satellite
  - mailsrv.opensmtpd.package

mailsrv-opensmtpd-config:
  file.managed:
    - name: {{ os.opensmtpd.config }}
    - source: salt://mailsrv/satellite/smtpd.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - check_cmd: smtpd -n -f
    - require:
      - pkg: mailsrv-opensmtpd-packages
      - mailsrv: mailsrv-satellite-credential
      - file: mailsrv-satellite-mailname

mailsrv-opensmtpd-service:
  service.running:
    - name: {{ os.opensmtpd.service }}
    - enable: True
    {%- if not systemd %}
    - sig: {{ os.opensmtpd.program }}  # Debian's init script says 0, running, for every status
    {%- endif %}
    - watch:
      - file: mailsrv-opensmtpd-config
      - file: mailsrv-satellite-mailname
      - mailsrv: mailsrv-satellite-credential
