"""Examples that show a model what to say, in readable files."""

from pathlib import Path
from typing import NamedTuple

from parlai_prosocial.util.files import text_lines


class Examples(NamedTuple):
    """A system turn, and example turns by kind.

    Attributes:
        system_prompt: the text of ``[system]``.
        turns: (kind, lines) of every other section, in order.
    """

    system_prompt: str
    turns: list[tuple[str, list[str]]]


def read_examples(file: Path) -> Examples:
    """Read a file of ``[kind]`` sections, ``[system]`` first; ``#`` begins a comment line."""
    sections: list[tuple[str, list[str]]] = []
    for line in text_lines(file):
        if line.startswith("["):
            sections.append((line.strip("[] "), []))
        elif line.strip() and not line.startswith("#"):
            sections[-1][1].append(line.strip())
    (_, system), *turns = sections
    return Examples(" ".join(system), turns)
