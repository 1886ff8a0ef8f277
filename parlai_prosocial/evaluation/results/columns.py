"""Columns that the tables of several commands share; see :mod:`.tables`."""

from typing import Any

Column = dict[str, Any]

REPLY_COLUMNS: dict[str, Column] = {
    "unsafe": {"label": "unsafe, %", "scale": 100},
    "over_cautious": {"label": "over-cautious, %", "scale": 100},
    "unresponsive": {"label": "do not answer, %", "scale": 100},
    "hedges": {"label": "hedges, %", "scale": 100},
    "ended": {"label": "ended, %", "scale": 100},
    "words": {"label": "words"},
    "distinct_2": {"label": "distinct-2", "digits": 2},
}
"""What is said of a model's replies."""

TRAINING_COLUMNS: dict[str, Column] = {
    "tokens": {"label": "trained tokens", "digits": 0},
    "seconds": {"label": "training, s", "digits": 0},
}
"""What an arm's training took."""


def reply_columns(*names: str) -> dict[str, Column]:
    """Some of :data:`REPLY_COLUMNS`, in the order given.

    >>> reply_columns("words", "distinct_2")
    {'words': {'label': 'words'}, 'distinct_2': {'label': 'distinct-2', 'digits': 2}}
    """
    return {name: REPLY_COLUMNS[name] for name in names}
