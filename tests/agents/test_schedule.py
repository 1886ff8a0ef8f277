"""The learning rate of every step of a run."""

import pytest
import torch
from parlai.core.opt import Opt
from parlai.nn.lr_scheduler import ParlAILRScheduler

from parlai_prosocial.agents.schedule import keep_last_step
from parlai_prosocial.compat import patches

patches.apply()


def rates(schedule, steps, warmup):
    """The rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    opt = Opt(
        lr_scheduler=schedule,
        max_train_steps=steps,
        warmup_updates=warmup,
        invsqrt_lr_decay_gamma=4,
    )
    scheduler = ParlAILRScheduler.lr_scheduler_factory(opt, optimizer, {})
    keep_last_step(scheduler, opt)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(step + 1)
    return found


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_last_step_counts(schedule, warmup):
    found = rates(schedule, 16, warmup)
    falling = found[warmup:]
    assert len(found) == 16
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 0.2
    if schedule == "linear":
        steps = 16 - warmup + 1
        offset = 1 if warmup else 0
        expected = [1 - (i + offset) / steps for i in range(len(falling))]
        assert falling == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_may_be_shorter_than_its_warm_up(schedule, steps):
    """Stock: ZeroDivisionError where both are as long."""
    found = rates(schedule, steps, warmup=3)
    assert found == pytest.approx([1e-4, 1 / 3, 2 / 3][:steps], abs=1e-3)


def test_other_schedules_are_left_alone():
    keep_last_step(None, Opt(max_train_steps=-1))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = ParlAILRScheduler.lr_scheduler_factory(
        Opt(lr_scheduler="fixed", max_train_steps=9), optimizer, {}
    )
    before = dict(vars(plateau))
    keep_last_step(plateau, Opt(max_train_steps=9))
    assert vars(plateau) == before
