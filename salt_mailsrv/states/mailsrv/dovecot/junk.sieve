# Managed by Salt (mailsrv.dovecot): changes here are overwritten.
# Runs before each user's own filters.
require ["fileinto", "mailbox"];

if header :contains "X-Spam" "yes" {
  fileinto :create "Junk";
  stop;
}
