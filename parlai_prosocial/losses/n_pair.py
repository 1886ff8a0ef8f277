"""Socially aware n-pair contrastive loss."""

import torch
from torch import nn

from parlai_prosocial.losses.candidates import Candidates, join_negatives


class NPairLoss(nn.Module):
    r"""Ranks the fitting response above each inappropriate one, weighted by how bad that one is.

    For a context c with a fitting response y+ and negatives y-_1..K::

        L = log(1 + sum_j w_j * exp((s(c, y-_j) - s(c, y+)) / temperature))

    computed as logsumexp over [0, (s- - s+) / temperature + log w], so it neither overflows nor
    loses the small terms. Since log w adds to the score difference, a weight acts as a margin:
    w > 1 asks for a wider gap. K may differ between examples (mask the padding). An example
    without any negative gives exactly 0 and a zero gradient.

    Args:
        temperature: > 0, in the unit of the scores; a small one lets the hardest negative decide.

    Raises:
        ValueError: temperature <= 0, or tensors whose shapes do not fit together.

    References:
        - Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016,
          equation 6.
        - Das & Srihari, Improving Dialog Safety using Socially Aware Contrastive Learning,
          SCI-CHAT 2024, name a socially aware n-pair loss. The weights and the temperature
          here are our reconstruction, not their published equation.

    Inputs:
        :class:`~.candidates.Candidates`, with any score s: mean log p (<= 0), cosine (-1..1)...

        Output: (B,) losses >= 0, in float32 (float64 for float64 scores), also under autocast.

    Relations:
        - Sohn's multi-class N-pair loss: w = 1, temperature = 1, inner products as scores.
        - SimPO (Meng et al. 2024) with margin 0: K = 1, w = 1, mean log p as the score,
          temperature = 1 / beta; the loss is then -log sigmoid((s+ - s-) / temperature).
        - InfoNCE: w = 1, in-batch negatives, cosine as the score.
        - :class:`~.ranked_margin.RankedMarginLoss` (CoNT) and
          :class:`~.likelihood_margin.LikelihoodMarginLoss` (Click) take the same input.

    Example:
        Context 1 has two negatives, (s- - s+) = log 2 with w = 1 and log 3 with w = 1/2, so
        L = log(1 + 2 + 3/2) = log 4.5. Context 2 has one, level with the positive: L = log 2.
        Context 3 has none: L = 0.

        >>> from math import log
        >>> import torch
        >>> loss = NPairLoss(temperature=1.0)
        >>> candidates = Candidates(
        ...     positive_scores=torch.tensor([0.0, -2.0, -1.0]),
        ...     negative_scores=torch.tensor([[log(2), log(3)], [-2.0, 0.0], [0.0, 0.0]]),
        ...     negative_mask=torch.tensor([[True, True], [True, False], [False, False]]),
        ...     negative_log_weights=torch.tensor([[0.0, log(0.5)], [0.0, 0.0], [0.0, 0.0]]),
        ... )
        >>> loss(candidates)
        tensor([1.5041, 0.6931, 0.0000])
    """

    summed = False
    """Whether the scores are summed over tokens; else they are means."""

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, candidates: Candidates) -> torch.Tensor:
        """-> (B,) loss of each example; the class docstring says what goes in."""
        # (B, 1), then (B, N), N = K or K + M
        positive, negatives, mask, log_weights = join_negatives(candidates)
        margins = (negatives - positive) / self.temperature + log_weights
        # -inf is "no such negative": it adds exp(-inf) = 0 to the sum and has a zero gradient,
        # because the 0 that heads the terms keeps the maximum finite.
        margins = margins.masked_fill(~mask, -torch.inf)
        return torch.cat([torch.zeros_like(positive), margins], dim=1).logsumexp(dim=1)
