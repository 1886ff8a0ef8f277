"""Predicted classes against people's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parlai_prosocial.evaluation.metrics.metric import Metric
from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval


@dataclass
class Confusion(Metric):
    """Confusion matrix of classes, with accuracy and macro-F1.

    Args:
        classes: their names, in the matrix's order.

    Attributes:
        counts: how often which class was taken for which.
        missing: rows without a prediction; they enter no measure.

    >>> metric = Confusion(("safe", "unsafe"))
    >>> metric.update(["safe", "unsafe", "unsafe"], ["safe", "unsafe", "safe"])
    >>> metric.matrix().tolist()
    [[1, 0], [1, 1]]
    >>> round(metric.compute().estimate, 3), round(metric.macro_f1(), 3)
    (0.667, 0.667)
    """

    classes: tuple[str, ...]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)
    missing: int = field(default=0, init=False)

    def update(self, labels: Sequence[str], predictions: Sequence[str | None]) -> None:
        """Add N rows: the right classes, and what was predicted; None is missing.

        Raises:
            ValueError: a name that is no class.
        """
        for label, prediction in zip(labels, predictions, strict=True):
            if unknown := {label, prediction} - {*self.classes, None}:
                raise ValueError(f"{unknown.pop()!r} is not among {', '.join(self.classes)}")
            if prediction is None:
                self.missing += 1
            else:
                self.counts[label, prediction] += 1

    def matrix(self) -> np.ndarray:
        """(classes, classes) int64; a row is a right class, a column a predicted one."""
        return np.array([[self.counts[a, b] for b in self.classes] for a in self.classes])

    def compute(self) -> Interval | None:
        """Accuracy with its Wilson interval; None where nothing was predicted."""
        total = self.counts.total()
        return wilson_interval(int(self.matrix().trace()), total) if total else None

    def recall(self, name: str) -> Interval | None:
        """Share of a class' rows that were predicted as such; None where it has none."""
        row = self.matrix()[self.classes.index(name)]
        return wilson_interval(int(self.counts[name, name]), int(row.sum())) if row.any() else None

    def macro_f1(self) -> float | None:
        """F1 averaged over the classes that are there or predicted; None where there is none."""
        matrix = self.matrix()
        sizes = matrix.sum(axis=0) + matrix.sum(axis=1)
        seen = sizes > 0
        return float((2 * matrix.diagonal()[seen] / sizes[seen]).mean()) if seen.any() else None


@dataclass
class CalibrationError(Metric):
    """Expected calibration error, and the curve behind it.

    The mergeable form of :func:`~parlai_prosocial.evaluation.statistics.calibration
    .expected_calibration_error`: predictions in equal ranges of confidence, each range's gap
    between confidence and accuracy weighted by its rows.

    Args:
        bins: how many ranges.

    Attributes:
        sums: (3, bins) float64; rows, summed confidence and right predictions of each range.

    >>> metric = CalibrationError(15)
    >>> metric.update(np.array([[0.9, 0.1]] * 4), [0, 0, 0, 1])
    >>> round(metric.compute(), 3)
    0.15
    """

    bins: int = 15
    sums: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((3, self.bins))

    def update(self, probabilities: np.ndarray, labels: Sequence[int] | np.ndarray) -> None:
        """Add rows: (N, classes) float, and N class numbers."""
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == np.asarray(labels)
        index = np.minimum((confidence * self.bins).astype(int), self.bins - 1)
        np.add.at(self.sums.T, index, np.stack([np.ones(len(right)), confidence, right], axis=1))

    def compute(self) -> float | None:
        """0..1; None where there are no rows."""
        rows, confidence, right = self.sums
        return float(np.abs(confidence - right).sum() / rows.sum()) if rows.any() else None

    def curve(self) -> list[dict[str, float]]:
        """``count``, mean ``confidence`` and ``accuracy`` of each range that has rows."""
        return [
            {"count": int(n), "confidence": float(c / n), "accuracy": float(r / n)}
            for n, c, r in self.sums.T
            if n
        ]
