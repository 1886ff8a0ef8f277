"""Does a score put the fitting reply above the unfit ones?"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval


@dataclass(frozen=True)
class ContrastResult:
    """What :class:`Contrast` finds.

    Attributes:
        accuracy: share of contexts whose best reply is a fitting one, with a Wilson interval.
        mrr: mean reciprocal rank of the best fitting reply, in (0, 1].
        margin: mean score of the best fitting reply minus that of the best unfit one.
    """

    accuracy: Interval
    mrr: float
    margin: float


@dataclass
class Contrast:
    """Contrast accuracy, mean reciprocal rank and margin.

    A context has one say, however many replies it has: its best fitting reply is ranked among all
    its unfit ones. Ties count against the fitting reply. With one fitting reply a context it is
    what training logs as ``contrast_acc`` and ``margin``.

    >>> metric = Contrast()
    >>> metric.update([-1.0], [-2.0, -3.0])
    >>> metric.update([-2.0], [-1.0, -3.0])
    >>> result = metric.compute()
    >>> result.accuracy.estimate, result.mrr, result.margin
    (0.5, 0.75, 0.0)
    """

    hits: int = field(default=0, init=False)
    count: int = field(default=0, init=False)
    reciprocal_ranks: float = field(default=0.0, init=False)
    margins: float = field(default=0.0, init=False)

    def update(self, fitting: Sequence[float], unfit: Sequence[float]) -> None:
        """Add a context: its scores, at least one of each kind, higher is better."""
        best, hardest = max(fitting), max(unfit)
        self.hits += best > hardest
        self.count += 1
        self.reciprocal_ranks += 1 / (1 + sum(score >= best for score in unfit))
        self.margins += best - hardest

    def compute(self) -> ContrastResult | None:
        """None where there is no context."""
        if not self.count:
            return None
        return ContrastResult(
            accuracy=wilson_interval(self.hits, self.count),
            mrr=self.reciprocal_ranks / self.count,
            margin=self.margins / self.count,
        )
