"""How a run of mining or annotation begins, or goes on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from parlai_prosocial.mining.journal import begun_with
from parlai_prosocial.mining.turns import Turn, task_turns
from parlai_prosocial.models.precision import bf16_is_faster


def open_run(
    task: str, split: str, settings: Sequence[str], datapath: str | None, out: Path
) -> tuple[list[Turn], str, bool]:
    """The task's turns, ParlAI's data path, and whether to compute in bf16.

    A run that goes on computes as it began: which precision is faster is measured, and a busy
    machine may measure otherwise.

    Args:
        task, split, settings: see :func:`~.turns.task_turns`.
        datapath: None for ParlAI's own.
        out: the run's output.
    """
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(add_parlai_args=True, add_model_args=False)
    path = str(parser.parse_args(["--datapath", datapath] if datapath else [])["datapath"])
    turns = task_turns(task, split, path, settings)
    begun = begun_with(out, "precision")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return turns, path, begun == "bf16" if begun else bf16_is_faster(device)


def turns_sha256(turns: Sequence[Turn]) -> str:
    """Of all that the turns hold."""
    return hashlib.sha256(repr(list(turns)).encode("utf-8")).hexdigest()
