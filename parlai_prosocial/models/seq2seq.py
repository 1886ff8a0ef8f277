"""Scoring with an encoder-decoder: one encoder pass a context, one decoder row a candidate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from parlai_prosocial.models.packing import repeat_index
from parlai_prosocial.models.scores import (
    CandidateScores,
    mean_pool,
    reply_tokens,
    token_log_probs,
)


@dataclass
class Seq2SeqBatch:
    """E contexts with C candidates in all.

    Attributes:
        context_ids, context_mask: (E, context length) int64; mask 1 on tokens, 0 on padding.
        decoder_ids: (C, response length) int64; responses shifted right by the start token.
        target_ids: (C, response length) int64; responses, right-padded.
        target_mask: (C, response length) bool, True on tokens.
        candidate_examples: (C,) int64.
    """

    context_ids: torch.Tensor
    context_mask: torch.Tensor
    decoder_ids: torch.Tensor
    target_ids: torch.Tensor
    target_mask: torch.Tensor
    candidate_examples: torch.Tensor

    def to(self, device: torch.device) -> "Seq2SeqBatch":
        return Seq2SeqBatch(
            **{name: x.to(device, non_blocking=True) for name, x in self.__dict__.items()}
        )

    @property
    def padding_share(self) -> float:
        masks = (self.context_mask, self.target_mask)
        return 1 - sum(m.sum().item() for m in masks) / sum(m.numel() for m in masks)


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token id lists -> (n, longest) int64 ids and (n, longest) bool mask made from lengths."""
    ids = pad_sequence(
        [torch.tensor(s, dtype=torch.long) for s in sequences],
        batch_first=True,
        padding_value=pad_id,
    )
    lengths = torch.tensor([len(s) for s in sequences])
    return ids, torch.arange(ids.size(1)) < lengths[:, None]


class Seq2SeqScorer:
    """Packs and scores for one encoder-decoder.

    Args:
        lm: a Hugging Face encoder-decoder language model.
        pad_id: a token id to fill rows with.
        end_ids: the tokens that end a reply.
    """

    def __init__(self, lm: Any, pad_id: int, end_ids: Sequence[int]):
        self.pad_id = pad_id
        self.end_ids = end_ids
        self.start_id = lm.config.decoder_start_token_id

    def pack(
        self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]
    ) -> Seq2SeqBatch:
        responses = [y for ys in candidates for y in ys]
        context_ids, context_mask = pad_right(contexts, self.pad_id)
        target_ids, target_mask = pad_right(responses, self.pad_id)
        decoder_ids, _ = pad_right([[self.start_id, *y[:-1]] for y in responses], self.pad_id)
        return Seq2SeqBatch(
            context_ids=context_ids,
            context_mask=context_mask.long(),
            decoder_ids=decoder_ids,
            target_ids=target_ids,
            target_mask=target_mask,
            candidate_examples=repeat_index([len(ys) for ys in candidates]),
        )

    def score(self, lm: Any, batch: Seq2SeqBatch, keep_logits: bool = False) -> CandidateScores:
        from transformers.modeling_outputs import BaseModelOutput

        encoded = lm.get_encoder()(
            input_ids=batch.context_ids, attention_mask=batch.context_mask
        ).last_hidden_state  # (E, context length, hidden)
        examples = batch.candidate_examples
        output = lm(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[examples]),
            attention_mask=batch.context_mask[examples],
            decoder_input_ids=batch.decoder_ids,
            output_hidden_states=True,
            use_cache=False,
        )
        mask = batch.target_mask
        owners = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
        targets = batch.target_ids[mask]  # (T,)
        logits = output.logits[mask]  # (T, vocabulary)
        log_probs, correct = token_log_probs(logits, targets)
        # Position t reads response token t - 1: the start token's own state is left out.
        reads_response = mask.clone()
        reads_response[:, 0] = False
        context_mask = batch.context_mask.bool()
        context_owners = torch.arange(len(encoded), device=mask.device)[:, None]
        return CandidateScores(
            token_log_probs=log_probs,
            token_correct=correct,
            token_candidates=owners[mask],
            token_in_reply=reply_tokens(targets, owners[mask], self.end_ids),
            candidate_examples=examples,
            context_states=mean_pool(
                encoded[context_mask],
                context_owners.expand_as(context_mask)[context_mask],
                len(encoded),
            ),  # (E, hidden)
            response_states=mean_pool(
                output.decoder_hidden_states[-1][reads_response], owners[reads_response], len(mask)
            ),  # (C, hidden)
            logits=logits if keep_logits else None,
        )
