# Managed by Salt (mailsrv.dovecot): changes here are overwritten.
# Runs when a client has put a message out of Junk. Who throws it away says nothing of it.
require ["copy", "environment", "imapsieve", "vnd.dovecot.pipe"];

if anyof (size :over 1M, environment :matches "imap.mailbox"
    ["Junk", "Junk/*", "Trash", "Trash/*", "Deleted Items", "Deleted Messages"]) {
  stop;
}
pipe :copy :try "teach" "ham";
