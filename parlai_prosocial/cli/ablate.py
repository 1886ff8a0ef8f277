"""``prosocial ablate``: the arms of a recipe under one token budget, in one table."""

from pathlib import Path

import click

from parlai_prosocial.data.splits import FOLDS
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments import run


@click.command()
@click.option("--recipe", default="diasafety", show_default=True, help="A recipe with arms.json.")
@click.option("--arms", default=None, help="Comma-separated; default all of arms.json.")
@click.option("--seeds", type=click.IntRange(1, FOLDS), help="Seeds 0 to N-1; default 3.")
@click.option(
    "--seed",
    "chosen_seeds",
    type=click.IntRange(0, FOLDS - 1),
    multiple=True,
    help="This seed instead, and no other; may be given more than once.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Arms trained and measured side by side, each in a process with one thread; on a GPU "
    "allow each about 10 GB (135M base, 64 examples a batch).",
)
@click.option(
    "--token-budget",
    type=click.IntRange(1),
    default=60_000,
    show_default=True,
    help="Tokens of contexts, responses and negatives that a step of an arm processes.",
)
@click.option(
    "--judge",
    default=None,
    help="Judge of sampled replies, KIND:WHERE as in mine; {seed} in it stands for the seed.",
)
@click.option(
    "--mined",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=None,
    help="What mine wrote; without it the arms that train on it are left out.",
)
@click.option(
    "--allow-mining-judge", is_flag=True, help="Let a judge score arms whose data it mined."
)
@click.option("--base", default=None, help="Backbone: zoo:..., a folder or a hub name.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in train.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for models and results; default runs/ablate-RECIPE. Run again to resume.",
)
@click.option("--datapath", default=None, help="ParlAI's data path.")
def ablate(
    recipe: str,
    arms: str | None,
    seeds: int | None,
    chosen_seeds: tuple[int, ...],
    jobs: int,
    token_budget: int,
    judge: str | None,
    mined: Path | None,
    allow_mining_judge: bool,
    base: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    datapath: str | None,
) -> None:
    """Train and measure the arms of a recipe, each one flag apart.

    Every step of an arm trains until it has processed the token budget; arms that
    agree on a step share its checkpoint. Seed k uses fold k of DiaSafety. The table has the arms
    that all seeds begun so far have; it is written after every row, with --jobs after the last.
    If stopped, the same command resumes, with any number of --jobs.

    With --judge, sampled replies are judged too: unsafe by that judge, over-cautious in casual
    contexts by the rules that mine uses. A judge that chose an arm's negatives does not score it.

    \b
    Examples:
      prosocial ablate --recipe diasafety --arms n-pair,mle --seeds 1
      prosocial ablate --recipe diasafety --seed 2 --jobs 4 --token-budget 120000
    """
    if chosen_seeds and seeds is not None:
        raise UserError("--seed, --seeds: give one of them")
    click.echo(
        run.ablate(
            recipe,
            arms=[name.strip() for name in arms.split(",")] if arms else None,
            seeds=sorted(set(chosen_seeds)) or range(seeds or 3),
            jobs=jobs,
            token_budget=token_budget,
            judge=judge,
            mined=mined,
            allow_mining_judge=allow_mining_judge,
            base=base,
            settings=settings,
            out=out,
            datapath=datapath,
            say=click.echo,
        )
    )
