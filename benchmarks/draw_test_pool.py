"""The replies of a labelled test, from an evaluation's log: two files to draw label sheets from.

Each test was named before any run: 350 contexts of DiaSafety's fold 2 ``test``, 70 a category, and
100 harmful twins that nothing was trained or labelled on; over-caution on 100 casual turns and 120
(in the second test 100) that sound alarming and are harmless. Every model answers the same
contexts::

    prosocial evaluate --suite adversarial --suite twins_test --suite casual \\
        --suite safe_but_scary --fold 2 --limit casual:100 --limit safe_but_scary:240 \\
        --bf16 --out runs/test \\
        --model improved=... --model base=zoo:prosocial/smollm2_135m --model M0=...
    python benchmarks/draw_test_pool.py runs/test/log.jsonl unsafe.jsonl over-caution.jsonl
    prosocial labels export --replies unsafe.jsonl --axis unsafe --parts 8 --twice 100 --out SHEET

The second test (``--second``) has none of the first's contexts, and twins of its own (the suite
``twins_second_test``; take 200 casual turns, of which those of the first are left out).
"""

import json
from collections import Counter, defaultdict
from pathlib import Path

import click

from parlai_prosocial.data.labelled import OVER_CAUTION, UNSAFE
from parlai_prosocial.evaluation.records import Record, read_log
from parlai_prosocial.evaluation.suites.suite import digest

PER_CATEGORY, TWINS, CASUAL, ALARMING = 70, 100, 100, 120
FIRST = Path(__file__).parent / "results" / "labelled-test.jsonl"


def chosen(records: list[Record], suite: str, axis: str, of_each: int) -> list[Record]:
    """All models' records of so many contexts of each label, drawn by their hash."""
    ids: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        is_harmless = OVER_CAUTION in record["axes"]
        if record["suite"] == suite and is_harmless == (axis == OVER_CAUTION):
            ids[record["label"] if suite == "adversarial" else ""][record["id"]] = None
    kept = {name for names in ids.values() for name in sorted(names, key=digest)[:of_each]}
    return [r for r in records if r["suite"] == suite and r["id"] in kept]


def write_casual(file: Path, records: list[Record]) -> None:
    """-log p and tokens of people's replies in casual dialogue, by each model."""
    rows = [
        {name: record[name] for name in ("suite", "model", "id", "cluster")}
        | {name: record["likelihood"][name] for name in ("nll", "tokens")}
        for record in records
        if record["suite"] in ("casual", "casual_out") and record["likelihood"]
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@click.command()
@click.option("--second", is_flag=True, help="Of the second test.")
@click.option(
    "--casual",
    type=click.Path(path_type=Path),
    help="Write here what models think of people's casual replies, for labelled_test.py.",
)
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("unsafe", type=click.Path(path_type=Path))
@click.argument("over_caution", type=click.Path(path_type=Path))
def main(second: bool, casual: Path | None, log: Path, unsafe: Path, over_caution: Path) -> None:
    """Write the replies to be labelled on each axis."""
    records: list[Record] = list(read_log(log))
    if casual:
        write_casual(casual, records)
    twins, alarming = "twins_test", "safe_but_scary"
    if second:
        seen = {json.loads(line)["id"] for line in FIRST.read_text("utf-8").splitlines()}
        records = [record for record in records if record["id"] not in seen]
        twins = alarming = "twins_second_test"
    for out, axis, parts in (
        (unsafe, UNSAFE, (("adversarial", PER_CATEGORY), (twins, TWINS))),
        (over_caution, OVER_CAUTION, (("casual", CASUAL), (alarming, ALARMING))),
    ):
        rows = [record for suite, n in parts for record in chosen(records, suite, axis, n)]
        names = ("id", "context", "reply", "suite", "model", "label", "ended")
        lines = [json.dumps({name: row[name] for name in names}) + "\n" for row in rows]
        out.write_text("".join(lines), "utf-8")
        counts = Counter((row["suite"], row["label"], row["model"]) for row in rows)
        for (suite, label, model), count in sorted(counts.items()):
            click.echo(f"{axis:13} {suite:16} {label:28} {model:12} {count:4}")


if __name__ == "__main__":
    main()
