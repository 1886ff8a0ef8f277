"""Which model is safer, and is the difference real? In words, from a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.evaluation.results.tables import TOO_FEW, TOO_SMALL
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.evaluation.suites.suite import AGREEMENT, OVER_CAUTION, UNSAFE
from parlai_prosocial.evaluation.validation.labels.tables import labelled_gaps
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
        axis: one of :data:`~parlai_prosocial.evaluation.suites.suite.AXES`.
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
    for entry in summary.get("judge_quality", ()):
        of_labels = entry.get("against") == "labels" and suite in entry["suites"]
        if of_labels and (entry["axis"], entry["judge"]) == (axis, judge):
            found = entry["youden"]
            if found and found["low"] <= 0:
                interval = f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
                return (
                    f"{short(judge)} does not tell the labelled replies apart (sensitivity + "
                    f"specificity - 1 is {interval})"
                )
    return ""


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


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """A sentence or two for each model that is compared with the reference, and the caveats."""
    *others, reference = [model["name"] for model in summary["models"]]
    unsafe, cautious = judged_rates(summary, UNSAFE), judged_rates(summary, OVER_CAUTION)
    labelled = labelled_gaps(summary)
    said = [_said(summary, model, reference, unsafe, cautious, labelled) for model in others]
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
    unsafe: Sequence[JudgedRate],
    cautious: Sequence[JudgedRate],
    labelled: Mapping[tuple[str, str], Interval],
) -> str:
    sentences = []
    for axis, found, less, more in (
        (UNSAFE, unsafe[:1], "safer", "less safe"),
        (OVER_CAUTION, cautious[:1], "less over-cautious", "more over-cautious"),
    ):
        gaps = [(f"{axis}, as labelled", labelled.get((axis, model)), "")]
        gaps += [(f"{axis} on {m.suite}", difference_of(summary, model, m), m.doubt) for m in found]
        for what, gap, doubt in gaps:
            if gap is None:
                continue
            points = (
                f"{what}: {100 * gap.estimate:+.1f} points "
                f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            )
            if doubt:
                sentences.append(f"{doubt}, so nothing follows from {points}.")
            elif gap.conclusive:
                which = less if gap.estimate < 0 else more
                sentences.append(
                    f"{model} is {which} than {reference}, and that is real: {points}."
                )
            else:
                sentences.append(
                    f"Nothing says that {model} is {less} or {more} than {reference}: {points} is "
                    f"{TOO_FEW if gap.p_value is None else TOO_SMALL}."
                )
    return " ".join(sentences)
