"""The settings of a training run: which decide what it learns, and whether they are what they were.

ParlAI 1.7.2 goes on with a run under whatever settings it is given: those of the agent that cannot
act any more are ignored, and written into ``model.opt`` all the same. Every version.
"""

import json
import re
from typing import Any

from parlai.core.params import ParlaiParser
from parlai.utils import logging

from parlai_prosocial.errors import UserError

LIMITS = ("max_train_steps", "num_epochs", "max_train_time", "validation_patience")
FIXED = ("model", "backbone", "lora_rank", "system_prompt")
"""Settings that lie in a checkpoint, so that no other value can act on resuming."""

FREE = re.compile(
    r"""
    (model_file|dict_file|datapath|download_path|parlai_home|load_from_checkpoint|world_logs
    |starttime|override|init_opt|allow_missing_init_opts|change_settings|final_extra_opt
    |loglevel|verbose|is_debug|hide_labels|metrics|aggregate_micro|short_final_eval|save_format
    |rank|gpu|no_cuda|port|numthreads|batchindex|multiprocessing|num_examples|dict_class
    |image_mode|skip_generation|interactive_mode|topk|topp|rank_candidates|evaltask)$
    |(save|log|validation|eval|tensorboard|wandb|clearml|display|inference|beam|rerank|show|safety
    |compute|sampling)_""",
    re.VERBOSE,
)
"""Settings that change how long, how watched or where a run trains, but not what is learnt."""


def settings_of(opt: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run learns, as JSON has them, and its limits."""
    kept = {key: value for key, value in opt.items() if key in LIMITS or not FREE.match(key)}
    return json.loads(json.dumps(kept, default=str))


def limits_of(settings: dict[str, Any]) -> dict[str, Any]:
    """How long a run with these settings goes on."""
    return {key: settings.get(key) for key in LIMITS}


def take_up(settings: dict[str, Any], opt: dict[str, Any]) -> None:
    """Give a run that goes on the settings that it had and that are not given again.

    ParlAI does that with the agent's settings only, and would feed it with the others' defaults.
    """
    for key, value in settings.items():
        if key not in LIMITS and key not in opt["override"] and key in opt and key != "init_model":
            opt[key] = value


def check_settings(path: str, before: dict[str, Any], opt: dict[str, Any]) -> None:
    """Refuse to go on with a run under another setting than it had.

    Args:
        path: the model file.
        before: its settings.
        opt: ParlAI's options now; those that were given, not defaults, are compared.

    Raises:
        UserError: a setting differs; it shows all that do.
    """
    now = settings_of(opt)
    given = opt["override"].keys() & before.keys() & now.keys() - set(LIMITS)
    differing = [key for key in sorted(given) if before[key] != now[key]]
    if not differing:
        return
    shown = "; ".join(
        f"{_flag(key)} was {_short(before[key])}, now {_short(now[key])}" for key in differing
    )
    if fixed := [key for key in differing if key in FIXED]:
        raise UserError(
            f"-mf {path}: was begun with other settings: {shown}. "
            f"{', '.join(map(_flag, fixed))} cannot change in a model that is there: give the old "
            "settings, another -mf, or begin from it with --init-model"
        )
    if not opt.get("change_settings"):
        raise UserError(
            f"-mf {path}: was begun with other settings: {shown}. Give the old settings, another "
            "-mf, or --change-settings true to go on with the new ones"
        )
    logging.warning(f"{path}: goes on with other settings: {shown}")


def add_flags(parser: ParlaiParser) -> None:
    """The flag of training runs that our agents add to ParlAI's."""
    parser.add_argument_group("Going on with a run").add_argument(
        "--change-settings",
        type="bool",
        default=False,
        help="Go on with a run that is there although its settings were others.",
    )


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
