"""Checkpoints: weights in Hugging Face's or peft's own layout, switched in one step.

``model`` (the path ParlAI knows as ``-mf``) is a small JSON manifest. It names the folder beside
it that holds the weights, with size and SHA-256 of every file::

    model                    {"format": "prosocial-checkpoint-1", "weights": "model.hf-000120", ...}
    model.hf-000120/         config.json, model.safetensors (or adapter_model.safetensors and
                             adapter_config.json), tokenizer files, prosocial.json, training.pt,
                             and contrast_head.safetensors, or head.safetensors of a classifier
    model.opt                ParlAI's options

A classifier's manifest has the format ``prosocial-classifier-1`` and holds its temperature, so that
calibrating a model leaves its weights alone.

The folder is written aside and renamed when complete; then the manifest is replaced atomically. A
kill or a full disk at any moment leaves the previous checkpoint whole. One earlier folder stays,
which the manifest names too, and is used where the newest is not as it was written; what is older
goes before a new one is written. Nothing is unpickled without restriction: weights are safetensors,
and ``training.pt`` (optimiser, scheduler) is read with ``weights_only=True``.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired

import numpy as np
import torch
from pydantic import AfterValidator, Field, with_config
from safetensors.torch import save_file
from torch import nn
from typing_extensions import TypedDict

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.both_versions import make_readable_in_both_versions
from parlai_prosocial.models.pretrained import ADAPTER_FILE, load_weights
from parlai_prosocial.util.files import (
    file_sha256,
    json_text,
    read_json,
    write_aside,
    write_json,
    writing,
)

logger = logging.getLogger(__name__)

FORMAT = "prosocial-checkpoint-1"
CLASSIFIER_FORMAT = "prosocial-classifier-1"
AGENTS = {FORMAT: "-m prosocial", CLASSIFIER_FORMAT: "-m prosocial/classifier"}
HEAD_FILE = "contrast_head.safetensors"
INFO_FILE = "prosocial.json"
TRAINING_FILE = "training.pt"
RESTORE = "restore it, or train again"


LONGEST_NAME = 255
"""Bytes of a file's name, as most file systems have it."""


def _plain_name(name: str) -> str:
    is_path = name in ("", ".", "..") or any(sign in name for sign in "/\\")
    if is_path or not name.isprintable() or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError("must be the name of a file beside it, not a path")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]
Precision = Literal["fp32", "bf16"]
"""In which a run computes; one that goes on computes as it began."""


class FileRecord(TypedDict):
    """Of a file as it was written."""

    size: int
    sha256: str


@with_config({"extra": "allow"})
class Saved(TypedDict):
    """A folder of weights; ``files`` is missing in what was written before there were hashes."""

    weights: Name
    number: NotRequired[int]
    files: NotRequired[dict[Name, FileRecord]]
    temperature: NotRequired[Annotated[float, Field(gt=0, lt=math.inf)]]


class Manifest(Saved):
    """What ``-mf`` is."""

    format: str
    previous: NotRequired[Saved]


@with_config({"extra": "allow"})
class Info(TypedDict):
    """``prosocial.json`` of a model that replies; an exported model's says less."""

    backbone: NotRequired[str]
    system_prompt: NotRequired[str]
    base_sha256: NotRequired[str | None]
    decoding: NotRequired[dict[str, Any]]
    precision: NotRequired[Precision]


@with_config({"extra": "allow"})
class AdapterConfig(TypedDict):
    r: NotRequired[int]


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
    previous = read_manifest(path, kind) if manifest.exists() else {}
    number = int(previous.get("number", 0)) + 1
    folder = manifest.with_name(f"{manifest.name}.hf-{number:06d}")
    aside = folder.with_name(folder.name + ".part")
    with writing(manifest, aside):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        for old in manifest.parent.iterdir():
            ours = old.name.startswith(f"{manifest.name}.hf-")
            if ours and old.name != previous.get("weights"):
                shutil.rmtree(old, ignore_errors=True)
        aside.mkdir()
        _fill(aside, write_weights, info, training)
        files = _records(aside)
        aside.rename(folder)
    content = {"weights": folder.name, "number": number, "files": files, **content}
    if "files" in previous:
        content["previous"] = {
            key: value for key, value in previous.items() if key not in ("format", "previous")
        }
    replace_manifest(path, kind, content)
    if previous and "files" not in previous:  # nobody could tell whether it is whole
        shutil.rmtree(manifest.with_name(previous["weights"]), ignore_errors=True)


def _fill(
    aside: Path,
    write_weights: Callable[[Path], None],
    info: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    write_weights(aside)
    make_readable_in_both_versions(aside)
    write_json(aside / INFO_FILE, info)
    with open(aside / TRAINING_FILE, "wb") as stream:
        torch.save(plain_state(training), stream)
    for weights in aside.glob("*.safetensors"):  # written for their owner alone
        shutil.copymode(aside / INFO_FILE, weights)


def _records(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of each file, which is on disk when this returns."""
    records: dict[str, FileRecord] = {}
    for file in sorted(folder.iterdir()):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        records[file.name] = {"size": file.stat().st_size, "sha256": file_sha256(file)}
    return records


def _fault(file: Path, record: FileRecord) -> str | None:
    """What is wrong with a file; None where it is as it was written."""
    if not file.is_file():
        return f"{file} is missing"
    if (size := file.stat().st_size) != record["size"]:
        return f"{file} has {size:,} bytes, was written with {record['size']:,}"
    if file_sha256(file) != record["sha256"]:
        return f"{file} is not as it was written (sha256)"
    return None


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
    INFO: ClassVar[Any]

    def __init__(self, path: str):
        self.path = path
        self.content = read_manifest(path, self.FORMAT)
        fault = self._fault(self.content)
        if fault and (previous := self.content.get("previous")) and not self._fault(previous):
            logger.warning(
                "%s: %s; the checkpoint before it is used, %s", path, fault, previous["weights"]
            )
            self.content, fault = previous, None
        if fault:
            raise UserError(f"{path}: {fault}; {RESTORE}")
        self.folder = Path(path).with_name(self.content["weights"])
        self.info = self._read_info()

    def seal(self) -> int:
        """Record size and hash of every file as it is; the number of files, 0 where they were."""
        if self.has_hashes:
            return 0
        files = _records(self.folder)
        replace_manifest(self.path, self.FORMAT, {**self.content, "files": files})
        return len(files)

    def _fault(self, saved: Mapping[str, Any]) -> str | None:
        """Why a folder cannot be used; its training state may lack."""
        folder = Path(self.path).with_name(saved["weights"])
        if not folder.is_dir():
            return f"its weights folder {folder} is missing"
        files = {n: r for n, r in saved.get("files", {}).items() if n != TRAINING_FILE}
        return next(filter(None, (_fault(folder / n, r) for n, r in files.items())), None)

    def _read_info(self) -> dict[str, Any]:
        file = self.folder / INFO_FILE
        return read_json(file, self.INFO, RESTORE) if file.exists() else {}

    @property
    def has_hashes(self) -> bool:
        """Whether it was held against hashes when it was opened."""
        return "files" in self.content

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER_FILE).exists()

    @property
    def lora_rank(self) -> int:
        """Rank of its adapter; 0 for full weights."""
        if not self.is_adapter:
            return 0
        return read_json(self.folder / ADAPTER_FILE, AdapterConfig, RESTORE).get("r", 0)

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
            UserError: the file is torn, not as it was written, or holds more than tensors and
                plain containers.
        """
        file = self.folder / TRAINING_FILE
        if not file.exists():
            return {}
        mend = "restore it, or delete it to go on without the optimiser's state"
        record = self.content.get("files", {}).get(TRAINING_FILE)
        if record and (fault := _fault(file, record)):
            raise UserError(f"{fault}; {mend}")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes end in whatever torch and pickle stumble over
            raise UserError(
                f"{file}: cannot be read ({type(error).__name__}): it is torn or not ours; {mend}"
            ) from error


class Checkpoint(SavedModel):
    """A model of ``-m prosocial`` on disk."""

    FORMAT = FORMAT
    INFO = Info

    @classmethod
    def of_folder(cls, folder: Path) -> "Checkpoint":
        """A folder of weights without a manifest: an exported one, or any Hugging Face model."""
        checkpoint = cls.__new__(cls)
        checkpoint.path, checkpoint.folder, checkpoint.content = str(folder), folder, {}
        checkpoint.info = checkpoint._read_info()
        return checkpoint

    @property
    def has_contrast_head(self) -> bool:
        return (self.folder / HEAD_FILE).exists()

    def load_contrast_head(self, backbone: Backbone) -> None:
        """Restore the projections where both the checkpoint and the model have them."""
        if backbone.contrast_head is not None and self.has_contrast_head:
            load_weights(backbone.contrast_head, self.folder / HEAD_FILE)


def format_of(path: Path) -> str | None:
    """The format of a file that is a manifest; None where it is another file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found = content.get("format") if isinstance(content, dict) else None
    return found if isinstance(found, str) and found in AGENTS else None


def read_manifest(path: str, kind: str) -> dict[str, Any]:
    """What a manifest of a format holds; :class:`UserError` where it is no such manifest."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such checkpoint")
    found = format_of(Path(path))
    if found == kind:
        return read_json(Path(path), Manifest, RESTORE)
    mend = f"it is one of {AGENTS[found]}" if found else "use the ParlAI agent that wrote it"
    if kind == FORMAT and not found:
        mend += ", or make a Hugging Face folder of it with prosocial export parlai, and give that"
    if kind == CLASSIFIER_FORMAT:
        mend += f"; train one with `parlai train_model {AGENTS[kind]}`"
    raise UserError(f"{path}: not a checkpoint of {AGENTS[kind]}; {mend}")


def replace_manifest(path: str, kind: str, content: Mapping[str, Any]) -> None:
    """Switch to what the content says, in one step."""
    write_aside(Path(path), json_text({"format": kind, **content}))


def plain_state(value: Any) -> Any:
    """Containers with numpy's numbers as Python's: the restricted unpickler refuses the former.

    ParlAI's ``invsqrt`` schedule has them.
    """
    if isinstance(value, dict):
        return {key: plain_state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_state(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value
