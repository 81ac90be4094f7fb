{#- For the minions that serve the zones of the mail machines: their records come from the Salt Mine, or,
    on a secondary, from the primary. -#}
{%- from "mailsrv/map.jinja" import not_synced, facts with context %}
{%- set plan = {"faults": []} if not_synced else salt["nsd.plan"]() %}
{%- if not_synced %}
include: [mailsrv.refused]
{%- elif plan.faults %}

mailsrv-nsd-is-refused:
  test.fail_without_changes:
    - name: {{ plan.faults | join("\n") | yaml_dquote }}
    - comment: {{ plan.faults | join("\n") | yaml_dquote }}
    - order: 1
    - failhard: True
{%- else %}

mailsrv-nsd-packages:
  pkg.installed:
    - pkgs: {{ facts.nsd.packages | json }}

# The zone of a domain that is nobody's any more goes; one that cannot be made anew stays.
{%- set owner = facts.nsd.user if plan.primary else "root" %}
mailsrv-nsd-directory:
  file.directory:
    - name: {{ facts.nsd.directory }}
    - user: {{ owner }}
    - group: {{ facts.nsd.user if plan.primary else facts.root_group }}
    - mode: "0755"
    - clean: True
    - exclude_pat: E@^({{ plan.kept | map("regex_escape") | join("|") }})\.zone
    - require:
      - pkg: mailsrv-nsd-packages
      {%- for domain in plan.made %}
      - file: mailsrv-nsd-zone-{{ domain }}
      {%- endfor %}
{%- for domain in plan.made %}

mailsrv-nsd-zone-{{ domain }}:
  file.managed:
    - name: {{ facts.nsd.directory }}/{{ domain }}.zone
    - contents: {{ plan.made[domain] | json }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    - check_cmd: nsd-checkzone {{ domain }}
    - require:
      - pkg: mailsrv-nsd-packages
{%- endfor %}
{%- for domain, fault in plan.refused.items() %}

mailsrv-nsd-refused-{{ domain }}:
  test.fail_without_changes:
    - name: {{ fault | yaml_dquote }}
    - comment: {{ fault | yaml_dquote }}
{%- endfor %}
{%- for minion, told in plan.foreign.items() %}

mailsrv-nsd-foreign-{{ minion }}:
  test.succeed_without_changes:
    - name: {{ told | yaml_dquote }}
    - comment: {{ told | yaml_dquote }}
{%- endfor %}

# Before this file is one, NSD's whole configuration with it is looked at: NSD starts with all, or not.
mailsrv-nsd-config:
  file.managed:
    - name: {{ facts.nsd.config }}
    - source: salt://mailsrv/nsd/mailsrv.conf
    - template: jinja
    # The secret of the name servers is in it, or was until this run.
    - user: root
    - group: {{ facts.nsd.user }}
    - mode: "0640"
    - show_changes: False
    - context:
        directory: {{ facts.nsd.directory }}
        served: {{ plan.served | json }}
        primary: {{ plan.primary | json }}
        secondaries: {{ plan.secondaries | json }}
    - check_cmd: {{ plan.check | yaml_dquote }}
    - require:
      - pkg: mailsrv-nsd-packages

# Zones are added and removed while NSD runs. One that could not be written keeps no other from being
# loaded.
mailsrv-nsd-service:
  daemon.running:
    - name: {{ facts.nsd.service }}
    - record: {{ facts.run }}/nsd
    {%- if plan.primary %}
    # How often zones are written is read at the start alone.
    - restart: [{{ facts.nsd.config }}]
    {%- else %}
    - update:
        {{ facts.nsd.config }}: nsd-control reconfig
        {%- for domain in plan.made %}
        {{ facts.nsd.directory }}/{{ domain }}.zone: nsd-control reload {{ domain }}
        {%- endfor %}
    {%- endif %}
    - ready: nsd-control status
    - keep:
        {{ facts.nsd.config }}: {{ facts.kept }}/nsd.conf
    - watch:
      - file: mailsrv-nsd-config
{%- endif %}
