salt: aoiuasdfhalsdfiuyh

domains:
  - example.com
  - test.com

accounts:
  - 
    - user1@example.com
    - pass1
  -
    - users2@example.com
    - pass2
  -
    - users3@test.com
    - pass3
