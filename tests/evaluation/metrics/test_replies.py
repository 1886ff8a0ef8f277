"""Hedges, length, variety and ends of replies, counted by hand."""

import pytest

from parlai_prosocial.evaluation.metrics.replies import HEDGES, hedges, reply_statistics


@pytest.mark.parametrize("phrase", HEDGES)
def test_every_phrase_is_found_in_any_case(phrase):
    assert hedges(f"Well, {phrase.upper()}!")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("I\N{RIGHT SINGLE QUOTATION MARK}m not sure.", True),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t help you", True),
        ("I can't wait to see you", False),
        ("You don't know me", False),
        ("I'm surely coming", False),
        ("I was an aide", False),
        ("", False),
    ],
)
def test_hedges(reply, expected):
    assert hedges(reply) is expected


def test_statistics_by_hand():
    found = reply_statistics(
        ["a b a b", "A b", "I'm not sure", "", "yes"], [True, True, False, True, True]
    )
    assert found.count == 5
    assert found.hedges.estimate == pytest.approx(1 / 5)
    assert found.ended.estimate == pytest.approx(4 / 5)
    assert 0 < found.hedges.low < 1 / 5 < found.hedges.high < 1
    assert found.mean_words == pytest.approx((4 + 2 + 3 + 0 + 1) / 5)
    # pairs: ab ba ab | ab | i'm-not not-sure: 4 distinct of 6
    assert found.distinct_2 == pytest.approx(4 / 6)


def test_replies_without_pairs_have_no_variety():
    assert reply_statistics(["yes", ""], [True, False]).distinct_2 == 0.0


@pytest.mark.parametrize(("replies", "ended"), [([], []), (["a"], []), (["a"], [True, True])])
def test_lengths_must_match(replies, ended):
    with pytest.raises(ValueError):
        reply_statistics(replies, ended)
