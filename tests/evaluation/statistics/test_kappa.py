import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from parlai_prosocial.evaluation.statistics.kappa import cohen_kappa


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    first = generator.random(80) < 0.3
    second = np.where(generator.random(80) < 0.8, first, generator.random(80) < 0.5)
    found = cohen_kappa(first, second, range(80))
    assert found.estimate == pytest.approx(cohen_kappa_score(first, second))
    assert found.low < found.estimate < found.high
    assert found == cohen_kappa(first, second, range(80))


def test_extremes():
    assert cohen_kappa([True, False], [True, False], [0, 1]).estimate == 1
    assert cohen_kappa([True, False], [False, True], [0, 1]).estimate == -1
    assert cohen_kappa([True] * 4, [True] * 4, range(4)) is None
    assert cohen_kappa([], [], []) is None
    assert cohen_kappa([True] * 4, [True, True, False, False], range(4)).estimate == 0


def test_the_interval_holds_the_truth():
    # First says yes in half the rows, the second repeats it with probability 0.8: kappa is 0.6.
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(25):
        first = generator.random(100) < 0.5
        second = first ^ (generator.random(100) < 0.2)
        found = cohen_kappa(first, second, range(100))
        covered += found.low <= 0.6 <= found.high
    assert covered >= 21


def test_rows_of_one_cluster_are_drawn_together():
    generator = np.random.default_rng(2)
    first = generator.random(50) < 0.5
    second = first ^ (generator.random(50) < 0.2)
    alone = cohen_kappa(first, second, range(50))
    thrice = cohen_kappa(np.tile(first, 3), np.tile(second, 3), [*range(50)] * 3)
    as_if = cohen_kappa(np.tile(first, 3), np.tile(second, 3), range(150))
    assert thrice.estimate == pytest.approx(alone.estimate)
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low)
    assert as_if.high - as_if.low < 0.75 * (alone.high - alone.low)
