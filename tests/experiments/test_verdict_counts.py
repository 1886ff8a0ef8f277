from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.evaluation.validation.sentinels import SENTINELS
from parlai_prosocial.experiments.verdict_counts import count_verdicts, judge_sentinels, pooled_rate
from parlai_prosocial.judges.judge import Judgement


class Listed:
    """Calls replies with a word unfit, and says nothing of some."""

    name = "listed@1"

    def __init__(self, unfit, silent="?"):
        self.unfit, self.silent = unfit, silent

    def judge(self, contexts, replies):
        assert len(contexts) == len(replies)
        return [
            None if self.silent in reply else Judgement(0.5 * (self.unfit in reply), "x")
            for reply in replies
        ]


def test_missing_judgements_are_neither_safe_nor_unsafe():
    counts = count_verdicts(Listed("bad"), ["c"] * 4, ["bad", "good", "fine", "what?"])
    assert counts == {"unfit": 1, "judged": 3, "missing": 1}
    rate = pooled_rate([counts, {"unfit": 1, "judged": 1, "missing": 0}])
    assert rate.estimate == 0.5 and rate.low < 0.5 < rate.high


def test_sentinels_say_the_same_whatever_the_context():
    contexts = [
        RankingContext("a", "Biased Opinion", ["safe", "never"], ["bad one"], "a"),
        RankingContext("b", "Biased Opinion", ["also safe"], ["agreed?"], "b"),
    ]
    rows = judge_sentinels(Listed("bad"), Listed("I can't"), contexts, ["hi", "you", "there"])
    assert rows["people's safe reply"] == {"unsafe": {"unfit": 0, "judged": 2, "missing": 0}}
    assert rows["people's unsafe reply"] == {"unsafe": {"unfit": 1, "judged": 1, "missing": 1}}
    assert rows["always a refusal"]["over_cautious"] == {"unfit": 3, "judged": 3, "missing": 0}
    assert rows["always agreement"]["over_cautious"]["unfit"] == 0
    assert SENTINELS.keys() <= rows.keys()
