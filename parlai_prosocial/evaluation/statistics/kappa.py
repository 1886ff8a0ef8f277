"""How far two judges agree beyond chance, on the same replies."""

from collections.abc import Hashable, Sequence

import numpy as np

from parlai_prosocial.evaluation.statistics.bootstrap import (
    RESAMPLES,
    Interval,
    cluster_draws,
)

_CHUNK = 500  # resamples at a time


def cohen_kappa(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[Hashable]
) -> Interval | None:
    """Cohen's kappa (1960) of N yes-or-no verdicts, with its 95 % interval.

    The interval is by bootstrap over clusters, with the same resamples in every call; resamples in
    which kappa is not defined are left out of it.

    Args:
        first, second: what the two say, in the same order.
        clusters: rows that are not independent share one, e.g. the replies to one context.

    Returns:
        None where it is not defined: there is no row, or both always say the same one word.

    >>> kappa = cohen_kappa([True, True, False, False], [True, False, False, False], range(4))
    >>> kappa.estimate
    0.5
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    tables = np.zeros((len(names), 4))  # of each cluster: neither, second, first, both
    for yes, other, cluster in zip(first, second, clusters, strict=True):
        tables[names[cluster], 2 * bool(yes) + bool(other)] += 1
    [estimate] = _kappas(tables.sum(axis=0, keepdims=True))
    if np.isnan(estimate):
        return None
    generator = np.random.default_rng(0)
    draws = [
        _kappas(times @ tables) for times in cluster_draws(len(names), RESAMPLES, generator, _CHUNK)
    ]
    low, high = np.nanquantile(np.concatenate(draws), [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def _kappas(tables: np.ndarray) -> np.ndarray:
    """(N, 4) counts -> (N,) kappas, NaN where it is not defined.

    scikit-learn's ``cohen_kappa_score`` takes one pair of lists at a time, so it would have to be
    called for each of 10,000 resamples; a test holds this one to it.
    """
    neither, only_second, only_first, both = tables.T
    total = tables.sum(axis=1)
    yes = (only_first + both) * (only_second + both)
    no = (neither + only_second) * (neither + only_first)
    expected = yes + no  # by chance, times total
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((neither + both) * total - expected) / (total**2 - expected)
