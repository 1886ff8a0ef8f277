"""Against scikit-learn, on random predictions."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from parlai_prosocial.evaluation.metrics.classes import Confusion

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
    metric = Confusion(CLASSES)
    metric.update(right[:70], predicted[:70])
    metric.update([*right[70:], "casual"], [*predicted[70:], None])
    assert metric.missing == 1
    assert (metric.matrix() == confusion_matrix(right, predicted, labels=CLASSES)).all()
    assert metric.compute().estimate == pytest.approx(accuracy_score(right, predicted))
    assert metric.macro_f1() == pytest.approx(f1_score(right, predicted, average="macro"))


def test_macro_f1_where_a_class_is_not_there():
    metric = Confusion(CLASSES)
    assert metric.compute() is None and metric.macro_f1() is None
    metric.update(["casual", "casual"], ["casual", "caution"])
    expected = f1_score(["casual", "casual"], ["casual", "caution"], average="macro")
    assert metric.macro_f1() == pytest.approx(expected)
    with pytest.raises(ValueError, match="'other' is not among casual"):
        metric.update(["casual"], ["other"])
