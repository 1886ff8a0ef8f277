"""Presets of options (``-o gen/meena``) and where ParlAI looks for them.

ParlAI's wheel has none of its presets' files. The simple ones are here, with the values that
https://parl.ai/docs/opt_presets.html states; the others belong to projects that the wheel lacks.
"""

import functools
import os
from typing import Any

from parlai_prosocial.errors import UserError

PRESETS: dict[str, dict[str, Any]] = {
    # Sample and rank, of Adiwardana et al. 2020 (https://arxiv.org/abs/2001.09977).
    "gen/meena": {"inference": "topk", "topk": 40, "beam_size": 20},
    # Roller et al. 2020 (https://arxiv.org/abs/2004.13637): beams, and the size of the model.
    "gen/blenderbot": {
        "inference": "beam",
        "beam_size": 10,
        "beam_min_length": 20,
        "beam_block_ngram": 3,
        "beam_context_block_ngram": 3,
        "beam_block_full_context": False,
    },
    "arch/blenderbot_3B": {
        "model": "transformer/generator",
        "variant": "prelayernorm",
        "activation": "gelu",
        "embedding_size": 2560,
        "ffn_size": 10240,
        "n_heads": 32,
        "n_encoder_layers": 2,
        "n_decoder_layers": 24,
        "n_positions": 128,
        "truncate": 128,
        "text_truncate": 128,
        "label_truncate": 128,
        "attention_dropout": 0.0,
        "relu_dropout": 0.0,
    },
    # Lewis et al. 2019 (https://arxiv.org/abs/1910.13461).
    "arch/bart_large": {
        "model": "bart",
        "init_model": "zoo:bart/bart_large/model",
        "dict_file": "zoo:bart/bart_large/model.dict",
        "dict_tokenizer": "gpt2",
        "variant": "bart",
        "activation": "gelu",
        "embedding_size": 1024,
        "ffn_size": 4096,
        "n_heads": 16,
        "n_encoder_layers": 12,
        "n_decoder_layers": 12,
        "n_positions": 1024,
        "learn_positional_embeddings": True,
        "embeddings_scale": False,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "fp16": True,
        "force_fp16_tokens": True,
    },
}
"""Name -> options, where no file of the name is found."""


class PresetMissing(UserError, FileNotFoundError):
    """ParlAI passes over a FileNotFoundError while it does not know all flags yet.

    Until it knows ``-opt``, it reads ``-opt adam`` as ``-o pt``.
    """


def mend_presets() -> None:
    """``-o NAME`` ends in a traceback for ParlAI's own presets, which its wheel lacks.

    ``pkg_resources``, which it asks for them, refuses a package without a file of its own by a
    NotImplementedError, and fails by a TypeError at a namespace package, as ``parlai_internal`` is
    here. Files, the user's presets and those of a ParlAI from source come first.
    Needed in all versions.
    """
    from parlai.core.opt import Opt

    original = Opt.load_init.__func__

    @functools.wraps(original)
    def load_init(cls, optfile: str) -> Opt:
        users = os.path.expanduser(f"~/.parlai/opt_presets/{optfile}.opt")
        # Several are asked for one by one, and what is wrong with a file is no missing preset.
        if "," in optfile or os.path.exists(optfile) or os.path.exists(users):
            return original(cls, optfile)
        try:
            return original(cls, optfile)
        except (FileNotFoundError, NotImplementedError, TypeError):
            if optfile in PRESETS:
                return cls(PRESETS[optfile])
            raise PresetMissing(
                f"-o {optfile}: no such file, and no preset of the name; give the path of an .opt "
                f"file, one of {', '.join(PRESETS)}, or write ~/.parlai/opt_presets/{optfile}.opt"
            ) from None

    Opt.load_init = classmethod(load_init)
