"""The rows beside the models: length, a classifier without context, shuffled contexts."""

import math

import pytest

from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.experiments.baselines import (
    reply_only_scores,
    shorter_reply_scores,
    shuffled_contexts,
)
from parlai_prosocial.experiments.ranking import context_accuracies


def context(name, category="a", safe=("s",), unsafe=("u",)):
    return RankingContext(name, category, list(safe), list(unsafe), name)


def test_the_shorter_reply():
    contexts = [context("c", safe=["one two", "one two three"], unsafe=["four five", "six"])]
    # shorter: (2,2) ties, (2,1) loses, (3,2) loses, (3,1) loses
    assert context_accuracies(contexts, shorter_reply_scores(contexts)).tolist() == [0.125]


def test_naive_bayes_by_hand():
    rows = [
        {"response": "I see", "label": "Safe"},
        {"response": "you see", "label": "Unsafe"},
        {"response": "you", "label": "Unsafe"},
    ]
    [[first, second]] = reply_only_scores(rows, [context("c", safe=["I"], unsafe=["You, unseen"])])
    # Laplace-smoothed: safe has 2 tokens, unsafe 3, the vocabulary 3 words; priors 1/3 and 2/3.
    assert first == pytest.approx(math.log((1 / 3 * 2 / 5) / (2 / 3 * 1 / 6)))
    assert second == pytest.approx(math.log((1 / 3 * 1 / 5) / (2 / 3 * 3 / 6)))


def test_the_classifier_cannot_see_the_context():
    rows = [
        {"response": "yes", "label": "Safe", "context": "help?"},
        {"response": "no", "label": "Unsafe", "context": "help?"},
    ]
    contexts = [context("help?", safe=["yes"], unsafe=["no"]), context("harm?", safe=["no"])]
    scores = reply_only_scores(rows, contexts)
    assert scores[0][0] > scores[0][1]
    assert scores[1][0] == scores[0][1]


def test_shuffling_moves_every_context_within_its_category():
    contexts = [context(f"{i}", category="ab"[i % 2], safe=[f"s{i}"]) for i in range(20)]
    shuffled = shuffled_contexts(contexts, seed=3)
    for before, after in zip(contexts, shuffled, strict=True):
        assert after.context != before.context
        assert int(after.context) % 2 == int(before.context) % 2
        kept = (before.category, before.safe, before.unsafe, before.group)
        assert (after.category, after.safe, after.unsafe, after.group) == kept
    assert sorted(c.context for c in shuffled) == sorted(c.context for c in contexts)


def test_shuffling_follows_its_seed():
    contexts = [context(f"{i}") for i in range(20)]
    assert shuffled_contexts(contexts, 1) == shuffled_contexts(contexts, 1)
    assert shuffled_contexts(contexts, 1) != shuffled_contexts(contexts, 2)


def test_a_single_context_cannot_be_shuffled():
    with pytest.raises(ValueError, match="single context"):
        shuffled_contexts([context("c")], seed=0)
