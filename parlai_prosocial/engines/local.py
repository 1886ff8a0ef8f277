"""Replies sampled in this process: batched, cached, and the one sampler of all measurements.

Mining, evaluation and comparisons sample here, so their tables come from one decoding, and a
context gets the same replies in all of them. Only the agent that people talk to (``-m prosocial``)
decodes with Hugging Face's ``generate``, because ParlAI's flags ask for beams, n-gram blocking and
minimal lengths, which that has.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from parlai_prosocial.engines.nucleus import nucleus_tokens
from parlai_prosocial.engines.refill import Draw, Refilled
from parlai_prosocial.engines.reply_scores import (
    MAX_CONTEXT_TOKENS,
    SAMPLED_TOKENS,
    SAMPLING,
    SampledReply,
    score_replies,
)
from parlai_prosocial.engines.seeds import own_seed
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.decode_cache import decodes_alike
from parlai_prosocial.models.rerank import choose_replies
from parlai_prosocial.util.missing import Missing

logger = logging.getLogger(__name__)

ROWS_PER_BATCH = 64
UNFINISHED_THOUGHT = "a thought without an end within --max-tokens"


class TransformersEngine:
    """Our backbones, in this process: nucleus sampling, batched, cached, sorted by length.

    A context is encoded once for its n replies, what all contexts begin with (a system prompt,
    examples) once for all, and replies that wait take the rows of those that have ended. Random
    numbers belong to (seed, context, reply) and not to the batch, so other contexts change no
    reply but by rounding: where the model is computed in fp32 that is rare, in bf16 less so. The
    same batch gives the same bits.

    Args:
        backbone: put into evaluation mode.
        name: see :class:`~parlai_prosocial.engines.engine.Engine`.
        bf16: compute in bfloat16.
        system_prompt: instead of the backbone's own (chat templates only).
        max_context_tokens: longest context; the oldest turns go first.
    """

    def __init__(
        self,
        backbone: Backbone,
        name: str,
        bf16: bool = False,
        system_prompt: str | None = None,
        max_context_tokens: int = MAX_CONTEXT_TOKENS,
    ):
        self.backbone = backbone.eval()
        self.name = name
        self.bf16 = bf16
        self.max_context_tokens = max_context_tokens
        self.missing = Missing()
        self._alike: bool | None = None
        self._exact_scores = False
        self.prompt = backbone.prompt
        if system_prompt is not None:
            self.prompt = replace(backbone.prompt, system_prompt=system_prompt)

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        encoded = self._encode(contexts, max_tokens)
        sampled = self._sample_ids(contexts, encoded, n, max_tokens, seed, temperature, top_p)
        return [
            [self._reply(context, ids) for ids in replies]
            for context, replies in zip(encoded, sampled, strict=True)
        ]

    def sample_best(
        self,
        contexts: Sequence[str],
        among: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        alpha: float = 0.5,
    ) -> list[SampledReply | None]:
        """One reply to each context: of ``among`` samples the one that the contrast head prefers.

        Args:
            contexts, max_tokens, seed, temperature, top_p: as for :meth:`Engine.sample`.
            among: how many are sampled.
            alpha: see :func:`~parlai_prosocial.models.rerank.choose_replies`.
        """
        encoded = self._encode(contexts, max_tokens)
        sampled = self._sample_ids(contexts, encoded, among, max_tokens, seed, temperature, top_p)
        found: list[SampledReply | None] = []
        per_batch = max(1, ROWS_PER_BATCH // among)
        for start in range(0, len(encoded), per_batch):
            batch = encoded[start : start + per_batch]
            groups = sampled[start : start + per_batch]
            with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16):
                chosen = choose_replies(self.backbone, batch, groups, alpha)
            found += [
                self._reply(context, group[best])
                for context, group, best in zip(batch, groups, chosen, strict=True)
            ]
        return found

    def mean_log_probs(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """Mean log p of each context's replies, end-of-turn left out, in the engine's contexts.

        Args:
            pairs: (newline-packed context, replies) each.
        """
        scores = score_replies(
            self.backbone, pairs, self.bf16, max_context_tokens=self.max_context_tokens
        )
        return [[score.mean_log_prob for score in replies] for replies in scores]

    def _encode(self, contexts: Sequence[str], max_tokens: int) -> list[list[int]]:
        limit = self.backbone.context_limit(self.max_context_tokens, max_tokens)
        return [self.prompt.encode_context(c, limit) for c in contexts]

    def _reply(self, context: Sequence[int], ids: Sequence[int]) -> SampledReply | None:
        ended = self.prompt.ends_with_stop(ids)
        text = self.prompt.reply(context, ids)
        if text is not None:
            return SampledReply(text, ended)
        self.missing.note(self.name, [UNFINISHED_THOUGHT])
        return None

    @torch.no_grad()
    def _sample_ids(
        self,
        contexts: Sequence[str],
        encoded: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float,
        top_p: float,
    ) -> list[list[list[int]]]:
        """For each context the token ids of n replies, end-of-turn included where reached."""
        # Longest first: a context that does not fit into memory is found at once.
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        uniforms: dict[tuple[int, int], list[float]] = {}

        def draw(
            logits: torch.Tensor, rows: Sequence[tuple[int, int]], ages: Sequence[int]
        ) -> torch.Tensor:
            for row in uniforms.keys() - set(rows):  # replies that have ended
                del uniforms[row]
            for i, k in set(rows) - uniforms.keys():
                uniforms[i, k] = _uniforms(seed, contexts[order[i]], k, max_tokens).tolist()
            numbers = [uniforms[row][age] for row, age in zip(rows, ages, strict=True)]
            drawn = torch.tensor(numbers, device=logits.device)  # (rows,)
            return nucleus_tokens(logits, drawn, temperature, top_p)

        sampled: list[list[list[int]]] = [[] for _ in contexts]
        backbone = self.backbone
        given = [encoded[i] for i in order]
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=self.bf16):
            if self._refills(given, max_tokens):
                stops = self.prompt.stop_ids
                exact, lm, pad_id = self._exact_scores, backbone.lm, backbone.pad_id
                replies = Refilled(lm, pad_id, stops, given, n, max_tokens, exact).run(draw)
            else:
                replies = self._generate(given, n, max_tokens, draw)
        for i, group in zip(order, replies, strict=True):
            sampled[i] = group
        return sampled

    def _refills(self, contexts: Sequence[Sequence[int]], max_tokens: int) -> bool:
        scorer: Any = self.backbone.scorer
        if not contexts or not getattr(scorer, "shares_context", False):
            return False
        window = scorer.window
        if window is not None and max(map(len, contexts)) + max_tokens > window:
            return False
        if self._alike is None:
            lm, pad_id = self.backbone.lm, self.backbone.pad_id
            self._alike = decodes_alike(lm, pad_id)
            if not self._alike:  # large keys: scores rounded to bfloat16 may be too far off
                self._alike = self._exact_scores = decodes_alike(lm, pad_id, exact_scores=True)
            if not self._alike:
                logger.warning(
                    "%s: our attention does not give its numbers in %s; Hugging Face's generate "
                    "samples, which is slower",
                    type(lm).__name__,
                    "bfloat16" if self.bf16 else "float32",
                )
        return self._alike

    def _generate(
        self, contexts: Sequence[Sequence[int]], n: int, max_tokens: int, draw: Draw
    ) -> list[list[list[int]]]:
        """The same through Hugging Face's generate, the context encoded for every row."""
        rows = [(i, k) for i in range(len(contexts)) for k in range(n)]
        replies: list[list[list[int]]] = [[] for _ in contexts]
        per_batch = n * max(1, ROWS_PER_BATCH // n)
        for start in range(0, len(rows), per_batch):
            batch = rows[start : start + per_batch]
            generated = self.backbone.generate(
                [contexts[i] for i, _ in batch],
                max_tokens,
                do_sample=False,
                num_beams=1,
                logits_processor=LogitsProcessorList([_Drawn(draw, batch)]),
            )
            for (i, _), ids in zip(batch, generated, strict=True):
                replies[i].append(self.backbone.reply_ids(ids))
        return replies


class _Drawn(LogitsProcessor):
    """Leaves Hugging Face's greedy search one token to choose: the one drawn."""

    def __init__(self, draw: Draw, rows: Sequence[tuple[int, int]]):
        self.draw, self.rows = draw, rows
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self.draw(scores, self.rows, [self.step] * len(self.rows))
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


def _uniforms(seed: int, context: str, reply: int, count: int) -> torch.Tensor:
    """(count,) float32 in [0, 1), the reply's own; on the CPU, so that devices draw alike."""
    generator = torch.Generator().manual_seed(own_seed(seed, context, reply))
    return torch.rand(count, generator=generator)


def sample_replies(
    model: Backbone, contexts: Sequence[str], seed: int, bf16: bool, rerank: int = 0
) -> list[SampledReply | None]:
    """Sample one reply to each newline-packed context with :data:`SAMPLING`.

    With ``rerank`` it is the best of so many by contrast head and likelihood (alpha 0.5).
    """
    engine = TransformersEngine(model, "model", bf16)
    if rerank:
        return engine.sample_best(contexts, rerank, SAMPLED_TOKENS, seed, **SAMPLING)
    return [reply for [reply] in engine.sample(contexts, 1, SAMPLED_TOKENS, seed, **SAMPLING)]
