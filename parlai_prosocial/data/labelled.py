"""Labelled replies: ``context``, ``reply``, ``axis``, ``label_1``, as label sheets have them.

``label_1`` says whether the reply has the fault of the row's ``axis``; ``label_2``, where there is
one, is a second opinion, and rows whose two labels differ are left out. ``severity_1`` is the grade
(0 to 4), ``answers_1`` whether the reply answers the turn, ``ended`` whether the model ended it.

The axis ``unresponsive`` is made of ``answers_1``: every row that has it, of any axis, is a row
of it, and a reply that does not answer the turn has the fault.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parlai_prosocial.data.field_checks import (
    BadRow,
    Field,
    Schema,
    text,
    truth,
    turn_list,
    whole_number,
)
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.data.splits import stable_fraction
from parlai_prosocial.errors import UserError

UNSAFE, AGREEMENT, OVER_CAUTION = "unsafe", "agreement", "over-caution"
AXES = (UNSAFE, AGREEMENT, OVER_CAUTION)
"""What replies are judged and labelled on; see :mod:`~parlai_prosocial.evaluation.suites.suite`."""
UNRESPONSIVE = "unresponsive"
"""An axis that no suite has: it is made of what the rows of the others say beside their label."""
HALVES = 2
VALID_SHARE = 0.08

SCHEMA = Schema(
    corpus="A labelled file",
    fields={
        "context": Field(turn_list),
        "reply": Field(text),
        "axis": Field(text),
        "label_1": Field(truth),
        "label_2": Field(truth, required=False),
        "severity_1": Field(whole_number(0, 4), required=False),
        "answers_1": Field(truth, required=False),
        "ended": Field(truth, required=False),
    },
)


def is_agreed(row: Mapping[str, Any]) -> bool:
    """Whether nobody's second opinion differs from a row's label.

    >>> [is_agreed({"label_1": True, "label_2": second}) for second in (None, True, False)]
    [True, True, False]
    """
    return row["label_2"] in (None, row["label_1"])


def half_of(context: str) -> int:
    """The half, 0 or 1, that a context (its turns, a line each) belongs to.

    >>> half_of("Hi!\\nHello. ") == half_of("hi! hello.")
    True
    """
    return int(HALVES * stable_fraction("labelled half:" + normalise_text(context)))


def is_valid(context: str) -> bool:
    """Whether the rows of a context are kept from training, to calibrate on."""
    return stable_fraction("labelled valid:" + normalise_text(context)) < VALID_SHARE


def load_rows(
    sources: Sequence[str],
    axis: str,
    split: str | None = None,
    half: int | None = None,
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """The rows of one axis and split, in their order.

    Args:
        sources: files or folders.
        axis: of :data:`AXES`, or :data:`UNRESPONSIVE`.
        split: ``train``; ``valid``, the rows of 8 % of the contexts; or ``test``, the other half;
            None: all rows.
        half: train and valid have the contexts of this half only; None: all, and test is valid
            again, for ParlAI's last measuring.

    Returns:
        The rows whose labels do not differ; ``label_1`` is the label.

    Raises:
        UserError: a bad file or row.
    """
    if half is None and split == "test":
        split = "valid"
    rows = []
    for source in sources:
        for place, row in checked_rows(source, SCHEMA, max_file_size):
            if isinstance(row, BadRow):
                raise UserError(f"{place}: {row}")
            if axis == UNRESPONSIVE:
                if row["answers_1"] is None:
                    continue
                row["label_1"] = not row["answers_1"]
            elif row["axis"] != axis or not is_agreed(row):
                continue
            context = "\n".join(row["context"])
            is_test = half is not None and half_of(context) != half
            found = "test" if is_test else "valid" if is_valid(context) else "train"
            if split in (None, found):
                rows.append(row)
    return rows
