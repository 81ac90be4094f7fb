{#- For the event mailsrv/published, on the master: who reads what was published has its room applied.
    Any minion can send any event: what it says chooses among these rooms, and among the machines
    whose own pillar names who published; nothing else comes of it. #}
{%- set readers = {
  "mailsrv.certificate": ("mailsrv.satellite", ["satellite:relay", "satellite:minion"]),
  "backup_mx.recipients": ("mailsrv.opensmtpd", ["backup_for"]),
  "mailsrv.dns": ("mailsrv.nsd", ["nsd:machines"]),
} %}
{%- set told, minion = data.get("data"), data.get("id") %}
{%- set name = told.get("name") if told is mapping %}
{%- if name is string and name in readers and minion is string and minion | regex_match("([A-Za-z0-9._-]+)\\Z") %}
{%- set mods, keys = readers[name] %}
mailsrv-published:
  local.state.apply:
    - tgt: {% for key in keys %}{{ " or " if not loop.first }}I@mailsrv:{{ key }}:{{ minion }}{% endfor %}
    - tgt_type: compound
    - args:
      - mods: {{ mods }}
      # One that waits takes in all that is published meanwhile: more of them, from who sends events
      # without end, are refused.
      - queue: 5
{%- endif %}
