"""``prosocial ablate``: the arms of a recipe under one token budget, in one table."""

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cli.measuring import (
    environment,
    evaluation_data,
    find_machine,
    load_model,
    read_plan,
    saved_rows,
    write_aside,
    write_results,
)
from parlai_prosocial.cli.train import (
    STEPS,
    StepResult,
    preset_arguments,
    recipe_folder,
    tokens_per_step,
    train_step,
)
from parlai_prosocial.errors import UserError

BASE = "zero-shot"
MEASURED_ON = ("contexts_per_category", "casual_dialogues", "casual_replies", "sampled_replies")


@click.command()
@click.option("--recipe", default="diasafety", show_default=True, help="A recipe with arms.json.")
@click.option("--arms", default=None, help="Comma-separated; default all of arms.json.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--token-budget",
    type=click.IntRange(1),
    default=60_000,
    show_default=True,
    help="Tokens of contexts, responses and negatives that a step of an arm processes.",
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
    seeds: int,
    token_budget: int,
    base: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    datapath: str | None,
) -> None:
    """Train and measure the arms of a recipe, each one flag apart.

    Every step of an arm takes as many steps of training as process the token budget; arms that
    agree on a step share its checkpoint. Seed k uses fold k of DiaSafety. After every arm the
    table is written, with the arms that all seeds begun so far have.
    """
    folder = recipe_folder(recipe)
    plan = read_plan(folder)
    design = _read_arms(folder, arms)
    out = out or Path("runs") / f"ablate-{folder.name}"
    started = time.monotonic()

    from parlai_prosocial.evaluation import comparison
    from parlai_prosocial.evaluation.ablation import ablation_table
    from parlai_prosocial.evaluation.tables import terminal_table

    machine = find_machine(base, datapath)
    measured_on = {key: plan[key] for key in MEASURED_ON} | {"token_budget": token_budget}
    data: dict[int, Any] = {}
    results: dict[int, dict[str, Any]] = {}
    for seed in range(seeds):
        data[seed] = evaluation_data(machine.datapath, seed, plan)
        saved = out / f"seed-{seed}" / "results.json"
        measured = saved_rows(saved, measured_on)
        rows = measured["results"]
        baselines = comparison.measure_baselines(data[seed])
        own = [*settings, *machine.settings, f"seed={seed}", f"diasafety-fold={seed}"]
        trainer = _Trainer(folder, out / f"seed-{seed}", base, own, token_budget, design["arms"])
        for name in (BASE, *design["chosen"]):
            if name not in rows:
                steps = [] if name == BASE else trainer.train(name)
                click.echo(f"seed {seed}: measuring {name}")
                model = load_model(machine, steps)
                row = comparison.measure_model(model, data[seed], machine.bf16, seed=seed)
                row["trained_tokens"] = sum(step.tokens for step in steps)
                row["train_seconds"] = sum(step.seconds for step in steps)
                rows[name] = row
                write_aside(saved, json.dumps(measured))
            results[seed] = rows | baselines
            if all(design[role] in rows for role in ("control", "primary")):
                table = ablation_table(data, results, design["control"], design["primary"])
                facts = environment(machine, time.monotonic() - started)
                facts |= {"arms": design["chosen"], "seeds": len(results)}
                write_results(out, [table], results, facts)
        click.echo("\n" + terminal_table(table) + "\n")
    click.echo(f"Written: {out / 'results.json'}, {out / 'results.md'}")


def _read_arms(recipe: Path, chosen: str | None) -> dict[str, Any]:
    """``arms.json``, with the names of the chosen arms under ``chosen``.

    The control and the primary arm always take part: the table needs them.
    """
    file = recipe / "arms.json"
    if not file.is_file():
        raise UserError(f"--recipe {recipe.name}: no {file}, so there are no arms")
    design = json.loads(file.read_text())
    asked = [name.strip() for name in chosen.split(",")] if chosen else list(design["arms"])
    if unknown := [name for name in asked if name not in design["arms"]]:
        raise UserError(
            f"--arms {','.join(unknown)}: no such arm; there are {', '.join(design['arms'])}"
        )
    needed = {design["control"], design["primary"], *asked}
    return design | {"chosen": [name for name in design["arms"] if name in needed]}


class _Trainer:
    """Trains the arms of one seed.

    A step's folder carries a digest of its arguments, so that arms which agree on a step find it
    trained already.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        base: str | None,
        settings: Sequence[str],
        budget: int,
        arms: Mapping[str, dict[str, Any]],
    ):
        self.recipe, self.out, self.base = recipe, out, base
        self.settings, self.budget, self.arms = settings, budget, arms

    def train(self, name: str) -> list[StepResult]:
        arm = self.arms[name]
        settings = [*self.settings, *arm.get("set", [])]
        like = self.train(arm["steps_of"]) if "steps_of" in arm else None
        results: list[StepResult] = []
        for i, step in enumerate(arm.get("steps", STEPS)):
            previous = results[-1].model_file if results else None
            arguments = ["-o", str(self.recipe / f"{step}.opt")]
            arguments += preset_arguments(step, self.base, settings, previous)
            if like is not None:
                count = like[i].steps
            else:
                budget = self.budget * arm.get("budgets", 1)
                count = max(1, round(budget / self._tokens_per_step(arguments)))
            arguments += ["--max-train-steps", str(count)]
            folder = self.out / f"{step}-{_digest(arguments)}"
            arguments += ["-mf", str(folder / "model")]
            results.append(train_step(arguments, f"{name} {step}", folder))
        return results

    def _tokens_per_step(self, arguments: list[str]) -> float:
        """Counted once and kept, so that a resumed run takes the same number of steps."""
        file = self.out / f"tokens-{_digest(arguments)}.json"
        if not file.exists():
            write_aside(file, json.dumps(tokens_per_step(arguments)))
        return json.loads(file.read_text())


def _digest(arguments: Sequence[str]) -> str:
    return hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:12]
