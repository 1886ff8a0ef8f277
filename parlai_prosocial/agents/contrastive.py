"""Training by likelihood and contrast, for any generator agent of ParlAI.

A batch's observations become :class:`~.contrast.Example`s, an agent scores their responses and
negatives in one pass, and the scores become the loss and ParlAI's metrics. What is contrasted
stands in ``contrast.py``.
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from math import log
from random import Random
from typing import Any

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric, GlobalAverageMetric
from parlai.core.opt import Opt
from parlai.core.torch_agent import Batch
from parlai.core.torch_generator_agent import PPLMetric, TorchGeneratorAgent
from parlai.utils import logging

from parlai_prosocial.agents import distributed
from parlai_prosocial.agents.contrast import (
    ContrastiveLoss,
    Example,
    add_in_batch_negatives,
    contrast_loss,
    permute_weights,
)
from parlai_prosocial.agents.shown import ShownTurns
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.scores import CandidateScores

DRIFT_STEPS = 20
"""Steps whose mean log p of positives is the beginning that later ones are held against."""


class ContrastiveAgent(ShownTurns, TorchGeneratorAgent):
    """Trains on responses and their negatives.

    Message fields beyond ParlAI's own, all optional: ``negatives``, ``negative_weights`` and
    ``contrast_group`` (docs/design.md#message-fields). Without them it trains by likelihood, plus
    in-batch contrast where asked.
    """

    temperature_flag = "temperature"
    """The flag of the n-pair loss's temperature."""

    def __init__(self, opt: Opt, shared: Any = None):
        self.rng = Random(42)
        self.drift: list[float] = []
        self.pending: list[Any] = []
        super().__init__(opt, shared)
        self.contrastive_loss = self.build_contrastive_loss()

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

    def build_contrastive_loss(self) -> ContrastiveLoss:
        name, margin = self.opt["contrast_loss"], self.opt["margin"]
        if name == "n-pair":
            return NPairLoss(temperature=self.opt[self.temperature_flag])
        loss = RankedMarginLoss if name == "ranked-margin" else LikelihoodMarginLoss
        return loss() if margin is None else loss(margin)

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
        if len(weights) != len(negatives) or any(not w > 0 for w in weights):
            raise UserError(
                f"task {obs.get('id')}: negative_weights {weights} do not fit {len(negatives)} "
                "negatives; give one weight above 0 for each"
            )
        chosen = list(range(len(negatives)))
        if label_kind == "labels" and len(negatives) > self.opt["negatives"]:
            chosen = sorted(self.rng.sample(chosen, self.opt["negatives"]))
        return Example(
            context=obs["text_vec"].tolist(),
            response=obs[label_kind + "_vec"].tolist(),
            text=normalise_text(obs[label_kind + "_choice"]),
            group=obs.get("contrast_group", ""),
            rots=frozenset(normalise_text(rot) for rot in obs.get("rots", [])),
            negatives=[
                self._vectorize_text(
                    negatives[i],
                    add_end=True,
                    truncate=self.label_truncate,
                    truncate_left=False,
                ).tolist()
                for i in chosen
            ],
            log_weights=[log(weights[i]) * self.opt["social_weights"] for i in chosen],
        )

    def batchify(self, obs_batch: list[Message], sort: bool = False) -> Batch:
        batch = super().batchify(obs_batch, sort=sort)
        if batch.batchsize:
            observations = [obs_batch[i] for i in batch.valid_indices]
            batch["examples"] = [obs.get("contrast_example") for obs in observations]
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
            return [replace(e, negatives=[], log_weights=[]) for e in examples], None
        step = self._number_training_updates
        if self.opt["permute_weights"]:
            examples = permute_weights(examples, Random(f"weights {step}"))
        joint, first = distributed.gather_lists(examples)
        rngs = [Random(f"{step} {first + i}") for i in range(len(examples))]
        count = self.opt["in_batch_negatives"]
        return add_in_batch_negatives(examples, joint, count, rngs), joint

    def compute_loss(self, batch: Batch, return_output: bool = False) -> Any:
        """Mean token loss of the responses + contrast weight x mean contrast of the examples.

        The contrast is a mean over the examples that have a negative. Under distributed training
        both are means over the joint batch, and its responses are in-batch negatives.
        """
        started = time.perf_counter()
        examples, joint = self._contrasted_examples(batch)
        scores, padding, output = self.score_examples(examples)
        contrasted = contrast_loss(
            self.contrastive_loss,
            self.contrast_score,
            scores,
            examples,
            joint,
            self.contrast_head,
        )
        contrast, mask = contrasted.loss, contrasted.mask
        mean_log_probs, has_negatives = contrasted.mean_log_probs, contrasted.has_negatives
        firsts = contrasted.firsts
        token_counts = scores.token_counts()[firsts]  # (B,)
        nll = -mean_log_probs[:, 0] * token_counts  # (B,)
        correct = scores.sum_per_candidate(scores.token_correct.float())[firsts]
        mean = distributed.mean_of_all if self.is_training else distributed.own_mean
        loss = mean(nll.sum(), token_counts.sum())
        if self.opt["contrast_weight"]:
            mean_contrast = mean(contrast.sum(), has_negatives.sum())
            loss = loss + self.opt["contrast_weight"] * mean_contrast

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
            ]
        )  # (statistics, B)
        useful = sum(example.tokens for example in examples)
        self.pending = [statistics, useful, padding, started]
        return (loss, output) if return_output else loss

    def train_step(self, batch: Batch) -> None:
        super().train_step(batch)
        self._record_metrics()

    def _record_metrics(self) -> None:
        if not self.pending:
            return
        statistics, useful, padding, started = self.pending
        self.pending = []
        nll, tokens, correct, contrast, has_any, has_hard, right, margin, pos, neg, count = (
            statistics.tolist()
        )
        for name, value, weight in (
            ("loss", nll, tokens),
            ("token_acc", correct, tokens),
            ("contrast_loss", contrast, has_any),
            ("contrast_acc", [r * h for r, h in zip(right, has_hard, strict=True)], has_hard),
            ("margin", margin, has_hard),
            ("logp_pos", pos, [1.0] * len(pos)),
            ("logp_neg", neg, count),
        ):
            self.record_local_metric(name, AverageMetric.many(value, weight))
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
        if len(self.drift) < 2 * DRIFT_STEPS:
            return
        began = sum(self.drift[:DRIFT_STEPS]) / DRIFT_STEPS
        now = sum(self.drift[-DRIFT_STEPS:]) / DRIFT_STEPS
        del self.drift[DRIFT_STEPS:-DRIFT_STEPS]
        if now < began and not self.opt.get("drift_warned"):
            self.opt["drift_warned"] = True
            logging.warning(
                f"mean log p of the fitting replies fell from {began:.3f} to {now:.3f}: the "
                "contrast pushes them down too; lower --contrast-weight or --learningrate"
            )

    def eval_step(self, batch: Batch) -> Any:
        output = super().eval_step(batch)
        self._record_metrics()
        return output
