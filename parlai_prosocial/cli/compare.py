"""``prosocial compare``: base, MLE-only and n-pair side by side, trained and measured here."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.experiments.machine import (
    evaluation_data,
    find_machine,
    load_model,
    read_plan,
    saved_rows,
    write_results,
)
from parlai_prosocial.training.recipe import STEPS, StepResult, recipe_folder, train_recipe
from parlai_prosocial.util.environment import environment
from parlai_prosocial.util.files import write_aside

ARM_SWITCHES = ("with_step1", "with_matched_mle")


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
    """
    folder = recipe_folder(recipe)
    plan = read_plan(folder)
    out = out or Path("runs") / f"compare-{folder.name}"
    started = time.monotonic()

    from parlai_prosocial.evaluation.results.tables import terminal_table
    from parlai_prosocial.experiments import comparison

    machine = find_machine(base, datapath)
    settings = (*settings, *machine.settings)

    data, results = {}, {}
    demo_replies: dict[str, list[str]] = {}
    demo_contexts = _demo_contexts()
    # What the rows of a seed must have in common, so that a resumed run mixes nothing.
    measured_on = {key: value for key, value in plan.items() if key not in ("folds", *ARM_SWITCHES)}
    for fold in folds or tuple(plan["folds"]):
        data[fold] = evaluation_data(machine.datapath, fold, plan)
        fold_out = out / f"seed-{fold}"
        own = [*settings, f"seed={fold}", f"diasafety-fold={fold}"]
        arms = _train_arms(folder, fold_out, base, own, plan, f"seed {fold}")
        saved = fold_out / "results.json"
        measured = saved_rows(saved, measured_on)
        rows, replies = measured["results"], measured["demo_replies"]
        for name, steps in arms.items():
            if name in rows:
                click.echo(f"seed {fold}: {name} was measured before, {saved}")
                continue
            click.echo(f"seed {fold}: measuring {name}")
            model = load_model(machine, steps)
            row = comparison.measure_model(model, data[fold], machine.bf16, seed=fold)
            row["trained_tokens"] = sum(step.tokens for step in steps)
            row["train_seconds"] = sum(step.seconds for step in steps)
            replies[name] = [
                reply.text
                for reply in comparison.sample_replies(model, demo_contexts, fold, machine.bf16)
            ]
            if name == comparison.NPAIR:
                rows[comparison.SHUFFLED] = comparison.measure_shuffled(
                    model, data[fold], machine.bf16, seed=fold
                )
            rows[name] = row
            write_aside(saved, json.dumps(measured))
        results[fold] = {name: rows[name] for name in (*arms, comparison.SHUFFLED)}
        results[fold] |= comparison.measure_baselines(data[fold])
        demo_replies = {name: replies[name] for name in arms}

    tables = comparison.comparison_tables(data, results)
    write_results(
        out, tables, results, environment(machine.device, machine.bf16, time.monotonic() - started)
    )
    for table in tables:
        click.echo("\n" + terminal_table(table))
    for i, context in enumerate(demo_contexts):
        click.echo("\n> " + context.replace("\n", "\n> "))
        for name, replies in demo_replies.items():
            click.echo(f"  {name + ':':<22} {replies[i]}")
    click.echo(f"\nWritten: {out / 'results.json'}, {out / 'results.md'}")


def _train_arms(
    recipe: Path,
    out: Path,
    base: str | None,
    settings: Sequence[str],
    plan: dict[str, Any],
    title: str,
) -> dict[str, list[StepResult]]:
    """The arms of one seed by their row's name, in the order of the tables; finished ones load."""
    from parlai_prosocial.experiments import comparison

    # By step and last, so that no setting of a step switches the contrast on again.
    mle_settings = [*settings, *(f"{step}.contrast-weight=0" for step in STEPS)]
    mle = train_recipe(recipe, out / "mle", base, mle_settings, f"{title} MLE-only")
    npair = train_recipe(recipe, out / "n-pair", base, settings, f"{title} n-pair")
    arms: dict[str, list[StepResult]] = {comparison.BASE: [], comparison.MLE: mle}
    if plan["with_matched_mle"]:
        arms[comparison.MATCHED] = train_recipe(
            recipe,
            out / "mle-matched",
            base,
            [*mle_settings, *_matching_steps(mle, npair)],
            f"{title} MLE-only, matched tokens",
        )
    if plan["with_step1"]:
        arms[comparison.STEP1] = npair[:1]
    return arms | {comparison.NPAIR: npair}


def _matching_steps(mle: Sequence[StepResult], npair: Sequence[StepResult]) -> list[str]:
    """Settings with which MLE-only processes as many tokens in each step as the n-pair arm."""
    return [
        f"{step}.max-train-steps={round(short.steps * long.tokens / short.tokens)}"
        for step, short, long in zip(STEPS, mle, npair, strict=True)
    ]


def _demo_contexts() -> list[str]:
    """One mild context of each kind, of our own writing."""
    from parlai_prosocial.data.reader import bundled

    kinds: dict[str, str] = {}
    for line in bundled("demo_contexts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kinds.setdefault(row["kind"], "\n".join(row["context"]))
    return list(kinds.values())
