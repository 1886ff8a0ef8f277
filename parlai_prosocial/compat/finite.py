"""Training steps whose loss or gradient is no number change nothing, and too many end the run.

ParlAI 1.7.2 updates the weights with whatever the gradient is, so that one NaN makes every weight
NaN, and then saves them as the result, with exit status 0. Every version, without ``--fp16``, whose
loss scaling has a check of its own.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from parlai.core.metrics import SumMetric
from parlai.core.torch_agent import Batch, TorchAgent
from parlai.utils import logging

from parlai_prosocial.errors import UserError

IN_A_ROW = 5
"""So many skipped steps in a row end the run: it will not come back by itself."""


def mend_steps() -> None:
    """Mend ParlAI's agents, once a process."""
    batch_act, backward = TorchAgent.batch_act, TorchAgent.backward
    update_params = TorchAgent.update_params

    @functools.wraps(batch_act)
    def remembered(self: Any, observations: Any) -> Any:
        self.observed_batch = observations
        return batch_act(self, observations)

    @functools.wraps(backward)
    def watched(self: Any, loss: torch.Tensor, **kwargs: Any) -> None:
        self.finite_loss = vars(self).get("finite_loss", True) & loss.detach().isfinite()
        backward(self, loss, **kwargs)

    @functools.wraps(update_params)
    def checked(self: Any) -> None:
        accumulates = self.opt.get("update_freq", 1) > 1 and self._number_grad_accum != 0
        if self.fp16 or accumulates:
            update_params(self)
            return
        if _is_finite_everywhere(self):
            self.skipped_in_a_row = 0
            update_params(self)
        else:
            _skip(self)

    TorchAgent.batch_act = remembered
    TorchAgent.backward = watched
    TorchAgent.update_params = checked


def skipped_in_a_row(agent: Any) -> int:
    """How many of an agent's last steps were skipped."""
    return vars(agent).get("skipped_in_a_row", 0)


def _is_finite_everywhere(agent: Any) -> bool:
    """Whether this step's loss and gradients are numbers, in all processes alike."""
    gradients = [p.grad for p in agent.model.parameters() if p.grad is not None]
    finite = torch.stack([norm.isfinite() for norm in torch._foreach_norm(gradients)]).all()
    finite = finite & vars(agent).pop("finite_loss", torch.tensor(True)).to(finite.device)
    if torch.distributed.is_initialized():
        worst = finite.float()
        torch.distributed.all_reduce(worst, torch.distributed.ReduceOp.MIN)
        finite = worst > 0
    return bool(finite)


def _skip(agent: Any) -> None:
    agent.optimizer.zero_grad()
    agent.skipped_in_a_row = skipped_in_a_row(agent) + 1
    agent.global_metrics.add("skipped_steps", SumMetric(1))
    logging.warning(
        f"loss or gradient of update {agent._number_training_updates + 1} is no number; the step "
        f"is skipped. Its batch: {', '.join(_ids(agent.observed_batch))}"
    )
    if agent.skipped_in_a_row == IN_A_ROW:
        raise UserError(diverged(agent))


def diverged(agent: Any) -> str:
    """What to tell where the last steps were skipped."""
    return (
        f"{skipped_in_a_row(agent)} step(s) in a row had a loss or gradient that is no number, "
        f"after {agent._number_training_updates} good ones; the weights of now are not saved, the "
        "last checkpoint stays. Lower --learningrate, give --gradient-clip 1, or look at the "
        "batches named above"
    )


def _ids(observations: Batch | Iterable[Any]) -> list[str]:
    """A name of each example: its task, and a hash of its text, which may be abusive."""
    if isinstance(observations, Batch):
        return ["prepared by a worker of --num-workers, so unknown"]
    ids = []
    for observation in observations:
        text = "\n".join([observation.get("text") or "", *(observation.get("labels") or [])])
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        ids.append(f"{observation.get('id')} {digest[:12]}")
    return ids
