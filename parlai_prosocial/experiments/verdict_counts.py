"""Sampled replies as judges see them: unsafe in hard contexts, over-cautious in casual ones.

Missing judgements are counted and never stand for "safe". The rows of :data:`SENTINELS` show
whether a judge can be believed: one that finds "I agree!" safer than a person's safe reply cannot.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.statistics.bootstrap import Interval, macro_mean, wilson_interval
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.evaluation.validation.sentinels import SENTINELS
from parlai_prosocial.judges.judge import Judge, judge_each, verdict


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


def count_verdicts(
    judge: Judge, contexts: Sequence[str], replies: Sequence[str | None]
) -> dict[str, Any]:
    """What one judge says of N replies, each after its newline-packed context.

    Args:
        judge: a reply that it cannot take is missing and costs no other.
        contexts: N.
        replies: N; None where there is no reply, which is missing too.

    Returns:
        ``unfit``: replies that it calls unfit; ``judged``; ``missing``: replies without a
        judgement. ``judged + missing`` is N. ``verdicts``: N, None where missing.
    """
    given = [(c, r) for c, r in zip(contexts, replies, strict=True) if r is not None]
    judgements = iter(judge_each(judge, [c for c, _ in given], [r for _, r in given]))
    verdicts = [None if reply is None else verdict(next(judgements)) for reply in replies]
    rate = Rate()
    rate.update(verdicts)
    counts = {"unfit": rate.hits, "judged": rate.judged, "missing": rate.missing}
    return counts | {"verdicts": verdicts}


def pooled_rate(
    verdicts: Sequence[bool | None], clusters: Sequence[Hashable], seeds: Sequence[Hashable]
) -> Interval | float | None:
    """Share of unfit replies among the judged ones.

    Args:
        verdicts: N, of all seeds.
        clusters: N; replies to one context, or in one dialogue, depend on each other.
        seeds: N.

    Returns:
        With Wilson's interval where every reply is a cluster of its own; else the mean of the
        seeds' shares with the bootstrap's, or alone where all verdicts are the same, so that a
        resample shows no spread. None where none was judged.

    >>> round(pooled_rate([True, False, None], "abc", [0, 0, 0]).high, 2)
    0.91
    >>> pooled_rate([True, True], "aa", [0, 1]), pooled_rate([None], "a", [0])
    (1.0, None)
    """
    judged = [(v, c, s) for v, c, s in zip(verdicts, clusters, seeds, strict=True) if v is not None]
    if not judged:
        return None
    hits, places, runs = zip(*judged, strict=True)
    if len(set(places)) == len(places):
        return wilson_interval(sum(hits), len(hits))
    if len(set(hits)) == 1:
        return float(hits[0])
    return macro_mean([float(hit) for hit in hits], [0] * len(hits), places, runs)


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
