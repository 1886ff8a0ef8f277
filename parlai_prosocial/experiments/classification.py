"""How good are a classifier's predictions? Each measure with a bootstrap over contexts."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parlai_prosocial.evaluation.metrics import classes
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    cluster_draws,
    percentile_ends,
    two_sided_p,
    unless_too_few,
)

RESAMPLES = 2_000
_CHUNK = 250  # resamples at a time: 3,000 rows then take 6 MB

Statistic = Callable[["Predictions", np.ndarray], np.ndarray]
"""(predictions of N rows, (R, N) how often each row counts) -> (R,) values."""


@dataclass(frozen=True)
class Predictions:
    """What one run predicted.

    Attributes:
        probabilities: (N, classes) float.
        labels: (N,) int, the right classes.
        categories: N names.
        clusters: N names; rows of one cluster (a context) are drawn together.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    categories: Sequence[str]
    clusters: Sequence[Hashable]

    def of(self, category: str) -> "Predictions":
        """Only the rows of a category."""
        rows = np.array([i for i, name in enumerate(self.categories) if name == category], int)
        return Predictions(
            self.probabilities[rows],
            self.labels[rows],
            [category] * len(rows),
            [self.clusters[i] for i in rows],
        )


def accuracy(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Share of rows whose most probable class is the right one."""
    right = predictions.probabilities.argmax(axis=1) == predictions.labels
    return weights @ right / weights.sum(axis=1)


def macro_f1(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """F1 averaged over the classes that are there or predicted."""
    predicted = predictions.probabilities.argmax(axis=1)
    size = predictions.probabilities.shape[1]
    kind = np.eye(size * size)[predictions.labels * size + predicted]  # (N, classes^2)
    return classes.macro_f1((weights @ kind).reshape(-1, size, size))


def area_under_curve(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """How often a positive row scores above a negative one; ties count half.

    scikit-learn's ``roc_auc_score``, for all resamples at once.

    Args:
        scores: (N,) float.
        positive: (N,) bool.
        weights: (R, N) how often each row counts; once where None.

    Returns:
        (R,) float64; NaN where all rows that count are of one kind.

    >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True]))
    array([0.875])
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] > ordered[:-1]])  # of equal scores
    positives = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    negatives = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = negatives.cumsum(axis=1) - negatives / 2
    with np.errstate(invalid="ignore"):
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return (positives * below).sum(axis=1) / pairs


def unsafe_auc(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Area under the curve of the last class, e.g. ``__notok__``."""
    last = predictions.probabilities.shape[1] - 1
    scores = predictions.probabilities[:, last]
    return area_under_curve(scores, predictions.labels == last, weights)


def interval_of(
    statistic: Statistic,
    runs: Mapping[Hashable, Predictions],
    categories: Sequence[str] | None = None,
) -> Interval:
    """A measure over several runs, with its interval.

    Args:
        statistic: e.g. :func:`accuracy`.
        runs: seed -> predictions.
        categories: average the measure over these, each with the same weight; one measure of
            all rows where None.

    Returns:
        The mean over the runs. Contexts are drawn with replacement within each run and category;
        then the runs themselves, where they share contexts: folds are strata.

    Raises:
        ValueError: the measure does not exist for a run, e.g. no row of a category.
    """
    estimate, draws = _resampled(statistic, runs, categories)
    low, high = percentile_ends(draws)
    return Interval(estimate, low, high)


def difference(
    statistic: Statistic,
    first: Mapping[Hashable, Predictions],
    second: Mapping[Hashable, Predictions],
    categories: Sequence[str] | None = None,
) -> Interval:
    """Measure of the first arm minus that of the second, on the same rows and resamples.

    Args and errors as for :func:`interval_of`. Null 0, with a two-sided bootstrap p-value.
    """
    for seed in first:
        if list(first[seed].clusters) != list(second[seed].clusters):
            raise ValueError(f"seed {seed}: the arms have not predicted the same rows")
    first_estimate, first_draws = _resampled(statistic, first, categories)
    second_estimate, second_draws = _resampled(statistic, second, categories)
    gaps = first_draws - second_draws
    low, high = percentile_ends(gaps)
    estimate = first_estimate - second_estimate
    found = Interval(estimate, low, high, null=0.0, p_value=two_sided_p(gaps))
    return unless_too_few(found, len({c for run in first.values() for c in run.clusters}))


def _resampled(
    statistic: Statistic, runs: Mapping[Hashable, Predictions], categories: Sequence[str] | None
) -> tuple[float, np.ndarray]:
    """The estimate, and (RESAMPLES,) estimates of the resamples; the same draws to every arm."""
    generator = np.random.default_rng(0)
    estimates, draws = [], []
    for seed, predictions in runs.items():
        parts = [predictions.of(name) for name in categories] if categories else [predictions]
        estimates.append(np.mean([statistic(p, np.ones((1, len(p.labels)))) for p in parts]))
        draws.append(np.mean([_draws(statistic, part, generator) for part in parts], axis=0))
        if not (np.isfinite(estimates[-1]) and np.isfinite(draws[-1]).all()):
            raise ValueError(f"seed {seed}: too few rows to measure")
    of_run = np.stack(draws, axis=1)  # (RESAMPLES, runs)
    own = [set(predictions.clusters) for predictions in runs.values()]
    if sum(map(len, own)) > len(set().union(*own)):
        drawn = generator.integers(0, len(draws), of_run.shape)
        of_run = np.take_along_axis(of_run, drawn, axis=1)
    return float(np.mean(estimates)), of_run.mean(axis=1)


def _draws(
    statistic: Statistic, predictions: Predictions, generator: np.random.Generator
) -> np.ndarray:
    """(RESAMPLES,) values of a measure, whole clusters drawn with replacement."""
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(c, len(numbers)) for c in predictions.clusters])
    values = []
    for times in cluster_draws(len(numbers), RESAMPLES, generator, _CHUNK):  # (chunk, clusters)
        values.append(statistic(predictions, times[:, cluster].astype(np.float64)))
    return np.concatenate(values)
