"""Blocking of repeated n-grams within a reply."""

import torch
from transformers import NoRepeatNGramLogitsProcessor


class ReplyNgramBlocking(NoRepeatNGramLogitsProcessor):
    """No n-gram twice in a reply, as ParlAI's ``--beam-block-ngram`` says; the context may have it.

    transformers' own setting counts a causal model's context too, its template's tokens included:
    what was said once could then never be taken up.

    Args:
        ngram_size: n >= 1.
        start: number of tokens before the reply.
    """

    def __init__(self, ngram_size: int, start: int):
        super().__init__(ngram_size)
        self.start = start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(rows, context + reply) ids, (rows, vocabulary) scores -> scores, blocked at -inf."""
        return super().__call__(input_ids[:, self.start :], scores)
