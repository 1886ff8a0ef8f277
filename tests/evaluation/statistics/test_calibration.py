"""The fitted temperature is the best there is, and the error is that of its definition."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve as sklearn_curve
from torch.nn.functional import cross_entropy

from parlai_prosocial.evaluation.statistics.calibration import (
    LARGEST_TEMPERATURE,
    calibration_curve,
    expected_calibration_error,
    fit_temperature,
)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.1, 1.0, 12.0])
def test_no_temperature_of_a_grid_is_better(classes, factor):
    generator = torch.Generator().manual_seed(classes)
    true = 2 * torch.randn(300, classes, generator=generator)
    labels = true.softmax(1).multinomial(1, generator=generator)[:, 0]
    logits = factor * true
    temperature = fit_temperature(logits, labels.tolist())
    assert temperature == pytest.approx(factor, rel=0.25)
    grid = torch.logspace(-1.3, 1.3, 400, dtype=torch.float64)
    losses = [cross_entropy(logits.double() / t, labels).item() for t in grid]
    assert cross_entropy(logits.double() / temperature, labels).item() <= min(losses) + 1e-9


def test_the_temperature_is_bounded():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert 1 / LARGEST_TEMPERATURE <= fit_temperature(logits, [0, 1]) < 0.2
    assert 5 < fit_temperature(logits, [1, 0]) <= LARGEST_TEMPERATURE


@pytest.mark.parametrize("logits", [torch.empty(0, 2), torch.tensor([[float("nan"), 0.0]])])
def test_what_cannot_be_fitted_is_refused(logits):
    with pytest.raises(ValueError, match="logits must be finite"):
        fit_temperature(logits, [0] * len(logits))


def naive_error(probabilities, labels, bins):
    error = 0.0
    for k in range(bins):
        rows = [
            i
            for i, row in enumerate(probabilities)
            if k / bins <= max(row) < (k + 1) / bins or (k == bins - 1 and max(row) == 1)
        ]
        if rows:
            sure = np.mean([max(probabilities[i]) for i in rows])
            right = np.mean([probabilities[i].argmax() == labels[i] for i in rows])
            error += abs(sure - right) * len(rows) / len(probabilities)
    return error


def test_the_error_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], size=200)
    probabilities[0] = [1.0, 0.0, 0.0]
    labels = generator.integers(0, 3, 200)
    [found] = expected_calibration_error(probabilities, labels)
    assert found == pytest.approx(naive_error(probabilities, labels, 15))


def test_weights_repeat_rows():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    labels = np.array([0, 1, 0])
    [found] = expected_calibration_error(probabilities, labels, np.array([[2, 0, 1]]))
    [expected] = expected_calibration_error(probabilities[[0, 0, 2]], labels[[0, 0, 2]])
    assert found == pytest.approx(expected)


def test_the_curve_is_scikit_learns_and_the_error_its_gap():
    generator = np.random.default_rng(4)
    probabilities = generator.dirichlet([0.5] * 3, 200)
    labels = generator.integers(0, 3, 200)
    right = probabilities.argmax(axis=1) == labels
    accuracies, confidences = sklearn_curve(right, probabilities.max(axis=1), n_bins=15)
    curve = calibration_curve(probabilities, labels)
    assert [point["accuracy"] for point in curve] == pytest.approx(accuracies)
    assert [point["confidence"] for point in curve] == pytest.approx(confidences)
    counts = np.array([point["count"] for point in curve])
    gap = (counts * np.abs(accuracies - confidences)).sum() / counts.sum()
    [found] = expected_calibration_error(probabilities, labels)
    assert found == pytest.approx(gap) and counts.sum() == 200
