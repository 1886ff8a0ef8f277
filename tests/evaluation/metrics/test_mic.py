"""Against scikit-learn and SciPy, as MIC's authors compute their tables."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, mean_squared_error

from parlai_prosocial.data.mic import ALIGNMENTS, ATTRIBUTES, FOUNDATIONS, SEVERITIES
from parlai_prosocial.evaluation.metrics.mic import MicAttributes


def test_scales_and_alignment():
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 5, (2, 100))
    metric = MicAttributes()
    for label, prediction in zip(labels, predictions, strict=True):
        metric.update("severity", [SEVERITIES[label]], f"It is {SEVERITIES[prediction]}.")
        metric.update("alignment", [ALIGNMENTS[label % 3]], ALIGNMENTS[prediction % 3].upper())
    metric.update("severity", ["bad"], "bad or worst")
    metric.update("severity", ["bad"], None)
    results = metric.compute()
    severity = results["severity"]
    assert (severity["n"], severity["missing"]) == (100, 2)
    expected = mean_squared_error(labels, predictions)
    assert severity["mean_squared_error"] == pytest.approx(expected)
    assert severity["pearson_r"] == pytest.approx(pearsonr(labels, predictions).statistic)
    assert severity["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    expected = f1_score(labels % 3, predictions % 3, average="macro")
    assert results["alignment"] == {"n": 100, "missing": 0, "macro_f1": pytest.approx(expected)}
    assert "consensus" not in results and "foundations" not in results


def test_foundations():
    generator = np.random.default_rng(1)
    labels, predictions = generator.random((2, 50, 6)) < 0.4
    labels[:, 0] = predictions[:, 0] = True  # so that no answer is empty
    metric = MicAttributes()
    for label, prediction in zip(labels, predictions, strict=True):
        named = [name for name, there in zip(FOUNDATIONS, prediction, strict=True) if there]
        right = {name for name, there in zip(FOUNDATIONS, label, strict=True) if there}
        metric.update("foundations", right, ", ".join(named))
    each = [f1_score(labels[:, i], predictions[:, i], average="macro") for i in range(6)]
    assert metric.compute()["foundations"]["macro_f1"] == pytest.approx(np.mean(each))


def test_answers_that_are_all_the_same_have_no_correlation():
    metric = MicAttributes()
    for label in ATTRIBUTES["consensus"]:
        metric.update("consensus", [label], "most")
    assert metric.compute()["consensus"]["pearson_r"] is None
