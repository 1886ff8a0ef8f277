import pytest


@pytest.fixture(scope="session", autouse=True)
def datapath(own_datapath):
    return own_datapath
