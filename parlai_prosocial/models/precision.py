"""Where to compute, and whether bfloat16 pays there."""

import time
from pathlib import Path

import torch

from parlai_prosocial.util.journal import begun_with


def best_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bf16_is_faster(device: torch.device) -> bool:
    """True where bf16 matrix products are supported and clearly faster than float32.

    A GPU says so itself. CPUs with AVX512-BF16 or AMX gain, others emulate bf16 at a fraction of
    the speed, and torch has no public query for it: so small ones are timed,
    within a second where bf16 is emulated.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(128, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(4):  # the first builds the kernel
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times[1:])
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def computes_in_bf16(out: Path) -> bool:
    """Whether a run that writes ``out`` computes in bfloat16.

    A resumed run computes as it began: which precision is faster is measured, and a busy
    machine may measure otherwise.
    """
    begun = begun_with(out, "precision")
    if begun is not None:
        return begun == "bf16"
    return bf16_is_faster(best_device())
