base:
  '*':
    - mailsrv
