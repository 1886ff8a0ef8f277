"""What the columns of a corpus may hold, and the reasons given when one holds something else."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


class BadRow(Exception):
    """A row that cannot be used: the field ("" for all of it), what is wrong, and the mend."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"field {field!r} {reason}" if field else f"the row {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
        read: turns a raw value (a string from CSV, any JSON value else) into the checked one;
            raises ValueError with the reason. None stands for a missing or empty value.
        required: whether a missing column or value makes the row bad.
    """

    read: Callable[[object], object]
    required: bool = True


@dataclass(frozen=True)
class Schema:
    """The columns of a corpus; other columns are ignored.

    ``check_row`` looks at fields together and raises :class:`BadRow`.
    """

    corpus: str
    fields: Mapping[str, Field]
    check_row: Callable[[dict], None] = lambda row: None

    def read_row(self, raw: Mapping) -> dict:
        """Return the checked row, with every field of the schema; raises :class:`BadRow`."""
        row: dict = {}
        for name, field in self.fields.items():
            value = raw.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                if field.required:
                    state = "is empty" if name in raw else "is missing"
                    raise BadRow(name, f"{state}; fill it in or leave the row out")
                row[name] = None
                continue
            try:
                row[name] = field.read(value)
            except ValueError as error:
                raise BadRow(name, str(error)) from None
        self.check_row(row)
        return row


def text(value: object) -> str:
    """Read a text, without the white space at its ends."""
    if not isinstance(value, str):
        raise ValueError(f"is {_kind(value)}; give a text")
    return value.strip()


def text_list(value: object) -> list[str]:
    """Read a list of texts; in CSV it is a JSON list, or one text alone. Nulls are left out."""
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [value.strip()]
        value = _parse_json_list(value)
    if not isinstance(value, list):
        raise ValueError(f"is {_kind(value)}; give a list of texts")
    items = [item for item in value if item is not None]
    if not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError("holds an item that is empty or no text; give a list of texts")
    return [item.strip() for item in items]


def text_list_with_blanks(value: object) -> list[str]:
    """Read a list of texts in which empty ones mean nothing and are left out."""
    if isinstance(value, list):
        value = [item for item in value if not isinstance(item, str) or item.strip()]
    return text_list(value)


def turn_list(value: object) -> list[str]:
    """Read the turns of a dialogue: a list, a JSON list, or one text with a turn a line.

    Only ``\\n`` and ``\\r\\n`` separate turns. Empty turns are left out.
    """
    if isinstance(value, str):
        lines = value.replace("\r\n", "\n").split("\n")
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else lines
        except json.JSONDecodeError:
            value = lines  # a text that begins with a bracket
    if isinstance(value, list):
        value = [turn for turn in value if not isinstance(turn, str) or turn.strip()]
    turns = text_list(value)
    if not turns:
        raise ValueError("has no turn; give at least the user's last one")
    return turns


def weight_list(value: object) -> list[float]:
    """Read a list of positive finite numbers; in CSV it is a JSON list."""
    if isinstance(value, str):
        value = _parse_json_list(value)
    if not isinstance(value, list):
        raise ValueError(f"is {_kind(value)}; give a list of numbers")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueError(f"holds {_kind(item)}; give a list of numbers")
        if not (math.isfinite(item) and item > 0):
            raise ValueError(f"holds {item}; a weight must be above 0")
    return [float(item) for item in value]


def one_of(choices: Sequence[str]) -> Callable[[object], str]:
    """Return a reader of a text that must be one of ``choices``."""

    def read(value: object) -> str:
        label = text(value)
        if label not in choices:
            raise ValueError(f"is {label[:40]!r}; it must be one of {', '.join(choices)}")
        return label

    return read


def several_of(choices: Sequence[str], separator: str) -> Callable[[object], list[str]]:
    """Return a reader of one or more of ``choices``, joined by ``separator``."""
    read_one = one_of(choices)

    def read(value: object) -> list[str]:
        return [read_one(part) for part in text(value).split(separator)]

    return read


def whole_number(low: int, high: int, missing: int | None = None) -> Callable[[object], int | None]:
    """Return a reader of a whole number from ``low`` to ``high``; ``missing`` is read as None.

    CSV written by pandas has ``3.0`` for 3, which is read as 3.
    """

    def read(value: object) -> int | None:
        mend = f"give a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"is {_kind(value)}; {mend}")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"is {str(value)[:40]!r}; {mend}") from None
        if number == missing:
            return None
        if not (low <= number <= high and number.is_integer()):
            raise ValueError(f"is {value}; {mend}")
        return int(number)

    return read


def _parse_json_list(value: str) -> object:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ValueError('is no JSON list; write it as ["one", "two"]') from None


def _kind(value: object) -> str:
    kinds = {bool: "a truth value", dict: "an object", list: "a list", str: "a text"}
    return kinds.get(type(value), "a number")
