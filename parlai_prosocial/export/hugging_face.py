"""A model written out for everybody else: Hugging Face's layout, prompt and decoding included."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone, weights_sha256
from parlai_prosocial.models.both_versions import drop_token_types, make_readable_in_both_versions
from parlai_prosocial.models.chat_template import (
    is_plain,
    load_tokenizer,
    plain_template,
    with_default_system,
)
from parlai_prosocial.models.checkpoint import (
    HEAD_FILE,
    INFO_FILE,
    save_head,
)
from parlai_prosocial.models.decoding import generation_settings
from parlai_prosocial.util.files import write_json, writing
from parlai_prosocial.zoo.resolve import OpenedModel

HEAD_CONFIG_FILE = "contrast_head.json"
CARD_FILE = "README.md"


def export_model(model: OpenedModel, out: Path, keep_adapter: bool = False, card: str = "") -> None:
    """Write a folder that ``AutoModelFor...from_pretrained`` opens.

    It holds the weights (an adapter is merged, which changes ``model``), the tokenizer, whose chat
    template has the model's system prompt as its default, the generation settings, the contrast
    head where there is one, ``prosocial.json``, and the card.

    Args:
        model: from :func:`~parlai_prosocial.zoo.resolve.open_generator`, held in float32.
        out: the new folder; written aside and moved into place.
        keep_adapter: write the adapter alone, in peft's layout.
        card: the text of README.md.

    Raises:
        UserError: ``out`` exists, or there is no adapter to keep.
    """
    backbone = model.backbone
    if keep_adapter and not backbone.adapted:
        raise UserError("--adapter: this model has no adapter; leave --adapter out")
    info = {
        "backbone": model.name if keep_adapter else public_name(model.name),
        "system_prompt": backbone.prompt.system_prompt,
        "contrast_score": model.info.get("contrast_score"),
        "decoding": model.decoding,
    }
    generation = generation_config(model)
    with written_aside(out) as aside:
        _write(model, aside, info, generation, keep_adapter)
        (aside / CARD_FILE).write_text(card, "utf-8")


def _write(
    model: OpenedModel,
    aside: Path,
    info: dict[str, Any],
    generation: GenerationConfig,
    keep_adapter: bool,
) -> None:
    backbone = model.backbone
    if keep_adapter:
        info["base_sha256"] = weights_sha256(backbone.folder)
        # peft wrote where the base lies on this machine.
        backbone.model.peft_config["default"].base_model_name_or_path = info["backbone"]
        backbone.model.save_pretrained(aside, save_embedding_layers=False)
        generation.save_pretrained(aside)
    else:
        lm = backbone.model.merge_and_unload() if backbone.adapted else backbone.model
        lm.config.pad_token_id = backbone.pad_id
        lm.config.eos_token_id = generation.eos_token_id
        lm.generation_config = generation
        lm.save_pretrained(aside)
    _tokenizer(backbone).save_pretrained(aside)
    make_readable_in_both_versions(aside)
    drop_token_types(aside)
    if backbone.contrast_head is not None:
        _save_head(backbone, aside)
    write_json(aside / INFO_FILE, info)
    for weights in aside.glob("*.safetensors"):  # written for their owner alone
        shutil.copymode(aside / INFO_FILE, weights)


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


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """Give an empty folder beside ``out`` that gets its name when all is written.

    Whatever stops the writing, nothing is left.

    Raises:
        UserError: ``out`` exists, with something in it.
    """
    check_new(out)
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(out, aside):
        aside.mkdir(parents=True)
        yield aside
        if out.is_dir():
            out.rmdir()
        aside.rename(out)


def generation_config(model: OpenedModel) -> GenerationConfig:
    """The settings by which transformers replies as the agent does, and no others.

    Raises:
        UserError: transformers would not save them.
    """
    backbone = model.backbone
    most = backbone.reply_limit(model.decoding["label_truncate"])
    config = backbone.generation_config(max_new_tokens=most, **generation_settings(model.decoding))
    stops = backbone.prompt.stop_ids
    config.eos_token_id = stops if len(stops) > 1 else stops[0]
    with tempfile.TemporaryDirectory() as folder:
        try:
            config.save_pretrained(folder)
        except ValueError as error:
            first_line = str(error).strip().split("\n")[0]
            raise UserError(
                f"{model.name}: its decoding cannot be exported ({first_line})"
            ) from None
    return config


def _tokenizer(backbone: Backbone) -> Any:
    prompt = backbone.prompt
    # A causal model continues the last position of a batch's rows.
    side = "right" if backbone.is_encoder_decoder else "left"
    tokenizer = load_tokenizer(backbone.tokenizer_folder, padding_side=side)
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
    save_head(head, folder / HEAD_FILE)
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
