"""What all contrastive losses share: which candidates count, and scores that stay finite."""

import torch

SCORE_LIMIT = 1e18
"""Scores are held within +-SCORE_LIMIT. No model gets there, but bf16 and float32 overflows do, and
inf - inf would put NaN into every weight. NaN itself is passed on: it must be seen."""


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
    positive_scores: torch.Tensor,
    negative_scores: torch.Tensor,
    negative_mask: torch.Tensor,
    negative_log_weights: torch.Tensor | None,
    in_batch_scores: torch.Tensor | None,
    in_batch_mask: torch.Tensor | None,
    in_batch_log_weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each example's positive, and all of its negatives side by side, the explicit ones first.

    Takes what the losses take (the table in :class:`~.n_pair.NPairLoss`).

    Returns:
        ``(positive, scores, mask, log_weights)``: (B, 1), then (B, N) each, N = K or, with in-batch
        scores, K + M. Scores are :func:`bounded`; log weights have their dtype and are 0 where
        none are given.

    Raises:
        ValueError: tensors whose shapes do not fit together.
    """
    _check_shapes(
        positive_scores,
        negative_scores=negative_scores,
        negative_mask=negative_mask,
        negative_log_weights=negative_log_weights,
        in_batch_scores=in_batch_scores,
        in_batch_mask=in_batch_mask,
    )
    positive = bounded(positive_scores)[:, None]  # (B, 1)
    scores = bounded(negative_scores)
    log_weights = torch.zeros_like(scores)
    if negative_log_weights is not None:
        log_weights = negative_log_weights.to(scores.dtype)
    if in_batch_scores is None or in_batch_mask is None:
        return positive, scores, negative_mask, log_weights
    others = bounded(in_batch_scores)
    return (
        positive,
        torch.cat([scores, others], dim=1),
        torch.cat([negative_mask, in_batch_mask], dim=1),
        torch.cat([log_weights, torch.full_like(others, in_batch_log_weight)], dim=1),
    )


def _check_shapes(positive_scores: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Broadcasting would take a wrong shape in silence, e.g. (B, 1) positives.

    Raises:
        ValueError: it names the tensor, its shape and the one it should have.
    """
    if positive_scores.dim() != 1:
        raise ValueError(f"positive_scores must be (B,), not {tuple(positive_scores.shape)}")
    widths = {"negative": others["negative_scores"], "in_batch": others["in_batch_scores"]}
    if (others["in_batch_scores"] is None) != (others["in_batch_mask"] is None):
        raise ValueError("in_batch_scores and in_batch_mask must be given together")
    for name, tensor in others.items():
        if tensor is None:
            continue
        first = widths["negative" if name.startswith("negative") else "in_batch"]
        assert first is not None
        expected = (len(positive_scores), first.shape[-1])
        if tensor.shape != expected:
            raise ValueError(f"{name} must be {expected}, not {tuple(tensor.shape)}")
