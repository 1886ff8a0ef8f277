"""What training measures itself against: the model that the run starts from.

``--contrast-reference init`` contrasts log p relative to it, ``--casual-kl`` stays near it on
casual turns. The scores and the swapped adapter are ``models/start.py``'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.core.teachers import create_task_agent_from_taskname
from parlai.utils import logging
from parlai.utils.distributed import is_primary_worker

from parlai_prosocial.agents.batch_negatives import Example
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.scores import CandidateScores
from parlai_prosocial.models.start import Pair, Start, divergence_from_start

TOLERANCE = 0.1
"""Nats a token by which a row's log p may differ from the start's: bf16 and other kernels do."""


def check_start(opt: Opt, adapted: bool) -> None:
    """Raise :class:`UserError` for flags that need an adapter, where all weights are trained."""
    if adapted:
        return
    if opt["casual_kl"]:
        raise UserError(
            f"--casual-kl {opt['casual_kl']}: needs --lora-rank above 0; with all weights trained, "
            "the model that the run starts from would have to stay in memory beside it"
        )
    if opt["contrast_reference"] == "init" and opt["in_batch_negatives"]:
        raise UserError(
            f"--in-batch-negatives {opt['in_batch_negatives']}: with --contrast-reference init it "
            "needs --lora-rank above 0; with all weights trained, only the replies that are known "
            "before training can be scored"
        )


class Reference:
    """Scores by the start for an agent, opened at its first training step.

    Args:
        agent: a ``ProsocialAgent`` that trains.
        resumed: whether the agent goes on with a run after its first step.
    """

    def __init__(self, agent: Any, resumed: bool):
        check_start(agent.opt, agent.backbone.adapted)
        self.agent, self.resumed = agent, resumed
        self.start: Start | None = None

    def log_probs(self, examples: Sequence[Example]) -> list[float]:
        """Mean log p of all candidates of the examples, in order; 0 where none is contrasted."""
        start = self._open(examples)
        found = [value for e in examples for value in _given(e)]
        asked = [
            (i, pair)
            for i, (value, pair) in enumerate(zip(found, _pairs(examples), strict=True))
            if value is None
        ]
        scores = start.mean_log_probs([pair for _, pair in asked])
        for (i, _), score in zip(asked, scores, strict=True):
            found[i] = score
        return [0.0 if value is None else value for value in found]

    def casual_kl(
        self, examples: Sequence[Example], scores: CandidateScores, firsts: torch.Tensor
    ) -> torch.Tensor:
        """(B,) mean KL(start || model) over each casual reply's tokens; 0 for other turns."""
        start = self._open(examples)
        casual = [i for i, e in enumerate(examples) if e.casual]
        kl = scores.token_log_probs.new_zeros(len(examples))
        if not casual:
            return kl
        assert scores.logits is not None  # the agent keeps them where this is asked for
        before = start.forward(
            [examples[i].context for i in casual],
            [[examples[i].response] for i in casual],
            keep_logits=True,
        )
        assert before.logits is not None
        own = torch.isin(scores.token_candidates, firsts[casual])  # (T,)
        divergence = divergence_from_start(scores.logits[own], before.logits)
        owners = torch.tensor(casual, device=kl.device)
        sums = before.sum_per_candidate(divergence) / before.token_counts()
        return kl.index_add(0, owners, sums)

    def _open(self, examples: Sequence[Example]) -> Start:
        if self.start is not None:
            return self.start
        agent = self.agent
        path = agent.opt.get("model_file")
        self.start = Start(
            agent.backbone,
            Path(f"{path}.start.safetensors") if path else None,
            resumed=self.resumed,
            writes=is_primary_worker(),
            autocast=agent.autocast,
        )
        if agent.opt["contrast_reference"] == "init":
            if agent.backbone.adapted or not self.resumed:
                self._check_rows(examples)
            if not agent.backbone.adapted and not self.resumed:
                logging.info("scoring the replies of the task by the model before training")
                self.start.score_all(
                    [
                        pair
                        for e in self._task_examples()
                        for value, pair in zip(_given(e), _pairs([e]), strict=True)
                        if value is None
                    ]
                )
        return self.start

    def _check_rows(self, examples: Iterable[Example]) -> None:
        """Refuse rows whose log p are another model's, or of contexts that were cut otherwise."""
        given = [
            (e.task, value, pair)
            for e in examples
            for value, pair in zip((e.reference, *e.negative_references), _pairs([e]), strict=True)
            if value is not None
        ]
        if not given:
            return
        assert self.start is not None
        found = self.start.mean_log_probs([pair for _, _, pair in given])
        gaps = [abs(a - b) for a, (_, b, _) in zip(found, given, strict=True)]
        if sum(gaps) / len(gaps) > TOLERANCE:
            worst = max(range(len(gaps)), key=gaps.__getitem__)
            task, value, _ = given[worst]
            raise UserError(
                f"task {task}: reference_log_prob is {value:.3f} where the model that this run "
                f"starts from gives {found[worst]:.3f} (mean log p without end-of-turn, with "
                "--text-truncate and --label-truncate as they are); leave the columns out, or "
                "start from the model that they are of"
            )

    def _task_examples(self) -> Iterator[Example]:
        """Every contrasted example of the training tasks, with all of its negatives."""
        observer = self.agent.clone()
        for name in self.agent.opt["task"].split(","):
            own = {"task": name, "datatype": "train:evalmode", "batchsize": 1}
            opt = Opt({**self.agent.opt, **own})
            for teacher in create_task_agent_from_taskname(opt):
                while not teacher.epoch_done():
                    observation = observer.observe(teacher.act())
                    observer.self_observe(Message(text="", episode_done=False))
                    example = observation.get("contrast_example")
                    if example is not None and example.negatives:
                        yield example


def _given(example: Example) -> list[float | None]:
    """What the row says of each candidate; 0 where there is nothing to contrast."""
    if not example.negatives:
        return [0.0]
    return [example.reference, *example.negative_references]


def _pairs(examples: Iterable[Example]) -> list[Pair]:
    return [(e.context, y) for e in examples for y in (e.response, *e.negatives)]
