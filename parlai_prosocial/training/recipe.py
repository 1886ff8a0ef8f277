"""A recipe's two steps, each the stock ``parlai train_model``.

A run resumes from the files it left, and from nothing else. ParlAI's checkpoint in a step's
folder takes up a step that was stopped, and ``finished.json`` beside it, with the command that
finished it, says that the step need not run again. A journal of chunks, as mining has one, would
say the same twice: the checkpoint holds far more than a journal could, and is replaced in one
move.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from parlai_prosocial.compat.flags import check_flags, parse_setting
from parlai_prosocial.compat.quiet import changes_are_meant
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.closest import did_you_mean
from parlai_prosocial.util.files import Say, json_text, read_json, write_aside
from parlai_prosocial.util.writer import Writer

if TYPE_CHECKING:
    import pandas as pd

RECIPES = Path(__file__).parent.parent / "recipes"
STEPS = ("step1", "step2")
FINISHED = "finished.json"


@dataclass
class StepResult:
    """What a finished step left.

    Attributes:
        model_file: ParlAI's ``-mf``.
        steps: training steps.
        tokens: tokens of contexts, responses and negatives that were processed.
        seconds: wall time of training, also of the runs before where it was resumed.
        command: the equivalent stock command.
    """

    model_file: str
    steps: int
    tokens: int
    seconds: float
    command: str


@dataclass
class Training:
    """A trained recipe; printed, it is what ``prosocial train`` ends with.

    Attributes:
        recipe: folder with the steps' presets.
        out: folder of the run.
        steps: step 1, then step 2.
    """

    recipe: Path
    out: Path
    steps: list[StepResult]

    @property
    def model_file(self) -> str:
        """ParlAI's ``-mf`` of the result; ``Prosocial.from_pretrained`` takes it too."""
        return self.steps[-1].model_file

    def __str__(self) -> str:
        return (
            f"Done: {sum(step.tokens for step in self.steps):,} tokens in "
            f"{sum(step.seconds for step in self.steps):.0f} s. Talk to it:\n"
            f"  parlai interactive -mf {self.model_file}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """A row a step, indexed by its name, with the fields of :class:`StepResult`."""
        import pandas as pd

        return pd.DataFrame(
            [asdict(step) for step in self.steps], index=pd.Index(STEPS, name="step")
        )


def train(
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    base: str | None = None,
    settings: Sequence[str] = (),
    say: Say = print,
) -> Training:
    """Train a recipe: step 1, then step 2 from its result, as ``prosocial train`` does.

    Called again with the same arguments it goes on where it was stopped, and trains nothing that
    is finished.

    Args:
        recipe: demo, diasafety, paper, or a folder with step1.opt and step2.opt.
        out: folder for the models; ``runs/RECIPE`` where None.
        base: the backbone (zoo:..., a folder or a hub name), None for the presets'.
        settings: ``key=value`` of ParlAI's flags for both steps, ``step1.key=value`` for one.
        say: takes the lines that tell what is being done.

    Raises:
        UserError: there is no such recipe, a setting is malformed, or another command has trained
            in ``out``.
    """
    folder = recipe_folder(str(recipe))
    target = Path(out) if out is not None else Path("runs") / folder.name
    check_settings(folder, base, settings)
    say("The same by hand:")
    arguments = {step: step_arguments(folder, step, target, base, settings) for step in STEPS}
    for step in STEPS:
        say("  " + shlex.join(["parlai", "train_model", *arguments[step]]))
    with Writer(target, "--out"):
        steps = [train_step(arguments[step], step, target / step, say) for step in STEPS]
    return Training(folder, target, steps)


def recipe_folder(name: str) -> Path:
    """A bundled recipe's folder, or a folder of one's own with step1.opt and step2.opt."""
    for folder in (RECIPES / name, Path(name)):
        if all((folder / f"{step}.opt").is_file() for step in STEPS):
            return folder
    known = recipe_names()
    raise UserError(
        f"--recipe {name}: no such recipe; use one of {', '.join(known)}, "
        f"or a folder with step1.opt and step2.opt{did_you_mean(name, known)}"
    )


def recipe_names() -> list[str]:
    """The bundled recipes."""
    return sorted(p.name for p in RECIPES.iterdir() if (p / "step1.opt").exists())


def step_arguments(
    recipe: Path, step: str, out: Path, base: str | None, settings: Sequence[str]
) -> list[str]:
    """Arguments of ``parlai train_model`` for a recipe's step in ``out / step``.

    Settings as for :func:`preset_arguments`.
    """
    previous = str(out / "step1" / "model") if step == "step2" else None
    arguments = ["-o", str(recipe / f"{step}.opt"), "-mf", str(out / step / "model")]
    return arguments + preset_arguments(step, base, settings, previous)


def check_settings(recipe: Path, base: str | None, settings: Sequence[str]) -> None:
    """Raise :class:`UserError` for a setting that a step's ``parlai train_model`` does not take.

    Nothing is made or trained.
    """
    from parlai.scripts.train_model import TrainModel

    for step in STEPS if settings else ():
        preset = ["-o", str(recipe / f"{step}.opt")]
        arguments = preset_arguments(step, base, settings, None)
        check_flags(TrainModel.setup_args(), [*preset, *arguments])


def preset_arguments(
    step: str, base: str | None, settings: Sequence[str], previous: str | None
) -> list[str]:
    """What a step's arguments say beside its preset and its model file.

    Args:
        step: step1 or step2.
        base: the backbone, None for the preset's.
        settings: ``key=value`` for both steps, ``step1.key=value`` for one.
        previous: the model file to continue from, None for the base.
    """
    arguments = ["--init-model", previous] if previous else []
    if base is not None:
        arguments += ["--backbone", base]
    for setting in settings:
        key, value = parse_setting(setting)
        prefix, dot, rest = key.partition(".")
        if dot and prefix in STEPS:
            if prefix != step:
                continue
            key = rest.strip("-")
        arguments += ["--" + key, value]
    return arguments


def tokens_per_step(arguments: list[str], batches: int = 16) -> float:
    """Mean processed tokens of a training step, from the first batches, without training."""
    from parlai.core.agents import create_agent
    from parlai.core.worlds import create_task
    from parlai.scripts.train_model import TrainModel

    opt = TrainModel.setup_args().parse_args(arguments)
    agent = create_agent(opt)
    counts: list[int] = []
    agent.train_step = lambda batch: counts.append(agent.processed_tokens(batch))
    world = create_task(opt, agent)
    for _ in range(batches):
        world.parley()
    return sum(counts) / len(counts)


def train_step(arguments: list[str], title: str, out: Path, say: Say = print) -> StepResult:
    """Run one step in this process, or return its result where it was finished before."""
    from parlai.scripts.train_model import TrainLoop, TrainModel, set_seed
    from parlai.utils.logging import set_log_level
    from transformers.utils.logging import disable_progress_bar

    from parlai_prosocial.compat.training import release

    command = shlex.join(["parlai", "train_model", *arguments])
    if before := finished_before(out, command):
        say(f"{title}: finished before, {out}")
        return before
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()  # of a second's loading; ours is the one to watch
    # As `parlai train_model ARGUMENTS` does it, with a progress bar around its loop.
    opt = TrainModel.setup_args().parse_args(arguments)
    set_log_level(logging.WARNING)
    with changes_are_meant():
        loop = TrainLoop(opt)
    try:
        if opt["seed"] is not None:
            set_seed(opt["seed"])
        total, world = int(loop.max_train_steps), loop.world
        shown = tqdm(total=total, initial=loop._train_steps, desc=title, unit="step")
        with shown as bar, changes_are_meant():
            for report in loop.train_steps():
                bar.set_postfix(ppl=f"{float(report['ppl']):.1f}", refresh=False)
                bar.update(loop._train_steps - bar.n)
            bar.update(total - bar.n)
        result = StepResult(
            model_file=str(opt["model_file"]),
            steps=total,
            tokens=_processed_tokens(loop, world),
            seconds=loop.train_time.time(),
            command=command,
        )
    finally:
        release(loop)
    write_finished(out, result)
    return result


def finished_before(out: Path, command: str) -> StepResult | None:
    """The result of a step that was finished in this folder; None where it was not.

    Raises:
        UserError: another command finished it.
    """
    finished = out / FINISHED
    if not finished.exists():
        return None
    result = read_json(finished, StepResult, "delete it")
    if result.command != command:
        raise UserError(
            f"{finished}: that step was trained by another command; "
            "give another --out or delete its folder"
        )
    return result


def write_finished(out: Path, result: StepResult) -> None:
    """Record a step as finished; :func:`finished_before` returns it from now on."""
    write_aside(out / FINISHED, json_text(asdict(result)))


def _processed_tokens(loop: Any, world: Any) -> int:
    """From ParlAI's log, which a resumed run continues; a report gives the mean of its steps.

    The loop ends before it logs its last steps, so their metrics still lie in the world.
    """
    reports = [(report["useful_tokens"], report["train_steps"]) for report in loop.train_reports]
    if "useful_tokens" in (last := world.report()):
        reports.append((float(last["useful_tokens"]), loop._train_steps))
    tokens, before = 0.0, 0
    for mean, steps in reports:
        tokens += mean * (steps - before)
        before = steps
    return round(tokens)
