"""Where a name becomes a model: the one place that knows what may stand behind ``--model``.

========================  ==================================================================
``runs/x/model``          ParlAI's ``-mf`` of ``-m prosocial`` or ``-m prosocial/classifier``
``FOLDER``                a Hugging Face folder, or a peft adapter's, whoever made it
``OWNER/NAME@REVISION``   the same on the Hugging Face hub, or in its cache
``zoo:prosocial/NAME``    our zoo, with or without ``/model``; other zoos as ParlAI has them
``FILE.gguf``             as llama.cpp runs it, of an architecture that transformers reads
``http://HOST:PORT/v1#N`` an OpenAI-compatible address
========================  ==================================================================

``~`` is expanded. Every error begins with the flag that was typed and its value.
"""

import difflib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.compat.pickles import read_options
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import (
    ADAPTER_FILE,
    CLASSIFIER_FORMAT,
    FORMAT,
    Checkpoint,
    format_of,
)
from parlai_prosocial.models.classifier import ClassifierCheckpoint, SafetyClassifier
from parlai_prosocial.models.decoding import decoding_options
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT
from parlai_prosocial.util import hub
from parlai_prosocial.util.files import read_json
from parlai_prosocial.zoo.bases import minilm
from parlai_prosocial.zoo.bases.gguf import ensure_converted
from parlai_prosocial.zoo.entry import BASES, PREFIX, find_entry
from parlai_prosocial.zoo.install import install

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?:@\S+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class Kind(StrEnum):
    """What a name stands for."""

    CHECKPOINT = "a checkpoint of -m prosocial"
    CLASSIFIER = "a safety classifier (-m prosocial/classifier)"
    FOLDER = "a Hugging Face folder"
    ADAPTER = "a peft adapter"
    ADDRESS = "an address"
    FILE = "a file of another ParlAI agent"


@dataclass(frozen=True)
class Found:
    """What a name stands for, and where that lies.

    Attributes:
        flag: the flag or argument under which the name was given.
        name: as it was given.
        kind: see :class:`Kind`.
        path: the manifest, folder or file; of an address None.
    """

    flag: str
    name: str
    kind: Kind
    path: Path | None

    @property
    def place(self) -> Path:
        """``path``, which an address has not."""
        if self.path is None:
            raise self.refused("an address holds no files; give a model that lies here")
        return self.path

    def refused(self, why: str) -> UserError:
        """The error that this name cannot be used here."""
        space = "" if self.flag.endswith(":") else " "  # of `--judge classifier:NAME`
        return UserError(f"{self.flag}{space}{self.name}: {why}")


@contextmanager
def named(flag: str, name: str) -> Iterator[None]:
    """Put flag and name before the errors of what is done with a model."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(("--", flag)):  # it names the flag already, or another one
            raise
        raise Found(flag, name, Kind.FILE, None).refused(
            str(error).removeprefix(f"{name}: ")
        ) from None


@dataclass
class OpenedModel:
    """A frozen model in evaluation mode.

    Attributes:
        name: of the backbone, as it was asked for in training; a folder where nobody says more.
        folder: of its own weights; of an adapter not those of its base.
        backbone: with adapter and contrast head, where it has them.
        info: what its checkpoint says of it; empty for a plain model.
        opt: ParlAI's options it was trained with; empty where there are none.
        decoding: see :data:`~.decoding.DEFAULTS`.
    """

    name: str
    folder: Path
    backbone: Backbone
    info: dict[str, Any]
    opt: dict[str, Any]
    decoding: dict[str, Any]


def is_address(name: str) -> bool:
    """Whether a model is named by an address instead of something that lies here."""
    return name.startswith(("http://", "https://"))


def find(name: str | Path, flag: str, datapath: str | None = None) -> Found:
    """What a name stands for; fetched, installed or converted where it is not here yet.

    Args:
        name: see the table above.
        flag: under which it was given, for errors: ``--model``, or an argument's name.
        datapath: ParlAI's, for zoo and GGUF files; ParlAI's own where None.

    Raises:
        UserError: there is no such model.
    """
    name = str(name)
    if is_address(name):
        return Found(flag, name, Kind.ADDRESS, None)
    with named(flag, name):
        path = _place(name, datapath)
        kind = _kind(path)
        if path.suffix == ".gguf" and path.is_file():
            path = ensure_converted(path, find_datapath(datapath), logger.info)
            kind = Kind.FOLDER
    return Found(flag, name, kind, path)


def find_base(name: str | Path, flag: str = "--backbone", datapath: str | None = None) -> Path:
    """The Hugging Face folder of a model that training can begin with.

    Args: as for :func:`find`.

    Raises:
        UserError: there is none, or it is no whole model.
    """
    name = str(name)
    mend = "give a whole model"
    if name.startswith(PREFIX):
        with named(flag, name):
            entry = find_entry(name)  # what was tuned is not installed in vain
        if entry.kind not in BASES:
            raise UserError(
                f"{flag} {name}: is no base but a tuned model; go on from it with "
                f"--init-model {entry.path}"
            )
    found = find(name, flag, datapath)
    if found.kind is Kind.FOLDER:
        return found.place
    if found.kind in (Kind.CHECKPOINT, Kind.CLASSIFIER):
        mend = f"go on from it with --init-model {name}"
    if found.kind is Kind.ADAPTER:
        mend = "give its base, or merge it into that (peft's merge_and_unload) and give the result"
    raise found.refused(f"is {found.kind}, no base; {mend}")


def open_generator(
    name: str | Path, flag: str = "model", datapath: str | None = None, bf16: bool = False
) -> OpenedModel:
    """Open a model that replies, on the CPU.

    Args:
        name, flag, datapath: as for :func:`find`.
        bf16: see :class:`Backbone`.

    Raises:
        UserError: there is no such model, it is of another kind, or an adapter's base is missing
            or another one.
    """
    found = find_generator(name, flag, datapath)
    if found.kind is Kind.ADDRESS:
        raise found.refused(f"is {found.kind}; give a model that replies and lies here")
    with named(flag, found.name):
        return _opened(found, datapath, bf16)


def find_generator(name: str | Path, flag: str = "model", datapath: str | None = None) -> Found:
    """:func:`find` for a model that replies, here or at an address; a classifier is refused."""
    found = find(name, flag, datapath)
    if found.kind is Kind.CLASSIFIER:
        raise found.refused(f"is {found.kind}; give a model that replies")
    return found


def _opened(found: Found, datapath: str | None, bf16: bool) -> OpenedModel:
    path = found.place
    opt: dict[str, Any] = {}
    if path.is_file():
        checkpoint = Checkpoint(str(path))
        opt_file = Path(f"{path}.opt")
        opt = read_options(opt_file) if opt_file.is_file() else {}
    else:
        checkpoint = Checkpoint.of_folder(path)
    base, name = checkpoint.folder, shown_name(found.name)
    tokenizer = None
    if checkpoint.is_adapter:
        name = checkpoint.info.get("backbone") or _named_base(checkpoint.folder)
        base = find_base(name, f"{found.flag} {found.name}: its base", datapath)
        checkpoint.check_base(base)
        if not checkpoint.info and (checkpoint.folder / "tokenizer_config.json").is_file():
            tokenizer = checkpoint.folder  # trained with a template of its own, it may be
    backbone = Backbone(
        base,
        adapter=checkpoint.folder if checkpoint.is_adapter else None,
        contrast_head=checkpoint.has_contrast_head,
        bf16=bf16,
        system_prompt=checkpoint.info.get("system_prompt", DEFAULT_SYSTEM_PROMPT),
        trainable=False,
        tokenizer_folder=tokenizer,
    )
    checkpoint.load_contrast_head(backbone)
    name = checkpoint.info.get("backbone") or opt.get("backbone") or name
    decoding = decoding_options(checkpoint.info.get("decoding", opt))
    return OpenedModel(name, checkpoint.folder, backbone.eval(), checkpoint.info, opt, decoding)


def open_classifier(
    name: str | Path, flag: str = "classifier", datapath: str | None = None
) -> SafetyClassifier:
    """A trained safety classifier, frozen, in evaluation mode, on the CPU.

    Args: as for :func:`find`; ``zoo:prosocial/minilm_safety`` is one.

    Raises:
        UserError: there is none, or an adapter's base is missing or another one.
    """
    found = find_classifier(name, flag, datapath)
    with named(flag, found.name):
        checkpoint = ClassifierCheckpoint(str(found.place))
        base = classifier_base(checkpoint, f"{flag} {name}: its base", datapath)
        return checkpoint.classifier(base, trainable=False).eval()


def find_classifier(name: str | Path, flag: str, datapath: str | None = None) -> Found:
    """:func:`find` for a checkpoint of ``-m prosocial/classifier``; all else is refused."""
    found = find(name, flag, datapath)
    if found.kind is Kind.CLASSIFIER:
        return found
    if found.kind is Kind.ADDRESS:
        raise found.refused(f"is {found.kind}; give a classifier that lies here")
    raise found.refused(
        f"is {found.kind}, not a checkpoint of -m prosocial/classifier; train one with "
        "`parlai train_model -m prosocial/classifier`, or give zoo:prosocial/minilm_safety"
    )


def classifier_base(
    checkpoint: ClassifierCheckpoint, flag: str, datapath: str | None = None
) -> Path | None:
    """The folder of a classifier's base: by its name, or where it lay when it was trained.

    None for full weights.
    """
    if not checkpoint.is_adapter:
        return None
    remembered = checkpoint.info.get("base_folder")
    is_package = checkpoint.info["backbone"] == minilm.PACKAGE
    if remembered and not is_package and Path(remembered).is_dir():
        return Path(remembered)
    try:
        return find_base(checkpoint.info["backbone"], flag, datapath)
    except UserError as error:
        if remembered is None:
            raise
        raise UserError(f"{error}; it was trained over {remembered}, which is gone") from None


def _place(name: str, datapath: str | None) -> Path:
    """Where a model lies that is not at an address."""
    if name.startswith(("zoo:", "models:")):
        return _in_zoo(name, datapath)
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name == minilm.PACKAGE:
        return minilm.find_minilm()
    if not HUB_NAME.fullmatch(name) or name.startswith((".", "~")):
        near = difflib.get_close_matches(path.name, _beside(path), n=1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise UserError(f"no such model file or folder{hint}")
    return _from_hub(name)


def _beside(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _in_zoo(name: str, datapath: str | None) -> Path:
    if name.startswith(PREFIX):
        entry = find_entry(name)
        folder = install(entry, find_datapath(datapath), logger.info)
        return folder if entry.kind in BASES else folder / "model"
    from parlai.core.build_data import modelzoo_path

    from parlai_prosocial.compat import patches

    patches.apply()
    try:
        return Path(modelzoo_path(find_datapath(datapath), name))
    except ImportError:
        raise UserError(
            f"ParlAI knows no such model in its zoo; ours are named {PREFIX}NAME, see `prosocial "
            "zoo list`"
        ) from None


def _from_hub(name: str) -> Path:
    """The folder of a hub name, fetched or found in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    repository, _, revision = name.partition("@")
    offline = HF_HUB_OFFLINE or not hub.answers(ENDPOINT)
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=HUB_FILES,
                local_files_only=offline,
            )
        )
    except Exception as error:
        raise UserError(
            "no such model file or folder, and not to be had from the Hugging Face hub "
            f"({type(error).__name__}); give a file that -mf takes, a model folder, a hub name "
            f"that is cached or reachable, or a name of the zoo, as {PREFIX}smollm2_135m"
        ) from None


def _kind(path: Path) -> Kind:
    """What lies at a path."""
    if path.is_dir():
        if (path / ADAPTER_FILE).is_file():
            return Kind.ADAPTER
        if (path / "config.json").is_file():
            return Kind.FOLDER
        model = path / "model"
        hint = f"; did you mean {model}?" if model.is_file() else "; give a Hugging Face folder"
        raise UserError(f"no config.json there{hint}")
    kinds = {FORMAT: Kind.CHECKPOINT, CLASSIFIER_FORMAT: Kind.CLASSIFIER, None: Kind.FILE}
    return kinds[format_of(path)]


def _named_base(folder: Path) -> str:
    """What a peft adapter says of its base.

    Raises:
        UserError: it says nothing, or it isn't one that changes a model's layers.
    """
    config = read_json(folder / ADAPTER_FILE)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError("is a peft adapter without its adapter_model.safetensors; save it anew")
    if "num_virtual_tokens" in config or config.get("task_type") == "SEQ_CLS":
        raise UserError(
            f"is a peft adapter of type {config.get('peft_type')} for {config.get('task_type')}; "
            "give one that changes a language model's layers, as LoRA does"
        )
    base = config.get("base_model_name_or_path")
    if not base:
        raise UserError(f"its {ADAPTER_FILE} names no base_model_name_or_path; write it there")
    return base


def shown_name(name: str) -> str:
    """A name as tables, pages and cards show it: of our zoo without ``/model``.

    >>> shown_name("zoo:prosocial/smollm2_135m/model"), shown_name("runs/x/model")
    ('zoo:prosocial/smollm2_135m', 'runs/x/model')
    """
    return name.removesuffix("/model") if name.startswith(PREFIX) else name
