"""The loss of simple preference optimisation (SimPO), on mean log-likelihoods."""

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from parlai_prosocial.losses.candidates import Candidates, join_negatives, mean_over_negatives


class SimPOLoss(nn.Module):
    r"""Asks the fitting response to be likelier per token than each negative, by a soft margin.

    For a context c with a fitting response y+ and negatives y-_1..K::

        L = 1/K * sum_j w_j * -log sigmoid(beta * (s(c, y+) - s(c, y-_j)) - margin)

    where s is mean log p. K may differ between examples (mask the padding). An example without any
    negative gives exactly 0 and a zero gradient.

    Args:
        beta: > 0. Its authors take 2 to 10.
        margin: >= 0, the gamma of its authors, after beta. TRL takes 0.5.

    Raises:
        ValueError: beta <= 0, margin < 0, or tensors whose shapes do not fit together.

    References:
        - Meng et al., SimPO: Simple Preference Optimization with a Reference-Free Reward,
          NeurIPS 2024, equation 6.

    Inputs:
        :class:`~.candidates.Candidates`, with scores that are mean log p(y | c).

        Output: (B,) losses >= 0, in float32 (float64 for float64 scores), also under autocast.

    Relations:
        - TRL's ``CPOTrainer`` with ``loss_type="simpo"`` and ``cpo_alpha=0``: K = 1, w = 1. Its
          means have the end-of-turn token in them.
        - :class:`~.n_pair.NPairLoss` with K = 1, temperature = 1 / beta and log w = margin.
        - :class:`~.dpo.DPOLoss` takes sums relative to a reference.

    Example:
        The response is 0.5 above the one negative and level with the other: 2 * 0.5 - 1 = 0 and
        -1, so (log 2 + log(1 + e)) / 2.

        >>> loss = SimPOLoss(beta=2.0, margin=1.0)
        >>> candidates = Candidates(
        ...     positive_scores=torch.tensor([-2.0]),
        ...     negative_scores=torch.tensor([[-2.5, -2.0]]),
        ...     negative_mask=torch.tensor([[True, True]]),
        ... )
        >>> loss(candidates)
        tensor([1.0032])
    """

    summed = False
    """Whether the scores are summed over tokens; else they are means."""

    def __init__(self, beta: float = 2.0, margin: float = 0.5):
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta must be above 0, not {beta}")
        if not margin >= 0:
            raise ValueError(f"margin must not be below 0: {margin}")
        self.beta, self.margin = beta, margin

    def forward(self, candidates: Candidates) -> torch.Tensor:
        """-> (B,) loss of each example; the class docstring says what goes in."""
        # (B, 1), then (B, N), N = K or K + M
        positive, negatives, mask, log_weights = join_negatives(candidates)
        gaps = positive - negatives.masked_fill(~mask, 0.0)
        losses = -logsigmoid(self.beta * gaps - self.margin)
        return mean_over_negatives(losses, mask, log_weights)
