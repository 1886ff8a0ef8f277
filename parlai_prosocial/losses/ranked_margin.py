"""Ranked margin loss: the contrast of CoNT, ordered by the social score."""

import torch
from torch import nn
from torch.nn.functional import relu

from parlai_prosocial.losses.candidates import Candidates, join_negatives

SAME_WEIGHT = 1e-5
"""Log weights that are no further apart share a rank: rounding makes no order."""


class RankedMarginLoss(nn.Module):
    r"""Asks each candidate to score above every worse one, by a margin that grows with the ranks.

    A context's candidates are its fitting response (rank 0) and its negatives, ranked by how bad
    they are: the smaller the weight, the better the rank; equal weights share a rank. Then::

        L = sum over pairs with rank(i) < rank(j) of
            max(0, s(c, y_j) - s(c, y_i) + margin * (rank(j) - rank(i)))

    So it also orders the negatives among themselves, which n-pair does not. Pairs that share a
    rank say nothing and are left out. K may differ between examples (mask the padding). An example
    without any negative gives exactly 0 and a zero gradient.

    Args:
        margin: >= 0, of neighbouring ranks, in the unit of the scores. CoNT takes 0.01, on
            cosines.

    Raises:
        ValueError: margin < 0, or tensors whose shapes do not fit together.

    References:
        - An et al., CoNT: Contrastive Neural Text Generation, NeurIPS 2022, equation 4.

    Inputs:
        :class:`~.candidates.Candidates`, with any score. Weights order the negatives and have no
        other effect; without them all negatives share rank 1.

        Output: (B,) losses >= 0, in float32 (float64 for float64 scores), also under autocast.

    Relations:
        - CoNT ranks by sentence BLEU against the reference and takes in-batch responses as the
          worst. We rank by the social weights, so an in-batch response, which is off the topic but
          harmless, comes before a norm violation where its weight is the smallest.
        - With one rank of negatives: a sum of hinge losses over the positive's pairs.

    Example:
        The negatives have weights 1 and 2, so ranks 1 and 2. With margin 0.5 the pair
        (positive, first) is apart by 1.0 and costs nothing; (positive, second) is apart by 0.2
        where 1.0 is asked: 0.8; (first, second) is in the wrong order by 0.8: 0.8 + 0.5 = 1.3.

        >>> from math import log
        >>> loss = RankedMarginLoss(margin=0.5)
        >>> candidates = Candidates(
        ...     positive_scores=torch.tensor([0.0]),
        ...     negative_scores=torch.tensor([[-1.0, -0.2]]),
        ...     negative_mask=torch.tensor([[True, True]]),
        ...     negative_log_weights=torch.tensor([[log(1), log(2)]]),
        ... )
        >>> loss(candidates)
        tensor([2.1000])
    """

    summed = False
    """Whether the scores are summed over tokens; else they are means."""

    def __init__(self, margin: float = 0.01):
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must not be below 0: {margin}")
        self.margin = margin

    def forward(self, candidates: Candidates) -> torch.Tensor:
        """-> (B,) loss of each example; the class docstring says what goes in."""
        # (B, 1), then (B, N), N = K or K + M
        positive, negatives, mask, log_weights = join_negatives(candidates)
        # Padding may hold anything, NaN too, and 0 * NaN is NaN: it is replaced, not multiplied.
        scores = torch.cat([positive, negatives.masked_fill(~mask, 0.0)], dim=1)  # (B, 1 + N)
        ranks = torch.cat(
            [torch.zeros_like(mask[:, :1], dtype=torch.long), _ranks(log_weights, mask)], dim=1
        )  # (B, 1 + N), -1 on padding
        steps = ranks[:, None, :] - ranks[:, :, None]  # (B, 1 + N, 1 + N)
        counts = (steps > 0) & (ranks >= 0)[:, :, None]
        gaps = scores[:, None, :] - scores[:, :, None]
        margins = self.margin * steps.to(gaps.dtype)
        return (relu(gaps + margins) * counts).sum(dim=(1, 2))


def _ranks(log_weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, N) int64 from 1, equal weights sharing a rank; -1 where the mask is False."""
    # Padding sorts behind everything, so it takes no rank away.
    keys = log_weights.masked_fill(~mask, torch.inf)
    ordered, order = keys.sort(dim=1)
    is_new = torch.ones_like(ordered, dtype=torch.long)
    is_new[:, 1:] = (ordered[:, 1:] - ordered[:, :-1] > SAME_WEIGHT).long()
    ranks = torch.zeros_like(is_new).scatter(1, order, is_new.cumsum(dim=1))
    return ranks.masked_fill(~mask, -1)
