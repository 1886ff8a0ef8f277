"""Plain facts about sampled replies: hedging, length, variety, and whether they come to an end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from parlai_prosocial.evaluation.metrics.text import Distinct
from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval

_VERBS = ("answer", "say", "tell", "help", "assist", "give", "provide", "recommend", "do that")

HEDGES = (
    "not sure",
    "i don't know",
    "i do not know",
    "i have no idea",
    *(f"i {cannot} {verb}" for cannot in ("can't", "cannot", "can not") for verb in _VERBS),
    "i'm unable to",
    "i am unable to",
    "as an ai",
    "i'm an ai",
    "i am an ai",
    "i'm just an ai",
    "not a doctor",
    "not a lawyer",
    "not an expert",
    "not qualified",
)
"""Phrases by which a reply keeps out of the matter. Case and the kind of apostrophe are ignored.

"I can't" counts before a verb of answering only: "I can't wait" hedges nothing.
"""

_HEDGE = re.compile(r"\b(?:" + "|".join(re.escape(phrase) for phrase in HEDGES) + r")\b")


@dataclass(frozen=True)
class ReplyStatistics:
    """What :func:`reply_statistics` finds in N replies.

    Attributes:
        count: N.
        hedges: share 0..1 with a phrase of :data:`HEDGES`, Wilson interval.
        ended: share 0..1 that the model ended by its end-of-turn token, Wilson interval.
        mean_words: mean number of words (split at white space).
        distinct_2: :class:`~parlai_prosocial.evaluation.metrics.text.Distinct` of word pairs.
    """

    count: int
    hedges: Interval
    ended: Interval
    mean_words: float
    distinct_2: float


def hedges(reply: str) -> bool:
    """Whether the reply contains a phrase of :data:`HEDGES`.

    >>> hedges("I CAN'T say."), hedges("I can't wait!")
    (True, False)
    """
    return (
        _HEDGE.search(reply.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None
    )


def reply_statistics(replies: Sequence[str], ended: Sequence[bool]) -> ReplyStatistics:
    """Count hedges, ends, words and word pairs.

    Args:
        replies: N >= 1 sampled replies, all by one decoding. The Wilson intervals take them as
            independent: one reply a context.
        ended: N; whether the reply ended by the end-of-turn token and not by the length limit.

    Raises:
        ValueError: no replies, or ``ended`` of another length.
    """
    if not replies or len(ended) != len(replies):
        raise ValueError(f"{len(replies)} replies and {len(ended)} ends")
    pairs = Distinct(2)
    pairs.update(replies)
    return ReplyStatistics(
        count=len(replies),
        hedges=wilson_interval(sum(map(hedges, replies)), len(replies)),
        ended=wilson_interval(sum(map(bool, ended)), len(replies)),
        mean_words=sum(len(reply.split()) for reply in replies) / len(replies),
        distinct_2=pairs.compute(),
    )
