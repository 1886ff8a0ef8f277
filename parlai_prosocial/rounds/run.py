"""A run of rounds in its folder: every stage done once, in order, and the summary."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parlai_prosocial.data.labelled import UNRESPONSIVE
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.mining.pairs import PairRule
from parlai_prosocial.mining.replies import Record
from parlai_prosocial.mining.turns import Contexts
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.measuring import Measuring
from parlai_prosocial.rounds.results import START, best_round, markdown, within_limit
from parlai_prosocial.util.environment import environment
from parlai_prosocial.util.files import Say, json_text, write_aside
from parlai_prosocial.util.journal import SETTINGS, begun_with, check_settings, parsed
from parlai_prosocial.zoo.resolve import Found, find


def begun_engine(out: Path, engine: str) -> str:
    """What ``auto`` is in a run that has begun: what samples it already."""
    if engine != "auto" or begun_with(out, "precision") is None:
        return engine
    return str(begun_with(out, "engine") or "transformers")


@dataclass
class Run:
    """One run in its folder.

    Attributes:
        out: the folder.
        datapath: ParlAI's.
        bf16: compute in bfloat16.
        context_tokens: longest context.
        settings: all that the files depend on, the arguments of ``improve`` among them.
        start: the model of the first round.
        contexts, valid: to learn from, and to measure on.
        mining, scoring: the judges of what is unsafe.
        answers: the judge of what is unresponsive; None where nobody is asked.
        preachy: the judge of casual replies.
        labelled: for each of contexts the labelled replies of the start; None without labels.
        say: takes the lines that tell what is being done.
    """

    out: Path
    datapath: str
    bf16: bool
    context_tokens: int
    settings: dict[str, Any]
    start: Found
    contexts: Contexts
    valid: Contexts
    mining: Judge
    scoring: Judge
    answers: Judge | None
    labelled: list[list[Record]] | None
    say: Say
    preachy: Judge = field(default_factory=PreachyRules)

    def begin(self) -> None:
        """Refuse a folder of another run; record this one's settings."""
        file = self.out / SETTINGS
        if file.exists():
            check_settings(file, parsed(file.read_bytes()), self.settings)
        self.measuring = Measuring(
            self.out,
            self.datapath,
            self.bf16,
            self.context_tokens,
            self.valid,
            stages.judges_of(self.scoring, self.preachy, self.answers),
            self.settings["seed"],
            self.settings["casual_dialogues"],
            self.settings.get("engine", "transformers"),
        )
        write_aside(file, json_text(self.settings))

    def rounds(self, most: int) -> dict[str, Any]:
        """Run the rounds and write the summary, which is returned."""
        limit = self.settings["max_perplexity_ratio"]
        start = self.measuring.measure(START, self.start, None)
        done: list[dict[str, Any]] = []
        current, stopped = self.start, None
        for number in range(1, most + 1):
            self.say(f"round {number} of {most}")
            one = self._round(number, current, start)
            if one is None:
                stopped = f"no context has a pair to learn from in round {number}"
                break
            done.append(one)
            if not within_limit(one, limit):
                ratio = one["valid"]["perplexity_ratio"]["estimate"]
                stopped = f"casual perplexity is {ratio:.3f} times the start's, above {limit:g}"
                break
            current = find(self._model_file(number), "--out", self.datapath)
        facts = environment(best_device(), self.bf16, 0)
        summary = {
            "settings": self.settings,
            "environment": {k: v for k, v in facts.items() if k not in ("command", "seconds")},
            "judges": self.settings["judges"] | {"preachy": self.preachy.name},
            "contexts": len(self.contexts.turns),
            "valid_contexts": len(self.valid.turns),
            "start": {"weights_sha256": self.settings["weights_sha256"], "valid": start},
            "rounds": done,
            "best": best_round(done, limit),
            "stopped": stopped,
        }
        write_aside(self.out / "summary.md", markdown(summary))
        write_aside(self.out / "summary.json", json_text(summary))
        return summary

    def _round(self, number: int, model: Found, start: dict[str, Any]) -> dict[str, Any] | None:
        """One round's part of the summary; None where there is nothing to learn from."""
        folder = self._folder(number)
        asked = self.settings
        decoding = {
            "max_tokens": asked["max_tokens"],
            "seed": asked["seed"] + number,
            "temperature": asked["sampling_temperature"],
            "top_p": asked["top_p"],
        }
        files = [folder / f"{name}.jsonl" for name in ("sampled", "judged", "pairs")]
        name = START if number == 1 else f"round-{number - 1}"
        self.measuring.sample(files[0], self.contexts, name, model, asked["samples"], decoding)
        judges = stages.judges_of(self.mining, self.preachy, self.answers)
        stages.judged(files[1], files[0], self.contexts, judges)
        rule = PairRule(
            asked["safe_below"], asked["unsafe_above"], preachy_share=asked["preachy_share"]
        )
        sources = [files[1]]
        if number == 1 and self.labelled is not None:
            labelled = folder / "labelled.jsonl"
            self.measuring.score_labelled(labelled, self.contexts, self.labelled, name, model)
            if self.answers is not None:
                scored, labelled = labelled, folder / "labelled-judged.jsonl"
                asked_of = {UNRESPONSIVE: self.answers}
                stages.judged(labelled, scored, self.contexts, asked_of)
            # First, so that of equal replies the label counts and not the judge.
            sources.insert(0, labelled)
        names = {kind: judge.name for kind, judge in judges.items()}
        pairs = stages.paired(files[2], sources, self.contexts, rule, names)
        if not pairs["rows"]:
            return None
        self.measuring.close()
        arguments = self._training_arguments(model, number)
        result = stages.trained(arguments, f"round {number}", folder / "training", self.say)
        found = find(result.model_file, "--out", self.datapath)
        return {
            "round": number,
            "model": f"round-{number}/training/model",
            "weights_sha256": stages.weights_of(found),
            "seed": decoding["seed"],
            "command": result.command,
            "steps": result.steps,
            "pairs": pairs,
            "valid": self.measuring.measure(f"round-{number}", found, start),
        }

    def _folder(self, number: int) -> Path:
        return self.out / f"round-{number}"

    def _model_file(self, number: int) -> str:
        return str(self._folder(number) / "training" / "model")

    def _training_arguments(self, model: Found, number: int) -> list[str]:
        folder = self._folder(number)
        return stages.training_arguments(
            model,
            folder / "pairs.jsonl",
            folder / "training",
            self.datapath,
            self.settings["precision"],
            self.settings["seed"],
            self.settings["settings"],
        )
