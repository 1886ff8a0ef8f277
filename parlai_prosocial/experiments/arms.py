"""Training the arms of an ablation: steps that arms agree on are trained once."""

import hashlib
import json
import shlex
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.training.recipe import (
    STEPS,
    StepResult,
    finished_before,
    preset_arguments,
    tokens_per_step,
    train_step,
    write_finished,
)
from parlai_prosocial.util.files import locked, write_aside


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
        budget: processed tokens of a step.
        arms: name -> arm, as in ``arms.json``.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        base: str | None,
        settings: Sequence[str],
        seed: int,
        budget: int,
        arms: Mapping[str, dict[str, Any]],
    ):
        self.recipe, self.out, self.base = recipe, out, base
        self.settings = [*settings, f"seed={seed}", f"diasafety-fold={seed}"]
        self.seed, self.budget, self.arms = seed, budget, arms

    def train(self, name: str) -> list[StepResult]:
        """Train an arm's steps, or find them trained."""
        from parlai.scripts.train_model import set_seed

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
            with _locked(folder):
                set_seed(self.seed)
                results.append(train_step(arguments, f"{name} {step}", folder))
        if "then" in arm:
            results.append(self._train_peer(name, settings, results[-1]))
        return results

    def _train_peer(self, name: str, settings: list[str], before: StepResult) -> StepResult:
        """TRL's trainer on step 1's pairs, by default at the learning rate of the step before."""
        from parlai.core.opt import Opt
        from parlai.scripts.train_model import set_seed

        from parlai_prosocial.training.trl import train_peer

        arm = self.arms[name]
        peer, title = arm["then"], f"{name} {arm['then']}"
        rate = arm.get("learning_rate", Opt.load(f"{before.model_file}.opt")["learningrate"])
        arguments = ["-o", str(self.recipe / "step1.opt")]
        arguments += preset_arguments("step1", self.base, settings, before.model_file)
        arguments += ["--learningrate", str(rate)]
        identity = ["trl", peer, "--token-budget", str(self.budget), *arguments]
        folder, command = self.out / f"{peer}-{_digest(identity)}", shlex.join(identity)
        with _locked(folder):
            result = finished_before(folder, command, title)
            if result is None:
                set_seed(self.seed)
                model_file = str(folder / "model")
                training = train_peer(peer, arguments, self.budget, model_file, title)
                result = StepResult(model_file, command=command, **asdict(training))
                write_finished(folder, result)
        return result

    def _tokens_per_step(self, arguments: list[str]) -> float:
        """Counted once and kept, so that a resumed run takes the same number of steps."""
        from parlai.scripts.train_model import set_seed

        file = self.out / f"tokens-{_digest(arguments)}.json"
        with _locked(file):
            if not file.exists():
                set_seed(self.seed)
                write_aside(file, json.dumps(tokens_per_step(arguments)))
        return json.loads(file.read_text())


def _locked(path: Path) -> AbstractContextManager[None]:
    return locked(path.with_suffix(".lock"), click.echo)


def _digest(arguments: Sequence[str]) -> str:
    return hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:12]
