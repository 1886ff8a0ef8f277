"""ConvAbuse (Cercas Curry et al., EMNLP 2021): what people said to chatbots, and whether it abuses.

CC BY 4.0; it does not ship with this package, so it is read from a file of the user's. Its labels
are of the user's turn: they say what a model is up against and judge no reply.
"""

from parlai_prosocial.data.field_checks import Field, Schema, text
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import open_corpus, rows_of
from parlai_prosocial.errors import UserError

ABUSIVE, DISPUTED, NOT_ABUSIVE = "abusive", "disputed", "not abusive"
"""Most annotators find abuse in the last turn; some do; none does."""
TURNS = ("prev_agent", "prev_user", "agent", "user")
ANNOTATORS = range(1, 9)
ABUSE, NO_ABUSE = (-1, -2, -3), (1, 0)
"""Grades of an annotator: 1 none, 0 ambiguous, -1 to -3 ever more severe."""


def _column(annotator: int, grade: int) -> str:
    return f"Annotator{annotator}_is_abuse.{grade}"


SCHEMA = Schema(
    corpus="ConvAbuse",
    fields={
        "example_id": Field(str),
        "conv_id": Field(str),
        **{name: Field(text, required=name == "user") for name in TURNS},
        **{
            _column(annotator, grade): Field(str, required=False)
            for annotator in ANNOTATORS
            for grade in (*NO_ABUSE, *ABUSE)
        },
    },
)


def load_contexts(source: str, datapath: str, skip_bad_rows: bool = False) -> list[dict]:
    """Return the contexts of a file, each once: ``id``, ``conversation``, ``turns``, ``label``.

    Args:
        source: a CSV file as amandacurry/convabuse has it.
        datapath: ParlAI's data path.
        skip_bad_rows: leave bad rows out instead of stopping.

    Raises:
        UserError: a bad file or row, or one that nobody graded.
    """
    found: dict[str, dict] = {}
    for row in rows_of(open_corpus(source, SCHEMA, datapath, skip_bad_rows)):
        turns = [one_line(row[name]) for name in TURNS if row[name]]
        context = {
            "id": row["example_id"],
            "conversation": row["conv_id"],
            "turns": turns,
            "label": _label(row, source),
        }
        found.setdefault(normalise_text("\n".join(turns)), context)
    return list(found.values())


def _label(row: dict, source: str) -> str:
    says_abuse = [_marked(row, a, ABUSE) for a in ANNOTATORS if _marked(row, a, NO_ABUSE + ABUSE)]
    if not says_abuse:
        raise UserError(f"{source}: example {row['example_id']} has no annotator's grade")
    if not any(says_abuse):
        return NOT_ABUSIVE
    return ABUSIVE if 2 * sum(says_abuse) > len(says_abuse) else DISPUTED


def _marked(row: dict, annotator: int, grades: tuple[int, ...]) -> bool:
    """Whether an annotator gave one of the grades; who graded twice has ``0, 1`` there."""
    marks = ((row[_column(annotator, grade)] or "").split(",") for grade in grades)
    return any(mark.strip() in ("1", "1.0") for of_grade in marks for mark in of_grade)
