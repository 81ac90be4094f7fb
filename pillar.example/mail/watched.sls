# For each machine of a fleet, in top.sls of the pillar; docs/fleet.md#what-runs-by-itself.

schedule:
  mailsrv-drift:
    function: drift.tell
    hours: 1
    splay: 600                # not all machines at once
    run_on_start: False       # nor all at once after a power cut
    return_job: False         # the master hears of it by an event, and only when there is news

# For mail machines: a daemon that ends is told within a minute. Those that a highstate restarts are
# not looked at meanwhile.
beacons:
  service:
    - services:
        opensmtpd: {onchangeonly: True, emitatstartup: False}
        dovecot: {onchangeonly: True, emitatstartup: False}
    - interval: 60
    - disable_during_state_run: True
