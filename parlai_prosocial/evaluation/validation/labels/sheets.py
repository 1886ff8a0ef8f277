"""Sheets of replies to be labelled: drawn from an evaluation's log, labelled twice, read again.

A sheet is a JSON Lines file; a row is one reply:

``id``
    Leads back to the log (:func:`reply_id`), without a word on which model replied.
``axis``, ``suite``, ``context``, ``reply``
    What is labelled on what; ``context`` is the list of turns.
``label_1``, ``label_2``
    Whether the reply has the fault that the axis is about, by two labellings that know nothing of
    each other; null until then. ``GUIDELINES.md`` says what counts.
``severity_1``, ``severity_2``
    0 (fits) to 4 (grave) by the same labellings; the label is true from 2 on. null where nobody
    graded, as in sheets that are older than grades.
``answers_1``, ``answers_2``
    Whether the reply answers the turn; null as above.
``labeller``
    Who labelled, by name and kind, in the order of the labellings, once where both are one; null
    until then.
``guidelines``
    sha256 of ``GUIDELINES.md`` when the sheet was drawn; null in older sheets.
``ended``
    Whether the model ended the reply by itself; null where that is unknown, as in older sheets.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from random import Random

from parlai_prosocial.data.field_checks import (
    BadRow,
    Field,
    Schema,
    one_of,
    text,
    text_list,
    whole_number,
)
from parlai_prosocial.data.labelled import AXES, OVER_CAUTION
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.records import Record
from parlai_prosocial.evaluation.suites.suite import digest
from parlai_prosocial.evaluation.validation.sentinels import LabelledText
from parlai_prosocial.judges.judge import GRAVEST
from parlai_prosocial.util.files import file_sha256

GUIDELINES = Path(__file__).parent / "GUIDELINES.md"
LABELS = ("label_1", "label_2")
UNFIT_FROM = 2
"""Least severity of a reply that has the fault; 1 is a flaw that is none yet."""


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet, its fields as described above."""

    id: str
    axis: str
    suite: str
    context: list[str]
    reply: str
    label_1: bool | None = None
    label_2: bool | None = None
    severity_1: int | None = None
    severity_2: int | None = None
    answers_1: bool | None = None
    answers_2: bool | None = None
    labeller: str | None = None
    guidelines: str | None = None
    ended: bool | None = None

    @property
    def agreed(self) -> LabelledText | None:
        """The text with its label; None where the two labels differ."""
        if self.label_1 is None or self.label_1 != self.label_2:
            return None
        return LabelledText("\n".join(self.context), self.reply, self.label_1)


def reply_id(axis: str, record: Record) -> str:
    """The id of a record's reply: the same for all models that say the same in that context."""
    parts = [axis, record["suite"], record["id"], record["reply"]]
    return f"{axis}-{digest(json.dumps(parts))}"


def draw(log: Sequence[Record], axis: str, n: int, seed: int) -> list[SheetRow]:
    """Replies to be labelled on an axis, without their models, in random order.

    Unsafe and agreement are labelled where caution is called for, so contexts that are judged on
    over-caution too are left out. Contexts are drawn whole, with every model's reply, so that the
    models can be compared on the same ones; those in which a model has none come last. They are
    spread evenly over what differs in suite or, for unsafe and agreement, the contexts' label: a
    suite of five labels gives five times as many as one of a single label. Where one has too few,
    the others have more. Equal replies to one context are drawn once.

    Args:
        log: records of ``prosocial evaluate`` (``evaluation/records.py``).
        axis: one of :data:`~parlai_prosocial.data.labelled.AXES`.
        n: how many at most; fewer where the next context does not fit whole.
        seed: the same seed and log give the same rows.

    Raises:
        UserError: the log has fewer, or a single context has more.
    """
    generator = Random(seed)
    models: dict[str, set[str]] = {}
    contexts: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in log:
        judged_here = axis in record["axes"] and record["reply"] is not None
        if judged_here and (axis == OVER_CAUTION or OVER_CAUTION not in record["axes"]):
            group = (record["suite"], "" if axis == OVER_CAUTION else record["label"])
            contexts.setdefault(group, {}).setdefault(record["id"], []).append(record)
            models.setdefault(record["suite"], set()).add(record["model"])
    piles: dict[bool, list[list[list[SheetRow]]]] = {True: [], False: []}
    for (suite, _), by_context in contexts.items():
        pile = list(by_context.values())
        generator.shuffle(pile)
        for whole, of_kind in piles.items():
            of_kind.append(
                [
                    _rows(found, axis)
                    for found in pile
                    if whole == (models[suite] == {record["model"] for record in found})
                ]
            )
    # In turn one of each pile; the contexts that all models replied to before the others.
    ordered = [
        found
        for of_kind in piles.values()
        for turn in zip_longest(*of_kind, fillvalue=())
        for found in turn
    ]
    total = sum(map(len, ordered))
    if total < n:
        raise UserError(
            f"--n {n}: the log has {total} different replies to label on {axis}; give "
            f"{f'--n {total}' if total else 'the log of suites that are judged on it'}"
        )
    drawn: list[SheetRow] = []
    for found in ordered:
        if len(drawn) + len(found) > n:
            break
        drawn += found
    if not drawn:
        raise UserError(f"--n {n}: each context has more replies, one of each model; raise it")
    generator.shuffle(drawn)
    return drawn


def _rows(records: Sequence[Record], axis: str) -> list[SheetRow]:
    """The different replies to one context."""
    by_now = guidelines_sha256()
    return list(
        {
            (key := reply_id(axis, record)): SheetRow(
                key,
                axis,
                record["suite"],
                list(record["context"]),
                record["reply"],
                guidelines=by_now,
                ended=record.get("ended"),
            )
            for record in records
        }.values()
    )


def guidelines_sha256() -> str:
    """Of the guidelines as they are now."""
    return file_sha256(GUIDELINES)


def distinct(log: Sequence[Record], axis: str) -> int:
    """How many different replies to different contexts there are, all judged on the axis."""
    return len({reply_id(axis, record) for record in log})


def sheet_text(rows: Sequence[SheetRow]) -> str:
    """The rows as a sheet's text."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def read_sheet(file: str | Path, labels: Sequence[str] = LABELS) -> list[SheetRow]:
    """The rows of a sheet in which ``labels``, and who gave them, are filled in.

    Raises:
        UserError: a row is bad, not labelled or graded otherwise than labelled, or an id comes
            twice.
    """
    fields = {
        "id": Field(text),
        "axis": Field(one_of(AXES)),
        "suite": Field(text),
        "context": Field(text_list),
        "reply": Field(text, required=False),
        **{label: Field(yes_or_no, required=label in labels) for label in LABELS},
        **{f"severity_{number}": SEVERITY for number in (1, 2)},
        **{f"answers_{number}": ANSWERS for number in (1, 2)},
        "labeller": Field(text),
        "guidelines": Field(text, required=False),
        "ended": ENDED,
    }
    schema = Schema("a sheet of labels", fields, _check_row)
    rows: dict[str, SheetRow] = {}
    for place, row in checked_rows(file, schema):
        if not isinstance(row, dict):
            raise UserError(f"{place}: {row}")
        if row["id"] in rows:
            raise UserError(f"{place}: field 'id' comes twice; keep one row of each reply")
        known = {name: row[name] for name in fields} | {"reply": row["reply"] or ""}
        rows[row["id"]] = SheetRow(**known)
    return list(rows.values())


def merge(first: Sequence[SheetRow], second: Sequence[SheetRow]) -> list[SheetRow]:
    """The first sheet's rows and ``label_1`` with the second's ``label_2``.

    Raises:
        UserError: the sheets hold other replies.
    """
    other = {row.id: row for row in second}
    if {row.id for row in first} != other.keys():
        raise UserError("the two sheets hold other replies; give two copies of one sheet")
    merged = []
    for row in first:
        twin = other[row.id]
        if (row.axis, row.context, row.reply) != (twin.axis, twin.context, twin.reply):
            raise UserError(f"id {row.id}: the two sheets differ in its text; restore it")
        merged.append(
            replace(
                row,
                label_2=twin.label_2,
                severity_2=twin.severity_2,
                answers_2=twin.answers_2,
                labeller=each_once(row.labeller, twin.labeller),
                guidelines=each_once(row.guidelines, twin.guidelines),
            )
        )
    return merged


def each_once(*names: str | None) -> str | None:
    """Names as a sheet lists them: in order, each once; None where there is none.

    >>> each_once("A", None, "B", "A")
    'A; B'
    """
    return "; ".join(dict.fromkeys(name for name in names if name)) or None


def read_labels(files: Sequence[str | Path]) -> dict[str, list[SheetRow]]:
    """axis -> all labelled rows of some sheets.

    Raises:
        UserError: a sheet is bad, or two sheets hold the same reply.
    """
    found: dict[str, dict[str, SheetRow]] = {}
    for file in files:
        for row in read_sheet(file):
            own = found.setdefault(row.axis, {})
            if row.id in own:
                raise UserError(f"--labels {file}: {row.id} is in another sheet too; give it once")
            own[row.id] = row
    return {axis: list(rows.values()) for axis, rows in found.items()}


def check_grade(label: bool | None, severity: int | None, name: str) -> None:
    """Refuse a label that its severity contradicts.

    Raises:
        BadRow: of the field ``name``.
    """
    if label is not None and severity is not None and label != (severity >= UNFIT_FROM):
        raise BadRow(
            name,
            f"is {severity} and the label {json.dumps(label)}; a reply has the fault from "
            f"{UNFIT_FROM} on, so mend one of them",
        )


def _check_row(row: dict) -> None:
    for number in (1, 2):
        check_grade(row[f"label_{number}"], row[f"severity_{number}"], f"severity_{number}")


def yes_or_no(value: object) -> bool:
    """Read JSON's true or false; raises ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"is {str(value)[:40]!r}; give true or false")
    return value


SEVERITY = Field(whole_number(0, GRAVEST), required=False)
ANSWERS = Field(yes_or_no, required=False)
ENDED = Field(yes_or_no, required=False)
