base:
  '*':
    - mail.users

# Several mail servers of one master: instead of '*', for each machine, by its minion id, a file of
# its own like mail/users.sls. A machine gets what is listed for it and nothing of another's.
#
# base:
#   'mx*':
#     - mail.common   # what they share, e.g. mailsrv: {quota: 5G}
#   'mx1.example.com':
#     - mail.mx1
#   'mx2.example.net':
#     - mail.mx2
