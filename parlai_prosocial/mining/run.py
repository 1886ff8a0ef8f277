"""How a run of mining or annotation begins, or goes on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from parlai_prosocial.mining.turns import Turn
from parlai_prosocial.models.precision import best_device, bf16_is_faster
from parlai_prosocial.util.journal import begun_with


def find_datapath(given: str | None) -> str:
    """The given data path, or ParlAI's own."""
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(add_parlai_args=True, add_model_args=False)
    return str(parser.parse_args(["--datapath", given] if given else [])["datapath"])


def computes_in_bf16(out: Path) -> bool:
    """Whether a run that writes ``out`` computes in bfloat16.

    A run that goes on computes as it began: which precision is faster is measured, and a busy
    machine may measure otherwise.
    """
    begun = begun_with(out, "precision")
    if begun is not None:
        return begun == "bf16"
    return bf16_is_faster(best_device())


def turns_sha256(turns: Sequence[Turn]) -> str:
    """Of all that the turns hold."""
    return hashlib.sha256(repr(list(turns)).encode("utf-8")).hexdigest()
