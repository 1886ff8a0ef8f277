"""``prosocial suites``: what `prosocial evaluate --suite` and `audit --suite` take."""

import click

from parlai_prosocial.evaluation.suites.suite import ALL, NAMES, about


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
        click.echo(f"{name:<15} {about(name)}")
    click.echo(f"{'all':<15} {', '.join(ALL)}; and casual_out where --persona-chat is given")
    click.echo(f"{'FILE':<15} own data, as `prosocial data check` takes it")
