import pytest

from lab import Lab, missing


@pytest.fixture(scope="session")
def lab():
    """The lab of this test run; its tests are skipped where it cannot be."""
    if why := missing():
        pytest.skip(why)
    with Lab() as lab:
        yield lab
