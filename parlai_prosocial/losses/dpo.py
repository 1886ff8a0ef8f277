"""The loss of direct preference optimisation (DPO), on log-likelihoods relative to a reference."""

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from parlai_prosocial.losses.candidates import Candidates, join_negatives, mean_over_negatives


class DPOLoss(nn.Module):
    r"""Asks the fitting response to gain more on the reference than each negative does.

    For a context c with a fitting response y+ and negatives y-_1..K::

        L = 1/K * sum_j w_j * -log sigmoid(beta * (s(c, y+) - s(c, y-_j)))
        s(c, y) = log p(y | c) - log p_ref(y | c), summed over the response's tokens

    K may differ between examples (mask the padding). An example without any negative gives exactly
    0 and a zero gradient.

    Args:
        beta: > 0, per nat; the smaller, the further the model may leave the reference. Its authors
            and TRL take 0.1.

    Raises:
        ValueError: beta <= 0, or tensors whose shapes do not fit together.

    References:
        - Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a Reward
          Model, NeurIPS 2023, equation 7.

    Inputs:
        :class:`~.candidates.Candidates`, with scores that are log p - log p_ref summed over
        tokens.

        Output: (B,) losses >= 0, in float32 (float64 for float64 scores), also under autocast.

    Relations:
        - TRL's ``DPOTrainer`` with ``loss_type="sigmoid"``: K = 1, w = 1. Its sums have the
          end-of-turn token in them.
        - :class:`~.simpo.SimPOLoss` takes mean log p without a reference, and a margin.
        - :class:`~.n_pair.NPairLoss` with K = 1 is the same with temperature = 1 / beta; with more,
          its negatives compete in one softmax.

    Example:
        The response has gained 5 nats, the negatives 0 and 10: 0.5 more than the one, 0.5 less
        than the other, so (log(1 + e^-0.5) + log(1 + e^0.5)) / 2.

        >>> loss = DPOLoss(beta=0.1)
        >>> candidates = Candidates(
        ...     positive_scores=torch.tensor([5.0]),
        ...     negative_scores=torch.tensor([[0.0, 10.0]]),
        ...     negative_mask=torch.tensor([[True, True]]),
        ... )
        >>> loss(candidates)
        tensor([0.7241])
    """

    summed = True
    """Whether the scores are summed over tokens; else they are means."""

    def __init__(self, beta: float = 0.1):
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta must be above 0, not {beta}")
        self.beta = beta

    def forward(self, candidates: Candidates) -> torch.Tensor:
        """-> (B,) loss of each example; the class docstring says what goes in."""
        # (B, 1), then (B, N), N = K or K + M
        positive, negatives, mask, log_weights = join_negatives(candidates)
        losses = -logsigmoid(self.beta * (positive - negatives.masked_fill(~mask, 0.0)))
        return mean_over_negatives(losses, mask, log_weights)
