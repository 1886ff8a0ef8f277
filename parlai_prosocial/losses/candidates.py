"""What all contrastive losses share: which candidates count, and scores that stay finite."""

from typing import NamedTuple

import torch

SCORE_LIMIT = 1e18
"""Scores are held within +-SCORE_LIMIT. No model gets there, but bf16 and float32 overflows do, and
inf - inf would put NaN into every weight. NaN itself is passed on: it must be seen."""


class Candidates(NamedTuple):
    """The scores of B contexts' candidates: what every contrastive loss takes.

    +----------------------+--------+-------+------------------------------------------------+
    | name                 | shape  | dtype | meaning                                        |
    +======================+========+=======+================================================+
    | positive_scores      | (B,)   | float | s(c, y+): mean log p (<= 0), cosine (-1..1)... |
    +----------------------+--------+-------+------------------------------------------------+
    | negative_scores      | (B, K) | float | s(c, y-_j), same kind of score; K may be 0     |
    +----------------------+--------+-------+------------------------------------------------+
    | negative_mask        | (B, K) | bool  | True where the negative is real, not padding   |
    +----------------------+--------+-------+------------------------------------------------+
    | negative_log_weights | (B, K) | float | log w, mean 0 over the corpus; None: w = 1     |
    +----------------------+--------+-------+------------------------------------------------+
    | in_batch_scores      | (B, M) | float | s(c_i, y+_m) of the M responses of the joint   |
    |                      |        |       | batch (of all processes); None: unused         |
    +----------------------+--------+-------+------------------------------------------------+
    | in_batch_mask        | (B, M) | bool  | True where response m is a negative of context |
    |                      |        |       | i: not its own, nor one that fits it as well   |
    +----------------------+--------+-------+------------------------------------------------+
    | in_batch_log_weight  | scalar | float | log w of every in-batch negative               |
    +----------------------+--------+-------+------------------------------------------------+
    """

    positive_scores: torch.Tensor
    negative_scores: torch.Tensor
    negative_mask: torch.Tensor
    negative_log_weights: torch.Tensor | None = None
    in_batch_scores: torch.Tensor | None = None
    in_batch_mask: torch.Tensor | None = None
    in_batch_log_weight: float = 0.0


def bounded(scores: torch.Tensor) -> torch.Tensor:
    """In float32 at least (bf16 keeps 8 bits: too few to subtract in), within the limit."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).clamp(-SCORE_LIMIT, SCORE_LIMIT)


def has_negatives(
    negative_mask: torch.Tensor, in_batch_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """(B,) bool: whether a loss has anything to contrast; takes what the losses take.

    >>> has_negatives(torch.tensor([[True, False], [False, False]]))
    tensor([ True, False])
    """
    explicit = negative_mask.any(dim=1)
    return explicit if in_batch_mask is None else explicit | in_batch_mask.any(dim=1)


def join_negatives(
    candidates: Candidates,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each example's positive, and all of its negatives side by side, the explicit ones first.

    Returns:
        ``(positive, scores, mask, log_weights)``: (B, 1), then (B, N) each, N = K or, with in-batch
        scores, K + M. Scores are :func:`bounded`; log weights have their dtype and are 0 where
        none are given.

    Raises:
        ValueError: tensors whose shapes do not fit together.
    """
    _check_shapes(candidates)
    positive = bounded(candidates.positive_scores)[:, None]  # (B, 1)
    scores, mask = bounded(candidates.negative_scores), candidates.negative_mask
    log_weights = torch.zeros_like(scores)
    if candidates.negative_log_weights is not None:
        log_weights = candidates.negative_log_weights.to(scores.dtype)
    if candidates.in_batch_scores is None or candidates.in_batch_mask is None:
        return positive, scores, mask, log_weights
    others = bounded(candidates.in_batch_scores)
    in_batch_log_weights = torch.full_like(others, candidates.in_batch_log_weight)
    return (
        positive,
        torch.cat([scores, others], dim=1),
        torch.cat([mask, candidates.in_batch_mask], dim=1),
        torch.cat([log_weights, in_batch_log_weights], dim=1),
    )


def mean_over_negatives(
    losses: torch.Tensor, mask: torch.Tensor, log_weights: torch.Tensor
) -> torch.Tensor:
    """The weighted mean of each pair's loss over an example's negatives; 0 where it has none.

    Args:
        losses, mask, log_weights: (B, N), as of :func:`join_negatives`; padding may hold anything.

    Returns:
        (B,), sum of w * loss divided by the number of negatives.
    """
    # 0 * NaN is NaN: padding is replaced, not multiplied.
    weights = log_weights.masked_fill(~mask, 0.0).exp()
    return (losses.masked_fill(~mask, 0.0) * weights).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _check_shapes(candidates: Candidates) -> None:
    """Broadcasting would take a wrong shape in silence, e.g. (B, 1) positives.

    Raises:
        ValueError: it names the tensor, its shape and the one it should have.
    """
    positive, in_batch = candidates.positive_scores, candidates.in_batch_scores
    if positive.dim() != 1:
        raise ValueError(f"positive_scores must be (B,), not {tuple(positive.shape)}")
    if (in_batch is None) != (candidates.in_batch_mask is None):
        raise ValueError("in_batch_scores and in_batch_mask must be given together")
    widths = {"negative": candidates.negative_scores.shape[-1]}
    if in_batch is not None:
        widths["in_batch"] = in_batch.shape[-1]
    for kind, width in widths.items():
        expected = (len(positive), width)
        for name, value in candidates._asdict().items():
            is_tensor = name.startswith(kind) and isinstance(value, torch.Tensor)
            if is_tensor and value.shape != expected:
                raise ValueError(f"{name} must be {expected}, not {tuple(value.shape)}")
