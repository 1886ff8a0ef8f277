"""ParlAI's worker processes on the CPU: they speak over gloo, which ParlAI does not know."""

import contextlib
import copy
import functools
from collections.abc import Iterator

from parlai_prosocial.compat.importing import replace_everywhere

# Kept until the process ends. The model's reducer would else hold the last reference to its
# group and destroy it under Python's lock, for which one of gloo's threads may be waiting: one
# run in four hung there, after the work was done.
_process_groups: list = []


@functools.cache
def use_gloo() -> None:
    import torch
    from parlai.utils import distributed, fsdp
    from torch.nn.parallel import DistributedDataParallel

    distributed.distributed_context = _distributed_context_on_cpu
    replace_everywhere(distributed.all_gather_list, _all_gather_list_on_cpu)

    join_device = property(lambda self: torch.device("cpu"))
    fsdp.JoinableTrainLoop.join_device = join_device
    fsdp.JoinableEvaluator.join_device = join_device

    original_init = DistributedDataParallel.__init__

    @functools.wraps(original_init)
    def __init__(self, module, device_ids=None, *args, **kwargs):
        # [-1] is what ParlAI passes for "no GPU"; torch wants None then.
        original_init(self, module, None if device_ids == [-1] else device_ids, *args, **kwargs)

    DistributedDataParallel.__init__ = __init__  # type: ignore[method-assign]


@contextlib.contextmanager
def _distributed_context_on_cpu(
    rank: int,
    opt,
    rank_offset: int = 0,
    gpu: int | None = None,
    init_method: str = "tcp://localhost:61337",
) -> Iterator:
    """ParlAI's ``distributed_context`` over gloo: the same steps, less those on a GPU."""
    import torch
    import torch.distributed as dist
    from parlai.utils import distributed

    rank += rank_offset
    opt = copy.deepcopy(opt)
    opt["rank"] = rank
    opt["gpu"] = -1
    opt.setdefault("override", {})["gpu"] = -1
    verbose = opt.get("verbose", False)
    prefix = f"rank:{rank:3d} |" if verbose or rank != 0 else None
    with distributed.override_print(rank != 0 and not verbose, prefix):
        dist.init_process_group(
            "gloo", init_method=init_method, world_size=opt["distributed_world_size"], rank=rank
        )
        _process_groups.append(dist.group.WORLD)
        torch.manual_seed(42)  # as ParlAI does, so that all processes begin with the same weights
        distributed.sync_object(None)
        try:
            yield opt
        finally:
            dist.destroy_process_group()


def _all_gather_list_on_cpu(data) -> list:
    """ParlAI's ``all_gather_list`` without its GPU buffers: ``data`` of every process, by rank."""
    import torch.distributed as dist
    from parlai.utils.distributed import is_distributed

    if not is_distributed():
        return [data]
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered
