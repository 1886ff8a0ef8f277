"""Do a classifier's probabilities mean what they say? Temperature scaling and its measure."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

LARGEST_TEMPERATURE = 20.0


def fit_temperature(logits: torch.Tensor, labels: Sequence[int]) -> float:
    """The temperature that makes labels most likely under softmax(logits / temperature).

    One scalar, so no prediction changes (Guo et al., ICML 2017). Fit it on data that the
    classifier was not trained on.

    Args:
        logits: (N, classes) float.
        labels: N class numbers.

    Raises:
        ValueError: no rows, or a logit that is not finite.

    A classifier that is right in three of four cases, but sure of all:

    >>> logits = torch.tensor([[4.0, 0.0]] * 4)
    >>> temperature = fit_temperature(logits, [0, 0, 0, 1])
    >>> round((logits / temperature).softmax(1)[0, 0].item(), 3)
    0.75
    """
    if not len(logits) or not logits.isfinite().all():
        raise ValueError("logits must be finite, and of one row at least")
    logits, targets = logits.double(), torch.tensor(labels)
    # Between 1/20 and 20: where all predictions are right, or no better than chance, the most
    # likely temperature would be 0 or infinite.
    angle = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([angle], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(logits / _temperature(angle), targets)
        value.backward()
        return value

    optimizer.step(loss)
    return _temperature(angle.detach()).item()


def _temperature(angle: torch.Tensor) -> torch.Tensor:
    return LARGEST_TEMPERATURE ** angle.tanh()


BINS = 15
"""Equal ranges of confidence."""


def calibration_sums(
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray | None = None,
    bins: int = BINS,
) -> np.ndarray:
    """What is in each range of confidence.

    Args:
        probabilities: (N, classes).
        labels: N class numbers.
        weights: (R, N) how often each row counts; once where None.
        bins: how many ranges.

    Returns:
        (3, R, bins) float64, R = 1 where ``weights`` is None: rows, summed confidence, and right
        predictions.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(labels)
    weights = np.ones((1, len(right))) if weights is None else weights
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    in_bin = (index[:, None] == np.arange(bins)).astype(float)  # (N, bins)
    return np.stack([weights @ in_bin, (weights * confidence) @ in_bin, (weights * right) @ in_bin])


def expected_calibration_error(
    probabilities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    weights: np.ndarray | None = None,
    bins: int = BINS,
) -> np.ndarray:
    """Mean gap between how sure a classifier is of its prediction and how often it is right.

    Predictions are put into ``bins`` equal ranges of confidence; the gap of each counts as much
    as the range has rows (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Args:
        probabilities, labels, weights, bins: as for :func:`calibration_sums`; N >= 1.

    Returns:
        (R,) float64 in 0..1, R = 1 where ``weights`` is None.

    >>> expected_calibration_error(np.array([[0.9, 0.1]] * 4), [0, 0, 0, 1]).round(2)
    array([0.15])
    """
    rows, confidence, right = calibration_sums(probabilities, labels, weights, bins)
    return np.abs(confidence - right).sum(axis=1) / rows.sum(axis=1)


def calibration_curve(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> list[dict[str, float]]:
    """``count``, mean ``confidence`` and ``accuracy`` of each range that has rows."""
    sums = calibration_sums(probabilities, labels, bins=bins)[:, 0]  # (3, bins)
    return [
        {"count": int(n), "confidence": float(c / n), "accuracy": float(r / n)}
        for n, c, r in sums.T
        if n
    ]
