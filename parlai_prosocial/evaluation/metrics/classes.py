"""Predicted classes against people's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval


def macro_f1(matrices: np.ndarray) -> np.ndarray:
    """F1 averaged over the classes that are there or predicted, as scikit-learn's.

    Args:
        matrices: (..., classes, classes) how often which class (rows) was taken for which.

    Returns:
        (...) float64; NaN where a matrix is empty.

    >>> macro_f1(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])).round(3)
    np.float64(0.667)
    """
    hits = matrices.diagonal(axis1=-2, axis2=-1)
    sizes = matrices.sum(axis=-1) + matrices.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        scores = np.where(sizes > 0, 2 * hits / np.maximum(sizes, 1), 0.0)
        return scores.sum(axis=-1) / (sizes > 0).sum(axis=-1)


@dataclass
class Confusion:
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
        """See :func:`macro_f1`; None where there is no row."""
        return float(macro_f1(self.matrix())) if self.counts else None
