"""The Self-dialogue Corpus (Fainberg et al. 2018): casual talk, both sides by one person.

BSD-3-Clause; a sample of its dialogues ships with this package.
"""

from parlai_prosocial.data.field_checks import Field, Schema, text, text_list, whole_number
from parlai_prosocial.data.formats import MAX_FILE_SIZE
from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.data.reader import bundled, empty_split, open_corpus, rows_of
from parlai_prosocial.data.splits import stable_split

SCHEMA = Schema(
    corpus="Self-dialogue",
    fields={
        "id": Field(whole_number(0, 10**9)),
        "topic": Field(text),
        "turns": Field(text_list),
    },
)


def load_dialogues(
    datapath: str,
    split: str,
    source: str | None = None,
    skip_bad_rows: bool = False,
    max_file_size: int = MAX_FILE_SIZE,
) -> list[dict]:
    """Return the dialogues of a split: ``id``, ``topic`` and ``turns``, each turn on one line.

    The split follows a hash of the dialogue's id, whichever file it comes from.

    Args:
        datapath: ParlAI's data path.
        split: ``train``, ``valid`` or ``test``.
        source: a file or folder of dialogues instead of the bundled sample.
        skip_bad_rows: leave bad rows out instead of stopping.
        max_file_size: how many bytes each file may hold, unpacked.

    Raises:
        UserError: a bad file or row, or a split without dialogues.
    """
    files = source or bundled("self_dialogue.jsonl.gz")
    rows = rows_of(open_corpus(files, SCHEMA, datapath, skip_bad_rows, None, max_file_size))
    splits = [stable_split(f"self_dialogue:{row['id']}") for row in rows]
    found = [
        {"id": row["id"], "topic": row["topic"], "turns": [one_line(t) for t in row["turns"]]}
        for row, own in zip(rows, splits, strict=True)
        if own == split
    ]
    if not found:
        raise empty_split("Self-dialogue", split, splits)
    return found
