"""Finished chunks of a long run, so that a killed one resumes where it stopped."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import write_aside


class Journal:
    """JSON Lines beside the output: the run's settings, then a line a finished chunk.

    A line counts once its line break is on disk; what a kill left half-written is cut off.

    Args:
        output: the run's output; the journal is ``OUTPUT.journal``.
        settings: everything that the results depend on, JSON-serialisable.

    Attributes:
        chunks: number or name -> content of the chunks that are finished.

    Raises:
        UserError: a journal with other settings is there.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        self.path = journal_path(output)
        self.chunks: dict[Any, Any] = {}
        settings = json.loads(json.dumps(settings))  # as it will be read again
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(settings)
            return
        whole = self.path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with open(self.path, "r+b") as file:
            file.truncate(len(whole))
        lines = [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
        if not lines:
            self._append(settings)
            return
        found, *chunks = lines
        differing = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        if differing:
            raise UserError(
                f"{self.path}: was begun with other settings ({', '.join(differing)}); run that "
                "command again, delete the file, or give another --out"
            )
        self.chunks = {chunk["chunk"]: chunk["content"] for chunk in chunks}

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
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())


def journal_path(output: Path) -> Path:
    return output.with_name(output.name + ".journal")


def summary_path(output: Path) -> Path:
    return output.with_name(output.name.removesuffix(".jsonl") + ".summary.json")


def begun_with(output: Path, key: str) -> Any:
    """A setting of the run that was begun or finished for this output, None where none was."""
    path, summary = journal_path(output), summary_path(output)
    if output.exists() and summary.exists():
        return json.loads(summary.read_text(encoding="utf-8")).get("settings", {}).get(key)
    first = path.read_text(encoding="utf-8").partition("\n") if path.exists() else ("", "", "")
    return json.loads(first[0]).get(key) if first[1] else None


def finished_before(output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the output is there, from a run with these settings.

    Raises:
        UserError: it is there from another run.
    """
    if not output.exists():
        return False
    summary = summary_path(output)
    found = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    if found.get("settings") != json.loads(json.dumps(settings)):
        raise UserError(f"--out {output}: is there already; delete it or give another name")
    return True


def write_output(output: Path, rows: list[dict], summary: Mapping[str, Any]) -> None:
    """Write the summary, then the rows, each aside and moved into place."""
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # The output comes last: where it is, the run is finished.
    for file, content in ((summary_path(output), text), (output, lines)):
        write_aside(file, content)
