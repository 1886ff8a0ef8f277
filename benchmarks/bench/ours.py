"""Our side: the agent as ``parlai train_model`` runs it, the engine, and what packing replaces."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from parlai.core.agents import create_agent
from parlai.core.worlds import create_task
from parlai.scripts.train_model import TrainModel

from benchmarks.bench import corpus
from benchmarks.bench.measure import Usage, timed
from parlai_prosocial.models.causal import CausalScorer
from parlai_prosocial.models.packing import PackedBatch, pack_separately

LIKELIHOOD = ("--contrast-weight", "0", "--negatives", "0")
LEARNING_RATE = 1e-5
"""Of all sides: the weights must stay near each other, and nothing is learnt here."""


def build_agent(rows: Sequence[corpus.Row], folder: Path, base: Path, flags: Sequence[str]) -> Any:
    """``-m prosocial`` ready to train on the rows, with ParlAI's flags."""
    file = corpus.write(folder / "rows.jsonl", list(rows))
    arguments = ["--model", "prosocial", "--backbone", str(base), "--task", "prosocial:Own"]
    arguments += ["--prosocial-data", str(file), "--datapath", str(folder / "data")]
    arguments += ["--datatype", "train:ordered", "--learningrate", str(LEARNING_RATE)]
    arguments += ["--lr-scheduler", "none", *flags]
    return create_agent(TrainModel.setup_args().parse_args(arguments))


def batches_of(agent: Any, count: int) -> list[Any]:
    """The agent's first training batches, without a step taken on them."""
    batches: list[Any] = []
    agent.train_step = batches.append
    world = create_task(agent.opt, agent)
    while len(batches) < count:
        world.parley()
    del agent.train_step
    agent.reset()
    return batches


def losses_of(agent: Any, batches: Sequence[Any]) -> list[float]:
    """Mean token loss of the replies in each batch, and with contrast the whole loss."""
    found = []
    for batch in batches:
        agent.is_training = True
        # With gradients, as in training: which kernels are used may depend on it.
        found.append(agent.compute_loss(batch).item())
        agent.pending = []
    return found


class Training:
    """Steps of the agent in ParlAI's world, which makes batches of messages as it always does.

    Args:
        agent: from :func:`build_agent`, with the rows in its ``--prosocial-data``.
        steps: in a piece of work.
    """

    def __init__(self, agent: Any, steps: int):
        self.agent, self.steps = agent, steps
        self.world = create_task(agent.opt, agent)

    def __call__(self, number: int) -> Usage:
        return timed(self._steps)(number)

    def _steps(self, _number: int) -> None:
        for _ in range(self.steps):
            self.world.parley()


class SeparateScorer(CausalScorer):
    """A row for each reply, its context repeated: what packing replaces.

    All else is as ours: the kernels of attention, and only the states that predict a reply reach
    the output layer.
    """

    def pack(
        self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]
    ) -> PackedBatch:
        return pack_separately(contexts, candidates, self.pad_id)


def score_separately(agent: Any) -> None:
    """Let an agent score with a pass for each reply."""
    agent.backbone.scorer.__class__ = SeparateScorer


def free() -> None:
    """Give back the memory of what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
