"""Scoring with a causal language model: one packed pass over contexts and candidates."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from parlai_prosocial.models.output_layer import computes_target_log_probs, target_log_probs
from parlai_prosocial.models.packing import PackedBatch, pack, pack_separately
from parlai_prosocial.models.scores import (
    CandidateScores,
    mean_pool,
    reply_tokens,
    token_log_probs,
)
from parlai_prosocial.models.text_config import text_config, text_model

logger = logging.getLogger(__name__)

WINDOW_SETTINGS = ("sliding_window", "attention_chunk_size")
"""Those that transformers.masking_utils reads."""


class CausalScorer:
    """Packs and scores for one causal language model.

    Whether the model takes a block mask is tried, not looked up: attention implementations and
    logit scalings differ between architectures and versions, and a wrong one gives wrong numbers
    without an error. A window of attention is looked up: a block mask takes its place, so it is
    used only in rows that no window cuts, and no trial is that long.

    Args:
        lm: a Hugging Face causal language model in float32.
        pad_id: a token id to fill rows with.
        end_ids: the tokens that end a reply.
    """

    def __init__(self, lm: Any, pad_id: int, end_ids: Sequence[int]):
        self.pad_id = pad_id
        self.end_ids = end_ids
        self.window = attention_window(text_config(lm))
        self.shares_context = self._packed_equals_separate(lm)
        if not self.shares_context:
            logger.warning(
                "%s does not take a block attention mask: the context is computed once for "
                "every candidate, which is slower",
                type(lm).__name__,
            )

    def pack(
        self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]
    ) -> PackedBatch:
        if self.shares_context:
            batch = pack(contexts, candidates, self.pad_id)
            if self._fits_window(batch):
                return batch
        return pack_separately(contexts, candidates, self.pad_id)

    def score(self, lm: Any, batch: PackedBatch, keep_logits: bool = False) -> CandidateScores:
        # A block mask is right for separate rows too, should these fit where packed ones did not.
        if self.shares_context and self._fits_window(batch):
            return self._score_packed(lm, batch, keep_logits)
        return self._score_separate(lm, batch, keep_logits)

    def _fits_window(self, batch: PackedBatch) -> bool:
        return self.window is None or batch.input_ids.size(1) <= self.window

    def _score_packed(
        self, lm: Any, batch: PackedBatch, keep_logits: bool = False
    ) -> CandidateScores:
        hidden = text_model(lm)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)  # (rows * length, hidden)
        # Only states that predict a response token reach the output layer, a fifth of this model.
        layer, queries = lm.get_output_embeddings(), hidden[batch.query_positions]
        if not keep_logits and computes_target_log_probs(layer, queries):
            found = target_log_probs(layer, queries, batch.target_ids)
            return self._collect(batch, *found, hidden, None)
        logits = layer(queries)  # (T, vocabulary)
        found = token_log_probs(logits, batch.target_ids)
        return self._collect(batch, *found, hidden, logits if keep_logits else None)

    def _score_separate(
        self, lm: Any, batch: PackedBatch, keep_logits: bool = False
    ) -> CandidateScores:
        output = lm(
            input_ids=batch.input_ids,
            attention_mask=(batch.example_ids != -1).long(),
            output_hidden_states=True,
            use_cache=False,
        )
        logits = output.logits.flatten(0, 1)[batch.query_positions]  # (T, vocabulary)
        hidden = output.hidden_states[-1].flatten(0, 1)
        found = token_log_probs(logits, batch.target_ids)
        return self._collect(batch, *found, hidden, logits if keep_logits else None)

    def _collect(
        self,
        batch: PackedBatch,
        log_probs: torch.Tensor,
        correct: torch.Tensor,
        hidden: torch.Tensor,
        logits: torch.Tensor | None,
    ) -> CandidateScores:
        return CandidateScores(
            token_log_probs=log_probs,
            token_correct=correct,
            token_candidates=batch.target_candidates,
            token_in_reply=reply_tokens(batch.target_ids, batch.target_candidates, self.end_ids),
            candidate_examples=batch.candidate_examples,
            context_states=hidden[batch.context_ends],  # (E, hidden)
            response_states=mean_pool(
                hidden[batch.token_positions], batch.token_candidates, len(batch.candidate_examples)
            ),  # (C, hidden)
            logits=logits,
        )

    @torch.no_grad()
    def _packed_equals_separate(self, lm: Any) -> bool:
        vocabulary = lm.get_output_embeddings().weight.size(0)
        ids = [(17 + 29 * i) % vocabulary for i in range(18)]
        contexts = [ids[:5], ids[5:8]]
        candidates = [[ids[8:11], ids[10:14]], [ids[14:18]]]
        device = next(lm.parameters()).device
        was_training = lm.training
        lm.eval()
        try:
            packed = self._score_packed(
                lm, pack(contexts, candidates, self.pad_id).to(device)
            ).token_log_probs
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False
        finally:
            lm.train(was_training)
        lm.eval()
        separate = self._score_separate(
            lm, pack_separately(contexts, candidates, self.pad_id).to(device)
        ).token_log_probs
        lm.train(was_training)
        return torch.allclose(packed, separate, atol=1e-4)


def attention_window(config: Any) -> int | None:
    """Tokens that a model's narrowest layer looks back on, itself included; None: on all."""
    settings = config.to_dict()
    return min((settings[name] for name in WINDOW_SETTINGS if settings.get(name)), default=None)
