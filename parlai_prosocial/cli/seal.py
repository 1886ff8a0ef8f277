"""``prosocial seal``: record the hashes of a checkpoint that an earlier version wrote without."""

import click

from parlai_prosocial.util.counting import counted


@click.command()
@click.argument("model")
@click.option("--datapath", envvar="PARLAI_DATAPATH", default=None, help="ParlAI's data path.")
def seal(model: str, datapath: str | None) -> None:
    """Record size and SHA-256 of every file of MODEL, a checkpoint without hashes.

    What an earlier version wrote has none, so nobody can tell whether its weights are those that
    were trained: it opens, talks and trains on, but is not measured until it is sealed. Seal it if
    you trust the files as they are now. A checkpoint of today has its hashes from the start.

    \b
    Examples:
      prosocial seal runs/old/model
    """
    from parlai_prosocial.zoo.sealed import open_saved

    files = open_saved(model, "MODEL", datapath).seal()
    click.echo(
        f"{model}: recorded the hashes of {counted(files, 'file')}"
        if files
        else f"{model}: has its hashes, and every file is as it was written"
    )
