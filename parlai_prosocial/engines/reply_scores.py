"""What a model thinks of given replies, and what it says itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.util.batches import budgeted

MAX_CONTEXT_TOKENS = 256
MAX_REPLY_TOKENS = 128
SAMPLED_TOKENS = 40
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
"""The one decoding of all tables: nucleus 0.9 at temperature 0.7, at most 40 tokens."""


@dataclass(frozen=True)
class ReplyScore:
    """Likelihood of one reply.

    Attributes:
        nll: -log p(reply | context) in nats, summed over its tokens, end-of-turn included.
        tokens: how many those are.
        mean_log_prob: the ranking score; mean log p over the reply's tokens, end-of-turn left out.
        cosine: of the contrast head, -1..1; None where the model has none.
    """

    nll: float
    tokens: int
    mean_log_prob: float
    cosine: float | None = None


@dataclass(frozen=True)
class SampledReply:
    """A sampled reply, and whether the model ended it by its end-of-turn token."""

    text: str
    ended: bool


@torch.no_grad()
def score_replies(
    model: Backbone,
    pairs: Sequence[tuple[str, Sequence[str]]],
    bf16: bool,
    tokens_per_batch: int = 2048,
    max_context_tokens: int = MAX_CONTEXT_TOKENS,
) -> list[list[ReplyScore]]:
    """Score replies in their contexts.

    Args:
        model: scored in evaluation mode.
        pairs: (newline-packed context, replies) each.
        bf16: compute in bfloat16; float32 otherwise.
        tokens_per_batch: most tokens in one pass.
        max_context_tokens: longest context; the oldest turns go first.

    Returns:
        For each pair a score for each reply, in order, whatever the batches were.
    """
    model.eval()
    prompt = model.prompt
    longest = model.reply_limit(MAX_REPLY_TOKENS)
    limit = model.context_limit(max_context_tokens, longest)
    contexts = [prompt.encode_context(context, limit) for context, _ in pairs]
    replies = [[prompt.encode_response(y, longest) for y in ys] for _, ys in pairs]
    sizes = [len(c) + sum(map(len, ys)) for c, ys in zip(contexts, replies, strict=True)]
    scores: list[list[ReplyScore]] = [[] for _ in pairs]
    for batch in budgeted(sizes, tokens_per_batch):
        packed = model.pack([contexts[i] for i in batch], [replies[i] for i in batch])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            result = model(packed.to(model.device))
        nlls = (-result.log_probs()).tolist()
        means = result.mean_log_probs().tolist()
        counts = result.token_counts().long().tolist()
        cosines: list[float | None] = [None] * len(means)
        if model.contrast_head is not None:
            left, right = model.contrast_head(result.context_states, result.response_states)
            cosines = (left[result.candidate_examples] * right).sum(-1).tolist()
        flat = map(ReplyScore, nlls, counts, means, cosines)
        for i in batch:
            for _ in replies[i]:
                scores[i].append(next(flat))
    return scores
