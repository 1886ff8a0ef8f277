"""Choosing among sampled replies with the contrast head, as CoNT does at inference."""

from collections.abc import Sequence
from typing import Any

import torch

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone


def check_rerank(backbone: Backbone, count: int, alpha: float) -> None:
    """Raise :class:`UserError` where ``--rerank count --rerank-alpha alpha`` makes no sense."""
    if count < 0 or count == 1:
        raise UserError(f"--rerank {count}: give the number of replies to choose from, 2 or more")
    if not 0 <= alpha <= 1:
        raise UserError(f"--rerank-alpha {alpha}: must be from 0 (likelihood) to 1 (cosine)")
    if count and backbone.contrast_head is None:
        raise UserError(
            f"--rerank {count}: this model has no contrast head; train it with "
            "--contrast-score cosine or likelihood+cosine, or leave --rerank out"
        )


def generate_replies(
    backbone: Backbone,
    contexts: Sequence[Sequence[int]],
    max_new_tokens: int,
    rerank: int = 0,
    alpha: float = 0.5,
    **decoding: Any,
) -> list[list[int]]:
    """One reply to each of E contexts; with ``rerank`` the best of so many.

    Args:
        backbone: with a contrast head, where ``rerank`` is not 0.
        contexts, max_new_tokens, decoding: as for :meth:`Backbone.generate`.
        rerank, alpha: see :func:`check_rerank` and :func:`choose_replies`.

    Returns:
        E lists of token ids, end-of-turn included where it was reached.
    """
    if rerank:
        decoding["num_return_sequences"] = rerank
    generated = backbone.generate(contexts, max_new_tokens, **decoding)
    replies = [backbone.reply_ids(row) for row in generated]
    if not rerank:
        return replies
    groups = [replies[i : i + rerank] for i in range(0, len(replies), rerank)]
    chosen = choose_replies(backbone, contexts, groups, alpha)
    return [group[best] for group, best in zip(groups, chosen, strict=True)]


@torch.no_grad()
def choose_replies(
    backbone: Backbone,
    contexts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[Sequence[int]]],
    alpha: float,
) -> list[int]:
    """The best of N replies to each context (docs/design.md#reranking).

    It maximises ``alpha * z(cosine) + (1 - alpha) * z(mean log p)``, z standardising within the N
    replies of a context. One pass scores all of them, the context encoded once.

    Args:
        backbone: with a contrast head.
        contexts: token ids of E contexts, from ``prompt.encode_context``.
        replies: token ids of N >= 1 replies to each, from ``backbone.reply_ids``.
        alpha: 0 (likelihood alone) to 1 (cosine alone).

    Returns:
        E indices, each from 0 to N - 1; the first of equals.
    """
    head = backbone.contrast_head
    assert head is not None  # check_rerank has made sure
    packed = backbone.pack(contexts, replies)
    scores = backbone(packed.to(backbone.device))
    context_states, response_states = head(scores.context_states, scores.response_states)
    cosines = (context_states[scores.candidate_examples] * response_states).sum(-1)  # (E * N,)
    shape = (len(contexts), -1)
    combined = alpha * standardise(cosines.float().view(shape))  # (E, N)
    combined = combined + (1 - alpha) * standardise(scores.mean_log_probs().view(shape))
    return combined.argmax(dim=1).tolist()


def standardise(values: torch.Tensor) -> torch.Tensor:
    """(E, N) float -> each row with mean 0 and standard deviation 1; equal values give 0.

    >>> standardise(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    centred = values - values.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(values.dtype).tiny)
