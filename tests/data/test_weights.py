"""Social weights have mean log 0 and a floor, both at once."""

import math
import random

import pytest

from parlai_prosocial.data.example import W_MIN
from parlai_prosocial.data.weights import social_weights


def mean_log(weights):
    return sum(map(math.log, weights)) / len(weights)


@pytest.mark.parametrize("seed", range(20))
def test_mean_log_is_zero_and_none_is_below_the_floor(seed):
    rng = random.Random(seed)
    severities = [rng.choice([1, 2, 3, 4, 5]) * rng.choice([1, 5, 1e3]) for _ in range(50)]
    weights = social_weights(severities)
    assert mean_log(weights) == pytest.approx(0, abs=1e-9)
    assert min(weights) >= W_MIN


def test_order_is_kept_and_ratios_too_above_the_floor():
    low, middle, high = social_weights([1, 2, 25])
    assert W_MIN <= low <= middle < high
    assert high / middle == pytest.approx(12.5) or middle == W_MIN


def test_clipping_is_made_up_for():
    # Without the shift, nine clipped weights would pull the mean log up to about 0.7.
    weights = social_weights([1e-9] * 9 + [1.0])
    assert weights[:9] == [W_MIN] * 9
    assert mean_log(weights) == pytest.approx(0, abs=1e-9)


def test_scale_does_not_matter():
    assert social_weights([1, 2, 3]) == pytest.approx(social_weights([100, 200, 300]))


def test_missing_severities_get_one_and_move_nothing():
    with_missing = social_weights([1, None, 4, None])
    assert with_missing == pytest.approx([0.5, 1, 2, 1])
    assert social_weights([None, None]) == [1.0, 1.0]
    assert social_weights([]) == []


@pytest.mark.parametrize("severity", [0, -1, math.inf, math.nan])
def test_severities_must_be_positive_and_finite(severity):
    with pytest.raises(ValueError, match="positive finite"):
        social_weights([1, severity])


@pytest.mark.parametrize("w_min", [0, 1, -0.5])
def test_the_floor_must_leave_room(w_min):
    with pytest.raises(ValueError, match="w_min"):
        social_weights([1.0], w_min=w_min)
