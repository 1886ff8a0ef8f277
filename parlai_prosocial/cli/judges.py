"""``prosocial judges``: what ``--judge`` takes."""

import click

from parlai_prosocial.judges.registry import KINDS, spelled


@click.group()
def judges() -> None:
    """List the judges of replies."""


@judges.command("list")
def list_judges() -> None:
    """List the judges, one a line, as --judge takes them: classifier:zoo:prosocial/minilm_safety.

    \b
    Example:
      prosocial judges list
    """
    width = max(len(spelled(kind)) for kind in KINDS)
    for name, kind in KINDS.items():
        click.echo(f"{spelled(name):<{width}}  {kind.about}")
