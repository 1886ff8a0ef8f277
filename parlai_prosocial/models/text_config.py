"""What reads and writes text in a model, and its settings."""

from typing import Any


def text_config(lm: Any) -> Any:
    """The config of a language model's text model, its output's where input has another.

    It is the model's own, except where that model also sees or hears (Gemma 3 from 4B on,
    Gemma 3n): there sizes, positions, windows and the kind of attention lie in ``text_config``.
    The object is a causal model's own: what is set in it acts in the next pass. Of an
    encoder-decoder it is a copy, to read only.

    Args:
        lm: a Hugging Face causal or encoder-decoder language model.
    """
    return lm.config.get_text_config(decoder=True)


def text_model(lm: Any) -> Any:
    """What gives a causal model's states; transformers 4.56 does not name that of Gemma 3."""
    return lm.get_decoder() if lm.base_model is lm else lm.base_model
