"""``prosocial labels``: replies to label, against which ``evaluate`` checks its judges."""

from pathlib import Path

import click

from parlai_prosocial.cli.report import read_log
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.suite import AXES
from parlai_prosocial.util.files import write_aside

_FILE = click.Path(path_type=Path, dir_okay=False)
_OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .jsonl file."
)


@click.group()
def labels() -> None:
    """Draw replies to be labelled twice, and merge the two labellings into one sheet.

    Give the sheet to prosocial evaluate --labels: it then reports each judge's sensitivity and
    specificity against the labels, and corrects the rates by them.
    """


@labels.command()
@click.option("--log", required=True, type=_FILE, help="log.jsonl of prosocial evaluate or audit.")
@click.option("--axis", required=True, type=click.Choice(AXES))
@click.option("--n", default=300, show_default=True, help="How many replies.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@_OUT
def export(log: Path, axis: str, n: int, seed: int, out: Path) -> None:
    """Draw a sheet: replies in random order, which model gave them left out.

    They are spread evenly over what differs in model, suite or, for unsafe and agreement, label of
    the context. Copy the sheet, fill label_1 and labeller in in one copy and label_2 and labeller
    in the other (true: the reply has the fault), and merge them.
    """
    from parlai_prosocial.evaluation.validation.labels.sheets import GUIDELINES, draw, sheet_text

    if n < 1:
        raise UserError(f"--n {n}: must be at least 1")
    _check_new(out)
    if not log.exists():
        raise UserError(f"--log {log}: no such file; give log.jsonl of prosocial evaluate")
    records = read_log(log)
    needed = {"model", "suite", "id", "context", "label", "axes", "reply"}
    for number, record in enumerate(records, 1):
        missing = needed - record.keys() if isinstance(record, dict) else needed
        if missing:
            raise UserError(
                f"{log}, line {number}: no field {min(missing)!r}; give log.jsonl of prosocial "
                "evaluate"
            )
    rows = draw(records, axis, n, seed)
    write_aside(out, sheet_text(rows))
    click.echo(f"{len(rows)} replies: {out}\nGuidelines: {GUIDELINES}")


@labels.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@_OUT
def merge(first: Path, second: Path, out: Path) -> None:
    """Put label_1 of FIRST and label_2 of SECOND into one sheet."""
    from parlai_prosocial.evaluation.validation.labels import sheets

    _check_new(out)
    rows = sheets.merge(
        sheets.read_sheet(first, ["label_1"]), sheets.read_sheet(second, ["label_2"])
    )
    write_aside(out, sheets.sheet_text(rows))
    differing = sum(row.agreed is None for row in rows)
    click.echo(f"{len(rows)} replies, {differing} of them labelled differently: {out}")


def _check_new(out: Path) -> None:
    if out.exists():
        raise UserError(f"--out {out}: is there already and may hold labels; name another file")
