"""One loss over the batches of all processes, as if one process had the joint batch.

Every process calls these in the same order. With one process they change nothing.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_lists(own: list[T]) -> tuple[list[T], int]:
    """Lists of all processes joined in the order of their ranks, and where the own one begins."""
    if world_size() == 1:
        return own, 0
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, own)
    start = sum(len(part) for part in parts[: dist.get_rank()])
    return [item for part in parts for item in part], start


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """(B, dim) rows of each process -> (M, dim) of all, in the order of their ranks.

    B may differ between processes. Gradients flow back to the process that a row came from, summed
    over the processes that used it.
    """
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(sizes) - len(rows)))  # (max B, dim)
    parts = all_gather(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def mean_of_all(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """A process's share of sum(totals) / sum(counts) over all processes, () each.

    Distributed training averages gradients over processes; the share is scaled so that this
    average is the gradient of the joint mean. A joint count of 0 gives 0.
    """
    joint = count.detach().clone().to(total.dtype)
    if world_size() > 1:
        dist.all_reduce(joint)
    return total * world_size() / joint.clamp(min=1)


def own_mean(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """total / count of this process alone, () each: in evaluation processes go their own ways."""
    return total / count.clamp(min=1)
