"""``prosocial ablate``: the arms of a recipe under one token budget, in one table."""

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
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
    write_results,
)
from parlai_prosocial.cli.mined import MinedData, Scoring, trains_on_mined
from parlai_prosocial.cli.train import (
    STEPS,
    StepResult,
    finished_before,
    preset_arguments,
    recipe_folder,
    tokens_per_step,
    train_step,
    write_finished,
)
from parlai_prosocial.errors import UserError
from parlai_prosocial.folders import write_aside

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
    seeds: int,
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
    agree on a step share its checkpoint. Seed k uses fold k of DiaSafety. After every arm the
    table is written, with the arms that all seeds begun so far have.

    With --judge, sampled replies are judged too: unsafe by that judge, over-cautious in casual
    contexts by the rules that mine uses. A judge that chose an arm's negatives does not score it.
    """
    folder = recipe_folder(recipe)
    plan = read_plan(folder)
    design = _read_arms(folder, arms, with_mined=mined is not None)
    peers = {n: design["arms"][n]["then"] for n in design["chosen"] if "then" in design["arms"][n]}
    if peers:
        from parlai_prosocial.peers.trl import check_peers

        check_peers(peers)
    out = out or Path("runs") / f"ablate-{folder.name}"
    started = time.monotonic()

    from parlai_prosocial.evaluation import comparison
    from parlai_prosocial.evaluation.ablation import ablation_table
    from parlai_prosocial.evaluation.judged import judge_sentinels
    from parlai_prosocial.evaluation.tables import terminal_table

    machine = find_machine(base, datapath)
    mined_data = MinedData(mined, machine.datapath, out) if mined else None
    scoring = Scoring(judge, machine, mined_data, allow_mining_judge)
    measured_on = {key: plan[key] for key in MEASURED_ON} | {"token_budget": token_budget}
    data: dict[int, Any] = {}
    results: dict[int, dict[str, Any]] = {}
    for seed in range(seeds):
        data[seed] = evaluation_data(machine.datapath, seed, plan)
        saved = out / f"seed-{seed}" / "results.json"
        scoring.open(seed)
        measured = saved_rows(saved, measured_on | {"judge": scoring.name})
        rows = measured["results"]
        baselines = comparison.measure_baselines(data[seed])
        if scoring.unsafe is not None:
            heard = set(data[seed].sampled)
            baselines |= judge_sentinels(
                scoring.unsafe,
                scoring.over_cautious,
                [context for context in data[seed].contexts if context.context in heard],
                data[seed].casual_contexts[: len(heard)],
            )
        own = [*settings, *machine.settings, f"seed={seed}", f"diasafety-fold={seed}"]
        trainer = _Trainer(
            folder, out / f"seed-{seed}", base, own, token_budget, design["arms"], mined_data
        )
        for name in (BASE, *design["chosen"]):
            if name in rows:
                _check_mined(rows[name], name, mined_data, saved)
            else:
                steps = [] if name == BASE else trainer.train(name)
                click.echo(f"seed {seed}: measuring {name}")
                model = load_model(machine, steps)
                own_data = mined_data if trains_on_mined(_settings(design, name)) else None
                judges = scoring.judges_of(own_data)
                row = comparison.measure_model(model, data[seed], machine.bf16, seed, judges)
                row["mined"] = own_data and own_data.sha256
                row["trained_tokens"] = sum(step.tokens for step in steps)
                row["train_seconds"] = sum(step.seconds for step in steps)
                rows[name] = row
                write_aside(saved, json.dumps(measured))
            results[seed] = rows | baselines
            if all(design[role] in rows for role in ("control", "primary")):
                table = ablation_table(data, results, design["control"], design["primary"])
                facts = environment(machine.device, machine.bf16, time.monotonic() - started)
                facts |= {"arms": design["chosen"], "seeds": len(results)}
                facts |= {"trl": metadata.version("trl")} if peers else {}
                write_results(out, [table], results, facts)
        click.echo("\n" + terminal_table(table) + "\n")
    click.echo(f"Written: {out / 'results.json'}, {out / 'results.md'}")


def _read_arms(recipe: Path, chosen: str | None, with_mined: bool) -> dict[str, Any]:
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


def _check_mined(row: Mapping[str, Any], name: str, mined: MinedData | None, file: Path) -> None:
    if mined is not None and row["mined"] not in (None, mined.sha256):
        raise UserError(f"{file}: {name} trained on other mined data; give another --out")


def _settings(design: Mapping[str, Any], name: str) -> list[str]:
    return design["arms"].get(name, {}).get("set", [])


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
        mined: MinedData | None,
    ):
        self.recipe, self.out, self.base = recipe, out, base
        self.settings, self.budget, self.arms = settings, budget, arms
        self.mined = mined

    def train(self, name: str) -> list[StepResult]:
        arm = self.arms[name]
        own = arm.get("set", [])
        settings = [*self.settings, *(self.mined.fill(own) if self.mined else own)]
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
        if "then" in arm:
            results.append(self._train_peer(name, settings, results[-1]))
        return results

    def _train_peer(self, name: str, settings: list[str], before: StepResult) -> StepResult:
        """TRL's trainer on step 1's pairs, by default at the learning rate of the step before."""
        from parlai.core.opt import Opt

        from parlai_prosocial.peers.trl import train_peer

        arm = self.arms[name]
        peer, title = arm["then"], f"{name} {arm['then']}"
        rate = arm.get("learning_rate", Opt.load(f"{before.model_file}.opt")["learningrate"])
        arguments = ["-o", str(self.recipe / "step1.opt")]
        arguments += preset_arguments("step1", self.base, settings, before.model_file)
        arguments += ["--learningrate", str(rate)]
        identity = ["trl", peer, "--token-budget", str(self.budget), *arguments]
        folder, command = self.out / f"{peer}-{_digest(identity)}", shlex.join(identity)
        result = finished_before(folder, command, title)
        if result is None:
            model_file = str(folder / "model")
            training = train_peer(peer, arguments, self.budget, model_file, title)
            result = StepResult(model_file, command=command, **asdict(training))
            write_finished(folder, result)
        return result

    def _tokens_per_step(self, arguments: list[str]) -> float:
        """Counted once and kept, so that a resumed run takes the same number of steps."""
        file = self.out / f"tokens-{_digest(arguments)}.json"
        if not file.exists():
            write_aside(file, json.dumps(tokens_per_step(arguments)))
        return json.loads(file.read_text())


def _digest(arguments: Sequence[str]) -> str:
    return hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:12]
