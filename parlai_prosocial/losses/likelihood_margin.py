"""Likelihood margin loss: the contrast of Click, on log-likelihoods summed over tokens."""

import torch
from torch import nn
from torch.nn.functional import relu

from parlai_prosocial.losses.candidates import Candidates, join_negatives, mean_over_negatives


class LikelihoodMarginLoss(nn.Module):
    r"""Asks the fitting response to be more likely than each negative by a fixed margin.

    For a context c with a fitting response y+ and negatives y-_1..K::

        L = 1/K * sum_j w_j * max(0, margin + log p(y-_j | c) - log p(y+ | c))

    where log p is summed over the response's tokens, so that the scores are log-likelihoods and
    not their means. K may differ between examples (mask the padding). An example without any
    negative gives exactly 0 and a zero gradient.

    Args:
        margin: >= 0, in nats. Once a pair is apart by so much, it is left alone.

    Raises:
        ValueError: margin < 0, or tensors whose shapes do not fit together.

    References:
        - Zheng et al., Click: Controllable Text Generation with Sequence Likelihood Contrastive
          Learning, Findings of ACL 2023, section 2.

    Inputs:
        :class:`~.candidates.Candidates`, with scores that are log p(y | c) summed over tokens.

        Output: (B,) losses >= 0, in float32 (float64 for float64 scores), also under autocast.

    Relations:
        - Click pairs one sampled positive with one sampled negative and has no weights; K = 1,
          w = 1 is its loss. The mean over several negatives is what its pairs average to.
        - Summed log p falls with length, so a short negative is a hard one here; n-pair on mean
          log p has no such preference.

    Example:
        The first negative is 2 nats less likely than the positive where 5 are asked: 3. The second
        is 7 less likely: 0. Their mean is 1.5.

        >>> loss = LikelihoodMarginLoss(margin=5.0)
        >>> candidates = Candidates(
        ...     positive_scores=torch.tensor([-30.0]),
        ...     negative_scores=torch.tensor([[-32.0, -37.0]]),
        ...     negative_mask=torch.tensor([[True, True]]),
        ... )
        >>> loss(candidates)
        tensor([1.5000])
    """

    summed = True
    """Whether the scores are summed over tokens; else they are means."""

    def __init__(self, margin: float = 10.0):
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must not be below 0: {margin}")
        self.margin = margin

    def forward(self, candidates: Candidates) -> torch.Tensor:
        """-> (B,) loss of each example; the class docstring says what goes in."""
        # (B, 1), then (B, N), N = K or K + M
        positive, negatives, mask, log_weights = join_negatives(candidates)
        hinges = relu(self.margin + negatives - positive)
        return mean_over_negatives(hinges, mask, log_weights)
