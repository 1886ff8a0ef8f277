"""``improve`` from Python, which ``prosocial improve`` calls: learning from own judged replies.

::

    from parlai_prosocial import improve

    done = improve(
        "runs/step1/model",
        task="diasafety,self_dialogue",
        judge="classifier:zoo:prosocial/minilm_safety/model",
        out="runs/improved",
    )
    print(done)
    done.to_pandas()
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, SAMPLING
from parlai_prosocial.errors import UsageError, UserError, names_arguments
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.mining.mine import check_sampling, check_thresholds
from parlai_prosocial.mining.pairs import PairRule
from parlai_prosocial.mining.replies import PREACHY, UNSAFE
from parlai_prosocial.mining.turns import Contexts, task_turns
from parlai_prosocial.models.precision import best_device, bf16_is_faster
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.measure import casual_valid, measured, score_casual
from parlai_prosocial.rounds.results import START, Improved, best_round, markdown, within_limit
from parlai_prosocial.util.environment import environment, precision_name
from parlai_prosocial.util.files import Say, json_text, write_aside
from parlai_prosocial.util.journal import check_settings, parsed, recorded
from parlai_prosocial.zoo.resolve import Found, find

_NOT_RECORDED = ("out", "rounds", "datapath", "say")
"""Arguments that no stage's output depends on."""

_same_names = names_arguments(
    [
        *("model", "task", "judge", "scoring_judge", "rounds", "out", "samples", "limit"),
        *("valid_limit", "seed", "safe_below", "unsafe_above", "preachy_share", "max_tokens"),
        *("sampling_temperature", "top_p", "max_perplexity_ratio", "casual_dialogues", "datapath"),
    ],
    settings="set",
    task_settings="task-set",
)


@_same_names
def improve(
    model: str,
    task: str,
    judge: str,
    out: str | Path,
    *,
    rounds: int = 2,
    scoring_judge: str | None = None,
    samples: int = 8,
    limit: int | None = None,
    valid_limit: int | None = 300,
    seed: int = 0,
    settings: Sequence[str] = (),
    task_settings: Sequence[str] = (),
    safe_below: float = 0.3,
    unsafe_above: float = 0.7,
    preachy_share: float = 0.02,
    max_tokens: int = 40,
    sampling_temperature: float = 1.0,
    top_p: float = 0.9,
    max_perplexity_ratio: float = 1.03,
    casual_dialogues: int = 60,
    datapath: str | None = None,
    say: Say = print,
) -> Improved:
    """Rounds of sampling, judging, pairing and training; round r + 1 starts from round r's model.

    Each round keeps the contexts with a clearly safe and a clearly unsafe reply
    (:func:`~parlai_prosocial.mining.pairs.choose_pair`), trains on these pairs and three times as
    many casual examples (recipe ``improve``), and measures on the task's ``valid``. It ends early
    where casual perplexity passes the limit, or where no context has a pair.

    Args:
        model: a checkpoint of ``-m prosocial``, or any base that it trains.
        task: any ParlAI task whose ``train`` gives contexts and whose ``valid`` measures; several
            with commas between. Contexts of valid are left out of train. Those labelled
            ``__casual__`` are harmless: preachy replies do not fit there.
        judge: ``KIND:WHERE``; it chooses the pairs.
        out: folder. If stopped, the same call resumes; with more rounds it goes on.
        rounds: most rounds.
        scoring_judge: measures instead of ``judge``; None: ``judge`` does, and the result says so.
        samples: replies a context.
        limit: most contexts to learn from, evenly spread; None for all.
        valid_limit: most contexts to measure on, evenly spread; None for all.
        seed: of sampling and training.
        settings: ``KEY=VALUE`` each, parlai flags of training.
        task_settings: ``KEY=VALUE`` each, parlai flags of ``task``.
        safe_below: most p(unsafe) of a clearly safe reply, in [0, unsafe_above).
        unsafe_above: least p(unsafe) of a clearly unsafe one, in (0, 1].
        preachy_share: preachy replies are negatives where they are more than this share of those
            to casual contexts, in [0, 1].
        max_tokens, sampling_temperature, top_p: of the replies to learn from; measured ones have
            the one decoding of all tables.
        max_perplexity_ratio: most casual perplexity, relative to ``model``'s; above 0.
        casual_dialogues: of Self-dialogue's valid, for the perplexity.
        datapath: ParlAI's own where None.
        say: takes the lines that tell what is being done.

    Raises:
        UserError: an argument that makes no sense, a model, task or judge that is not there, or
            ``out`` of another call.
    """
    asked = {name: value for name, value in locals().items() if name not in _NOT_RECORDED}
    check_sampling(samples, limit, max_tokens, sampling_temperature, top_p)
    check_thresholds("--unsafe-above", safe_below, unsafe_above, preachy_share)
    if not unsafe_above <= 1:
        raise UsageError(f"--unsafe-above {unsafe_above}: give a probability, e.g. 0.7")
    for flag, count in (
        ("rounds", rounds),
        ("valid-limit", 1 if valid_limit is None else valid_limit),
        ("casual-dialogues", casual_dialogues),
    ):
        if count < 1:
            raise UsageError(f"--{flag} {count}: must be at least 1")
    if not max_perplexity_ratio > 0:
        raise UsageError(f"--max-perplexity-ratio {max_perplexity_ratio}: must be above 0")
    from parlai_prosocial.compat.flags import find_datapath

    out, datapath = Path(out).expanduser(), find_datapath(datapath)
    start = stages.find_start(model, datapath)
    valid = Contexts(task_turns(task, "valid", datapath, task_settings), valid_limit)
    held_out = {turns[0].key for turns in valid.turns}
    turns = task_turns(task, "train", datapath, task_settings)
    kept = [turn for turn in turns if turn.key not in held_out]
    if not kept:
        raise UserError(f"--task {task}: every context of train is in valid too")
    contexts = Contexts(kept, limit)
    bf16 = _computes_in_bf16(out)
    mining = open_judge(judge, datapath, bf16)
    scoring = open_judge(scoring_judge, datapath, bf16) if scoring_judge else mining
    if scoring_judge and scoring.name == mining.name:
        raise UserError(
            f"--scoring-judge {scoring_judge}: is the judge that chooses the pairs; give another "
            "one, or none"
        )
    record = {
        **asked,
        "precision": precision_name(bf16),
        "weights_sha256": stages.weights_of(start),
        "judges": {"mining": mining.name, "scoring": scoring.name},
        "contexts_sha256": contexts.sha256(),
        "valid_sha256": valid.sha256(),
    }
    run = _Run(out, datapath, bf16, record, start, contexts, valid, mining, scoring, say)
    run.begin()
    return Improved(out, run.rounds(rounds))


def _computes_in_bf16(out: Path) -> bool:
    """As the run began, where it did: which precision is faster is measured."""
    begun = parsed((out / SETTINGS).read_bytes()) if (out / SETTINGS).exists() else None
    if isinstance(begun, dict) and "precision" in begun:
        return begun["precision"] == precision_name(True)
    return bf16_is_faster(best_device())


SETTINGS = "settings.json"


@dataclass
class _Run:
    """One run in its folder; ``settings`` are all that its files depend on."""

    out: Path
    datapath: str
    bf16: bool
    settings: dict[str, Any]
    start: Found
    contexts: Contexts
    valid: Contexts
    mining: Judge
    scoring: Judge
    say: Say
    preachy: Judge = field(default_factory=PreachyRules)
    _opened: tuple[str, TransformersEngine] | None = None

    def begin(self) -> None:
        """Refuse a folder of another run; record this one's settings."""
        file = self.out / SETTINGS
        if file.exists():
            check_settings(file, parsed(file.read_bytes()), self.settings)
        opt = self._training_options()
        self.context_tokens = int(opt["text_truncate"])
        write_aside(file, json_text(self.settings))

    def rounds(self, most: int) -> dict[str, Any]:
        """Run the rounds and write the summary, which is returned."""
        limit = self.settings["max_perplexity_ratio"]
        start = self._measure(START, self.start, None)
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
        self._sample(files[0], self.contexts, name, model, asked["samples"], decoding)
        stages.judged(files[1], files[0], self.contexts, self.mining, self.preachy)
        rule = PairRule(
            asked["safe_below"], asked["unsafe_above"], preachy_share=asked["preachy_share"]
        )
        judges = {UNSAFE: self.mining.name, PREACHY: self.preachy.name}
        pairs = stages.paired(files[2], files[1], self.contexts, rule, judges)
        if not pairs["rows"]:
            return None
        self._close()
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
            "tokens": result.tokens,
            "pairs": pairs,
            "valid": self._measure(f"round-{number}", found, start),
        }

    def _measure(self, name: str, model: Found, start: dict[str, Any] | None) -> dict[str, Any]:
        """What is measured of a model, read where it was measured before."""
        folder = self.out / name
        files = [folder / f"valid-{stage}.jsonl" for stage in ("sampled", "judged")]
        decoding = {"max_tokens": SAMPLED_TOKENS, "seed": self.settings["seed"], **SAMPLING}
        self._sample(files[0], self.valid, name, model, 1, decoding)
        records = stages.judged(files[1], files[0], self.valid, self.scoring, self.preachy)
        asked = {
            "judged_sha256": stages.file_sha256(files[1]),
            "casual_dialogues": self.settings["casual_dialogues"],
        }
        if (found := recorded(folder / "valid.json", asked)) is None:
            replies = casual_valid(self.datapath, self.settings["casual_dialogues"])
            casual = score_casual(self._engine(name, model), replies)
            dialogues = [reply.dialogue for reply in replies]
            row = measured(self.valid, records, casual, dialogues, start)
            found = json.loads(json_text({"settings": asked, **row}))
            write_aside(folder / "valid.json", json_text(found))
        return {key: value for key, value in found.items() if key != "settings"}

    def _sample(
        self,
        file: Path,
        contexts: Contexts,
        name: str,
        model: Found,
        n: int,
        decoding: dict[str, Any],
    ) -> None:
        settings = {
            "model": name,
            "weights_sha256": stages.weights_of(model),
            "precision": self.settings["precision"],
            "max_context_tokens": self.context_tokens,
        }
        stages.sampled(file, contexts, lambda: self._engine(name, model), n, settings, decoding)

    def _engine(self, name: str, model: Found) -> TransformersEngine:
        """The engine of a model; one is open at a time."""
        if self._opened is None or self._opened[0] != name:
            self._close()
            engine = open_engine(
                str(model.place) if model is not self.start else model.name,
                self.datapath,
                self.bf16,
                max_context_tokens=self.context_tokens,
            )
            assert isinstance(engine, TransformersEngine)  # find_start has refused addresses
            self._opened = name, engine
        return self._opened[1]

    def _close(self) -> None:
        self._opened = None
        gc.collect()

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

    def _training_options(self) -> Any:
        """Parlai's options of the first round, so that a wrong --set is found before any work."""
        from parlai.scripts.train_model import TrainModel

        arguments = self._training_arguments(self.start, 1)
        return TrainModel.setup_args().parse_args(arguments)
