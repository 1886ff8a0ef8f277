"""A generator of ParlAI with BlenderBot's architecture, as transformers' Blenderbot.

The variant ``prelayernorm`` (BlenderBot 400M and 3B) is transformers' Blenderbot, ``xlm`` (90M) its
BlenderbotSmall. Both are the same computation under other names. ParlAI is not needed. Of
its files, options are read as JSON and weights as tensors; ``--trust-pickle`` of ``parlai`` has no
part here.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    GenerationConfig,
)

from parlai_prosocial.compat.pickles import read_options, read_states
from parlai_prosocial.errors import UserError
from parlai_prosocial.export.parlai_tokenizer import ParlaiDictionary, read_dictionary
from parlai_prosocial.models.both_versions import drop_token_types, make_readable_in_both_versions
from parlai_prosocial.models.decoding import generation_settings

CLASSES: dict[str, tuple[Any, Any]] = {
    "prelayernorm": (BlenderbotConfig, BlenderbotForConditionalGeneration),
    "xlm": (BlenderbotSmallConfig, BlenderbotSmallForConditionalGeneration),
}
NEVER = -65504.0
"""ParlAI never says the start token; the lowest number of float16."""

_LAYER = {
    "attention": "self_attn",
    "self_attention": "self_attn",
    "encoder_attention": "encoder_attn",
    "q_lin": "q_proj",
    "k_lin": "k_proj",
    "v_lin": "v_proj",
    "out_lin": "out_proj",
    "norm1": "self_attn_layer_norm",
    "norm3": "final_layer_norm",
}


@dataclass(frozen=True)
class ParlaiGenerator:
    """What lies in ``FILE``, ``FILE.opt`` and ``FILE.dict``."""

    path: str
    opt: dict[str, Any]
    weights: dict[str, torch.Tensor]
    dictionary: ParlaiDictionary

    @property
    def architecture(self) -> str:
        return CLASSES[self.opt["variant"]][1].__name__

    @property
    def parameters(self) -> int:
        return sum(w.numel() for name, w in self.weights.items() if not _is_copy(name))


def read_generator(path: str, datapath: str | None = None) -> ParlaiGenerator:
    """Read ``-mf path`` of ``-m transformer/generator`` or ``-m prosocial/transformer``.

    Args:
        path: ParlAI's ``-mf``.
        datapath: ParlAI's data path, where GPT-2's files may lie.

    Raises:
        UserError: a file is missing, holds more than tensors, or is of another architecture.
    """
    opt_file = Path(f"{path}.opt")
    if not Path(path).is_file() or not opt_file.is_file():
        raise UserError(f"{path}: give the file that -mf takes, with {opt_file.name} beside it")
    opt = read_options(opt_file)
    _check(path, opt)
    states = read_states(path)
    if "embeddings.weight" not in states.get("model", {}):
        raise UserError(f"{path}: holds no generator's weights; give the file that -mf takes")
    dictionary = read_dictionary(path, opt, datapath)
    embeddings = len(states["model"]["embeddings.weight"])
    # In fp16 ParlAI rounds the number of tokens up to a multiple of 8 and does not write it down.
    padding = embeddings - len(dictionary.tokens)
    if embeddings % 8 == 0 and 0 < padding < 8:
        dictionary.tokens.extend(f"__FP16_PAD_{i}__" for i in range(padding))
    return ParlaiGenerator(path, opt, states["model"], dictionary)


def _check(path: str, opt: dict[str, Any]) -> None:
    variant = opt.get("variant")
    if variant not in CLASSES:
        raise UserError(
            f"{path}: --variant {variant} has no counterpart among transformers' Blenderbot "
            f"models; it takes {' and '.join(CLASSES)}"
        )
    if opt.get("n_segments") or opt.get("output_scaling", 1.0) != 1.0:
        raise UserError(
            f"{path}: --n-segments and --output-scaling have no counterpart in transformers"
        )


def convert(generator: ParlaiGenerator, folder: Path) -> None:
    """Write config, weights, generation settings and tokenizer into an existing folder.

    The logits are ParlAI's, but for the start token's, which is never chosen in either. Greedy
    replies are the same; beam search measures length otherwise in transformers.

    Raises:
        UserError: the weights do not fit the options, or the decoding has no counterpart.
    """
    model = build(generator)
    model.save_pretrained(folder)
    generator.dictionary.save(folder, model.config.max_position_embeddings)
    make_readable_in_both_versions(folder)
    drop_token_types(folder)


def build(generator: ParlaiGenerator) -> Any:
    """transformers' model in float32, in evaluation mode."""
    config = _config(generator)
    model = CLASSES[generator.opt["variant"]][1](config)
    weights = generator.weights
    shared = weights["embeddings.weight"]
    for name in ("encoder.embeddings.weight", "decoder.embeddings.weight"):
        if name in weights and not torch.equal(weights[name], shared):
            raise UserError(
                f"{generator.path}: its encoder and decoder have embeddings of their own, which "
                "transformers' Blenderbot does not"
            )
    state = {
        hugging_face_name(name, generator.opt["variant"]): tensor.float()
        for name, tensor in weights.items()
        if not _is_copy(name)
    }
    if generator.opt["variant"] == "xlm" and _scales(generator.opt):
        _move_scale(state, config)
    bias = torch.zeros(1, config.vocab_size)
    bias[0, config.bos_token_id] = NEVER
    state["final_logits_bias"] = bias
    for tied in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        state[f"{tied}.weight"] = state["model.shared.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        difference = str(error).strip().split("\n")[1].strip()
        raise UserError(
            f"{generator.path}: its weights do not fit {Path(generator.path).name}.opt "
            f"({difference})"
        ) from None
    model.generation_config = GenerationConfig(**_generation(generator, config))
    return model.eval()


def _scales(opt: dict[str, Any]) -> bool:
    return opt.get("embeddings_scale", True)


def _move_scale(state: dict[str, torch.Tensor], config: Any) -> None:
    """Scale the embeddings themselves; the last layer norm takes it back before the output layer.

    ParlAI multiplies embeddings by the root of their width. transformers 5's BlenderbotSmall
    forgets that in its decoder, where 4's does not; the layer norm that follows hides it but for
    its epsilon.
    """
    config.scale_embedding = False
    scale = config.d_model**0.5
    last = f"model.decoder.layers.{config.decoder_layers - 1}.final_layer_norm"
    state["model.shared.weight"] = state["model.shared.weight"] * scale
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] = state[name] / scale


def hugging_face_name(name: str, variant: str) -> str:
    """A weight's name in transformers.

    >>> hugging_face_name("decoder.layers.3.norm2.bias", "xlm")
    'model.decoder.layers.3.encoder_attn_layer_norm.bias'
    >>> hugging_face_name("encoder.norm_embeddings.weight", "prelayernorm")
    'model.encoder.layer_norm.weight'
    """
    if name == "embeddings.weight":
        return "model.shared.weight"
    name = re.sub(r"\.ffn\.lin([12])\.", r".fc\1.", name)
    norm = "layer_norm" if variant == "prelayernorm" else "layernorm_embedding"
    second = "final_layer_norm" if name.startswith("encoder.") else "encoder_attn_layer_norm"
    names = _LAYER | {
        "norm2": second,
        "norm_embeddings": norm,
        "position_embeddings": "embed_positions",
    }
    return ".".join(["model", *(names.get(part, part) for part in name.split("."))])


def _is_copy(name: str) -> bool:
    """The start token, and the shared embeddings under a second name."""
    return name == "START" or name in ("encoder.embeddings.weight", "decoder.embeddings.weight")


def _config(generator: ParlaiGenerator) -> Any:
    opt, weights, dictionary = generator.opt, generator.weights, generator.dictionary
    vocabulary, width = weights["embeddings.weight"].shape
    if vocabulary != len(dictionary.tokens):
        raise UserError(
            f"{dictionary.file}: has {len(dictionary.tokens)} tokens, but the model {vocabulary} "
            "embeddings; it belongs to another model"
        )

    def layers(kind: str) -> int:
        own = opt.get(f"n_{kind}_layers") or -1
        return own if own > 0 else opt["n_layers"]

    return CLASSES[opt["variant"]][0](
        vocab_size=vocabulary,
        max_position_embeddings=len(weights["encoder.position_embeddings.weight"]),
        d_model=width,
        encoder_layers=layers("encoder"),
        decoder_layers=layers("decoder"),
        encoder_attention_heads=opt["n_heads"],
        decoder_attention_heads=opt["n_heads"],
        encoder_ffn_dim=opt["ffn_size"],
        decoder_ffn_dim=opt["ffn_size"],
        activation_function=opt.get("activation", "relu"),
        scale_embedding=_scales(opt),
        dropout=opt.get("dropout", 0.0),
        attention_dropout=opt.get("attention_dropout", 0.0),
        activation_dropout=opt.get("relu_dropout", 0.0),
        pad_token_id=dictionary.pad_id,
        bos_token_id=dictionary.start_id,
        eos_token_id=dictionary.end_id,
        decoder_start_token_id=dictionary.start_id,
        encoder_no_repeat_ngram_size=0,
        tie_word_embeddings=True,
    )


def _generation(generator: ParlaiGenerator, config: Any) -> dict[str, Any]:
    opt = generator.opt
    # In ParlAI's own agents --temperature is that of sampling.
    settings = generation_settings({**opt, "sampling_temperature": opt.get("temperature")})
    if opt.get("beam_context_block_ngram", -1) > 0:
        settings["encoder_no_repeat_ngram_size"] = opt["beam_context_block_ngram"]
    positions = config.max_position_embeddings
    return settings | {
        # ParlAI ends a reply of the greatest length with the end token.
        "forced_eos_token_id": config.eos_token_id,
        "max_new_tokens": min(opt.get("label_truncate") or 256, positions - 1),
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }
