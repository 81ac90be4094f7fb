"""mailcheck: what live DNS says against what is desired."""

import pytest
from salt.exceptions import CommandExecutionError

from saltext.mailsrv.modules import mailcheck


def test_without_dnspython_the_module_loads_and_says_what_to_install(without):
    bare = without(mailcheck, "dns")
    assert bare.__virtual__() == "mailcheck"
    with pytest.raises(CommandExecutionError) as raised:
        bare.lacking("example.com", "MX", "10 mx.example.com.")
    assert str(raised.value) == (
        "mailcheck: the Python library dnspython is missing where Salt runs; "
        "install it with: salt-pip install dnspython (or, in Salt's venv, pip install dnspython)"
    )
