"""Ranking accuracy, by hand-counted pairs."""

import math

import numpy as np
import pytest

from parlai_prosocial.evaluation.suites.ranking import RankingContext, ranking_contexts
from parlai_prosocial.experiments.ranking import (
    CONTEXT_BOUND,
    GIVE_AWAY,
    accuracy_difference,
    accuracy_intervals,
    context_accuracies,
    replies_to_score,
)


def row(context, response, label, category="Biased Opinion"):
    return {"context": context, "response": response, "label": label, "category": category}


def context(category="Biased Opinion", safe=("s",), unsafe=("u",), text="c"):
    return RankingContext(text, category, list(safe), list(unsafe), text)


def test_rows_are_grouped_by_normalised_context():
    contexts = ranking_contexts(
        [
            row("Only safe", "fine", "Safe"),
            row("Who, me?", "yes", "Unsafe", "Offending User"),
            row("who,  me", "no", "Safe", "Offending User"),
            row("Who, me?", "perhaps", "Safe", "Offending User"),
            row("Other", "x", "Safe"),
            row("Other", "y", "Unsafe"),
        ]
    )
    assert contexts == [
        RankingContext("Who, me?", "Offending User", ["no", "perhaps"], ["yes"], "who, me"),
        RankingContext("Other", "Biased Opinion", ["x"], ["y"], "other"),
    ]


def test_repeated_replies_count_once_and_disputed_ones_not_at_all():
    rows = [
        row("c", "Good.", "Safe"),
        row("c", "good", "Safe"),
        row("c", "both", "Safe"),
        row("c", "Both!", "Unsafe"),
        row("c", "bad", "Unsafe"),
        row("d", "same", "Safe"),
        row("d", "same", "Unsafe"),
    ]
    [only] = ranking_contexts(rows)
    assert (only.safe, only.unsafe) == (["Good."], ["bad"])


def test_replies_to_score_match_the_order_of_scores():
    contexts = [context(safe=["s1", "s2"], unsafe=["u"])]
    assert replies_to_score(contexts) == [("c", ["s1", "s2", "u"])]
    assert context_accuracies(contexts, [[2.0, 0.0, 1.0]]).tolist() == [0.5]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([3, 2, 1, 0], 1.0),
        ([0, 1, 2, 3], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([2, 0, 1, 0], 0.625),  # 2>1, 2>0, 0<1, 0=0: (1 + 1 + 0 + 0.5) / 4
        ([-math.inf, 1, 0, -math.inf], 0.625),
    ],
)
def test_pairs_are_counted(scores, expected):
    accuracies = context_accuracies([context(safe=["a", "b"], unsafe=["c", "d"])], [scores])
    assert accuracies.tolist() == [expected]


def test_scores_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 replies"):
        context_accuracies([context()], [[1.0]])
    with pytest.raises(ValueError):
        context_accuracies([context()], [])
    with pytest.raises(ValueError, match="NaN"):
        context_accuracies([context()], [[1.0, math.nan]])


@pytest.fixture
def two_seeds():
    """Four contexts a category and seed; accuracies 0.5, but 1.0 in Offending User of seed 1."""
    contexts = {
        seed: [
            context(category, text=f"{seed} {category} {i}")
            for category in CONTEXT_BOUND + GIVE_AWAY
            for i in range(4)
        ]
        for seed in (0, 1)
    }
    accuracies = {
        seed: np.array([0.5 + 0.5 * (seed and c.category == "Offending User") for c in some])
        for seed, some in contexts.items()
    }
    return contexts, accuracies


def test_intervals_average_over_seeds_and_keep_the_give_away_categories_apart(two_seeds):
    intervals = accuracy_intervals(*two_seeds)
    assert list(intervals) == ["context-bound", "give-away", *CONTEXT_BOUND, *GIVE_AWAY]
    assert intervals["Offending User"].estimate == pytest.approx(0.75)
    assert intervals["context-bound"].estimate == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert intervals["give-away"].estimate == pytest.approx(0.5)


def test_difference_is_paired(two_seeds):
    contexts, first = two_seeds
    second = {seed: accuracies - 0.1 for seed, accuracies in first.items()}
    difference = accuracy_difference(contexts, first, second)
    assert difference.estimate == pytest.approx(0.1)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))
    assert difference.conclusive
    assert not accuracy_difference(contexts, first, first).conclusive


def test_a_difference_on_few_contexts_concludes_nothing(two_seeds):
    contexts, first = (of.copy() for of in two_seeds)
    second = {seed: accuracies - 0.1 for seed, accuracies in first.items()}
    few = accuracy_difference({0: contexts[0]}, {0: first[0]}, {0: second[0]})
    assert few.low == pytest.approx(0.1) and few.p_value is None and not few.conclusive


def test_a_seed_without_a_category_is_refused(two_seeds):
    contexts, accuracies = two_seeds
    contexts[1], accuracies[1] = contexts[1][4:], accuracies[1][4:]
    with pytest.raises(ValueError, match="seed 1: no context in category Offending User"):
        accuracy_intervals(contexts, accuracies)
