{#- For the minion that serves the zones of the mail machines: their records come from the Salt Mine. -#}
{%- from "mailsrv/refused.sls" import not_synced, refusal with context %}
{%- if not_synced %}
include: [mailsrv.refused]
{%- else %}
{%- set os = salt["mailsrv.facts"]() %}
{%- set settings = salt["mailsrv.nameserver"](pillar, grains["fqdn"]) %}
{%- set mine = salt["mine.get"](settings.machines, "mailsrv.dns") if not settings.faults else {} %}
{%- set empty = "mailsrv:nsd:machines: no minion of '" ~ settings.machines ~ "' has records in the Salt Mine; see README.md, DNS of all machines" %}
{%- set refused = settings.faults or ([empty] if not mine else []) %}
{%- if "nsd" not in os %}
{%- set refused = ["mailsrv.nsd: this formula does not know NSD on " ~ grains["os_family"]] %}
{%- endif %}
{%- if refused %}
{{- refusal("mailsrv-nsd-is-refused", refused) }}
{%- else %}
{%- set zones = salt["nsd.zones"](mine, settings.nameservers, os.nsd.directory) %}
{%- set made, kept, served = [], [], [] %}
{%- for domain, zone in zones.items() %}
{%- do made.append(domain) if zone.text %}
{%- do kept.append(domain ~ ".zone") if zone.stands and not zone.text %}
{%- do served.append(domain) if zone.text or zone.stands %}
{%- endfor %}

mailsrv-nsd-packages:
  pkg.installed:
    - pkgs: {{ os.nsd.packages | json }}

# The zone of a machine that is gone from the mine goes; one that cannot be made anew stays.
mailsrv-nsd-directory:
  file.directory:
    - name: {{ os.nsd.directory }}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0755"
    - clean: True
    - exclude_pat: E@^({{ kept | map("regex_escape") | join("|") }})$
    - require:
      - pkg: mailsrv-nsd-packages
      {%- for domain in made %}
      - file: mailsrv-nsd-zone-{{ domain }}
      {%- endfor %}
{%- for domain in made %}

mailsrv-nsd-zone-{{ domain }}:
  file.managed:
    - name: {{ os.nsd.directory }}/{{ domain }}.zone
    - contents: {{ zones[domain].text | json }}
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - makedirs: True
    - check_cmd: nsd-checkzone {{ domain }}
    - require:
      - pkg: mailsrv-nsd-packages
  cmd.run:
    - name: nsd-control reload {{ domain }}
    - onchanges:
      - file: mailsrv-nsd-zone-{{ domain }}
    - require:
      - cmd: mailsrv-nsd-reconfig
{%- endfor %}
{%- for domain, zone in zones.items() if zone.fault %}

mailsrv-nsd-refused-{{ domain }}:
  test.fail_without_changes:
    - name: {{ zone.fault | yaml_dquote }}
    - comment: {{ zone.fault | yaml_dquote }}
{%- endfor %}

mailsrv-nsd-config:
  file.managed:
    - name: {{ os.nsd.config }}
    - source: salt://mailsrv/nsd/mailsrv.conf
    - template: jinja
    - user: root
    - group: {{ os.root_group }}
    - mode: "0644"
    - context: {{ {"directory": os.nsd.directory, "domains": served} | json }}
    - check_cmd: nsd-checkconf
    - require:
      - pkg: mailsrv-nsd-packages

mailsrv-nsd-service:
  service.running:
    - name: {{ os.nsd.service }}
    - enable: True
    - require:
      - file: mailsrv-nsd-config

# Zones are added and removed while NSD runs.
mailsrv-nsd-reconfig:
  cmd.run:
    - name: nsd-control reconfig
    - onchanges:
      - file: mailsrv-nsd-config
    - require:
      - service: mailsrv-nsd-service
{%- endif %}
{%- endif %}
