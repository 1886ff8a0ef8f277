"""Contrastive data written for others to train on: TRL's preference data, messages, or our own.

Read back with ``--prosocial-data`` (:mod:`parlai_prosocial.data.shapes`), all three give the same
contexts, replies and negatives; the columns of ours that TRL does not know stand beside its own.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import labelled, own
from parlai_prosocial.data.example import rot_lines
from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.formats import MAX_FILE_SIZE, raw_rows
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import checked_rows, data_files
from parlai_prosocial.errors import UserError
from parlai_prosocial.mining.turns import task_turns
from parlai_prosocial.models.prompt import split_context
from parlai_prosocial.models.roles import Message, with_roles
from parlai_prosocial.util.files import check_jsonl, write_aside

Row = dict[str, Any]
"""A row of :data:`.own.SCHEMA`; columns without a value may be missing."""

_OF_NEGATIVES = [name for name in own.SCHEMA.fields if name.startswith("negative")]
_REPLACED = ("context", "response", "rots", "negatives")


def convert_data(
    source: str,
    target: str,
    out: Path,
    *,
    split: str = "train",
    settings: Sequence[str] = (),
    datapath: str | None = None,
) -> tuple[int, int]:
    """Write a ParlAI task, or a file or folder, as JSON Lines of another format.

    Args:
        source: a path if there is one of that name, else the name of a task.
        target: one of :data:`~.shapes.TARGETS`.
        out: the file.
        split: of the task.
        settings: ``key=value`` of the task's own flags.
        datapath: ParlAI's data path; None for ParlAI's default.

    Returns:
        How many rows were read, and how many written.

    Raises:
        UserError: a bad file or row, no such task, or nothing to write.
    """
    check_jsonl(out)
    if Path(source).expanduser().exists():
        rows = rows_of_files(source)
    else:
        rows = rows_of_task(source, split, find_datapath(datapath), settings)
    found = converted(rows, target)
    if not found:
        raise UserError(f"{source}: none of its {len(rows)} rows has a negative to be rejected")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    write_aside(out, "".join(lines))
    return len(rows), len(found)


def rows_of_task(task: str, split: str, datapath: str, settings: Sequence[str] = ()) -> list[Row]:
    """The turns of any ParlAI task, each with its first label; raises UserError as it does."""
    return [
        {
            "context": list(turn.context),
            "response": one_line(turn.labels[0]),
            "rots": list(turn.rots),
            "safety_label": turn.safety_label,
            "negatives": list(turn.negatives),
            "negative_weights": list(turn.negative_weights),
            "contrast_group": turn.contrast_group,
            "source": turn.source,
            "split": split,
        }
        for turn in task_turns(task, split, datapath, settings)
    ]


def rows_of_files(source: str, max_file_size: int = MAX_FILE_SIZE) -> list[Row]:
    """The rows of a file or folder in any format that own data may have, or of label sheets.

    A label sheet (``context``, ``reply``, ``axis``, ``label_1``) gives a row for each reply that is
    fine, with the replies to the same context that are not as its negatives; replies whose two
    labels differ are left out.

    Raises:
        UserError: a bad file or row.
    """
    first = next((row for file in data_files(source) for _, row in raw_rows(file)), {})
    is_labelled = isinstance(first, Mapping) and "reply" in first and "label_1" in first
    rows = []
    for place, row in checked_rows(
        source, labelled.SCHEMA if is_labelled else own.SCHEMA, max_file_size
    ):
        if isinstance(row, BadRow):
            raise UserError(f"{place}: {row}")
        rows.append(row)
    return _rows_of_labels(rows) if is_labelled else rows


def _rows_of_labels(found: Sequence[Row]) -> list[Row]:
    contexts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        if labelled.is_agreed(row):
            contexts[row["axis"], normalise_text(" ".join(row["context"]))].append(row)
    rows = []
    for (axis, _), same in contexts.items():
        unfit = {normalise_text(row["reply"]): row["reply"] for row in same if row["label_1"]}
        fitting = {normalise_text(row["reply"]): row["reply"] for row in same if not row["label_1"]}
        rows += [
            {
                "context": same[0]["context"],
                "response": reply,
                "negatives": [other for key, other in unfit.items() if key != form],
                "source": f"labels:{axis}",
            }
            for form, reply in fitting.items()
        ]
    return rows


def converted(rows: Sequence[Row], target: str) -> list[Row]:
    """Rows of our own in one of :data:`~parlai_prosocial.data.shapes.TARGETS`.

    ``preference`` gives a row a negative, and none for a row without; ``own`` gathers rows that
    follow one another and differ in their negatives only, which a preference file was taken
    apart into.
    """
    full = [_full(row) for row in rows]
    if target == "own":
        return list(_gathered(full))
    if target == "messages":
        dialogues = ([*map(_untrained, _prompt(row)), _reply(row["response"])] for row in full)
        return [
            {"messages": said, **_beside(row)} for said, row in zip(dialogues, full, strict=True)
        ]
    return [one for row in full for one in _preferences(row)]


def _full(row: Row) -> Row:
    """Without the columns that hold nothing."""
    return {name: value for name, value in row.items() if value not in (None, "", [])}


def _beside(row: Row) -> Row:
    return {n: v for n, v in row.items() if n not in _REPLACED and n not in _OF_NEGATIVES}


def _prompt(row: Row) -> list[Message]:
    turns, known = split_context("\n".join(one_line(turn) for turn in row["context"]))
    lines = [*known, *rot_lines([one_line(rot) for rot in row.get("rots", ())])]
    system = [{"role": "system", "content": "\n".join(lines)}] if lines else []
    return [*system, *with_roles(turns)]


def _reply(reply: str) -> Message:
    return {"role": "assistant", "content": one_line(reply)}


def _untrained(message: Message) -> dict[str, Any]:
    """An earlier reply is in a row of its own, or nobody called it fitting."""
    return {**message, "weight": 0} if message["role"] == "assistant" else {**message}


def _preferences(row: Row) -> Iterator[Row]:
    for index, negative in enumerate(row.get("negatives", ())):
        yield {
            "prompt": _prompt(row),
            "chosen": [_reply(row["response"])],
            "rejected": [_reply(negative)],
            **{
                name: [row[name][index]]
                for name in _OF_NEGATIVES
                if name != "negatives" and name in row
            },
            **_beside(row),
        }


def _gathered(rows: Sequence[Row]) -> Iterator[Row]:
    def apart(row: Row) -> str:
        return repr(sorted((n, v) for n, v in row.items() if n not in _OF_NEGATIVES)) + repr(
            [name for name in _OF_NEGATIVES if name in row]
        )

    for _, same in groupby(rows, apart):
        first, *others = same
        for row in others:
            first = {**first, **{n: [*first[n], *row[n]] for n in _OF_NEGATIVES if n in first}}
        yield first
