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
