"""The replies that a report shows: cut, cleaned, and chosen evenly or by disagreement."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from parlai_prosocial.evaluation.records import Record, is_unfit, judged_by
from parlai_prosocial.judges.judge import short

LONGEST = 600
"""Most characters of a text; the log has the rest."""
LONGEST_CONTEXT = 12
"""Most turns of a context, the last ones."""
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


def card(records: Sequence[Record]) -> dict[str, Any]:
    """What is shown of a context and the replies of one model or more to it.

    Returns:
        ``suite``, ``id``, ``label``, ``kind``, ``source``, ``turns``, ``cut_turns`` (how many
        earlier ones are left out), ``flagged`` (whether any judge calls any reply unfit),
        ``summary`` (the verdicts in a few words) and ``replies``: ``model``, ``text`` (None where
        it is missing) and ``judgements``: ``axis``, ``judge``, ``unfit`` (None where it is
        missing), ``p_unsafe`` and ``label``.
    """
    first = records[0]
    turns = first["context"]
    replies = [
        {
            "model": record["model"],
            "text": None if record["reply"] is None else shown_text(record["reply"]),
            "judgements": [
                {
                    "axis": axis,
                    "judge": short(judge),
                    "unfit": is_unfit(record, axis, judge),
                    "p_unsafe": judgement and judgement["p_unsafe"],
                    "label": judgement and shown_text(judgement["label"]),
                }
                for axis, judges in record["judgements"].items()
                for judge, judgement in judges.items()
            ],
        }
        for record in records
    ]
    return {
        **{key: shown_text(first[key]) for key in ("suite", "id", "label", "kind", "source")},
        "turns": [shown_text(turn) for turn in turns[-LONGEST_CONTEXT:]],
        "cut_turns": max(0, len(turns) - LONGEST_CONTEXT),
        "flagged": any(j["unfit"] for reply in replies for j in reply["judgements"]),
        "summary": [f"{reply['model']}: {_in_words(reply)}" for reply in replies],
        "replies": replies,
    }


def samples(log: Sequence[Record], most: int) -> tuple[list[dict[str, Any]], int]:
    """Cards of at most ``most`` contexts, evenly spread in each suite, and how many there are."""
    suites = by_context(log)
    each = max(1, most // max(1, len(suites)))
    cards = []
    for contexts in suites.values():
        count = min(each, len(contexts))
        cards += [card(contexts[i * len(contexts) // count]) for i in range(count)]
    return cards, sum(map(len, suites.values()))


def disagreements(
    log: Sequence[Record], model: str, reference: str, most: int
) -> tuple[list[dict[str, Any]], int]:
    """Cards of the contexts whose two replies are judged differently, the most different first.

    Args:
        log: all records.
        model, reference: whose replies are compared.
        most: how many cards.

    Returns:
        The cards, and how many such contexts there are.
    """
    ranked: list[tuple[float, int, dict[str, Record]]] = []
    for contexts in by_context(log).values():
        for records in contexts:
            own = {record["model"]: record for record in records}
            if model in own and reference in own:
                gap = _gap(own[model], own[reference])
                if gap:
                    ranked.append((-gap, len(ranked), own))
    ranked.sort(key=lambda row: row[:2])
    return [card([own[model], own[reference]]) for _, _, own in ranked[:most]], len(ranked)


def _gap(first: Record, second: Record) -> float:
    """Summed gap of the probabilities of all judges whose verdicts differ."""
    gap = 0.0
    for axis, judge in judged_by([first]):
        if judge not in second["judgements"].get(axis, {}):
            continue
        verdicts = is_unfit(first, axis, judge), is_unfit(second, axis, judge)
        if None not in verdicts and verdicts[0] != verdicts[1]:
            sides = [record["judgements"][axis][judge]["p_unsafe"] for record in (first, second)]
            gap += abs(sides[0] - sides[1])
    return gap


def _in_words(reply: Mapping[str, Any]) -> str:
    """The verdicts on a reply: the axes that some judge finds unfit, else what is known."""
    if reply["text"] is None:
        return "no reply"
    unfit = dict.fromkeys(j["axis"] for j in reply["judgements"] if j["unfit"])
    if unfit:
        return ", ".join(unfit)
    if any(j["unfit"] is None for j in reply["judgements"]):
        return "judgement missing"
    return "nothing found" if reply["judgements"] else "not judged"
