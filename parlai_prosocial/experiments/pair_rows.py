"""The arms on given pairs: each trained from one model on one file, and measured.

An arm of ``recipes/improve/arms.json`` may have: ``set``, settings as of ``prosocial improve``;
``verdicts``, ``permuted`` where lots are drawn which reply of a context is the fitting one;
``best_of``, of how many replies the judge chooses the safest, without training; ``what``, words for
people.
"""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from parlai_prosocial.experiments.rows import one_line_reason
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.mining.turns import Contexts
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.measuring import Measuring
from parlai_prosocial.rounds.results import START
from parlai_prosocial.training.recipe import StepResult, train_step
from parlai_prosocial.util.environment import precision_name
from parlai_prosocial.util.files import json_text, text_lines, write_aside
from parlai_prosocial.util.journal import recorded
from parlai_prosocial.util.writer import made_by_one
from parlai_prosocial.zoo.resolve import Found, find


@dataclass
class PairRows:
    """Measures arms of given pairs and keeps each in a folder of its own.

    Attributes:
        out: the experiment's folder.
        start: the model that all arms start from.
        pairs: own data in JSON Lines.
        arms: name -> arm, as in ``arms.json``.
        settings: of all arms' training, ``key=value``.
        valid: what models are measured on.
        datapath: ParlAI's data path.
        bf16: compute in bfloat16.
        context_tokens: longest context.
        choosing, scoring: the judges, ``KIND:WHERE``; who chooses among replies, and who measures.
        answering: the judge of whether they answer the turn; None where nobody is asked.
        casual_dialogues: of Self-dialogue's valid, for the perplexity.
        preset: the options of training.
        judge_options: of :func:`~parlai_prosocial.judges.registry.open_judge`, for all judges.
    """

    out: Path
    start: Found
    pairs: Path
    arms: Mapping[str, dict[str, Any]]
    settings: Sequence[str]
    valid: Contexts
    datapath: str
    bf16: bool
    context_tokens: int
    choosing: str
    scoring: str
    answering: str | None
    casual_dialogues: int
    preset: Path
    judge_options: Mapping[str, Any]
    _judges: dict[str, Judge] = field(init=False, default_factory=dict)

    def judge(self, spec: str, flag: str = "--judge") -> Judge:
        """A judge, opened once."""
        if spec not in self._judges:
            options = {**self.judge_options, "flag": flag}
            self._judges[spec] = open_judge(spec, self.datapath, self.bf16, **options)
        return self._judges[spec]

    def saved(self, seed: int, name: str) -> dict[str, Any]:
        """The row by its name; nothing where it was not measured yet.

        Raises:
            UserError: it is of another arm of that name.
        """
        found = recorded(self._folder(seed) / name / "row.json", self._arm(name), "arm")
        return {} if found is None else {name: found["row"]}

    def run(self, seed: int, name: str) -> tuple[float, str | None]:
        """Train and measure an arm; seconds, and why it failed where it did."""
        started, reason = time.monotonic(), None
        try:
            content = {"arm": self._arm(name), "row": self._measure(seed, name)}
            write_aside(self._folder(seed) / name / "row.json", json_text(content))
        except (Exception, SystemExit) as error:  # ParlAI's parser exits
            traceback.print_exc()
            reason = one_line_reason(error)
        return time.monotonic() - started, reason

    def log(self, seed: int, name: str) -> Path:
        """Where a worker's progress goes."""
        return self._folder(seed) / "logs" / f"{name}.log"

    def training_arguments(self, seed: int, name: str) -> list[str]:
        """Of ``parlai train_model`` for an arm.

        Raises:
            UserError: a setting that is none, or that this command sets itself.
        """
        arm = self._arm(name)
        pairs = self._permuted(seed) if arm.get("verdicts") == "permuted" else self.pairs
        return stages.training_arguments(
            self.start,
            pairs,
            self._folder(seed) / name / "training",
            self.datapath,
            precision_name(self.bf16),
            seed,
            [*self.settings, *arm.get("set", [])],
            self.preset,
        )

    def _measure(self, seed: int, name: str) -> dict[str, Any]:
        arm, result = self._arm(name), None
        answers = None if self.answering is None else self.judge(self.answering)
        if name != START and "best_of" not in arm:
            arguments = self.training_arguments(seed, name)
            folder = self._folder(seed) / name / "training"
            result = train_step(arguments, f"{name}, seed {seed}", folder, print)
        measuring = Measuring(
            self._folder(seed),
            self.datapath,
            self.bf16,
            self.context_tokens,
            self.valid,
            stages.judges_of(self.judge(self.scoring), PreachyRules(), answers),
            seed,
            self.casual_dialogues,
        )
        with made_by_one(self._folder(seed) / START, print):
            start = measuring.measure(START, self.start, None)
        if "best_of" in arm:
            choosing = self.judge(self.choosing)
            row = measuring.measure_best(name, self.start, start, arm["best_of"], choosing)
        elif result is None:
            row = start
        else:
            row = measuring.measure(name, self._trained(result), start) | {
                "trained_tokens": result.tokens,
                "train_seconds": result.seconds,
                "command": result.command,
                "weights_sha256": stages.weights_of(self._trained(result)),
            }
        measuring.close()
        return row

    def _trained(self, result: StepResult) -> Found:
        return find(result.model_file, "--out", self.datapath)

    def _arm(self, name: str) -> dict[str, Any]:
        return self.arms.get(name, {})

    def _folder(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"

    def _permuted(self, seed: int) -> Path:
        file = self._folder(seed) / "pairs-permuted.jsonl"
        rows = [json.loads(line) for line in text_lines(self.pairs)]
        permuted = permute_verdicts(rows, seed)
        write_aside(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in permuted))
        return file


def permute_verdicts(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Rows of own data in which lots decide which reply of a context is the fitting one.

    A control: the replies, their log p and their number stay, what the judge said of them goes.
    The reply that is drawn and the response change places, so that weights stay where they are.

    >>> row = {"response": "a", "negatives": ["b", "c"], "negative_weights": [2, 1]}
    >>> permute_verdicts([row], seed=1)
    [{'response': 'b', 'negatives': ['a', 'c'], 'negative_weights': [2, 1]}]
    """
    random, permuted = Random(f"verdicts {seed}"), []
    for row in rows:
        drawn = random.randrange(1 + len(row["negatives"])) - 1
        row = dict(row)
        for one, many in (
            ("response", "negatives"),
            ("reference_log_prob", "negative_reference_log_probs"),
        ):
            if drawn >= 0 and row.get(many):
                replies = list(row[many])
                row[one], replies[drawn] = replies[drawn], row[one]
                row[many] = replies
        permuted.append(row)
    return permuted
