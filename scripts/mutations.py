"""Changes of files, drawn by lot, that readers may stumble over; for ``fuzz.py``."""

import copy
import json
import random
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "x", "../x", "/", ".", "\0", "\n", "\u2028", "\ud800", "é" * 50, "9" * 5000, "1e999",
    [], [[]], [None], {}, {"": {}}, {"weights": "../x"}, ["a"] * 50,
]  # fmt: skip
BYTES = [
    b"\x00", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\n", b"\r\n", b"{", b"[" * 3000, b'"',
    b"1" * 5000, b"1e99999", b"NaN", b"\\ud800", b",,", b"\xef\xbb\xbf", b"PAR1", b"\x1f\x8b",
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found, stack = [], [value]
    while stack:
        one = stack.pop()
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list) and one[key]:
                stack.append(one[key])
    return found


def mutated_value(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with one field changed."""
    value = copy.deepcopy(value)
    found = places(value) if isinstance(value, dict | list) else []
    if not found:
        return copy.deepcopy(chance.choice(NASTY))
    owner, key = chance.choice(found)
    match chance.randrange(5):
        case 0:
            del owner[key]
        case 1:
            other, where = chance.choice(found)
            owner[key] = copy.deepcopy(other[where])
        case 2 if isinstance(owner, dict):
            owner[chance.choice(["", "x", "id", "weights", "\ud800"])] = owner.pop(key)
        case 3 if isinstance(owner[key], str):
            text = owner[key]
            at = chance.randrange(len(text) + 1)
            owner[key] = text[:at] + str(chance.choice(NASTY)) + text[at:]
        case _:
            owner[key] = copy.deepcopy(chance.choice(NASTY))
    return value


def mutated_json(text: bytes, chance: random.Random) -> bytes:
    """A file of JSON, or JSON Lines, with one field of one line changed."""
    lines = text.split(b"\n") if b"\n{" in text else [text]
    number = chance.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except (ValueError, RecursionError):
        return mutated_bytes(text, chance)
    changed = json.dumps(mutated_value(value, chance), ensure_ascii=chance.random() < 0.5)
    lines[number] = changed.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """A file with a run of bytes changed, cut out, doubled, replaced or put in."""
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice([1, 1, 2, 4, 8, 64, 1000]))
    match chance.randrange(6):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:end] * chance.choice([1, 2, 50]) + data[end:]
        case 4:
            return data[:at] + chance.choice(BYTES) + data[at:]
        case _:
            return data[:at] + chance.randbytes(end - at) + data[end:]
