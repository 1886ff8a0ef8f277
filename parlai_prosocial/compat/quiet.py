"""Warnings of ParlAI that say nothing about our agents: they are not shown.

Our agents have no dictionary file, of which ParlAI warns whenever one of their models is opened.
And where one step of a recipe goes on from another, the new options and the new optimizer that
ParlAI warns of are meant. Needed in all versions.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_DICTIONARY = re.compile(
    r"WARNING: Neither the .* nor the `model_file`\.dict file \((.*)\.dict\)"
)
_MEANT = (
    "your model is being loaded with opts that ",
    "Detected a fine-tune run. Resetting the optimizer.",
    "Optimizer was reset. Also resetting LR scheduler.",
)


def mend_dictionary_warning() -> None:
    """Drop the warning that one of our models has no dictionary file, which none has."""
    from parlai.utils.logging import logger

    logger.addFilter(_lacks_nothing)


def _lacks_nothing(record: logging.LogRecord) -> bool:
    found = _NO_DICTIONARY.match(str(record.msg))
    if found is None:
        return True
    from parlai_prosocial.models.checkpoint import format_of  # loads torch

    return format_of(Path(found[1])) is None


@contextmanager
def changes_are_meant() -> Iterator[None]:
    """Inside, ParlAI does not warn of options and optimizers that differ from the first model's."""
    from parlai.utils.logging import logger

    def is_news(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_MEANT)

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
