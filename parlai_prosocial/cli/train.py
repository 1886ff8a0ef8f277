"""``prosocial train``: a recipe's two steps, each the stock ``parlai train_model``."""

import json
import logging
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from tqdm import tqdm

from parlai_prosocial.errors import UserError

RECIPES = Path(__file__).parent.parent / "recipes"
STEPS = ("step1", "step2")


@dataclass
class StepResult:
    """What a finished step left.

    Attributes:
        model_file: ParlAI's ``-mf``.
        steps: training steps.
        tokens: tokens of contexts, responses and negatives that were processed.
        seconds: wall time of training.
        command: the equivalent stock command.
    """

    model_file: str
    steps: int
    tokens: int
    seconds: float
    command: str


def recipe_folder(name: str) -> Path:
    """A bundled recipe's folder, or a folder of one's own with step1.opt and step2.opt."""
    for folder in (RECIPES / name, Path(name)):
        if all((folder / f"{step}.opt").is_file() for step in STEPS):
            return folder
    known = ", ".join(sorted(p.name for p in RECIPES.iterdir() if (p / "step1.opt").exists()))
    raise UserError(
        f"--recipe {name}: no such recipe; use one of {known}, "
        "or a folder with step1.opt and step2.opt"
    )


def step_arguments(
    recipe: Path, step: str, out: Path, base: str | None, settings: Sequence[str]
) -> list[str]:
    """Arguments of ``parlai train_model`` for a step.

    Settings are ``key=value`` for both steps, ``step1.key=value`` for one.
    """
    arguments = ["-o", str(recipe / f"{step}.opt"), "-mf", str(out / step / "model")]
    if step == "step2":
        arguments += ["--init-model", str(out / "step1" / "model")]
    if base is not None:
        arguments += ["--backbone", base]
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise UserError(f"--set {setting}: write it as key=value")
        prefix, dot, rest = key.partition(".")
        if dot and prefix in STEPS:
            if prefix != step:
                continue
            key = rest
        arguments += ["--" + key.strip("-").replace("_", "-"), value]
    return arguments


def train_step(arguments: list[str], title: str, out: Path) -> StepResult:
    """Run one step in this process, or return its result where it was finished before."""
    from parlai.scripts.train_model import TrainLoop, TrainModel, set_seed
    from parlai.utils.logging import set_log_level
    from transformers.utils.logging import disable_progress_bar

    command = shlex.join(["parlai", "train_model", *arguments])
    finished = out / "finished.json"
    if finished.exists():
        result = StepResult(**json.loads(finished.read_text()))
        if result.command != command:
            raise UserError(
                f"{finished}: that step was trained by another command; "
                "give another --out or delete its folder"
            )
        click.echo(f"{title}: finished before, {out}")
        return result
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()  # of a second's loading; ours is the one to watch
    # As `parlai train_model ARGUMENTS` does it, with a progress bar around its loop.
    opt = TrainModel.setup_args().parse_args(arguments)
    set_log_level(logging.WARNING)
    started, tokens = time.monotonic(), 0.0
    loop = TrainLoop(opt)
    if opt["seed"] is not None:
        set_seed(opt["seed"])
    with tqdm(total=int(loop.max_train_steps), desc=title, unit="step") as bar:
        for report in loop.train_steps():
            steps = loop._train_steps - bar.n
            tokens += float(report["useful_tokens"]) * steps
            bar.set_postfix(ppl=f"{float(report['ppl']):.1f}", refresh=False)
            bar.update(steps)
        bar.update(int(loop.max_train_steps) - bar.n)
    result = StepResult(
        model_file=str(opt["model_file"]),
        steps=int(loop.max_train_steps),
        tokens=round(tokens),
        seconds=time.monotonic() - started,
        command=command,
    )
    part = finished.with_suffix(".part")
    part.write_text(json.dumps(asdict(result), indent=2) + "\n")
    os.replace(part, finished)
    return result


def train_recipe(
    recipe: Path, out: Path, base: str | None = None, settings: Sequence[str] = (), name: str = ""
) -> list[StepResult]:
    """Step 1, then step 2 from its result; finished steps are not run again."""
    title = f"{name} " if name else ""
    return [
        train_step(step_arguments(recipe, step, out, base, settings), title + step, out / step)
        for step in STEPS
    ]


@click.command()
@click.option("--recipe", required=True, help="demo, diasafety, paper, or a folder of your own.")
@click.option("--base", default=None, help="Backbone: zoo:..., a folder or a hub name.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parlai flag in both steps, or in one: step1.KEY=VALUE.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for the models; default runs/RECIPE. Run again to resume.",
)
def train(recipe: str, base: str | None, settings: tuple[str, ...], out: Path | None) -> None:
    """Train a recipe: step 1, then step 2 from its result.

    Runs the two stock commands that it prints. Stopped half-way, the same command resumes.
    """
    folder = recipe_folder(recipe)
    out = out or Path("runs") / folder.name
    click.echo("The same by hand:")
    for step in STEPS:
        arguments = step_arguments(folder, step, out, base, settings)
        click.echo("  " + shlex.join(["parlai", "train_model", *arguments]))
    results = train_recipe(folder, out, base, settings)
    click.echo(
        f"Done: {sum(r.tokens for r in results):,} tokens in "
        f"{sum(r.seconds for r in results):.0f} s. Talk to it:\n"
        f"  parlai interactive -mf {results[-1].model_file}"
    )
