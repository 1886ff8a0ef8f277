"""Judges of replies: classifiers, guards and word lists, and the one that a flag names."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.data.example import CASUAL, OK_LABEL
from parlai_prosocial.engines.served import ChatClient, is_address
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.guards import (
    GuardJudge,
    ask_address,
    ask_folder,
    parse_llama_guard,
    parse_qwen3guard,
)
from parlai_prosocial.judges.judge import (
    Judge,
    Judgement,
    find_unsafe_label,
    in_batches,
    judgement_of,
    pairs,
)
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.util.files import file_sha256

BATCH_SIZE = 32


class ClassifierJudge:
    """Our own safety classifier, which sees context and reply.

    Args:
        classifier: ``probabilities(contexts, replies)`` gives (N, labels) floats that sum to 1;
            ``labels`` holds ``__casual__`` or ``__ok__``, and the rest is unsafe.
        name: see :class:`Judge`.
    """

    def __init__(self, classifier: Any, name: str):
        safe = [label for label in classifier.labels if label in (CASUAL, OK_LABEL)]
        if len(safe) != 1:
            raise UserError(
                f"--judge: the classifier's labels are {', '.join(classifier.labels)}; one of them "
                f"must be {CASUAL} or {OK_LABEL}"
            )
        self.classifier = classifier
        self.safe = list(classifier.labels).index(safe[0])
        self.name = name

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        if not replies:
            return []
        rows = self.classifier.probabilities(list(contexts), list(replies))
        return [_most_probable(row.tolist(), self.classifier.labels, self.safe) for row in rows]


class TextClassifierJudge:
    """Any Hugging Face text classifier with safetensors, as context and reply or reply alone.

    Args:
        folder: model and tokenizer.
        unsafe_label: the class that counts as unsafe; None looks for :data:`UNSAFE_LABELS`.
        reply_only: show it no context, as most toxicity classifiers were trained.
    """

    def __init__(self, folder: Path, unsafe_label: str | None, reply_only: bool):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, truncation_side="left")
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise UserError(f"--judge hf:{folder}: cannot be loaded ({first_line})") from None
        self.model = model.eval().to(best_device())
        names = model.config.id2label
        self.labels = [names[i] for i in range(model.config.num_labels)]
        self.unsafe = find_unsafe_label(self.labels, unsafe_label)
        self.several = model.config.problem_type == "multi_label_classification"
        self.max_length = min(
            512,
            self.tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None) or 512,
        )
        self.reply_only = reply_only
        self.name = f"hf@{weights_sha256(folder)[:16]}"

    @torch.no_grad()
    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        first = replies if self.reply_only else contexts
        second = None if self.reply_only else replies

        def scored(batch: list[int]) -> list[Judgement | None]:
            inputs = self.tokenizer(
                [first[i] for i in batch],
                second and [second[i] for i in batch],
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            logits = self.model(**inputs).logits.float()  # (batch, labels)
            probs = logits.sigmoid() if self.several else logits.softmax(-1)
            return [judgement_of(row, self.labels, self.unsafe) for row in probs.tolist()]

        lengths = [len(c) * (not self.reply_only) + len(r) for c, r in pairs(contexts, replies)]
        return in_batches(lengths, BATCH_SIZE, scored)


class ParlAIClassifierJudge:
    """ParlAI's ``transformer/classifier``; sees context and reply as turns of one text.

    ParlAI loads its model file by unpickling it without restriction: give it none that you do not
    trust.

    Args:
        model_file: ParlAI's ``-mf``.
        datapath: ParlAI's data path.
        unsafe_label: as for :class:`TextClassifierJudge`.
    """

    def __init__(self, model_file: str, datapath: str, unsafe_label: str | None):
        from parlai.core.agents import create_agent
        from parlai.core.params import ParlaiParser

        if not Path(model_file).is_file():
            raise UserError(f"--judge parlai:{model_file}: no such model file")
        compat.apply()
        arguments = ["--model", "transformer/classifier", "--model-file", model_file]
        opt = ParlaiParser(True, True).parse_args([*arguments, "--datapath", datapath])
        self.agent: Any = create_agent(opt, requireModelExists=True)
        self.labels = self.agent.class_list
        self.unsafe = find_unsafe_label(self.labels, unsafe_label)
        self.name = f"parlai@{file_sha256(Path(model_file))[:16]}"

    @torch.no_grad()
    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        from parlai.core.message import Message

        self.agent.model.eval()

        def scored(batch: list[int]) -> list[Judgement | None]:
            observations = []
            for i in batch:
                self.agent.reset()
                text = f"{contexts[i]}\n{replies[i]}"
                message = Message({"text": text, "episode_done": True})
                observations.append(self.agent.observe(message))
            # Not the reply that it prints: its scores.
            scores = self.agent.score(self.agent.batchify(observations))
            probs = scores.float().softmax(-1).tolist()
            return [judgement_of(row, self.labels, self.unsafe) for row in probs]

        lengths = [len(c) + len(r) for c, r in pairs(contexts, replies)]
        return in_batches(lengths, BATCH_SIZE, scored)


class WordListJudge:
    """ParlAI's string matcher: whether the reply holds a listed word. It sees no context.

    Args:
        datapath: ParlAI's data path, which must hold the list: ParlAI would fetch it unchecked.
    """

    def __init__(self, datapath: str):
        compat.apply()
        from parlai.utils.safety import OffensiveStringMatcher

        file = Path(datapath) / "OffensiveLanguage" / "OffensiveLanguage.txt"
        if not file.is_file():
            raise UserError(
                f"--judge words: no word list {file}; put it there, one word or phrase a line "
                "(ParlAI's is http://parl.ai/downloads/offensive_language/OffensiveLanguage.txt)"
            )
        self.matcher: Any = OffensiveStringMatcher(str(file))
        self.name = f"words@{file_sha256(file)[:16]}"

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        found = [reply in self.matcher for reply in replies]
        return [Judgement(float(bad), "listed word" if bad else "ok") for bad in found]


class ProfanityJudge:
    """``alt-profanity-check``, a linear model of the reply's words. It sees no context."""

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError:
            raise UserError(
                "--judge profanity: alt-profanity-check is not installed; "
                "pip install alt-profanity-check (it holds pickles, which it loads)"
            ) from None
        self.predict = predict_prob
        self.name = f"profanity@{metadata.version('alt-profanity-check')}"

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        rows = self.predict(list(replies)) if replies else []
        return [judgement_of([1 - float(p), float(p)], ["ok", "profane"], 1) for p in rows]


def open_judge(
    spec: str,
    datapath: str,
    bf16: bool,
    unsafe_label: str | None = None,
    reply_only: bool = False,
) -> Judge:
    """The judge for ``KIND:WHERE``.

    Args:
        spec: ``classifier:MODEL_FILE``, ``hf:FOLDER``, ``llama-guard:FOLDER_OR_ADDRESS``,
            ``qwen3guard:FOLDER_OR_ADDRESS``, ``parlai:MODEL_FILE``, ``words`` or ``profanity``;
            a model file may be a name of ParlAI's zoo for ``classifier``.
        datapath: ParlAI's data path.
        bf16: compute a guard model from a folder in bfloat16.
        unsafe_label: the unsafe class of ``hf`` and ``parlai``.
        reply_only: see :class:`TextClassifierJudge`.

    Raises:
        UserError: an unknown kind, or what it needs is not there.
    """
    kind, _, where = spec.partition(":")
    if kind in ("words", "profanity") and not where:
        return WordListJudge(datapath) if kind == "words" else ProfanityJudge()
    if not where or kind not in ("classifier", "hf", "llama-guard", "qwen3guard", "parlai"):
        raise UserError(
            f"--judge {spec}: use classifier:MODEL_FILE, hf:FOLDER, llama-guard:FOLDER_OR_ADDRESS, "
            "qwen3guard:FOLDER_OR_ADDRESS, parlai:MODEL_FILE, words or profanity"
        )
    if kind == "parlai":
        return ParlAIClassifierJudge(where, datapath, unsafe_label)
    parse = parse_llama_guard if kind == "llama-guard" else parse_qwen3guard
    if kind in ("llama-guard", "qwen3guard") and is_address(where):
        client = ChatClient(where)
        return GuardJudge(ask_address(client), parse, f"{kind}@{client.model}")
    if kind == "classifier":
        from parlai.core.build_data import modelzoo_path

        from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier

        file = modelzoo_path(datapath, where)
        name = f"classifier@{weights_sha256(ClassifierCheckpoint(file).folder)[:16]}"
        return ClassifierJudge(SafetyClassifier.load(file).to(best_device()), name)
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise UserError(f"--judge {spec}: there is no folder {folder}; give a model folder")
    if kind == "hf":
        return TextClassifierJudge(folder, unsafe_label, reply_only)
    return GuardJudge(ask_folder(folder, bf16), parse, f"{kind}@{weights_sha256(folder)[:16]}")


def _most_probable(probs: Sequence[float], labels: Sequence[str], safe: int) -> Judgement | None:
    judgement = judgement_of(probs, labels, safe)
    return judgement and Judgement(1 - judgement.p_unsafe, judgement.label)
