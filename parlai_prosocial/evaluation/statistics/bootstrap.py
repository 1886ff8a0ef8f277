"""Intervals: a bootstrap clustered by context, Wilson, and Holm.

The design (docs/design.md#statistics): two arms score the same contexts, so their difference is
taken within each context before anything is averaged. A context is the cluster, since its rows are
not independent. Seeds are runs; each has contexts of its own (fold k for seed k), or they share
them.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

RESAMPLES = 10_000
METHOD = (
    "95 % intervals by bootstrap, clustered by context; folds are strata, and seeds that share "
    "their contexts are drawn too"
)
"""The bootstrap in words, for the notes of tables."""
FEWEST_CLUSTERS = 20
"""Of a comparison: below it a bootstrap's or a z-test's p-value means nothing, and is not given."""
_CHUNK = 1_000  # resamples drawn at a time: a 2,000-dialogue stratum then takes 16 MB, not 160


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        estimate: on all of the data.
        low, high: ends of the interval.
        null: the value that means "no difference": 0 for a difference, 1 for a ratio, None where
            nothing is compared.
        p_value: two-sided, of the null; None where nothing is compared, or on too few clusters for
            it to mean anything (:data:`FEWEST_CLUSTERS`).
    """

    estimate: float
    low: float
    high: float
    null: float | None = None
    p_value: float | None = None

    @property
    def conclusive(self) -> bool:
        """Whether it is a comparison whose interval leaves the null out and whose p is < 0.05.

        The two agree, except where :func:`holm` has raised p.
        """
        if self.null is None or self.p_value is None:
            return False
        return not self.low <= self.null <= self.high and self.p_value < 0.05


def macro_mean(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[Hashable],
    clusters: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> Interval:
    """Macro average over categories, averaged over seeds, with its bootstrap interval.

    All arguments but the last have one item a row: a context as one run scored it.

    Args:
        values: any unit, e.g. ranking accuracies.
        categories: each has the same weight, however many rows it has.
        clusters: what is drawn as a whole, e.g. ``RankingContext.group``.
        seeds: the run of each row; None for a single run.
        rng_seed: the same seed gives the same interval, and the same resamples to every arm.

    >>> interval = macro_mean([0.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"], [1, 2, 3, 4])
    >>> interval.estimate, interval.low, interval.high
    (0.75, 0.5, 1.0)
    """
    ones = np.ones(len(values))
    estimate, draws = resample_ratios(values, ones, categories, clusters, seeds, rng_seed)
    low, high = percentile_ends(draws)
    return Interval(estimate, low, high)


def macro_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    categories: Sequence[Hashable],
    clusters: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> Interval:
    """Difference of two arms' macro averages, first - second, paired row by row.

    Args:
        first, second: values of the two arms for the same rows, in the same order.
        categories, clusters, seeds, rng_seed: as for :func:`macro_mean`.

    Returns:
        With null 0 and a two-sided bootstrap p-value.

    >>> difference = macro_difference([0.9, 0.6], [0.5, 0.4], ["a", "a"], [1, 2])
    >>> round(difference.estimate, 2), round(difference.low, 2), round(difference.high, 2)
    (0.3, 0.2, 0.4)
    """
    gaps = np.subtract(first, second)
    estimate, draws = resample_ratios(
        gaps, np.ones(len(gaps)), categories, clusters, seeds, rng_seed
    )
    low, high = percentile_ends(draws)
    return Interval(estimate, low, high, null=0.0, p_value=two_sided_p(draws))


def resample_ratios(
    sums: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray,
    categories: Sequence[Hashable],
    clusters: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> tuple[float, np.ndarray]:
    """Mean over seeds of the macro average over categories of sum(sums) / sum(counts).

    Each resample draws within each category as many clusters as there are, with replacement.
    Clusters that belong to different seeds are drawn apart; one that several seeds share is drawn
    for all of them at once. Where seeds share clusters, as many seeds as there are are drawn with
    replacement too: then the interval speaks of training again with another seed. Where each has
    clusters of its own (folds), seeds are strata: to draw them as well would count the contexts'
    spread twice, which is in the seeds' already.

    Args:
        sums, counts: N numerators and N positive denominators (ones for plain means).
        categories, clusters, seeds, rng_seed: as for :func:`macro_mean`.

    Returns:
        The estimate, and (RESAMPLES,) estimates of the resamples.

    Raises:
        ValueError: no rows, lengths that differ, a value that is not finite, a count not above 0,
            a cluster in two categories, or a seed that lacks a category.
    """
    sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    seeds = [0] * len(sums) if seeds is None else seeds
    if not len(sums) == len(counts) == len(categories) == len(clusters) == len(seeds) > 0:
        raise ValueError("sums, counts, categories, clusters and seeds must have one item a row")
    if not (np.isfinite(sums).all() and np.isfinite(counts).all() and (counts > 0).all()):
        raise ValueError("sums must be finite, counts finite and above 0")

    category_index, n_categories = _indices(categories)
    seed_index, n_seeds = _indices(seeds)
    cells = np.zeros((n_categories, n_seeds))
    np.add.at(cells, (category_index, seed_index), 1)
    if (cells == 0).any():
        raise ValueError("every seed must have rows in every category")

    generator = np.random.default_rng(rng_seed)
    strata = _strata(sums, counts, clusters, category_index, seed_index, n_seeds)
    observed = np.zeros((2, 1, n_categories, n_seeds))
    resampled = np.zeros((2, RESAMPLES, n_categories, n_seeds))
    for category, totals in strata:  # totals: (2, clusters, seeds)
        observed[:, 0, category] += totals.sum(axis=1)
        for start in range(0, RESAMPLES, _CHUNK):
            times_drawn = _draw(generator, totals.shape[1])  # (chunk, clusters)
            resampled[:, start : start + _CHUNK, category] += times_drawn @ totals

    per_seed = (resampled[0] / resampled[1]).mean(axis=1)  # (RESAMPLES, seeds)
    if any(((totals[1] > 0).sum(axis=1) > 1).any() for _, totals in strata):
        seeds_drawn = generator.integers(0, n_seeds, (RESAMPLES, n_seeds))
        per_seed = np.take_along_axis(per_seed, seeds_drawn, axis=1)
    return float((observed[0] / observed[1]).mean()), per_seed.mean(axis=1)


def percentile_ends(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % percentiles of the resamples."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def two_sided_p(draws: np.ndarray) -> float:
    """Two-sided p-value of 0: twice the smaller share of resamples on either side of it.

    One resample is added to each side, so that it is never 0 (Davison & Hinkley 1997, section 4).
    """
    smaller = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * float(smaller + 1) / (len(draws) + 1))


def wilson_interval(hits: int, total: int) -> Interval:
    """95 % Wilson score interval of a rate.

    Raises:
        ValueError: total < 1, or hits outside 0..total.

    >>> interval = wilson_interval(1, 10)
    >>> round(interval.estimate, 3), round(interval.low, 3), round(interval.high, 3)
    (0.1, 0.018, 0.404)
    """
    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"{hits} of {total} is no rate")
    from scipy.stats import binomtest  # takes half a second to import

    ends = binomtest(int(hits), int(total)).proportion_ci(0.95, method="wilson")
    return Interval(hits / total, float(ends.low), float(ends.high))


def unless_too_few(comparison: Interval, clusters: int) -> Interval:
    """The comparison, without its p-value where it rests on too few clusters to conclude anything.

    >>> unless_too_few(Interval(0.4, 0.1, 0.7, null=0, p_value=0.01), 4).conclusive
    False
    """
    return comparison if clusters >= FEWEST_CLUSTERS else replace(comparison, p_value=None)


def cluster_draws(
    clusters: int, resamples: int, generator: np.random.Generator, chunk: int
) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, for a statistic that is no ratio of sums.

    The bootstrap of :func:`resample_ratios` without categories and seeds: as many clusters as there
    are, with replacement. The chunks are parts of one stream, so their size changes no draw.

    Args:
        clusters: how many there are.
        resamples: how many lines in all; a multiple of ``chunk``.
        generator: the same state gives the same draws.
        chunk: lines at a time.

    Yields:
        (chunk, clusters) int64.
    """
    shares = np.full(clusters, 1 / max(clusters, 1))
    for _ in range(resamples // chunk):
        yield generator.multinomial(clusters, shares, chunk)


def holm(comparisons: Mapping[Name, Interval]) -> dict[Name, Interval]:
    """Replace the p-values of a family of comparisons by Holm's adjusted ones (Holm 1979).

    Leave the primary comparison out: it is named before the run and tested alone. Comparisons on
    too few clusters to have a p-value stay as they are, and count for nothing.

    Ten lines of our own: statsmodels, which has Holm's method, would be a dependency for nothing
    else.

    Raises:
        ValueError: one of them is no comparison (it has no null).

    >>> family = {name: Interval(1, 0, 2, null=0, p_value=p) for name, p in
    ...           [("a", 0.01), ("b", 0.04), ("c", 0.03)]}
    >>> {name: comparison.p_value for name, comparison in holm(family).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    p_values = {}
    for name, comparison in comparisons.items():
        if comparison.null is None:
            raise ValueError(f"{name!r} has no null: Holm's correction takes comparisons")
        if comparison.p_value is not None:
            p_values[name] = comparison.p_value
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {
        name: replace(comparison, p_value=adjusted.get(name))
        for name, comparison in comparisons.items()
    }


def corrected(
    comparisons: Mapping[Name, Interval], primary: Name, hypotheses: Collection[Name]
) -> dict[Name, Interval]:
    """Comparisons with the p-values that they may have.

    Args:
        comparisons: in their order.
        primary: named before the run; it keeps its own.
        hypotheses: those that were asked too: their p-values are corrected together by
            :func:`holm`. What merely stands beside them (a baseline, an untrained model) asks
            nothing and must not cost the others power; it keeps its interval alone.

    >>> rows = {name: Interval(1, 0, 2, null=0, p_value=0.03) for name in ("a", "b", "c", "base")}
    >>> {name: row.p_value for name, row in corrected(rows, "a", ("b", "c")).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06, 'base': None}
    """
    family = {n: c for n, c in comparisons.items() if n in hypotheses and n != primary}
    tested = holm(family) | {primary: comparisons[primary]}
    return {
        name: tested.get(name, replace(comparison, null=None, p_value=None))
        for name, comparison in comparisons.items()
    }


def _indices(names: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Number the distinct names from 0, in the order in which they first appear."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    return index, len(numbers)


def _strata(
    sums: np.ndarray,
    counts: np.ndarray,
    clusters: Sequence[Hashable],
    category_index: np.ndarray,
    seed_index: np.ndarray,
    n_seeds: int,
) -> list[tuple[int, np.ndarray]]:
    """Group clusters that have one category and the same seeds: (category, (2, clusters, seeds)).

    Every cluster of a stratum has rows in the same cells, so no resample leaves a cell empty.
    """
    cluster_index, n_clusters = _indices(clusters)
    totals = np.zeros((2, n_clusters, n_seeds))
    np.add.at(totals[0], (cluster_index, seed_index), sums)
    np.add.at(totals[1], (cluster_index, seed_index), counts)
    category_of = np.zeros(n_clusters, dtype=int)
    category_of[cluster_index] = category_index
    if (category_of[cluster_index] != category_index).any():
        raise ValueError("a cluster has rows in two categories")

    members: dict[tuple[int, bytes], list[int]] = {}
    for cluster in range(n_clusters):
        key = (int(category_of[cluster]), (totals[1, cluster] > 0).tobytes())
        members.setdefault(key, []).append(cluster)
    return [(category, totals[:, chosen]) for (category, _), chosen in members.items()]


def _draw(generator: np.random.Generator, n_clusters: int) -> np.ndarray:
    """(_CHUNK, n_clusters) float64: how often each cluster is drawn in n_clusters draws."""
    drawn = generator.integers(0, n_clusters, (_CHUNK, n_clusters))
    drawn += n_clusters * np.arange(_CHUNK)[:, None]
    times = np.bincount(drawn.ravel(), minlength=_CHUNK * n_clusters)
    return times.reshape(_CHUNK, n_clusters).astype(np.float64)
