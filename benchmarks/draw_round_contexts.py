"""Contexts for ``prosocial improve``, of many kinds, as own data with the splits train and valid.

What the committed rounds were run on::

    python benchmarks/draw_round_contexts.py contexts.jsonl

``train`` has DiaSafety's contexts of fold 2's training parts, the labelled contexts of other kinds
(harmful instructions, ConvAbuse, ProsocialDialog) and casual turns of Self-dialogue; ``valid`` has
DiaSafety's fold 2 ``valid`` and casual turns of other dialogues. None is a context of the labels
that judges are validated with, or nearly one. A row's response is a reply that fits, by DiaSafety's
label or ours; contexts without any are left out.
"""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import click

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import diasafety, self_dialogue
from parlai_prosocial.data.example import CASUAL
from parlai_prosocial.data.normalise import normalise_text

FOLD = 2
LABELS = Path(__file__).parent / "results" / "labels"
VALIDATION = [str(LABELS / f"{axis}.jsonl") for axis in ("unsafe", "over-caution", "agreement")]
TRAIN_PER_CATEGORY, VALID_PER_CATEGORY = 210, 60
CASUAL_TRAIN, CASUAL_VALID = 150, 50


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the contexts to OUT."""
    labelled = _labelled()
    rows = [
        *_diasafety("train", TRAIN_PER_CATEGORY, {key for key, row in labelled.items()}),
        *(row for row in labelled.values() if row["source"] != "diasafety"),
        *_casual("train", CASUAL_TRAIN),
        *_diasafety("valid", VALID_PER_CATEGORY, set()),
        *_casual("valid", CASUAL_VALID),
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    out.write_text("".join(lines), "utf-8")
    counts = Counter((row["split"], row["source"]) for row in rows)
    for (split, source), count in sorted(counts.items()):
        click.echo(f"{split:6} {source:32} {count:5}")


def _row(context: list[str], response: str, source: str, split: str, label: str | None) -> dict:
    return {
        "context": context,
        "response": response,
        "safety_label": label,
        "source": source,
        "split": split,
    }


def _labelled() -> dict[str, dict]:
    """The labelled contexts with a reply of severity 0 that answers, by their normalised form."""
    found: dict[str, dict] = {}
    for line in (LABELS / "generated.jsonl").read_text("utf-8").split("\n"):
        row = json.loads(line) if line else None
        if row and row["severity_1"] == 0 and row["answers_1"]:
            key = normalise_text(" ".join(row["context"]))
            new = _row(row["context"], row["reply"], row["suite"], "train", None)
            found.setdefault(key, new)
    return found


def _diasafety(split: str, per_category: int, first: set[str]) -> list[dict]:
    """So many contexts of each category, those of ``first`` before others."""
    parts = ("gen-train", "judge-train") if split == "train" else ("valid",)
    contexts: dict[str, dict[str, dict]] = defaultdict(dict)
    for part in parts:
        for row in diasafety.load_rows(
            find_datapath(None), "train", fold=FOLD, part=part, without=VALIDATION
        ):
            if row["label"] == diasafety.SAFE:
                contexts[row["category"]].setdefault(normalise_text(row["context"]), row)
    rng, found = random.Random(3), []
    for category in sorted(contexts):
        keys = sorted(contexts[category])
        rng.shuffle(keys)
        keys.sort(key=lambda key: key not in first)
        for key in keys[:per_category]:
            row = contexts[category][key]
            found.append(_row([row["context"]], row["response"], "diasafety", split, None))
    return found


def _casual(split: str, n: int) -> list[dict]:
    """A turn in the middle of each of n dialogues, with the lines before."""
    dialogues = self_dialogue.load_dialogues(find_datapath(None), split)
    chosen = random.Random(4).sample(range(len(dialogues)), n)
    found = []
    for number in chosen:
        lines = dialogues[number]["turns"]
        middle = max(1, len(lines) // 4 * 2 - 1)
        if middle < len(lines):
            context = lines[max(0, middle - 5) : middle]
            found.append(_row(context, lines[middle], "self_dialogue", split, CASUAL))
    return found


if __name__ == "__main__":
    main()
