"""``prosocial report``: one HTML file about a run of ``evaluate`` or ``audit``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cli.evaluation_run import LOG, SUMMARY
from parlai_prosocial.errors import UserError
from parlai_prosocial.folders import write_aside


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
    texts = []
    for name in (SUMMARY, LOG):
        try:
            texts.append((folder / name).read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"--run {folder}: no {name}; give the --out of a finished prosocial evaluate"
            ) from None
    try:
        summary = json.loads(texts[0])
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / SUMMARY}: {error}; run prosocial evaluate again") from None
    if not isinstance(summary, dict) or summary.get("format") != 1:
        raise UserError(f"{folder / SUMMARY}: not of format 1; run prosocial evaluate again")
    log = []
    for number, line in enumerate(texts[1].split("\n"), 1):
        if line:
            try:
                log.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{folder / LOG}, line {number}: {error}; run prosocial evaluate again"
                ) from None
    return summary, log


def write_report(file: Path, summary: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Write the report and say where it is."""
    from parlai_prosocial.evaluation.report.page import render

    write_aside(file, render(summary, log))
    click.echo(f"Report: {file.absolute().as_uri()}")
