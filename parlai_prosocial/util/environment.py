"""The machine, the versions and the command, as results record them."""

import os
import platform
import sys
from importlib import metadata
from typing import Any, Literal

VERSIONS = ("parlai-prosocial", "torch", "transformers", "peft", "numpy", "parlai")


def device_name(device: Any) -> str:
    """The GPU's name, or the processor's."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def precision_name(bf16: bool) -> Literal["bf16", "fp32"]:
    return "bf16" if bf16 else "fp32"


def environment(device: Any, bf16: bool, seconds: float) -> dict[str, Any]:
    """The command, its wall time, the machine and the versions, for the record."""
    return {
        "command": " ".join(["prosocial", *sys.argv[1:]]),
        "seconds": round(seconds),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "precision": precision_name(bf16),
        "python": platform.python_version(),
    } | {name: metadata.version(name) for name in VERSIONS}
