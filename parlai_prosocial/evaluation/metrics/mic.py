"""MIC's attributes, measured as its authors do (Ziems et al., ACL 2022, and their code).

Alignment is a class of three and is measured by macro-F1. Severity and consensus are points on
scales of 1 to 5, so how far off a prediction is counts: mean squared error and Pearson's r, and
macro-F1 of the rounded points. A rule rests on any number of moral foundations; each foundation is
a question of yes or no, measured by the macro-F1 over yes and no, then averaged over the six.

Their models put out numbers; ours answer in words, so a prediction on a scale is whole, and an
answer that names no class is missing.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parlai_prosocial.data.mic import ATTRIBUTES, FOUNDATIONS
from parlai_prosocial.evaluation.metrics.classes import Confusion

SCALES = ("severity", "consensus")


def named_classes(reply: str, classes: Sequence[str]) -> list[str]:
    """The classes that a reply names as whole words, in the order of ``classes``.

    >>> named_classes("It disagrees.", ["disagrees", "neutral", "agrees"])
    ['disagrees']
    """
    words = set(re.findall(r"\w+", reply.casefold()))
    return [name for name in classes if name in words]


@dataclass
class MicAttributes:
    """All four attributes, from the words of a model's answers.

    Attributes:
        counts: (attribute, right class, predicted class) -> rows; each foundation is an attribute
            of its own here, its classes "yes" and "no".
        missing: attribute -> rows without a readable answer.

    >>> metric = MicAttributes()
    >>> metric.update("severity", ["bad"], "bad.")
    >>> metric.update("severity", ["fine"], "unwise")
    >>> metric.update("foundations", ["care"], "I cannot say")
    >>> results = metric.compute()
    >>> results["severity"]["mean_squared_error"], results["foundations"]["missing"]
    (0.5, 1)
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter, init=False)
    missing: Counter[str] = field(default_factory=Counter, init=False)

    def update(self, attribute: str, labels: Collection[str], reply: str | None) -> None:
        """Add a row.

        Args:
            attribute: one of :data:`~parlai_prosocial.data.mic.ATTRIBUTES`.
            labels: its right classes; more than one of foundations only.
            reply: what the model answered; it must name one class, of foundations at least one.
                None where the answer is missing.
        """
        named = named_classes(reply or "", ATTRIBUTES[attribute])
        if attribute == "foundations" and named:
            for name in FOUNDATIONS:
                self.counts[name, _yes_no(name in labels), _yes_no(name in named)] += 1
        elif len(named) == 1:
            (label,) = labels
            self.counts[attribute, label, named[0]] += 1
        else:
            self.missing[attribute] += 1

    def compute(self) -> dict[str, dict[str, Any]]:
        """attribute -> ``n`` readable answers, ``missing`` ones, and the measures.

        ``macro_f1`` of all; ``mean_squared_error`` and ``pearson_r`` of severity and consensus, r
        None where labels or predictions are all the same. An attribute without a readable answer
        has no measures, one without any row is left out.
        """
        results: dict[str, dict[str, Any]] = {}
        for attribute, classes in ATTRIBUTES.items():
            names = FOUNDATIONS if attribute == "foundations" else [attribute]
            options = ("yes", "no") if attribute == "foundations" else tuple(classes)
            confusions = [self._confusion(name, options) for name in names]
            n = confusions[0].counts.total()
            found: dict[str, float | None] = {}
            if n:
                found["macro_f1"] = sum(c.macro_f1() or 0.0 for c in confusions) / len(confusions)
            if n and attribute in SCALES:
                found |= _on_scale(confusions[0])
            if n or self.missing[attribute]:
                results[attribute] = {"n": n, "missing": self.missing[attribute], **found}
        return results

    def _confusion(self, attribute: str, classes: tuple[str, ...]) -> Confusion:
        confusion = Confusion(classes)
        for (name, label, prediction), count in self.counts.items():
            if name == attribute:
                confusion.counts[label, prediction] += count
        return confusion


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _on_scale(confusion: Confusion) -> dict[str, float | None]:
    """From a matrix whose classes are the points 1, 2, 3... of a scale."""
    rows, columns = np.indices(confusion.matrix().shape)
    times = confusion.matrix().ravel()
    labels, predictions = np.repeat(rows.ravel(), times), np.repeat(columns.ravel(), times)
    varies = np.ptp(labels) > 0 and np.ptp(predictions) > 0
    return {
        "mean_squared_error": float(((labels - predictions) ** 2).mean()),
        "pearson_r": float(np.corrcoef(labels, predictions)[0, 1]) if varies else None,
    }
