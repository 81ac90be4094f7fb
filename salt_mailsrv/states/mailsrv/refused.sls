{#- What keeps every room from doing anything, as sentences; each room asks here first. -#}
{%- if "mailsrv.faults" in salt %}
{%- set refused = salt["mailsrv.faults"](pillar, grains["fqdn"], salt["mailsrv.facts"]()) %}
{%- else %}
{%- set sync = "salt-call saltutil.sync_all (from the master: salt '" ~ grains["id"] ~ "' saltutil.sync_all)" %}
{%- set refused = ["mailsrv: the execution modules are not on this minion yet; run: " ~ sync] %}
{%- endif %}
{%- if refused %}

# One state that fails and ends the run, where an exception would come with a traceback for each
# room. The sentences are its name, too: in test mode Salt has a comment of its own.
mailsrv-{{ "pillar-is-not-valid" if "mailsrv.faults" in salt else "is-not-synced" }}:
  test.fail_without_changes:
    - name: {{ refused | join("\n") | yaml_dquote }}
    - comment: {{ refused | join("\n") | yaml_dquote }}
    - order: 1
    - failhard: True
{%- endif %}
