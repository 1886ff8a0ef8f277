"""The arms of an experiment, and their training: steps that arms agree on are trained once.

``arms.json`` of a recipe names the arms, each a few settings apart::

    {"control": "mle", "primary": "n-pair", "arms": {"mle": {"set": ["contrast-weight=0"]}, ...}}

An arm may have: ``set``, settings as of ``prosocial train``; ``steps``, which of the two it trains;
``budgets``, token budgets a step; ``steps_of``, the arm whose numbers of steps it takes under a
budget; ``tokens_of``, the arm whose processed tokens it takes where there is no budget; ``then``, a
baseline of TRL after its steps, with ``learning_rate``; ``row``, its name in the tables of
``prosocial compare``; ``what``, words for people.
"""

import hashlib
import json
import shlex
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.training.recipe import (
    RECIPES,
    STEPS,
    StepResult,
    finished_before,
    preset_arguments,
    tokens_per_step,
    train_step,
    write_finished,
)
from parlai_prosocial.util.closest import did_you_mean
from parlai_prosocial.util.files import read_json, write_aside
from parlai_prosocial.util.writer import made_by_one

BASE, BASELINES = "zero-shot", "baselines"
"""Rows without training: the untouched base, and those that never see a context."""


@dataclass(frozen=True)
class Design:
    """A recipe's arms.

    Attributes:
        control: the arm that others are compared with.
        primary: the arm whose comparison with the control was named before the run.
        arms: name -> arm.
    """

    control: str
    primary: str
    arms: Mapping[str, dict[str, Any]]

    def settings(self, name: str) -> list[str]:
        """What an arm sets; nothing where there is no such arm."""
        return self.arms.get(name, {}).get("set", [])

    def check(self, names: Sequence[str], flag: str) -> None:
        """Raise UserError where there is no arm of one of these names."""
        if unknown := [name for name in names if name not in self.arms]:
            raise UserError(
                f"{flag} {','.join(unknown)}: no such arm; there are {', '.join(self.arms)}"
                + did_you_mean(unknown[0], self.arms)
            )

    def with_compared(self, names: Sequence[str]) -> list[str]:
        """These arms with the control and the primary one, in the design's order."""
        needed = {self.control, self.primary, *names}
        return [name for name in self.arms if name in needed]

    def baselines(self, names: Sequence[str]) -> dict[str, str]:
        """Arm -> TRL's method that ends it."""
        return {n: self.arms[n]["then"] for n in names if "then" in self.arms[n]}


def read_design(recipe: Path) -> Design:
    """A recipe's ``arms.json``.

    Raises:
        UserError: it has none, or an arm has the name of a row without training.
    """
    file = recipe / "arms.json"
    if not file.is_file():
        raise UserError(f"--recipe {recipe.name}: no {file}, so there are no arms")
    design = read_json(file, Design, "mend the recipe")
    if taken := design.arms.keys() & {BASE, BASELINES}:
        raise UserError(
            f"{file}: {min(taken)} is the name of a row without training; rename the arm"
        )
    return design


def demo_design() -> Design:
    """With and without contrast: what ``prosocial compare`` takes where a recipe has no arms."""
    return read_design(RECIPES / "demo")


def first_step(arms: Mapping[str, dict[str, Any]], name: str) -> Hashable:
    """What an arm trains first; of arms that agree on it, one trains and the others wait."""
    arm = arms[name]
    if "steps_of" in arm:
        return first_step(arms, arm["steps_of"])
    step = arm.get("steps", STEPS)[0]
    own = preset_arguments(step, None, arm.get("set", []), None)
    return step, arm.get("budgets", 1), tuple(own)


class Trainer:
    """Trains the arms of one seed.

    A step's folder carries a digest of its arguments, so that arms which agree on a step find it
    trained already, or wait for the process that is training it.

    Args:
        recipe: with step1.opt and step2.opt.
        out: folder of the seed's steps.
        base: the backbone, None for the presets'.
        settings: of all arms, ``key=value``.
        seed: set anew before every step, so that none depends on what the process did before.
        fold: of DiaSafety.
        budget: processed tokens of a step; None for the presets' numbers of steps.
        arms: name -> arm, as in ``arms.json``.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        base: str | None,
        settings: Sequence[str],
        seed: int,
        fold: int,
        budget: int | None,
        arms: Mapping[str, dict[str, Any]],
    ):
        self.recipe, self.out, self.base = recipe, out, base
        self.settings = [*settings, f"seed={seed}", f"diasafety-fold={fold}"]
        self.seed, self.budget, self.arms = seed, budget, arms

    def train(self, name: str) -> list[StepResult]:
        """Train an arm's steps, or find them trained."""
        from parlai.scripts.train_model import set_seed

        arm = self.arms[name]
        settings = [*self.settings, *arm.get("set", [])]
        key = "tokens_of" if self.budget is None else "steps_of"
        like = self.train(arm[key]) if key in arm else None
        results: list[StepResult] = []
        for i, step in enumerate(arm.get("steps", STEPS)):
            previous = results[-1].model_file if results else None
            arguments = ["-o", str(self.recipe / f"{step}.opt")]
            arguments += preset_arguments(step, self.base, settings, previous)
            if self.budget is not None:
                budget = self.budget * arm.get("budgets", 1)
                count = like[i].steps if like else self._steps(arguments, budget)
                arguments += ["--max-train-steps", str(count)]
            elif like:
                count = self._steps(arguments, like[i].tokens)
                arguments += ["--max-train-steps", str(count)]
            folder = self.out / f"{step}-{_digest(arguments)}"
            arguments += ["-mf", str(folder / "model")]
            with _locked(folder):
                set_seed(self.seed)
                results.append(train_step(arguments, f"{name} {step}", folder))
        if "then" in arm:
            results.append(self._train_baseline(name, settings, results[-1]))
        return results

    def _train_baseline(self, name: str, settings: list[str], before: StepResult) -> StepResult:
        """TRL's trainer on step 1's pairs, by default at the learning rate of the step before."""
        from parlai.core.opt import Opt
        from parlai.scripts.train_model import set_seed

        from parlai_prosocial.training.trl import train_baseline

        if self.budget is None:
            raise UserError(f"{name}: trains with TRL, which needs a token budget; use ablate")
        arm = self.arms[name]
        baseline, title = arm["then"], f"{name} {arm['then']}"
        rate = arm.get("learning_rate", Opt.load(f"{before.model_file}.opt")["learningrate"])
        arguments = ["-o", str(self.recipe / "step1.opt")]
        arguments += preset_arguments("step1", self.base, settings, before.model_file)
        arguments += ["--learningrate", str(rate)]
        identity = ["trl", baseline, "--token-budget", str(self.budget), *arguments]
        folder, command = self.out / f"{baseline}-{_digest(identity)}", shlex.join(identity)
        with _locked(folder):
            result = finished_before(folder, command)
            if result is not None:
                print(f"{title}: finished before, {folder}")
            else:
                set_seed(self.seed)
                model_file = str(folder / "model")
                training = train_baseline(baseline, arguments, self.budget, model_file, title)
                result = StepResult(model_file, command=command, **asdict(training))
                write_finished(folder, result)
        return result

    def _steps(self, arguments: list[str], tokens: int) -> int:
        return max(1, round(tokens / self._tokens_per_step(arguments)))

    def _tokens_per_step(self, arguments: list[str]) -> float:
        """Counted once and kept, so that a resumed run takes the same number of steps."""
        from parlai.scripts.train_model import set_seed

        file = self.out / f"tokens-{_digest(arguments)}.json"
        with _locked(file):
            if not file.exists():
                set_seed(self.seed)
                write_aside(file, json.dumps(tokens_per_step(arguments)))
        return read_json(file, float, "delete it")


def _locked(path: Path) -> AbstractContextManager[None]:
    return made_by_one(path, print)


def _digest(arguments: Sequence[str]) -> str:
    return hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:12]
