"""What the processes of one training run tell each other."""

from typing import Any

import torch


def rank() -> int:
    """This process's number; 0 where there is one process alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes train."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_primary() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def agreed(number: int, save_time: float) -> tuple[int, float]:
    """Any process's signal, and the longest time since a save, the same in all."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    both = torch.tensor([float(number), save_time], device=device)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
    return int(both[0]), float(both[1])


def gathered(own: Any) -> list[Any]:
    """A value of every process, by rank."""
    values = [own] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(values, own)
    return values
