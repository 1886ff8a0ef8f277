"""A context's replies as records: sampled, scored where pairs are made of them, and judged.

A record is what the journals and stages keep of a reply, plain JSON:

=============  ====================================================================================
``source``     ``sampled``, ``synthetic`` from a base that was told to moralise, or ``labelled``
``reply``      on one line; None where it is missing
``ended``      whether the model ended it by itself; where pairs are made
``log_prob``   mean log p by the model that said it, end-of-turn left out; where pairs are made
``unsafe``     ``[p_unsafe, label]``, with the severity behind where the judge grades; None where
               the judgement is missing; not there where nobody was asked. The label is
               ``labelled`` where people or a language model gave the verdict, and no judge
``preachy``    the same, by the rules; harmless contexts only
``unresponsive``  the same for not answering the turn, where a judge or a label says it
=============  ====================================================================================
"""

from collections.abc import Sequence
from typing import Any

from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.engines.engine import Engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.judges.judge import Judge, Judgement, judge_each

SAMPLED, SYNTHETIC, LABELLED = "sampled", "synthetic", "labelled"
PREACHY = "preachy"

Record = dict[str, Any]


def sample_records(
    engine: Engine, contexts: Sequence[str], source: str, n: int, **decoding: Any
) -> list[list[Record]]:
    """n records without verdicts for each newline-packed context."""
    return [
        [{"source": source, "reply": None if r is None else one_line(r.text)} for r in found]
        for found in engine.sample(contexts, n, **decoding)
    ]


def sample_scored_records(
    engine: TransformersEngine, contexts: Sequence[str], n: int, **decoding: Any
) -> list[list[Record]]:
    """The same with ``ended`` and ``log_prob``; both are False and None where there is no reply.

    log p is that of the text as training reads it, not of the tokens that were drawn.
    """
    sampled = engine.sample(contexts, n, **decoding)
    records: list[list[Record]] = [
        [
            {
                "source": SAMPLED,
                "reply": None if r is None else one_line(r.text),
                "ended": r is not None and r.ended,
                "log_prob": None,
            }
            for r in found
        ]
        for found in sampled
    ]
    given = [[record for record in found if record["reply"]] for found in records]
    scores = engine.mean_log_probs(
        [(c, [r["reply"] for r in found]) for c, found in zip(contexts, given, strict=True)]
    )
    for found, values in zip(given, scores, strict=True):
        for record, value in zip(found, values, strict=True):
            record["log_prob"] = round(value, 5)
    return records


def judge_records(judge: Judge, kind: str, pairs: Sequence[tuple[str, Record]]) -> None:
    """Write a judge's verdicts into the records of (context, record) under ``kind``.

    Records without a reply are not judged.
    """
    pairs = [(context, record) for context, record in pairs if record["reply"]]
    if not pairs:
        return
    verdicts = judge_each(judge, [context for context, _ in pairs], [r["reply"] for _, r in pairs])
    for (_, record), verdict in zip(pairs, verdicts, strict=True):
        record[kind] = None if verdict is None else as_record(verdict)


def as_record(judgement: Judgement) -> list[Any]:
    """``[p_unsafe, label]``, with the severity behind where the judge grades."""
    graded = [] if judgement.severity is None else [judgement.severity]
    return [judgement.p_unsafe, judgement.label, *graded]
