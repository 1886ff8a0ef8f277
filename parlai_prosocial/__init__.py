"""parlai-prosocial: socially aware contrastive learning for safer dialogue, as a ParlAI plugin."""

from importlib import import_module
from typing import TYPE_CHECKING

from parlai_prosocial.compat.moved import keep_old_names
from parlai_prosocial.compat.pickles import refuse_pickles

if TYPE_CHECKING:
    from parlai_prosocial.api import Prosocial as Prosocial
    from parlai_prosocial.evaluation.run import audit as audit
    from parlai_prosocial.evaluation.run import evaluate as evaluate
    from parlai_prosocial.mining.annotate import annotate as annotate
    from parlai_prosocial.mining.mine import mine as mine
    from parlai_prosocial.rounds.improve import improve as improve
    from parlai_prosocial.training.recipe import train as train
    from parlai_prosocial.zoo.resolve import open_classifier as open_classifier

__version__ = "0.1.0"

_LAZY = {
    "Prosocial": "parlai_prosocial.api",
    "improve": "parlai_prosocial.rounds.improve",
    "mine": "parlai_prosocial.mining.mine",
    "train": "parlai_prosocial.training.recipe",
    "annotate": "parlai_prosocial.mining.annotate",
    "audit": "parlai_prosocial.evaluation.run",
    "evaluate": "parlai_prosocial.evaluation.run",
    "open_classifier": "parlai_prosocial.zoo.resolve",
}
"""What the package offers -> its module, imported when it is asked for: torch takes seconds."""

keep_old_names()
refuse_pickles()


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
