"""The Moral Integrity Corpus (Ziems et al., ACL 2022): rules of thumb for chatbots' answers.

It stands behind a data-use agreement: it is never fetched unless the user names it, and never
shipped. The bundled sample is in its format and was written for this package.
"""

from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.data.example import ContrastiveExample, rot_lines
from parlai_prosocial.data.field_checks import Field, Schema, one_of, several_of, text, whole_number
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import HubTerms, bundled, empty_split, open_corpus, rows_of
from parlai_prosocial.data.splits import stable_split
from parlai_prosocial.data.weights import social_weights
from parlai_prosocial.errors import UserError

ALIGNMENTS = ["disagrees", "neutral", "agrees"]
"""What ``A_agrees`` 0, 1 and 2 say about the answer and the rule of thumb."""
CONSENSUS = ["nobody", "rare", "controversial", "most", "all"]
"""What ``rot-agree`` 1 to 5 say about how many people would agree with the rule."""
SEVERITIES = ["fine", "unwise", "bad", "horrible", "worst"]
"""What ``violation-severity`` 1 to 5 say about breaking the rule."""
FOUNDATIONS = ["care", "fairness", "liberty", "loyalty", "authority", "sanctity"]
ATTRIBUTES = {
    "alignment": ALIGNMENTS,
    "severity": SEVERITIES,
    "consensus": CONSENSUS,
    "foundations": FOUNDATIONS,
}
"""What annotators said of an answer or its rule, and the classes of each."""
_DISAGREES, _AGREES = 0, 2
_MOST_AGREE = 4

SCHEMA = Schema(
    corpus="MIC",
    fields={
        "Q": Field(text),
        "A": Field(text),
        "rot": Field(text),
        "A_agrees": Field(whole_number(0, 2)),
        "rot-agree": Field(whole_number(1, 5, missing=-1)),
        "violation-severity": Field(whole_number(1, 5, missing=-1)),
        "moral": Field(several_of(FOUNDATIONS, "|"), required=False),
        # Absent from the CSV in the authors' GitHub repository.
        "worker_answer": Field(text, required=False),
        "split": Field(one_of(["train", "dev", "valid", "validation", "test"]), required=False),
    },
)

TERMS = HubTerms(
    licence="behind a data-use agreement",
    mend="accept the agreement at https://github.com/SALT-NLP/mic, download MIC.csv, and name that "
    "file with --mic-data",
)


def load_rows(
    datapath: str,
    split: str,
    source: str | None = None,
    sample: bool = False,
    skip_bad_rows: bool = False,
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """Return the annotations of one split, with texts on one line each.

    Args:
        datapath: ParlAI's data path; ``mic/MIC.csv`` in it is used if there is no ``source``.
        split: ``train``, ``valid`` or ``test``. A file without the column ``split`` is cut by a
            hash of the question.
        source: a file or folder, or the name on the hub of a copy that holds data files (the
            authors' own there is a script, and scripts are not run).
        sample: use the bundled sample instead.
        skip_bad_rows: leave bad rows out instead of stopping.
        max_file_size: how many bytes each file may hold, unpacked.

    Raises:
        UserError: no data, a bad file or row, or a split without rows.
    """
    by_hand = Path(datapath) / "mic" / "MIC.csv"
    if sample:
        source = str(bundled("mic_sample.csv"))
    elif source is None:
        if not by_hand.is_file():
            raise UserError(
                "MIC stands behind a data-use agreement and is never fetched by itself: accept it "
                "at https://github.com/SALT-NLP/mic, download "
                f"MIC.csv, and put it at {by_hand} or name it with --mic-data; or try the bundled "
                "sample with --prosocial-sample true"
            )
        source = str(by_hand)
    rows = rows_of(open_corpus(source, SCHEMA, datapath, skip_bad_rows, TERMS, max_file_size))
    for row in rows:
        row["split"] = row["split"] or stable_split(f"mic:{normalise_text(row['Q'])}")
        for name in ("Q", "A", "rot", "worker_answer"):
            row[name] = row[name] and one_line(row[name])
    found = [row for row in rows if row["split"] == split]
    if not found:
        raise empty_split("MIC", split, {row["split"] for row in rows})
    return found


def fitting_answer(row: dict) -> str | None:
    """Return the answer that goes with the row's rule of thumb, or None if there is none.

    The annotator's own answer, written to follow the rule; else the chatbot's, where it agrees
    with the rule and most people agree with the rule too.
    """
    if row["worker_answer"]:
        return row["worker_answer"]
    widely_held = (row["rot-agree"] or 0) >= _MOST_AGREE
    return row["A"] if row["A_agrees"] == _AGREES and widely_held else None


def contrastive_examples(rows: Sequence[dict]) -> list[ContrastiveExample]:
    """Return one example per annotation that has a fitting answer (:func:`fitting_answer`).

    The chatbot's answer is its negative where it disagrees with **that row's** rule of thumb:
    agreement holds for one rule only. A negative weighs severity x consensus, scaled over
    ``rows`` by :func:`~.weights.social_weights`; 1 where either is missing.
    """
    usable = [(row, answer) for row in rows if (answer := fitting_answer(row))]
    contrasted = [
        row["A_agrees"] == _DISAGREES and normalise_text(row["A"]) != normalise_text(answer)
        for row, answer in usable
    ]
    severities = [
        row["violation-severity"] * row["rot-agree"]
        if row["violation-severity"] and row["rot-agree"]
        else None
        for (row, _), has_negative in zip(usable, contrasted, strict=True)
        if has_negative
    ]
    weights = iter(social_weights(severities))
    return [
        ContrastiveExample(
            context=[row["Q"]],
            response=answer,
            rots=[row["rot"]],
            negatives=[row["A"]] if has_negative else [],
            negative_weights=[next(weights)] if has_negative else [],
            contrast_group=f"mic:{normalise_text(row['Q'])}",
            source="mic",
        )
        for (row, answer), has_negative in zip(usable, contrasted, strict=True)
    ]


def attribute_question(row: dict, attribute: str) -> tuple[list[str], list[str]] | None:
    """Return the lines that ask for an attribute of a row, and its right classes.

    The lines are the inputs of the corpus's authors: the rule of thumb alone, for the alignment
    question and answer too. None where nobody gave the row that attribute.
    """
    rule = rot_lines([row["rot"]])
    if attribute == "alignment":
        return [*rule, row["Q"], row["A"]], [ALIGNMENTS[row["A_agrees"]]]
    if attribute == "foundations":
        return (rule, row["moral"]) if row["moral"] else None
    point = row["violation-severity" if attribute == "severity" else "rot-agree"]
    return None if point is None else (rule, [ATTRIBUTES[attribute][point - 1]])
