"""``prosocial annotate``: safety labels and rules of thumb for any ParlAI task."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.errors import with_flags
from parlai_prosocial.mining import annotate as mining


@click.command()
@click.option("--task", required=True, help="Any ParlAI task; several with commas between.")
@click.option(
    "--rot-model", required=True, help="Checkpoint, backbone, or http://HOST:PORT/v1#NAME."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.jsonl."
)
@click.option(
    "--few-shot/--no-few-shot",
    default=None,
    help="Show the model examples first. Default: yes, unless it is a checkpoint.",
)
@click.option("--limit", type=int, default=None, help="Most turns, evenly spread; default all.")
@click.option(
    "--datatype",
    type=click.Choice(["train", "valid", "test"]),
    default="train",
    show_default=True,
    help="Split of the task; the rows are of that split too.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parlai flag of the task."
)
@click.option("--concurrency", default=8, show_default=True, help="Most calls to an address.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="What samples models that lie here; auto: OpenVINO where that is installed and agrees.",
)
@click.option("--datapath", default=None, help="ParlAI's data path.")
def annotate(**flags: Any) -> None:
    """Label every turn's need of caution, and write rules of thumb where it is not casual.

    --rot-model is a checkpoint trained on -t prosocial:Canary. Any other model is shown the
    examples of parlai_prosocial/data/bundled/canary_few_shot.txt; expect little of a small one.
    OUT has the format of your own data: train on it with -t prosocial:Own --prosocial-data OUT, or
    -t prosocial:Canary. OUT's .summary.json says how many answers could not be read and, where the
    task has labels and rules of thumb itself, how far they agree.

    \b
    Example:
      prosocial annotate --task self_dialogue --rot-model zoo:prosocial/smollm2_135m \\
          --limit 100 --out annotated.jsonl
    """
    click.echo(with_flags(mining.annotate)(**flags))
