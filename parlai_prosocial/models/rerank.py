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
    replies of a context; mean log p leaves the end-of-turn token out, as the contrast does. One
    pass scores all of them, the context encoded once, and equal replies once.

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
    # Equal replies have equal scores; two places in a pass may round them differently.
    distinct = [list(dict.fromkeys(map(tuple, group))) for group in replies]
    scores = backbone(backbone.pack(contexts, distinct).to(backbone.device))
    context_states, response_states = head(scores.context_states, scores.response_states)
    cosines = (context_states[scores.candidate_examples] * response_states).sum(-1)  # (distinct,)
    places, first = [], 0
    for group, own in zip(replies, distinct, strict=True):
        places.append([first + own.index(tuple(reply)) for reply in group])
        first += len(own)
    index = torch.tensor(places, device=cosines.device)  # (E, N)
    combined = alpha * standardise(cosines.float()[index])  # (E, N)
    combined = combined + (1 - alpha) * standardise(scores.mean_log_probs()[index])
    return combined.argmax(dim=1).tolist()


ROUNDING = 64
"""Spacings of floats within which values are equal: another order of sums rounds so far."""


def standardise(values: torch.Tensor) -> torch.Tensor:
    """(E, N) float -> each row with mean 0 and standard deviation 1.

    Values that are equal but for rounding (:data:`ROUNDING`) give 0: a spread below it says
    nothing, and dividing by it would make it count as much as a real one.

    >>> standardise(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    centred = values - values.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    largest = values.abs().amax(dim=1, keepdim=True)
    smallest = (ROUNDING * torch.finfo(values.dtype).eps * largest).clamp(
        min=torch.finfo(values.dtype).tiny
    )
    return torch.where(deviation > smallest, centred / deviation.clamp(min=smallest), 0.0)
