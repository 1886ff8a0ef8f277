"""Replies of models to contexts that no labelled test has had, to draw label sheets from.

What the comparison of two judges was labelled on: contexts of DiaSafety's fold 2 ``test``, at most
70 a category, none of them a context of a label that is committed, or nearly one::

    python benchmarks/draw_judges_pool.py --model M0=zoo:prosocial/smollm2_135m_mle \\
        --model "old judge=runs/old/round-1/training/model" \\
        --model "new judge=runs/new/round-1/training/model" judges.jsonl
    prosocial labels export --replies judges.jsonl --axis unsafe --parts 8 --twice 60 --out SHEET

A reply depends on nothing but the seed, its context and the model.
"""

import json
from collections import defaultdict
from pathlib import Path

import click

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import diasafety
from parlai_prosocial.data.splits import short_digest
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, SAMPLING
from parlai_prosocial.errors import show_user_errors_as_one_line

RESULTS = Path(__file__).parent / "results"
LABELLED = (
    *("labelled-test", "labelled-test-2", "labels/generated", "labels/generated-2"),
    *(f"labels/{name}" for name in ("unsafe", "over-caution", "agreement", "audit-unsafe")),
)
FOLD, PER_CATEGORY = 2, 70


def contexts(datapath: str) -> list[dict]:
    """Contexts with their categories, drawn by their hash."""
    without = [str(RESULTS / f"{name}.jsonl") for name in LABELLED]
    rows = diasafety.load_rows(datapath, "test", fold=FOLD, without=without)
    of_category: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        of_category[row["category"]].add(row["context"])
    return [
        {
            "suite": "adversarial",
            "label": category,
            "id": f"diasafety:{short_digest(context)}",
            "context": [context],
        }
        for category in sorted(of_category)
        for context in sorted(of_category[category], key=short_digest)[:PER_CATEGORY]
    ]


@click.command()
@click.option("--model", "models", multiple=True, metavar="NAME=MODEL", required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--bf16/--no-bf16", default=True, show_default=True)
@click.argument("out", type=click.Path(path_type=Path))
def main(models: tuple[str, ...], seed: int, bf16: bool, out: Path) -> None:
    """Sample a reply of each model to each context."""
    show_user_errors_as_one_line()
    datapath = find_datapath(None)
    rows = contexts(datapath)
    texts = [row["context"][0] for row in rows]
    with open(out, "w", encoding="utf-8") as file:
        for name, _, model in (given.partition("=") for given in models):
            engine = open_engine(model, datapath, bf16, engine="transformers")
            sampled = engine.sample(texts, 1, SAMPLED_TOKENS, seed, **SAMPLING)
            for row, [reply] in zip(rows, sampled, strict=True):
                if reply is None:
                    raise click.ClickException(f"{name}: a reply is missing")
                said = {"reply": reply.text, "ended": reply.ended, "model": name}
                file.write(json.dumps({**row, **said}) + "\n")
            click.echo(f"{name}: {len(rows)} replies", err=True)


if __name__ == "__main__":
    main()
