"""A generator opened by any of its names, ready to reply."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlai_prosocial.models.backbone import Backbone, find_backbone
from parlai_prosocial.models.checkpoint import Checkpoint
from parlai_prosocial.models.decoding import decoding_options
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT


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


def open_model(
    model: str, resolve: Callable[[str], Path] = find_backbone, bf16: bool = False
) -> OpenedModel:
    """Open a model on the CPU.

    Args:
        model: a checkpoint of ``-m prosocial`` (ParlAI's ``-mf``), an exported folder, or a
            Hugging Face folder or hub name.
        resolve: gives the folder of a backbone's name.
        bf16: see :class:`Backbone`.

    Raises:
        UserError: there is no such model, or an adapter's base is another one.
    """
    if Path(model).is_file():
        checkpoint = Checkpoint(model)
        opt_file = Path(f"{model}.opt")
        opt = json.loads(opt_file.read_text("utf-8")) if opt_file.is_file() else {}
    else:
        checkpoint, opt = Checkpoint.of_folder(resolve(model)), {}
    base = checkpoint.folder
    if checkpoint.is_adapter:
        base = resolve(checkpoint.info["backbone"])
        checkpoint.check_base(base)
    backbone = Backbone(
        base,
        adapter=checkpoint.folder if checkpoint.is_adapter else None,
        contrast_head=checkpoint.has_contrast_head,
        bf16=bf16,
        system_prompt=checkpoint.info.get("system_prompt", DEFAULT_SYSTEM_PROMPT),
        trainable=False,
    )
    checkpoint.load_contrast_head(backbone)
    name = checkpoint.info.get("backbone") or opt.get("backbone") or model
    decoding = decoding_options(checkpoint.info.get("decoding", opt))
    return OpenedModel(name, checkpoint.folder, backbone.eval(), checkpoint.info, opt, decoding)
