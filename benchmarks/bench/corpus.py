"""The real text that both sides of every row get."""

import json
import random
from pathlib import Path
from typing import Any

from parlai_prosocial.data import diasafety
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.self_dialogue import load_dialogues
from parlai_prosocial.errors import UserError

CONTEXT_TURNS = 5
MOST_NEGATIVES = 8
Row = dict[str, Any]
"""As in docs/tasks-and-data.md#your-own-data."""


def rows(datapath: str, count: int, negatives: int = 0, seed: int = 0) -> list[Row]:
    """Problematic and casual turns by turns: DiaSafety's safe replies, and Self-dialogue.

    The negatives are replies of other rows, since only their number and length matter here.

    Args:
        datapath: ParlAI's data path.
        count: how many.
        negatives: of each.
        seed: of their order.
    """
    rng = random.Random(seed)
    safe = [
        ([one_line(row["context"])], one_line(row["response"]))
        for row in diasafety.load_rows(datapath, "train", fold=0)
        if row["label"] == "Safe"
    ]
    casual = [
        (dialogue["turns"][:CONTEXT_TURNS], dialogue["turns"][CONTEXT_TURNS])
        for dialogue in load_dialogues(datapath, "train")
        if len(dialogue["turns"]) > CONTEXT_TURNS
    ]
    rng.shuffle(safe)
    rng.shuffle(casual)
    mixed = [pair for both in zip(safe, casual, strict=False) for pair in both]
    if len(mixed) < count:
        raise UserError(f"{count} rows are needed and there are {len(mixed)}; take fewer --pairs")
    replies = [response for _, response in mixed]
    return [
        {
            "context": context,
            "response": response,
            "negatives": _others(replies, i, negatives),
            "split": "train",
        }
        for i, (context, response) in enumerate(mixed[:count])
    ]


def _others(replies: list[str], own: int, count: int) -> list[str]:
    """``count`` different replies of the rows that follow."""
    found: dict[str, str] = {}
    seen = {normalise_text(replies[own])}
    step = own
    while len(found) < count:
        step = (step + 2) % len(replies)  # of the same corpus, so of its length
        form = normalise_text(replies[step])
        if form not in seen:
            found.setdefault(form, replies[step])
    return list(found.values())


def write(file: Path, content: list[Row]) -> Path:
    """As JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in content]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def text_of(row: Row) -> str:
    """A row's context as ParlAI packs it."""
    return "\n".join(row["context"])
