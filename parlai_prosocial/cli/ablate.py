"""``prosocial ablate``: the arms of a recipe under one token budget, in one table."""

import json
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.data.splits import FOLDS
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.machine import find_machine, read_plan, write_results
from parlai_prosocial.experiments.mined import MinedData, Scoring, trains_on_mined
from parlai_prosocial.experiments.rows import BASE, BASELINES, Rows, parallel_order, run_tasks
from parlai_prosocial.training.recipe import recipe_folder
from parlai_prosocial.util.environment import environment


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

    Every step of an arm takes as many steps of training as process the token budget; arms that
    agree on a step share its checkpoint. Seed k uses fold k of DiaSafety. The table has the arms
    that all seeds begun so far have; it is written after every row, with --jobs after the last.
    Stopped half-way, the same command goes on, with as many --jobs as you like.

    With --judge, sampled replies are judged too: unsafe by that judge, over-cautious in casual
    contexts by the rules that mine uses. A judge that chose an arm's negatives does not score it.
    """
    from parlai_prosocial.evaluation.results.tables import terminal_table

    started = time.monotonic()
    if chosen_seeds and seeds is not None:
        raise UserError("--seed, --seeds: give one of them")
    seeds_to_run = sorted(set(chosen_seeds)) or list(range(seeds or 3))
    folder = recipe_folder(recipe)
    plan = read_plan(folder)
    design = _read_arms(folder, arms, with_mined=mined is not None)
    chosen = design["chosen"]
    peers = {n: design["arms"][n]["then"] for n in chosen if "then" in design["arms"][n]}
    if peers:
        from parlai_prosocial.training.trl import check_peers

        check_peers(peers)
    out = out or Path("runs") / f"ablate-{folder.name}"
    machine = find_machine(base, datapath)
    mined_data = MinedData(mined, machine.datapath, out) if mined else None
    rows = Rows(
        folder,
        out,
        base,
        settings,
        token_budget,
        _fill_arms(design, mined_data),
        plan,
        machine,
        Scoring(judge, machine, mined_data, allow_mining_judge),
    )
    measured: dict[int, dict[str, Any]] = {seed: {} for seed in seeds_to_run}
    tasks = [(seed, name) for seed in seeds_to_run for name in (BASELINES, BASE, *chosen)]
    to_run = []
    for seed, name in tasks:
        if saved := rows.saved(seed, name):
            measured[seed] |= saved
        else:
            to_run.append((seed, name))
    if jobs > 1:
        awaited = {design["control"], design["primary"]}
        awaited |= {arm["steps_of"] for arm in design["arms"].values() if "steps_of" in arm}
        to_run = parallel_order(to_run, rows.arms, awaited)

    facts = {"jobs": jobs, "arms": chosen, "seeds": seeds_to_run}
    facts |= {"trl": metadata.version("trl")} if peers else {}

    def write_table() -> dict[str, Any] | None:
        """None where no seed has the control and the primary arm yet."""
        seconds = time.monotonic() - started
        of_run = environment(machine.device, machine.bf16, seconds) | facts
        return _write_table(rows, measured, design, of_run)

    failures: list[str] = []
    if done := len(tasks) - len(to_run):
        click.echo(f"{done} of {len(tasks)} rows were measured before")
    table = None if to_run else write_table()
    for (seed, name), seconds, reason in run_tasks(rows, to_run, jobs):
        done += 1
        outcome = f"failed, {reason}" if reason else f"{seconds:.0f} s"
        click.echo(f"[{done}/{len(tasks)}] seed {seed} {name}: {outcome}")
        if reason:
            log = f"; see {rows.log(seed, name)}" if jobs > 1 else ""
            failures.append(f"seed {seed} {name}: {reason}{log}")
        else:
            measured[seed] |= rows.saved(seed, name)
        # Its intervals take seconds: little beside one arm, much beside many at once.
        if jobs == 1 or done == len(tasks):
            table = write_table()
    if table is not None:
        click.echo("\n" + terminal_table(table) + "\n")
        click.echo(f"Written: {out / 'results.json'}, {out / 'results.md'}")
    if failures:
        click.echo("\n".join(["Failed:", *failures]), err=True)
        raise UserError(f"{len(failures)} of {len(tasks)} rows failed; run again to try them again")


def _fill_arms(design: Mapping[str, Any], mined: MinedData | None) -> dict[str, dict[str, Any]]:
    """The chosen arms and those whose steps they count, as :class:`Rows` takes them."""
    filled: dict[str, dict[str, Any]] = {}
    names = list(design["chosen"])
    for name in names:
        arm = design["arms"][name]
        own = arm.get("set", [])
        data = mined if mined is not None and trains_on_mined(own) else None
        filled[name] = arm | {
            "set": data.fill(own) if data else own,
            "mined": data and data.sha256,
        }
        if "steps_of" in arm and arm["steps_of"] not in names:
            names.append(arm["steps_of"])
    return filled


def _write_table(
    rows: Rows,
    measured: Mapping[int, Mapping[str, dict[str, Any]]],
    design: Mapping[str, Any],
    facts: dict[str, Any],
) -> dict[str, Any] | None:
    """Write the table of the seeds that have the control and the primary arm, and return it."""
    from parlai_prosocial.experiments.ablation import ablation_table

    control, primary = design["control"], design["primary"]
    order = (BASE, *design["chosen"])
    results = {
        seed: {name: found[name] for name in order if name in found}
        | {name: row for name, row in found.items() if name not in order}
        for seed, found in measured.items()
        if control in found and primary in found
    }
    if not results:
        return None
    data = {seed: rows.data(seed) for seed in results}
    table = ablation_table(data, results, control, primary)
    write_results(rows.out, [table], results, facts)
    return table


def _read_arms(recipe: Path, chosen: str | None, with_mined: bool) -> dict[str, Any]:
    """``arms.json``, with the names of the chosen arms under ``chosen``.

    The control and the primary arm always take part: the table needs them.
    """
    file = recipe / "arms.json"
    if not file.is_file():
        raise UserError(f"--recipe {recipe.name}: no {file}, so there are no arms")
    design = json.loads(file.read_text())
    if taken := design["arms"].keys() & {BASE, BASELINES}:
        raise UserError(
            f"{file}: {min(taken)} is the name of a row without training; rename the arm"
        )
    asked = [name.strip() for name in chosen.split(",")] if chosen else list(design["arms"])
    if unknown := [name for name in asked if name not in design["arms"]]:
        raise UserError(
            f"--arms {','.join(unknown)}: no such arm; there are {', '.join(design['arms'])}"
        )
    without_data = [
        name for name in asked if trains_on_mined(_settings(design, name)) and not with_mined
    ]
    if without_data and chosen:
        raise UserError(f"--arms {','.join(without_data)}: trains on mined data; give --mined FILE")
    if without_data:
        click.echo(f"Left out without --mined: {', '.join(without_data)}")
        asked = [name for name in asked if name not in without_data]
    needed = {design["control"], design["primary"], *asked}
    return design | {"chosen": [name for name in design["arms"] if name in needed]}


def _settings(design: Mapping[str, Any], name: str) -> list[str]:
    return design["arms"].get(name, {}).get("set", [])
