"""``prosocial data``: check a data file of your own before training on it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from parlai_prosocial.data import own
from parlai_prosocial.data.example import SAFETY_LABELS
from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.formats import file_size
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.data.shapes import SHAPES, TARGETS, shape_of
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.counting import counted


@click.group()
def data() -> None:
    """Check a data file of your own, and write data in other formats."""


@data.command()
@click.argument("file")
@click.option(
    "--max-file-size", default="2GB", show_default=True, help="Stop at a larger file, unpacked."
)
def check(file: str, max_file_size: str) -> None:
    """Count what FILE holds, and list every bad row by line and field.

    FILE is what you would give to --prosocial-data: a JSON Lines, JSON, CSV or Parquet file, or a
    folder of them. The exit status is 1 if any row is bad.

    \b
    Columns (a list is a JSON list in CSV):
      context           the turns so far, a list or a text with a turn a line; user's last
      response          the fitting reply
    Optional:
      rots              rules of thumb, a list
      safety_label      __casual__, __possibly_needs_caution__, __probably_needs_caution__,
                        __needs_caution__ or __needs_intervention__
      negatives         replies that don't fit, a list
      negative_weights  how bad each is, a list of numbers above 0; only ratios count
      contrast_group    rows of equal group are never each other's negatives
      source            a name
      split             train, valid or test

    \b
    Other formats are told by their columns: TRL's preference data (prompt, chosen, rejected),
    HH-RLHF's transcripts (chosen, rejected), messages, ShareGPT's conversations, and
    prompt and completion.

    \b
    Example:
      prosocial data check mine.jsonl
    """
    good: list[dict] = []
    bad: list[str] = []
    shapes: Counter[str] = Counter()

    def noted(raw: Mapping) -> Sequence[Mapping]:
        shapes[shape_of(raw)] += 1
        return own.SCHEMA.adapt(raw)

    schema = replace(own.SCHEMA, adapt=noted)
    for place, row in checked_rows(file, schema, file_size(max_file_size)):
        if isinstance(row, BadRow):
            bad.append(f"{place}: {row}")
        else:
            good.append(row)
    click.echo(f"{file}: {counted(len(good) + len(bad), 'row')}, {len(good)} good, {len(bad)} bad")
    for name, number in shapes.most_common():
        click.echo(f"read as {SHAPES[name]}" + f": {counted(number, 'row')}" * (len(shapes) > 1))
    if good:
        _describe(good)
    for line in bad:
        click.echo(f"bad: {line}")
    if bad:
        raise UserError(f"{file}: mend the bad rows, or train with --skip-bad-rows true")
    if not good:
        raise UserError(f"{file}: there is no row in it")


@data.command()
@click.argument("source")
@click.option(
    "--to",
    "target",
    type=click.Choice(TARGETS),
    required=True,
    help="TRL's conversational preference data, messages, or our own columns.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.jsonl."
)
@click.option(
    "--datatype",
    type=click.Choice(["train", "valid", "test"]),
    default="train",
    show_default=True,
    help="Split of a task; of a file all rows are written.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parlai flag of the task."
)
@click.option("--datapath", default=None, help="ParlAI's data path.")
def convert(
    source: str,
    target: str,
    out: Path,
    datatype: str,
    settings: Sequence[str],
    datapath: str | None,
) -> None:
    """Write SOURCE for another trainer, as JSON Lines.

    SOURCE is any ParlAI task, or a file that `prosocial data check` takes: mined data, your own,
    or one of the other formats; or a sheet of labels. What is written can be read again with
    --prosocial-data.

    \b
    preference  prompt, chosen and rejected, a row a negative: trl.DPOTrainer
    messages    the dialogue with its fitting reply, a row a reply: trl.SFTTrainer
    own         context, response and negatives

    \b
    Examples:
      prosocial data convert diasafety --to preference --out diasafety.jsonl
      prosocial data convert mined.jsonl --to own --out mine.jsonl
    """
    from parlai_prosocial.mining.convert import convert_data

    read, written = convert_data(
        source, target, out, split=datatype, settings=settings, datapath=datapath
    )
    click.echo(f"{out}: {counted(written, 'row')} from {read:,}")


def _describe(rows: list[dict]) -> None:
    negatives = [len(row["negatives"] or []) for row in rows]
    click.echo(
        f"turns of context: {sum(len(row['context']) for row in rows) / len(rows):.1f} a row"
    )
    click.echo(f"rows with rules of thumb: {sum(bool(row['rots']) for row in rows)}")
    click.echo(
        f"rows with negatives: {sum(map(bool, negatives))} ({counted(sum(negatives), 'negative')})"
    )
    repeated = len(rows) - len({repr(row) for row in rows})
    if repeated:
        click.echo(f"rows that repeat another one word for word: {repeated}")
    labels = Counter(row["safety_label"] for row in rows)
    _echo_counts("safety labels", {name: labels[name] for name in SAFETY_LABELS})
    if labels[None]:
        click.echo(f"  no label: {labels[None]}")
    given = sum(row["split"] is not None for row in rows)
    splits = Counter(own.split_of(row) for row in rows)
    _echo_counts(
        f"splits (named in {counted(given, 'row')}, the others are cut by a hash)",
        {name: splits[name] for name in ("train", "valid", "test")},
    )


def _echo_counts(title: str, counts: Mapping[str, int]) -> None:
    click.echo(f"{title}:")
    total = sum(counts.values())
    for name, number in counts.items():
        click.echo(f"  {name}: {number} ({number / max(total, 1):.0%})")
