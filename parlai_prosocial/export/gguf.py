"""An exported folder of a Llama-shaped model as one GGUF file, for llama.cpp and what uses it."""

import os
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
from pydantic import Field, with_config
from safetensors import safe_open
from typing_extensions import TypedDict

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.both_versions import with_flat_rope
from parlai_prosocial.models.pretrained import loading
from parlai_prosocial.util.files import read_json, writing

NUMBERS = ("f16", "f32")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}


Size = Annotated[int, Field(gt=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, lt=1e30)]


@with_config({"extra": "allow"})
class Config(TypedDict):
    """``config.json`` of a Llama-shaped model; of others only ``model_type`` is read."""

    model_type: NotRequired[Annotated[str, Field(pattern=r"^[\w.-]+$")]]
    rope_scaling: NotRequired[dict[str, Any] | None]
    rope_parameters: NotRequired[dict[str, Any] | None]
    num_hidden_layers: NotRequired[Size]
    max_position_embeddings: NotRequired[Size]
    hidden_size: NotRequired[Size]
    intermediate_size: NotRequired[Size]
    num_attention_heads: NotRequired[Size]
    num_key_value_heads: NotRequired[Size]
    head_dim: NotRequired[Size | None]
    rope_theta: NotRequired[Positive]
    rms_norm_eps: NotRequired[Positive]
    vocab_size: NotRequired[Size]


@with_config({"extra": "allow"})
class Vocabulary(TypedDict):
    type: str
    vocab: dict[str, int] | list[Any]
    merges: NotRequired[list[Any]]


@with_config({"extra": "allow"})
class AddedToken(TypedDict):
    id: int
    content: str
    special: bool


@with_config({"extra": "allow"})
class Step(TypedDict):
    pretokenizers: NotRequired[list[dict[str, Any]] | None]


@with_config({"extra": "allow"})
class Tokenizer(TypedDict):
    """``tokenizer.json``; another kind of vocabulary is refused before it is read."""

    model: Vocabulary
    added_tokens: list[AddedToken]
    pre_tokenizer: Step | None
    normalizer: dict[str, Any] | None


NEEDED = (
    "num_hidden_layers",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "rope_theta",
    "rms_norm_eps",
    "vocab_size",
)


def write_gguf(folder: Path, file: Path, numbers: str = "f16") -> None:
    """Write ``file`` from what :func:`~.export.export_model` or transformers wrote.

    Names, metadata and the order of the rotary dimensions are those of llama.cpp's
    ``convert_hf_to_gguf.py``.

    Args:
        folder: a Hugging Face folder.
        file: written aside and moved into place.
        numbers: of :data:`NUMBERS`; norms are float32 in both.

    Raises:
        UserError: the model or its tokenizer is of another shape.
    """
    mend = "export the model again"
    config = read_json(folder / "config.json", Config, mend)
    if "rope_theta" not in config:  # as transformers 5 saves it
        config = with_flat_rope(config)
    tokenizer = read_json(folder / "tokenizer.json", Tokenizer, mend)
    _check(folder, config)
    pre_tokenizer = _pre_tokenizer(folder, tokenizer)
    part = file.with_name(file.name + ".part")
    with writing(file, part):
        _write(folder, part, config, tokenizer, pre_tokenizer, numbers)
        os.replace(part, file)


def _write(
    folder: Path,
    part: Path,
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    pre_tokenizer: str,
    numbers: str,
) -> None:
    import gguf

    writer = gguf.GGUFWriter(part, "llama")
    writer.add_type("model")
    writer.add_name(folder.name)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_F16 if numbers == "f16" else gguf.LlamaFileType.ALL_F32
    )
    _add_sizes(writer, config)
    _add_tokenizer(writer, folder, config, tokenizer, pre_tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for weights in sorted(folder.glob("model*.safetensors")):
        with safe_open(weights, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dict
                with loading(weights, "weights of the sizes that config.json names"):
                    tensor = _rotary_order(name, tensors.get_tensor(name).float(), config).numpy()
                if numbers == "f16" and tensor.ndim > 1:
                    tensor = tensor.astype(np.float16)
                if (theirs := names.get_name(name, (".weight", ".bias"))) is None:
                    raise UserError(f"--gguf: llama.cpp does not know {name} of {weights}")
                writer.add_tensor(theirs, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(folder: Path, config: dict[str, Any]) -> None:
    if config.get("model_type") != "llama":
        raise UserError(
            f"--gguf: {folder} is a {config.get('model_type')}, and only Llama-shaped models are "
            "written here; run llama.cpp's convert_hf_to_gguf.py on the exported folder"
        )
    if missing := [name for name in NEEDED if name not in config]:
        raise UserError(f"{folder}: config.json has no {missing[0]}; export the model again")
    rope = config.get("rope_scaling")
    if rope is not None and rope.get("rope_type") != "default":
        raise UserError(
            f"--gguf: {folder} scales its rotary positions ({rope.get('rope_type')!r}); run "
            "llama.cpp's convert_hf_to_gguf.py on the exported folder"
        )


def _pre_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of the way that text is split before BPE."""
    step = tokenizer["pre_tokenizer"] or {}
    steps = step.get("pretokenizers") or [step]

    def are(*expected: dict[str, Any]) -> bool:
        return len(steps) == len(expected) and all(
            all(found.get(key) == value for key, value in wanted.items())
            for wanted, found in zip(expected, steps, strict=True)
        )

    model = tokenizer["model"]
    is_bpe = model["type"] == "BPE" and isinstance(model["vocab"], dict) and model.get("merges")
    if is_bpe and not tokenizer["normalizer"]:
        if are(SINGLE_DIGITS, BYTE_LEVEL):
            return "smollm"
        if are(BYTE_LEVEL):
            return "gpt-2"
    raise UserError(
        f"--gguf: {folder} splits text in a way that has no known name in llama.cpp; run its "
        "convert_hf_to_gguf.py on the exported folder"
    )


def _head_size(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _add_sizes(writer: Any, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(
    writer: Any,
    folder: Path,
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    pre_tokenizer: str,
) -> None:
    import gguf

    by_id = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(by_id, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        by_id[added["id"]] = added["content"]
        special = added["special"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    ids = range(config["vocab_size"])  # the embeddings may be more than the tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in ids])
    writer.add_token_types([kinds.get(i, gguf.TokenType.UNUSED) for i in ids])
    with loading(folder, "a tokenizer as transformers writes it"):
        special_tokens = gguf.SpecialVocab(folder, load_merges=True, n_vocab=config["vocab_size"])
        if not special_tokens.merges:
            raise UserError(f"{folder}: its tokenizer.json has no merges; export the model again")
        special_tokens.add_special_token.setdefault("bos", False)
        special_tokens.add_to_gguf(writer, quiet=True)
    writer.add_add_space_prefix(False)


def _rotary_order(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Hugging Face rotates the halves of a head's dimensions, llama.cpp neighbours."""
    if ".q_proj." in name:
        heads = config["num_attention_heads"]
    elif ".k_proj." in name:
        heads = config["num_key_value_heads"]
    else:
        return tensor
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])  # (heads, 2, head size / 2, ...)
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
