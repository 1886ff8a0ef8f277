"""The bootstrap against exact enumeration, and what a good interval must do."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from parlai_prosocial.evaluation.statistics.bootstrap import (
    FEWEST_CLUSTERS,
    RESAMPLES,
    Interval,
    holm,
    macro_difference,
    macro_mean,
    resample_ratios,
    two_sided_p,
    unless_too_few,
    wilson_interval,
)


def width(interval):
    return interval.high - interval.low


def frequencies(values):
    """Rounded value -> share of the values."""
    counts = Counter(np.round(values, 9).tolist())
    return {value: count / len(values) for value, count in counts.items()}


def assert_same_distribution(draws, enumerated):
    expected = frequencies(enumerated)
    found = frequencies(draws)
    assert set(found) <= set(expected)
    for value, share in expected.items():
        assert found.get(value, 0) == pytest.approx(share, abs=0.02)


def test_contexts_shared_by_seeds_are_drawn_for_all_seeds_at_once():
    values = np.array([[0.0, 0.3], [1.0, 0.45]])  # context x seed
    rows = [(values[c, s], c, s) for c in (0, 1) for s in (0, 1)]
    cells, clusters, seeds = zip(*rows, strict=True)
    estimate, draws = resample_ratios(cells, np.ones(4), ["a"] * 4, clusters, seeds)
    enumerated = [
        np.mean([np.mean([values[c, s] for c in drawn]) for s in drawn_seeds])
        for drawn in itertools.product((0, 1), repeat=2)
        for drawn_seeds in itertools.product((0, 1), repeat=2)
    ]
    assert estimate == pytest.approx(0.4375)
    assert_same_distribution(draws, enumerated)


def test_seeds_with_contexts_of_their_own_are_strata():
    values = {0: [0.0, 1.0], 1: [0.3, 0.45]}
    rows = [(value, f"{s}{i}", s) for s in values for i, value in enumerate(values[s])]
    cells, clusters, seeds = zip(*rows, strict=True)
    _, draws = resample_ratios(cells, np.ones(4), ["a"] * 4, clusters, seeds)
    enumerated = [
        np.mean([first, second])
        for first in map(np.mean, itertools.product(values[0], repeat=2))
        for second in map(np.mean, itertools.product(values[1], repeat=2))
    ]
    assert_same_distribution(draws, enumerated)


def test_categories_are_strata_and_clusters_may_differ_in_size():
    # Category a: cluster 1 has two rows; category b: one cluster, which never varies.
    sums, counts = [1.0, 2.0, 5.0, 7.0], [1.0, 3.0, 2.0, 2.0]
    estimate, draws = resample_ratios(sums, counts, ["a", "a", "a", "b"], [1, 1, 2, 3])
    clusters = [(3.0, 4.0), (5.0, 2.0)]
    enumerated = [
        (sum(c[0] for c in drawn) / sum(c[1] for c in drawn) + 3.5) / 2
        for drawn in itertools.product(clusters, repeat=2)
    ]
    assert estimate == pytest.approx((8 / 6 + 3.5) / 2)
    assert_same_distribution(draws, enumerated)


def test_macro_average_by_hand():
    interval = macro_mean([1.0, 0.0, 0.0, 0.0, 0.8], ["a"] * 4 + ["b"], range(5))
    assert interval.estimate == pytest.approx((0.25 + 0.8) / 2)
    assert interval.low >= 0.4
    assert interval.null is None and not interval.conclusive


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    rows = (["a"] * 50, range(50))
    assert macro_mean(values, *rows, rng_seed=5) == macro_mean(values, *rows, rng_seed=5)
    assert macro_mean(values, *rows, rng_seed=5) != macro_mean(values, *rows, rng_seed=6)


def test_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(1).normal(size=400)
    interval = macro_mean(values, ["a"] * 400, range(400))
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(2)
    categories = np.repeat(["a", "b", "c"], 40)
    truth = np.mean([0.0, 1.0, 2.0])
    hits = 0
    for _ in range(200):
        noise = generator.exponential(size=120) - 1
        interval = macro_mean(np.repeat([0.0, 1.0, 2.0], 40) + noise, categories, range(120))
        hits += interval.low <= truth <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(3)
    difficulty = generator.normal(size=200)
    first = difficulty + 0.1 + 0.1 * generator.normal(size=200)
    second = difficulty + 0.1 * generator.normal(size=200)
    rows = (["a"] * 200, range(200))
    paired = macro_difference(first, second, *rows)
    unpaired = macro_difference(first, generator.permutation(second), *rows)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert width(paired) < width(unpaired) / 3
    assert paired.conclusive and not unpaired.conclusive


def test_clustering_widens_the_interval():
    generator = np.random.default_rng(4)
    clusters = np.repeat(np.arange(50), 8)
    values = generator.normal(size=50)[clusters] + 0.2 * generator.normal(size=400)
    clustered = macro_mean(values, ["a"] * 400, clusters)
    rowwise = macro_mean(values, ["a"] * 400, range(400))
    assert clustered.estimate == pytest.approx(rowwise.estimate)
    assert width(clustered) > 2 * width(rowwise)


def test_seeds_that_disagree_widen_the_interval():
    generator = np.random.default_rng(5)
    seeds = np.repeat([0, 1, 2], 100)
    noise = 0.1 * generator.normal(size=300)
    noise -= np.repeat([noise[seeds == s].mean() for s in range(3)], 100)
    rows = (["a"] * 300, np.tile(range(100), 3), seeds)
    agreeing = macro_mean(noise, *rows)
    disagreeing = macro_mean(noise + np.array([-1.0, 0.0, 1.0])[seeds], *rows)
    assert width(disagreeing) > 5 * width(agreeing)


def test_folds_do_not_widen_the_interval():
    """It is as wide as the contexts' spread says, however many folds they were cut into."""
    generator = np.random.default_rng(6)
    values = generator.normal(size=300)
    folds = np.repeat([0, 1, 2], 100)
    values -= np.repeat([values[folds == fold].mean() for fold in range(3)], 100)
    cut = macro_mean(values, ["a"] * 300, range(300), folds)
    assert width(cut) == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.05)
    apart = macro_mean(values + folds, ["a"] * 300, range(300), folds)
    assert width(apart) == pytest.approx(width(cut), rel=0.01)


def test_no_difference_is_called_at_its_nominal_rate():
    generator = np.random.default_rng(7)
    called = sum(
        macro_difference(
            generator.normal(size=60), generator.normal(size=60), ["a"] * 60, range(60)
        ).conclusive
        for _ in range(200)
    )
    assert 2 <= called <= 22


def test_p_value_counts_the_smaller_side():
    draws = np.array([-1.0] * 10 + [1.0] * 989)
    assert two_sided_p(draws) == pytest.approx(2 * 11 / 1000)
    assert two_sided_p(-draws) == pytest.approx(2 * 11 / 1000)
    assert two_sided_p(np.zeros(99)) == 1.0


def test_ten_thousand_resamples_take_about_a_second():
    values = np.random.default_rng(8).normal(size=2_000)
    seeds = np.repeat([0, 1], 1_000)
    start = time.perf_counter()
    macro_mean(values, np.tile(["a", "b"], 1_000).tolist(), range(2_000), seeds)
    assert RESAMPLES == 10_000
    assert time.perf_counter() - start < 10  # about 0.2 s alone; shared machines stall


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sums": [np.nan, 1.0]}, "finite"),
        ({"counts": [0.0, 1.0]}, "above 0"),
        ({"sums": [], "counts": [], "categories": [], "clusters": []}, "one item a row"),
        ({"clusters": [1]}, "one item a row"),
        ({"clusters": [1, 1], "categories": ["a", "b"]}, "two categories"),
        ({"categories": ["a", "b"], "seeds": [0, 1]}, "every category"),
    ],
)
def test_rows_that_make_no_sense_are_refused(change, message):
    rows = {"sums": [1.0, 2.0], "counts": [1.0, 1.0], "categories": ["a"] * 2, "clusters": [1, 2]}
    with pytest.raises(ValueError, match=message):
        resample_ratios(**(rows | change))


@pytest.mark.parametrize(("hits", "total"), [(0, 20), (1, 10), (37, 80), (20, 20)])
def test_wilson_equals_scipy(hits, total):
    ours = wilson_interval(hits, total)
    theirs = stats.binomtest(hits, total).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.estimate == hits / total


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_rate(hits, total):
    with pytest.raises(ValueError):
        wilson_interval(hits, total)


def test_holm_by_hand_and_in_the_given_order():
    p_values = {"c": 0.005, "a": 0.5, "b": 0.03, "d": 0.01}
    family = {name: Interval(1, 0.5, 2, null=0, p_value=p) for name, p in p_values.items()}
    adjusted = holm(family)
    assert list(adjusted) == list(family)
    assert {name: comparison.p_value for name, comparison in adjusted.items()} == pytest.approx(
        {"c": 0.02, "d": 0.03, "b": 0.06, "a": 0.5}
    )
    assert family["b"].conclusive and not adjusted["b"].conclusive
    few = unless_too_few(family["c"], FEWEST_CLUSTERS - 1)
    assert few.p_value is None and not few.conclusive
    assert unless_too_few(family["c"], FEWEST_CLUSTERS) == family["c"]
    assert holm(family | {"few": few}) == adjusted | {"few": few}  # it counts for nothing
    with pytest.raises(ValueError, match="has no null"):
        holm({"rate": wilson_interval(1, 2)})
