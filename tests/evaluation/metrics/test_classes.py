"""Against scikit-learn, on random predictions."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from parlai_prosocial.evaluation.metrics.classes import CalibrationError, Confusion
from parlai_prosocial.evaluation.statistics.calibration import expected_calibration_error

CLASSES = ("casual", "caution", "intervention")


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 200)
    probabilities = generator.dirichlet([0.5] * 3, 200)
    probabilities[np.arange(60), labels[:60]] += 1
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def test_confusion(rows):
    probabilities, labels = rows
    right = [CLASSES[i] for i in labels]
    predicted = [CLASSES[i] for i in probabilities.argmax(axis=1)]
    ranks = Confusion(CLASSES), Confusion(CLASSES)
    ranks[0].update(right[:70], predicted[:70])
    ranks[1].update([*right[70:], "casual"], [*predicted[70:], None])
    ranks[0].merge(ranks[1])
    assert ranks[0].missing == 1
    assert (ranks[0].matrix() == confusion_matrix(right, predicted, labels=CLASSES)).all()
    assert ranks[0].compute().estimate == pytest.approx(accuracy_score(right, predicted))
    assert ranks[0].macro_f1() == pytest.approx(f1_score(right, predicted, average="macro"))


def test_macro_f1_where_a_class_is_not_there():
    metric = Confusion(CLASSES)
    assert metric.compute() is None and metric.macro_f1() is None
    metric.update(["casual", "casual"], ["casual", "caution"])
    expected = f1_score(["casual", "casual"], ["casual", "caution"], average="macro")
    assert metric.macro_f1() == pytest.approx(expected)
    with pytest.raises(ValueError, match="'other' is not among casual"):
        metric.update(["casual"], ["other"])


def test_calibration_error(rows):
    probabilities, labels = rows
    ranks = CalibrationError(15), CalibrationError(15)
    ranks[0].update(probabilities[:50], labels[:50])
    ranks[1].update(probabilities[50:], labels[50:])
    ranks[0].merge(ranks[1])
    [expected] = expected_calibration_error(probabilities, labels, bins=15)
    assert ranks[0].compute() == pytest.approx(expected, abs=1e-12)

    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15)
    curve = ranks[0].curve()
    assert [point["accuracy"] for point in curve] == pytest.approx(accuracies)
    assert [point["confidence"] for point in curve] == pytest.approx(confidences)
    counts = np.array([point["count"] for point in curve])
    gap = (counts * np.abs(accuracies - confidences)).sum() / len(labels)
    assert ranks[0].compute() == pytest.approx(gap)
    assert CalibrationError().compute() is None
