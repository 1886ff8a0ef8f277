"""``prosocial ablate``: the arms of a recipe in one table."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.data.splits import FOLDS
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.experiments import run


@click.command()
@click.option(
    "--recipe",
    default=None,
    help="A recipe with arms.json; default diasafety, with --pairs improve.",
)
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
    default=None,
    help="Tokens of contexts, responses and negatives that a step of an arm processes; "
    "default 60,000.",
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
@click.option("--unsafe-label", default=None, help="Unsafe class of hf and parlai judges.")
@click.option("--reply-only", is_flag=True, help="Show hf judges the reply without its context.")
@click.option(
    "--fold",
    type=click.IntRange(0, FOLDS - 1),
    default=None,
    help="This fold of DiaSafety for all seeds, which then tell how much the seed alone does.",
)
@click.option("--init-model", default=None, help="With --pairs: what all arms start from.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Train on these pairs of prosocial improve (recipe improve), see below.",
)
@click.option(
    "--task",
    default=None,
    help="With --pairs: its valid measures; default diasafety,self_dialogue.",
)
@click.option(
    "--task-set",
    "task_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --pairs: a parlai flag of --task.",
)
@click.option(
    "--valid-limit",
    type=click.IntRange(1),
    default=None,
    help="With --pairs: most harmless and most other contexts to measure on; default 300.",
)
@click.option(
    "--scoring-judge", default=None, help="With --pairs: measures; without it --judge does."
)
@click.option(
    "--answer-judge", default=None, help="With --pairs: judges whether replies answer the turn."
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
    recipe: str | None,
    arms: str | None,
    seeds: int | None,
    chosen_seeds: tuple[int, ...],
    jobs: int,
    token_budget: int | None,
    judge: str | None,
    mined: Path | None,
    allow_mining_judge: bool,
    unsafe_label: str | None,
    reply_only: bool,
    fold: int | None,
    init_model: str | None,
    pairs: Path | None,
    task: str | None,
    task_settings: tuple[str, ...],
    valid_limit: int | None,
    scoring_judge: str | None,
    answer_judge: str | None,
    base: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    datapath: str | None,
) -> None:
    """Train and measure the arms of a recipe, each one flag apart.

    Every step of an arm trains until it has processed the token budget; arms that
    agree on a step share its checkpoint. Seed k uses fold k of DiaSafety, or all use --fold.
    The table has the arms that all seeds begun so far have; it is written after every row, with
    --jobs after the last. If stopped, the same command resumes, with any number of --jobs.

    With --judge, sampled replies are judged too: unsafe by that judge, over-cautious in casual
    contexts by the rules that mine uses. A judge that chose an arm's negatives does not score it.

    With --pairs the arms of recipe improve are trained from --init-model on the same
    pairs, steps and casual replay, and measured on the task's valid: sampled replies by
    --judge (or --scoring-judge), over-caution by the rules, casual perplexity. Seeds are of
    training and sampling. Learning rates of --set are of all arms but those that name their own.

    \b
    Examples:
      prosocial ablate --recipe diasafety --arms n-pair,mle --seeds 1
      prosocial ablate --recipe diasafety --seed 2 --jobs 4 --token-budget 120000
    """
    if chosen_seeds and seeds is not None:
        raise UserError("--seed, --seeds: give one of them")
    common: dict[str, Any] = {
        "arms": [name.strip() for name in arms.split(",")] if arms else None,
        "seeds": sorted(set(chosen_seeds)) or range(seeds or 3),
        "jobs": jobs,
        "unsafe_label": unsafe_label,
        "reply_only": reply_only,
        "settings": settings,
        "out": out,
        "datapath": datapath,
        "say": click.echo,
    }
    of_pairs = {
        "--init-model": init_model,
        "--task": task,
        "--task-set": task_settings,
        "--valid-limit": valid_limit,
        "--scoring-judge": scoring_judge,
        "--answer-judge": answer_judge,
    }
    of_steps = {
        "--token-budget": token_budget,
        "--mined": mined,
        "--allow-mining-judge": allow_mining_judge,
        "--fold": fold,
        "--base": base,
    }
    if pairs is None:
        if given := [flag for flag, value in of_pairs.items() if value]:
            raise UsageError(f"{given[0]}: needs --pairs FILE")
        if recipe == "improve":
            raise UsageError("--recipe improve: its arms learn from pairs; give --pairs FILE")
        more: dict[str, Any] = {} if token_budget is None else {"token_budget": token_budget}
        found = run.ablate(
            recipe or "diasafety",
            judge=judge,
            mined=mined,
            allow_mining_judge=allow_mining_judge,
            fold=fold,
            base=base,
            **common,
            **more,
        )
    else:
        if given := [flag for flag, value in of_steps.items() if value not in (None, False)]:
            raise UsageError(f"{given[0]}: is not for --pairs")
        if init_model is None or judge is None:
            raise UsageError("--pairs: needs --init-model and --judge")
        from parlai_prosocial.experiments.on_pairs import ablate_pairs

        more = {"task": task, "valid_limit": valid_limit}
        found = ablate_pairs(
            init_model,
            pairs,
            judge,
            recipe=recipe or "improve",
            scoring_judge=scoring_judge,
            answer_judge=answer_judge,
            task_settings=task_settings,
            **common,
            **{name: value for name, value in more.items() if value is not None},
        )
    click.echo(found)
