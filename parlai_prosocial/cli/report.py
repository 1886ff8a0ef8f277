"""``prosocial report``: one HTML file about a run of ``evaluate`` or ``audit``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.run import LOG, SUMMARY
from parlai_prosocial.util.files import write_aside


@click.command()
@click.option(
    "--run",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The --out of prosocial evaluate or audit.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An HTML file. [default: RUN/report.html]",
)
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
def report(run: Path, out: Path | None, opens: bool) -> None:
    """Write one HTML file about a run, from its summary and log alone.

    It asks the network for nothing, and shows what models said only behind a content warning.
    """
    summary, log = read_run(run)
    file = out or run / "report.html"
    write_report(file, summary, log)
    if opens:
        click.launch(file.absolute().as_uri())


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and log; raises :class:`UserError` where they are not there or not whole."""
    for name in (SUMMARY, LOG):
        if not (folder / name).exists():
            raise UserError(
                f"--run {folder}: no {name}; give the --out of a finished prosocial evaluate"
            )
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / SUMMARY}: {error}; run prosocial evaluate again") from None
    if not isinstance(summary, dict) or summary.get("format") != 1:
        raise UserError(f"{folder / SUMMARY}: not of format 1; run prosocial evaluate again")
    return summary, read_log(folder / LOG)


def read_log(file: Path) -> list[dict[str, Any]]:
    """The records of a run's log; raises :class:`UserError` where a line is not whole."""
    log = []
    for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        if line:
            try:
                log.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}, line {number}: {error}; run prosocial evaluate again"
                ) from None
    return log


def write_report(file: Path, summary: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write the report and say where it is."""
    from parlai_prosocial.evaluation.report.page import render

    write_aside(file, render(summary, log))
    click.echo(f"Report: {file.absolute().as_uri()}")
