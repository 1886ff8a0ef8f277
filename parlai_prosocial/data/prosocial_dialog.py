"""ProsocialDialog (Kim et al., EMNLP 2022): guiding replies to problematic talk.

CC BY 4.0; fetched from the Hugging Face hub. The bundled sample is in its format: mostly dialogues
written for this package, and a few real ones.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.data.example import CASUAL, SAFETY_LABELS, ContrastiveExample
from parlai_prosocial.data.field_checks import (
    Field,
    Schema,
    one_of,
    text,
    text_list_with_blanks,
    whole_number,
)
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import HubTerms, bundled, empty_split, open_corpus, rows_of
from parlai_prosocial.data.weights import social_weights
from parlai_prosocial.errors import UserError

HUB_NAME = "allenai/prosocial-dialog"
HUB_ROWS = {"train": 120_236, "validation": 20_416, "test": 25_029}

SCHEMA = Schema(
    corpus="ProsocialDialog",
    fields={
        "context": Field(text),
        "response": Field(text),
        "rots": Field(text_list_with_blanks, required=False),
        "safety_label": Field(one_of(SAFETY_LABELS)),
        "dialogue_id": Field(whole_number(0, 10**9)),
        "response_id": Field(whole_number(0, 10**6)),
    },
)

UTTERANCES = Schema(
    corpus="utterances with ProsocialDialog's labels",
    fields={"context": Field(text), "safety_label": Field(one_of(SAFETY_LABELS))},
)

log = logging.getLogger(__name__)


def load_utterances(source: str, datapath: str, skip_bad_rows: bool = False) -> dict[str, str]:
    """Utterance -> safety label, of a file with columns ``context`` and ``safety_label``.

    Of utterances that are equal but for case and white space the first one counts.

    Raises:
        UserError: a bad file or row.
    """
    found: dict[str, tuple[str, str]] = {}
    for row in rows_of(open_corpus(source, UTTERANCES, datapath, skip_bad_rows)):
        utterance = one_line(row["context"])
        found.setdefault(normalise_text(utterance), (utterance, row["safety_label"]))
    return dict(found.values())


def load_rows(
    datapath: str,
    split: str,
    sample: bool = False,
    skip_bad_rows: bool = False,
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """Return the turns of one split, with texts on one line each.

    Args:
        datapath: ParlAI's data path; a folder ``prosocial`` in it with the corpus's files is used
            before the hub is.
        split: ``train``, ``valid`` or ``test``.
        sample: use the bundled sample instead.
        skip_bad_rows: leave bad rows out instead of stopping.
        max_file_size: how many bytes each file may hold, unpacked.

    Raises:
        UserError: no data and no network, a bad file or row, a turn that stands twice with other
            words, or a split without rows.
    """
    by_hand = Path(datapath) / "prosocial"
    if sample:
        source = str(bundled("prosocial_dialog_sample.jsonl"))
    else:
        source = str(by_hand) if by_hand.is_dir() else HUB_NAME
    terms = HubTerms(
        licence="CC BY 4.0",
        mend=f"fetch it on a machine with a network, put its files for train, validation and test "
        f"(JSON Lines, CSV or Parquet) into {by_hand}, or try the bundled sample with "
        f"--prosocial-sample true",
        rows=HUB_ROWS,
    )
    data = open_corpus(source, SCHEMA, datapath, skip_bad_rows, terms, max_file_size)
    rows = rows_of(data, split)
    if not rows:
        raise empty_split("ProsocialDialog", split, set(data["split"]))
    rows = _without_repeats(rows)
    for row in rows:
        row["context"] = one_line(row["context"])
        row["response"] = one_line(row["response"])
        row["rots"] = [one_line(rot) for rot in row["rots"] or []]
    return rows


def _without_repeats(rows: Sequence[dict]) -> list[dict]:
    """The rows, each turn of a dialogue once."""
    turns: dict[tuple[int, int], dict] = {}
    for row in rows:
        place = (row["dialogue_id"], row["response_id"])
        if turns.setdefault(place, row) != row:
            raise UserError(
                f"ProsocialDialog: dialogue_id {place[0]}, response_id {place[1]} stands twice in "
                f"{row['split']} with other words; number the dialogues anew, or take one away"
            )
    if len(turns) < len(rows):
        repeated = Counter((row["dialogue_id"], row["response_id"]) for row in rows)
        first = next(place for place, count in repeated.items() if count > 1)
        log.warning(
            "left out %d turns that stand twice in ProsocialDialog's files, the first: "
            "dialogue_id %d, response_id %d",
            len(rows) - len(turns),
            *first,
        )
    return list(turns.values())


def contrastive_examples(rows: Sequence[dict]) -> list[ContrastiveExample]:
    """Return one example per turn, dialogue by dialogue, each with its whole history.

    The positive is the guiding reply. All replies of the corpus are prosocial, so the negative is
    what the interlocutor says next, where that turn is labelled other than casual; it weighs the
    distance of that label from casual (1 to 4), scaled over ``rows`` by
    :func:`~.weights.social_weights`. Turns after a gap in a dialogue (a bad row left out) are
    left out too, since their history is not whole.
    """
    turns = _turns(rows)
    contrasted = [
        following is not None
        and following["safety_label"] != CASUAL
        and normalise_text(following["context"]) != normalise_text(row["response"])
        for _, row, following in turns
    ]
    distances = [
        SAFETY_LABELS.index(following["safety_label"])
        for (_, _, following), has_negative in zip(turns, contrasted, strict=True)
        if has_negative and following
    ]
    weights = iter(social_weights(distances))
    return [
        ContrastiveExample(
            context=[*past, row["context"]],
            response=row["response"],
            rots=row["rots"],
            safety_label=row["safety_label"],
            negatives=[following["context"]] if has_negative and following else [],
            negative_weights=[next(weights)] if has_negative else [],
            contrast_group=f"prosocial_dialog:{row['split']}:{row['dialogue_id']}",
            source="prosocial_dialog",
        )
        for (past, row, following), has_negative in zip(turns, contrasted, strict=True)
    ]


def _turns(rows: Sequence[dict]) -> list[tuple[list[str], dict, dict | None]]:
    """Return each turn with the utterances before it, and the dialogue's next turn if any."""
    dialogues = defaultdict(list)
    for row in rows:
        dialogues[row["dialogue_id"]].append(row)
    turns: list[tuple[list[str], dict, dict | None]] = []
    for dialogue in dialogues.values():
        dialogue.sort(key=lambda row: row["response_id"])
        whole = [row for index, row in enumerate(dialogue) if row["response_id"] == index]
        past: list[str] = []
        for index, row in enumerate(whole):
            following = whole[index + 1] if index + 1 < len(whole) else None
            turns.append((past, row, following))
            past = [*past, row["context"], row["response"]]
    if len(turns) < len(rows):
        log.warning(
            "left out %d turns whose dialogue has a gap before them", len(rows) - len(turns)
        )
    return turns
