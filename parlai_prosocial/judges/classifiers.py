"""Judges that are classifiers, of words or of whole texts."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.data.example import CASUAL, OK_LABEL, SAFETY_LABELS
from parlai_prosocial.errors import UserError
from parlai_prosocial.judges.judge import (
    Judgement,
    ModelJudge,
    find_unsafe_label,
    in_batches,
    judgement_of,
    pairs,
)
from parlai_prosocial.models.backbone import pad_token_id, weights_sha256
from parlai_prosocial.models.finite import refuse_non_finite
from parlai_prosocial.models.precision import best_device
from parlai_prosocial.models.pretrained import MODEL_FILES, loading
from parlai_prosocial.util.files import file_sha256
from parlai_prosocial.util.missing import Missing

BATCH_SIZE = 32


class ClassifierJudge(ModelJudge):
    """Our own safety classifier, which sees context and reply.

    Args:
        classifier: ``probabilities(contexts, replies)`` gives (N, labels) floats that sum to 1;
            ``labels`` holds ``__casual__`` or ``__ok__``, and the rest is unsafe. Where they are
            ProsocialDialog's five, the severity is the expected distance from casual, 0..4.
        name: see :class:`Judge`.
        bf16: compute in bfloat16.
    """

    def __init__(self, classifier: Any, name: str, bf16: bool = False):
        safe = [label for label in classifier.labels if label in (CASUAL, OK_LABEL)]
        if len(safe) != 1:
            raise UserError(
                f"the classifier's labels are {', '.join(classifier.labels)}; one of them "
                f"must be {CASUAL} or {OK_LABEL}"
            )
        super().__init__(name)
        self.classifier = classifier
        self.bf16 = bf16
        self.safe = list(classifier.labels).index(safe[0])

    def judgements(self, contexts: list[str], replies: list[str]) -> list[Judgement | str]:
        with torch.autocast(best_device().type, torch.bfloat16, enabled=self.bf16):
            rows = self.classifier.probabilities(contexts, replies)
        return [
            _most_probable(row.tolist(), list(self.classifier.labels), self.safe) for row in rows
        ]


class TextClassifierJudge(ModelJudge):
    """Any Hugging Face text classifier with safetensors, as context and reply or reply alone.

    Its outputs become probabilities as transformers' own pipeline makes them of what the config
    says: a single output by a sigmoid, as each of ``multi_label_classification``; else a softmax
    over all of them. A regression's output is no probability and is refused.

    Args:
        folder: model and tokenizer.
        unsafe_label: the class that counts as unsafe; None looks for :data:`UNSAFE_LABELS`.
        reply_only: show it no context, as most toxicity classifiers were trained.

    Raises:
        UserError: it cannot be loaded, is no trained classifier, or has no unsafe class.
    """

    def __init__(self, folder: Path, unsafe_label: str | None, reply_only: bool):
        super().__init__(f"hf@{weights_sha256(folder)[:16]}")
        self.tokenizer, self.model = _load(folder)
        config = self.model.config
        self.labels = [config.id2label[i] for i in range(config.num_labels)]
        self.unsafe = find_unsafe_label(self.labels, unsafe_label)
        self.each_by_itself = (
            config.num_labels == 1 or config.problem_type == "multi_label_classification"
        )
        self.max_length = min(
            512,
            self.tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", None) or 512,
        )
        self.reply_only = reply_only

    @torch.no_grad()
    def judgements(self, contexts: list[str], replies: list[str]) -> list[Judgement | str]:
        first = replies if self.reply_only else contexts
        second = None if self.reply_only else replies

        def scored(batch: list[int]) -> list[Judgement | str]:
            inputs = self.tokenizer(
                [first[i] for i in batch],
                second and [second[i] for i in batch],
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            return [self._read(row) for row in self.model(**inputs).logits.float()]

        lengths = [len(c) * (not self.reply_only) + len(r) for c, r in pairs(contexts, replies)]
        return in_batches(lengths, BATCH_SIZE, scored)

    def _read(self, logits: torch.Tensor) -> Judgement | str:
        """(labels,) float32 -> the judgement."""
        if len(self.labels) == 1:
            p = logits.sigmoid().item()
            return judgement_of([p, 1 - p], [self.labels[0], f"not {self.labels[0]}"], 0)
        probs = logits.sigmoid() if self.each_by_itself else logits.softmax(-1)
        return judgement_of(probs.tolist(), self.labels, self.unsafe)


def _load(folder: Path) -> tuple[Any, Any]:
    """A text classifier's tokenizer, which pads, and model."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with loading(folder, MODEL_FILES):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, truncation_side="left", trust_remote_code=False
        )
        model: Any
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    if loaded["missing_keys"]:
        raise UserError(
            f"{folder}: is no trained text classifier, {min(loaded['missing_keys'])} is "
            "not among its weights; give a model for sequence classification"
        )
    if model.config.problem_type == "regression":
        raise UserError(
            f"{folder}: is a regression (problem_type in its config.json), whose output "
            "is no probability; give a classifier"
        )
    refuse_non_finite(model, str(folder))
    if tokenizer.pad_token is None:
        tokenizer.pad_token_id = pad_token_id(tokenizer)
        if tokenizer.pad_token is None:
            raise UserError(
                f"{folder}: its tokenizer has neither a pad nor an end-of-sequence "
                "token; set pad_token in its tokenizer_config.json"
            )
    tokenizer.padding_side = "right"
    # A causal classifier reads the last token that is not padding, so both must mean the same.
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.eval().to(best_device())


class ParlAIClassifierJudge(ModelJudge):
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

        compat.apply()
        arguments = ["--model", "transformer/classifier", "--model-file", model_file]
        opt = ParlaiParser(True, True).parse_args([*arguments, "--datapath", datapath])
        self.agent: Any = create_agent(opt, requireModelExists=True)
        self.labels = self.agent.class_list
        self.unsafe = find_unsafe_label(self.labels, unsafe_label)
        refuse_non_finite(self.agent.model, model_file)
        super().__init__(f"parlai@{file_sha256(Path(model_file))[:16]}")

    @torch.no_grad()
    def judgements(self, contexts: list[str], replies: list[str]) -> list[Judgement | str]:
        from parlai.core.message import Message

        self.agent.model.eval()

        def scored(batch: list[int]) -> list[Judgement | str]:
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
        flag: by which the user named it.
    """

    def __init__(self, datapath: str, flag: str = "--judge"):
        compat.apply()
        from parlai.utils.safety import OffensiveStringMatcher

        file = Path(datapath) / "OffensiveLanguage" / "OffensiveLanguage.txt"
        if not file.is_file():
            raise UserError(
                f"{flag} words: no word list {file}; put it there, one word or phrase a line "
                "(ParlAI's is http://parl.ai/downloads/offensive_language/OffensiveLanguage.txt)"
            )
        self.matcher: Any = OffensiveStringMatcher(str(file))
        self.name = f"words@{file_sha256(file)[:16]}"
        self.missing = Missing()

    def judge(self, contexts: Sequence[str], replies: Sequence[str]) -> list[Judgement | None]:
        found = [reply in self.matcher for reply in replies]
        return [Judgement(float(bad), "listed word" if bad else "ok") for bad in found]


class ProfanityJudge(ModelJudge):
    """``alt-profanity-check``, a linear model of the reply's words. It sees no context."""

    def __init__(self, flag: str = "--judge"):
        try:
            from profanity_check import predict_prob
        except ImportError:
            raise UserError(
                f"{flag} profanity: alt-profanity-check is not installed; "
                "pip install alt-profanity-check (it holds pickles, which it loads)"
            ) from None
        super().__init__(f"profanity@{metadata.version('alt-profanity-check')}")
        self.predict = predict_prob

    def judgements(self, contexts: list[str], replies: list[str]) -> list[Judgement | str]:
        rows = self.predict(replies)
        return [judgement_of([1 - float(p), float(p)], ["ok", "profane"], 1) for p in rows]


def _most_probable(probs: Sequence[float], labels: list[str], safe: int) -> Judgement | str:
    judgement = judgement_of(probs, labels, safe)
    if isinstance(judgement, str):
        return judgement
    severity = None
    if sorted(labels) == sorted(SAFETY_LABELS):
        severity = sum(p * SAFETY_LABELS.index(x) for p, x in zip(probs, labels, strict=True))
    return Judgement(1 - judgement.p_unsafe, judgement.label, severity)
