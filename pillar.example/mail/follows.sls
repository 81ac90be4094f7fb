# For a machine that lives by what others publish: a backup MX. For a DNS server it is mailsrv.nsd
# instead, for a satellite mailsrv.satellite; docs/fleet.md#what-runs-by-itself.

schedule:
  mailsrv-follow:
    function: state.apply
    args: [mailsrv.opensmtpd]
    kwargs: {queue: 5}            # where no more than so many runs wait already
    hours: 1
    splay: 600
    run_on_start: False
