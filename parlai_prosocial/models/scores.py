"""What one pass over contexts and candidate responses gives, for causal and seq2seq models."""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class CandidateScores(NamedTuple):
    """Scores of C candidates of E contexts, with T response tokens in all.

    Attributes:
        token_log_probs: (T,) float32; log p of each response token, end-of-turn included.
        token_correct: (T,) bool; whether the token was the most probable one.
        token_candidates: (T,) int64; the candidate of each token.
        candidate_examples: (C,) int64; the example of each candidate.
        context_states: (E, hidden); last context token (causal) or mean over the encoder. None
            where the model has no contrast head to read them.
        response_states: (C, hidden); mean over the states at the response's own tokens, or None.
    """

    token_log_probs: torch.Tensor
    token_correct: torch.Tensor
    token_candidates: torch.Tensor
    candidate_examples: torch.Tensor
    context_states: torch.Tensor | None = None
    response_states: torch.Tensor | None = None

    def token_counts(self) -> torch.Tensor:
        """(C,) float32; tokens of each candidate, at least 1."""
        return self.sum_per_candidate(torch.ones_like(self.token_log_probs))

    def mean_log_probs(self) -> torch.Tensor:
        """(C,) float32; mean log p(y | c), the `likelihood` score."""
        return self.sum_per_candidate(self.token_log_probs) / self.token_counts()

    def sum_per_candidate(self, token_values: torch.Tensor) -> torch.Tensor:
        """(T,) values of tokens -> (C,) sums over each candidate's tokens."""
        sums = token_values.new_zeros(len(self.candidate_examples))
        return sums.index_add(0, self.token_candidates, token_values)


def token_log_probs(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, vocabulary) logits, (T,) targets -> (T,) log p in float32, (T,) bool correct."""
    log_probs = -F.cross_entropy(logits.float(), targets, reduction="none")
    return log_probs, logits.detach().argmax(-1) == targets


def mean_pool(states: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of (S, hidden) states over each of ``count`` owners -> (count, hidden) float32.

    An owner without any state (a response of one token) gets zeros.
    """
    sums = states.new_zeros(count, states.size(-1), dtype=torch.float32)
    sums = sums.index_add(0, owners, states.float())
    sizes = torch.bincount(owners, minlength=count).clamp(min=1)
    return sums / sizes[:, None]
