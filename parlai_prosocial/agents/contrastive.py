"""Training by likelihood and contrast, for any generator agent of ParlAI.

A batch's observations become :class:`~.contrast.Example`s, an agent scores their responses and
negatives in one pass, and the scores become the loss and ParlAI's metrics. What is contrasted
stands in ``contrast.py``.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from math import log, sqrt
from random import Random
from statistics import mean, variance
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric, GlobalAverageMetric, SumMetric
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.core.torch_agent import Batch
from parlai.core.torch_generator_agent import PPLMetric, TorchGeneratorAgent
from parlai.utils import logging
from parlai.utils.misc import warn_once

from parlai_prosocial.agents import distributed, shown
from parlai_prosocial.agents.batch_loss import ContrastiveLoss, contrast_loss
from parlai_prosocial.agents.batch_negatives import (
    Example,
    add_in_batch_negatives,
    permute_weights,
    sample_negatives,
    without_equal,
    without_negatives,
)
from parlai_prosocial.agents.options import CONTRAST_LOSSES, LOSSES_WITH
from parlai_prosocial.data.example import CASUAL
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.scores import CandidateScores

DRIFT_STEPS = 20
"""Most steps whose mean log p of positives is the beginning that later ones are held against.

A short run takes a quarter of its steps, so that it is warned too.
"""


def drift_steps(max_train_steps: float) -> int:
    """A quarter of the run, from 2 to :data:`DRIFT_STEPS` steps; the latter in an endless run.

    >>> drift_steps(16), drift_steps(1000), drift_steps(3), drift_steps(-1)
    (4, 20, 2, 20)
    """
    if max_train_steps <= 0:
        return DRIFT_STEPS
    return max(2, min(DRIFT_STEPS, int(min(max_train_steps, 4 * DRIFT_STEPS)) // 4))


def averages(values: Sequence[float], weights: Sequence[float]) -> list[AverageMetric | None]:
    """A weighted mean's share of each example; None where it has no weight.

    A metric that no example of a task has is then absent from the task's report, where ParlAI
    would count a 0 in the mean over tasks.
    """
    return [
        AverageMetric(value, weight) if weight else None
        for value, weight in zip(values, weights, strict=True)
    ]


class ContrastiveAgent(TorchGeneratorAgent):
    """Trains on responses and their negatives.

    Message fields beyond ParlAI's own, all optional: ``negatives``, ``negative_weights`` and
    ``contrast_group`` (docs/design.md#message-fields). Without them it trains by likelihood, plus
    in-batch contrast where asked.
    """

    temperature_flag = "temperature"
    """The flag of the n-pair loss's temperature."""

    @classmethod
    def add_cmdline_args(cls, parser: ParlaiParser, partial_opt: Opt | None = None) -> ParlaiParser:
        super().add_cmdline_args(parser, partial_opt)
        shown.add_arguments(parser)
        return parser

    def __init__(self, opt: Opt, shared: Any = None):
        self.shown: shown.ShownTurns = shared["shown"] if shared else shown.ShownTurns(opt)
        self.drift: list[float] = []
        self.pending: list[Any] = []
        super().__init__(opt, shared)
        self.contrastive_loss = self.build_contrastive_loss()
        self.random.seed(f"labels {self._seed}")

    def share(self) -> dict[str, Any]:
        return super().share() | {"shown": self.shown}

    def act(self) -> Message:
        message = super().act()
        return self.shown.for_people(
            self.opt, message, (self.observation or {}).get("full_text", "")
        )

    def self_observe(self, self_message: Message) -> None:
        super().self_observe(self.shown.for_history(self.opt, self_message))

    @property
    def _seed(self) -> int:
        # Commands that do not train have no --seed.
        return self.opt.get("seed") or 0

    @property
    def _batch_seed(self) -> str:
        """What is random in a training batch: the same again in a run that goes on after it."""
        return f"{self._seed} {self._number_training_updates} {self._number_grad_accum}"

    @property
    def contrast_score(self) -> str:
        """What is contrasted: likelihood, cosine or likelihood+cosine."""
        return "likelihood"

    @property
    def contrast_head(self) -> ContrastHead | None:
        """The projections of the cosine score, where there are any."""
        return None

    @abstractmethod
    def score_examples(self, examples: Sequence[Example]) -> tuple[CandidateScores, float, Any]:
        """Score each example's response, then its negatives, in one pass of ``self.model``.

        Returns:
            The scores, the share of padding in the pass, and what ``compute_loss`` returns as the
            model's output.
        """

    def reference_log_probs(self, examples: Sequence[Example]) -> torch.Tensor | None:
        """(C,) mean log p of all candidates by the model that training starts from.

        None where the contrast is not relative to it.
        """
        return None

    def casual_kl(
        self, examples: Sequence[Example], scores: CandidateScores, firsts: torch.Tensor
    ) -> torch.Tensor | None:
        """(B,) mean KL to the start over each casual reply's tokens, 0 for other turns.

        None where it is not asked for.
        """
        return None

    def build_contrastive_loss(self) -> ContrastiveLoss:
        name = self.opt["contrast_loss"]
        given = {flag: self.opt.get(flag) for flag, losses in LOSSES_WITH.items() if name in losses}
        if name == "n-pair":
            given["temperature"] = self.opt[self.temperature_flag]
        loss: Any = CONTRAST_LOSSES[name]
        return loss(**{k: v for k, v in given.items() if v is not None})

    # From messages to token ids

    def vectorize(self, obs: Message, history: Any, **kwargs: Any) -> Message:
        super().vectorize(obs, history, **kwargs)
        label_kind = "labels" if "labels" in obs else "eval_labels"
        if label_kind in obs and "text_vec" in obs and "contrast_example" not in obs:
            obs["contrast_example"] = self._example(obs, label_kind)
        return obs

    def _example(self, obs: Message, label_kind: str) -> Example:
        negatives = list(obs.get("negatives", []))
        weights = list(obs.get("negative_weights", [1.0] * len(negatives)))
        references = list(obs.get("negative_reference_log_probs", [None] * len(negatives)))
        if len(weights) != len(negatives) or any(not w > 0 for w in weights):
            raise UserError(
                f"task {obs.get('id')}: negative_weights {weights} do not fit {len(negatives)} "
                "negatives; give one weight above 0 for each"
            )
        if len(references) != len(negatives):
            raise UserError(
                f"task {obs.get('id')}: {len(references)} negative_reference_log_probs do not fit "
                f"{len(negatives)} negatives; give one for each, or none"
            )
        example = Example(
            context=obs["text_vec"].tolist(),
            response=obs[label_kind + "_vec"].tolist(),
            text=normalise_text(obs[label_kind + "_choice"]),
            group=obs.get("contrast_group", ""),
            rots=frozenset(normalise_text(rot) for rot in obs.get("rots", [])),
            negatives=[
                self._vectorize_text(
                    negative,
                    add_end=True,
                    truncate=self.label_truncate,
                    truncate_left=False,
                ).tolist()
                for negative in negatives
            ],
            log_weights=[log(weight) * self.opt["social_weights"] for weight in weights],
            reference=obs.get("reference_log_prob"),
            negative_references=references,
            casual=obs.get("safety_label") == CASUAL,
            task=obs.get("id", ""),
        )
        example = without_equal(example)
        if example.equal:
            warn_once(
                f"task {obs.get('id')}: negatives that equal the reply or each other in the "
                f"{self.label_truncate} tokens that --label-truncate leaves are left out and "
                "counted as equal_negatives"
            )
        return example

    def batchify(self, obs_batch: list[Message], sort: bool = False) -> Batch:
        batch = super().batchify(obs_batch, sort=sort)
        if batch.batchsize:
            observations = [obs_batch[i] for i in batch.valid_indices]
            examples = [obs.get("contrast_example") for obs in observations]
            if batch.is_training:
                count, seed = self.opt["negatives"], self._batch_seed
                examples = [sample_negatives(example, count, seed) for example in examples]
            batch["examples"] = examples
        return batch

    # Loss and metrics

    def processed_tokens(self, batch: Batch) -> int:
        """Tokens of contexts, responses and negatives that a training step processes."""
        return sum(example.tokens for example in self._contrasted_examples(batch)[0])

    def _contrasted_examples(self, batch: Batch) -> tuple[list[Example], list[Example] | None]:
        """The examples with the negatives that they are scored with, and the joint batch."""
        examples: list[Example] = batch.examples
        if not self.is_training:
            return examples, None
        if not self.opt["contrast_weight"]:
            return [without_negatives(e) for e in examples], None
        joint, first = distributed.gather_lists(examples)
        if self.opt["permute_weights"]:
            joint = permute_weights(joint, Random(f"weights {self._batch_seed}"))
        examples = joint[first : first + len(examples)]
        count = self.opt["in_batch_negatives"]
        return add_in_batch_negatives(examples, joint, count, self._batch_seed), joint

    def compute_loss(self, batch: Batch, return_output: bool = False) -> Any:
        """Mean token loss of the responses + contrast weight x mean contrast of the examples.

        The contrast is a mean over all examples of the batch, those without a negative counting 0,
        so that one example has the same force in every batch. Under distributed training both are
        means over the joint batch, and its responses are in-batch negatives.
        """
        started = time.perf_counter()
        examples, joint = self._contrasted_examples(batch)
        # Before the pass with gradients, since weights may change places for it.
        reference = self.reference_log_probs(examples) if self.is_training else None
        scores, padding, output = self.score_examples(examples)
        contrasted = contrast_loss(
            self.contrastive_loss,
            self.contrast_score,
            scores,
            examples,
            joint,
            self.contrast_head,
            reference,
        )
        contrast, mask = contrasted.loss, contrasted.mask
        mean_log_probs, has_negatives = contrasted.mean_log_probs, contrasted.has_negatives
        firsts = contrasted.firsts
        token_counts = scores.token_counts()[firsts]  # (B,)
        nll = -scores.log_probs()[firsts]  # (B,), end-of-turn included
        correct = scores.sum_per_candidate(scores.token_correct.float())[firsts]
        mean_of = distributed.mean_of_all if self.is_training else distributed.own_mean
        loss = mean_of(nll.sum(), token_counts.sum())
        # Of a part of a batch, whose loss counts by its tokens: these terms count by examples.
        per_example = batch.get("example_weight", 1.0)
        if self.opt["contrast_weight"]:
            mean_contrast = mean_of(contrast.sum(), torch.full_like(token_counts[0], len(examples)))
            loss = loss + self.opt["contrast_weight"] * per_example * mean_contrast
        kl = self.casual_kl(examples, scores, firsts) if self.is_training else None
        if kl is None:
            kl, is_kept = torch.zeros_like(contrast), torch.zeros_like(contrast)
        else:
            examples_of_all = torch.full_like(token_counts[0], len(examples))
            mean_kl = mean_of(kl.sum(), examples_of_all)
            loss = loss + self.opt["casual_kl"] * per_example * mean_kl
            is_kept = torch.tensor([float(e.casual) for e in examples], device=kl.device)

        negative_log_probs = mean_log_probs[:, 1:].detach()
        hardest = negative_log_probs.masked_fill(~mask, float("-inf"))
        hardest = (
            hardest.max(1).values if mask.size(1) else torch.full_like(contrast, float("-inf"))
        )
        positive = mean_log_probs[:, 0].detach()
        # One transfer from the device for all metrics, after the backward pass was queued.
        statistics = torch.stack(
            [
                nll.detach(),
                token_counts,
                correct,
                contrast.detach(),
                has_negatives.float(),
                mask.any(1).float(),
                (positive > hardest).float(),
                torch.where(mask.any(1), positive - hardest, 0.0),
                positive,
                (negative_log_probs * mask).sum(1),
                mask.sum(1).float(),
                kl.detach(),
                is_kept,
            ]
        )  # (statistics, B)
        useful = sum(example.tokens for example in examples)
        equal = [example.equal for example in examples]
        self.pending = [statistics, equal, useful, padding, started]
        return (loss, output) if return_output else loss

    def train_step(self, batch: Batch) -> None:
        super().train_step(batch)
        self._record_metrics()

    def _record_metrics(self) -> None:
        if not self.pending:
            return
        statistics, equal, useful, padding, started = self.pending
        self.pending = []
        (
            nll,
            tokens,
            correct,
            contrast,
            has_any,
            has_hard,
            right,
            margin,
            pos,
            neg,
            count,
            *casual,
        ) = statistics.tolist()
        for name, value, weight in (
            ("loss", nll, tokens),
            ("token_acc", correct, tokens),
            ("contrast_loss", contrast, has_any),
            ("contrast_acc", [r * h for r, h in zip(right, has_hard, strict=True)], has_hard),
            ("margin", margin, has_hard),
            ("logp_pos", pos, [1.0] * len(pos)),
            ("logp_neg", neg, count),
            ("casual_kl", *casual),
        ):
            self.record_local_metric(name, averages(value, weight))
        self.record_local_metric("equal_negatives", [SumMetric(n) if n else None for n in equal])
        self.record_local_metric("ppl", PPLMetric.many(nll, tokens))
        self.global_metrics.add("padding", GlobalAverageMetric(padding))
        self.global_metrics.add("useful_tokens", GlobalAverageMetric(useful))
        self.global_metrics.add(
            "useful_tps", GlobalAverageMetric(useful, time.perf_counter() - started)
        )
        if self.is_training:
            self._watch_drift(sum(pos) / len(pos))

    def _watch_drift(self, positive_log_prob: float) -> None:
        """Warn once where training pushes the fitting replies down with the others."""
        self.drift.append(positive_log_prob)
        steps = drift_steps(self.opt.get("max_train_steps", -1))
        if len(self.drift) < 2 * steps:
            return
        began, now = self.drift[:steps], self.drift[-steps:]
        del self.drift[steps:-steps]
        # Batches differ: a fall within two standard errors of the two means is none.
        error = sqrt((variance(began) + variance(now)) / steps)
        if mean(now) < mean(began) - 2 * error and not self.opt.get("drift_warned"):
            self.opt["drift_warned"] = True
            logging.warning(
                f"mean log p of the fitting replies fell from {mean(began):.3f} to "
                f"{mean(now):.3f}: the "
                "contrast pushes them down too; lower --contrast-weight or --learningrate"
            )

    def eval_step(self, batch: Batch) -> Any:
        output = super().eval_step(batch)
        self._record_metrics()
        return output
