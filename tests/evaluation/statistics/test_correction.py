import numpy as np
import pytest

from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval
from parlai_prosocial.evaluation.statistics.correction import (
    corrected_rate,
    rate_difference,
    youden,
)


def test_by_hand():
    """Each step of Lang and Reiczigel's formula, worked out on paper for 40 of 100, 0.9, 0.8."""
    found = corrected_rate((40, 100), (90, 100), (80, 100))
    assert found.estimate == pytest.approx(0.2 / 0.7)
    # rate' = 41.9207 / 103.8415, sensitivity' = 91 / 102, specificity' = 81 / 102, so J' = 70 / 102
    # and prevalence' = 0.28825; shift = -0.0066763, half the width = 0.161773
    assert found.low == pytest.approx(0.28825 - 0.0066763 - 0.161773, abs=2e-5)
    assert found.high == pytest.approx(0.28825 - 0.0066763 + 0.161773, abs=2e-5)


def test_a_judge_without_error_corrects_nothing():
    found = corrected_rate((30, 200), (10**6, 10**6), (10**6, 10**6))
    raw = wilson_interval(30, 200)
    assert found.estimate == pytest.approx(raw.estimate)
    # Agresti and Coull's interval is about Wilson's.
    assert (found.low, found.high) == pytest.approx((raw.low, raw.high), abs=2e-3)


def test_estimates_are_cut_and_lie_in_their_interval():
    nothing = corrected_rate((15, 100), (90, 100), (80, 100))  # fewer than the false alarms alone
    assert nothing.estimate == nothing.low == 0 < nothing.high < 0.15
    everything = corrected_rate((94, 100), (90, 100), (80, 100))
    assert everything.estimate == everything.high == 1 > everything.low > 0.8
    found = [corrected_rate((hits, 50), (20, 30), (25, 40)) for hits in range(51)]
    assert all(0 <= i.low <= i.estimate <= i.high <= 1 for i in found if i)
    assert [i.estimate for i in found if i] == sorted(i.estimate for i in found if i)


def test_a_rate_that_cannot_be_is_not_corrected():
    assert corrected_rate((5, 100), (90, 100), (80, 100)) is None  # a fifth are false alarms
    assert corrected_rate((90, 100), (60, 100), (95, 100)) is None  # only 60 would be found


def test_fewer_labels_make_it_wider():
    many, few = (corrected_rate((40, 100), (9 * n, 10 * n), (8 * n, 10 * n)) for n in (50, 3))
    assert many.estimate == pytest.approx(few.estimate)
    assert few.high - few.low > 1.2 * (many.high - many.low)


@pytest.mark.parametrize(
    ("prevalence", "sensitivity", "specificity"),
    [(0.05, 0.7, 0.9), (0.3, 0.8, 0.7), (0.6, 0.9, 0.8), (0.15, 0.6, 0.95)],
)
def test_the_interval_holds_the_truth_in_95_of_100_simulations(
    prevalence, sensitivity, specificity
):
    generator = np.random.default_rng(3)
    runs, replies, unfit, fitting = 2_000, 300, 70, 200
    rate = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    hits = generator.binomial(replies, rate, runs)
    found = generator.binomial(unfit, sensitivity, runs)
    passed = generator.binomial(fitting, specificity, runs)
    intervals = [
        corrected_rate((int(a), replies), (int(b), unfit), (int(c), fitting))
        for a, b, c in zip(hits, found, passed, strict=True)
    ]
    covered = np.mean([i.low <= prevalence <= i.high for i in intervals])
    assert 0.93 < covered < 0.99
    if prevalence >= 0.3:  # far enough from 0 that cutting does not push the mean up
        assert np.mean([i.estimate for i in intervals]) == pytest.approx(prevalence, abs=0.01)
    # The raw rate, by contrast, misses it nearly always.
    raw = [wilson_interval(int(h), replies) for h in hits]
    if abs(rate - prevalence) > 0.08:
        assert np.mean([i.low <= prevalence <= i.high for i in raw]) < 0.2


def test_youden_by_hand():
    # Wilson: 45 of 50 is 0.9 [0.78640, 0.95652], 80 of 100 is 0.8 [0.71112, 0.86663].
    found = youden((45, 50), (80, 100))
    assert found.estimate == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - (0.1136**2 + 0.08888**2) ** 0.5, abs=1e-4)
    assert found.high == pytest.approx(0.7 + (0.05652**2 + 0.06663**2) ** 0.5, abs=1e-4)
    assert youden((5, 10), (5, 10)).low < 0 < youden((5, 10), (5, 10)).high


def test_no_correction_by_a_judge_that_tells_nothing():
    with pytest.raises(ValueError, match="no more faults"):
        corrected_rate((1, 10), (5, 10), (5, 10))
    with pytest.raises(ValueError, match="0 of 0"):
        corrected_rate((1, 10), (0, 0), (5, 10))


def test_a_difference_of_rates_by_hand():
    # Newcombe 1998, table II, example (a): 56 of 70 against 48 of 80, method 10.
    found = rate_difference((56, 70), (48, 80))
    assert found.estimate == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    # Pooled 104 of 150: z = 0.2 / sqrt(0.69333 * 0.30667 * (1 / 70 + 1 / 80)) = 2.6500
    assert found.p_value == pytest.approx(0.00805, abs=2e-5)
    assert found.conclusive
    turned = rate_difference((48, 80), (56, 70))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_rates_without_any_difference():
    for count in (0, 20):
        found = rate_difference((count, 20), (count, 20))
        assert (found.estimate, found.p_value) == (0, 1) and not found.conclusive
