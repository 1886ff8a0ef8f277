"""What has to hold on CUDA; skipped on a machine without it.

Float32 is asked to equal the CPU's (1e-4), so products in TF32 are off, as they are in torch.
"""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu():
    """The device under test."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def exact_float32(gpu):
    """Without TF32, whatever the environment or a trainer before has set."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session", autouse=True)
def datapath(gpu, tmp_path_factory):
    path = tmp_path_factory.mktemp("parlai_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(path))
        yield path
