"""Replies sampled in this process: batched, KV-cached, and the one sampler of all measurements.

Mining, evaluation and comparisons sample here, so their tables come from one decoding, and a
context gets the same replies in all of them. Only the agent that people talk to (``-m prosocial``)
decodes with Hugging Face's ``generate``, because ParlAI's flags ask for beams, n-gram blocking and
minimal lengths, which that has.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from parlai_prosocial.engines.nucleus import nucleus_tokens
from parlai_prosocial.engines.reply_scores import (
    MAX_CONTEXT_TOKENS,
    SAMPLED_TOKENS,
    SAMPLING,
    SampledReply,
    score_replies,
)
from parlai_prosocial.engines.seeds import own_seed
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.rerank import choose_replies
from parlai_prosocial.util.missing import Missing

ROWS_PER_BATCH = 64
UNFINISHED_THOUGHT = "a thought without an end within --max-tokens"
_LEAST_SHARED = 16
"""Tokens at the beginning of a batch's contexts from which on it pays to compute them once."""


class TransformersEngine:
    """Our backbones, in this process: nucleus sampling, batched, KV-cached, sorted by length.

    A context is encoded once for its n replies, what all contexts of a batch begin with (a system
    prompt, examples) once for all, and rows that have ended leave the batch. Random
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
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        sampled: list[list[list[int]]] = [[] for _ in contexts]
        per_batch = max(1, ROWS_PER_BATCH // n)
        # A model that takes a block mask also takes positions, so that its cache can be shared.
        shared = getattr(self.backbone.scorer, "shares_context", False)
        decode = self._decode_shared if shared else self._decode_each
        for start in range(0, len(order), per_batch):
            batch = order[start : start + per_batch]
            uniforms = torch.stack(
                [_uniforms(seed, contexts[i], k, max_tokens) for i in batch for k in range(n)]
            ).to(self.backbone.device)  # (rows, max_tokens)
            with torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=self.bf16):
                rows = decode([encoded[i] for i in batch], n, uniforms, temperature, top_p)
            for row, ids in enumerate(rows):
                sampled[batch[row // n]].append(ids)
        return sampled

    def _decode_shared(
        self,
        contexts: Sequence[Sequence[int]],
        n: int,
        uniforms: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> list[list[int]]:
        """Token ids of each row's reply, its n rows from one pass over the context."""
        lm, device = self.backbone.lm, self.backbone.device
        output_layer = lm.get_output_embeddings()
        cache_name, cache, states, mask, positions = self._prefill(contexts)
        cache.batch_repeat_interleave(n)
        states = states.repeat_interleave(n, 0)  # (rows, hidden)
        mask = mask.repeat_interleave(n, 0)
        positions = positions.repeat_interleave(n, 0)

        replies: list[list[int]] = [[] for _ in range(len(uniforms))]
        rows = torch.arange(len(uniforms), device=device)
        going = torch.ones_like(rows, dtype=torch.bool)
        stops = torch.tensor(self.prompt.stop_ids, device=device)
        for step in range(uniforms.size(1)):
            logits = output_layer(states)  # (rows, vocabulary)
            tokens = nucleus_tokens(logits, uniforms[rows, step], temperature, top_p)
            for row, token, goes in zip(
                rows.tolist(), tokens.tolist(), going.tolist(), strict=True
            ):
                if goes:
                    replies[row].append(token)
            going &= ~torch.isin(tokens, stops)
            left = int(going.sum())
            if not left or step + 1 == uniforms.size(1):
                break
            # Taking rows out copies the cache, so it waits until it pays.
            if left <= 0.75 * len(rows):
                kept = going.nonzero().flatten()
                cache.batch_select_indices(kept)
                rows, tokens, going = rows[kept], tokens[kept], going[kept]
                mask, positions = mask[kept], positions[kept]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            positions = positions + 1
            output = lm.base_model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                **{cache_name: cache},
            )
            states = output.last_hidden_state[:, -1]
        return replies

    def _prefill(
        self, contexts: Sequence[Sequence[int]]
    ) -> tuple[str, Any, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute contexts, what all begin with only once.

        Returns:
            The cache's name among the model's arguments, the cache, the last states (contexts,
            hidden), the cache's mask (contexts, length) and the last positions (contexts, 1).
        """
        lm, device = self.backbone.lm, self.backbone.device
        scorer: Any = self.backbone.scorer  # a causal model's: others have no prompt to share
        common = _common_start(contexts) if scorer.window is None else 0
        shared: dict[str, Any] = {}
        if common >= _LEAST_SHARED and len(contexts) > 1:
            start = torch.tensor([contexts[0][:common]], device=device)
            output = lm.base_model(input_ids=start, use_cache=True)
            cache_name = _cache_name(output)
            shared = {cache_name: getattr(output, cache_name)}
            shared[cache_name].batch_repeat_interleave(len(contexts))
            contexts = [context[common:] for context in contexts]
        else:
            common = 0
        longest = max(map(len, contexts))
        pads = [longest - len(context) for context in contexts]
        ids = torch.tensor(
            [[self.backbone.pad_id] * pad + list(c) for pad, c in zip(pads, contexts, strict=True)],
            device=device,
        )  # (contexts, longest)
        mask = torch.arange(longest, device=device) >= torch.tensor(pads, device=device)[:, None]
        mask = torch.cat([mask.new_ones(len(contexts), common), mask], 1).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, common:]
        output = lm.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **shared
        )
        cache_name = _cache_name(output)
        states = output.last_hidden_state[:, -1]
        return cache_name, getattr(output, cache_name), states, mask, positions[:, -1:]

    def _decode_each(
        self,
        contexts: Sequence[Sequence[int]],
        n: int,
        uniforms: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> list[list[int]]:
        """The same through Hugging Face's generate, the context encoded for every row."""
        generated = self.backbone.generate(
            [context for context in contexts for _ in range(n)],
            uniforms.size(1),
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([_Nucleus(uniforms, temperature, top_p)]),
        )
        return [self.backbone.reply_ids(row) for row in generated]


def _cache_name(output: Any) -> str:
    """Of the cache among a model's outputs and arguments; it was renamed in transformers 5.24."""
    return "cache" if hasattr(output, "cache") else "past_key_values"


def _common_start(contexts: Sequence[Sequence[int]]) -> int:
    """How many tokens all contexts begin with; each keeps one token of its own."""
    lists = list(map(list, contexts))
    first, last = min(lists), max(lists)  # in their order these differ the earliest
    most = min(map(len, contexts)) - 1
    same = (a == b for a, b in zip(first[:most], last[:most], strict=True))
    return sum(itertools.takewhile(bool, same))


class _Nucleus(LogitsProcessor):
    """Leaves Hugging Face's greedy search one token to choose: the one drawn."""

    def __init__(self, uniforms: torch.Tensor, temperature: float, top_p: float):
        self.uniforms, self.temperature, self.top_p = uniforms, temperature, top_p
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniforms = self.uniforms[:, self.step]
        tokens = nucleus_tokens(scores, uniforms, self.temperature, self.top_p)
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
