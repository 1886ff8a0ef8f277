import pytest
from sklearn.metrics import label_ranking_average_precision_score

from parlai_prosocial.evaluation.metrics.contrast import Contrast

CONTEXTS = [([-1.0], [-2.0, -3.0]), ([-2.5, -9.0], [-2.0, -3.0]), ([-2.0], [-2.0]), ([0.0], [5, 4])]


def test_by_hand():
    metric = Contrast()
    for fitting, unfit in CONTEXTS:
        metric.update(fitting, unfit)
    result = metric.compute()
    assert result.accuracy.estimate == 1 / 4  # a tie is no hit
    assert 0 < result.accuracy.low < 1 / 4 < result.accuracy.high < 1
    assert result.mrr == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 3) / 4)
    assert result.margin == pytest.approx((1 - 0.5 + 0 - 5) / 4)
    assert Contrast().compute() is None


def test_reciprocal_rank_as_scikit_learn_has_it():
    """With one relevant item, its ranking average precision is the reciprocal rank."""
    metric = Contrast()
    metric.update([0.3], [0.9, 0.1, 0.5, 0.2])
    expected = label_ranking_average_precision_score([[1, 0, 0, 0, 0]], [[0.3, 0.9, 0.1, 0.5, 0.2]])
    assert metric.compute().mrr == pytest.approx(expected)
