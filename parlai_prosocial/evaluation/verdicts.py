"""Which model is safer, and is the difference real? In words, from a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.evaluation.bootstrap import Interval
from parlai_prosocial.evaluation.suite import AGREEMENT, OVER_CAUTION, UNSAFE

PREFERRED = {
    UNSAFE: ("adversarial", "prosocial", "mic"),
    AGREEMENT: ("safe_but_scary", "adversarial", "prosocial"),
    OVER_CAUTION: ("casual", "safe_but_scary", "casual_out"),
}
"""For each axis, the suites that speak for it first; then come all others that judge it."""


@dataclass(frozen=True)
class Measure:
    """A rate: of what, in which contexts, by whom.

    Attributes:
        axis: one of :data:`~parlai_prosocial.evaluation.suite.AXES`.
        suite: name.
        judge: name.
        believed: whether the judge tells the suite's sentinels apart.
    """

    axis: str
    suite: str
    judge: str
    believed: bool


def measures(summary: Mapping[str, Any], axis: str) -> list[Measure]:
    """All rates of an axis that a summary holds; the one that speaks for it is the first.

    That is the first judge's (one that a flag named, else our rules), on the first suite of
    :data:`PREFERRED`.
    """
    order = [*PREFERRED[axis], *summary["suites"]]
    doubtful = {(entry["suite"], entry["axis"], entry["judge"]) for entry in summary["misordered"]}
    judges = [judge["name"] for judge in summary["judges"] if judge["axis"] == axis]
    known = {
        (result["suite"], judge)
        for result in summary["results"]
        for judge, found in result["all"]["rates"].get(axis, {}).items()
        if found["rate"]
    }
    return [
        Measure(axis, suite, judge, (suite, axis, judge) not in doubtful)
        for judge in judges
        for suite in dict.fromkeys(order)
        if (suite, judge) in known
    ]


def rate_of(summary: Mapping[str, Any], model: str, measure: Measure) -> dict[str, Any] | None:
    """A model's counts and rate; None where it has none."""
    for result in summary["results"]:
        if (result["model"], result["suite"]) == (model, measure.suite):
            return result["all"]["rates"].get(measure.axis, {}).get(measure.judge)
    return None


def difference_of(summary: Mapping[str, Any], model: str, measure: Measure) -> Interval | None:
    """A model's rate minus the reference's; None where they were not compared."""
    name = f"rate {measure.axis} {measure.judge}"
    for entry in summary["differences"]:
        if (entry["model"], entry["suite"], entry["measure"]) == (model, measure.suite, name):
            return Interval(**entry["interval"])
    return None


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """A sentence or two for each model that is compared with the reference, and the caveats."""
    *others, reference = [model["name"] for model in summary["models"]]
    unsafe, cautious = measures(summary, UNSAFE), measures(summary, OVER_CAUTION)
    said = [_said(summary, model, reference, unsafe, cautious) for model in others]
    if not others:
        said.append(
            f"Only {reference} was looked at, so nothing says what it is safer than: give its base "
            "as a second --model."
        )
    if not unsafe:
        said.append(
            "What is unsafe was not judged: give a --judge. Over-caution and agreement, which "
            "rules judge, do not say which model is safer."
        )
    return said


def _said(
    summary: Mapping[str, Any],
    model: str,
    reference: str,
    unsafe: Sequence[Measure],
    cautious: Sequence[Measure],
) -> str:
    sentences = []
    for found, less, more in (
        (unsafe[:1], "safer", "less safe"),
        (cautious[:1], "less over-cautious", "more over-cautious"),
    ):
        for measure in found:
            gap = difference_of(summary, model, measure)
            if gap is None:
                continue
            points = (
                f"{measure.axis} on {measure.suite}: {100 * gap.estimate:+.1f} points "
                f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            )
            if not measure.believed:
                sentences.append(
                    f"{measure.judge} does not tell the sentinels of {measure.suite} apart, so "
                    f"nothing follows from {points}."
                )
            elif gap.conclusive:
                which = less if gap.estimate < 0 else more
                sentences.append(
                    f"{model} is {which} than {reference}, and that is real: {points}."
                )
            else:
                sentences.append(
                    f"Nothing says that {model} is {less} or {more} than {reference}: {points} is "
                    "too small to conclude."
                )
    return " ".join(sentences)
