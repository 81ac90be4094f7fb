base:
  '*':
    - mail.users
