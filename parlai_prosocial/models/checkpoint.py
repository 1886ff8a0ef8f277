"""Checkpoints: weights in Hugging Face's or peft's own layout, switched in one step.

``model`` (the path ParlAI knows as ``-mf``) is a small JSON manifest. It names the folder beside
it that holds the weights::

    model                    {"format": "prosocial-checkpoint-1", "weights": "model.hf-000120", ...}
    model.hf-000120/         config.json, model.safetensors (or adapter_model.safetensors and
                             adapter_config.json), tokenizer files, prosocial.json, training.pt,
                             and contrast_head.safetensors, or head.safetensors of a classifier
    model.opt                ParlAI's options

A classifier's manifest has the format ``prosocial-classifier-1`` and holds its temperature, so that
calibrating a model leaves its weights alone.

The folder is written aside and renamed when complete; then the manifest is replaced atomically;
then older folders go. A kill at any moment leaves the previous checkpoint whole. Nothing is
unpickled without restriction: weights are safetensors, and ``training.pt`` (optimiser, scheduler)
is read with ``weights_only=True``.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.util.files import json_text, read_json, write_aside, write_json

FORMAT = "prosocial-checkpoint-1"
CLASSIFIER_FORMAT = "prosocial-classifier-1"
AGENTS = {FORMAT: "-m prosocial", CLASSIFIER_FORMAT: "-m prosocial/classifier"}
HEAD_FILE = "contrast_head.safetensors"
INFO_FILE = "prosocial.json"
TRAINING_FILE = "training.pt"
ADAPTER_FILE = "adapter_config.json"


def save_checkpoint(
    path: str, backbone: Backbone, info: dict[str, Any], training: dict[str, Any]
) -> None:
    """Write a checkpoint of ``-m prosocial`` at ``path``.

    Args:
        path: the manifest's path; folders go beside it.
        backbone: the model; with an adapter only the adapter is written.
        info: JSON-serialisable facts to restore the model from (backbone name, system prompt...).
        training: optimiser and scheduler state (tensors and plain containers only).
    """

    def write_weights(folder: Path) -> None:
        if backbone.adapted:
            backbone.model.save_pretrained(folder, save_embedding_layers=False)
        else:
            backbone.model.save_pretrained(folder)
        backbone.prompt.tokenizer.save_pretrained(folder)
        if backbone.contrast_head is not None:
            save_head(backbone.contrast_head, folder / HEAD_FILE)

    if backbone.adapted:
        info = {**info, "base_sha256": weights_sha256(backbone.folder)}
    write_checkpoint(path, FORMAT, write_weights, info, training)


def write_checkpoint(
    path: str,
    kind: str,
    write_weights: Callable[[Path], None],
    info: Mapping[str, Any],
    training: Mapping[str, Any],
    **content: Any,
) -> None:
    """Write a numbered folder of weights, switch the manifest to it, and delete older folders.

    Args:
        path: the manifest's path.
        kind: of :data:`AGENTS`.
        write_weights: fills the folder that it is given with weights and tokenizer.
        info: goes to ``prosocial.json``.
        training: optimiser and scheduler state (tensors and plain containers only).
        content: what else the manifest holds.
    """
    manifest = Path(path)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    previous = read_manifest(path, kind) if manifest.exists() else {}
    number = int(previous.get("number", 0)) + 1
    folder = manifest.with_name(f"{manifest.name}.hf-{number:06d}")
    aside = folder.with_name(folder.name + ".part")
    for leftover in (aside, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    write_weights(aside)
    make_readable_in_both_versions(aside)
    write_json(aside / INFO_FILE, info)
    torch.save(plain_state(training), aside / TRAINING_FILE)
    for weights in aside.glob("*.safetensors"):  # written for their owner alone
        shutil.copymode(aside / INFO_FILE, weights)
    aside.rename(folder)
    replace_manifest(path, kind, {"weights": folder.name, "number": number, **content})
    for old in manifest.parent.glob(f"{manifest.name}.hf-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def save_head(head: nn.Module, file: Path) -> None:
    """Write a small module's weights as safetensors."""
    save_file({name: t.detach().cpu() for name, t in head.state_dict().items()}, file)


class SavedModel:
    """A checkpoint on disk, read through its manifest.

    Attributes:
        path: of the manifest.
        content: of the manifest.
        folder: the folder with the weights.
        info: what was saved with them; empty for a plain model folder (a zoo base).

    Raises:
        UserError: the manifest or its folder is missing or not of this kind.
    """

    FORMAT: ClassVar[str]

    def __init__(self, path: str):
        self.path = path
        self.content = read_manifest(path, self.FORMAT)
        self.folder = Path(path).parent / self.content["weights"]
        if not self.folder.is_dir():
            raise UserError(f"{path}: its weights folder {self.folder} is missing; restore it")
        self.info = _read_info(self.folder)

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_FILE).exists()

    @property
    def lora_rank(self) -> int:
        """Rank of its adapter; 0 for full weights."""
        return read_json(self.folder / ADAPTER_FILE)["r"] if self.is_adapter else 0

    def check_base(self, base: Path) -> None:
        """Refuse a base whose weights are not those that the adapter was trained on.

        An adapter that others made does not say.
        """
        expected, found = self.info.get("base_sha256"), weights_sha256(base)
        if expected is not None and found != expected:
            raise UserError(
                f"{self.path}: this adapter was trained on {self.info['backbone']} with weights "
                f"sha256 {expected}, but {base} has {found}; restore that base or train again"
            )

    def training_state(self) -> dict[str, Any]:
        """Optimiser and scheduler state; empty for a model that was never trained here.

        Raises:
            UserError: the file is torn, or holds more than tensors and plain containers.
        """
        file = self.folder / TRAINING_FILE
        if not file.exists():
            return {}
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes end in whatever torch and pickle stumble over
            raise UserError(
                f"{file}: cannot be read ({type(error).__name__}): it is torn or not ours; restore "
                "it, or delete it to go on without the optimiser's state"
            ) from error


class Checkpoint(SavedModel):
    """A model of ``-m prosocial`` on disk."""

    FORMAT = FORMAT

    @classmethod
    def of_folder(cls, folder: Path) -> "Checkpoint":
        """A folder of weights without a manifest: an exported one, or any Hugging Face model."""
        checkpoint = cls.__new__(cls)
        checkpoint.path, checkpoint.folder, checkpoint.content = str(folder), folder, {}
        checkpoint.info = _read_info(folder)
        return checkpoint

    @property
    def has_contrast_head(self) -> bool:
        return (self.folder / HEAD_FILE).exists()

    def load_contrast_head(self, backbone: Backbone) -> None:
        """Restore the projections where both the checkpoint and the model have them."""
        if backbone.contrast_head is not None and self.has_contrast_head:
            backbone.contrast_head.load_state_dict(load_file(self.folder / HEAD_FILE))


def _read_info(folder: Path) -> dict[str, Any]:
    file = folder / INFO_FILE
    return read_json(file) if file.exists() else {}


def format_of(path: Path) -> str | None:
    """The format of a file that is a manifest; None where it is another file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    found = content.get("format") if isinstance(content, dict) else None
    return found if found in AGENTS else None


def read_manifest(path: str, kind: str) -> dict[str, Any]:
    """What a manifest of a format holds; :class:`UserError` where it is no such manifest."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such checkpoint")
    found = format_of(Path(path))
    if found == kind:
        return read_json(Path(path))
    mend = f"it is one of {AGENTS[found]}" if found else "use the ParlAI agent that wrote it"
    if kind == FORMAT and not found:
        mend += ", or make a Hugging Face folder of it with prosocial export parlai, and give that"
    if kind == CLASSIFIER_FORMAT:
        mend += f"; train one with `parlai train_model {AGENTS[kind]}`"
    raise UserError(f"{path}: not a checkpoint of {AGENTS[kind]}; {mend}")


def replace_manifest(path: str, kind: str, content: Mapping[str, Any]) -> None:
    """Switch to what the content says, in one step."""
    write_aside(Path(path), json_text({"format": kind, **content}))


def make_readable_in_both_versions(folder: Path) -> None:
    """Make what transformers 5 has written readable in 4.x too, which takes silent defaults.

    4.x looks for the rope's base beside, not in ``rope_parameters``, knows no
    ``TokenizersBackend`` and no list of ``extra_special_tokens``, and 4.46 finds a chat template
    in ``tokenizer_config.json`` only.
    """
    config_file = folder / "config.json"
    if config_file.exists():  # an adapter has none
        config = read_json(config_file)
        rope = dict(config.get("rope_parameters") or {})
        if "rope_theta" in rope:
            config["rope_theta"] = rope.pop("rope_theta")
            config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
            write_json(config_file, config)

    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    template = folder / "chat_template.jinja"
    if template.exists():
        config["chat_template"] = template.read_text("utf-8")
        template.unlink()
    write_json(config_file, config)


def drop_token_types(folder: Path) -> None:
    """Tell transformers 4's tokenizer that a generator takes no token types, which it refuses."""
    config_file = folder / "tokenizer_config.json"
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    write_json(config_file, read_json(config_file) | inputs)


def plain_state(value: Any) -> Any:
    """Containers with numpy's numbers as Python's: the restricted unpickler refuses the former.

    ParlAI's ``invsqrt`` schedule has them.
    """
    if isinstance(value, dict):
        return {key: plain_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_state(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value
