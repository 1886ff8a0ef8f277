"""``prosocial report``: one HTML file about a run of ``evaluate`` or ``audit``."""

from pathlib import Path

import click


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

    \b
    Example:
      prosocial report --run runs/all --open
    """
    from parlai_prosocial.evaluation.results.folder import Evaluation

    file = out or run / "report.html"
    Evaluation.load(run).write_report(file)
    click.echo(f"Report: {file.absolute().as_uri()}")
    if opens:
        click.launch(file.absolute().as_uri())
