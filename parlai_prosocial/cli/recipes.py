"""``prosocial recipes``: what `prosocial train --recipe` can train."""

import click

from parlai_prosocial.training.recipe import RECIPES, recipe_names


@click.group()
def recipes() -> None:
    """List the recipes."""


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes, each with what it is and its arms for prosocial ablate.

    \b
    Example:
      prosocial recipes list
    """
    from parlai_prosocial.experiments.train_arms import read_design

    for name in recipe_names():
        folder = RECIPES / name
        # Its README, less the title: one sentence.
        text = " ".join((folder / "README.md").read_text("utf-8").split("\n\n")[1].split())
        click.echo(f"{name:<10} {text.partition('. ')[0].rstrip('.')}")
        if (folder / "arms.json").is_file():
            click.echo(f"{'':<10} arms: {', '.join(read_design(folder).arms)}")
