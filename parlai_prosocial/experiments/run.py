"""``prosocial compare`` and ``prosocial ablate``: arms are trained and measured, then tabulated.

Both are one engine, :func:`measure_rows`. Its record is a file a row, which says that the row need
not be measured again; training has its own (``training.recipe``). A journal of chunks would be one
file that all processes of ``--jobs`` write.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from parlai_prosocial.data.reader import bundled
from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.machine import (
    find_machine,
    keep_precision,
    read_plan,
    write_results,
)
from parlai_prosocial.experiments.mined import MinedData, Scoring, trains_on_mined
from parlai_prosocial.experiments.rows import (
    Measures,
    Rows,
    Task,
    parallel_order,
    run_tasks,
    shuffled_name,
)
from parlai_prosocial.experiments.train_arms import (
    BASE,
    BASELINES,
    Design,
    demo_design,
    read_design,
)
from parlai_prosocial.training.recipe import check_settings, recipe_folder
from parlai_prosocial.util.environment import environment
from parlai_prosocial.util.files import Say, text_lines
from parlai_prosocial.util.writer import Writer

COMPARED_BASE = "base"
"""The untouched base's row in the tables of ``compare``."""

Measured = dict[int, dict[str, dict[str, Any]]]
"""seed -> row -> measurements."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment has found; printed, it is what its command ends with.

    Attributes:
        out: folder with ``results.json``, ``results.md`` and the models.
        tables: as ``results.tables`` makes them.
        results: seed -> row -> measurements.
        replies: context -> row -> a reply of that row's model.
    """

    out: Path
    tables: list[dict[str, Any]]
    results: Measured
    replies: Mapping[str, Mapping[str, str]]

    def __str__(self) -> str:
        from parlai_prosocial.evaluation.results.tables import terminal_table

        parts = [terminal_table(table) for table in self.tables]
        for context, replies in self.replies.items():
            lines = ["> " + context.replace("\n", "\n> ")]
            lines += [f"  {name + ':':<22} {reply}" for name, reply in replies.items()]
            parts.append("\n".join(lines))
        parts.append(f"Written: {self.out / 'results.json'}, {self.out / 'results.md'}")
        return "\n" + "\n\n".join(parts)


def ablate(
    recipe: str | Path = "diasafety",
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
    token_budget: int = 60_000,
    judge: str | None = None,
    mined: str | Path | None = None,
    allow_mining_judge: bool = False,
    unsafe_label: str | None = None,
    reply_only: bool = False,
    fold: int | None = None,
    base: str | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    datapath: str | None = None,
    say: Say = print,
) -> Experiment:
    """Train and measure the arms of a recipe's ``arms.json`` under one token budget.

    Called again with the same arguments it goes on where it was stopped, with as many ``jobs`` as
    you like. The table has the arms that all seeds begun so far have.

    Args:
        recipe: a bundled recipe or a folder, with step1.opt, step2.opt, compare.json, arms.json.
        arms: names; all of them where None. The control and the primary arm always take part.
        seeds: seed k uses fold k of DiaSafety, or all use ``fold``.
        jobs: arms trained and measured side by side, each in a process of its own.
        token_budget: tokens of contexts, responses and negatives that a step of an arm processes.
        judge: of sampled replies, ``KIND:WHERE`` as in mine; ``{seed}`` in it is the seed.
        mined: file that mine wrote; without it the arms that train on it are left out.
        allow_mining_judge: let a judge score arms whose data it mined.
        unsafe_label, reply_only: see :class:`~parlai_prosocial.judges.registry.JudgeOptions`.
        fold: of DiaSafety for all seeds, so that they differ in the seed alone and the intervals
            say how much that is; None gives each seed contexts of its own.
        base: the backbone, None for the presets'.
        settings: as of :func:`parlai_prosocial.training.recipe.train`.
        out: folder for models and results; ``runs/ablate-RECIPE`` where None.
        datapath: ParlAI's data path; ParlAI's own where None.
        say: takes the lines that tell what is being done.

    Raises:
        UserError: a mistake in the arguments, or rows failed; those that did not are kept.
    """
    from parlai_prosocial.experiments.ablation import ablation_table

    folder = recipe_folder(str(recipe))
    check_settings(folder, base, settings)
    plan, design = read_plan(folder), read_design(folder)
    chosen = _chosen_arms(design, arms, mined is not None, say)
    baselines = design.baselines(chosen)
    if baselines:
        from parlai_prosocial.training.trl import check_baselines

        check_baselines(baselines)
    target = Path(out) if out is not None else Path("runs") / f"ablate-{folder.name}"
    machine = find_machine(base, datapath, target)
    mined_data = MinedData(Path(mined), machine.datapath, target) if mined is not None else None
    rows = Rows(
        folder,
        target,
        base,
        settings,
        token_budget,
        _filled_arms(design, chosen, mined_data),
        plan,
        machine,
        Scoring(judge, machine, mined_data, allow_mining_judge, unsafe_label, reply_only),
        fold,
    )
    facts = {"jobs": jobs, "arms": chosen, "seeds": list(seeds)}
    facts |= {} if fold is None else {"fold": fold}
    facts |= {"trl": metadata.version("trl")} if baselines else {}
    started = time.monotonic()

    def tabulate(measured: Measured) -> Experiment | None:
        order = (BASE, *chosen)
        results = {
            seed: {name: found[name] for name in order if name in found}
            | {name: row for name, row in found.items() if name not in order}
            for seed, found in measured.items()
            if design.control in found and design.primary in found
        }
        if not results:
            return None
        data = {seed: rows.data(seed) for seed in results}
        table = ablation_table(data, results, design.control, design.primary, chosen)
        seconds = time.monotonic() - started
        of_run = environment(machine.device, machine.bf16, seconds) | facts
        write_results(target, [table], results, of_run)
        return Experiment(target, [table], results, {})

    tasks = [(seed, name) for seed in seeds for name in (BASELINES, BASE, *chosen)]
    awaited = {design.control, design.primary}
    awaited |= {arm["steps_of"] for arm in design.arms.values() if "steps_of" in arm}
    with Writer(target, "--out"):
        keep_precision(target, machine)
        ordered = partial(parallel_order, arms=rows.arms, awaited=awaited)
        found = measure_rows(rows, tasks, jobs, ordered, tabulate, say)
    if found is None:
        raise UserError(f"{target}: no seed has {design.control} and {design.primary} yet")
    return found


def compare(
    recipe: str | Path = "demo",
    *,
    base: str | None = None,
    folds: Sequence[int] = (),
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    datapath: str | None = None,
    say: Say = print,
) -> Experiment:
    """Train a recipe with and without contrast at its own numbers of steps, and compare.

    The arms are those that ``compare.json`` names, of the recipe's ``arms.json`` or, where it has
    none, of the demo recipe's; the untouched base and rows that never see a context stand beside.
    Called again with the same arguments it goes on where it was stopped.

    Args:
        recipe: a bundled recipe or a folder, with step1.opt, step2.opt and compare.json.
        folds: seeds, each with the fold of DiaSafety that has its number; the recipe's where empty.
        base, settings, out, datapath, say: as of :func:`ablate`; ``runs/compare-RECIPE``.

    Raises:
        UserError: a mistake in the arguments, or rows failed; those that did not are kept.
    """
    from parlai_prosocial.experiments.comparison import comparison_tables

    folder = recipe_folder(str(recipe))
    check_settings(folder, base, settings)
    plan = read_plan(folder)
    design = read_design(folder) if (folder / "arms.json").is_file() else demo_design()
    chosen = _compared_arms(folder, plan, design)
    target = Path(out) if out is not None else Path("runs") / f"compare-{folder.name}"
    seeds = list(folds) or list(plan["folds"])
    machine = find_machine(base, datapath, target)
    shown = _demo_contexts()
    rows = Rows(
        folder,
        target,
        base,
        settings,
        None,
        _filled_arms(design, chosen, None),
        plan,
        machine,
        Scoring(None, machine, None, False),
        shuffled=design.primary,
        shown=shown,
    )
    row_names = {BASE: COMPARED_BASE} | {n: design.arms[n].get("row", n) for n in chosen}
    shuffled = shuffled_name(design.primary)
    row_names[shuffled] = shuffled_name(row_names[design.primary])
    started = time.monotonic()

    def tabulate(measured: Measured) -> Experiment | None:
        if any(name not in found for found in measured.values() for name in row_names):
            return None
        results = {
            seed: {row: found[name] for name, row in row_names.items()}
            | {name: row for name, row in found.items() if name not in row_names}
            for seed, found in measured.items()
        }
        data = {seed: rows.data(seed) for seed in results}
        control, primary, *trained = (
            row_names[name] for name in (design.control, design.primary, *chosen)
        )
        tables = comparison_tables(data, results, control, primary, trained)
        seconds = time.monotonic() - started
        write_results(target, tables, results, environment(machine.device, machine.bf16, seconds))
        said = {row_names[name]: rows.replies(seeds[-1], name) for name in (BASE, *chosen)}
        replies = {
            context: {name: texts[i] for name, texts in said.items()}
            for i, context in enumerate(shown)
        }
        return Experiment(target, tables, results, replies)

    tasks = [(seed, name) for seed in seeds for name in (*chosen, BASE, BASELINES)]
    with Writer(target, "--out"):
        keep_precision(target, machine)
        found = measure_rows(rows, tasks, 1, list, tabulate, say)
    assert found is not None  # no row is missing where measure_rows returns
    return found


def measure_rows(
    rows: Measures,
    tasks: Sequence[Task],
    jobs: int,
    ordered: Callable[[Sequence[Task]], list[Task]],
    tabulate: Callable[[Measured], Experiment | None],
    say: Say,
) -> Experiment | None:
    """Measure what was not measured before, and tabulate what there is after every row.

    Args:
        rows: how to measure and where it is kept.
        tasks: seeds and names of rows.
        jobs: processes; with more than one the table is made at the end only.
        ordered: in which order more than one process takes them.
        tabulate: writes the tables and returns them, None where there is too little for any.
        say: takes the progress.

    Raises:
        UserError: rows failed; the others are kept and in the table.
    """
    measured: Measured = {seed: {} for seed, _ in tasks}
    to_run = []
    for seed, name in tasks:
        if saved := rows.saved(seed, name):
            measured[seed] |= saved
        else:
            to_run.append((seed, name))
    if jobs > 1:
        to_run = ordered(to_run)
    if done := len(tasks) - len(to_run):
        say(f"{done} of {len(tasks)} rows were measured before")
    failures: list[str] = []
    found = None if to_run else tabulate(measured)
    for (seed, name), seconds, reason in run_tasks(rows, to_run, jobs):
        done += 1
        say(f"[{done}/{len(tasks)}] seed {seed} {name}: {reason or f'{seconds:.0f} s'}")
        if reason:
            log = f"; see {rows.log(seed, name)}" if jobs > 1 else ""
            failures.append(f"seed {seed} {name}: {reason}{log}")
        else:
            measured[seed] |= rows.saved(seed, name)
        # Its intervals take seconds: little beside one arm, much beside many at once.
        if jobs == 1 or done == len(tasks):
            found = tabulate(measured)
    if failures:
        if found is not None:
            say(str(found))
        say("\n".join(["Failed:", *failures]))
        raise UserError(f"{len(failures)} of {len(tasks)} rows failed; run again to try them again")
    return found


def _chosen_arms(
    design: Design, asked: Sequence[str] | None, with_mined: bool, say: Say
) -> list[str]:
    """The arms of an ablation: those asked for, or all that there is data for."""
    names = list(design.arms if asked is None else asked)
    design.check(names, "--arms")
    needing = [n for n in names if trains_on_mined(design.settings(n)) and not with_mined]
    if needing and asked is not None:
        raise UserError(f"--arms {','.join(needing)}: trains on mined data; give --mined FILE")
    if needing:
        say(f"Left out without --mined: {', '.join(needing)}")
    return design.with_compared([name for name in names if name not in needing])


def _compared_arms(folder: Path, plan: Mapping[str, Any], design: Design) -> list[str]:
    """The arms of a comparison, in the order of its tables."""
    flag = f"{folder / 'compare.json'}: arms"
    if "arms" not in plan:
        raise UserError(f"{flag}: is missing; name the arms to compare, among them the control")
    names = list(plan["arms"])
    design.check(names, flag)
    if missing := [n for n in (design.control, design.primary) if n not in names]:
        raise UserError(f"{flag}: add {', '.join(missing)}, which the others are compared with")
    if mined := [name for name in names if trains_on_mined(design.settings(name))]:
        raise UserError(f"{flag}: {', '.join(mined)} trains on mined data; use prosocial ablate")
    return names


def _filled_arms(
    design: Design, chosen: Sequence[str], mined: MinedData | None
) -> dict[str, dict[str, Any]]:
    """The chosen arms and those whose steps or tokens they take, as :class:`Rows` takes them."""
    filled: dict[str, dict[str, Any]] = {}
    names = list(chosen)
    for name in names:
        arm, own = design.arms[name], design.settings(name)
        data = mined if mined is not None and trains_on_mined(own) else None
        filled[name] = arm | {
            "set": data.fill(own) if data else own,
            "mined": data and data.sha256,
            "definition": {k: v for k, v in arm.items() if k not in ("what", "row")},
        }
        names += [arm[k] for k in ("steps_of", "tokens_of") if k in arm and arm[k] not in names]
    return filled


def _demo_contexts() -> list[str]:
    """One mild context of each kind, of our own writing, newline-packed."""
    kinds: dict[str, str] = {}
    for line in text_lines(bundled("demo_contexts.jsonl")):
        row = json.loads(line)
        kinds.setdefault(row["kind"], "\n".join(row["context"]))
    return list(kinds.values())
