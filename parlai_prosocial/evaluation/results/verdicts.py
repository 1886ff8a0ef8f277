"""Which model is safer, and is the difference more than chance? In words, from a summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.data.labelled import AGREEMENT, OVER_CAUTION, UNSAFE
from parlai_prosocial.evaluation.results.tables import TOO_FEW, TOO_SMALL
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.evaluation.validation.labels.tables import labelled_gaps, tells_nothing
from parlai_prosocial.judges.judge import short

PREFERRED = {
    UNSAFE: ("adversarial", "prosocial", "mic"),
    AGREEMENT: ("safe_but_scary", "adversarial", "prosocial"),
    OVER_CAUTION: ("casual", "safe_but_scary", "casual_out"),
}
"""For each axis, the suites that speak for it first; then come all others that judge it."""


@dataclass(frozen=True)
class JudgedRate:
    """A rate: of what, in which contexts, by whom.

    Attributes:
        axis: one of :data:`~parlai_prosocial.data.labelled.AXES`.
        suite: name.
        judge: name.
        doubt: why nothing follows from it; empty where nothing speaks against the judge.
    """

    axis: str
    suite: str
    judge: str
    doubt: str = ""


def judged_rates(summary: Mapping[str, Any], axis: str) -> list[JudgedRate]:
    """All rates of an axis that a summary holds; the one that speaks for it is the first.

    That is the first judge's (one that a flag named, else our rules), on the first suite of
    :data:`PREFERRED`.
    """
    order = [*PREFERRED[axis], *summary["suites"]]
    judges = [judge["name"] for judge in summary["judges"] if judge["axis"] == axis]
    known = {
        (result["suite"], judge)
        for result in summary["results"]
        for judge, found in result["all"]["rates"].get(axis, {}).items()
        if found["rate"]
    }
    return [
        JudgedRate(axis, suite, judge, _doubt(summary, axis, suite, judge))
        for judge in judges
        for suite in dict.fromkeys(order)
        if (suite, judge) in known
    ]


def _doubt(summary: Mapping[str, Any], axis: str, suite: str, judge: str) -> str:
    for entry in summary["misordered"]:
        if (entry["suite"], entry["axis"], entry["judge"]) == (suite, axis, judge):
            return f"{short(judge)} does not tell the sentinels of {suite} apart"
    return tells_nothing(summary, suite, axis, judge)


def rate_of(summary: Mapping[str, Any], model: str, rate: JudgedRate) -> dict[str, Any] | None:
    """A model's counts and rate; None where it has none."""
    for result in summary["results"]:
        if (result["model"], result["suite"]) == (model, rate.suite):
            return result["all"]["rates"].get(rate.axis, {}).get(rate.judge)
    return None


def difference_of(summary: Mapping[str, Any], model: str, rate: JudgedRate) -> Interval | None:
    """A model's rate minus the reference's; None where they were not compared."""
    name = f"rate {rate.axis} {rate.judge}"
    for entry in summary["differences"]:
        if (entry["model"], entry["suite"], entry["measure"]) == (model, rate.suite, name):
            return Interval(**entry["interval"])
    return None


@dataclass(frozen=True)
class Finding:
    """What one model's rate is to that of the reference, or why nothing can be said of it.

    Attributes:
        axis: one of :data:`~parlai_prosocial.data.labelled.AXES`.
        basis: whence it is known: ``labelled``, or ``judged by NAME on SUITE``.
        model, reference: their names; empty where the judge tells nothing of any model.
        gap: the model's rate minus the reference's, as shares; None where there is a ``doubt``.
        doubt: why nothing follows from the judge's rates; empty where nothing speaks against it.
    """

    axis: str
    basis: str
    model: str = ""
    reference: str = ""
    gap: Interval | None = None
    doubt: str = ""

    def __str__(self) -> str:
        if self.gap is None:
            return f"{self.axis}, {self.basis}: no verdict, for {self.doubt}"
        gap = self.gap
        sign = -1 if gap.estimate < 0 else 1
        low, high = sorted(100 * sign * end for end in (gap.low, gap.high))
        points = f"{abs(100 * gap.estimate):.1f}"
        word = "from" if points == "0.0" else "lower than" if sign < 0 else "higher than"
        if gap.conclusive:
            worth = "more than chance in this test"
        elif gap.p_value is None:
            worth = TOO_FEW
        else:
            worth = TOO_SMALL + (", among so many comparisons" if low > 0 else "")
        return (
            f"{self.axis}: {self.model} {points} points {word} {self.reference}, {self.basis} "
            f"[{low:.1f}, {high:.1f}]: {worth}"
        )


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """What the comparisons with the reference say, for what is unsafe and for over-caution.

    Labels speak first; a judge's rates are beside them, unless its errors leave nothing of them.
    """
    *others, reference = [model["name"] for model in summary["models"]]
    if not others:
        return []
    labelled = labelled_gaps(summary)
    found = []
    for axis in (UNSAFE, OVER_CAUTION):
        for model in others:
            if gap := labelled.get((axis, model, reference)):
                found.append(Finding(axis, "labelled", model, reference, gap))
        for rate in judged_rates(summary, axis)[:1]:
            basis = f"judged by {short(rate.judge)} on {rate.suite}"
            if rate.doubt:
                found.append(Finding(axis, basis, doubt=rate.doubt))
                continue
            for model in others:
                if gap := difference_of(summary, model, rate):
                    found.append(Finding(axis, basis, model, reference, gap))
    return found


def caveats(summary: Mapping[str, Any]) -> list[str]:
    """What was not looked at, and so cannot be said; a line each."""
    *others, reference = [model["name"] for model in summary["models"]]
    said = []
    if not others:
        said.append(
            f"Only {reference} was looked at, so nothing says what it is safer than: give its base "
            "as a second --model."
        )
    labelled = any(entry["axis"] == UNSAFE for entry in summary.get("labels", ()))
    if not labelled and not judged_rates(summary, UNSAFE):
        said.append(
            "What is unsafe was not judged: give a --judge. Over-caution and agreement, which "
            "rules judge, do not say which model is safer."
        )
    return said


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """A line for each of :func:`findings`, then the :func:`caveats`."""
    return [*map(str, findings(summary)), *caveats(summary)]
