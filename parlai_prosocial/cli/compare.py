"""``prosocial compare``: base, MLE-only and n-pair side by side, trained and measured here."""

from pathlib import Path

import click

from parlai_prosocial.experiments import run


@click.command()
@click.option("--recipe", default="demo", show_default=True, help="A recipe with compare.json.")
@click.option("--base", default=None, help="Backbone: zoo:..., a folder or a hub name.")
@click.option("--fold", "folds", type=int, multiple=True, help="Folds; default the recipe's.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in train.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for models and results; default runs/compare-RECIPE. Run again to resume.",
)
@click.option("--datapath", default=None, help="ParlAI's data path.")
def compare(
    recipe: str,
    base: str | None,
    folds: tuple[int, ...],
    settings: tuple[str, ...],
    out: Path | None,
    datapath: str | None,
) -> None:
    """Train a recipe with and without contrast, and compare both with the base.

    All arms see the same data in the same order with the same positives; MLE-only is the same
    two steps at --contrast-weight 0, and where the recipe asks for it once more with as many
    steps as process the n-pair arm's tokens. Seed k uses fold k of DiaSafety. Writes results.json
    and results.md, and prints the tables.

    \b
    Examples:
      prosocial compare --recipe demo
      prosocial compare --recipe diasafety --fold 0 --fold 1 --out runs/folds
    """
    click.echo(
        run.compare(
            recipe,
            base=base,
            folds=folds,
            settings=settings,
            out=out,
            datapath=datapath,
            say=click.echo,
        )
    )
