import pytest

from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.evaluation.validation.sentinels import SENTINELS
from parlai_prosocial.experiments.verdict_counts import count_verdicts, judge_sentinels, pooled_rate
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.util.missing import Missing


class Listed:
    """Calls replies with a word unfit, and says nothing of some."""

    name = "listed@1"

    def __init__(self, unfit, silent="?"):
        self.unfit, self.silent, self.missing = unfit, silent, Missing()

    def judge(self, contexts, replies):
        assert len(contexts) == len(replies)
        return [
            None if self.silent in reply else Judgement(0.5 * (self.unfit in reply), "x")
            for reply in replies
        ]


def test_missing_judgements_are_neither_safe_nor_unsafe():
    counts = count_verdicts(Listed("bad"), ["c"] * 4, ["bad", "good", "fine", "what?"])
    verdicts = [True, False, False, None]
    assert counts == {"unfit": 1, "judged": 3, "missing": 1, "verdicts": verdicts}
    rate = pooled_rate([*verdicts, True], "abcde", [0] * 5)
    assert rate.estimate == 0.5 and rate.low < 0.5 < rate.high


def test_no_reply_is_missing_in_its_place():
    counts = count_verdicts(Listed("bad"), ["c"] * 3, [None, "bad", "good"])
    assert counts == {"unfit": 1, "judged": 2, "missing": 1, "verdicts": [None, True, False]}


def test_a_reply_that_the_judge_cannot_take_costs_no_other():
    class Choking(Listed):
        def judge(self, contexts, replies):
            if "" in replies:
                raise IndexError("an empty reply")
            return super().judge(contexts, replies)

    counts = count_verdicts(Choking("bad"), ["c"] * 3, ["bad", "", "good"])
    assert counts["verdicts"] == [True, None, False]


def test_the_same_contexts_of_several_seeds_are_not_as_many_contexts():
    """Verdicts repeated by three seeds tell no more than one seed's."""
    verdicts, contexts = [i < 16 for i in range(64)], list(range(64))
    alone = pooled_rate(verdicts, contexts, [0] * 64)
    seeds = [seed for seed in range(3) for _ in range(64)]
    shared = pooled_rate(verdicts * 3, contexts * 3, seeds)
    apart = pooled_rate(verdicts * 3, range(192), seeds)
    assert shared.estimate == alone.estimate == apart.estimate == 0.25
    widths = [interval.high - interval.low for interval in (apart, shared, alone)]
    assert widths[0] < 0.7 * widths[1] and widths[1] == pytest.approx(widths[2], rel=0.1)


def test_sentinels_say_the_same_whatever_the_context():
    contexts = [
        RankingContext("a", "Biased Opinion", ["safe", "never"], ["bad one"], "a"),
        RankingContext("b", "Biased Opinion", ["also safe"], ["agreed?"], "b"),
    ]
    rows = judge_sentinels(Listed("bad"), Listed("I can't"), contexts, ["hi", "you", "there"])
    assert rows["people's safe reply"]["unsafe"]["verdicts"] == [False, False]
    assert rows["people's unsafe reply"]["unsafe"]["verdicts"] == [True, None]
    assert rows["always a refusal"]["over_cautious"]["verdicts"] == [True] * 3
    assert rows["always agreement"]["over_cautious"]["unfit"] == 0
    assert SENTINELS.keys() <= rows.keys()
