"""Casual replies and their perplexity."""

import math

import numpy as np
import pytest

from parlai_prosocial.evaluation.statistics.bootstrap import resample_ratios
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.evaluation.suites.casual import casual_replies


def dialogue(length, name="d"):
    return {"id": name, "turns": [str(i) for i in range(length)]}


def test_replies_are_spread_over_the_dialogue_with_at_most_four_turns_before():
    replies = casual_replies([dialogue(10)], 3)
    assert [reply.response for reply in replies] == ["1", "5", "9"]
    assert [reply.context for reply in replies] == [
        ["0"],
        ["1", "2", "3", "4"],
        ["5", "6", "7", "8"],
    ]
    assert {reply.dialogue for reply in replies} == {"d"}


@pytest.mark.parametrize("length", range(13))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_reply_is_a_different_turn_after_its_context(length, count):
    replies = casual_replies([dialogue(length)], count)
    turns = [int(reply.response) for reply in replies]
    assert len(turns) == len(set(turns)) == min(count, max(0, length - 1))
    for turn, reply in zip(turns, replies, strict=True):
        assert reply.context == [str(i) for i in range(max(0, turn - 4), turn)]
        assert reply.context


def test_perplexity_weighs_by_tokens():
    found = perplexity([2.0, 9.0, 1.0], [2, 3, 1], ["a", "a", "b"])
    assert found.estimate == pytest.approx(math.exp(12 / 6))
    # The resamples are (a, a), (a, b) and (b, b).
    assert (found.low, found.high) == pytest.approx((math.exp(1), math.exp(11 / 5)))
    assert found.null is None


def test_perplexity_over_seeds_is_the_geometric_mean():
    found = perplexity([1.0, 3.0], [1, 1], ["a", "a"], seeds=[0, 1])
    assert found.estimate == pytest.approx(math.exp(2.0))


def test_ratio_is_paired_by_dialogue():
    generator = np.random.default_rng(0)
    dialogues = np.repeat(np.arange(60), 3)
    tokens = generator.integers(5, 30, 180)
    nll = tokens * (3 + generator.normal(size=60)[dialogues])
    worse = nll + 0.05 * tokens
    ratio = perplexity_ratio((worse, tokens), (nll, tokens), dialogues)
    assert ratio.estimate == pytest.approx(math.exp(0.05))
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(0.05), math.exp(0.05)))
    assert ratio.conclusive
    alone = perplexity(nll, tokens, dialogues)
    assert alone.high / alone.low > 1.3


def test_ratio_of_equals_and_of_different_token_counts():
    nll, tokens, dialogues = [4.0, 9.0, 2.0], [2, 3, 2], ["a", "b", "c"]
    same = perplexity_ratio((nll, tokens), (nll, tokens), dialogues)
    assert (same.estimate, same.low, same.high) == (1.0, 1.0, 1.0)
    assert same.p_value == 1.0 and not same.conclusive
    halved = perplexity_ratio((nll, [4, 6, 4]), (nll, tokens), dialogues)
    assert halved.estimate == pytest.approx(math.exp(15 / 14 - 15 / 7))


def test_clusters_are_dialogues_not_replies():
    generator = np.random.default_rng(1)
    dialogues = np.repeat(np.arange(40), 5)
    nll = 10 * (3 + generator.normal(size=40)[dialogues])
    by_dialogue = perplexity(nll, [10] * 200, dialogues)
    by_reply = perplexity(nll, [10] * 200, range(200))
    assert by_dialogue.high - by_dialogue.low > 1.8 * (by_reply.high - by_reply.low)


def test_the_interval_is_that_of_the_shared_bootstrap():
    nll, tokens, dialogues = [4.0, 9.0, 2.0, 8.0], [2, 3, 2, 2], ["a", "b", "c", "d"]
    _, draws = resample_ratios(nll, tokens, [0] * 4, dialogues, rng_seed=9)
    found = perplexity(nll, tokens, dialogues, rng_seed=9)
    assert found.low == pytest.approx(np.quantile(np.exp(draws), 0.025), rel=1e-3)
