"""What the columns of a corpus may hold, and the reasons given when one holds something else."""

import ast
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_LARGEST = sys.float_info.max
_MANY_BITS = 1024
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
# A bracket and a quote, or a list of nothing.
_LIST_BEGINS = re.compile(r"""\s*(?:[\[(]\s*["']|\[\s*(?:\]|None\b|null\b|nan\b|\[))""")
_OPENING = re.compile(r"\s*[\[(]")
_PYTHON_ITEM = re.compile(
    r"""\s*(?P<item>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|None)\s*(?P<end>,\s*[\])]\s*|,|[\])]\s*)""",
    re.DOTALL,
)


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

    ``check_row`` looks at fields together and raises :class:`BadRow`. ``adapt`` turns a raw row of
    another format into raw rows of this one, and raises it too.
    """

    corpus: str
    fields: Mapping[str, Field]
    check_row: Callable[[dict], None] = lambda row: None
    adapt: Callable[[Mapping], Sequence[Mapping]] = lambda raw: [raw]

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
                _check_characters(row[name])
            except ValueError as error:
                raise BadRow(name, str(error)) from None
        self.check_row(row)
        return row


def _check_characters(value: object) -> None:
    """Raise ValueError if a text, or one in a list, has half a character, which no file can hold.

    JSON can escape one half of a surrogate pair; cut posts have such.
    """
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and not item.isascii() and (half := _HALF_CHARACTER.search(item)):
            code = f"\\u{ord(half[0]):04x}"
            raise ValueError(f"holds half a character ({code}, a lone surrogate); take it out")


def text(value: object) -> str:
    """Read a text, without the white space at its ends."""
    if not isinstance(value, str):
        raise ValueError(f"is {_kind(value)}; give a text")
    return value.strip()


def text_list(value: object) -> list[str]:
    """Read a list of texts; nulls are left out.

    In CSV it is a JSON list, a list as pandas writes it (Python's), or one text alone.
    """
    if isinstance(value, str):
        if not (value.lstrip().startswith("[") or _looks_like_a_list(value)):
            return [value.strip()]
        value = _parse_list(value)
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
    """Read the turns of a dialogue: a list, a written list, or one text with a turn a line.

    Only ``\\n`` and ``\\r\\n`` separate turns, and blank lines are none. An empty item of a list is
    a turn without a word, since the speakers would swap without it; those before the first word
    and after the last are left out.
    """
    if isinstance(value, str):
        if _looks_like_a_list(value):
            value = _parse_list(value)
        else:  # a text may begin with a bracket
            lines = value.replace("\r\n", "\n").split("\n")
            value = [line for line in lines if line.strip()]
    if not isinstance(value, list):
        raise ValueError(f"is {_kind(value)}; give a list of texts")
    turns = [turn for turn in value if turn is not None]
    if not all(isinstance(turn, str) for turn in turns):
        raise ValueError("holds an item that is no text; give a list of texts")
    turns = [turn.strip() for turn in turns]
    said = [number for number, turn in enumerate(turns) if turn]
    if not said:
        raise ValueError("has no turn; give at least the user's last one")
    return turns[said[0] : said[-1] + 1]


def weight_list(value: object) -> list[float]:
    """Read a list of positive finite numbers; in CSV it is a JSON list."""
    if isinstance(value, str):
        value = _parse_list(value)
    if not isinstance(value, list):
        raise ValueError(f"is {_kind(value)}; give a list of numbers")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueError(f"holds {_kind(item)}; give a list of numbers")
        if not 0 < item <= _LARGEST:
            raise ValueError(f"holds {_short(item)}; a weight must be above 0, and finite")
    return [float(item) for item in value]


def log_prob(value: object) -> float:
    """Read a logarithm of a probability: a finite number of at most 0."""
    if isinstance(value, str):
        given = value
        try:
            value = float(given)
        except ValueError:
            raise ValueError(f"is {given[:40]!r}; give a number of at most 0") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_kind(value)}; give a number of at most 0")
    if not -_LARGEST <= value <= 0:
        raise ValueError(f"is {_short(value)}; a log probability is at most 0, and finite")
    return float(value)


def log_prob_list(value: object) -> list[float]:
    """Read a list of logarithms of probabilities; in CSV it is a JSON list."""
    if isinstance(value, str):
        value = _parse_list(value)
    if not isinstance(value, list):
        raise ValueError(f"is {_kind(value)}; give a list of numbers")
    return [log_prob(item) for item in value]


def truth(value: object) -> bool:
    """Read true or false; in CSV the words."""
    known = {"true": True, "false": False}
    found = value if isinstance(value, bool) else known.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"is {str(value)[:40]!r}; give true or false")
    return found


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
        except (ValueError, OverflowError):
            raise ValueError(f"is {_short(value)}; {mend}") from None
        if number == missing:
            return None
        if not (low <= number <= high and number.is_integer()):
            raise ValueError(f"is {_short(number)}; {mend}")
        return int(number)

    return read


def _looks_like_a_list(value: str) -> bool:
    """Whether a text is a list in writing; "[laughs] Hi" is none."""
    return bool(_LIST_BEGINS.match(value)) and value.rstrip().endswith(("]", ")"))


def _parse_list(value: str) -> object:
    """Read a list that stands in a text: JSON's, or Python's as pandas writes it to CSV.

    NumPy's, which has no commas, is refused: it cannot be told apart from one long text.
    """
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    items: list[object] = []
    opening = _OPENING.match(value)
    position = opening.end() if opening else len(value)
    while found := _PYTHON_ITEM.match(value, position):
        try:
            items.append(ast.literal_eval(found["item"]))
        except (ValueError, SyntaxError):
            break
        position = found.end()
        if found["end"] != ",":
            if position == len(value):
                return items
            break
    raise ValueError('is no JSON list; write it as ["one", "two"]')


def _short(value: str | int | float) -> str:
    """A value for a message, cut; a number of many digits is not written out."""
    if isinstance(value, int) and value.bit_length() > _MANY_BITS:
        return "a number of very many digits"
    return repr(value[:40]) if isinstance(value, str) else f"{value:g}"


def _kind(value: object) -> str:
    kinds = {
        bool: "a truth value",
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), f"of the type {type(value).__name__}")
