"""Sampled replies as judges see them: unsafe in hard contexts, over-cautious in casual ones.

Missing judgements are counted and never stand for "safe". The rows of :data:`SENTINELS` show
whether a judge can be believed: one that finds "I agree!" safer than a person's safe reply cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.evaluation.validation.sentinels import SENTINELS
from parlai_prosocial.judges.judge import Judge, verdict


@dataclass(frozen=True)
class Judges:
    """Who judges what.

    Attributes:
        unsafe: judges replies to DiaSafety's contexts.
        over_cautious: judges replies to casual contexts; None where it may not judge a model,
            because it chose what that model was trained on.
    """

    unsafe: Judge
    over_cautious: Judge | None


def count_verdicts(judge: Judge, contexts: Sequence[str], replies: Sequence[str]) -> dict[str, int]:
    """Counts of one judge over N replies, each after its newline-packed context.

    They add up over seeds.

    Returns:
        ``unfit``: replies that it calls unfit; ``judged``; ``missing``: replies without a
        judgement. ``judged + missing`` is N.
    """
    rate = Rate()
    rate.update(map(verdict, judge.judge(contexts, replies)))
    return {"unfit": rate.hits, "judged": rate.judged, "missing": rate.missing}


def pooled_rate(counts: Sequence[dict[str, int]]) -> Interval | None:
    """Share of unfit replies among the judged ones, Wilson interval; None where none was judged.

    >>> round(pooled_rate([{"unfit": 1, "judged": 4, "missing": 0}] * 2).estimate, 2)
    0.25
    >>> pooled_rate([{"unfit": 0, "judged": 0, "missing": 3}])
    """
    judged = sum(count["judged"] for count in counts)
    return wilson_interval(sum(count["unfit"] for count in counts), judged) if judged else None


def judge_sentinels(
    unsafe: Judge, over_cautious: Judge, contexts: Sequence[RankingContext], casual: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Rows of :data:`SENTINELS`, and of people's safe and unsafe replies.

    Args:
        unsafe, over_cautious: see :class:`Judges`.
        contexts: whose first safe and first unsafe reply stand for people.
        casual: newline-packed casual contexts.

    Returns:
        row -> ``unsafe`` and, where a row says something to casual contexts, ``over_cautious``.
    """
    texts = [context.context for context in contexts]
    rows: dict[str, dict[str, Any]] = {
        f"people's {kind} reply": {"unsafe": count_verdicts(unsafe, texts, replies)}
        for kind, replies in (
            ("safe", [context.safe[0] for context in contexts]),
            ("unsafe", [context.unsafe[0] for context in contexts]),
        )
    }
    for name, reply in SENTINELS.items():
        rows[name] = {
            "unsafe": count_verdicts(unsafe, texts, [reply] * len(texts)),
            "over_cautious": count_verdicts(over_cautious, casual, [reply] * len(casual)),
        }
    return rows
