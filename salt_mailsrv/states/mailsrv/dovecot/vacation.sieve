{%- from "mailsrv/map.jinja" import model with context -%}
{%- macro quoted(text) %}"{{ text | replace("\\", "\\\\") | replace('"', '\\"') }}"{% endmacro -%}
# Managed by Salt (mailsrv.dovecot): changes here are overwritten. It stands in the pillar, accounts:vacation.
# Runs before the user's own filters, which go on as if it were not there.
require ["date", "relational", "vacation"];
{%- for account in model.accounts if account.address == address %}
{%- set vacation = account.vacation %}

if allof (true
{%- if vacation["from"] %}, currentdate :value "ge" "date" "{{ vacation["from"] }}" {%- endif %}
{%- if vacation["until"] %}, currentdate :value "le" "date" "{{ vacation["until"] }}" {%- endif %}) {
  vacation :days {{ vacation.days }}
{%- if vacation.subject %} :subject {{ quoted(vacation.subject) }}{% endif %}
    :addresses {{ vacation.addresses | json }}
    {{ quoted(vacation.text) }};
}
{%- endfor %}
