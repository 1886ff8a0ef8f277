"""A training batch that does not fit into memory is trained on in parts.

ParlAI 1.7.2 leaves such a batch out and goes on, so that the longest dialogues are never learnt.
Every version. With several processes or ``--update-freq`` it stays as it is: there, others wait for
as many passes as they make themselves.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from parlai.core.metrics import SumMetric
from parlai.core.torch_agent import Batch
from parlai.utils import logging


def mend_memory(generators: ModuleType) -> None:
    """Mend ``parlai.core.torch_generator_agent``, when it is imported."""
    agent = generators.TorchGeneratorAgent
    train_step = agent.train_step

    @functools.wraps(train_step)
    def in_parts(self: Any, batch: Batch) -> None:
        observations = self.observed_batch
        splits = not isinstance(observations, Batch) and len(observations) > 1
        if not splits or self.opt.get("update_freq", 1) > 1 or _is_distributed():
            train_step(self, batch)
            return
        self.model.train()
        self.zero_grad()
        if _passes(self, [batch], [1.0]) or _train_on_halves(self, observations):
            self.update_params()

    agent.train_step = in_parts


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _passes(agent: Any, batches: Sequence[Batch], shares: Sequence[float]) -> bool:
    """Add up the gradients of batches, each with its share; False where memory ran out."""
    try:
        for batch, share in zip(batches, shares, strict=True):
            agent.backward(agent.compute_loss(batch) * share)
    except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain one on a CPU
        if "out of memory" not in str(error):
            raise
        return False
    return True


def _token_shares(parts: Sequence[Sequence[Any]], batches: Sequence[Batch]) -> list[float]:
    """Each part's share of the target tokens, as a batch's loss is a mean over these.

    What our agents add to it is a mean over examples: ``example_weight`` undoes the share there.
    """
    tokens = [
        sum(len(part[i]["labels_vec"]) for i in batch.valid_indices)
        for part, batch in zip(parts, batches, strict=True)
    ]
    shares = [count / sum(tokens) for count in tokens]
    examples = sum(batch.batchsize for batch in batches)
    for batch, share in zip(batches, shares, strict=True):
        batch["example_weight"] = batch.batchsize / examples / share
    return shares


def _train_on_halves(agent: Any, observations: Sequence[Any]) -> bool:
    """Halve the batch until its parts fit; False where single examples do not.

    Its metrics are left out: what is measured of a part is not what ParlAI awaits of a batch.
    """
    device = next(agent.model.parameters()).device
    size, length = len(observations), len(observations)
    while length > 1:
        length = -(-length // 2)
        parts = [observations[i : i + length] for i in range(0, size, length)]
        # The gradients of the pass that failed are no part of the step.
        agent.optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        batches = [agent.batchify(part).to(device) for part in parts]
        agent._control_local_metrics(disabled=True)
        fitted = _passes(agent, batches, _token_shares(parts, batches))
        agent._control_local_metrics(enabled=True)
        agent.pending = []  # of our agents: the statistics of the last part
        if fitted:
            logging.warning(f"out of memory: a batch of {size} is trained on in {len(parts)} parts")
            agent.global_metrics.add("split_batches", SumMetric(1))
            return True
    logging.warning(f"out of memory: no single example of a batch of {size} fits; it is skipped")
    agent.optimizer.zero_grad()
    agent.global_metrics.add("skipped_batches", SumMetric(1))
    return False
