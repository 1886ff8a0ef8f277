"""Many replies labelled in parts, most of them once: drawn from a plain file, and joined again.

A file of replies has a row for each: ``context`` (the turns), ``reply``, ``suite`` and ``model``;
``id`` names the context as a log does, else the context's own text stands for it, and ``ended``,
where given, says whether the model ended the reply by itself. A part is a JSON
Lines file without the models:

``id``, ``axis``, ``suite``, ``context``, ``reply``, ``ended``
    As in a sheet (``sheets.py``).
``pass``
    2 where another part has the same reply as its pass 1; else 1.
``guidelines``
    sha256 of ``GUIDELINES.md`` when the part was drawn.
``label``, ``severity``, ``answers``, ``labeller``
    What :class:`~.sheets.SheetRow` calls ``label_1`` and so on; null until labelled.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from parlai_prosocial.data.field_checks import Field, Schema, one_of, text, turn_list, whole_number
from parlai_prosocial.data.labelled import AXES
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.records import Record
from parlai_prosocial.evaluation.suites.suite import digest
from parlai_prosocial.evaluation.validation.labels.sheets import (
    ANSWERS,
    ENDED,
    SEVERITY,
    SheetRow,
    check_grade,
    each_once,
    yes_or_no,
)

_REPLIES = {
    "id": Field(text, required=False),
    "context": Field(turn_list),
    "reply": Field(text, required=False),
    "suite": Field(text),
    "model": Field(text),
    "ended": ENDED,
}
_PART = {
    "id": Field(text),
    "axis": Field(one_of(AXES)),
    "suite": Field(text),
    "context": Field(turn_list),
    "reply": Field(text, required=False),
    "pass": Field(whole_number(1, 2)),
    "guidelines": Field(text),
    "label": Field(yes_or_no),
    "severity": SEVERITY,
    "answers": ANSWERS,
    "labeller": Field(text),
    "ended": ENDED,
}


def read_replies(file: str | Path, axis: str) -> list[Record]:
    """The replies of a plain file as records that :func:`~.sheets.draw` draws from.

    Rows without a reply are left out: there is nothing to label.

    Raises:
        UserError: a row is bad.
    """
    records: list[Record] = []
    for row in _read(file, Schema("replies to be labelled", _REPLIES)):
        if row["reply"] is not None:
            context = row["context"]
            number = row["id"] or digest("\n".join(context))
            records.append({**row, "id": number, "label": "", "axes": [axis]})
    return records


def make_parts(
    rows: Sequence[SheetRow], parts: int, twice: int, seed: int
) -> list[list[dict[str, Any]]]:
    """Rows dealt into parts of equal size, in random order.

    Args:
        rows: N as :func:`~.sheets.draw` gives them, each in one part.
        parts: how many parts.
        twice: how many of the rows are in a second part too.
        seed: the same seed and rows give the same parts.

    Raises:
        UserError: more rows twice than there are, or a single part to have them in.
    """
    if twice > len(rows):
        raise UserError(f"--twice {twice}: there are {len(rows)} replies; give at most as many")
    if twice and parts < 2:
        raise UserError(f"--twice {twice}: needs --parts 2 or more, or one part would show both")
    generator = Random(seed)
    order = list(rows)
    generator.shuffle(order)
    dealt: list[list[dict[str, Any]]] = [[] for _ in range(parts)]
    for number, row in enumerate([*order, *order[:twice]]):
        again = number >= len(order)
        place = (number - len(order) + 1) if again else number
        dealt[place % parts].append(
            {
                "id": row.id,
                "axis": row.axis,
                "suite": row.suite,
                "context": row.context,
                "reply": row.reply,
                "pass": 1 + again,
                "guidelines": row.guidelines,
                "label": None,
                "severity": None,
                "answers": None,
                "labeller": None,
                "ended": row.ended,
            }
        )
    for part in dealt:
        generator.shuffle(part)
    return dealt


def part_text(part: Sequence[dict[str, Any]]) -> str:
    """The part as a file's text."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)


def join(files: Sequence[str | Path]) -> list[SheetRow]:
    """The labelled parts as rows of one sheet, in the files' order of their first labels.

    Raises:
        UserError: a row is bad or not labelled; a reply has two labels of one pass, a second
            without a first, or another text in two parts.
    """
    passes: dict[str, dict[int, dict]] = {}
    for file in files:
        for row in _read(file, Schema("a part of labels", _PART, _check_part)):
            own = passes.setdefault(row["id"], {})
            if row["pass"] in own:
                raise UserError(
                    f"{file}: id {row['id']} comes twice in pass {row['pass']}; give each part once"
                )
            own[row["pass"]] = row | {"reply": row["reply"] or ""}  # a log has empty ones
    rows = []
    for key, own in passes.items():
        first, second = own.get(1), own.get(2, {})
        if first is None:
            raise UserError(f"id {key}: has a second label and no first; give all parts at once")
        for name in ("axis", "suite", "context", "reply"):
            if second and first[name] != second[name]:
                raise UserError(f"id {key}: two parts differ in its {name}; restore it")
        rows.append(
            SheetRow(
                id=key,
                axis=first["axis"],
                suite=first["suite"],
                context=first["context"],
                reply=first["reply"],
                label_1=first["label"],
                label_2=second.get("label"),
                severity_1=first["severity"],
                severity_2=second.get("severity"),
                answers_1=first["answers"],
                answers_2=second.get("answers"),
                labeller=each_once(first["labeller"], second.get("labeller")),
                guidelines=each_once(first["guidelines"], second.get("guidelines")),
                ended=first["ended"],
            )
        )
    return rows


def _check_part(row: dict) -> None:
    check_grade(row["label"], row["severity"], "severity")


def _read(file: str | Path, schema: Schema) -> list[dict]:
    rows = []
    for place, row in checked_rows(file, schema):
        if not isinstance(row, dict):
            raise UserError(f"{place}: {row}")
        rows.append(row)
    return rows
