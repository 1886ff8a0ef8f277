"""The settings of what reads and writes text in a model."""

from typing import Any


def text_config(lm: Any) -> Any:
    """The config of a language model's text model, its output's where input has another.

    It is the model's own, except where that model also sees or hears (Gemma 3 from 4B on,
    Gemma 3n): there sizes, positions, windows and the kind of attention lie in ``text_config``.
    The object is the text model's: what is set in it acts in the next pass.

    Args:
        lm: a Hugging Face causal or encoder-decoder language model.
    """
    return lm.config.get_text_config(decoder=True)
