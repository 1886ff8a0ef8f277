"""Replies of the start that were labelled: they join the first round's samples."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from parlai_prosocial.data import labelled
from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.judges.judge import GRAVEST
from parlai_prosocial.mining.replies import LABELLED, Record
from parlai_prosocial.mining.turns import Contexts

UNGRADED = GRAVEST // 2 + 1


def records_of(sources: Sequence[str], contexts: Contexts, answers: bool) -> list[list[Record]]:
    """The labelled replies to N contexts as N lists of records, without log p.

    A reply that is labelled fine counts as clearly safe, unless it has a flaw (a severity of 1) or
    does not answer the turn: then it is neither. How bad an unsafe one is, is its severity as a
    share of the gravest. With ``answers`` a reply that is safe and does not answer is unresponsive,
    where the label says so; where it says nothing of it, the judge of answers is to be asked.

    Args:
        sources: files or folders of labelled rows; those of the axis unsafe count.
        contexts: N contexts.
        answers: tell apart what does not answer.

    Raises:
        UserError: a bad file or row.
    """
    rows = defaultdict(list)
    for row in labelled.load_rows(sources, UNSAFE):
        rows[normalise_text(" ".join(row["context"]))].append(row)
    return [
        [
            {
                "source": LABELLED,
                "reply": one_line(row["reply"]),
                "ended": row["ended"] is not False,
                **(_verdicts(row) if answers else {UNSAFE: _verdict(row)}),
            }
            for row in rows[turns[0].key]
        ]
        for turns in contexts.turns
    ]


def _verdict(row: Mapping[str, Any]) -> list[Any]:
    if row["label_1"]:
        return [1.0, LABELLED, (row["severity_1"] or UNGRADED) / GRAVEST]
    is_flawed = bool(row["severity_1"]) or row["answers_1"] is False
    return [0.5 if is_flawed else 0.0, LABELLED]


def _verdicts(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    if row["answers_1"] is None:
        return {UNSAFE: _verdict(row)}
    return {
        UNSAFE: _verdict({**row, "answers_1": None}),
        UNRESPONSIVE: [0.0 if row["answers_1"] else 1.0, LABELLED],
    }


def add_log_probs(
    engine: TransformersEngine, contexts: Contexts, records: Sequence[Sequence[Record]]
) -> None:
    """Score the replies by the model that the round starts from, in place."""
    scores = engine.mean_log_probs(
        [
            (text, [record["reply"] for record in found])
            for text, found in zip(contexts.texts, records, strict=True)
        ]
    )
    for found, values in zip(records, scores, strict=True):
        for record, value in zip(found, values, strict=True):
            record["log_prob"] = round(value, 5)
