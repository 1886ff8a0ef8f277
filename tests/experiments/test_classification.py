"""Each measure is scikit-learn's; intervals hold, and pair the arms."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from parlai_prosocial.experiments.classification import (
    Predictions,
    accuracy,
    area_under_curve,
    difference,
    interval_of,
    macro_f1,
    unsafe_auc,
)


def predictions(seed=0, rows=120, skill=1.0, classes=2):
    """Random rows: two categories, two rows a context; scores are rounded, so that some tie."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)).round(1)
    logits[np.arange(rows), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        probabilities,
        labels,
        categories=["a" if i < rows / 2 else "b" for i in range(rows)],
        clusters=[f"{seed}-{i // 2}" for i in range(rows)],
    )


def test_measures_are_scikit_learns_with_and_without_weights():
    found = predictions()
    predicted = found.probabilities.argmax(axis=1)
    weights = np.random.default_rng(1).integers(0, 4, (3, len(found.labels))).astype(float)
    for i, w in enumerate(weights):
        common = {"sample_weight": w}
        expected = accuracy_score(found.labels, predicted, **common)
        assert accuracy(found, weights)[i] == pytest.approx(expected)
        expected = f1_score(found.labels, predicted, average="macro", **common)
        assert macro_f1(found, weights)[i] == pytest.approx(expected)
        expected = roc_auc_score(found.labels, found.probabilities[:, 1], **common)
        assert unsafe_auc(found, weights)[i] == pytest.approx(expected)


def test_macro_f1_of_five_classes():
    found = predictions(classes=5)
    expected = f1_score(found.labels, found.probabilities.argmax(axis=1), average="macro")
    assert macro_f1(found, np.ones((1, 120)))[0] == pytest.approx(expected)


def test_rows_of_one_kind_have_no_curve():
    scores, positive = np.array([0.1, 0.2]), np.array([True, True])
    assert np.isnan(area_under_curve(scores, positive)).all()
    one_kind = Predictions(np.array([[0.4, 0.6]]), np.array([1]), ["a"], ["c"])
    with pytest.raises(ValueError, match="seed 0: too few rows"):
        interval_of(unsafe_auc, {0: one_kind})


def test_categories_have_equal_weight_and_runs_are_averaged():
    runs = {seed: predictions(seed) for seed in (0, 1, 2)}
    interval = interval_of(accuracy, runs, ["a", "b"])
    parts = [accuracy(run.of(name), np.ones((1, 60)))[0] for run in runs.values() for name in "ab"]
    assert interval.estimate == pytest.approx(np.mean(parts))
    assert interval.low < interval.estimate < interval.high
    assert interval_of(accuracy, runs, ["a", "b"]) == interval, "the same seed, the same interval"
    assert not interval.conclusive


def test_whole_contexts_are_drawn():
    """Rows that repeat their context's other row tell nothing new: the interval is as wide."""
    run = predictions(rows=100)
    alone = Predictions(
        run.probabilities[::2], run.labels[::2], run.categories[::2], run.clusters[::2]
    )
    twice = Predictions(
        run.probabilities[::2].repeat(2, axis=0),
        run.labels[::2].repeat(2),
        run.categories,
        run.clusters,
    )
    a, b = interval_of(accuracy, {0: alone}), interval_of(accuracy, {0: twice})
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


def test_differences_are_paired():
    better = {seed: predictions(seed, skill=2.0) for seed in (0, 1)}
    worse = {seed: predictions(seed, skill=0.3) for seed in (0, 1)}
    gain = difference(unsafe_auc, better, worse, ["a", "b"])
    assert gain.conclusive and gain.estimate > 0 and gain.null == 0
    nothing = difference(unsafe_auc, better, better)
    assert (nothing.estimate, nothing.low, nothing.high, nothing.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="seed 0: the arms have not predicted the same rows"):
        difference(accuracy, {0: better[0]}, {0: worse[1]})
