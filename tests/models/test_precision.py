"""Whether bfloat16 pays is asked of a GPU and timed on a CPU."""

import pytest
import torch

from parlai_prosocial.models import precision
from parlai_prosocial.models.precision import bf16_is_faster


@pytest.mark.parametrize("answer", [True, False])
def test_a_gpu_is_asked(monkeypatch, answer):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: answer)
    assert bf16_is_faster(torch.device("cuda")) == answer


@pytest.mark.parametrize(("seconds", "answer"), [([4.0, 1.0], True), ([1.0, 4.0], False)])
def test_a_cpu_is_timed(monkeypatch, seconds, answer):
    """``seconds`` of one product in float32, then in bfloat16."""
    ticks = [t for s in seconds for start in range(4) for t in (10.0 * start, 10.0 * start + s)]
    monkeypatch.setattr(precision.time, "perf_counter", iter(ticks).__next__)
    assert bf16_is_faster(torch.device("cpu")) == answer
