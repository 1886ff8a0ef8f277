import pytest

from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval
from parlai_prosocial.judges.judge import Judgement, verdict


def test_rates_add_up_over_ranks():
    ranks = Rate(), Rate()
    ranks[0].update([True, None, False])
    ranks[1].update([True, True, None, None])
    ranks[0].merge(ranks[1])
    assert (ranks[0].hits, ranks[0].judged, ranks[0].missing) == (3, 4, 3)
    assert ranks[0].compute() == wilson_interval(3, 4)


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
