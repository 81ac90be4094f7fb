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
{%- set others = plan.primary or plan.signed %}
{%- set owner = facts.nsd.user if others else "root" %}
{%- set kept = plan.served if plan.signed else plan.kept %}
{%- set zones = facts.nsd.signer.zones if plan.signed else facts.nsd.directory %}
mailsrv-nsd-directory:
  file.directory:
    - name: {{ facts.nsd.directory }}
    - user: {{ owner }}
    - group: {{ facts.nsd.user if others else facts.root_group }}
    - mode: "0755"
    - clean: True
    - exclude_pat: E@^({{ kept | map("regex_escape") | join("|") }})\.zone
    - require:
      - pkg: mailsrv-nsd-packages
      {%- for domain in plan.made %}
      - file: mailsrv-nsd-zone-{{ domain }}
      {%- endfor %}
{%- for domain in plan.made %}

mailsrv-nsd-zone-{{ domain }}:
  file.managed:
    - name: {{ zones }}/{{ domain }}.zone
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
{%- for fault in plan.staying %}

mailsrv-nsd-stays-signed-{{ loop.index }}:
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
        signer: {{ facts.nsd.signer.port if plan.signed else 0 }}
    - check_cmd: {{ plan.check | yaml_dquote }}
    - require:
      - pkg: mailsrv-nsd-packages

# Zones are added and removed while NSD runs. One that could not be written keeps no other from being
# loaded.
mailsrv-nsd-service:
  daemon.running:
    - name: {{ facts.nsd.service }}
    - record: {{ facts.run }}/nsd
    {%- if others %}
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
{%- set signer = facts.nsd.signer %}
{%- set unit = facts.units ~ "/" ~ signer.service ~ ".service" %}
{%- set default = facts.units ~ "/" ~ signer.default ~ ".service.d/" ~ signer.service ~ ".conf" %}
{%- if plan.signed %}
{%- if salt["file.file_exists"](default) or not salt["pkg.version"](signer.packages[0]) %}

# Before the package starts a server of its own. One that was here before us belongs to somebody.
mailsrv-signer-default:
  file.managed:
    - name: {{ default }}
    - contents: |
        # Managed by Salt (mailsrv.nsd): the zones are signed by a Knot of their own, {{ signer.service }}.
        # Without this file this one starts, too.
        [Unit]
        ConditionPathExists=!{{ default }}
    - user: root
    - group: root
    - mode: "0644"
    - makedirs: True
    - require_in:
      - pkg: mailsrv-signer-packages
{%- endif %}

mailsrv-signer-packages:
  pkg.installed:
    - pkgs: {{ signer.packages | json }}
    - install_recommends: False
    - require_in:
      {%- for domain in plan.made %}
      - file: mailsrv-nsd-zone-{{ domain }}
      {%- endfor %}
      - file: mailsrv-signer-zones

mailsrv-signer-zones:
  file.directory:
    - name: {{ signer.zones }}
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0755"
    - clean: True
    - exclude_pat: E@^({{ plan.kept | map("regex_escape") | join("|") }})\.zone
    {%- if plan.made %}
    - require:
      {%- for domain in plan.made %}
      - file: mailsrv-nsd-zone-{{ domain }}
      {%- endfor %}
    {%- endif %}

mailsrv-signer-config:
  file.managed:
    - name: {{ signer.config }}
    - source: salt://mailsrv/nsd/knot.conf
    - template: jinja
    - user: root
    - group: {{ signer.user }}
    - mode: "0640"
    - context:
        signer: {{ signer | json }}
        served: {{ plan.served | json }}
        notify: {{ plan.notify | json }}
    - check_cmd: sh -c 'knotc -c "$0" conf-check'
    - require:
      - pkg: mailsrv-signer-packages

mailsrv-signer-unit:
  file.managed:
    - name: {{ unit }}
    - source: salt://mailsrv/nsd/mailsrv-signer.service
    - template: jinja
    - user: root
    - group: root
    - mode: "0644"
    - context:
        signer: {{ signer | json }}
    - require:
      - pkg: mailsrv-signer-packages

# Last, since it tells NSD at its start of what is signed; by itself, NSD would ask in ten minutes.
mailsrv-signer-service:
  daemon.running:
    - name: {{ signer.service }}
    - record: {{ facts.run }}/signer
    - restart: [{{ unit }}]
    - update:
        {{ signer.config }}: knotc -c {{ signer.config }} reload
        {%- for domain in plan.made %}
        {{ zones }}/{{ domain }}.zone: knotc -c {{ signer.config }} zone-reload {{ domain }}
        {%- endfor %}
    - ready: knotc -c {{ signer.config }} status
    - keep:
        {{ signer.config }}: {{ facts.kept }}/knot.conf
    - watch:
      - file: mailsrv-signer-config
      - file: mailsrv-signer-unit
    - require:
      - daemon: mailsrv-nsd-service

# Since when nobody is told any more to find what is signed.
mailsrv-signer-leaving:
  file.{{ "managed" if plan.told else "absent" }}:
    - name: {{ signer.leaving }}
    {%- if plan.told %}
    - contents: {{ plan.told | yaml_dquote }}
    - replace: False
    - user: root
    - group: {{ facts.root_group }}
    - mode: "0644"
    - makedirs: True
    {%- endif %}
{%- else %}
{#- The keys stay, for who comes back to them; not what was signed, which is older by then. #}
{%- if salt["file.file_exists"](default) %}

# Nobody has ever asked for it.
mailsrv-signer-default-retired:
  daemon.stopped:
    - name: {{ signer.default }}
    - require_in:
      - daemon: mailsrv-signer-retired
{%- endif %}

mailsrv-signer-retired:
  daemon.removed:
    - name: {{ signer.service }}.service
    - files: {{ [unit, default, signer.config] | json }}
  file.absent:
    - names:
      - {{ signer.directory }}/journal
      - {{ signer.zones }}
      - {{ signer.leaving }}
    - require:
      - daemon: mailsrv-signer-retired
{%- endif %}
{%- endif %}
