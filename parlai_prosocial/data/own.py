"""The user's own contrastive data, in one format, given with ``--prosocial-data``.

CSV, JSON, JSON Lines or Parquet, with these columns (in CSV a list is written as a JSON list):

================  ========  =====================================================================
column            needed    value
================  ========  =====================================================================
context           yes       the turns so far, a list of texts or one text with a turn a line; the
                            last turn is the user's
response          yes       the fitting reply
rots              no        rules of thumb, a list of texts
safety_label      no        one of ProsocialDialog's five labels, ``__casual__`` and so on
negatives         no        replies that don't fit, a list of texts
negative_weights  no        how bad each is, a list of numbers above 0; only their ratios count
negative_judges   no        who called each unfit, a list of names; ``prosocial mine`` writes it
negative_sources  no        where each is from, a list; ``prosocial mine``: sampled or synthetic
reference_log_prob, negative_reference_log_probs
                  no        mean log p of the response, and a list of those of the negatives, by the
                            model that training starts from: over the reply's tokens, end-of-turn
                            left out; for ``--contrast-reference init``, which scores replies
                            without one itself
contrast_group    no        rows of equal group are never each other's negatives; the context
                            when empty
source            no        a name; ``own`` when empty
split             no        ``train``, ``valid`` or ``test``
================  ========  =====================================================================

In a folder, files whose names begin with train, valid (or validation, val, dev) or test are those
splits. Rows without a split are cut 80/10/10 by a hash of their group, or of their first turn. Rows
of other formats, preference data and messages, are told by their columns (:mod:`.shapes`).
"""

from collections.abc import Sequence

from parlai_prosocial.data.example import SAFETY_LABELS, ContrastiveExample
from parlai_prosocial.data.field_checks import (
    BadRow,
    Field,
    Schema,
    log_prob,
    log_prob_list,
    one_of,
    text,
    text_list,
    turn_list,
    weight_list,
)
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import empty_split, open_corpus, rows_of
from parlai_prosocial.data.shapes import as_own
from parlai_prosocial.data.splits import stable_split
from parlai_prosocial.data.weights import social_weights


def _check_row(row: dict) -> None:
    negatives, weights = row["negatives"] or [], row["negative_weights"]
    if weights is not None and len(weights) != len(negatives):
        reason = f"has {len(weights)} weights for {len(negatives)} negatives; give one for each"
        raise BadRow("negative_weights", reason)
    kinds = {
        "negative_judges": "names",
        "negative_sources": "names",
        "negative_reference_log_probs": "numbers",
    }
    for name, kind in kinds.items():
        if row[name] is not None and len(row[name]) != len(negatives):
            found = f"{len(row[name])} {kind} for {len(negatives)} negatives"
            raise BadRow(name, f"has {found}; give one for each")
    forms = {normalise_text(negative) for negative in negatives}
    if normalise_text(row["response"]) in forms:
        raise BadRow("negatives", "holds the response itself; take it out")


SCHEMA = Schema(
    corpus="Own data",
    fields={
        "context": Field(turn_list),
        "response": Field(text),
        "rots": Field(text_list, required=False),
        "safety_label": Field(one_of(SAFETY_LABELS), required=False),
        "negatives": Field(text_list, required=False),
        "negative_weights": Field(weight_list, required=False),
        "negative_judges": Field(text_list, required=False),
        "negative_sources": Field(text_list, required=False),
        "reference_log_prob": Field(log_prob, required=False),
        "negative_reference_log_probs": Field(log_prob_list, required=False),
        "contrast_group": Field(text, required=False),
        "source": Field(text, required=False),
    },
    check_row=_check_row,
    adapt=as_own,
)


def load_rows(
    source: str,
    datapath: str,
    split: str,
    skip_bad_rows: bool = False,
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """Return the rows of one split of the user's file, folder or data set on the hub.

    Raises:
        UserError: a bad file or row, or a split without rows.
    """
    rows = rows_of(open_corpus(source, SCHEMA, datapath, skip_bad_rows, None, max_file_size))
    splits = [split_of(row) for row in rows]
    found = [row for row, own in zip(rows, splits, strict=True) if own == split]
    if not found:
        raise empty_split(f"{source} (add a column split)", split, splits)
    return found


def mining_judges(rows: Sequence[dict]) -> set[str]:
    """Return the names of the judges that chose the rows' negatives: none of them may score."""
    return {name for row in rows for name in row["negative_judges"] or []}


def split_of(row: dict) -> str:
    """Return the split of a row: the given one, else by the hash of its group or first turn."""
    key = row["contrast_group"] or normalise_text(row["context"][0])
    return row["split"] or stable_split(f"own:{key}")


def contrastive_examples(rows: Sequence[dict]) -> list[ContrastiveExample]:
    """Return one example per row, in order.

    Weights are scaled over ``rows`` by :func:`~.weights.social_weights`; negatives without one
    get 1.
    """
    severities = [
        severity
        for row in rows
        for severity in row["negative_weights"] or [None] * len(row["negatives"] or [])
    ]
    weights = iter(social_weights(severities))
    examples = []
    for row in rows:
        context = [one_line(turn) for turn in row["context"]]
        negatives = [one_line(reply) for reply in row["negatives"] or []]
        examples.append(
            ContrastiveExample(
                context=context,
                response=one_line(row["response"]),
                rots=[one_line(rot) for rot in row["rots"] or []],
                safety_label=row["safety_label"],
                negatives=negatives,
                negative_weights=[next(weights) for _ in negatives],
                reference_log_prob=row["reference_log_prob"],
                negative_reference_log_probs=row["negative_reference_log_probs"] or [],
                contrast_group=f"own:{row['contrast_group'] or normalise_text(' '.join(context))}",
                source=row["source"] or "own",
            )
        )
    return examples
