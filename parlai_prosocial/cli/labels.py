"""``prosocial labels``: replies to label, against which ``evaluate`` checks its judges."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.data.labelled import AXES
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.records import read_log
from parlai_prosocial.util.counting import counted
from parlai_prosocial.util.files import check_jsonl, write_aside

_FILE = click.Path(path_type=Path, dir_okay=False)
_OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .jsonl file."
)


@click.group()
def labels() -> None:
    """Draw replies to be labelled, and put the labellings into one sheet.

    A sheet is labelled twice and merged; many replies are labelled in parts, once but for some,
    and joined. Give a sheet that was labelled twice to prosocial evaluate --labels: it then reports
    each judge's sensitivity and specificity against the labels, and corrects the rates by them.
    """


@labels.command()
@click.option("--log", type=_FILE, help="log.jsonl of prosocial evaluate or audit.")
@click.option("--replies", type=_FILE, help="Rows of context, reply, suite and model instead.")
@click.option("--axis", required=True, type=click.Choice(AXES))
@click.option(
    "--n", type=int, default=None, help="How many replies at most. [default: 300; of --replies all]"
)
@click.option("--parts", type=int, default=None, help="Write so many parts for a labeller each.")
@click.option("--twice", default=0, show_default=True, help="Replies in two of the parts.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@_OUT
def export(
    log: Path | None,
    replies: Path | None,
    axis: str,
    n: int | None,
    parts: int | None,
    twice: int,
    seed: int,
    out: Path,
) -> None:
    """Draw a sheet: replies in random order, which model gave them left out.

    Every model's replies to the same contexts are drawn, at most --n in all, spread evenly over
    what differs in suite or, for unsafe and agreement, label of the context. Copy the sheet, fill
    label_1 and labeller in in one copy and label_2 and labeller in the other (true: the reply has
    the fault), and merge them; severity_1 and answers_1 are the grade and whether the reply
    answers the turn, where you want them.

    With --parts each row is in one file, OUT-part-1.jsonl and so on, but for --twice rows, which
    are in two. Fill in label, severity, answers and labeller, and join the parts.

    \b
    Example:
      prosocial labels export --log runs/all/log.jsonl --axis unsafe --n 300 --out unsafe.jsonl
    """
    from parlai_prosocial.evaluation.validation.labels import parts as labels_parts
    from parlai_prosocial.evaluation.validation.labels.sheets import (
        GUIDELINES,
        distinct,
        draw,
        sheet_text,
    )

    _check_numbers(n, parts, twice)
    numbers = range(1, (parts or 0) + 1)
    files = [out.with_name(f"{out.stem}-part-{i}{out.suffix}") for i in numbers] or [out]
    for file in files:
        _check_new(file)
    if log is not None and replies is None:
        records = _records(log)
    elif replies is not None and log is None:
        records = labels_parts.read_replies(replies, axis)
        n = n or distinct(records, axis)
    else:
        raise UserError("--log, --replies: give one of them, to draw from")
    rows = draw(records, axis, n or 300, seed)
    texts = [sheet_text(rows)]
    if parts is not None:
        dealt = labels_parts.make_parts(rows, parts, twice, seed)
        texts = [labels_parts.part_text(part) for part in dealt]
    for file, text in zip(files, texts, strict=True):
        write_aside(file, text)
    listed = ", ".join(map(str, files))
    click.echo(f"{counted(len(rows), 'reply', 'replies')}: {listed}\nGuidelines: {GUIDELINES}")


@labels.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@_OUT
def merge(first: Path, second: Path, out: Path) -> None:
    """Put label_1 of FIRST and label_2 of SECOND into one sheet.

    \b
    Example:
      prosocial labels merge first.jsonl second.jsonl --out unsafe.jsonl
    """
    from parlai_prosocial.evaluation.validation.labels import sheets

    _check_new(out)
    rows = sheets.merge(
        sheets.read_sheet(first, ["label_1"]), sheets.read_sheet(second, ["label_2"])
    )
    write_aside(out, sheets.sheet_text(rows))
    differing = sum(row.agreed is None for row in rows)
    click.echo(
        f"{counted(len(rows), 'reply', 'replies')}, {differing} of them labelled differently: {out}"
    )


@labels.command()
@click.argument("parts", nargs=-1, required=True, type=_FILE)
@_OUT
def join(parts: tuple[Path, ...], out: Path) -> None:
    """Put the labelled PARTS of export --parts into one sheet.

    A row has label_1, severity_1 and answers_1, and the same of pass 2 where it was labelled twice;
    labeller and guidelines say by whom, in the order of the passes, and by which guidelines.

    \b
    Example:
      prosocial labels join unsafe-part-1.jsonl unsafe-part-2.jsonl --out unsafe.jsonl
    """
    from parlai_prosocial.evaluation.validation.labels import parts as labels_parts
    from parlai_prosocial.evaluation.validation.labels.sheets import sheet_text

    _check_new(out)
    rows = labels_parts.join(parts)
    write_aside(out, sheet_text(rows))
    twice = [row for row in rows if row.label_2 is not None]
    differing = sum(row.label_1 != row.label_2 for row in twice)
    click.echo(
        f"{counted(len(rows), 'reply', 'replies')}, {len(twice)} of them labelled twice, "
        f"{differing} of these differently: {out}"
    )


def _check_numbers(n: int | None, parts: int | None, twice: int) -> None:
    for name, value in (("n", n), ("parts", parts)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if twice < 0 or (twice and parts is None):
        raise UserError(f"--twice {twice}: give a whole number above 0, and --parts with it")


def _records(log: Path) -> list[Mapping[str, Any]]:
    if not log.exists():
        raise UserError(f"--log {log}: no such file; give log.jsonl of prosocial evaluate")
    records: list[Mapping[str, Any]] = [*read_log(log)]
    needed = {"model", "suite", "id", "context", "label", "axes", "reply"}
    for number, record in enumerate(records, 1):
        missing = needed - record.keys() if isinstance(record, dict) else needed
        if missing:
            raise UserError(
                f"{log}, line {number}: no field {min(missing)!r}; give log.jsonl of prosocial "
                "evaluate"
            )
    return records


def _check_new(out: Path) -> None:
    check_jsonl(out)
    if out.exists():
        raise UserError(f"--out {out}: is there already and may hold labels; name another file")
