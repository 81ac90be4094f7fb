# Managed by Salt (mailsrv.dovecot): changes here are overwritten.
# Runs when a client has put a message into Junk. A large one is no spam, as a rule, and costs more
# than it teaches.
require ["copy", "vnd.dovecot.pipe"];

if size :over 1M {
  stop;
}
pipe :copy :try "teach" "spam";
