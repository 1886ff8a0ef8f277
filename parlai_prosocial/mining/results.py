"""What mining and annotation give back: the file that they wrote, and its summary."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlai_prosocial.util.files import parsed_json, read_bytes
from parlai_prosocial.util.journal import Journal, summary_path

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class WrittenRows:
    """A finished file of own data (``data/own.py``), written as the work went on.

    Attributes:
        out: the JSON Lines file.
        summary: counts and settings, as they stand in ``summary_file``.
    """

    out: Path
    summary: dict[str, Any]

    @property
    def summary_file(self) -> Path:
        return summary_path(self.out)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The file's rows, to train on with ``-t prosocial:Own``."""
        mend = "delete it and run the same command again"
        lines = read_bytes(self.out, mend).splitlines()
        return [
            parsed_json(line, dict[str, Any], f"{self.out}, line {number}", mend)
            for number, line in enumerate(lines, 1)
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a row, a column a field."""
        import pandas

        return pandas.DataFrame(self.rows)

    def _missing(self) -> list[str]:
        """A line for each reason why something is missing."""
        return [f"  missing: {n} x {why}" for why, n in self.summary.get("missing", {}).items()]


def missing_reasons(journal: Journal) -> dict[str, int]:
    """Why things are missing in all chunks of a run, the most frequent reason first."""
    total: Counter[str] = Counter()
    for content in journal.chunks.values():
        total.update(content.get("missing", {}))
    return dict(total.most_common())


def is_whole_chunk(key: str, chunks: Sequence[Sequence[int]]) -> Callable[[Any, Any], bool]:
    """Whether a journal's content is a chunk's: its seconds, and under ``key`` a list as long."""

    def is_whole(number: Any, content: Any) -> bool:
        return (
            isinstance(number, int)
            and 0 <= number < len(chunks)
            and isinstance(content, dict)
            and isinstance(content.get("seconds"), int | float)
            and isinstance(content.get(key), list)
            and len(content[key]) == len(chunks[number])
            and isinstance(content.get("missing", {}), dict)
        )

    return is_whole
