"""
The core: what a pillar means, and what follows from it, as functions of their arguments.

No dunder of Salt, no file, no command, and no network but in :mod:`_mailsrv.resolve`. The commands
beside this directory bring what stands on the machine, and take the results there.
"""
