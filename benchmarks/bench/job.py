"""What a job is: sides that take turns in one process, and the table's rows that come of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.bench.measure import Same, Side

Makers = dict[str, Callable[[], Side]]


@dataclass(frozen=True)
class Bench:
    """What a run was asked for.

    Attributes:
        base: the Hugging Face folder that is trained and sampled from.
        classifier: a safety classifier, as ``--judge classifier:NAME`` names it.
        datapath: ParlAI's data path.
        folder: for what is written beside the results.
        pairs: how often each side is timed.
    """

    base: Path
    classifier: str
    datapath: str
    folder: Path
    pairs: int


@dataclass(frozen=True)
class Target:
    """What a row's ratio should reach; ``most`` where less is better."""

    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.most is None else f"≤ {self.most:g}"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: for ``--rows`` and the JSON.
        what: is measured, in words.
        peer: what it is held against, in words.
        ours: name of our side in the job.
        other: name of the other side.
        measure: CPU seconds, seconds by the clock or peak memory. On a GPU seconds by the clock
            stand in for CPU seconds.
        faster: the ratio says how many times faster we are; else which share of the other we take.
        target: what is aimed at, if anything.
        shown: stands in the README.
    """

    name: str
    what: str
    peer: str
    ours: str = "ours"
    other: str = "peer"
    measure: Literal["cpu", "wall", "peak"] = "cpu"
    faster: bool = True
    target: Target | None = None
    shown: bool = False


class Job(Protocol):
    """Rows that are measured together.

    Attributes:
        name: for ``--rows`` too.
        rows: that come of it.
        gpu: measured by ``make bench-gpu`` too.
        cpu: measured by ``make bench`` too.
        most_pairs: fewer than asked for where a piece takes long or does not vary.
    """

    name: str
    rows: list[Row]
    gpu: bool
    cpu: bool
    most_pairs: int | None

    def same(self, bench: Bench) -> list[Same]:
        """The numbers that the sides must agree on."""
        ...

    def sides(self, bench: Bench) -> Makers:
        """How each side is made; a process that measures memory makes one alone."""
        ...
