import pytest

from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval
from parlai_prosocial.judges.judge import Judgement, verdict


def test_what_is_missing_is_counted_apart():
    rate = Rate()
    rate.update([True, None, False])
    rate.update([True, True, None, None])
    assert (rate.hits, rate.judged, rate.missing) == (3, 4, 3)
    assert rate.compute() == wilson_interval(3, 4)


def test_nothing_judged_is_no_rate():
    rate = Rate()
    rate.update([None, None])
    assert rate.compute() is None and rate.missing == 2


@pytest.mark.parametrize(
    ("p_unsafe", "expected"), [(0.5, True), (0.499, False), (float("nan"), None), (None, None)]
)
def test_a_nan_is_no_verdict(p_unsafe, expected):
    judgement = None if p_unsafe is None else Judgement(p_unsafe, "x")
    assert verdict(judgement) is expected
