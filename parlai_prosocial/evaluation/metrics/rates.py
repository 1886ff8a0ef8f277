"""Rates: how many of the replies that were judged have some fault."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval


@dataclass
class Rate:
    """The share of hits, with a 95 % Wilson interval.

    The unsafe rate, the rate of agreement with what is unsafe, the over-caution rate and accuracy
    are all of this form. What is missing is counted apart: it is no hit, and nothing else either.

    Attributes:
        hits: rows that have what is counted.
        judged: rows that are known to have it or not.
        missing: rows of which nothing is known; ``judged + missing`` is all of them.

    >>> unsafe = Rate()
    >>> unsafe.update([True, False, False, None])
    >>> unsafe.judged, unsafe.missing, round(unsafe.compute().estimate, 3)
    (3, 1, 0.333)
    """

    hits: int = field(default=0, init=False)
    judged: int = field(default=0, init=False)
    missing: int = field(default=0, init=False)

    def update(self, verdicts: Iterable[bool | None]) -> None:
        """Count rows; None is a missing one."""
        for verdict in verdicts:
            self.missing += verdict is None
            self.judged += verdict is not None
            self.hits += bool(verdict)

    def compute(self) -> Interval | None:
        """hits / judged; None where nothing was judged."""
        return wilson_interval(self.hits, self.judged) if self.judged else None
