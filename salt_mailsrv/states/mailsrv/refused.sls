{#- What keeps every room from doing anything, as sentences; each room asks here first. -#}
{%- set sync = "salt-call saltutil.sync_all (from the master: salt '" ~ grains["id"] ~ "' saltutil.sync_all)" %}
{%- set not_synced = [] if "mailsrv.faults" in salt else ["mailsrv: the execution modules are not on this minion yet; run: " ~ sync] %}
{%- set refused = not_synced or salt["mailsrv.faults"](pillar, grains["fqdn"], salt["mailsrv.facts"](), salt["mailsrv.mined"](pillar)) %}
{%- macro refusal(id, sentences) %}

# One state that fails and ends the run, where an exception would come with a traceback for each
# room. The sentences are its name, too: in test mode Salt has a comment of its own.
{{ id }}:
  test.fail_without_changes:
    - name: {{ sentences | join("\n") | yaml_dquote }}
    - comment: {{ sentences | join("\n") | yaml_dquote }}
    - order: 1
    - failhard: True
{%- endmacro %}
{%- if refused %}
{{- refusal("mailsrv-is-not-synced" if not_synced else "mailsrv-pillar-is-not-valid", refused) }}
{%- endif %}
