"""A model written out for everybody else: Hugging Face's layout, prompt and decoding included."""

import copy
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoTokenizer

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.chat_template import (
    is_plain,
    plain_template,
    with_default_system,
)
from parlai_prosocial.models.checkpoint import (
    HEAD_FILE,
    INFO_FILE,
    drop_token_types,
    make_readable_in_both_versions,
)
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.util.files import write_json
from parlai_prosocial.zoo.resolve import OpenedModel

HEAD_CONFIG_FILE = "contrast_head.json"
CARD_FILE = "README.md"


def export_model(model: OpenedModel, out: Path, keep_adapter: bool = False, card: str = "") -> None:
    """Write a folder that ``AutoModelFor...from_pretrained`` opens.

    It holds the weights (an adapter is merged, which changes ``model``), the tokenizer, whose chat
    template has the model's system prompt as its default, the generation settings, the contrast
    head where there is one, ``prosocial.json``, and the card.

    Args:
        model: from :func:`~.opening.open_model`, held in float32.
        out: the new folder; written aside and moved into place.
        keep_adapter: write the adapter alone, in peft's layout.
        card: the text of README.md.

    Raises:
        UserError: ``out`` exists, or there is no adapter to keep.
    """
    backbone = model.backbone
    if keep_adapter and not backbone.adapted:
        raise UserError("--adapter: this model has no adapter; leave --adapter out")
    check_new(out)
    aside = start_aside(out)
    info = {
        "backbone": model.name if keep_adapter else public_name(model.name),
        "system_prompt": backbone.prompt.system_prompt,
        "contrast_score": model.info.get("contrast_score"),
        "decoding": model.decoding,
    }
    generation = _generation_config(model)
    if keep_adapter:
        info["base_sha256"] = weights_sha256(backbone.folder)
        # peft wrote where the base lies on this machine.
        backbone.model.peft_config["default"].base_model_name_or_path = info["backbone"]
        backbone.model.save_pretrained(aside, save_embedding_layers=False)
        generation.save_pretrained(aside)
    else:
        lm = backbone.model.merge_and_unload() if backbone.adapted else backbone.model
        lm.config.pad_token_id = backbone.pad_id
        lm.config.eos_token_id = backbone.prompt.end_of_turn_id
        lm.generation_config = generation
        lm.save_pretrained(aside)
    _tokenizer(backbone).save_pretrained(aside)
    make_readable_in_both_versions(aside)
    drop_token_types(aside)
    if backbone.contrast_head is not None:
        _save_head(backbone, aside)
    write_json(aside / INFO_FILE, info)
    (aside / CARD_FILE).write_text(card, "utf-8")
    for weights in aside.glob("*.safetensors"):  # written for their owner alone
        shutil.copymode(aside / INFO_FILE, weights)
    move_into_place(aside, out)


def public_name(backbone: str) -> str:
    """A backbone's name without the folders of this machine, where it is a folder.

    >>> public_name("zoo:prosocial/smollm2_135m"), public_name("/")
    ('zoo:prosocial/smollm2_135m', '')
    """
    return Path(backbone).name if Path(backbone).is_dir() else backbone


def check_new(out: Path) -> None:
    """Raise :class:`UserError` where ``out`` is a file, or a folder with something in it."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; give a new folder, or delete it")


def start_aside(out: Path) -> Path:
    """An empty folder beside ``out``; :func:`move_into_place` gives it that name."""
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def move_into_place(aside: Path, out: Path) -> None:
    """Give a folder that was written aside its name, where at most an empty folder is."""
    if out.is_dir():
        out.rmdir()
    aside.rename(out)


def _generation_config(model: OpenedModel) -> Any:
    """The backbone's own settings under those that the agent gives to ``generate``."""
    backbone = model.backbone
    config = copy.deepcopy(backbone.lm.generation_config)
    config._from_model_config = False  # otherwise transformers may rebuild it from config.json
    settings = generation_settings(model.decoding)
    if not settings["do_sample"]:
        # Of the backbone's own sampling; without sampling they are refused when saved.
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    config.update(
        **settings,
        max_length=None,
        max_new_tokens=model.decoding["label_truncate"],
        pad_token_id=backbone.pad_id,
        eos_token_id=backbone.prompt.end_of_turn_id,
    )
    return config


def _tokenizer(backbone: Backbone) -> Any:
    prompt = backbone.prompt
    # A causal model continues the last position of a batch's rows.
    side = "right" if backbone.is_encoder_decoder else "left"
    tokenizer = AutoTokenizer.from_pretrained(backbone.folder, padding_side=side)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(backbone.pad_id)
    if prompt.has_template:
        tokenizer.chat_template = with_default_system(
            tokenizer.chat_template, prompt.system_prompt, prompt.turn_format
        )
    elif not backbone.is_encoder_decoder:
        assert is_plain(tokenizer.chat_template)
        tokenizer.chat_template = plain_template(tokenizer)
    return tokenizer


def _save_head(backbone: Backbone, folder: Path) -> None:
    head = backbone.contrast_head
    assert head is not None
    save_file({k: v.detach().cpu() for k, v in head.state_dict().items()}, folder / HEAD_FILE)
    dim, hidden = head.context.weight.shape
    context = "mean over its encoder states" if backbone.is_encoder_decoder else "its last token"
    description = {
        "file": HEAD_FILE,
        "hidden_size": hidden,
        "dim": dim,
        "context_state": f"last hidden state, {context}",
        "response_state": "last hidden states, mean over the response's tokens but its last",
        "score": "cosine of context.weight @ context_state and response.weight @ response_state",
    }
    write_json(folder / HEAD_CONFIG_FILE, description)
