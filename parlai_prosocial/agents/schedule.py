"""ParlAI's learning rate schedules, less their last step at a rate of 0."""

from typing import Any

from parlai.core.opt import Opt
from parlai.nn.lr_scheduler import CosineLRScheduler, LinearLRScheduler


def keep_last_step(scheduler: Any, opt: Opt) -> None:
    """Let linear and cosine schedules reach 0 after the last step and not in it.

    ParlAI has step N - W of N - W steps after the warm-up at a rate of exactly 0: it is computed
    and then thrown away, 1 of 16 in a short run. Other schedules are left alone.

    Args:
        scheduler: ParlAI's, or None.
        opt: has ``max_train_steps`` and ``warmup_updates``.
    """
    if isinstance(scheduler, LinearLRScheduler | CosineLRScheduler):
        scheduler.max_lr_steps = opt["max_train_steps"] - scheduler.warmup_updates + 1
