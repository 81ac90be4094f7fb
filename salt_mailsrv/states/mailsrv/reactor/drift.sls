{#- For the event mailsrv/drift, on the master: docs/fleet.md#what-runs-by-itself. What a minion has
    sent is text here, whatever it is. #}
mailsrv-drift:
  runner.told.drift:
    - args:
      - minion: {{ data.get("id") | json }}
      - finding: {{ data.get("data") | json }}
