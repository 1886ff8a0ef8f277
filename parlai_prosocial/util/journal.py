"""Finished chunks of a long run, so that a killed one resumes where it stopped."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import write_aside, writing

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
"""Of a run whose output is a folder: what its files depend on."""


class Journal:
    """JSON Lines beside the output: the run's settings, then a line a finished chunk.

    A line counts once its line break is on disk; what a kill left half-written is cut off. A line
    in between that is damaged is left out, so that its chunk is done again.

    Args:
        output: the run's output; the journal is ``OUTPUT.journal``.
        settings: everything that the results depend on, JSON-serialisable.
        is_whole: whether a chunk's number and content are what the run writes; None asks nothing.

    Attributes:
        chunks: number or name -> content of the chunks that are finished.

    Raises:
        UserError: a journal with other settings is there, or one whose settings are damaged.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        is_whole: Callable[[Any, Any], bool] | None = None,
    ):
        self.path = journal_path(output)
        self.chunks: dict[Any, Any] = {}
        if not self.path.exists():
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(settings)
            return
        whole = self.path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with open(self.path, "r+b") as file:
            file.truncate(len(whole))
        if not whole:
            self._append(settings)
            return
        first, *lines = whole.split(b"\n")[:-1]
        check_settings(self.path, parsed(first), settings)
        damaged = 0
        for line in lines:
            chunk = parsed(line)
            if _is_chunk(chunk) and (not is_whole or is_whole(chunk["chunk"], chunk["content"])):
                self.chunks[chunk["chunk"]] = chunk["content"]
            else:
                damaged += 1
        if damaged:
            logger.warning("%s: %d damaged lines, which are done again", self.path, damaged)

    def add(self, number: Any, content: Any) -> None:
        """Record a finished chunk; it is on disk when this returns."""
        self.add_all({number: content})

    def add_all(self, contents: Mapping[Any, Any]) -> None:
        """Record several finished chunks by number or name; one wait for the disk."""
        self._append(*({"chunk": key, "content": content} for key, content in contents.items()))
        self.chunks.update(contents)

    def remove(self) -> None:
        """The output is written: the journal has done its duty."""
        self.path.unlink()

    def _append(self, *values: Any) -> None:
        lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
        with (
            writing(self.path),
            open(self.path, "a", encoding="utf-8", newline="\n") as file,
        ):
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())


def journal_path(output: Path) -> Path:
    return output.with_name(output.name + ".journal")


def summary_path(output: Path) -> Path:
    return output.with_name(output.name.removesuffix(".jsonl") + ".summary.json")


def begun_with(output: Path, key: str) -> Any:
    """A setting of the run that was begun or finished for this output, None where none was.

    Args:
        output: the run's file, or its folder, which has :data:`SETTINGS`.
        key: the setting's name.
    """
    path, summary = journal_path(output), summary_path(output)
    if (output / SETTINGS).is_file():
        settings = parsed((output / SETTINGS).read_bytes())
    elif output.exists() and summary.exists():
        settings = _of(parsed(summary.read_bytes()), "settings")
    else:
        settings = parsed(path.read_bytes().partition(b"\n")[0]) if path.exists() else None
    return _of(settings, key)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names, in order, whose values differ or that only one has.

    >>> differing_keys({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
    ['b', 'c']
    """
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


def finished_before(output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the output is there, from a run with these settings.

    Raises:
        UserError: it is there from another run, or its summary is damaged.
    """
    if not output.exists():
        return False
    if recorded(summary_path(output), settings, other="") is None:
        raise UserError(f"--out {output}: is there already; delete it or give another name")
    return True


def recorded(
    file: Path, settings: Any, key: str = "settings", other: str = "give another --out"
) -> dict[str, Any] | None:
    """What a run wrote into a JSON file of its own, where that run was the same one.

    Args:
        file: holds an object.
        settings: all that the content depends on.
        key: of the object, under which it keeps its settings.
        other: what to do where a run with other settings wrote it; "" for no error but None.

    Returns:
        The object; None where there is no file.

    Raises:
        UserError: the file is damaged, or another run's.
    """
    if not file.exists():
        return None
    content = parsed(file.read_bytes())
    if not isinstance(content, dict) or key not in content:
        raise UserError(f"{file}: is damaged, no {key} can be read there; delete it")
    if content[key] != _as_read(settings):
        if not other:
            return None
        raise UserError(f"{file}: was written with other settings; {other}, or delete it")
    return content


def check_settings(path: Path, found: Any, settings: Mapping[str, Any]) -> None:
    """Raise :class:`UserError`, naming what differs, where a run was begun with other settings."""
    if not isinstance(found, dict):
        raise UserError(f"{path}: its first line is damaged, so the run cannot go on; delete it")
    wanted = _as_read(settings)
    if differing := differing_keys(found, wanted):
        raise UserError(
            f"{path}: was begun with other settings ({', '.join(differing)}); run that "
            "command again, delete the file, or give another --out"
        )


def parsed(text: bytes) -> Any:
    """What JSON holds; None where it is damaged."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):  # of bytes, of JSON, of numbers; of its depth
        return None


def _as_read(settings: Any) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def _is_chunk(line: Any) -> bool:
    return isinstance(line, dict) and "content" in line and isinstance(line.get("chunk"), str | int)


def _of(settings: Any, key: str) -> Any:
    return settings.get(key) if isinstance(settings, dict) else None


def write_output(output: Path, rows: list[dict], summary: Mapping[str, Any]) -> None:
    """Write the summary, then the rows, each aside and moved into place."""
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # The output comes last: where it is, the run is finished.
    for file, content in ((summary_path(output), text), (output, lines)):
        write_aside(file, content)
