"""parlai-prosocial: socially aware contrastive learning for safer dialogue, as a ParlAI plugin."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parlai_prosocial.api import Prosocial as Prosocial

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``Prosocial`` when it is asked for: it needs torch and transformers, which take seconds."""
    if name == "Prosocial":
        from parlai_prosocial.api import Prosocial

        return Prosocial
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
