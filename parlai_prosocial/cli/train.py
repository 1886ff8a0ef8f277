"""``prosocial train``: a recipe's two steps, each the stock ``parlai train_model``."""

from pathlib import Path

import click

from parlai_prosocial.training.recipe import train as train_recipe


@click.command()
@click.option("--recipe", required=True, help="demo, diasafety, paper, or a folder of your own.")
@click.option("--base", default=None, help="Backbone: zoo:..., a folder or a hub name.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parlai flag in both steps, or in one: step1.KEY=VALUE.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for the models; default runs/RECIPE. Run again to resume.",
)
def train(recipe: str, base: str | None, settings: tuple[str, ...], out: Path | None) -> None:
    """Train a recipe: step 1, then step 2 from its result.

    Runs the two stock commands that it prints. If stopped, the same command resumes.

    \b
    Examples:
      prosocial train --recipe demo
      prosocial train --recipe diasafety --base zoo:prosocial/qwen2_5_coder_0_5b \\
          --set step1.learningrate=5e-4 --out runs/qwen
    """
    click.echo(train_recipe(recipe, out=out, base=base, settings=settings, say=click.echo))
