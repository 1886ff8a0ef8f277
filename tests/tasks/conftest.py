"""The tasks cache what they read under ParlAI's data path: a fresh one for each run."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def datapath(tmp_path_factory):
    path = tmp_path_factory.mktemp("parlai_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(path))
        yield path
