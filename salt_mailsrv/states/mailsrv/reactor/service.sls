{#- For what the beacon "service" says, on the master: docs/fleet.md#what-runs-by-itself. #}
mailsrv-service:
  runner.told.service:
    - args:
      - minion: {{ data.get("id") | json }}
      - finding: {{ data | json }}
