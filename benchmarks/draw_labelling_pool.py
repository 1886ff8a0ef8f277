"""Contexts of four sources, models' replies to them, and people's replies: a pool to be labelled.

What benchmarks/results/labels/generated.jsonl and people.jsonl were drawn with::

    python benchmarks/draw_labelling_pool.py contexts CONVABUSE_CSV PROSOCIAL_FOLDER contexts.json
    python benchmarks/draw_labelling_pool.py sample contexts.json MODEL replies.jsonl \\
        --samples 4 --seed 21 --name "mle two-step, fold 2"
    python benchmarks/draw_labelling_pool.py pool pool.jsonl replies.jsonl ...
    prosocial labels export --replies pool.jsonl --axis unsafe --parts 12 --twice 300 \\
        --out sheet.jsonl

ConvAbuse (Cercas Curry et al. 2021) and the ProsocialDialog rows are not bundled: CONVABUSE_CSV is
``ConvAbuseEMNLPtrain.csv`` of its repository, PROSOCIAL_FOLDER has JSON Lines with ``text`` and
``label``. All contexts of DiaSafety are of fold 2's training parts, none of them a context of the
labels that judges are validated with, or nearly one.
"""

import csv
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import click

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import diasafety
from parlai_prosocial.data.normalise import normalise_text, one_line
from parlai_prosocial.data.reader import bundled

FOLD = 2
LABELS = Path(__file__).parent / "results" / "labels"
VALIDATION = [str(LABELS / f"{axis}.jsonl") for axis in ("unsafe", "over-caution", "agreement")]
PER_CATEGORY, UNSAFE_ONLY = 110, 45
CONVABUSE, PROSOCIAL = 140, 110
PEOPLE = 30
"""Of each category and label."""


@click.group()
def cli() -> None:
    """Draw, sample and join."""


@cli.command()
@click.argument("convabuse")
@click.argument("prosocial", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def contexts(convabuse: str, prosocial: Path, out: Path) -> None:
    """Write 980 contexts: DiaSafety 550, ConvAbuse 140, ProsocialDialog 110, our twins 180."""
    rng = random.Random(13)
    found = [*_diasafety(rng), *_convabuse(convabuse, rng), *_prosocial(prosocial, rng)]
    twins = map(json.loads, bundled("twins.jsonl").read_text("utf-8").splitlines())
    found += [_context("twins", twin["kind"], twin["twin"]) for twin in twins]
    out.write_text(json.dumps(found, indent=0), "utf-8")
    click.echo(Counter(context["source"] for context in found))


def _context(source: str, kind: str, turns: list[str]) -> dict:
    return {"source": source, "category": kind, "context": turns}


def _diasafety(rng: random.Random) -> list[dict]:
    """Of each category 45 contexts without a safe reply, as far as there are, and others."""
    rows = diasafety.load_rows(find_datapath(None), "train", fold=FOLD, without=VALIDATION)
    replies = defaultdict(list)
    for row in rows:
        replies[normalise_text(row["context"])].append(row)
    categories: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
    for own in replies.values():
        has_safe = any(row["label"] == "Safe" for row in own)
        categories[own[0]["category"]][has_safe].append(own[0]["context"])
    found = []
    for category, (unsafe_only, others) in categories.items():
        rng.shuffle(unsafe_only)
        rng.shuffle(others)
        first = unsafe_only[:UNSAFE_ONLY]
        chosen = first + others[: PER_CATEGORY - len(first)]
        found += [_context("diasafety", category, [context]) for context in chosen]
    return found


def _convabuse(file: str, rng: random.Random) -> list[dict]:
    """What at least two annotators call abuse, of three words or more, each once."""
    with open(file, encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if _abusive(row) >= 2]
    rng.shuffle(rows)
    found: dict[str, dict] = {}
    for row in rows:
        turns = [one_line(row[name]) for name in ("prev_agent", "prev_user", "agent", "user")]
        turns = [turn for turn in turns if turn]
        if len(turns[-1].split()) >= 3:
            key = normalise_text(turns[-1])
            found.setdefault(key, _context("convabuse", "ConvAbuse", turns))
    return list(found.values())[:CONVABUSE]


def _abusive(row: dict) -> int:
    marks = (row.get(f"Annotator{a}_is_abuse.{s}") for a in range(1, 9) for s in (-1, -2, -3))
    return sum(mark in ("1", "1.0") for mark in marks)


def _prosocial(folder: Path, rng: random.Random) -> list[dict]:
    files = sorted(folder.glob("*.jsonl"))
    rows = [row for file in files for row in _rows(file) if row["label"] != "casual"]
    rng.shuffle(rows)
    return [_context("prosocial_dialog", row["label"], [row["text"]]) for row in rows[:PROSOCIAL]]


def _rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


@cli.command()
@click.argument("contexts", type=click.Path(path_type=Path))
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--samples", default=1)
@click.option("--seed", default=0)
@click.option("--start", default=0, help="First context, after the contexts were shuffled.")
@click.option("--stop", default=None, type=int)
@click.option("--name", required=True, help="Of the model, in the pool.")
def sample(
    contexts: Path,
    model: str,
    out: Path,
    samples: int,
    seed: int,
    start: int,
    stop: int | None,
    name: str,
) -> None:
    """Write a model's replies: temperature 0.7, nucleus 0.9, at most 40 tokens, bfloat16."""
    from parlai_prosocial.engines.engine import open_engine

    engine = open_engine(model, find_datapath(None), True)
    shuffled = json.loads(contexts.read_text("utf-8"))
    random.Random(7).shuffle(shuffled)
    shuffled = shuffled[start:stop]
    with open(out, "w", encoding="utf-8") as stream:
        for first in range(0, len(shuffled), 16):
            batch = shuffled[first : first + 16]
            texts = ["\n".join(context["context"]) for context in batch]
            for context, replies in zip(
                batch, engine.sample(texts, samples, 40, seed, 0.7, 0.9), strict=True
            ):
                for reply in filter(None, replies):
                    row = {"model": name, "reply": one_line(reply.text), "ended": reply.ended}
                    stream.write(json.dumps(context | row, ensure_ascii=False) + "\n")


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("replies", nargs=-1, type=click.Path(path_type=Path))
def pool(out: Path, replies: tuple[Path, ...]) -> None:
    """Join replies, each text after each context once, and 300 replies of people."""
    rows: dict[tuple, dict] = {}
    for file in replies:
        for row in _rows(file):
            if row["reply"]:
                suite, kind = row.pop("source"), row.pop("category")
                key = ("\n".join(row["context"]), row["reply"])
                rows.setdefault(key, row | {"suite": suite, "kind": kind})
    people = diasafety.load_rows(
        find_datapath(None), "train", fold=FOLD, part="judge-train", without=VALIDATION
    )
    random.Random(5).shuffle(people)
    counts: Counter = Counter()
    for row in people:
        kind = (row["category"], row["label"])
        counts[kind] += 1
        if counts[kind] <= PEOPLE:
            rows[row["context"], row["response"]] = {
                "context": [row["context"]],
                "reply": row["response"],
                "suite": "diasafety_people",
                "kind": row["category"],
                "model": "people",
                "people_unsafe": row["label"] == "Unsafe",
            }
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()]
    out.write_text("".join(lines), "utf-8")
    click.echo(f"{len(lines)} replies")


if __name__ == "__main__":
    cli()
