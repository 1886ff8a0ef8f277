"""The replies that a report shows: cut, cleaned, and chosen evenly or by disagreement."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from parlai_prosocial.evaluation.records import Record, is_unfit, judged_by
from parlai_prosocial.judges.judge import short

LONGEST = 600
"""Most characters of a text; the log has the rest."""
LONGEST_CONTEXT = 12
"""Most turns of a context, the last ones."""
Tells = Callable[[str, str, str], bool]
"""``(suite, axis, judge)``: whether anything follows from the judge's verdicts there."""
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def shown_text(text: str) -> str:
    r"""At most :data:`LONGEST` characters, and none that HTML does not know.

    >>> shown_text("a\x00b"), len(shown_text("a" * 10**5)) < 700
    ('a\ufffdb', True)
    """
    cut = _NO_TEXT.sub("\ufffd", text[:LONGEST]).encode("utf-8", "replace").decode("utf-8")
    if len(text) <= LONGEST:
        return cut
    return f"{cut} … [cut here; {len(text):,} characters in the log]"


def by_context(log: Sequence[Record]) -> dict[str, list[list[Record]]]:
    """suite -> for each context the records of all models, in the order of the log."""
    found: dict[str, dict[str, list[Record]]] = {}
    for record in log:
        found.setdefault(record["suite"], {}).setdefault(record["id"], []).append(record)
    return {suite: list(contexts.values()) for suite, contexts in found.items()}


def card(records: Sequence[Record], tells: Tells) -> dict[str, Any]:
    """What is shown of a context and the replies of all models to it.

    Returns:
        ``suite``, ``id``, ``label``, ``kind``, ``source``, ``turns``, ``cut_turns`` (how many
        earlier ones are left out) and ``replies``: ``model``, ``text`` (None where it is missing),
        ``flagged`` (whether any judge calls it unfit) and ``judgements``: ``axis``, ``judge``,
        ``unfit`` (None where it is missing), ``p_unsafe``, ``label`` and ``tells``.
    """
    first = records[0]
    turns = first["context"]
    replies = []
    for record in records:
        judgements = [
            {
                "axis": axis,
                "judge": short(judge),
                "unfit": is_unfit(record, axis, judge),
                "p_unsafe": judgement and judgement["p_unsafe"],
                "label": judgement and shown_text(judgement["label"]),
                "tells": tells(record["suite"], axis, judge),
            }
            for axis, judges in record["judgements"].items()
            for judge, judgement in judges.items()
        ]
        replies.append(
            {
                "model": record["model"],
                "text": None if record["reply"] is None else shown_text(record["reply"]),
                "flagged": any(judgement["unfit"] for judgement in judgements),
                "judgements": judgements,
            }
        )
    return {
        **{key: shown_text(first[key]) for key in ("suite", "id", "label", "kind", "source")},
        "turns": [shown_text(turn) for turn in turns[-LONGEST_CONTEXT:]],
        "cut_turns": max(0, len(turns) - LONGEST_CONTEXT),
        "replies": replies,
    }


def samples(log: Sequence[Record], most: int, tells: Tells) -> tuple[list[dict[str, Any]], int]:
    """Cards of at most ``most`` contexts, evenly spread in each suite, and how many there are."""
    suites = by_context(log)
    each = max(1, most // max(1, len(suites)))
    cards = []
    for contexts in suites.values():
        count = min(each, len(contexts))
        cards += [card(contexts[i * len(contexts) // count], tells) for i in range(count)]
    return cards, sum(map(len, suites.values()))


def disagreements(
    log: Sequence[Record], most: int, tells: Tells
) -> tuple[list[dict[str, Any]], int]:
    """Cards of the contexts where the models' replies are judged differently.

    The most different come first; those where only a judge that tells nothing differs come last.

    Args:
        log: all records.
        most: how many cards.
        tells: as :data:`Tells`.

    Returns:
        The cards, and how many such contexts there are.
    """
    ranked: list[tuple[float, float, int, list[Record]]] = []
    for contexts in by_context(log).values():
        for records in contexts:
            gaps = {True: 0.0, False: 0.0}
            for axis, judge in judged_by([records[0]]):
                gaps[tells(records[0]["suite"], axis, judge)] += _gap(records, axis, judge)
            if any(gaps.values()):
                ranked.append((-gaps[True], -gaps[False], len(ranked), records))
    ranked.sort(key=lambda row: row[:3])
    return [card(records, tells) for *_, records in ranked[:most]], len(ranked)


def _gap(records: Sequence[Record], axis: str, judge: str) -> float:
    """The widest gap of a judge's probabilities, where its verdicts on the replies differ."""
    known = [
        record
        for record in records
        if judge in record["judgements"].get(axis, {}) and is_unfit(record, axis, judge) is not None
    ]
    if len({is_unfit(record, axis, judge) for record in known}) < 2:
        return 0.0
    sides = [record["judgements"][axis][judge]["p_unsafe"] for record in known]
    return max(sides) - min(sides)
