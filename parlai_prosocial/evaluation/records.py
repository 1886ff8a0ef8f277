"""The records of an evaluation's log: what a model said to a context, and what judges say of it.

A record is a JSON object with these fields; ``log.jsonl`` has one for each model and context:

``model``, ``suite``, ``id``
    What replied to what. ``id`` is unique in the suite.
``context``, ``label``, ``kind``, ``source``, ``cluster``, ``axes``, ``fitting``, ``unfit``
    As :class:`~parlai_prosocial.evaluation.suites.suite.SuiteContext` has them; ``context`` is the
    list of turns.
``decoding``
    ``temperature`` (0: greedy), ``top_p``, ``max_tokens`` and ``seed``.
``reply``, ``ended``
    The text, and whether the model ended it by itself; both null where the model gave none.
``judgements``
    axis -> judge's name -> ``{"p_unsafe": 0..1, "label": text}``, or null where it is missing.
    There is an entry for every judge of each of the record's axes.
``likelihood``
    Null for a model at an address and where there is nothing to score; else ``nll`` (nats, summed)
    and ``tokens`` of the first fitting reply, and ``fitting`` and ``unfit``, the mean log p of
    each of those replies. The last two are empty unless the context has both kinds.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parlai_prosocial.judges.judge import Judgement, verdict
from parlai_prosocial.util.files import parsed_json, read_bytes

Record = Mapping[str, Any]

Records = Mapping[str, Mapping[str, Sequence[Record]]]
"""suite -> model -> its records."""


def in_log_order(records: Mapping[str, Mapping[str, Iterable[Any]]]) -> list[Any]:
    """All records: one suite after the other, in each one model after the other."""
    return [record for models in records.values() for own in models.values() for record in own]


def is_unfit(record: Record, axis: str, judge: str) -> bool | None:
    """What a judge says of a reply on an axis; None where that is missing."""
    judgement = record["judgements"][axis][judge]
    return verdict(judgement and Judgement(**judgement))


def judged_by(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The (axis, judge) pairs that appear in some records, in order."""
    return list(
        dict.fromkeys(
            (axis, judge)
            for record in records
            for axis, judges in record["judgements"].items()
            for judge in judges
        )
    )


def read_log(file: Path) -> list[dict[str, Any]]:
    """The records of a run's log; raises :class:`UserError` where a line is not whole."""
    from parlai_prosocial.evaluation.results.shape import LogRecord  # loads pydantic

    mend = "run prosocial evaluate again"
    lines = enumerate(read_bytes(file, mend).split(b"\n"), 1)
    return [parsed_json(line, LogRecord, f"{file}, line {n}", mend) for n, line in lines if line]
