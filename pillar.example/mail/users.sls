#!yaml
# Plain YAML (the line above): a password may hold {{ or {%.

# Mixed into the salts of the password hashes. Any text; changing it hashes every password anew.
salt: aoiuasdfhalsdfiuyh

# The domains this server takes mail for.
domains:
  - example.com
  - test.com

# The mailboxes: [address, password].
accounts:
  - [user1@example.com, pass1]
  - [users2@example.com, pass2]
  - [users3@test.com, pass3]

# Everything else stands under "mailsrv:"; docs/pillar.md has the reference.
# mailsrv:
#   aliases:
#     sales@example.com: user1@example.com
#     team@example.com: [user1@example.com, users3@test.com, someone@elsewhere.example]
#     "@test.com": users3@test.com
#   quota: 5G
