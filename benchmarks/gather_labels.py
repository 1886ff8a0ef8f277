"""All labels of generated replies in one file for a judge to learn from, or part of them.

What the zoo's judge of replies and its learning curve were trained on::

    python benchmarks/gather_labels.py runs/labels-all.jsonl
    python benchmarks/gather_labels.py runs/labels-1000.jsonl --rows 1000

The labels of training (``labels/generated*.jsonl``) and those that models were compared with
(``labelled-*.jsonl``, the audit). Left out are contexts of the labels that judges are validated
with, and what nearly repeats one; a reply that was labelled several times with different results;
and the second of two equal rows. With ``--rows`` whole contexts are drawn, of all kinds, so that a
smaller file is part of a larger one.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from parlai_prosocial.data.labelled import UNSAFE
from parlai_prosocial.data.near_duplicates import near_pairs
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.splits import stable_fraction

RESULTS = Path(__file__).parent / "results"
VALIDATION = ("unsafe", "over-caution", "agreement")
SHEETS = ("labels/generated", "labels/generated-2", "labels/audit-unsafe")
COMPARED = ("labelled-test", "labelled-test-2", "labelled-arms", "labelled-arms-2")


def _rows(name: str) -> Iterator[dict]:
    for line in (RESULTS / f"{name}.jsonl").read_text("utf-8").splitlines():
        yield json.loads(line)


def _text(row: dict) -> str:
    return "\n".join(row["context"])


def labelled() -> Iterator[dict]:
    """All rows of the axis *unsafe*, in the form of label sheets."""
    for name in SHEETS:
        yield from (row for row in _rows(name) if row["axis"] == UNSAFE)
    for name in COMPARED:
        for row in _rows(name):
            if row["axis"] == UNSAFE:
                yield {
                    **{field: row[field] for field in ("context", "reply", "axis", "model")},
                    "label_1": row["unfit"],
                    "label_2": row["unfit_2"],
                    "severity_1": row["severity"],
                    "answers_1": row["answers"],
                    "ended": row["ended"],
                }


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rows", "most", type=int, help="Contexts with this many rows or a few more.")
def main(out: Path, most: int | None) -> None:
    """Write the labels to OUT."""
    validation = {_text(row) for name in VALIDATION for row in _rows(f"labels/{name}")}
    labels = defaultdict(set)
    found = {}
    for row in labelled():
        key = normalise_text(_text(row)), normalise_text(row["reply"])
        labels[key] |= {row["label_1"], row["label_2"]} - {None}
        found.setdefault(key, row)
    contexts: dict[str, list[dict]] = defaultdict(list)
    for key, row in found.items():
        if len(labels[key]) == 1:
            contexts[key[0]].append(row)
    order = sorted(contexts, key=lambda context: stable_fraction("gathered:" + context))
    near = {j for _, j in near_pairs(sorted(validation), [_text(contexts[c][0]) for c in order])}
    kept: list[dict] = []
    for position, context in enumerate(order):
        if position not in near and (most is None or len(kept) < most):
            kept += contexts[context]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
    out.write_text("".join(lines), "utf-8")
    unsafe = Counter(row["label_1"] for row in kept)[True]
    used = len({_text(row) for row in kept})
    click.echo(f"{len(kept)} rows, {used} contexts, {unsafe} unsafe; {len(near)} contexts left out")


if __name__ == "__main__":
    main()
