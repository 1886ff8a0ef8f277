"""ParlAI's decoding flags as Hugging Face's generation settings."""

from collections.abc import Mapping
from typing import Any

from parlai_prosocial.errors import UserError

DEFAULTS = {
    "inference": "greedy",
    "beam_size": 1,
    "beam_min_length": 1,
    "beam_block_ngram": -1,
    "beam_length_penalty": 0.65,
    "topk": 10,
    "topp": 0.9,
    "sampling_temperature": 1.0,
    "rerank": 0,
    "rerank_alpha": 0.5,
    "text_truncate": 256,
    "label_truncate": 128,
}
"""What ``-m prosocial`` does where its options say nothing, as in a zoo base's."""


def decoding_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options in :data:`DEFAULTS`, each from ``opt`` where that has it."""
    return {
        name: default if (v := opt.get(name)) is None else v for name, default in DEFAULTS.items()
    }


def generation_settings(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for :meth:`Backbone.generate`.

    Args:
        opt: ParlAI's options; what is missing is as in :data:`DEFAULTS`. The length is not
            among the settings.

    Raises:
        UserError: ``--inference`` is none of greedy, beam, topk and nucleus.
    """
    opt = decoding_options(opt)
    decoding: dict[str, Any] = {
        "do_sample": False,
        "num_beams": 1,
        "min_new_tokens": opt["beam_min_length"],
    }
    if opt["beam_block_ngram"] > 0:
        decoding["no_repeat_ngram_size"] = opt["beam_block_ngram"]
    sampling = {"do_sample": True, "temperature": opt["sampling_temperature"]}
    match opt["inference"]:
        case "greedy":
            return decoding
        case "beam" if opt["beam_size"] == 1:
            return decoding
        case "beam":
            beams = {"num_beams": opt["beam_size"], "length_penalty": opt["beam_length_penalty"]}
            return decoding | beams
        case "topk":
            return decoding | sampling | {"top_k": opt["topk"], "top_p": 1.0}
        case "nucleus":
            return decoding | sampling | {"top_k": 0, "top_p": opt["topp"]}
    raise UserError(f"--inference {opt['inference']}: use greedy, beam, topk or nucleus")
