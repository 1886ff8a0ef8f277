"""A safety classifier in context: a Hugging Face model with a linear head, and its checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field, with_config
from torch import nn
from typing_extensions import TypedDict

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import pad_token_id, weights_sha256
from parlai_prosocial.models.chat_template import load_tokenizer
from parlai_prosocial.models.checkpoint import (
    CLASSIFIER_FORMAT,
    INFO_FILE,
    RESTORE,
    Precision,
    SavedModel,
    read_manifest,
    replace_manifest,
    save_head,
    write_checkpoint,
)
from parlai_prosocial.models.classifier_input import Encoded, PairInput, PromptInput
from parlai_prosocial.models.finite import refuse_non_finite
from parlai_prosocial.models.pretrained import (
    MODEL_FILES,
    check_folder,
    load_adapter,
    load_weights,
    loading,
)
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT, Prompt
from parlai_prosocial.models.seq2seq import pad_right
from parlai_prosocial.util.files import read_json

HEAD_FILE = "head.safetensors"
BATCH_SIZE = 64


class SafetyClassifier(nn.Module):
    """Says how fitting the last line of a dialogue is, given the lines before.

    An encoder reads (context, last line) as a sentence pair and is pooled by the mean over its
    tokens, as MiniLM was trained to be. A causal model reads the context as its prompt and the
    last line as its reply, and is pooled at the reply's end-of-turn token.

    Args:
        folder: a Hugging Face model folder.
        labels: the classes, in the order of the head's outputs.
        max_tokens: longest input, special tokens included; the model's own limit holds too.
        adapter: a peft adapter folder to put on top, or None.
        lora_rank: rank of a new adapter on all linear layers where ``adapter`` is None; 0 trains
            all weights.
        trainable: False freezes everything (inference).

    Attributes:
        temperature: what logits are divided by to give calibrated probabilities; 1.0 until
            :func:`set_temperature` or a checkpoint says otherwise.

    Raises:
        UserError: the folder holds no encoder or causal model, or a wrong tokenizer.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        max_tokens: int = 128,
        adapter: Path | None = None,
        lora_rank: int = 0,
        trainable: bool = True,
    ):
        super().__init__()
        self.folder = folder
        self.labels = list(labels)
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        self.temperature = 1.0
        model, self.tokenizer = _load(folder)
        config = model.config
        self.max_tokens = min(
            max_tokens, getattr(config, "max_position_embeddings", max_tokens) or max_tokens
        )
        self.is_causal = config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        self.has_types = not self.is_causal and getattr(config, "type_vocab_size", 0) > 1
        self.input: PairInput | PromptInput
        if self.is_causal:
            self.input = PromptInput(Prompt(self.tokenizer, DEFAULT_SYSTEM_PROMPT, False))
            self.pad_id = pad_token_id(self.tokenizer)
        else:
            self.input = PairInput(self.tokenizer)
            self.pad_id = self.tokenizer.pad_token_id or 0
            self.max_tokens = min(self.max_tokens, self.tokenizer.model_max_length)
        self.adapted = adapter is not None or lora_rank > 0
        self.encoder = _adapt(model, adapter, lora_rank, trainable) if self.adapted else model
        self.head = nn.Linear(config.hidden_size, len(self.labels))
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)  # kept for the layout's sake, never used
        if not trainable:
            self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def encode(self, context: str, reply: str) -> Encoded:
        """Token ids of a newline-packed context (empty for none) and the line to judge."""
        return self.input.encode(context, reply, self.max_tokens)

    def pack(self, examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Pad B examples: ``input_ids``, ``attention_mask``, ``token_type_ids``, (B, T) int64."""
        ids, mask = pad_right([example.ids for example in examples], self.pad_id)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if self.has_types:
            inputs["token_type_ids"], _ = pad_right([example.types for example in examples], 0)
        return inputs

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """A packed batch -> (B, labels) float32 logits, not calibrated."""
        encoder = self.encoder.get_base_model() if self.adapted else self.encoder
        mask = inputs["attention_mask"]
        if self.is_causal:
            hidden = encoder(**inputs, use_cache=False).last_hidden_state  # (B, T, hidden)
            rows = torch.arange(len(hidden), device=hidden.device)
            pooled = hidden[rows, mask.sum(1) - 1]
        else:
            hidden = encoder(**inputs).last_hidden_state  # (B, T, hidden)
            hidden = hidden.float()
            weights = mask.unsqueeze(2).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        # Rounded to bf16, probabilities near 0 and 1 would be few and equal.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled.float())

    @torch.no_grad()
    def logits(
        self, contexts: Sequence[str], replies: Sequence[str], batch_size: int = BATCH_SIZE
    ) -> torch.Tensor:
        """Logits of N examples, in evaluation mode.

        Args:
            contexts: newline-packed dialogues; "" for none.
            replies: N lines to judge.
            batch_size: examples in a pass; the result does not depend on it (1e-4).

        Returns:
            (N, labels) float32 on the CPU, not calibrated.
        """
        was_training = self.training
        self.eval()
        encoded = [self.encode(c, r) for c, r in zip(contexts, replies, strict=True)]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        logits = torch.empty(len(encoded), len(self.labels))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            packed = self.pack([encoded[i] for i in rows])
            inputs = {name: tensor.to(self.device) for name, tensor in packed.items()}
            logits[rows] = self(**inputs).float().cpu()
        self.train(was_training)
        return logits

    def probabilities(
        self, contexts: Sequence[str], replies: Sequence[str], batch_size: int = BATCH_SIZE
    ) -> torch.Tensor:
        """Calibrated probabilities, (N, labels) float32, in the order of ``labels``.

        Args as for :meth:`logits`.
        """
        return (self.logits(contexts, replies, batch_size) / self.temperature).softmax(1)

    def label_of(self, context: str, line: str) -> tuple[str, float]:
        """The most probable class of a line in its newline-packed context, and its probability.

        Raises:
            UserError: the probabilities are not finite, so that there is no class.
        """
        probabilities = self.probabilities([context], [line])[0]
        if not probabilities.isfinite().all():
            raise UserError("the classifier's probabilities are not finite; use another checkpoint")
        best = int(probabilities.argmax())
        return self.labels[best], probabilities[best].item()

    @classmethod
    def load(cls, model_file: str) -> "SafetyClassifier":
        """A trained classifier, frozen, in evaluation mode, on the CPU.

        :func:`~parlai_prosocial.zoo.resolve.open_classifier` takes every name of a model.

        Raises:
            UserError: no such checkpoint, a name of the zoo, or an adapter whose base is not where
                it was trained.
        """
        if model_file.startswith("zoo:"):
            raise UserError(
                f"{model_file}: is a name and no file; open it with "
                f"parlai_prosocial.open_classifier({model_file!r})"
            )
        checkpoint = ClassifierCheckpoint(model_file)
        base = checkpoint.info.get("base_folder")
        return checkpoint.classifier(Path(base) if base else None, trainable=False).eval()

    def save(
        self,
        path: str,
        backbone: str,
        training: dict[str, Any],
        precision: Precision | None = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            path: the manifest's path; its folder goes beside it.
            backbone: the name under which the base was asked for.
            training: optimiser and scheduler state (tensors and plain containers only).
            precision: fp32 or bf16, in which training computes.
        """

        def write_weights(folder: Path) -> None:
            self.encoder.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            save_head(self.head, folder / HEAD_FILE)

        info: dict[str, Any] = {
            "backbone": backbone,
            "labels": self.labels,
            "max_tokens": self.max_tokens,
        }
        if precision is not None:
            info["precision"] = precision
        if self.adapted:
            info["base_folder"] = str(self.folder.resolve())
            info["base_sha256"] = weights_sha256(self.folder)
        write_checkpoint(
            path, CLASSIFIER_FORMAT, write_weights, info, training, temperature=self.temperature
        )


@with_config({"extra": "allow"})
class ClassifierInfo(TypedDict):
    """``prosocial.json`` of a classifier."""

    backbone: str
    labels: Annotated[list[str], Field(min_length=2)]
    max_tokens: Annotated[int, Field(gt=0)]
    base_folder: NotRequired[str]
    base_sha256: NotRequired[str]
    precision: NotRequired[Precision]


class ClassifierCheckpoint(SavedModel):
    """A classifier on disk.

    ``info`` holds ``labels``, ``backbone``, ``max_tokens``, and of an adapter ``base_sha256`` and,
    where it was trained, ``base_folder``.
    """

    FORMAT = CLASSIFIER_FORMAT
    INFO = ClassifierInfo

    def _read_info(self) -> dict[str, Any]:
        return read_json(self.folder / INFO_FILE, ClassifierInfo, RESTORE)

    @property
    def temperature(self) -> float:
        """See :class:`SafetyClassifier`."""
        if "temperature" not in self.content:
            raise UserError(f"{self.path}: temperature: Field required; {RESTORE}")
        return self.content["temperature"]

    def classifier(
        self,
        base: Path | None,
        labels: Sequence[str] | None = None,
        max_tokens: int | None = None,
        lora_rank: int = 0,
        trainable: bool = True,
    ) -> SafetyClassifier:
        """Restore the classifier.

        Args:
            base: the adapter's base; not used for full weights.
            labels: other labels than the checkpoint's get a new head and temperature 1.
            max_tokens: the checkpoint's where None.
            lora_rank: of a new adapter on full weights.
            trainable: see :class:`SafetyClassifier`.

        Raises:
            UserError: the adapter was trained on other weights than those of ``base``.
        """
        folder, adapter = self.folder, None
        if self.is_adapter:
            if base is None:
                raise UserError(f"{self.path}: is an adapter; its base is missing")
            self.check_base(base)
            folder, adapter = base, self.folder
        classifier = SafetyClassifier(
            folder,
            labels or self.info["labels"],
            max_tokens or self.info["max_tokens"],
            adapter=adapter,
            lora_rank=lora_rank,
            trainable=trainable,
        )
        if classifier.labels == self.info["labels"]:
            load_weights(classifier.head, self.folder / HEAD_FILE)
            classifier.temperature = self.temperature
        refuse_non_finite(classifier, self.path)
        return classifier


def set_temperature(path: str, temperature: float) -> None:
    """Store the temperature of a checkpoint in its manifest."""
    content = read_manifest(path, CLASSIFIER_FORMAT) | {"temperature": temperature}
    replace_manifest(path, CLASSIFIER_FORMAT, content)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel

    with loading(folder, MODEL_FILES):
        check_folder(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise UserError(
                f"{folder}: an encoder-decoder cannot classify here; give an encoder or a causal "
                "model"
            )
        tokenizer = load_tokenizer(folder)
        # Safetensors only: a .bin file would be unpickled.
        model: Any = AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False
        )
    return model.float(), tokenizer


def _adapt(model: Any, adapter: Path | None, rank: int, trainable: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    from parlai_prosocial.models.lean_lora import make_lean

    if adapter is not None:
        adapted = load_adapter(model, adapter, trainable)
    else:
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            exclude_modules=r".*pooler.*" if getattr(model, "pooler", None) is not None else None,
        )
        adapted = get_peft_model(model, config)
    make_lean(adapted)
    return adapted
