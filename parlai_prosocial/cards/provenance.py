"""What a checkpoint's own files say of its training: for the model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.training.recipe import FINISHED
from parlai_prosocial.util.files import read_json
from parlai_prosocial.zoo.entry import Entry, read_entry

SETTINGS = (
    "lora_rank",
    "contrast_loss",
    "contrast_score",
    "contrast_weight",
    "temperature",
    "contrast_temperature",
    "margin",
    "negatives",
    "in_batch_negatives",
    "social_weights",
    "learningrate",
    "optimizer",
    "batchsize",
    "update_freq",
    "seed",
    "precision",
    "diasafety_fold",
    "diasafety_clusters",
    "diasafety_without",
    "multitask_weights",
)
"""The options that make a recipe, in the order of the card."""


@dataclass(frozen=True)
class Corpus:
    """A corpus as the card names it."""

    name: str
    licence: str
    source: str
    citation: str
    hub: str | None = None


CORPORA = {
    "diasafety": Corpus(
        "DiaSafety",
        "Apache-2.0",
        "https://github.com/thu-coai/DiaSafety, commit 5106a04",
        "Sun et al., On the Safety of Conversational Models: Taxonomy, Dataset, and Benchmark, "
        "Findings of ACL 2022",
    ),
    "self_dialogue": Corpus(
        "Self-dialogue",
        "BSD-3-Clause",
        "https://github.com/jfainberg/self_dialogue_corpus, commit 113a1b0",
        "Fainberg et al., Talking to myself: self-dialogues as data for conversational agents, "
        "arXiv 1809.06641, 2018",
    ),
    "prosocial": Corpus(
        "ProsocialDialog",
        "CC BY 4.0",
        "https://huggingface.co/datasets/allenai/prosocial-dialog",
        "Kim et al., ProsocialDialog: A Prosocial Backbone for Conversational Agents, EMNLP 2022",
        hub="allenai/prosocial-dialog",
    ),
    "mic": Corpus(
        "Moral Integrity Corpus",
        "behind a data-use agreement",
        "https://github.com/SALT-NLP/mic",
        "Ziems et al., The Moral Integrity Corpus: A Benchmark for Ethical Dialogue Systems, "
        "ACL 2022",
    ),
}
"""By the name of its task."""


@dataclass(frozen=True)
class TrainedStep:
    """One training run of the chain that led to a model.

    Attributes:
        opt: ParlAI's options of the run.
        steps, tokens, seconds, command: as in :class:`~.train.StepResult`; None where no file of
            the run says so.
    """

    opt: dict[str, Any]
    steps: int | None
    tokens: int | None
    seconds: float | None
    command: str | None

    @property
    def tasks(self) -> list[str]:
        return [task for task in (self.opt.get("task") or "").split(",") if task]

    @property
    def own_data(self) -> str | None:
        """The user's own file in ProsocialDialog's place."""
        return self.opt.get("prosocial_data")

    @property
    def on_samples(self) -> bool:
        return bool(self.opt.get("prosocial_sample"))

    @property
    def settings(self) -> dict[str, Any]:
        return {key: self.opt[key] for key in SETTINGS if self.opt.get(key) is not None}


def training_chain(model_file: str) -> list[TrainedStep]:
    """The training runs behind a model, the first one first; empty for one never trained here.

    A run is told from its ``.opt``; the one before it is its ``--init-model``, as long as that
    still lies there. Steps and seconds are from ``finished.json`` of ``prosocial train`` or
    ``bench_classifier.py``, else from ParlAI's ``.trainstats``. A model of our zoo has it all in
    its entry.
    """
    chain: list[TrainedStep] = []
    seen: set[Path] = set()
    path = Path(model_file)
    while path.resolve() not in seen:
        seen.add(path.resolve())
        if entry := entry_beside(path):
            return [*(TrainedStep(**run) for run in entry.training), *chain]
        opt = _read(Path(f"{path}.opt"))
        if not opt.get("task"):
            break
        chain.insert(0, _step(path, opt))
        if not opt.get("init_model"):
            break
        path = Path(opt["init_model"])
    return chain


def entry_beside(model_file: Path) -> Entry | None:
    """The zoo's entry of an installed model; None where the model is not of the zoo."""
    file = model_file.with_name(f"{model_file.parent.name}.json")
    return read_entry(file) if file.is_file() else None


def corpora_of(chain: Sequence[TrainedStep]) -> list[Corpus]:
    """The known corpora among the tasks of a chain, each once; own data is none of them."""
    names = dict.fromkeys(
        task.split(":")[0]
        for step in chain
        for task in step.tasks
        if not (task.startswith("prosocial") and (step.own_data or step.on_samples))
        and not (task.startswith("mic") and step.on_samples)
    )
    return [CORPORA[name] for name in names if name in CORPORA]


def _step(path: Path, opt: dict[str, Any]) -> TrainedStep:
    finished = _read(path.parent / FINISHED)
    if not finished.get("model_file") or Path(finished["model_file"]).name != path.name:
        finished = {}
    stats = _read(Path(f"{path}.trainstats"))
    return TrainedStep(
        opt,
        finished.get("steps", stats.get("train_steps")),
        finished.get("tokens"),
        finished.get("seconds", stats.get("train_time")),
        finished.get("command"),
    )


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
