"""Checkpoints: weights in Hugging Face's or peft's own layout, switched in one step.

``model`` (the path ParlAI knows as ``-mf``) is a small JSON manifest. It names the folder beside
it that holds the weights::

    model                    {"format": "prosocial-checkpoint-1", "weights": "model.hf-000120", ...}
    model.hf-000120/         config.json, model.safetensors (or adapter_model.safetensors and
                             adapter_config.json), tokenizer files, contrast_head.safetensors,
                             prosocial.json, training.pt
    model.opt                ParlAI's options

The folder is written aside and renamed when complete; then the manifest is replaced atomically;
then older folders go. A kill at any moment leaves the previous checkpoint whole. Nothing is
unpickled without restriction: weights are safetensors, and ``training.pt`` (optimiser, scheduler)
is read with ``weights_only=True``.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.util.files import json_text, write_aside, write_json

FORMAT = "prosocial-checkpoint-1"
HEAD_FILE = "contrast_head.safetensors"
INFO_FILE = "prosocial.json"
TRAINING_FILE = "training.pt"


def save_checkpoint(
    path: str, backbone: Backbone, info: dict[str, Any], training: dict[str, Any]
) -> None:
    """Write a checkpoint at ``path``.

    Args:
        path: the manifest's path; folders go beside it.
        backbone: the model; with an adapter only the adapter is written.
        info: JSON-serialisable facts to restore the model from (backbone name, system prompt...).
        training: optimiser and scheduler state (tensors and plain containers only).
    """
    manifest = Path(path)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    previous = _read_manifest(manifest) if manifest.exists() else {}
    number = int(previous.get("number", 0)) + 1
    folder = manifest.with_name(f"{manifest.name}.hf-{number:06d}")
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside.mkdir()
    if backbone.adapted:
        backbone.model.save_pretrained(aside, save_embedding_layers=False)
        info = {**info, "base_sha256": weights_sha256(backbone.folder)}
    else:
        backbone.model.save_pretrained(aside)
    backbone.prompt.tokenizer.save_pretrained(aside)
    make_readable_in_both_versions(aside)
    if backbone.contrast_head is not None:
        head = {k: v.detach().cpu() for k, v in backbone.contrast_head.state_dict().items()}
        save_file(head, aside / HEAD_FILE)
    write_json(aside / INFO_FILE, info)
    torch.save(plain_state(training), aside / TRAINING_FILE)
    for weights in aside.glob("*.safetensors"):  # written for their owner alone
        shutil.copymode(aside / INFO_FILE, weights)
    aside.rename(folder)

    content = {"format": FORMAT, "weights": folder.name, "number": number}
    write_aside(manifest, json_text(content))
    for old in manifest.parent.glob(f"{manifest.name}.hf-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


class Checkpoint:
    """A checkpoint on disk, read through its manifest.

    Attributes:
        folder: the folder with the weights.
        info: what ``save_checkpoint`` was given, empty for a plain model folder (a zoo base).

    Raises:
        UserError: the manifest or its folder is missing or not ours.
    """

    def __init__(self, path: str):
        manifest = Path(path)
        self.path = path
        self.folder = manifest.parent / _read_manifest(manifest)["weights"]
        if not self.folder.is_dir():
            raise UserError(f"{path}: its weights folder {self.folder} is missing; restore it")
        self.info = _read_info(self.folder)

    @classmethod
    def of_folder(cls, folder: Path) -> "Checkpoint":
        """A folder of weights without a manifest: an exported one, or any Hugging Face model."""
        checkpoint = cls.__new__(cls)
        checkpoint.path, checkpoint.folder = str(folder), folder
        checkpoint.info = _read_info(folder)
        return checkpoint

    @property
    def is_adapter(self) -> bool:
        return (self.folder / "adapter_config.json").exists()

    @property
    def has_contrast_head(self) -> bool:
        return (self.folder / HEAD_FILE).exists()

    def check_base(self, base: Path) -> None:
        """Refuse a base whose weights are not those that the adapter was trained on."""
        expected, found = self.info["base_sha256"], weights_sha256(base)
        if found != expected:
            raise UserError(
                f"{self.path}: this adapter was trained on {self.info['backbone']} with weights "
                f"sha256 {expected}, but {base} has {found}; restore that base or train again"
            )

    def load_contrast_head(self, backbone: Backbone) -> None:
        """Restore the projections where both the checkpoint and the model have them."""
        if backbone.contrast_head is not None and self.has_contrast_head:
            backbone.contrast_head.load_state_dict(load_file(self.folder / HEAD_FILE))

    def training_state(self) -> dict[str, Any]:
        """Optimiser and scheduler state; empty for a model that was never trained here."""
        file = self.folder / TRAINING_FILE
        return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else {}


def _read_info(folder: Path) -> dict[str, Any]:
    file = folder / INFO_FILE
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_text())
    except FileNotFoundError:
        raise UserError(f"{manifest}: no such checkpoint") from None
    except (IsADirectoryError, UnicodeDecodeError, json.JSONDecodeError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{manifest}: not a checkpoint of the prosocial agent; use the ParlAI agent that wrote "
            "it, or make a Hugging Face folder of it with prosocial export parlai, and give that"
        )
    return content


def make_readable_in_both_versions(folder: Path) -> None:
    """Make what transformers 5 has written readable in 4.x too, which takes silent defaults.

    4.x looks for the rope's base beside, not in ``rope_parameters``, knows no
    ``TokenizersBackend`` and no list of ``extra_special_tokens``, and 4.46 finds a chat template
    in ``tokenizer_config.json`` only.
    """
    config_file = folder / "config.json"
    if config_file.exists():  # an adapter has none
        config = json.loads(config_file.read_text("utf-8"))
        rope = dict(config.get("rope_parameters") or {})
        if "rope_theta" in rope:
            config["rope_theta"] = rope.pop("rope_theta")
            config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
            write_json(config_file, config)

    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text("utf-8"))
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
    config = json.loads(config_file.read_text("utf-8"))
    write_json(config_file, config | {"model_input_names": ["input_ids", "attention_mask"]})


def plain_state(value: Any) -> Any:
    """Containers with numpy's numbers as Python's: the restricted unpickler refuses the former.

    ParlAI's ``invsqrt`` schedule has them.
    """
    if isinstance(value, dict):
        return {key: plain_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_state(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value
