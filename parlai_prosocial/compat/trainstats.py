"""What is on disk of a training run: whether it has ended, and what it goes on from.

ParlAI 1.7.2 trains on where a run has ended, takes a step before it looks at its limits, and fails
where a kill has torn ``.trainstats``. Every version.
"""

import os
from pathlib import Path
from typing import Any

from parlai.utils import logging

from parlai_prosocial.compat.settings import check_settings, limits_of, settings_of
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import read_json


def finished_step(opt: dict[str, Any]) -> int | None:
    """After how many steps a run has ended by its own limits and was evaluated; None if not.

    Raises:
        UserError: it has, with other settings.
    """
    path = str(opt.get("model_file"))
    stats = read_stats(f"{path}.trainstats") or {}
    if not stats.get("final_test_report") or not Path(path).exists():
        return None
    settings = stats.get("settings", {})  # those of older versions are not known
    check_settings(path, settings, opt)
    steps = int(stats["train_steps"])
    ended = bool(settings) and limits_of(settings) == limits_of(settings_of(opt))
    if ended or is_reached(opt, steps, stats["total_epochs"], stats["train_time"]):
        return steps
    return None


def is_reached(opt: dict[str, Any], steps: int, epochs: float, seconds: float) -> bool:
    """Whether a run is at one of its limits; one that is not above 0 is none."""
    done = {"max_train_steps": steps, "num_epochs": epochs, "max_train_time": seconds}
    return any(0 < opt.get(key, -1) <= value for key, value in done.items())


def read_stats(file: str) -> dict[str, Any] | None:
    """ParlAI's ``.trainstats``; None where there is none, or a kill has torn it."""
    try:
        return read_json(Path(file))
    except UserError:
        return None


def newest(opt: Any) -> str | None:
    """The checkpoint or the result that a run goes on from; None where there is neither.

    ParlAI takes the checkpoint, also where the result is of a later step. What an older version
    wrote beside a result tells where its run ended, not of which step the weights are.
    """
    path = opt["model_file"]
    found = [p for p in (f"{path}.checkpoint", path) if Path(p).exists()]
    if not opt.get("load_from_checkpoint", True):
        found = [p for p in found if p == path]
    if len(found) == 2:
        checkpoint, result = (read_stats(f"{p}.trainstats") or {} for p in found)
        if result.get("weights_step", -1) > checkpoint.get("train_steps", -1):
            opt["load_from_checkpoint"] = False
            return found[1]
    return found[0] if found else None


def set_torn_aside(file: str, primary: bool) -> bool:
    """Whether a kill has torn this file; the primary process renames it then, and says so."""
    if not Path(file).exists() or read_stats(file) is not None:
        return False
    if primary:
        logging.warning(f"{file}: is torn; goes on by what the checkpoint itself says")
        os.replace(file, f"{file}.torn")
    return True
