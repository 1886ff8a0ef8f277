"""Perplexity of people's replies in casual conversation: what safety training may cost."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_CONTEXT_TURNS = 4


@dataclass(frozen=True)
class CasualReply:
    """One turn of a dialogue, to be scored given the turns before it.

    Attributes:
        context: the 1 to 4 turns before, oldest first.
        response: the turn itself.
        dialogue: the dialogue's id; the bootstrap's cluster.
    """

    context: list[str]
    response: str
    dialogue: Hashable


def casual_replies(dialogues: Sequence[Mapping], replies_per_dialogue: int) -> list[CasualReply]:
    """Take up to n replies of each dialogue, spread evenly from its second turn to its last.

    Args:
        dialogues: Self-dialogue rows of the test split, with ``id`` and ``turns`` (list of str).
        replies_per_dialogue: n >= 1 (1: the second turn); a dialogue with fewer replies gives all
            it has.

    >>> [reply] = casual_replies([{"id": 1, "turns": ["a", "b"]}], 3)
    >>> reply
    CasualReply(context=['a'], response='b', dialogue=1)
    """
    chosen = []
    for dialogue in dialogues:
        turns = dialogue["turns"]
        count = min(replies_per_dialogue, max(0, len(turns) - 1))
        for turn in np.linspace(1, len(turns) - 1, count).round().astype(int):
            context = turns[max(0, turn - MAX_CONTEXT_TURNS) : turn]
            chosen.append(CasualReply(context, turns[turn], dialogue["id"]))
    return chosen
