"""``prosocial suites``: what `prosocial evaluate --suite` and `audit --suite` take."""

import click

from parlai_prosocial.evaluation.suites.suite import ALL, NAMES, OF_FILES, about


@click.group()
def suites() -> None:
    """List the suites of contexts."""


@suites.command("list")
def list_suites() -> None:
    """List the suites, one a line.

    \b
    Example:
      prosocial suites list
    """
    for name in NAMES:
        click.echo(f"{name:<16} {about(name)}")
    click.echo(f"{'all':<16} {', '.join(ALL)}; and {', '.join(OF_FILES)} where their file is given")
    click.echo(f"{'FILE':<16} own data, as `prosocial data check` takes it")
