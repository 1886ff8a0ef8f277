"""Synthetic-Persona-Chat (Jandaghi et al. 2023): casual talk between two personas, by a model.

CC BY 4.0; it does not ship with this package, so it is read from a file of the user's.
"""

import logging
import re
from itertools import pairwise

from parlai_prosocial.data.field_checks import Field, Schema, text
from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.data.reader import open_corpus, rows_of
from parlai_prosocial.errors import UserError

_CONVERSATION = "Best Generated Conversation"
_TURN = re.compile(r"User ([12]):\s*(\S.*)")

SCHEMA = Schema(corpus="Synthetic-Persona-Chat", fields={_CONVERSATION: Field(text)})

log = logging.getLogger(__name__)


def load_dialogues(source: str, datapath: str, skip_bad_rows: bool = False) -> list[dict]:
    """Return the dialogues of a file: ``id`` (its row, from 0) and ``turns``, without personas.

    Dialogues in which something else stands between the turns (stage directions, recipes), or
    where a speaker goes on after himself, are left out and counted in the log.

    Args:
        source: a CSV file as google-research-datasets/Synthetic-Persona-Chat has it.
        datapath: ParlAI's data path.
        skip_bad_rows: leave bad rows out instead of stopping.

    Raises:
        UserError: a bad file or row, or no dialogue that can be used.
    """
    rows = rows_of(open_corpus(source, SCHEMA, datapath, skip_bad_rows))
    dialogues = []
    for number, row in enumerate(rows):
        lines = [line.strip() for line in row[_CONVERSATION].split("\n") if line.strip()]
        turns = [turn for line in lines if (turn := _TURN.fullmatch(line))]
        speakers = [turn[1] for turn in turns]
        alternating = all(a != b for a, b in pairwise(speakers))
        if len(turns) == len(lines) > 1 and alternating:
            dialogues.append({"id": number, "turns": [one_line(turn[2]) for turn in turns]})
    if not dialogues:
        raise UserError(f"{source}: no dialogue of lines `User 1: ...` and `User 2: ...` in turn")
    log.info("left out %d dialogues with other lines", len(rows) - len(dialogues))
    return dialogues
